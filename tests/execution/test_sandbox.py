"""What a sandboxed command can and cannot reach, and how the sandbox is chosen."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import SandboxError
from ghcoord.execution import process
from ghcoord.execution.process import Completed
from ghcoord.execution.sandbox import base
from ghcoord.execution.sandbox.base import Identity, Sandbox, current_identity, reachable
from ghcoord.execution.sandbox.bwrap import BwrapSandbox, find_bwrap
from ghcoord.execution.sandbox.canaries import run_canaries
from ghcoord.execution.sandbox.job import Job
from ghcoord.execution.sandbox.none import NoSandbox

RUNTIME = SystemRuntime()
AS_ROOT = os.geteuid() == 0


@pytest.fixture
def sh(bwrap: Sandbox, tmp_path: Path) -> Callable[..., Completed]:
    """Run a shell command under bubblewrap; the workspace is below pytest's private directory."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()

    def run(command: str, *args: str, **options: object) -> Completed:
        argv = ["/bin/sh", "-c", command, "sh", *args]
        return process.run(bwrap, argv, workspace=workspace, runtime=RUNTIME, **options)  # type: ignore[arg-type]

    return run


def refused(done: Completed) -> bool:
    """Whether the command ran and failed."""
    return done.exit_code not in (0, None)


def test_the_sandbox_passes_every_canary(bwrap: Sandbox) -> None:
    """Under bubblewrap no canary escapes, and Python works inside."""
    assert (set(), True) == run_canaries(bwrap, RUNTIME)


def test_the_sandbox_passes_with_the_systems_interpreter(bwrap: Sandbox) -> None:
    """Under root nothing has to be bound before the user is dropped here: the other way to start bubblewrap."""
    program = find_bwrap()
    assert program is not None
    breaches, _ = run_canaries(BwrapSandbox(program, current_identity(), base.system_python()), RUNTIME)
    assert set() == breaches


def test_the_canaries_can_fail() -> None:
    """Without a sandbox the canaries do escape: their silence means something."""
    breaches, _ = run_canaries(NoSandbox(current_identity()), RUNTIME)
    wanted = {"outside-write", "outside-read", "host-loopback", "network-namespace", "pid-namespace"}
    assert wanted <= breaches


@pytest.mark.skipif(not AS_ROOT, reason="only root's tasks become another user")
def test_the_canaries_notice_tasks_that_run_as_root(bwrap: Sandbox) -> None:
    """Bubblewrap started by root itself, without dropping to a user first, is refused."""
    program = find_bwrap()
    assert program is not None
    breaches, _ = run_canaries(BwrapSandbox(program, None), RUNTIME)
    assert "runs-as-root" in breaches


_GROUPS = """
import sys
from pathlib import Path
from ghcoord.clock import SystemRuntime
from ghcoord.execution import process
from ghcoord.execution.sandbox import base, bwrap, none
who = base.current_identity()
for sandbox in (none.NoSandbox(who), bwrap.BwrapSandbox(bwrap.find_bwrap(), who, base.system_python())):
    command = ["/usr/bin/id", "-G"]
    print(process.run(sandbox, command, workspace=Path(sys.argv[1]), runtime=SystemRuntime()).stdout.strip())
"""


@pytest.mark.skipif(not AS_ROOT, reason="only root's tasks become another user")
def test_the_workers_groups_are_given_up(bwrap: Sandbox, open_to_all: Path) -> None:
    """Tasks of a root worker that is in more groups (adm, sudo) are in none of them."""
    (open_to_all / "workspace").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _GROUPS, str(open_to_all / "workspace")],
        extra_groups=[4, 27],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        check=True,
    )
    assert [str(base.TASK_IDENTITY.gid), "1000"] == done.stdout.decode().splitlines()


