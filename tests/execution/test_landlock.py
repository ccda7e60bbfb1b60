"""What is particular to the Landlock driver: its exact gaps, its temporary files, its supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import SandboxError
from ghcoord.execution.sandbox import landlock_launcher
from ghcoord.execution.sandbox.base import Sandbox, current_identity, system_python
from ghcoord.execution.sandbox.canaries import GAPS, run_canaries
from ghcoord.execution.sandbox.cgroup import Group, Groups
from ghcoord.execution.sandbox.job import Job, Mount
from ghcoord.execution.sandbox.landlock import LandlockSandbox
from ghcoord.execution.sandbox.landlock_launcher import SCOPES_ABI, Spec, landlock_abi
from ghcoord.model.limits import Limits
from ghcoord.testing.sandbox_under_test import PROMPT, SandboxUnderTest, survivors

AS_ROOT = os.geteuid() == 0
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def bench(landlock: Sandbox, open_to_all: Path) -> SandboxUnderTest:
    return SandboxUnderTest(landlock, open_to_all)


def test_its_gaps_are_exactly_those_listed(landlock: Sandbox) -> None:
    """What escapes is what the table says, no less: an entry that is not needed would hide a leak."""
    escaped, python = run_canaries(landlock, SystemRuntime())
    wanted = {each.canary for each in GAPS["landlock"] if not each.before_abi or landlock_abi() < each.before_abi}
    assert (wanted, True) == (escaped, python)


def test_what_the_kernel_shows_is_closed(bench: SandboxUnderTest) -> None:
    """Neither /proc nor /sys, /tmp or the root can be listed or opened, by whatever way."""
    script = (
        "for each; do ls $each; cat $each/status $each/environ; done 2>/dev/null; (cd /proc/$$; cat status environ)"
    )
    places = ["/", "/proc", "/proc/self", "/proc/1", "/sys", "/tmp", "/var", "/run", "/home", "/root", "/dev", "/etc"]
    assert "" == bench.sh(script, *places).stdout


def test_sockets_are_only_made_in_pairs(bench: SandboxUnderTest) -> None:
    """Every family is refused; a pair within the command works."""
    code = """if True:
        import socket
        for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK, socket.AF_VSOCK):
            try:
                print(socket.socket(family))
            except OSError as why:
                print(why.errno)
        one, two = socket.socketpair()
        one.send(b"within")
        print(two.recv(9))"""
    done = bench.python(code)
    assert ["97"] * 5 + ["b'within'"] == done.stdout.split()


def test_root_gives_up_everything_for_good(bench: SandboxUnderTest) -> None:
    """No group, no capability, and none that a setuid program could bring back."""
    code = """if True:
        import ctypes, os
        libc = ctypes.CDLL(None)
        bounding = any(libc.prctl(23, number, 0, 0, 0) for number in range(38))
        print(os.getresuid(), os.getgroups(), libc.prctl(39, 0, 0, 0, 0), bounding)
        try:
            os.setuid(0)
        except OSError as why:
            print(why.strerror)"""
    who = current_identity()
    if who is None:
        pytest.skip("only root's tasks become another user")
    wanted = f"({who.uid}, {who.uid}, {who.uid}) [] 1 False\nOperation not permitted\n"
    assert wanted == bench.python(code).stdout


def test_devices_cannot_be_made_nor_controlled(bench: SandboxUnderTest) -> None:
    """No node of a device, and no ioctl on one."""
    code = """if True:
        import errno, fcntl, os, stat
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            try:
                os.mknod("node", kind | 0o666, os.makedev(1, 3))
                print("made")
            except OSError as why:
                print("refused")
        with open("/dev/urandom", "wb") as file:
            try:
                fcntl.ioctl(file, 0x5204, b"\\0" * 8)
                print("controlled")
            except OSError as why:
                print("refused")"""
    assert ["refused"] * 3 == bench.python(code).stdout.split()


@pytest.mark.skipif(not AS_ROOT, reason="only root's tasks become another user")
def test_what_is_out_of_reach_names_the_fix(landlock: Sandbox, bench: SandboxUnderTest, tmp_path: Path) -> None:
    """Root's workspaces, and mounts, in a closed folder cannot be used: one clear line."""
    tmp_path.chmod(0o700)
    (tmp_path / "inner").mkdir()
    with pytest.raises(SandboxError, match=r"may not enter.*chmod o\+x"):
        landlock.command(Job(["/bin/true"], tmp_path / "inner"))
    with pytest.raises(SandboxError, match="may not enter"):
        landlock.command(Job(["/bin/true"], bench.workspace(), mounts=(Mount(tmp_path / "inner", "inner"),)))


