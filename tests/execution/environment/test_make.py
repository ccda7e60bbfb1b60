"""The environment is made in the workspace and nowhere else."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import SandboxError, UsageError
from ghcoord.execution.environment import lock, make
from ghcoord.execution.environment.lock import normal_name, read_lock
from ghcoord.execution.environment.make import environment_python, interpreter_of, make_environment
from ghcoord.execution.files import tree
from ghcoord.execution.files.beneath import Files
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.execution.sandbox.open import open_sandbox

RUNTIME = SystemRuntime()


@pytest.fixture
def sandbox() -> Sandbox:
    """No sandbox at all: what is made is looked at from outside."""
    found = open_sandbox(choice="none", unsafe=True, runtime=RUNTIME)
    assert found is not None
    return found


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with a neighbour that must not change."""
    (tmp_path / "neighbour").mkdir()
    (tmp_path / "neighbour" / "file").write_text("untouched")
    path = tmp_path / "home" / "workspace"
    path.mkdir(parents=True)
    return path


def untouched(workspace: Path) -> bool:
    """Whether the neighbour is as it was, and nothing is left beside the workspace."""
    neighbour = workspace.parent.parent / "neighbour"
    return (
        ["file"] == os.listdir(neighbour)
        and "untouched" == (neighbour / "file").read_text()
        and ["workspace"] == os.listdir(workspace.parent)
    )


def test_it_is_an_environment(workspace: Path, sandbox: Sandbox) -> None:
    """Its interpreter is the sandbox's, imports from its own folder, and has no pip."""
    path = make_environment(workspace, sandbox, RUNTIME)
    assert workspace / ".venv" == path
    assert f"{workspace}/.venv/bin/python" == environment_python(workspace, sandbox)
    library = path / "lib" / interpreter_of(sandbox, RUNTIME).library / "site-packages"
    (library / "here.py").write_text("print('imported')")
    code = "import sys, here, importlib.util as u; print(sys.prefix, sys.base_prefix != sys.prefix, u.find_spec('pip'))"
    done = subprocess.run([path / "bin/python", "-c", code], capture_output=True, text=True, check=True, env={})
    assert f"imported\n{path} True None\n" == done.stdout
    assert untouched(workspace)


@pytest.mark.parametrize("name", ["pip", "pip3"])
def test_its_pip_says_what_to_use(workspace: Path, sandbox: Sandbox, name: str) -> None:
    """The machine's own would install for another interpreter."""
    path = make_environment(workspace, sandbox, RUNTIME)
    search = {"PATH": f"{path}/bin:/usr/bin:/bin"}
    done = subprocess.run([name, "install", "idna"], capture_output=True, text=True, check=False, env=search)
    assert (1, "") == (done.returncode, done.stdout)
    assert "use pkg_install" in done.stderr


def test_it_can_be_activated(workspace: Path, sandbox: Sandbox) -> None:
    """``source .venv/bin/activate`` puts its programs first, and ``deactivate`` takes them away."""
    path = make_environment(workspace, sandbox, RUNTIME)
    script = '. .venv/bin/activate; command -v python; deactivate; echo "$PATH"'
    command = ["/bin/sh", "-c", script]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=workspace, env={"PATH": "/usr/bin:/bin"}
    )
    assert f"{path}/bin/python\n/usr/bin:/bin\n" == done.stdout


def test_a_whole_one_is_kept(workspace: Path, sandbox: Sandbox) -> None:
    """Making it again changes nothing, and takes less than 5 ms of the processor."""
    path = make_environment(workspace, sandbox, RUNTIME)
    (path / "kept").write_text("")
    times = []
    for _ in range(5):
        started = time.thread_time()
        make_environment(workspace, sandbox, RUNTIME)
        times.append(time.thread_time() - started)
    assert (path / "kept").exists()
    assert min(times) < 0.005


def test_making_it_is_fast(workspace: Path, sandbox: Sandbox) -> None:
    """A new one takes less than 5 ms of the processor."""
    times = []
    for _ in range(5):
        shutil.rmtree(workspace / ".venv", ignore_errors=True)
        started = time.thread_time()
        make_environment(workspace, sandbox, RUNTIME)
        times.append(time.thread_time() - started)
    assert min(times) < 0.005


def test_nothing_is_there_before(workspace: Path, sandbox: Sandbox) -> None:
    """Without an environment there is no interpreter of it."""
    assert environment_python(workspace, sandbox) is None
    assert environment_python(workspace / "missing", sandbox) is None


