"""``ghcoord worker``: every verb, once with success and once without."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from tests.cli.running import Cli, Later, command, environment

pytestmark = pytest.mark.usefixtures("hub")


def _start(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("worker", "start", "--id", "w1", "--poll", "100ms", *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def _until_registered(cli: Cli) -> None:
    deadline = time.monotonic() + 20
    while cli("worker", "show", "w1").code:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_start_until_idle(cli: Cli) -> None:
    """A worker runs what is queued, says so on standard error, and ends with a summary."""
    cli("task", "submit", "echo", "--id", "t1", "--arg", "message=hi")
    done = cli("worker", "start", "--until-idle", "50ms", "--poll", "50ms", "--label", "zone=eu", "--json")
    assert 0 == done.code
    assert (1, 0) == (done.json["succeeded"], done.json["failed"])
    assert f"worker {done.json['worker_id']} registered" in done.err
    assert done.json["worker_id"] == cli("task", "show", "t1", "--json").json["worker"]
    assert [] == cli("worker", "list", "--json").json


def test_the_log_level_silences(cli: Cli) -> None:
    """At level error a good run prints its summary only; an unknown level exits 2."""
    done = cli("worker", "start", "--until-idle", "50ms", "--log-level", "error")
    assert (0, "") == (done.code, done.err)
    assert 2 == cli("worker", "start", "--log-level", "loud").code


@pytest.mark.parametrize(
    "options",
    [["--slots", "0"], ["--slots", "x"], ["--ttl", "0"], ["--id", "a/b"], ["--id", ""], ["--until-idle", "x"]],
)
def test_start_refuses(cli: Cli, options: list[str]) -> None:
    """Wrong options exit 2 before anything is registered."""
    assert 2 == cli("worker", "start", "--max-runtime", "1ms", *options).code
    assert [] == cli("worker", "list", "--json").json


def test_sigterm_drains(cli: Cli) -> None:
    """On SIGTERM the worker ends with 0 and is deregistered."""
    worker = _start()
    _until_registered(cli)
    worker.send_signal(signal.SIGTERM)
    out, err = worker.communicate(timeout=20)
    assert 0 == worker.returncode, err
    assert "has stopped" in out
    assert 3 == cli("worker", "show", "w1").code


def test_drain_stops_a_running_worker(cli: Cli) -> None:
    """'worker drain' is followed by the daemon, which ends with 0; an unknown worker exits 3."""
    worker = _start("--log-level", "warn")
    _until_registered(cli)
    drained = cli("worker", "drain", "w1", "--json").json
    assert ("draining", True) == (drained["status"], drained["drain_requested"])
    _, err = worker.communicate(timeout=20)
    assert (0, "") == (worker.returncode, err)
    assert 3 == cli("worker", "drain", "w1").code


def test_register(cli: Cli) -> None:
    """The answer says how often to send a heartbeat; the record holds what was given and what was detected."""
    answer = cli(
        "worker",
        "register",
        "w1",
        "--slots",
        "3",
        "--max-sessions",
        "2",
        "--label",
        "zone=eu",
        "--meta",
        "n:=1",
        "--json",
    ).json
    assert (True, 30.0) == (answer["success"], answer["heartbeat_interval_seconds"])
    worker = cli("worker", "show", "w1", "--json").json
    assert {"max_tasks": 3, "active_tasks": 0, "available_slots": 3} == worker["capacity"]
    assert ({"zone": "eu"}, {"n": 1}, 2) == (
        worker["capabilities"]["labels"],
        worker["metadata"],
        worker["max_sessions"],
    )
    assert worker["capabilities"]["cpu_cores"] >= 1
    for wrong in (["", "--slots", "1"], ["w/1"], ["w1", "--ttl", "0"], ["w1", "--slots", "-1"], ["w1", "--label", "x"]):
        assert 2 == cli("worker", "register", *wrong).code


def test_heartbeat(cli: Cli) -> None:
    """A heartbeat moves the time of the last one; an unknown worker exits 3."""
    cli("worker", "register", "w1")
    before = cli("worker", "show", "w1", "--json").json
    assert [True, []] == [
        cli("worker", "heartbeat", "w1", "--json").json[key] for key in ("acknowledged", "unknown_session_ids")
    ]
    assert before["last_heartbeat"] < cli("worker", "show", "w1", "--json").json["last_heartbeat"]
    assert 3 == cli("worker", "heartbeat", "w2").code


def test_status(cli: Cli) -> None:
    """The status is set; an unknown status exits 2, an unknown worker 3."""
    cli("worker", "register", "w1")
    assert "worker w1 is busy\n" == cli("worker", "status", "w1", "busy").out
    assert 2 == cli("worker", "status", "w1", "asleep").code
    assert 3 == cli("worker", "status", "w2", "busy").code


def test_list(cli: Cli) -> None:
    """Workers are filtered by status and free slots, counted, and cut; no free slot exits 7."""
    for worker in ("w1", "w2", "w3"):
        cli("worker", "register", worker)
    cli("worker", "status", "w2", "busy")
    assert ["w1", "w2", "w3"] == [one["id"] for one in cli("worker", "list", "--json").json]
    assert ["w2"] == [
        one["id"] for one in cli("worker", "list", "--status", "busy", "--status", "offline", "--json").json
    ]
    assert ["w1"] == [one["id"] for one in cli("worker", "list", "--has-capacity", "--limit", "1", "--json").json]
    assert "3\n" == cli("worker", "list", "--count").out
    assert {"count": 0} == cli("worker", "list", "--task-type", "echo", "--count", "--json").json
    assert 4 == len(cli("worker", "list").out.splitlines())
    for worker in ("w1", "w2", "w3"):
        cli("worker", "deregister", worker)
    assert "no workers\n" == cli("worker", "list").out
    assert 7 == cli("worker", "list", "--has-capacity").code
    assert 2 == cli("worker", "list", "--status", "asleep").code


def test_show(cli: Cli) -> None:
    """A worker is shown; an unknown one exits 3."""
    cli("worker", "register", "w1")
    assert "0 of 1 slots" in cli("worker", "show", "w1").out
    assert 3 == cli("worker", "show", "w2").code


def test_deregister(cli: Cli) -> None:
    """Sessions that the worker never had are named; an unknown worker exits 3."""
    cli("worker", "register", "w1")
    assert ["s1"] == cli("worker", "deregister", "w1", "--session", "s1", "--json").json["unknown_session_ids"]
    assert 3 == cli("worker", "deregister", "w1").code


def test_reap(cli: Cli, later: Later) -> None:
    """Nothing is taken from a worker whose lease runs; once it is over, each form does its part."""
    cli("worker", "register", "w1", "--ttl", "1")
    refused = cli("worker", "reap", "w1")
    assert 2 == refused.code
    assert "alive" in refused.error
    assert 2 == cli("worker", "reap", "--stale-after", "1s").code
    assert 2 == cli("worker", "reap", "w1", "--dry-run").code
    assert 3 == cli("worker", "reap", "w2").code
    assert [] == cli("worker", "reap", "--dry-run", "--json").json["stale"]
    later(3.5)
    assert ["w1"] == cli("worker", "reap", "--dry-run", "--json").json["stale"]
    assert {"marked": ["w1"]} == cli("worker", "reap", "--mark-only", "--json").json
    assert "offline" == cli("worker", "show", "w1", "--json").json["status"]
    assert {"worker": "w1", "locks": 0, "tasks": 0, "sessions": 0} == cli("worker", "reap", "w1", "--json").json
    assert {"recovered": [], "removed": 1} == cli("worker", "reap", "--stale-after", "3s", "--json").json
