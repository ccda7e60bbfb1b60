"""Choosing the sandbox: what was found, what is refused, and what to do about it."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import SandboxError, UsageError
from ghcoord.execution.sandbox import base
from ghcoord.execution.sandbox import landlock as landlock_driver
from ghcoord.execution.sandbox import open as opening
from ghcoord.execution.sandbox.base import Identity, Sandbox, worker_python
from ghcoord.execution.sandbox.canaries import CANARIES, GAPS, leaks, run_canaries
from ghcoord.execution.sandbox.none import NoSandbox
from ghcoord.execution.sandbox.open import explain, open_sandbox, probe, probe_all
from ghcoord.faces.cli.checks import _sandbox as doctor
from tests.execution.engines import make_engine

RUNTIME = SystemRuntime()


def fake_bwrap(directory: Path, says: str) -> Path:
    """A program that fails like bubblewrap where it is not allowed."""
    program = directory / "bwrap"
    program.write_text(f"#!/bin/sh\necho 'bwrap: {says}' >&2\nexit 1\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def no_bwrap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the program."""
    monkeypatch.setattr(opening, "find_bwrap", lambda: None)


@pytest.fixture
def no_landlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that was started without it."""
    monkeypatch.setattr(landlock_driver, "landlock_abi", lambda: -errno.EOPNOTSUPP)


@pytest.fixture
def refused_bwrap(open_to_all: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which bubblewrap may not make namespaces."""
    program = fake_bwrap(open_to_all, "setting up uid map: Permission denied")
    monkeypatch.setattr(opening, "find_bwrap", lambda: program)


def name_and_tier(sandbox: Sandbox | None) -> tuple[str, str] | None:
    return None if sandbox is None else (sandbox.name, sandbox.tier)


@pytest.mark.usefixtures("refused_bwrap", "no_landlock")
def test_a_sandbox_that_cannot_be_set_up_is_never_replaced_by_none() -> None:
    """Where nothing works there is no sandbox, with the reason and the fix; ``unsafe`` alone gives tier none."""
    assert open_sandbox(runtime=RUNTIME) is None
    found = probe(RUNTIME)
    assert (False, "bwrap", "none") == (found.ok, found.name, found.tier)
    assert "apparmor_restrict_unprivileged_userns" in found.fix
    assert ("none", "none") == name_and_tier(open_sandbox(unsafe=True, runtime=RUNTIME))


@pytest.mark.usefixtures("refused_bwrap", "landlock")
def test_auto_takes_landlock_where_bubblewrap_is_refused() -> None:
    """It says that it is partial, and what would have to be done for the full one."""
    assert ("landlock", "partial") == name_and_tier(open_sandbox(unsafe=True, runtime=RUNTIME))
    found = probe(RUNTIME)
    assert (True, "landlock", "partial") == (found.ok, found.name, found.tier)
    assert "apparmor_restrict_unprivileged_userns" in found.fix


@pytest.mark.usefixtures("refused_bwrap", "landlock")
@pytest.mark.parametrize("unsafe", [False, True])
def test_a_driver_that_was_named_is_never_replaced(unsafe: bool) -> None:
    """Not by a weaker one that works, nor by none; the error says what to do."""
    with pytest.raises(SandboxError, match=r"bwrap does not work here .*apparmor_restrict_unprivileged_userns"):
        open_sandbox(choice="bwrap", unsafe=unsafe, runtime=RUNTIME)


def test_each_driver_can_be_named(bwrap: Sandbox, landlock: Sandbox, tmp_path: Path) -> None:
    """And is what comes out, with its tier."""
    container = make_engine(tmp_path).settings
    found = [open_sandbox(choice=name, runtime=RUNTIME, container=container) for name in ("bwrap", "landlock")]
    assert [("bwrap", "full"), ("landlock", "partial")] == [name_and_tier(each) for each in found]
    contained = open_sandbox(choice="container", runtime=RUNTIME, container=container)
    assert ("container", "full") == name_and_tier(contained)
    assert contained is not None
    assert "/usr/bin/python3" == contained.python


def test_choices_that_there_are_not() -> None:
    """A wrong name, and none without the flag, are the user's mistakes."""
    with pytest.raises(UsageError, match="is no sandbox: one of auto, bwrap, landlock, container, none"):
        open_sandbox(choice="chroot", runtime=RUNTIME)
    with pytest.raises(UsageError, match="--unsafe-no-sandbox"):
        open_sandbox(choice="none", runtime=RUNTIME)
    assert ("none", "none") == name_and_tier(open_sandbox(choice="none", unsafe=True, runtime=RUNTIME))


