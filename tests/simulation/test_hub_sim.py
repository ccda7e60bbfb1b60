"""Whole hubs under simulated histories: processes that crash, restart and get no answers share locks and a queue."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ghcoord.bootstrap import open_hub
from ghcoord.config import Settings
from ghcoord.coord import layout
from ghcoord.coord.context import TASK_TABLE
from ghcoord.coord.layout import FLEET, LOCKS
from ghcoord.coord.queue.counts import parse
from ghcoord.coord.workers.tick import Beat, Finished, Reply
from ghcoord.errors import FenceRefused, GhcoordError, LeaseLost, LockError, NotFound, OutcomeUnknown, WorkerReplaced
from ghcoord.hub import Hub
from ghcoord.model import memory as memory_model
from ghcoord.model.task import State, Task, TaskResult
from ghcoord.store.base import Store
from ghcoord.store.heads import walk
from ghcoord.store.inmemory import MemoryStore
from ghcoord.store.message import read_events
from ghcoord.store.snapshot import Snapshot
from ghcoord.testing.history import Violation, check_increasing
from ghcoord.testing.simulation import FaultRates, SimRuntime, Simulation, SimulationFailure
from tests.coord.world import check_queue

SEEDS = 100
LOCK_TTL = 3.0
WORKER_TTL = 3.0
SPACE = "memory/global"
NOWHERE = Path("/nonexistent")
ALONE = {"key": "alone", "concurrency": 1}
SLOW = {"key": "slow", "rate": (1, 1.5)}
SUBMITTED: dict[str, dict[str, Any]] = {
    "t0": {"priority": 1},
    "t1": ALONE,
    "t2": {**ALONE, "priority": 2},
    "t3": {"after": ("t0",), "if_failed": "run"},
    "t4": {"not_before": 1.0, **SLOW},
    "t5": {"unique_key": "only", "unique_for": 1000.0},
    "t6": SLOW,
}
RIVAL = {"twin": SUBMITTED["t5"]}
"""Submitted by another process: of ``t5`` and ``twin`` one becomes a task."""
TASKS = len(SUBMITTED)


@dataclass
class Told:
    """What the processes were told, beyond any doubt."""

    tokens: list[int] = field(default_factory=list)
    writes: list[tuple[int, int]] = field(default_factory=list)
    """(revision, token) of acknowledged fenced writes."""
    succeeded: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    """By task: the leases whose good result was accepted."""


def opened(runtime: SimRuntime, store: Store, actor: str) -> Hub:
    """The hub, as often as it takes until the store answers."""
    while True:
        try:
            return open_hub(store, runtime, Settings(), actor=actor, state=NOWHERE, make=True)
        except GhcoordError:
            runtime.sleep(0.2)


def writer(name: str, told: Told) -> Callable[[SimRuntime, Store], None]:
    """Takes the lock, by hand or held and renewed, writes under it, lets it go; sometimes it dawdles too long."""

    def run(runtime: SimRuntime, store: Store) -> None:
        hub = opened(runtime, store, name)

        def write(token: int) -> None:
            told.tokens.append(token)
            for _ in range(2):
                if runtime.randbits(3) == 0:
                    runtime.sleep(LOCK_TTL * 1.5)
                entry = hub.memory.set("k", {"token": token}, fence=("x", token))
                told.writes.append((entry.revision, token))

        for _ in range(3):
            try:
                if runtime.randbits(1):
                    with hub.locks.hold("x", ttl=LOCK_TTL, wait=20) as held:
                        write(held.token)
                else:
                    lock = hub.locks.acquire("x", ttl=LOCK_TTL, wait=20)
                    if lock is not None:
                        write(lock.token)
                        hub.locks.release("x", name, lock.token)
            except (LockError, NotFound, OutcomeUnknown):
                runtime.sleep(runtime.uniform(0, 0.5))
            except GhcoordError:
                runtime.sleep(1)

    return run


def worker(name: str, told: Told) -> Callable[[SimRuntime, Store], None]:
    """A worker without the daemon: leases, dawdles, reports, and tends the others, until every task has ended."""

    def run(runtime: SimRuntime, store: Store) -> None:
        hub = opened(runtime, store, name)
        token = 0
        unreported: list[Task] = []
        deadline = runtime.monotonic() + 300
        while runtime.monotonic() < deadline:
            try:
                if not token:
                    token = hub.workers.register(name, capacity=2, ttl=WORKER_TTL).token
                finished = tuple(
                    Finished(task.id, task.lease.token, TaskResult(success=True)) for task in unreported if task.lease
                )
                request = Beat(
                    name, token, tools=("echo",), want=1 + (runtime.randbits(1)), renew=True, finished=finished
                )
                reply = hub.beat(request, timeout=2.0)
                note(told, unreported, reply)
                unreported = list(reply.leased)
                give_unknown_back(hub, name, token, reply)
                if reply.lost:
                    token = 0
                    continue
                hub.workers.tend()
                if ended(hub):
                    return
                runtime.sleep(WORKER_TTL * 3 if runtime.randbits(3) == 0 else runtime.uniform(0, WORKER_TTL / 3))
            except WorkerReplaced:
                token = 0
            except GhcoordError:
                runtime.sleep(0.2)
        raise AssertionError(f"{name} waits for ever: {hub.tasks.counts()}")

    return run


def note(told: Told, reported: list[Task], reply: Reply) -> None:
    for task in reported:
        if task.id not in reply.refused and task.lease is not None:
            told.succeeded.setdefault(task.id, set()).add((task.lease.worker, task.lease.token))


def give_unknown_back(hub: Hub, name: str, token: int, reply: Reply) -> None:
    """What the hub says one holds without knowing it: the reply that leased it was lost."""
    from ghcoord.coord.workers.tick import Returned

    known = {task.id for task in reply.leased}
    unknown = tuple(Returned(task, held, "unknown") for task, held in reply.held.items() if task not in known)
    if unknown:
        hub.beat(Beat(name, token, returned=unknown), timeout=2.0)


def ended(hub: Hub) -> bool:
    counts = hub.tasks.counts()
    return sum(counts.values()) >= TASKS and counts["succeeded"] == sum(counts.values())


def submitter(name: str, what: dict[str, dict[str, Any]]) -> Callable[[SimRuntime, Store], None]:
    """Queues tasks, one after another, each as often as it takes."""

    def run(runtime: SimRuntime, store: Store) -> None:
        hub = opened(runtime, store, name)
        for task_id, options in what.items():
            while True:
                try:
                    hub.tasks.submit("echo", id=task_id, **options)
                    break
                except GhcoordError:
                    runtime.sleep(0.3)

    return run


def mover(runtime: SimRuntime, store: Store) -> None:
    """Means tasks for one worker or the other, or for all again, also for one that is about to die."""
    hub = opened(runtime, store, "mover")
    for _ in range(6):
        runtime.sleep(runtime.uniform(0, 0.6))
        task_id = sorted(SUBMITTED)[runtime.randbits(8) % TASKS]
        try:
            if runtime.randbits(2):
                hub.tasks.assign(task_id, f"w{1 + runtime.randbits(1)}")
            else:
                hub.tasks.unassign(task_id)
        except GhcoordError:
            continue


# -- the checks


def history(store: Store, space: str) -> list[Snapshot]:
    """The states of a space, oldest first."""
    head = store.heads().get(space)
    commits = [info.oid for info, _ in walk(store, head)] if head is not None else []
    return [Snapshot(store, space, oid) for oid in reversed(commits)]


def events(store: Store, space: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for snapshot in history(store, space)
        for line in read_events(store.commit_info(snapshot.head or "").message)
    ]


def check_locks(store: Store, told: Told) -> int:
    """Grants alternate with endings, tokens grow, and every write in order of commits carries the token of its time."""
    holder: int | None = None
    granted: list[int] = []
    for event in events(store, LOCKS):
        if event["kind"] == "lock acquired":
            if holder is not None:
                raise Violation(f"token {event['token']} was granted while {holder} was held")
            holder = event["token"]
            granted.append(holder)
        elif event["kind"].startswith("lock "):
            if holder != event["token"]:
                raise Violation(f"{event['kind']} of token {event['token']} while {holder} was held")
            holder = None
    check_increasing(granted, "fencing tokens")
    if not set(told.tokens) <= set(granted):
        raise Violation(f"tokens {set(told.tokens) - set(granted)} were told and never granted")
    written: list[tuple[int, int]] = []
    for snapshot in history(store, SPACE):
        for path, _ in snapshot.walk(layout.KEYS):
            record = json.loads(snapshot.read(path) or b"")
            write = (record["revision"], record["value"]["token"])
            if not written or written[-1] != write:
                written.append(write)
    tokens = [token for _, token in written]
    if tokens != sorted(tokens):
        raise Violation(f"a write under an older token came after a newer one: {tokens}")
    for revision, token in written:
        # The revision of a write orders it among the grants: both spaces were in its transaction.
        present = max((one for one in granted if one < revision), default=0)
        if present != token:
            raise Violation(f"the write {revision} carries {token}, the grant of its time was {present}")
    if not set(told.writes) <= set(written):
        raise Violation(f"acknowledged writes are missing: {set(told.writes) - set(written)}")
    return len(written)


def check_tasks(store: Store, told: Told) -> None:
    """Every task succeeded exactly once, by a lease it was given, and index and counts are those of the records."""
    snapshot = history(store, FLEET)[-1]
    tasks = {task.id: task for task in TASK_TABLE.scan(snapshot)}
    if sorted(tasks) not in (sorted(SUBMITTED), sorted({*SUBMITTED, *RIVAL} - {"t5"})):
        raise Violation(f"tasks {sorted(tasks)}")
    for task in tasks.values():
        wins = [(a.worker, a.token) for a in task.history if a.outcome == "succeeded"]
        if task.state is not State.SUCCEEDED or len(wins) != 1:
            raise Violation(f"task {task.id} is {task.state} with {len(wins)} successes")
        if told.succeeded.get(task.id, set()) - set(wins):
            raise Violation(f"task {task.id}: {told.succeeded[task.id]} were accepted, {wins} counted")
        attempts = [attempt.attempt for attempt in task.history]
        if attempts != list(range(1, task.attempt + 1)):
            raise Violation(f"task {task.id} has attempts {attempts} of {task.attempt}")
    done = [event["task"] for event in events(store, FLEET) if event["kind"] == "task succeeded"]
    if sorted(done) != sorted(tasks):
        raise Violation(f"successes in the history: {sorted(done)}")
    try:
        check_queue(snapshot, tasks)
    except AssertionError as wrong:
        raise Violation(f"what follows from the records is not there: {wrong}") from wrong
    counts = parse(snapshot.read(layout.QUEUE_RECORD)).states
    if {state: n for state, n in counts.items() if n} != {State.SUCCEEDED: TASKS}:
        raise Violation(f"counts {counts}")


def check_limits(store: Store) -> None:
    """At no commit are there more of a key than may be; starts keep their distance, their order and their time."""
    for snapshot in history(store, FLEET):
        tasks = list(TASK_TABLE.scan(snapshot))
        running = Counter(task.limit.key for task in tasks if task.limit is not None and task.state is State.LEASED)
        if running["alone"] > 1:
            raise Violation(f"{running['alone']} tasks of 'alone' run at {snapshot.head}")
        if sum(task.unique is not None for task in tasks) > 1:
            raise Violation(f"two tasks of one unique key at {snapshot.head}")
    told = events(store, FLEET)
    leased = [event for event in told if event["kind"] == "task leased"]
    starts = [event["at"] for event in leased if event.get("key") == "slow"]
    if any(round(after - before, 3) < 1.5 for before, after in pairwise(starts)):
        raise Violation(f"starts of the key 'slow' at {starts}")
    order = [(event["kind"], event["task"]) for event in told if "task" in event]
    if order.index(("task leased", "t3")) < order.index(("task succeeded", "t0")):
        raise Violation("t3 started before t0, which it waits for, had ended")
    made = next(event["at"] for event in told if event["kind"] == "task submitted" and event["task"] == "t4")
    if any(event["task"] == "t4" and round(event["at"] - made, 3) < 1.0 for event in leased):
        raise Violation("t4 started before its time")


def simulate(seed: int, *, locks: bool = True, tasks: bool = True) -> tuple[Simulation, int]:
    """One run, checked; returns it with the number of fenced writes."""
    simulation, told, writes = Simulation(seed), Told(), 0
    if locks:
        for name in ("a", "b", "c"):
            simulation.process(name, writer(name, told), restarts=1)
    if tasks:
        simulation.process("submitter", submitter("submitter", SUBMITTED), restarts=1)
        simulation.process("rival", submitter("rival", RIVAL), restarts=1)
        simulation.process("mover", mover)
        for name in ("w1", "w2"):
            simulation.process(name, worker(name, told), restarts=1)
    simulation.run()
    try:
        if locks:
            writes = check_locks(simulation.store, told)
        if tasks:
            check_tasks(simulation.store, told)
            check_limits(simulation.store)
    except Violation as violation:
        raise Violation(f"seed {seed}: {violation}\n" + "\n".join(simulation.trace[-60:])) from None
    return simulation, writes


@pytest.mark.parametrize("seeds", [24, pytest.param(SEEDS, marks=pytest.mark.slow)])
def test_locks_and_queue_have_no_violation(seeds: int) -> None:
    """One holder at a time, writes only under the present token, every task done exactly once."""
    writes = crashes = 0
    for seed in range(seeds):
        simulation, wrote = simulate(seed, locks=seed % 2 == 0 or seed % 5 == 0, tasks=seed % 2 == 1)
        writes += wrote
        crashes += simulation.crashes
    assert writes > seeds, "most writers are to write, or nothing was tested"
    assert crashes > seeds / 10


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_far_more_seeds() -> None:
    """As above with everything at once, 500 seeds."""
    for seed in range(10_000, 10_500):
        simulate(seed)


def first_found(**what: bool) -> str:
    for seed in range(SEEDS):
        try:
            simulate(seed, **what)
        except (Violation, SimulationFailure) as found:
            return str(found)
    pytest.fail(f"not found in {SEEDS} seeds")


def test_an_unchecked_fence_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: fenced writes are let through whatever their token."""
    monkeypatch.setattr(memory_model, "check_fence", lambda lock, seen, name, token: None)
    assert "the grant of its time was" in (found := first_found(tasks=False)) or "older token" in found


