"""What is said on standard error while something is waited for: who is in the way, and what would help."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ghcoord.bootstrap import connect
from tests.cli.running import Cli, command, environment, spawn
from tests.cli.terminal import Terminal

pytestmark = pytest.mark.usefixtures("hub")

START = "no worker that runs 'echo' is alive: start one with 'ghcoord worker start'\n"


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _worker() -> subprocess.Popen[bytes]:
    """A worker that has just been started, and ends when there is no more to do."""
    line = command("worker", "start", "--until-idle", "100ms", "--poll", "50ms")
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())


def test_a_task_that_nobody_runs(cli: Cli) -> None:
    """Submitting, waiting and following each say how to get a worker; standard output is as ever."""
    done = cli("task", "submit", "echo", "--id", "t1")
    assert ("t1\n", START) == (done.out, done.err)
    assert START in cli("task", "wait", "t1", "--timeout", "10ms").err
    assert START in cli("task", "logs", "t1", "--follow", "--timeout", "10ms").err
    assert START in cli("task", "submit", "echo", "--wait", "--wait-timeout", "10ms").err
    assert "" == cli("task", "logs", "t1").err
    assert "build" == cli("task", "submit", "build", "--json").json["tool"]
    assert "'build' is alive: start the program that registers it" in cli("task", "submit", "build").err
    lines = '{"tool": "echo"}\n{"tool": "echo"}\n{"tool": "other"}\n'
    assert 2 == len(cli("task", "submit", "--batch", "-", stdin=lines).err.splitlines())


def test_a_task_that_somebody_runs(cli: Cli, hub: Path) -> None:
    """A living worker with the tool silences the hint; one that drains does not, nor does another's tool."""
    from ghcoord.hub import Capabilities

    with connect(hub) as opened:
        opened.workers.register("w1", capabilities=Capabilities(supported_task_types=("echo",)))
    assert "" == cli("task", "submit", "echo").err
    assert "'shell'" in cli("task", "submit", "shell").err
    cli("worker", "drain", "w1")
    assert START == cli("task", "submit", "echo").err


def test_a_wait_gives_workers_time_to_start(cli: Cli) -> None:
    """The hint of a wait is for one that takes long: nothing is said when a worker comes soon."""
    starting = _worker()
    done = cli("task", "submit", "echo", "-a", "message=hi", "--wait")
    assert (0, "hi\n", "") == (done.code, done.out, done.err)
    assert 0 == starting.wait(20)


