"""Submitters, schedules and those that wait, under simulated histories: crashes, lost replies, clocks that differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from ghcoord.coord.context import TASK_TABLE
from ghcoord.coord.layout import FLEET
from ghcoord.coord.queue import firing, uniqueness
from ghcoord.coord.tasks.submission import OPEN
from ghcoord.coord.tasks.tasks import Submission
from ghcoord.coord.workers.tick import Beat, Finished, Reply, Returned
from ghcoord.errors import GhcoordError, IllegalTransition, NotFound, WorkerReplaced
from ghcoord.hub import Hub
from ghcoord.model import schedule as model
from ghcoord.model.task import State, Task, TaskResult
from ghcoord.store.base import Store
from ghcoord.store.wrappers import WrappedStore
from ghcoord.testing.history import Violation
from ghcoord.testing.simulation import SimRuntime, Simulation, SimulationFailure
from tests.coord.links import check_links
from tests.simulation.test_hub_sim import events, history, opened

TTL = 6.0
MINUTES = 5
SKEW = 30.0
"""Seconds by which a clock is wrong at most, either way: two are up to a minute apart."""

ORDER: dict[str, tuple[tuple[str, ...], str]] = {
    "a": ((), "cancel"),
    "b": (("a",), "cancel"),
    "c": (("a",), "run"),
    "d": (("b", "c"), "run"),
    "e": (("a", "c"), "wait"),
    "f": (("e",), "cancel"),
}
"""Tasks that wait for each other: their ids, whom they wait for, and the policy."""


class Skewed(WrappedStore):
    """A hub whose clock, as this process sees it, is wrong."""

    def __init__(self, inner: Store, by: float) -> None:
        super().__init__(inner)
        self._by = by

    def server_time(self) -> float:
        return super().server_time() + self._by


@dataclass
class Told:
    """What the processes were told."""

    offered: list[tuple[str, str, bool]] = field(default_factory=list)
    """(key, id, created) of each acknowledged offer."""
    busy: int = 0
    """Submitters that have not come to their end."""


def insist(runtime: SimRuntime, what: Callable[[], Any]) -> Any:
    """Do it, as often as it takes."""
    while True:
        try:
            return what()
        except (IllegalTransition, NotFound):
            return None
        except GhcoordError:
            runtime.sleep(0.3)


def worker(
    name: str, over: Callable[[Hub], bool], skew: float = 0.0, fails: Callable[[SimRuntime, Task], bool] | None = None
) -> Callable[[SimRuntime, Store], None]:
    """A worker without the daemon, until ``over`` says that all is done."""

    def result(runtime: SimRuntime, task: Task) -> TaskResult:
        return TaskResult(success=fails is None or not fails(runtime, task), error="failed")

    def run(runtime: SimRuntime, store: Store) -> None:
        hub = opened(runtime, Skewed(store, skew) if skew else store, name)
        token = 0
        done: list[Task] = []
        unknown: tuple[Returned, ...] = ()
        deadline = runtime.monotonic() + 3600
        while runtime.monotonic() < deadline:
            try:
                if not token:
                    token = hub.workers.register(name, capacity=3, ttl=TTL).token
                finished = tuple(Finished(t.id, t.lease.token, result(runtime, t)) for t in done if t.lease)
                request = Beat(name, token, ("echo",), 1, renew=True, finished=finished, returned=unknown)
                reply = hub.beat(request, timeout=2.0)
                done = list(reply.leased)
                unknown = _unknown(reply)
                if reply.lost:
                    token, done, unknown = 0, [], ()
                    continue
                hub.workers.tend()
                if over(hub):
                    return
                runtime.sleep(TTL * 3 if runtime.randbits(6) == 0 else runtime.uniform(0, TTL / 3))
            except WorkerReplaced:
                token, done, unknown = 0, [], ()
            except GhcoordError:
                runtime.sleep(0.2)
        raise AssertionError(f"{name} waits for ever: {hub.tasks.counts()}")

    return run


def _unknown(reply: Reply) -> tuple[Returned, ...]:
    known = {task.id for task in reply.leased}
    return tuple(Returned(task, held, "unknown") for task, held in reply.held.items() if task not in known)


# -- schedules


def schedules(seed: int) -> Simulation:
    """Five daemons with clocks up to a minute apart over a minute's schedule, for some minutes."""
    simulation = Simulation(seed)
    end = simulation.server_time() + MINUTES * 60

    def owner(runtime: SimRuntime, store: Store) -> None:
        hub = opened(runtime, store, "owner")
        insist(runtime, lambda: hub.schedules.put("s", "* * * * *", "echo", overlap=True))

    def over(hub: Hub) -> bool:
        return simulation.server_time() > end + 2 * SKEW and not hub.tasks.counts()["leased"]

    simulation.process("owner", owner, restarts=1)
    for number in range(5):
        skew = simulation.random.uniform(-SKEW, SKEW)
        simulation.process(f"w{number}", worker(f"w{number}", over, skew), restarts=3)
    simulation.run(400_000)
    check_fires(simulation, end)
    return simulation


