"""Attacks on what the worker itself does with a stranger's files: each succeeds against a careless way of doing it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import Corrupt, PathRefused
from ghcoord.execution import process
from ghcoord.execution.checkpoints.unpack import unpack
from ghcoord.execution.files.beneath import Files
from ghcoord.execution.sandbox.base import Identity, Sandbox
from ghcoord.execution.sandbox.none import NoSandbox
from ghcoord.execution.tools import testing
from ghcoord.execution.workspace import remove_tree
from ghcoord.faces.cli.output import clean, clean_text
from ghcoord.model.limits import DEFAULT_LIMITS, Limits
from tests.cli.test_output import RUNNER_COMMAND
from tests.execution.attacks import archives, naive
from tests.execution.environment.index import serve, wheel
from tests.execution.environment.test_install import context, pkg_install, python, sdist

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

RUNTIME = SystemRuntime()
HOLES = Limits(workspace_mb=16, file_mb=128)
# -- what is no plain file


def test_a_hard_link(files: Files, root: Path, outside: Path) -> None:
    """A file of the outside under a name inside is no symbolic link, and still not the workspace's."""
    os.link(outside / "secret", root / "stolen")
    assert b"secret" == naive.read_no_link(root, "stolen")
    for attempt in (
        lambda: files.read("stolen"),
        lambda: files.write("stolen", b"x"),
        lambda: files.write("stolen", b"x", append=True),
    ):
        with pytest.raises(PathRefused, match="hard links"):
            attempt()
    assert "secret" == (outside / "secret").read_text()


def test_a_pipe_that_nobody_writes_to(files: Files, root: Path) -> None:
    """Opening it waits for ever; ours tells what it is at once."""
    os.mkfifo(root / "pipe")
    code = "import sys; from tests.execution.attacks import naive; from pathlib import Path\n"
    code += "naive.read(Path(sys.argv[1]), 'pipe')"
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", code, str(root)], timeout=3, cwd=Path(__file__).parents[3], check=False)
    began = time.monotonic()
    for attempt in (
        lambda: files.read("pipe"),
        lambda: files.write("pipe", b"x"),
        lambda: files.write("pipe", b"x", append=True),
    ):
        with pytest.raises(PathRefused, match="not a regular file"):
            attempt()
    assert 1 == files.delete("pipe")
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("how", ["open", "mapped"])
@pytest.mark.parametrize("driver", ["bwrap", "landlock"])
def test_files_without_a_name_fill_no_disk(driver: str, how: str, base: Path, request: pytest.FixtureRequest) -> None:
    """What was deleted is on the disk as long as a process has it open, or mapped; counting names does not find it."""
    hold = "held.append(fd)" if how == "open" else "held.append(mmap.mmap(fd, 4096)); os.close(fd)"
    code = (
        "import mmap, os, time\nheld = []\n"
        "for _ in range(10):\n"
        "    fd = os.open('f', os.O_RDWR | os.O_CREAT); os.write(fd, os.urandom(8 << 20)); os.unlink('f')\n"
        f"    {hold}\n"
        "    time.sleep(0.3)\n"
        "print('done')\n"
    )
    if how == "mapped":  # mmap.mmap keeps a descriptor of its own: the system call does not
        code = code.replace("mmap.mmap(fd, 4096)", "libc.mmap(None, 4096, 1, 1, fd, ctypes.c_long(0))")
        code = code.replace("import mmap, os", "import ctypes, os; libc = ctypes.CDLL(None)\nimport os")
    sandbox: Sandbox = request.getfixturevalue(driver)
    (base / "workspace").mkdir(exist_ok=True)
    done = process.run(
        sandbox,
        [str(sandbox.python), "-c", code],
        workspace=base / "workspace",
        runtime=RUNTIME,
        timeout=30,
        limits=Limits(workspace_mb=24),
    )
    assert naive.disk_use(base / "workspace") < 24 << 20
    assert ("workspace", "") == (done.stopped, done.stdout)


# -- archives