def test_the_workspace_is_writable_private_and_the_commands_own(bwrap: Sandbox, open_to_all: Path) -> None:
    """Files written in the workspace appear on the host, owned by the task's user, in a directory of mode 0700."""
    workspace = open_to_all / "workspace"
    workspace.mkdir(mode=0o755)
    command = ["/bin/sh", "-c", "pwd; echo $HOME; echo kept > file"]
    done = process.run(bwrap, command, workspace=workspace, runtime=RUNTIME)
    assert "/workspace\n/workspace\n" == done.stdout
    assert "kept\n" == (workspace / "file").read_text()
    info = workspace.stat()
    assert 0o700 == stat.S_IMODE(info.st_mode)
    wanted = base.TASK_IDENTITY.uid if AS_ROOT else os.geteuid()
    assert (wanted, wanted) == (info.st_uid, (workspace / "file").stat().st_uid)


def test_a_workspace_in_a_closed_directory_works(sh: Callable[..., Completed], tmp_path: Path) -> None:
    """A workspace below a directory of mode 0700 that is root's is usable, as in root's home."""
    assert 0 == sh("echo kept > file").exit_code
    assert "kept\n" == (tmp_path / "workspace" / "file").read_text()


@pytest.mark.parametrize("place", ["/usr/x", "/x", "/etc/x", "/dev/x", "/proc/sys/kernel/core_pattern"])
def test_nothing_outside_the_workspace_is_writable(sh: Callable[..., Completed], place: str) -> None:
    """The root, the system's files, /dev and the kernel's settings refuse writes."""
    assert refused(sh('echo x > "$1"', place))


def test_files_of_the_host_are_not_there(sh: Callable[..., Completed], tmp_path: Path) -> None:
    """Secrets, the worker's home and what lies beside the workspace cannot be read, nor written."""
    (tmp_path / "beside").write_text("secret")
    for path in (tmp_path / "beside", Path("/etc/shadow"), Path("/etc/machine-id"), Path(__file__)):
        assert refused(sh('cat "$1"', str(path)))
    home = Path.home()
    visible = sh('ls -A "$1"', str(home))
    assert refused(visible) or set(visible.stdout.split()) < {each.name for each in home.iterdir()}
    sh('echo x > "$1"', str(tmp_path / "written"))
    assert not (tmp_path / "written").exists()


def test_symlinks_out_of_the_workspace_lead_nowhere(sh: Callable[..., Completed], tmp_path: Path) -> None:
    """A link that the task makes is followed inside, where its target does not exist."""
    (tmp_path / "beside").write_text("secret")
    assert refused(sh('ln -s "$1" link && cat link', str(tmp_path / "beside")))


def test_the_host_cannot_be_reached_over_the_network(bwrap: Sandbox, sh: Callable[..., Completed]) -> None:
    """A listener on the host's loopback gets no connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        code = f"import socket; socket.create_connection(('127.0.0.1', {listener.getsockname()[1]}), 2)"
        done = sh('"$1" -c "$2"', str(bwrap.python), code)
        assert "ConnectionRefusedError" in done.stderr
        with pytest.raises(TimeoutError):
            listener.accept()


def test_the_environment_is_only_what_is_given(sh: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the worker's environment reaches the command, by no process it can see."""
    monkeypatch.setenv("GHCOORD_TEST_TOKEN", "not-to-be-seen")
    done = sh("env; cat /proc/*/environ | tr '\\0' '\\n'", env={"GIVEN": "yes"})
    assert "GIVEN=yes" in done.stdout
    assert "not-to-be-seen" not in done.stdout + done.stderr
    names = {line.partition("=")[0] for line in sh("env").stdout.splitlines()}
    assert {"PATH", "HOME", "LANG", "TMPDIR", "PWD"} == names


def test_given_variables_do_not_show_on_the_host(sh: Callable[..., Completed]) -> None:
    """While the command runs, no command line of the machine holds the value of its variables."""
    seen: list[bool] = []
    secret = f"secret-{RUNTIME.randbits(60)}"

    def look(stream: str, text: str) -> None:
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                lines.append(path.read_bytes())
            except OSError:
                continue
        seen.append(any(secret.encode() in line for line in lines))

    assert 0 == sh('[ -n "$KEY" ] && echo ready && sleep 0.1', env={"KEY": secret}, log=look).exit_code
    assert [False] == seen


