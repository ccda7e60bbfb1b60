"""Running one command to its end: pipes, limits, and nothing left behind. Real processes throughout."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import SandboxError, UsageError
from ghcoord.execution import process
from ghcoord.execution.capture import Capture
from ghcoord.execution.process import Completed
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.execution.sandbox.launcher import parent_of
from ghcoord.model.limits import Limits

RUNTIME = SystemRuntime()
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def sh(sandbox: Sandbox, workspace: Path) -> Callable[..., Completed]:
    """Run a shell command in the sandbox."""

    def run(command: str, **options: object) -> Completed:
        argv = ["/bin/sh", "-c", command]
        return process.run(sandbox, argv, workspace=workspace, runtime=RUNTIME, **options)  # type: ignore[arg-type]

    return run


def alive(marker: str) -> list[str]:
    """Command lines of this machine's processes that mention ``marker``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if marker in line:
            found.append(line)
    return found


def ends(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether ``condition`` holds within ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def new_marker() -> str:
    """A number of seconds to sleep that no other process has."""
    return f"300.{RUNTIME.randbits(50)}"


def daemons(marker: str) -> str:
    """A shell command that leaves a child, a session leader and a grandchild without parent behind."""
    return (
        f"sleep {marker} >/dev/null & setsid sleep {marker} >/dev/null 2>&1 & "
        f"(setsid sh -c 'trap \"\" TERM; sleep {marker}; :' >/dev/null 2>&1 &)"
    )


def test_stdout_and_stderr_are_kept_apart_and_the_exit_code_passes(sh: Callable[..., Completed]) -> None:
    """A command's two streams and its exit code come back as they were."""
    done = sh("echo out; echo err >&2; exit 3")
    assert (3, "out\n", "err\n") == (done.exit_code, done.stdout, done.stderr)
    assert (False, "", False) == (done.truncated, done.stopped, done.leftover)


def test_a_signal_counts_as_128_and_its_number(sh: Callable[..., Completed]) -> None:
    """A command that a signal ends has the shell's exit code for it."""
    assert 128 + signal.SIGKILL == sh("kill -KILL $$").exit_code


def test_streams_can_be_opened_by_name(sh: Callable[..., Completed]) -> None:
    """``>/dev/stderr`` works although the task runs as another user than the worker."""
    done = sh("echo out >/dev/stdout && echo err >/dev/stderr")
    assert (0, "out\n", "err\n") == (done.exit_code, done.stdout, done.stderr)


def test_output_beyond_the_cap_is_drained_and_its_middle_left_out(sh: Callable[..., Completed]) -> None:
    """Ten megabytes do not block the command, and both ends of them are kept."""
    logged: list[str] = []
    done = sh(
        "echo first; head -c 10000000 /dev/zero | tr '\\0' x; echo; echo last; echo small >&2",
        cap=1000,
        log=lambda stream, text: logged.append(text if stream == "stdout" else ""),
    )
    assert 0 == done.exit_code
    assert done.truncated
    assert done.stdout.startswith("first\nxxx")
    assert done.stdout.endswith("xxx\nlast\n")
    assert "[9999012 bytes left out]" in done.stdout
    assert "small\n" == done.stderr
    assert 1000 == len("".join(logged))


def test_a_capture_keeps_everything_up_to_its_cap() -> None:
    """Exactly the cap is not truncated, one byte more is."""
    capture = Capture(10)
    capture.add(b"0123456789")
    assert ("0123456789", False) == (capture.text(), capture.truncated)
    capture.add(b"a")
    assert ("01234\n[1 bytes left out]\n6789a", True) == (capture.text(), capture.truncated)


def test_a_cut_does_not_split_a_character() -> None:
    """Where the middle is left out no half of a character becomes a replacement mark."""
    capture = Capture(10)
    capture.add("€€€€€€".encode())
    assert "\ufffd" not in capture.text()


def test_output_that_is_not_utf8_is_replaced(sh: Callable[..., Completed]) -> None:
    """Bytes that are no text never raise."""
    assert "a\ufffdb" == sh("printf 'a\\377b'").stdout


def test_characters_split_between_reads_are_logged_whole(sh: Callable[..., Completed]) -> None:
    """A streamed character whose bytes come apart is passed on once, complete."""
    logged: list[str] = []
    sh("printf '\\303'; sleep 0.1; printf '\\251'", log=lambda stream, text: logged.append(text))
    assert ["é"] == logged


def test_stdin_is_passed_whole(sh: Callable[..., Completed]) -> None:
    """A megabyte of input arrives while output is read."""
    done = sh("tee /dev/stderr | wc -c", stdin=b"y" * 1_000_000)
    assert "1000000" == done.stdout.strip()


def test_stdin_that_nobody_reads_does_not_block(sh: Callable[..., Completed]) -> None:
    """A command may end, or close its input, before reading it."""
    assert 0 == sh("exec <&-; sleep 0.1", stdin=b"y" * 1_000_000).exit_code


def test_without_stdin_the_command_reads_nothing(sh: Callable[..., Completed]) -> None:
    """The worker's own input is never the command's."""
    assert ("", 0) == ((done := sh("cat")).stdout, done.exit_code)


def test_timeout_kills_what_ignores_sigterm_and_what_left_the_session(sh: Callable[..., Completed]) -> None:
    """After the timeout and the grace period nothing of the tree is left, daemons included."""
    marker = new_marker()
    started = time.monotonic()
    done = sh(f"{daemons(marker)}; trap '' TERM; echo ready; while :; do sleep {marker}; done", timeout=0.4, grace=0.3)
    took = time.monotonic() - started
    assert ("timeout", None, "ready\n", False) == (done.stopped, done.exit_code, done.stdout, done.leftover)
    assert 0.7 <= took < 2.0
    assert [] == alive(marker)


def test_stopping_during_the_set_up_leaves_nothing(sh: Callable[..., Completed], workspace: Path) -> None:
    """A timeout that strikes at any moment of the sandbox's own start leaves no process of it behind."""
    marker = new_marker()
    for milliseconds in range(24):
        done = sh(f"setsid sleep {marker} & sleep {marker}", timeout=milliseconds / 1000, grace=0.0)
        assert "timeout" == done.stopped
    assert ends(lambda: alive(marker) == [], 1.0), alive(marker)


def test_sigterm_comes_first_and_its_handler_is_heard(sh: Callable[..., Completed]) -> None:
    """A command that ends on SIGTERM has time to say goodbye, and the grace period is not waited out."""
    started = time.monotonic()
    done = sh("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done", timeout=0.3, grace=10.0)
    assert ("timeout", "ready\nbye\n") == (done.stopped, done.stdout)
    assert time.monotonic() - started < 3.0


def test_cancellation_ends_the_whole_tree_within_two_seconds(sh: Callable[..., Completed]) -> None:
    """From the cancellation to the last process gone less than two seconds pass with the default grace."""
    marker = new_marker()
    ready, cancelled_at = threading.Event(), 0.0

    def log(stream: str, text: str) -> None:
        nonlocal cancelled_at
        cancelled_at = time.monotonic()
        ready.set()

    done = sh(f"{daemons(marker)}; trap '' TERM; echo ready; sleep {marker}; :", cancelled=ready.is_set, log=log)
    assert ("cancelled", False) == (done.stopped, done.leftover)
    assert time.monotonic() - cancelled_at < 2.0
    assert [] == alive(marker)


def test_a_daemon_does_not_outlive_the_command_nor_hold_it_up(sh: Callable[..., Completed]) -> None:
    """When the command ends what it left behind is killed, even with its output still open."""
    marker = new_marker()
    started = time.monotonic()
    done = sh(f"setsid sleep {marker} & {daemons(marker)}; echo done")
    assert (0, "done\n", False) == (done.exit_code, done.stdout, done.leftover)
    assert time.monotonic() - started < 2.0
    assert [] == alive(marker)


_WORKER = """
import sys
from pathlib import Path
from ghcoord.clock import SystemRuntime
from ghcoord.execution import process
from ghcoord.execution.sandbox.base import current_identity
from ghcoord.execution.sandbox.none import NoSandbox
from ghcoord.execution.sandbox.open import open_sandbox
runtime = SystemRuntime()
sandbox = NoSandbox(current_identity()) if sys.argv[1] == "none" else open_sandbox(unsafe=False, runtime=runtime)
process.run(sandbox, ["/bin/sh", "-c", sys.argv[3]], workspace=Path(sys.argv[2]), runtime=runtime,
            log=lambda stream, text: print(text, end="", flush=True))
"""


def test_a_killed_worker_leaves_no_survivors(sandbox: Sandbox, workspace: Path) -> None:
    """SIGKILL to the worker ends its task's whole tree, daemons included."""
    marker = new_marker()
    command = f"trap '' TERM; {daemons(marker)}; echo ready; sleep {marker}; :"
    with subprocess.Popen(
        [sys.executable, "-c", _WORKER, sandbox.name, str(workspace), command],
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)])},
    ) as worker:
        assert worker.stdout is not None
        assert b"ready\n" == worker.stdout.readline()
        assert ends(lambda: len(alive(f"sleep {marker}")) >= 4, 2.0)
        worker.kill()
    assert ends(lambda: alive(marker) == [], 2.0), alive(marker)


