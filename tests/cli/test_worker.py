"""``ghcoord worker``: every verb, once with success and once without."""

from __future__ import annotations

import io
import json
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


def test_times_that_do_not_go_together_are_named(cli: Cli) -> None:
    """One sentence with the bound and both ways out, before anything is registered."""
    refused = cli("worker", "start", "--ttl", "6s", "--poll", "2s")
    assert (
        "a poll interval of 2 s is too long for a ttl of 6 s: give at most 1 s (1/6 of the ttl), "
        "or a ttl of at least 12 s" == refused.error
    )
    assert 2 == refused.code
    assert [] == cli("worker", "list", "--json").json


def test_a_type_beside_the_tools_lets_its_tasks_in(cli: Cli) -> None:
    """--type declares what the worker serves besides its tools' names: without it such a task stays queued."""
    cli("task", "submit", "echo", "--id", "t1", "--type", "greeting", "--arg", "message=hi")
    again = ("worker", "start", "--until-idle", "50ms", "--poll", "50ms", "--log-level", "error", "--json")
    assert 0 == cli(*again).json["succeeded"]
    assert 1 == cli(*again, "--type", "greeting").json["succeeded"]


def test_the_log_level_silences(cli: Cli) -> None:
    """At level error a good run prints its summary only; an unknown level exits 2."""
    done = cli("worker", "start", "--until-idle", "50ms", "--log-level", "error")
    assert (0, "") == (done.code, done.err)
    assert 2 == cli("worker", "start", "--log-level", "loud").code