def test_a_mount_that_is_not_there(bench: SandboxUnderTest) -> None:
    """It is the sandbox's failure, and says which path."""
    with pytest.raises(SandboxError, match="No such file"):
        bench.sh(":", mounts=(Mount(bench.base / "missing", "missing"),))


# -- temporary files


@pytest.mark.parametrize("kind", ["link", "file", "link to a file", "closed folder"])
def test_what_stands_where_temporary_files_go(bench: SandboxUnderTest, kind: str) -> None:
    """An earlier command's link, file or closed folder there harms nothing outside and no later command."""
    workspace, target = bench.workspace(), bench.base / "target"
    target.mkdir()
    (target / "kept").write_text("x")
    target.chmod(0o777)
    made = {
        "link": 'ln -s "$1" .tmp',
        "file": "echo x > .tmp",
        "link to a file": 'ln -s "$1/kept" .tmp',
        "closed folder": "mkdir .tmp && chmod 0 .tmp",
    }[kind]
    # The driver's own folder is there while the command runs.
    bench.sh(f"rm -r .tmp; {made}", str(target), workspace=workspace)
    done = bench.sh('echo x > "$TMPDIR/file" && cat "$TMPDIR/file"', workspace=workspace)
    assert (0, "x\n") == (done.exit_code, done.stdout), done.stderr
    assert ["kept"] == [each.name for each in target.iterdir()]
    assert [] == list(workspace.iterdir())


def test_a_link_put_there_at_the_end_leads_nowhere(bench: SandboxUnderTest) -> None:
    """What removes the folder follows no link out of the workspace, though the supervisor may be root."""
    workspace, target = bench.workspace(), bench.base / "target"
    script = 'name=$(basename "$TMPDIR"); rm -r .tmp; mkdir -p "$1/$name/inner"; ln -s "$1" .tmp'
    target.mkdir()
    target.chmod(0o777)
    for pid in range(1, 200):
        (target / str(os.getpid() + pid)).mkdir()
    before = sorted(target.iterdir())
    bench.sh(script, str(target), workspace=workspace)
    assert before == sorted(target.iterdir())


def test_deep_and_closed_trees_of_temporary_files_go(bench: SandboxUnderTest) -> None:
    """However deep, as far as paths reach, and whatever their modes."""
    workspace = bench.workspace()
    code = """if True:
        import os
        os.chdir(os.environ["TMPDIR"])
        top = os.getcwd()
        for _ in range(300):
            os.mkdir("deeper")
            open("file", "w").close()
            os.chdir("deeper")
        os.chdir(top)
        os.chmod("deeper", 0)"""
    done = bench.python(code, workspace=workspace)
    assert 0 == done.exit_code, done.stderr
    assert [] == list(workspace.iterdir())


def test_a_folder_of_temporary_files_that_was_chosen(bench: SandboxUnderTest) -> None:
    """TMPDIR given with the job is left as it is."""
    assert "/elsewhere\n" == bench.sh('echo "$TMPDIR"', env={"TMPDIR": "/elsewhere"}).stdout


def test_leftovers_of_a_killed_supervisor_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in a folder of the same process id, of long ago, are not a new command's."""
    spec = Spec(b"\0\0\0" + os.fsencode(tmp_path) + b"\x000\0\x001\0/bin/true\0A=b")
    assert ([], [], [b"/bin/true"]) == (spec.rules, spec.limits, spec.argv)
    assert {b"A": b"b", b"TMPDIR": os.fsencode(f"{tmp_path}/.tmp/{os.getpid()}")} == spec.env
    monkeypatch.chdir(tmp_path)
    stale = tmp_path / ".tmp" / str(os.getpid())
    (stale / "a" / "b").mkdir(parents=True)
    (stale / "a" / "file").write_text("stale")
    landlock_launcher._make_temporary(spec)
    assert [] == list(stale.iterdir())
    landlock_launcher._clean(spec)
    assert [] == list(tmp_path.iterdir())
    landlock_launcher._clean(spec)  # nothing there is nothing to do


# -- the supervisor