def opened(descriptor: str) -> str:
    """The number of a descriptor of ours and what it is of; nothing for the one that lists them."""
    try:
        return f"{descriptor} {os.readlink(f'/proc/self/fd/{descriptor}')}"
    except FileNotFoundError:
        return ""


def traces(workspace: Path) -> dict[str, object]:
    """What a command could leave behind: descriptors, threads, mounts, cgroups, folders, children of ours."""
    children = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if parent_of(pid) == os.getpid()]
    return {
        "descriptors": sorted(filter(None, map(opened, os.listdir("/proc/self/fd")))),
        "threads": threading.active_count(),
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "cgroups": sorted(Path("/sys/fs/cgroup").rglob(f"ghcoord-task-{os.getpid()}-*")),
        "folders": sorted(os.listdir(workspace.parent)),
        "children": sorted(children),
    }


def leave_nothing(run: Callable[..., Completed], workspace: Path, runs: int) -> None:
    """Mixed commands, ended in every way, after which everything is as it was."""
    marker = new_marker()
    run("true")
    before = traces(workspace)
    limits = Limits(memory_mb=60, processes=20, cpu_seconds=5, workspace_mb=20)
    bomb = "x=$(head -c 1000000 /dev/zero | tr '\\0' x); while :; do x=$x$x; done"

    def cancelling() -> Callable[[], bool]:
        asked = iter([False, False])
        return lambda: next(asked, True)

    def failing(stream: str, text: str) -> None:
        raise RuntimeError("no room for logs")

    def fails() -> None:
        with pytest.raises(RuntimeError, match="no room"):
            run(f"{daemons(marker)}; echo; sleep {marker}", log=failing)

    ways: list[Callable[[int], object]] = [
        lambda number: run(f"{daemons(marker)}; cat", stdin=b"x" * 100_000),
        lambda number: run(f"{daemons(marker)}; exit 3", limits=limits),
        lambda number: run(f"{daemons(marker)}; sleep {marker}; :", timeout=number % 40 / 1000, grace=0.0),
        lambda number: run(f"trap '' TERM; {daemons(marker)}; sleep {marker}; :", timeout=0.05, grace=0.01),
        lambda number: run(f"{daemons(marker)}; sleep {marker}; :", cancelled=cancelling(), grace=0.01),
        lambda number: run(f"{daemons(marker)}; kill -KILL $$", limits=limits),
        lambda number: fails(),
        lambda number: run(f"{daemons(marker)}; {bomb}", limits=limits, timeout=10.0),
    ]
    for number in range(runs):
        ways[number % len(ways)](number)
    assert ends(lambda: alive(marker) == [], 1.0), alive(marker)
    assert before == traces(workspace)