@pytest.mark.parametrize(
    "trap",
    [
        "link",
        "dangling",
        "file",
        "fifo",
        "empty",
        "half",
        "inner link",
        "config link",
        "config fifo",
        "other",
        "closed",
    ],
)
def test_what_lies_in_its_place_is_replaced(workspace: Path, sandbox: Sandbox, trap: str) -> None:
    """A link, a file, a half-made one, one with links inside: nothing is written through it."""
    neighbour = workspace.parent.parent / "neighbour"
    place = workspace / ".venv"
    if trap == "link":
        place.symlink_to(neighbour)
    elif trap == "dangling":
        place.symlink_to(neighbour / "new")
    elif trap == "file":
        place.write_text("")
    elif trap == "fifo":
        os.mkfifo(place)
    else:
        place.mkdir()
    if trap == "half":
        (place / "bin").mkdir()
        (place / "bin" / "python").write_text("")
    elif trap == "inner link":
        (place / "bin").symlink_to(neighbour)
        (place / "pyvenv.cfg").write_text("home = /usr/bin\n")
    elif trap in ("config link", "config fifo", "other"):
        (place / "bin").mkdir()
        (place / "bin" / "python").symlink_to("/usr/bin/python3")
        if trap == "config link":
            (neighbour / "file").write_text("untouched")
            (place / "pyvenv.cfg").symlink_to(neighbour / "file")
        elif trap == "config fifo":
            os.mkfifo(place / "pyvenv.cfg")
        else:
            (place / "pyvenv.cfg").write_text("home = /opt/another/bin\n")
    elif trap == "closed":
        (place / "in").mkdir()
        place.chmod(0)
    if trap != "other":
        assert environment_python(workspace, sandbox) is None
    path = make_environment(workspace, sandbox, RUNTIME)
    assert path.is_dir()
    assert not path.is_symlink()
    assert environment_python(workspace, sandbox)
    assert untouched(workspace)


def test_a_workspace_that_is_a_link_is_refused(workspace: Path, sandbox: Sandbox) -> None:
    """Nothing is made where a link leads."""
    neighbour = workspace.parent.parent / "neighbour"
    link = workspace.parent / "link"
    link.symlink_to(neighbour)
    with pytest.raises(SandboxError, match="could not be made"):
        make_environment(link, sandbox, RUNTIME)
    assert ["file"] == os.listdir(neighbour)


def test_who_keeps_putting_links_there_gets_nothing_written_elsewhere(workspace: Path, sandbox: Sandbox) -> None:
    """A race for its place ends with an environment or an error, never with a file outside."""
    neighbour = workspace.parent.parent / "neighbour"
    stop = threading.Event()

    def put() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                os.symlink(neighbour, workspace / ".venv")
            with contextlib.suppress(OSError):
                os.unlink(workspace / ".venv")

    thread = threading.Thread(target=put)
    thread.start()
    outcomes = set()
    try:
        for _ in range(30):
            try:
                make_environment(workspace, sandbox, RUNTIME)
                outcomes.add("made")
                shutil.rmtree(workspace / ".venv", ignore_errors=True)
            except SandboxError:
                outcomes.add("refused")
    finally:
        stop.set()
        thread.join()
    assert "made" in outcomes
    assert untouched(workspace)