def check_fires(simulation: Simulation, end: float) -> None:
    """Every minute from the first to the last has exactly one fire in the history, and one task, done at most once."""
    told = [event["task"] for event in events(simulation.store, FLEET) if event["kind"] == "schedule fired"]
    times = [datetime.strptime(one.removeprefix("s."), "%Y%m%dT%H%M%SZ").timestamp() for one in told]
    if any(later - earlier != 60 for earlier, later in pairwise(times)):
        raise Violation(f"fires at {told}")
    if len(times) < MINUTES - 2:
        raise Violation(f"only {told} until {timedelta(seconds=end)}")
    tasks = check_links(simulation.store, simulation.server_time())
    if sorted(told) != sorted(tasks):
        raise Violation(f"fired {told}, there are {sorted(tasks)}")
    for task in tasks.values():
        if 1 < sum(attempt.outcome == "succeeded" for attempt in task.history):
            raise Violation(f"{task.id} succeeded more than once")


# -- unique keys, and an order


def competing(seed: int) -> Simulation:
    """Three submitters that offer the same keys, and tasks that wait for each other, fail and are retried."""
    simulation = Simulation(seed)
    told = Told(busy=3)

    def submitter(name: str) -> Callable[[SimRuntime, Store], None]:
        def run(runtime: SimRuntime, store: Store) -> None:
            hub = opened(runtime, store, name)
            for number in range(3):
                one = Submission("echo", {"n": number % 2}, unique=True)
                offered = insist(runtime, lambda one=one: hub.tasks.offer(one))
                told.offered.append((str(number % 2), offered.task.id, offered.created))
                runtime.sleep(runtime.uniform(0, 1))
            if name == "s0":
                for task_id, (after, policy) in ORDER.items():
                    one = Submission("echo", id=task_id, after=after, if_failed=policy)
                    insist(runtime, lambda one=one: hub.tasks.offer(one))
                for _ in range(20):
                    if (found := hub_state(hub, runtime)) is None:
                        continue
                    if any(found.get(name) is State.BLOCKED for name in ORDER):
                        for name_ in ("a", "c", "e"):
                            if found.get(name_) is State.DEAD:
                                insist(runtime, lambda name_=name_: hub.tasks.retry(name_))
                    runtime.sleep(2)
            told.busy -= 1

        return run

    def hub_state(hub: Hub, runtime: SimRuntime) -> dict[str, State] | None:
        try:
            return {task.id: task.state for task in hub.tasks.list()}
        except GhcoordError:
            runtime.sleep(0.2)
            return None

    def over(hub: Hub) -> bool:
        counts = hub.tasks.counts()
        return told.busy <= 0 and not any(counts[state] for state in ("queued", "leased", "failed"))

    def fails(runtime: SimRuntime, task: Task) -> bool:
        return task.id in ORDER and runtime.randbits(2) == 0

    for number in range(3):
        simulation.process(f"s{number}", submitter(f"s{number}"), restarts=0 if number == 0 else 1)
    for number in range(2):
        simulation.process(f"w{number}", worker(f"w{number}", over, fails=fails), restarts=2)
    simulation.run(400_000)
    check_history(simulation, told)
    return simulation