def test_nothing_is_leaked(sh: Callable[..., Completed], workspace: Path) -> None:
    """Twenty commands, ended in every way, leave no process, descriptor, thread, mount, cgroup or folder."""
    leave_nothing(sh, workspace, 20)


@pytest.mark.slow
def test_nothing_is_leaked_by_500_commands(sandbox: Sandbox, sh: Callable[..., Completed], workspace: Path) -> None:
    """The same over 500 runs under bubblewrap; without a sandbox, where each start takes longer, 120."""
    leave_nothing(sh, workspace, 500 if sandbox.name == "bwrap" else 120)


def test_an_error_of_the_caller_kills_the_command(sh: Callable[..., Completed]) -> None:
    """What the log callback raises comes through, and the command does not run on."""
    marker = new_marker()

    def broken(stream: str, text: str) -> None:
        raise RuntimeError("no room for logs")

    with pytest.raises(RuntimeError, match="no room for logs"):
        sh(f"{daemons(marker)}; echo ready; sleep {marker}; :", log=broken)
    assert [] == alive(marker)


def test_a_program_that_is_missing_is_a_sandbox_error(sandbox: Sandbox, workspace: Path) -> None:
    """What never started has not failed: the set-up is reported, not exit code 1."""
    with pytest.raises(SandboxError):
        process.run(sandbox, ["/usr/bin/no-such-program"], workspace=workspace, runtime=RUNTIME)


@pytest.mark.parametrize(
    ("argv", "env"),
    [
        (["/bin/sh", "x" * 200_000], {}),
        (["/bin/sh", "a\0b"], {}),
        (["/bin/sh", "\ud800"], {}),
        ([], {}),
        (["/bin/sh"], {"A=B": "c"}),
        (["/bin/sh"], {"A": 5}),
        (["/bin/sh"], {f"V{n}": "x" * 100_000 for n in range(11)}),
    ],
)
def test_what_linux_cannot_pass_is_a_usage_error(
    sandbox: Sandbox, workspace: Path, argv: list[str], env: dict[str, str]
) -> None:
    """Arguments and variables that would make ``execve`` fail are the caller's mistake, not the sandbox's."""
    with pytest.raises(UsageError):
        process.run(sandbox, argv, workspace=workspace, runtime=RUNTIME, env=env)


def test_runs_in_many_threads_at_once(sh: Callable[..., Completed]) -> None:
    """Eight threads run commands at the same time, and each gets its own output."""
    outputs: dict[int, str] = {}

    def work(number: int) -> None:
        outputs[number] = sh(f"sleep 0.1; echo {number}").stdout

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: f"{number}\n" for number in range(8)} == outputs