def test_no_privilege_and_no_descriptor_is_passed_on(sh: Callable[..., Completed]) -> None:
    """No capability, none to be gained, nothing open but the three streams, no namespace to be made."""
    status = dict(line.split(":\t", 1) for line in sh("cat /proc/self/status").stdout.splitlines())
    assert {"0000000000000000"} == {value for name, value in status.items() if name.startswith("Cap")}
    assert "1" == status["NoNewPrivs"]
    assert ["0", "1", "2"] == sh("ls /proc/$$/fd").stdout.split()
    assert refused(sh("unshare -U true"))


def test_processes_of_the_host_are_not_seen(sh: Callable[..., Completed]) -> None:
    """Inside there are bubblewrap's first process and the command's own."""
    assert len(sh("ls -d /proc/[0-9]*").stdout.split()) <= 4


def test_memory_file_systems_are_bounded(sh: Callable[..., Completed]) -> None:
    """/dev/shm takes its 64 MiB and no more."""
    done = sh("head -c 80000000 /dev/zero > /dev/shm/file; stat -c %s /dev/shm/file")
    assert 64 * 1024 * 1024 == int(done.stdout)


def test_python_of_the_worker_works_inside(bwrap: Sandbox, sh: Callable[..., Completed]) -> None:
    """The interpreter starts with its standard library, extension modules included."""
    assert "ok\n" == sh('"$1" -c "import ssl, sqlite3, ctypes; print(\'ok\')"', str(bwrap.python)).stdout


def test_without_a_sandbox_the_environment_is_still_not_the_workers(
    open_to_all: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unsandboxed commands get a clean environment, no new privilege, and under root another user."""
    monkeypatch.setenv("GHCOORD_TEST_TOKEN", "not-to-be-seen")
    workspace = open_to_all / "workspace"
    workspace.mkdir()
    command = "env; id -u; id -G; grep NoNewPrivs /proc/self/status; ls /proc/$$/fd; :"
    sandbox = NoSandbox(current_identity())
    done = process.run(sandbox, ["/bin/sh", "-c", command], workspace=workspace, runtime=RUNTIME)
    assert "not-to-be-seen" not in done.stdout
    assert "NoNewPrivs:\t1" in done.stdout
    assert done.stdout.endswith("\n0\n1\n2\n")
    if AS_ROOT:
        assert f"\n{base.TASK_IDENTITY.uid}\n{base.TASK_IDENTITY.gid}\n" in done.stdout
        assert refused(process.run(sandbox, ["/bin/cat", "/etc/shadow"], workspace=workspace, runtime=RUNTIME))


@pytest.mark.skipif(not AS_ROOT, reason="only root's tasks become another user")
def test_a_workspace_out_of_reach_without_a_sandbox_names_the_fix(tmp_path: Path) -> None:
    """Root's unsandboxed tasks cannot use a workspace in a closed directory: one clear line."""
    workspace = tmp_path / "closed" / "workspace"
    workspace.mkdir(parents=True)
    workspace.parent.chmod(0o700)
    with pytest.raises(SandboxError, match="choose a workspace elsewhere"):
        NoSandbox(current_identity()).command(Job(["/bin/true"], workspace))


def test_a_workspace_that_is_a_link_is_refused(bwrap: Sandbox, open_to_all: Path) -> None:
    """Nothing is changed through a link that stands where the workspace should be."""
    (open_to_all / "link").symlink_to("/etc")
    with pytest.raises(SandboxError, match="cannot be used"):
        bwrap.command(Job(["/bin/true"], open_to_all / "link"))


def test_reachable_judges_every_directory_above(open_to_all: Path) -> None:
    """One closed directory above a path is enough to be out of reach of another user, not of its owner."""
    path = open_to_all / "a" / "b"
    path.mkdir(parents=True)
    stranger = Identity(65533, 65533)
    assert reachable(path, stranger)
    (open_to_all / "a").chmod(0o700)
    assert not reachable(path, stranger)
    assert reachable(path, None)
    assert reachable(path, Identity(os.geteuid(), os.getegid()))