def test_unsafe_prefers_the_sandbox_that_works(bwrap: Sandbox) -> None:
    """``unsafe`` allows to go without; it does not ask for it."""
    assert ("bwrap", "full") == name_and_tier(open_sandbox(unsafe=True, runtime=RUNTIME))


def test_a_sandbox_that_leaks_is_refused(bwrap: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """One canary that escapes is enough, and its name is told."""
    monkeypatch.setattr(opening, "run_canaries", lambda sandbox, runtime: ({"host-loopback"}, True))
    assert open_sandbox(runtime=RUNTIME) is None
    assert "host-loopback" in probe(RUNTIME).reason
    with pytest.raises(SandboxError, match="leaks: host-loopback"):
        open_sandbox(choice="bwrap", runtime=RUNTIME)


@pytest.mark.usefixtures("no_bwrap", "no_landlock")
def test_without_bubblewrap_the_fix_is_to_install_it() -> None:
    """A machine without the program is told so."""
    assert open_sandbox(runtime=RUNTIME) is None
    assert "apt-get install bubblewrap" in probe(RUNTIME).fix


@pytest.mark.usefixtures("bwrap")
def test_without_an_interpreter_only_python_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bubblewrap is used all the same, and it is said; Landlock is not, as its canaries need Python."""
    for name in ("worker_python", "system_python"):
        monkeypatch.setattr(opening, name, lambda: None)
    sandbox = open_sandbox(choice="bwrap", runtime=RUNTIME)
    assert sandbox is not None
    assert sandbox.python is None
    assert "run.python is off" in probe(RUNTIME).reason
    with pytest.raises(SandboxError, match="install python3"):
        open_sandbox(choice="landlock", runtime=RUNTIME)


@pytest.mark.parametrize(
    ("answer", "fix"),
    [
        (1, "use Linux 6.2 or newer"),
        (2, "use Linux 6.2 or newer"),
        (-errno.ENOSYS, "CONFIG_SECURITY_LANDLOCK"),
        (-errno.EOPNOTSUPP, "lsm="),
        (-errno.EPERM, "landlock_restrict_self"),
        (-errno.EIO, "use Linux 6.2 or newer"),
    ],
)
def test_kernels_without_what_is_needed_of_landlock(answer: int, fix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too old, without it, started without it, or behind a filter: each has its fix."""
    monkeypatch.setattr(landlock_driver, "landlock_abi", lambda: answer)
    with pytest.raises(SandboxError) as refused:
        open_sandbox(choice="landlock", runtime=RUNTIME)
    assert fix in refused.value.message


@pytest.mark.parametrize(
    ("refusal", "fix"),
    [
        ("bwrap: Creating new namespace failed: Operation not permitted", "seccomp"),
        ("bwrap: No permissions to create new namespace, likely because the kernel does not allow", "max_user"),
        ("bwrap: setting up uid map: Permission denied", "apparmor_restrict_unprivileged_userns=0"),
        ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", "apparmor_restrict_unprivileged_userns=0"),
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "unmask"),
        ("bwrap: Unknown option --disable-userns", "0.8"),
        ("unshare: unshare failed: Operation not permitted", "CAP_SYS_ADMIN"),
        ("/usr/bin/bwrap could not be started as user 65533: Operation not permitted", "CAP_SETUID"),
        ("something new", "bwrap --unshare-user"),
    ],
)
def test_known_refusals_name_their_fix(refusal: str, fix: str) -> None:
    """Each failure that users meet is mapped to what they can do."""
    found = explain(f"the sandbox could not be set up: {refusal}")
    assert not found.ok
    assert fix in found.fix


def test_the_doctor_tells_of_every_driver(bwrap: Sandbox, landlock: Sandbox) -> None:
    """One line each: what works, its tier, and how limits are kept."""
    found = {str(each.details["driver"]): each for each in doctor()}
    assert ["bwrap", "landlock"] == list(found)
    assert {"ok"} == {each.level for each in found.values()}
    assert "tier full" in found["bwrap"].message
    assert "tier partial" in found["landlock"].message
    for each in found.values():
        assert "memory soft" in each.message or "memory hard" in each.message
        assert set(each.details["limits"]) > {"memory", "processes", "by"}


