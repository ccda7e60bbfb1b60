"""``ghcoord leader``: every verb, once with success and once without."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.running import Cli, command, environment, spawn
from tests.processes import until

pytestmark = pytest.mark.usefixtures("hub")


Candidate = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def candidate(tmp_path: Path) -> Iterator[Candidate]:
    """A process that runs for 'sched' and writes its shell's id to a file while it leads; ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, *args: object, script: str = "sleep 60") -> subprocess.Popen[str]:
        body = f"echo $$ >> {tmp_path}/{name}; {script}"
        process = subprocess.Popen(
            command("leader", "run", "sched", "--id", name, *args, "--", "sh", "-c", body),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(20)
        if process.stderr is not None:
            process.stderr.close()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def pids(folder: Path, name: str) -> list[int]:
    file = folder / name
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def test_the_command_runs_while_leading(cli: Cli, hub: Path) -> None:
    """It finds token, lock and hub; its output and exit code are passed on; who leads is told; then nobody leads."""
    script = 'echo "$GHCOORD_FENCING_TOKEN $GHCOORD_LOCK $GHCOORD_HUB"; exit 7'
    done = spawn("leader", "run", "sched", "--id", "me", "--", "sh", "-c", script)
    assert 7 == done.code
    token, lock, where = done.out.split()
    assert token.isdigit()
    assert ("leader/sched", str(hub)) == (lock, where)
    assert "'me' leads 'sched'\n" == done.err
    assert 3 == cli("leader", "show", "sched").code


def test_the_run_in_json(cli: Cli) -> None:
    """Alone on standard output, with the number of terms."""
    done = spawn("leader", "run", "sched", "--id", "me", "--json", "--", "sh", "-c", "echo hello")
    assert ["name", "id", "token", "terms", "exit_code", "duration"] == list(done.json)
    assert ("sched", "me", 1, 0) == (done.json["name"], done.json["id"], done.json["terms"], done.json["exit_code"])
    assert "hello\n" == done.err


def test_what_cannot_run_or_does_not_go_together_is_refused(cli: Cli) -> None:
    """No such command, a timing without room, an empty id: exit 2, and nobody leads."""
    assert (
        "no such command" in cli("leader", "run", "sched", "--json", "--", "no-such-command").json["error"]["message"]
    )
    assert "does not go with a ttl" in cli("leader", "run", "x", "--ttl", "9", "--renew-deadline", "9", "true").error
    assert "does not go with a deadline" in cli("leader", "run", "x", "--ttl", "9", "--renew", "6", "true").error
    assert 2 == cli("leader", "run", "x", "--id", "", "true").code
    assert 2 == cli("leader", "run", "x").code
    assert "no such option: --colour" in cli("leader", "run", "x", "--colour", "true").error
    assert "nobody leads anything\n" == cli("leader", "list").out


@pytest.mark.slow
def test_another_takes_over(cli: Cli, candidate: Candidate, tmp_path: Path) -> None:
    """The second waits in the queue, shown with the leader; when that one's command has ended, it leads."""
    first = candidate("a", script=f"while [ ! -e {tmp_path}/stop ]; do sleep 0.05; done")
    until(lambda: pids(tmp_path, "a"))
    second = candidate("b", "--fair", script="true")
    until(lambda: cli("leader", "show", "sched", "--json").json["candidates"])
    shown = cli("leader", "show", "sched", "--json").json
    assert ("sched", "a", ["b"]) == (shown["name"], shown["leader"], [one["owner"] for one in shown["candidates"]])
    assert ["a"] == [one["leader"] for one in cli("leader", "list", "--json").json]
    assert "sched" in cli("leader", "list").out
    assert "PLACE" in cli("leader", "show", "sched").out
    (tmp_path / "stop").touch()
    assert (0, 0) == (first.wait(20), second.wait(20))
    assert "'a' leads 'sched'\n'b' leads 'sched'\n" == second.communicate()[1]


@pytest.mark.slow
def test_resigning_ends_the_command_and_another_leads(cli: Cli, candidate: Candidate, tmp_path: Path) -> None:
    """The leader notices at its next renewal; its command and what that started end; it then campaigns again."""
    assert 3 == cli("leader", "resign", "sched", "--id", "a").code
    first = candidate("a", "--ttl", "3s", script="sleep 60 & wait")
    until(lambda: pids(tmp_path, "a"))
    assert 4 == cli("leader", "resign", "sched", "--id", "b").code
    second = candidate("b", "--ttl", "3s", "--fair")
    until(lambda: cli("leader", "show", "sched", "--json").json["candidates"])
    assert "a no longer leads sched\n" == cli("leader", "resign", "sched", "--id", "a").out
    until(lambda: pids(tmp_path, "b"))
    until(lambda: gone(pids(tmp_path, "a")[0]))
    assert "b" == cli("leader", "show", "sched", "--json").json["leader"]
    assert None is first.poll(), "it campaigns again"
    for process in (first, second):
        process.send_signal(signal.SIGTERM)
    assert 128 + signal.SIGTERM == first.wait(20), "a candidate without a command ends by the signal"
    assert 128 + signal.SIGTERM == second.wait(20), "a leader passes it on, and this is how its command ends"
    assert "has lost the lead of 'sched'" in first.communicate()[1]
    assert 3 == cli("leader", "show", "sched").code


def test_once_exits_when_the_lead_is_lost(cli: Cli, candidate: Candidate, tmp_path: Path) -> None:
    """Exit code 5, after the command has ended."""
    process = candidate("a", "--ttl", "2s", "--once")
    until(lambda: pids(tmp_path, "a"))
    cli("lock", "force-unlock", "leader/sched", "--yes")
    _, err = process.communicate(timeout=20)
    assert 5 == process.returncode
    assert "error: the lease" in err
    assert gone(pids(tmp_path, "a")[0])


@pytest.mark.slow
def test_a_leader_that_is_killed_is_followed(cli: Cli, candidate: Candidate, tmp_path: Path) -> None:
    """After its lease and the margin the next leads, under a higher token."""
    first = candidate("a", "--ttl", "1s")
    until(lambda: pids(tmp_path, "a"))
    old = cli("leader", "show", "sched", "--json").json["token"]
    candidate("b", "--ttl", "1s")
    os.kill(first.pid, signal.SIGKILL)
    os.kill(pids(tmp_path, "a")[0], signal.SIGKILL)
    until(lambda: pids(tmp_path, "b"))
    assert cli("leader", "show", "sched", "--json").json["token"] > old


def test_show_list_and_resign(cli: Cli) -> None:
    """The leader with its token and lease; only its own id gives the lead up; then nobody leads."""
    token = cli("lock", "acquire", "leader/sched", "--owner", "a", "--json").json["token"]
    shown = cli("leader", "show", "sched", "--json").json
    assert ("sched", "a", token, []) == (shown["name"], shown["leader"], shown["token"], shown["candidates"])
    assert str(token) in cli("leader", "show", "sched").out
    assert ["a"] == [one["leader"] for one in cli("leader", "list", "--json").json]
    assert "ELECTION" in cli("leader", "list").out
    assert 4 == cli("leader", "resign", "sched", "--id", "b").code
    assert "a no longer leads sched\n" == cli("leader", "resign", "sched", "--id", "a").out
    assert 3 == cli("leader", "resign", "sched", "--id", "a").code


def test_show_and_list_of_nothing(cli: Cli) -> None:
    """Nobody leads: exit 3; an election without a name, or an option that is not there, exits 2."""
    assert "nobody leads 'sched'" == cli("leader", "show", "sched").error
    assert 3 == cli("leader", "show", "sched").code
    assert 2 == cli("leader", "show").code
    assert 2 == cli("leader", "list", "--colour").code
    assert 2 == cli("leader", "resign").code