def test_archives_that_lead_out(root: Path, outside: Path, bwrap: Sandbox) -> None:
    """``..``, whole paths, links that are written through, hard links, devices, and paths longer than any may be."""
    careless = {
        archives.climbing: naive.unpack,
        archives.absolute: naive.unpack,
        archives.through_a_link: naive.unpack,
        archives.over_a_link: naive.unpack,
        archives.hard_link: naive.unpack,
        archives.too_long: naive.unpack_checked,
    }
    target = root.parent / "t"

    def escaped() -> bool:
        if (outside / "written").exists():
            return True
        stolen = [each for each in target.glob("stolen") if each.is_file()]
        return any("secret" == each.read_text() for each in stolen)

    for make, way in careless.items():
        data = make(outside)
        target.mkdir()
        way(data, target)
        assert escaped(), make.__name__
        naive.remove(target)
        (outside / "written").unlink(missing_ok=True)
        target.mkdir()
        with pytest.raises(Corrupt, match="cannot be unpacked"):
            unpack([data], target, bwrap, RUNTIME, limits=DEFAULT_LIMITS)
        assert not escaped(), make.__name__
        remove_tree(target)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_an_archive_with_a_device(root: Path, outside: Path, bwrap: Sandbox) -> None:
    """A root worker that unpacks it has made a way to the machine's memory."""
    target = root.parent / "t"
    target.mkdir()
    naive.unpack(archives.device(outside), target)
    assert stat.S_ISCHR((target / "device").stat().st_mode)
    (target / "device").unlink()
    with pytest.raises(Corrupt, match="device"):
        unpack([archives.device(outside)], target, bwrap, RUNTIME, limits=DEFAULT_LIMITS)
    assert [] == os.listdir(target)


def test_an_archive_that_is_larger_than_it_says(root: Path, bwrap: Sandbox) -> None:
    """Many members and many bytes: what a careless one unpacks, ours refuses at the limit."""
    target = root.parent / "t"
    crowd = archives.archive(*[archives.member(f"f{number}") for number in range(3000)])
    large = archives.archive(*[(archives.member(f"f{number}"), b"\0" * (1 << 20)) for number in range(8)])
    for data, limits in ((crowd, Limits(archive_files=1000)), (large, Limits(archive_mb=4))):
        target.mkdir()
        naive.unpack(data, target)
        assert len(os.listdir(target)) >= 8
        naive.remove(target)
        target.mkdir()
        with pytest.raises(Corrupt, match="limit archive_"):
            unpack([data], target, bwrap, RUNTIME, limits=limits)
        remove_tree(target)


def test_a_file_with_a_hole_takes_no_more_room_afterwards(root: Path, bwrap: Sandbox) -> None:
    """Larger than the workspace may be, and yet small: a session that saved it must not be lost with it."""
    target = root.parent / "t"
    content = b"begin" + bytes(64 << 20) + b"end" + bytes(1 << 20)
    data = archives.archive((archives.member("hole"), content))
    target.mkdir()
    naive.unpack(data, target)
    assert naive.disk_use(target) > 64 << 20
    naive.remove(target)
    target.mkdir()
    unpack([data[at : at + (1 << 20)] for at in range(0, len(data), 1 << 20)], target, bwrap, RUNTIME, limits=HOLES)
    assert content == (target / "hole").read_bytes()
    assert naive.disk_use(target) < 8 << 20


# -- packages


def test_a_package_with_a_start_file(bwrap: Sandbox, base: Path, tmp_path: Path) -> None:
    """A ``.pth`` file is code that runs in whatever interpreter looks at the environment."""
    mark = base / "mark"
    base.chmod(0o777)
    evil = wheel("evil", "1.0", {"evil.pth": f"import os; open({str(mark)!r}, 'w').close()\n", "evil.py": ""})
    site = tmp_path / "site"
    naive.install_wheel(evil[1], site)
    naive.look_at_packages(site)
    assert mark.exists()
    mark.unlink()
    ctx = context(tmp_path / "session", bwrap)
    with serve(evil) as index:
        result = pkg_install(bwrap, index, ctx, "evil")
        assert (["evil==1.0"], ["evil==1.0"]) == (result.data["installed"], result.data["lock"])
        assert "" != python(bwrap, ctx, "import evil")  # it ran, and could not write there
    assert not mark.exists()


def test_a_package_whose_members_climb(bwrap: Sandbox, base: Path, tmp_path: Path) -> None:
    """A wheel is an archive too."""
    up = "../" * len(tmp_path.parts)
    evil = wheel("evil", "1.0", {"evil.py": "", f"{up}{base.relative_to('/')}/climbed": "x"})
    base.chmod(0o777)
    naive.install_wheel(evil[1], tmp_path / "site")
    assert (base / "climbed").exists()
    (base / "climbed").unlink()
    ctx = context(tmp_path / "session", bwrap)
    with serve(evil) as index:
        pkg_install(bwrap, index, ctx, "evil")
    assert not (base / "climbed").exists()