def check_history(simulation: Simulation, told: Told) -> None:
    """In every state of the hub: one open task of a key at most, and nobody runs before those it waits for."""
    store = simulation.store
    submitted: set[str] = set()
    for snapshot in history(store, FLEET):
        tasks = {task.id: task for task in TASK_TABLE.scan(snapshot)}
        submitted |= tasks.keys()
        open_ones = [task.unique.digest for task in tasks.values() if task.unique and task.state in OPEN]
        if len(open_ones) != len(set(open_ones)):
            raise Violation(f"two open tasks of one key: {sorted(t.id for t in tasks.values() if t.state in OPEN)}")
        for task in tasks.values():
            _check_order(task, tasks)
    for key, task_id, _ in told.offered:
        if task_id not in submitted:
            raise Violation(f"{task_id} of key {key} was acknowledged and never there")
    made = [task_id for _, task_id, created in told.offered if created]
    if len(made) != len(set(made)):
        raise Violation(f"two submitters were told to have made the same task: {made}")
    check_links(store, simulation.server_time())


def _check_order(task: Task, tasks: dict[str, Task]) -> None:
    if task.dependencies is None or task.attempt == 0:
        return
    for awaited in task.dependencies.after:
        other = tasks[awaited]
        if other.attempt == 0 and other.state is not State.CANCELLED:
            raise Violation(f"{task.id} ran before {awaited}, which is {other.state}")


# -- runs


def run(what: Callable[[int], Simulation], seeds: range) -> int:
    """Run ``what`` with each seed; the number of crashes."""
    crashes = 0
    for seed in seeds:
        try:
            crashes += what(seed).crashes
        except (Violation, SimulationFailure, AssertionError) as found:
            raise Violation(f"seed {seed}: {found}") from found
    return crashes


@pytest.mark.parametrize("seeds", [1, pytest.param(12, marks=pytest.mark.slow)])
def test_each_due_time_fires_once(seeds: int) -> None:
    """With five daemons, clocks up to a minute apart, and daemons killed at any point."""
    assert run(schedules, range(seeds)) >= seeds / 2


@pytest.mark.parametrize("seeds", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_keys_and_orders_hold(seeds: int) -> None:
    """With competing submitters, failures, retries and crashes."""
    assert run(competing, range(seeds)) > 0


def first_found(what: Callable[[int], Simulation], seeds: int = 40) -> str:
    for seed in range(seeds):
        try:
            what(seed)
        except (Violation, SimulationFailure, AssertionError) as found:
            return str(found)
    pytest.fail(f"not found in {seeds} seeds")


@pytest.mark.slow
def test_a_fire_that_does_not_advance_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the next due time is that of the fire itself, and nobody looks whether the task is there."""
    real = model.plan
    fired: list[float] = []

    def forgetful(schedule: Any, now: float, page: int) -> Any:
        plan = real(schedule, now, page)
        if plan.fire and len(fired) < 3:
            fired.append(now)
            return plan._replace(next_fire=plan.fire[-1])
        return plan

    monkeypatch.setattr(firing.model, "plan", forgetful)
    monkeypatch.setattr(firing, "lookup", SimpleNamespace(is_there=lambda tx, task_id: False))
    assert "fires at" in first_found(schedules)


@pytest.mark.slow
def test_a_key_that_is_not_looked_up_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a submission that does not see the others' keys."""
    monkeypatch.setattr(uniqueness, "find", lambda *args, **more: None)
    assert "two open tasks of one key" in first_found(competing)