@pytest.mark.slow
def test_a_late_result_let_through_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: whoever reports a result for a leased task is believed."""
    from ghcoord.model import steps as task_model

    def believe(task: Task | None, task_id: str, worker: str, token: int) -> Task:
        if task is None or task.state is not State.LEASED:
            raise LeaseLost("not leased")
        return task

    monkeypatch.setattr(task_model, "check_fence", believe)
    assert "were accepted" in first_found(locks=False)


@pytest.mark.parametrize(("limit", "what"), [("concurrency", "tasks of 'alone' run"), ("rate", "starts of the key")])
def test_a_gate_that_lets_all_pass_is_found(monkeypatch: pytest.MonkeyPatch, limit: str, what: str) -> None:
    """Planted: a gate that forgets one of its limits."""
    from ghcoord.model.gate import Gate

    real = Gate.room

    def room(gate: Gate, now: float) -> int:
        return real(gate.model_copy(update={limit: None}), now)

    monkeypatch.setattr(Gate, "room", room)
    assert what in first_found(locks=False)


def test_a_repeated_token_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a token that repeats within the history."""
    from ghcoord.model import lock as lock_model

    real = lock_model.grant

    def same_token(*args: Any, **more: Any) -> Any:
        return real(*args, **more).model_copy(update={"token": 7})

    monkeypatch.setattr(lock_model, "grant", same_token)
    assert "fencing tokens went from 7 to 7" in first_found(tasks=False)


def test_the_same_seed_gives_the_same_history() -> None:
    """Two runs of one seed end at the same commits."""
    heads = [simulate(4)[0].store.heads() for _ in range(2)]
    assert heads[0] == heads[1]


def test_fences_are_refused_in_a_plain_run() -> None:
    """Without any fault, a holder that dawdles is refused once another holds the lock."""
    simulation = Simulation(1, FaultRates.none(), make_store=MemoryStore)
    refused: list[str] = []

    def slow(runtime: SimRuntime, store: Store) -> None:
        hub = opened(runtime, store, "slow")
        lock = hub.locks.acquire("x", ttl=LOCK_TTL)
        assert lock is not None
        runtime.sleep(LOCK_TTL * 3)
        with pytest.raises(FenceRefused) as caught:
            hub.memory.set("k", {"token": lock.token}, fence=("x", lock.token))
        refused.append(str(caught.value))

    def quick(runtime: SimRuntime, store: Store) -> None:
        runtime.sleep(0.5)
        assert opened(runtime, store, "quick").locks.acquire("x", wait=30) is not None

    simulation.process("slow", slow)
    simulation.process("quick", quick)
    simulation.run()
    assert "held by 'quick'" in refused[0]