@pytest.mark.skipif(landlock_abi() < SCOPES_ABI, reason="this kernel's Landlock cannot hold signals")
def test_a_command_cannot_kill_its_supervisor(bench: SandboxUnderTest) -> None:
    """Not even one of the same user, here root that has given up nothing: so nothing survives it."""
    bench.sandbox = LandlockSandbox(None, system_python())
    marker = bench.marker()
    done = bench.sh('setsid sleep "$1" & kill -9 $PPID; kill -9 -1; echo alive', marker)
    assert "alive\n" == done.stdout
    assert [] == survivors(marker)


_WORKER = """
import sys
from pathlib import Path
from ghcoord.clock import SystemRuntime
from ghcoord.execution import process
from ghcoord.execution.sandbox.open import open_sandbox
runtime = SystemRuntime()
sandbox = open_sandbox(choice="landlock", runtime=runtime)
script = 'setsid sleep "$1" & echo started; sleep "$1"'
process.run(sandbox, ["/bin/sh", "-c", script, "sh", sys.argv[2]], workspace=Path(sys.argv[1]), runtime=runtime,
            log=lambda stream, text: print(text, flush=True))
"""


def test_nothing_survives_a_worker_that_is_killed(bench: SandboxUnderTest) -> None:
    """SIGKILL to the worker ends the command, its daemons, and what was in its temporary folder."""
    workspace, marker = bench.workspace(), bench.marker()
    worker = subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(workspace), marker],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
    )
    with worker:
        assert worker.stdout is not None
        assert b"started" in worker.stdout.readline()
        assert len(survivors(marker)) >= 2
        worker.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + PROMPT
    while (survivors(marker) or any(workspace.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [] == survivors(marker)
    assert [] == list(workspace.iterdir())


class RecordingGroup(Group):
    """A cgroup that only notes what is put into it, and what that was running then."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.added: list[tuple[int, bytes]] = []
        self.closed = False

    def add(self, pid: int) -> None:
        self.added.append((pid, Path(f"/proc/{pid}/cmdline").read_bytes()))

    def close(self) -> None:
        self.closed = True


class RecordingGroups(Groups):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.made: list[tuple[Limits, RecordingGroup]] = []

    def make(self, limits: Limits, *, apart: int = 0) -> Group:
        self.made.append((limits, RecordingGroup(self.folder)))
        return self.made[-1][1]


def test_a_command_starts_in_its_cgroup(bench: SandboxUnderTest, tmp_path: Path) -> None:
    """Where there are cgroups, it is put into its own before it becomes the command; its supervisor is not."""
    groups = RecordingGroups(tmp_path)
    bench.sandbox = LandlockSandbox(current_identity(), system_python(), groups)
    assert ("hard", "hard", "cgroup") == (
        bench.sandbox.limits.memory,
        bench.sandbox.limits.processes,
        bench.sandbox.limits.by,
    )
    done = bench.sh("echo $$", limits=Limits(memory_mb=64))
    [(limits, group)] = groups.made
    assert Limits(memory_mb=64) == limits
    [(pid, command_line)] = group.added
    assert f"{pid}\n" == done.stdout
    assert b"landlock_launcher.py" in command_line
    assert group.closed
    assert (None, "timeout") == ((again := bench.sh("sleep 60", timeout=0.3)).exit_code, again.stopped)


def test_a_cgroup_that_refuses_is_the_sandboxes_failure(bench: SandboxUnderTest, tmp_path: Path) -> None:
    """The command has not run then."""

    class Refusing(RecordingGroup):
        def add(self, pid: int) -> None:
            raise SandboxError("the command could not be put into its cgroup: refused")

    groups = RecordingGroups(tmp_path)
    groups.make = lambda limits, *, apart=0: Refusing(tmp_path)  # type: ignore[method-assign]
    bench.sandbox = LandlockSandbox(current_identity(), system_python(), groups)
    workspace = bench.workspace()
    with pytest.raises(SandboxError, match="refused"):
        bench.sh(": > ran", workspace=workspace)
    assert [] == list(workspace.iterdir())


def test_a_supervisor_that_cannot_start(bench: SandboxUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with it, the error says that it was the supervisor."""
    monkeypatch.setattr(landlock_launcher, "__file__", "/no/such/launcher.py")
    with pytest.raises(SandboxError, match=r"(?s)the supervisor failed: .*No module named 'launcher'"):
        bench.sh(":")
