"""``ghcoord lock run``: a command under a lock, as real processes."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.faces.cli import lockrun
from tests.cli.running import Cli, command, environment, spawn

pytestmark = pytest.mark.usefixtures("hub")


def _wait_for(path: Path) -> str:
    deadline = time.monotonic() + 20
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return path.read_text().strip()


def _gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def test_the_command_runs_under_the_lock(hub: Path) -> None:
    """The command sees token, lock and hub; its output and exit code are passed on; then the lock is free."""
    script = 'echo "$GHCOORD_FENCING_TOKEN $GHCOORD_LOCK $GHCOORD_HUB"; exit 7'
    done = spawn("lock", "run", "deploy", "--owner", "me", "--", "sh", "-c", script)
    assert 7 == done.code
    token, lock, where = done.out.split()
    assert token.isdigit()
    assert ("deploy", str(hub)) == (lock, where)
    assert 3 == spawn("lock", "show", "deploy").code


def test_json_reports_the_run_alone_on_standard_output() -> None:
    """With --json the command's output goes to standard error; a signal's end is 128 + its number."""
    done = spawn("lock", "run", "x", "--json", "--", "sh", "-c", "echo hello; kill -9 $$")
    assert 137 == done.code
    assert ["name", "owner", "token", "exit_code", "duration"] == list(done.json)
    assert 137 == done.json["exit_code"]
    assert "hello\n" == done.err


def test_a_command_that_cannot_run_is_a_usage_error(cli: Cli, tmp_path: Path) -> None:
    """Nothing stays locked when there is no such command, or one that may not be executed."""
    missing = cli("lock", "run", "x", "--", "no-such-command")
    assert 2 == missing.code
    assert "no such command" in missing.error
    plain = tmp_path / "plain"
    plain.write_text("text")
    assert 2 == cli("lock", "run", "x", "--", plain).code
    assert 3 == cli("lock", "show", "x").code


def test_a_held_lock_refuses_the_run(cli: Cli) -> None:
    """The command does not start while someone else holds the lock: 4 at once, 9 after waiting."""
    cli("lock", "acquire", "x", "--owner", "a")
    refused = cli("lock", "run", "x", "--", "touch", "ran")
    assert 4 == refused.code
    assert "'a'" in refused.error
    assert 9 == cli("lock", "run", "x", "--wait", "200ms", "--", "touch", "ran").code
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        (["y", "echo", "--json", "-n", "--ttl"], "--json -n --ttl"),
        (["--ttl", "5", "y", "-ome", "echo", "a", "--", "-h"], "a -- -h"),
        (["y", "--owner=me", "--ttl", "5", "--", "echo", "--json"], "--json"),
        (["--", "y", "echo", "--wait"], "--wait"),
        (["y", "--", "echo", "--", "-x"], "-- -x"),
    ],
)
def test_the_command_keeps_its_options(line: list[str], printed: str) -> None:
    """From the command's first word on nothing is taken from it, with and without '--' before it."""
    done = spawn("lock", "run", *line)
    assert (0, f"{printed}\n", "") == (done.code, done.out, done.err)


def test_own_options_stand_before_the_command(cli: Cli) -> None:
    """Before the command an unknown option is refused, and help is help."""
    assert "no such option: --colour" in cli("lock", "run", "y", "--colour", "echo").error
    assert "Usage: ghcoord lock run" in cli("lock", "run", "y", "-h").out


@pytest.mark.slow
@pytest.mark.parametrize("deaf", ["leader and child", "child"])
def test_losing_the_lease_ends_the_whole_group(cli: Cli, tmp_path: Path, deaf: str) -> None:
    """Force-unlocked, the run ends its command and that one's children, also such as ignore TERM, and exits 5."""
    ignore = 'trap "" TERM; ' if deaf != "child" else ""
    child = "sh -c 'trap \"\" TERM; sleep 100; sleep 100'"
    script = f"{ignore}{child} & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/leader; wait; sleep 100"
    running = subprocess.Popen(
        command("lock", "run", "x", "--ttl", "3", "--", "sh", "-c", script),
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    leader, other = int(_wait_for(tmp_path / "leader")), int(_wait_for(tmp_path / "child"))
    cli("lock", "force-unlock", "x", "--yes")
    _, err = running.communicate(timeout=20)
    assert 5 == running.returncode
    assert err.startswith("error: the lease")
    assert _gone(leader)
    assert _gone(other)


@pytest.mark.slow
def test_the_lease_is_renewed_while_the_command_runs(cli: Cli) -> None:
    """A command that takes longer than the ttl keeps the lock to its end."""
    assert 0 == cli("lock", "run", "x", "--ttl", "1", "--", "sleep", "1.3").code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on(cli: Cli, tmp_path: Path, number: signal.Signals) -> None:
    """The command gets the signal; what it makes of it is the exit code, and the lock is free."""
    script = f"trap 'exit 11' TERM INT; echo ready > {tmp_path}/ready; while :; do sleep 0.05; done"
    running = subprocess.Popen(command("lock", "run", "x", "--", "sh", "-c", script), env=environment())
    _wait_for(tmp_path / "ready")
    os.kill(running.pid, number)
    assert 11 == running.wait(20)
    assert 3 == cli("lock", "show", "x").code


def test_the_command_has_the_terminal() -> None:
    """A command that reads from the terminal gets what is typed, though it runs in a process group of its own."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, command("lock", "run", "x", "--", "head", "-n", "1"), environment())
    os.write(terminal, b"hello\n")
    shown = b""
    with suppress(OSError):  # Linux says so when the other side has closed
        while part := os.read(terminal, 1000):
            shown += part
    os.close(terminal)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert b"hello\r\nhello\r\n" == shown


def test_a_signal_while_the_command_starts_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that interrupts the start passes the signal on afterwards: no command lives on without its lock."""
    child = lockrun.Child(SystemRuntime())
    real = subprocess.Popen

    def interrupted(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        started = real(*args, **kwargs)
        assert child.signal(signal.SIGTERM)  # what the handler does
        return started

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    child.start(["sleep", "60"], {"PATH": os.environ["PATH"]})
    assert 128 + signal.SIGTERM == child.wait()