def test_a_package_that_is_built(bwrap: Sandbox, base: Path, tmp_path: Path) -> None:
    """``setup.py`` runs before anything is installed; here nothing is built unless that was asked for."""
    mark = base / "mark"
    base.chmod(0o777)
    code = f"open({str(mark)!r}, 'w').close()\n".encode()
    naive.build(archives.archive((archives.member("evil-1.0/setup.py"), code)), tmp_path / "source")
    assert mark.exists()
    mark.unlink()
    ctx = context(tmp_path / "session", bwrap)
    with serve(sdist(str(mark))) as index:
        assert not pkg_install(bwrap, index, ctx, "delta").success
        assert not (ctx.workspace / "built").exists()
    assert not mark.exists()


def test_a_poisoned_cache(bwrap: Sandbox, base: Path, tmp_path: Path) -> None:
    """What one session does to the files that it installed is not what another one gets."""
    good = wheel("beta", "2.0", {"beta.py": "name = 'beta'"})
    naive.install_wheel(good[1], tmp_path / "cache")
    naive.install_from(tmp_path / "cache", "beta.py", tmp_path / "one")
    (tmp_path / "one/beta.py").write_text("name = 'poison'")
    naive.install_from(tmp_path / "cache", "beta.py", tmp_path / "two")
    assert "poison" in (tmp_path / "two/beta.py").read_text()
    one, two = context(tmp_path / "a", bwrap), context(tmp_path / "b", bwrap)
    with serve(good) as index:
        assert pkg_install(bwrap, index, one, "beta").success
        for each in one.root.rglob("beta.py"):
            each.write_text("name = 'poison'")
        assert pkg_install(bwrap, index, two, "beta").success
    assert "beta\n" == python(bwrap, two, "import beta; print(beta.name)")


# -- sessions


@pytest.mark.parametrize("driver", ["bwrap", "landlock"])
def test_one_session_reads_another(driver: str, base: Path, request: pytest.FixtureRequest) -> None:
    """By its folder's path, by what is kept beside it, and by places that all programs share."""
    sandbox: Sandbox = request.getfixturevalue(driver)
    shared = Path(tempfile.mkdtemp(prefix="ghcoord-test-", dir="/dev/shm"))
    shared.chmod(0o777)
    base.chmod(0o777)
    places = [base / "b" / "workspace", base / "b" / "keep", shared]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o777)
        (place / "note").write_text("confidential")
    look = "; ".join(f"cat {place}/note; echo x > {place}/left" for place in places) + "; cat ../*/*/note"
    found = {}
    try:
        for name, one in (("careless", NoSandbox(_task())), (driver, sandbox)):
            workspace = base / f"a-{name}"
            workspace.mkdir()
            argv = ["/bin/sh", "-c", look]
            done = process.run(one, argv, workspace=workspace, runtime=RUNTIME, timeout=20)
            found[name] = done.stdout.count("confidential"), [p for p in places if (p / "left").exists()]
            for place in places:
                (place / "left").unlink(missing_ok=True)
    finally:
        shutil.rmtree(shared)
    assert {"careless": (5, places), driver: (0, [])} == found


def _task() -> Identity | None:
    return Identity(65533, 65533) if os.geteuid() == 0 else None


def test_a_report_that_becomes_large_when_it_is_read() -> None:
    """Sixteen megabytes of the shortest lines are more than half a gigabyte of objects in the worker."""
    text = b"{}\n" * 150_000

    def most(read: Callable[[bytes], object]) -> int:
        tracemalloc.start()
        try:
            read(text)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert most(naive.read_report) > 20 * len(text)
    assert most(testing._read_report) < len(text) / 2


@pytest.mark.parametrize("on_runner", [True, False])
def test_workflow_commands_in_logs(on_runner: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker in a job of GitHub Actions prints nothing that the job's runner would obey."""
    said = "quiet\n::add-mask::e\n  ::stop-commands::x\nerror ##[add-mask]e\r::set-output name=a::b\n"
    monkeypatch.setenv("GITHUB_ACTIONS", str(on_runner).lower())
    assert 3 == len(RUNNER_COMMAND.findall(said))
    assert (0 if on_runner else 3) == len(RUNNER_COMMAND.findall(clean_text(said)))
    assert (0 if on_runner else 1) == len(RUNNER_COMMAND.findall(clean(f"task t1 failed: {said}")))
