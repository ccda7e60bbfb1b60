"""What a daemon says of itself: its health, what it serves, what it ran."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ghcoord.bootstrap import connect
from ghcoord.config import LockSettings, Settings, WorkerSettings
from ghcoord.coord.workers.tick import Finished
from ghcoord.errors import InvalidName, UsageError
from ghcoord.execution.places import Places
from ghcoord.execution.pulse import Pulse
from ghcoord.execution.slots import Slots
from ghcoord.execution.worker import Summary, WorkerDaemon
from ghcoord.execution.workspace import Workspaces
from ghcoord.hub import Hub
from ghcoord.model.health import Vitals
from ghcoord.model.task import TaskResult
from ghcoord.model.worker import Worker


def record(hub: Hub, worker_id: str = "w1") -> Worker:
    found = hub.workers.get(worker_id)
    assert found is not None
    return found


def pulse_of(hub: Hub, folder: Path) -> Pulse:
    slots = Slots(hub.runtime, 1, {}, Places(Workspaces(folder)), hub.runtime.event(), lambda: 0.0, 0.0)
    return Pulse(hub, slots, folder)


@pytest.mark.parametrize(
    ("vitals", "verdict"), [(Vitals(free_mb=10.0), "unhealthy"), (Vitals(load=1e6), "degraded"), (Vitals(), "healthy")]
)
def test_the_verdict_follows_the_machine(hub: Hub, tmp_path: Path, vitals: Vitals, verdict: str) -> None:
    """A full disk, too much load, or nothing said."""
    hub.vitals = lambda folder: vitals
    assert verdict == pulse_of(hub, tmp_path / "work").health().health_status


def test_failures_in_a_row_degrade_until_one_succeeds(hub: Hub, tmp_path: Path) -> None:
    """Results that the hub has taken are counted; one success ends the row."""
    hub.vitals = lambda folder: Vitals()
    pulse = pulse_of(hub, tmp_path / "work")
    bad, good = (Finished("t", 1, TaskResult(success=ok)) for ok in (False, True))
    seen = []
    for result in (bad,) * 5 + (good, bad):
        pulse.note([result])
        seen.append(pulse.health().health_status)
    assert ["healthy"] * 4 + ["degraded"] + ["healthy"] * 2 == seen


def test_health_costs_no_commit(hub: Hub) -> None:
    """An idle daemon whose load changes with every look commits only its renewals."""
    looks = iter(range(1, 10_000))
    hub.vitals = lambda folder: Vitals(load=float(next(looks)))
    daemon = WorkerDaemon(hub, "w1", ttl=1.0, poll=0.02)
    thread = threading.Thread(target=daemon.run)
    thread.start()
    deadline = time.monotonic() + 10
    while hub.workers.get("w1") is None and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        assert record(hub).health is not None, "from the registration on"
        before, began = hub.commits, time.monotonic()
        time.sleep(0.55)
        renewals, elapsed = hub.commits - before, time.monotonic() - began
        assert 1 <= renewals <= elapsed * 3 + 2, "one every third of a second, however often the load changes"
    finally:
        daemon.stop()
        thread.join(10)


def test_a_running_daemon_says_how_it_is(hub: Hub, work: Callable[..., Summary], tmp_path: Path) -> None:
    """Health from the start, the types and labels it was given, and what it ran lately, by type."""
    looked: list[Path] = []
    seen: list[Worker] = []
    real = hub.vitals

    def vitals(folder: Path) -> Vitals:
        looked.append(folder)
        return real(folder)

    hub.vitals = vitals
    hub.tools.register("look")(lambda: seen.append(record(hub)))
    hub.tasks.submit("look", {})
    hub.tasks.submit("echo", {"message": "x"}, type="greeting")
    hub.tasks.submit("look", {})
    work(types=["greeting"], labels={"gpu": "true"}, slots=1)
    first, last = seen[0], seen[-1]
    assert first.health is not None
    assert (first.health.memory or 0) > 10
    assert first.health.cpu is not None
    assert {tmp_path / "work"} == set(looked)
    can = first.capabilities
    assert {"greeting", "echo", "look"} <= set(can.supported_task_types)
    assert ("greeting" not in can.tools, "echo" in can.tools, {"gpu": "true"}) == (True, True, can.labels)
    assert ({}, {"look"}) == (first.recent_types, set(last.recent_types) & {"look"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ttl": 6.0, "poll": 2.0}, "a poll interval of 2 s is too long for a ttl of 6 s"),
        ({"ttl": 3.0, "grace": 2.0}, "a grace of 2 s is too long for a ttl of 3 s"),
        ({"ttl": 0.5}, "a ttl of 0.5 s is out of range"),
        ({"poll": 0.0}, "poll interval must be more than 0"),
    ],
)
def test_times_that_do_not_go_together_are_refused(hub: Hub, options: dict[str, float], message: str) -> None:
    """Before anything is registered, with the bound in the sentence."""
    with pytest.raises(UsageError, match=message):
        WorkerDaemon(hub, "w1", **options)  # type: ignore[arg-type]
    assert [] == hub.workers.list()


def test_a_type_that_is_no_name_is_refused(hub: Hub) -> None:
    """An empty type."""
    with pytest.raises(InvalidName, match="task type is empty"):
        WorkerDaemon(hub, "w1", types=[""])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            Settings(poll=3.0, worker=WorkerSettings(ttl=6.0)),
            "worker.ttl: a poll interval of 3 s is too long",
        ),
        (Settings(worker=WorkerSettings(ttl=6.0, grace=3.0)), "the setting worker.ttl: a grace of 3 s is too long"),
        (Settings(worker=WorkerSettings(ttl=0.1)), "the setting worker.ttl: a ttl of 0.1 s is out of range"),
        (Settings(locks=LockSettings(ttl=0.1)), "the setting locks.ttl: a ttl of 0.1 s is out of range"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: Settings, message: str) -> None:
    """As soon as a hub is opened with them, naming the setting."""
    with pytest.raises(UsageError, match=message):
        connect("memory:", settings)


def test_a_poll_setting_counts_for_the_daemon(tmp_path: Path) -> None:
    """It is held against the ttl that the daemon gets; what is given to the daemon goes before it."""
    with connect("memory:", Settings(poll=3.0)) as hub:
        with pytest.raises(UsageError, match="a poll interval of 3 s is too long for a ttl of 15 s"):
            WorkerDaemon(hub, "w1", workspace=tmp_path / "work")
        assert pytest.approx(0.5) == WorkerDaemon(hub, "w1", poll=0.5, workspace=tmp_path / "work").rhythm.poll