@pytest.mark.slow
def test_a_batch_that_nobody_runs_says_so_once(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said while its first task is waited for is not said again for the next."""
    monkeypatch.setattr("ghcoord.faces.cli.taskwait.SOON", 0.0)
    starting = _worker()
    try:
        lines = '{"tool": "echo", "args": {"message": "a"}}\n{"tool": "build"}\n'
        done = cli("task", "submit", "--batch", "-", "--wait", "--wait-timeout", "2s", stdin=lines)
    finally:
        starting.kill()
        starting.wait()
    assert 9 == done.code
    other = "no worker that runs 'build' is alive: start the program that registers it\n"
    assert other + START == done.err.partition("error: ")[0]


def test_an_ended_task_needs_no_worker(cli: Cli) -> None:
    """Nothing is said about a task that has ended."""
    cli("task", "submit", "echo", "--id", "t1")
    cli("task", "cancel", "t1")
    assert "error: task t1 is cancelled\n" == cli("task", "wait", "t1").err
    assert "" == cli("task", "logs", "t1", "--follow").err


@pytest.mark.parametrize("line", [["acquire", "x"], ["run", "x"]])
def test_waiting_for_a_lock_says_for_whom(cli: Cli, line: list[str]) -> None:
    """With --wait the holder, its process and the time it may take are named before the wait begins."""
    holder = cli("lock", "acquire", "x", "--owner", "ann", "--ttl", "60", "--json").json["metadata"]
    tail = ["true"] if line[0] == "run" else []
    waited = cli("lock", *line, "--owner", "ben", "--wait", "50ms", *tail)
    place = re.escape(f"(pid {holder['pid']} on {holder['hostname']})")
    first, error = waited.err.splitlines()
    assert re.fullmatch(f"waiting for 'x', held by 'ann' {place}, free in at most 1m0[12]s unless renewed", first)
    assert re.match(f"error: the lock 'x' is held by 'ann' {place} after waiting 0.1s: ", error)
    assert "" == cli("lock", *line, "--wait", "50ms", "--json", *tail).err


def test_a_free_lock_is_taken_without_a_word(cli: Cli) -> None:
    """--wait says nothing when there is nothing to wait for; without --wait a refusal is one line."""
    assert "" == cli("lock", "acquire", "x", "--owner", "ann", "--wait", "1m").err
    again = cli("lock", "acquire", "x", "--owner", "ann")
    assert re.match(r"the lock 'x' is held by 'ann' already \(token \d+, pid \d+ on ", again.error)


def test_metadata_of_any_kind_is_harmless(cli: Cli) -> None:
    """A holder that says nothing about its process, or something odd, is named all the same."""
    cli("lock", "acquire", "x", "--owner", "ann", "--meta", "pid:=null", "--meta", "hostname:=[1]")
    assert "held by 'ann' ([1]): " in cli("lock", "acquire", "x", "--owner", "ben").error


def test_a_busy_worker_says_that_it_drains(cli: Cli, tmp_path: Path) -> None:
    """The first signal is answered at once with the number of running tasks and what a second one does."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time, ghcoord.faces.cli.daemon as daemon\n"
        "from ghcoord.__main__ import main\n"
        "before = daemon.open_hub\n"
        "from contextlib import contextmanager\n"
        "@contextmanager\n"
        "def opened():\n"
        "    with before() as hub:\n"
        "        hub.tools.register('nap')(nap)\n"
        "        yield hub\n"
        "def nap(ctx):\n"
        "    while not ctx.cancelled():\n"
        "        time.sleep(0.05)\n"
        "daemon.open_hub = opened\n"
        "sys.exit(main(['worker', 'start', '--id', 'w1', '--slots', '2', '--poll', '50ms']))\n"
    )
    for name in ("t1", "t2", "t3"):
        cli("task", "submit", "nap", "--id", name)
    said = tmp_path / "said"
    with said.open("w") as file:
        worker = subprocess.Popen(
            [sys.executable, str(program)], stdout=subprocess.DEVNULL, stderr=file, env=environment()
        )
    try:
        _until(lambda: "2 of 2 slots" in cli("worker", "show", "w1").out)
        worker.send_signal(signal.SIGINT)
        _until(lambda: "draining: 2 tasks still running; a second signal stops them\n" in said.read_text())
        worker.send_signal(signal.SIGTERM)
        assert 0 == worker.wait(20)
    finally:
        worker.kill()
        worker.wait()


def test_a_watch_on_a_terminal_says_that_it_watches(hub: Path) -> None:
    """On a terminal one line tells what is watched and how to end it; into a pipe there is none."""
    with Terminal("memory", "watch", "a", "--timeout", "20s") as terminal:
        terminal.wait_for("watching 'a' in global, Ctrl-C ends it")
        terminal.type("\x03")
        assert 130 == terminal.end()
    assert "" == spawn("memory", "watch", "a", "--timeout", "10ms").err.partition("error: ")[0]


def test_a_broken_record_points_to_doctor(cli: Cli, hub: Path, tmp_path: Path) -> None:
    """Reading a record that somebody broke says what it is and where to go on."""
    cli("memory", "set", "k", "good")
    clone = tmp_path / "clone"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "clone", "-q", "-b", "ghcoord/memory/global", str(hub), str(clone)], check=True)
    next(clone.glob("keys/**/*.json")).write_text("{")
    subprocess.run([*git, "commit", "-qam", "break it"], check=True, cwd=clone)
    subprocess.run([*git, "push", "-q"], check=True, cwd=clone)
    refused = cli("memory", "get", "k")
    assert 7 == refused.code
    assert refused.error.endswith(": run 'ghcoord doctor'")


def test_python_dash_m_answers_too() -> None:
    """Hints reach standard error of a real process."""
    done = subprocess.run(
        command("task", "submit", "echo"), capture_output=True, text=True, env=environment(), check=False
    )
    assert (0, START) == (done.returncode, done.stderr)