@pytest.mark.parametrize(
    "options",
    [
        ["--slots", "0"],
        ["--slots", "x"],
        ["--ttl", "0"],
        ["--ttl", "6s", "--poll", "1100ms"],
        ["--poll", "0"],
        ["--type", ""],
        ["--id", "a/b"],
        ["--id", ""],
        ["--until-idle", "x"],
    ],
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
    for wrong in (
        ["", "--slots", "1"],
        ["w/1"],
        ["w1", "--ttl", "0"],
        ["w1", "--slots", "-1"],
        ["w1", "--label", "=x"],
    ):
        assert 2 == cli("worker", "register", *wrong).code


def test_register_with_types_and_sizes(cli: Cli) -> None:
    """Types and sizes are kept as given; a bare label is true; what is no type or no number exits 2."""
    line = ["--type", "build", "--type", "test", "--label", "gpu", "--cores", "3", "--memory", "512"]
    assert 0 == cli("worker", "register", "w1", *line).code
    assert {
        "cpu_cores": 3,
        "memory_mb": 512,
        "supported_task_types": ["build", "test"],
        "labels": {"gpu": "true"},
    } == cli("worker", "show", "w1", "--json").json["capabilities"]
    assert "task types  build, test" in cli("worker", "show", "w1").out
    for wrong in (["--type", ""], ["--cores", "-1"], ["--memory", "1.5"], ["--label", ""]):
        assert 2 == cli("worker", "register", "w2", *wrong).code


def test_heartbeat(cli: Cli) -> None:
    """A heartbeat moves the time of the last one; an unknown worker exits 3."""
    cli("worker", "register", "w1")
    before = cli("worker", "show", "w1", "--json").json
    assert [True, []] == [
        cli("worker", "heartbeat", "w1", "--json").json[key] for key in ("acknowledged", "unknown_session_ids")
    ]
    assert before["last_heartbeat"] < cli("worker", "show", "w1", "--json").json["last_heartbeat"]
    assert 3 == cli("worker", "heartbeat", "w2").code


def test_heartbeat_says_how_the_worker_is(cli: Cli) -> None:
    """Health and sessions are in the record and shown; sessions nobody knows are named; a wrong verdict exits 2."""
    cli("worker", "register", "w1")
    line = ["--health", "degraded", "--cpu", "7.5", "--memory", "120", "--active-tasks", "2", "--active-sessions", "1"]
    said = cli("worker", "heartbeat", "w1", *line, "--session", "s1")
    assert "worker w1 is alive\nunknown sessions: s1\n" == said.out
    worker = cli("worker", "show", "w1", "--json").json
    health = {"cpu": 7.5, "memory": 120.0, "active_tasks": 2, "health_status": "degraded", "reason": ""}
    assert (health, 1) == (worker["health"], worker["active_sessions"])
    assert "health      degraded, load 7.5, uses 120 MiB" in cli("worker", "show", "w1").out
    assert "degraded" in cli("worker", "list").out
    cli("worker", "heartbeat", "w1")
    assert health == cli("worker", "show", "w1", "--json").json["health"], "what is not said stays"
    for wrong in (["--health", "fine"], ["--cpu", "nan"], ["--cpu", "x"], ["--active-sessions", "-1"]):
        assert 2 == cli("worker", "heartbeat", "w1", *wrong).code


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


def test_list_by_what_workers_are(cli: Cli) -> None:
    """Labels with and without a value, sizes, types, sessions; none with room exits 7 and says room for what."""
    cli("worker", "register", "w1", "--label", "zone=eu", "--cores", "2", "--memory", "100", "--max-sessions", "0")
    cli("worker", "register", "w2", "--label", "zone=us", "--cores", "4", "--memory", "200", "--slots", "0")

    def listed(*options: str) -> list[str]:
        return [one["id"] for one in cli("worker", "list", *options, "--json").json]

    assert ["w1", "w2"] == listed("--label", "zone")
    assert ["w2"] == listed("--label", "zone=us") == listed("--min-cores", "3") == listed("--min-memory", "101")
    assert [] == listed("--label", "gpu")
    assert (["w1"], ["w2"]) == (listed("--has-capacity"), listed("--has-sessions"))
    assert "a free task slot" in cli("worker", "list", "--has-capacity", "--label", "zone=us").error
    none = cli("worker", "list", "--has-sessions", "--min-cores", "9")
    assert (7, True) == (none.code, "room for another session" in none.error)
    assert 2 == cli("worker", "list", "--min-cores", "-1").code


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
    assert 3 == cli("worker", "reap", "w2").code
    assert [] == cli("worker", "reap", "--dry-run", "--json").json["stale"]
    later(3.5)
    assert ["w1"] == cli("worker", "reap", "--dry-run", "--json").json["stale"]
    assert {"stale": ["w1"]} == cli("worker", "reap", "--mark-only", "--dry-run", "--json").json
    assert {"marked": ["w1"]} == cli("worker", "reap", "--mark-only", "--json").json
    assert "offline" == cli("worker", "show", "w1", "--json").json["status"]
    assert {"worker": "w1", "locks": 0, "tasks": 0, "sessions": 0} == cli("worker", "reap", "w1", "--json").json
    assert {"recovered": [], "removed": 1, "removed_ids": ["w1"], "taken": []} == cli(
        "worker", "reap", "--stale-after", "3s", "--json"
    ).json


@pytest.mark.parametrize(
    "options",
    [["w1", "--mark-only"], ["w1", "--stale-after", "9s"], ["--every", "1s", "--dry-run"], ["--every", "10ms"]],
)
def test_reap_refuses(cli: Cli, options: list[str]) -> None:
    """What does not go together exits 2."""
    assert 2 == cli("worker", "reap", *options).code


def test_reap_says_what_it_would_do(cli: Cli, later: Later) -> None:
    """A dry run names workers, tasks and locks, of all the dead or of one, and changes nothing."""
    cli("worker", "register", "w1", "--ttl", "1")
    cli("worker", "heartbeat", "w1", "--active-sessions", "2")
    cli("lock", "acquire", "x", "--owner", "w1", "--ttl", "1h")
    later(3.5)
    dry = cli("worker", "reap", "--dry-run", "--json").json
    taken = {"worker": "w1", "locks": 1, "tasks": 0, "sessions": 2}
    assert {"stale": ["w1"], "recovered": ["w1"], "removed": 0, "removed_ids": [], "taken": [taken]} == dry
    said = cli("worker", "reap", "--dry-run").out
    assert "1 workers stale: w1" == said.splitlines()[0]
    assert ["w1", "0", "1", "2", "goes", "offline"] == said.splitlines()[2].split()
    assert taken == cli("worker", "reap", "w1", "--dry-run", "--json").json
    assert "w1: 0 tasks and 1 locks would be recovered\n" == cli("worker", "reap", "w1", "--dry-run").out
    assert "active" == cli("worker", "show", "w1", "--json").json["status"]
    done = cli("worker", "reap", "--yes").out
    assert "1 workers recovered (w1) with 0 tasks, 1 locks and 2 sessions, 0 removed\n" == done
    assert "0 workers stale\n" == cli("worker", "reap", "--dry-run").out


def test_reap_asks_on_a_terminal(cli: Cli, later: Later, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows whom it is about; a no leaves everything as it is, a yes goes on."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(io, "StringIO", Terminal)
    cli("worker", "register", "w1", "--ttl", "1")
    later(3.5)
    for form in (["reap"], ["reap", "w1"], ["reap", "--mark-only"]):
        done = cli("worker", *form, stdin="n\n")
        assert 130 == done.code
        assert "w1" in done.err
        assert "active" == cli("worker", "show", "w1", "--json").json["status"]
    assert 0 == cli("worker", "reap", stdin="y\n").code
    assert "offline" == cli("worker", "show", "w1", "--json").json["status"]


def test_reap_again_and_again() -> None:
    """--every goes on, a line a pass, until interrupted."""
    process = subprocess.Popen(
        command("worker", "reap", "--every", "1s", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert 130 == process.returncode
    assert ["at", "recovered", "removed", "removed_ids", "taken"] == list(first)