def test_what_cannot_be_removed_stays_in_the_workspace(
    workspace: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has the old one open may go on writing into it: that counts as before."""
    (workspace / ".venv").mkdir()
    (workspace / ".venv" / "held").touch()

    real = tree.remove

    def remove(parent: int, name: str, deepest: float | None = None) -> int:
        assert not make._placing.locked()
        if name.startswith(".ghcoord-old-"):
            raise UsageError("files keep appearing in it")
        return real(parent, name, deepest)

    monkeypatch.setattr(tree, "remove", remove)
    before = set(workspace.parent.iterdir())
    make_environment(workspace, sandbox, RUNTIME)
    assert environment_python(workspace, sandbox)
    (left,) = workspace.glob(".ghcoord-old-*/held")
    assert left.is_file()
    assert before == set(workspace.parent.iterdir())


def test_a_place_that_cannot_be_had(workspace: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who always comes first gets an error after a few tries, and nothing is left of them."""
    (workspace / ".venv").write_text("")

    def rename(*_: object, **__: object) -> None:
        raise NotADirectoryError(20, "Not a directory")

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(SandboxError, match="could not be made: Not a directory"):
        make_environment(workspace, sandbox, RUNTIME)
    assert untouched(workspace)


@pytest.mark.parametrize("config", ["", "home = \n", "home /usr/bin\n", "\xff" * 5000])
def test_settings_without_a_home_are_none(workspace: Path, sandbox: Sandbox, config: str) -> None:
    """A ``pyvenv.cfg`` that names no interpreter makes no environment."""
    path = make_environment(workspace, sandbox, RUNTIME)
    (path / "pyvenv.cfg").write_bytes(config.encode("latin-1"))
    assert environment_python(workspace, sandbox) is None


@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_an_interpreter_that_is_none(workspace: Path, sandbox: Sandbox, kind: str) -> None:
    """``bin/python`` must be a program or a link."""
    path = make_environment(workspace, sandbox, RUNTIME)
    (path / "bin/python").unlink()
    (os.mkdir if kind == "folder" else os.mkfifo)(path / "bin/python")
    assert environment_python(workspace, sandbox) is None


def test_two_at_a_time_make_one(workspace: Path, sandbox: Sandbox) -> None:
    """What one caller has made, and may be using, is not taken away by another who began before."""
    inodes: list[int] = []

    def one() -> None:
        inodes.append(os.stat(make_environment(workspace, sandbox, RUNTIME)).st_ino)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 8 == len(inodes)
    assert 1 == len(set(inodes))


@pytest.mark.slow
def test_a_tree_without_end_in_its_place(workspace: Path, sandbox: Sandbox) -> None:
    """Folders deeper than a recursion goes are removed like all else."""
    (workspace / ".venv").mkdir()
    fd = os.open(workspace / ".venv", os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    make_environment(workspace, sandbox, RUNTIME)
    assert untouched(workspace)


@dataclass(frozen=True)
class Without:
    """A sandbox with no Python."""

    name: str = "bwrap"
    python: str | None = None


def test_a_sandbox_without_python_has_none(workspace: Path) -> None:
    """The message names the fix."""
    with pytest.raises(SandboxError, match="install python3"):
        interpreter_of(Without(), RUNTIME)  # type: ignore[arg-type]


def test_another_interpreter_is_asked_inside(workspace: Path, bwrap: Sandbox) -> None:
    """One that is not the worker's own says itself which one it is."""
    system = Path("/usr/bin/python3")
    if not system.exists():
        pytest.skip("this machine has no /usr/bin/python3")
    other = replace(bwrap, interpreter=system)  # type: ignore[type-var]
    found = interpreter_of(other, RUNTIME)
    said = subprocess.run([system, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    assert said == found.version
    assert "/usr/bin" == found.home
    make_environment(workspace, other, RUNTIME)
    assert "home = /usr/bin\n" in (workspace / ".venv/pyvenv.cfg").read_text()
    broken = replace(bwrap, interpreter=Path("/usr/bin/false"))  # type: ignore[type-var]
    with pytest.raises(SandboxError, match="does not work"):
        interpreter_of(broken, RUNTIME)


def test_it_belongs_to_the_tasks(workspace: Path, bwrap: Sandbox) -> None:
    """Under root everything in it belongs to whom the tasks run as; links are not followed."""
    path = make_environment(workspace, bwrap, RUNTIME)
    uid = bwrap.identity.uid if bwrap.identity else os.getuid()
    assert {uid} == {os.lstat(each).st_uid for each in [path, *path.rglob("*")]}


# -- the lock


def packages(workspace: Path, *names: str) -> Path:
    """``site-packages`` with folders of these names."""
    folder = workspace / ".venv/lib/python3.11/site-packages"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).mkdir()
    return folder


def test_the_lock_lists_what_is_installed(workspace: Path) -> None:
    """Names as PEP 503 compares them, sorted, with their versions."""
    packages(workspace, "Zope.Interface-7.1.dist-info", "a_b-1.0rc1.post2+cpu.1.dist-info", "idna", "x-1!2.dist-info")
    with Files(workspace) as files:
        assert ("a-b==1.0rc1.post2+cpu.1", "x==1!2", "zope-interface==7.1") == read_lock(files)


def test_hostile_names_are_no_packages(workspace: Path) -> None:
    """What could be an option, a path or a command later never comes into a lock, nor what is no folder."""
    names = ["--index-url=x-1.0", "a b-1.0", "x-1.0 --hash", "y-1;rm", "$(id)-1", "x-", "-1.0", "x", "ü-1", "z-1\n2"]
    folder = packages(workspace, *(f"{name}.dist-info" for name in names), "..-1.dist-info", "good-1.0.dist-info")
    (folder / "file-1.0.dist-info").write_text("")
    (folder / "link-1.0.dist-info").symlink_to(folder / "good-1.0.dist-info")
    with Files(workspace) as files:
        assert ("good==1.0",) == read_lock(files)


def test_two_versions_count_once(workspace: Path) -> None:
    """A lock never asks for two versions of one package."""
    packages(workspace, "Some_Thing-2.0.dist-info", "some.thing-1.0.dist-info")
    with Files(workspace) as files:
        assert ("some-thing==2.0",) == read_lock(files)
    assert "some-thing" == normal_name("Some__.Thing")


def test_the_lock_is_bounded(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More folders than a lock may have are left out."""
    monkeypatch.setattr(lock, "MAX_PACKAGES", 20)
    packages(workspace, *(f"p{number}-1.dist-info" for number in range(25)))
    with Files(workspace) as files:
        assert 20 == len(read_lock(files))


def test_a_link_out_of_the_workspace_is_no_environment(workspace: Path) -> None:
    """Names of folders outside are not read through a link."""
    outside = workspace.parent / "outside"
    packages(outside, "secret-1.0.dist-info")
    with Files(workspace) as files:
        assert () == read_lock(files)
        (workspace / ".venv").symlink_to(outside / ".venv")
        assert () == read_lock(files)