@pytest.mark.usefixtures("bwrap")
def test_the_doctor_tries_the_container_that_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same settings as workers."""
    engine = make_engine(tmp_path)
    (tmp_path / "ghcoord.toml").write_text(f'[sandbox]\nimage = "image:2"\nengine = "{engine.program}"\n')
    monkeypatch.chdir(tmp_path)
    found = {str(each.details["driver"]): each for each in doctor()}
    assert "No such image: image:2" in found["container"].message
    assert f"'{engine.program} pull image:2'" == found["container"].fix


@pytest.mark.usefixtures("refused_bwrap", "no_landlock")
def test_the_doctor_tells_what_is_missing() -> None:
    """Where no driver is full, what is wrong with each is a warning with its fix."""
    found = {str(each.details["driver"]): each for each in doctor()}
    assert {"warning"} == {each.level for each in found.values()}
    assert "kernel.apparmor_restrict" in found["bwrap"].fix
    assert "lsm=" in found["landlock"].fix


@pytest.mark.usefixtures("no_landlock", "bwrap")
def test_the_doctor_does_not_warn_of_what_is_not_needed() -> None:
    """With the full sandbox, that another is missing is worth a line and no warning."""
    assert ["ok", "ok"] == [each.level for each in doctor()]


# -- the canaries


def test_every_gap_is_a_canary() -> None:
    """The list of what is not promised names what is tried, once, with a reason."""
    for gaps in GAPS.values():
        names = [each.canary for each in gaps]
        assert set(names) <= set(CANARIES)
        assert len(set(names)) == len(names)
        assert all(each.why for each in gaps)
    assert () == GAPS["bwrap"]


def test_without_a_sandbox_every_canary_escapes() -> None:
    """Each of them is written so that it succeeds where nothing keeps it: its silence means something."""
    escaped, python = run_canaries(NoSandbox(None), RUNTIME)
    always = {
        *("outside-write", "outside-read", "host-loopback", "abstract-socket", "path-socket", "network-namespace"),
        *("pid-namespace", "ptrace", "worker-arguments", "worker-signal", "worker-environment", "seccomp"),
        *("outside-names", "outside-metadata", "host-name"),
    }
    assert python
    assert set() == always - escaped
    assert escaped <= set(CANARIES)


def test_a_long_temporary_folder_hides_no_escape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The canaries work below a path that is longer than the address of a socket may be."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    escaped, python = run_canaries(NoSandbox(None), RUNTIME)
    assert python
    assert "path-socket" in escaped


@pytest.mark.skipif("os.geteuid() != 0", reason="only root has what these look for")
def test_without_a_sandbox_root_escapes_further() -> None:
    """What only root's tasks could do."""
    escaped, _ = run_canaries(NoSandbox(None), RUNTIME)
    wanted = {"shadow-read", "system-write", "kernel-write", "privileges", "worker-memory", "runs-as-root"}
    assert set() == wanted - escaped


def test_an_answer_that_is_missing_counts_as_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox in which the script says nothing is not taken for one that holds."""
    monkeypatch.setattr("ghcoord.execution.sandbox.canaries._SHELL", "exit 0")
    escaped, python = run_canaries(NoSandbox(None), RUNTIME)
    assert not python
    assert {"outside-write", "shadow-read", "seccomp", "network-namespace", "surviving-daemon"} <= escaped


@pytest.mark.usefixtures("landlock")
def test_gaps_that_newer_kernels_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signals are only let pass where Landlock cannot hold them yet."""

    class Named(NoSandbox):
        name = "landlock"

    sandbox: Any = Named(Identity(1, 1))
    for abi, leaking in ((5, set[str]()), (6, {"worker-signal"})):
        monkeypatch.setattr("ghcoord.execution.sandbox.canaries.landlock_abi", lambda abi=abi: abi)
        assert leaking == leaks(sandbox, {"worker-signal", "pid-namespace"})


def test_all_drivers_are_probed(tmp_path: Path) -> None:
    """The container only where one is configured."""
    assert ["bwrap", "landlock"] == [name for name, _ in probe_all(RUNTIME)]
    engine = make_engine(tmp_path)
    (engine.state / "down").touch()
    found = dict(probe_all(RUNTIME, engine.settings))
    assert "Is the docker daemon running?" in found["container"].reason
    assert "start its daemon" in found["container"].fix


def test_an_interpreter_in_the_workers_home_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that was installed into the home folder would show all of it, keys and tokens, in every sandbox."""
    program = tmp_path / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    program.parent.mkdir()
    program.touch()
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    assert program == worker_python()
    for home in (tmp_path, tmp_path / "home"):
        monkeypatch.setattr(base, "_home", lambda home=home: home)
        assert worker_python() is None
    monkeypatch.setattr(base, "_home", lambda: tmp_path.parent)
    assert program == worker_python()
