"""A mixed workload: counters and keys by compare-and-set, fenced writes under a lock, tasks with two workers."""

from __future__ import annotations

from dataclasses import dataclass, field

from ghcoord.clock import Runtime
from ghcoord.coord.layout import FLEET
from ghcoord.coord.workers.tick import Beat, Finished
from ghcoord.errors import FenceRefused, GhcoordError, LockError, NotFound, OutcomeUnknown, WorkerReplaced
from ghcoord.hub import Hub
from ghcoord.model.task import Task, TaskResult
from ghcoord.store.tx import Tx
from ghcoord.testing.history import Call, History
from tests.acceptance.seeded import Run, Workload
from tests.simulation.test_hub_sim import give_unknown_back

LOCK_TTL = 3.0
WORKER_TTL = 10.0
DAWDLES = 12.0
"""Seconds that a holder sometimes sleeps: its lease and the clocks' margin pass."""

TASKS = ("t0", "t1", "t2")
COUNTS = "count"
CALLS = "calls"
"""A counter, and a folder with a file for each call: how often it was applied."""


@dataclass
class Told:
    """What the processes were told."""

    raw: dict[str, History] = field(default_factory=dict)
    """Increments by ``transact``, by space."""
    sets: History = field(default_factory=History)
    """Memory keys, set once each, together with a counter by compare-and-set."""
    fenced: History = field(default_factory=History)
    """Writes under the lock; values are (revision, token)."""
    tokens: list[int] = field(default_factory=list)
    refused: int = 0
    """Fenced writes of holders whose lease was taken over."""
    succeeded: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)
    """Calls whose callers gave up, looked, and did not find them."""

    @property
    def calls(self) -> list[Call]:
        """All of them."""
        return [call for each in (*self.raw.values(), self.sets, self.fenced) for call in each.calls]


def counter(told: Told, rounds: int) -> Workload:
    """Increments two counters: with the primitive itself, and in memory by compare-and-set."""

    def run(world: Run, runtime: Runtime, hub: Hub) -> None:
        for _ in range(rounds):
            increment(told, world, runtime, hub)
            compare_and_set(told, world, hub)

    return run


def increment(told: Told, world: Run, runtime: Runtime, hub: Hub) -> None:
    """Once: in the fleet's busy space, or impatiently in one of its own. Who gave up looks whether it happened."""
    transactor = hub._context.transactor
    space, timeout = (f"own-{hub.actor}", 0.2) if runtime.randbits(1) else (FLEET, 30.0)
    history = told.raw.setdefault(space, History())
    call = history.invoke(f"{space}-{hub.actor}")

    def count(tx: Tx) -> int:
        value = int(tx.read(space, COUNTS) or b"0") + 1
        tx.write(space, COUNTS, b"%d" % value)
        tx.write(space, f"{CALLS}/{call.id}", b"%d" % (int(tx.read(space, f"{CALLS}/{call.id}") or b"0") + 1))
        return value

    try:
        call.done(transactor.transact((space,), count, timeout=timeout))
    except OutcomeUnknown:
        world.gave_up()
        try:
            if transactor.view(space)[space].read(f"{CALLS}/{call.id}") is None:
                told.unseen.append(call.id)
        except GhcoordError:
            return
    except GhcoordError as error:
        call.refused(repr(error))


def compare_and_set(told: Told, world: Run, hub: Hub) -> None:
    """A counter by compare-and-set, and a key for the call that must not be there yet, in one change."""
    call = told.sets.invoke(hub.actor)
    try:
        entry = hub.memory.entry(COUNTS)
        seen, revision = (entry.value, entry.revision) if entry is not None else (0, 0)
        hub.memory.set_many({COUNTS: seen + 1, call.id: call.id}, if_revisions={COUNTS: revision, call.id: 0})
        call.done(seen + 1)
    except OutcomeUnknown:
        world.gave_up()
    except GhcoordError as error:
        call.refused(repr(error))


def owner(told: Told, rounds: int) -> Workload:
    """Takes the lock, writes under it twice, and lets it go; sometimes it sleeps until somebody else has it."""

    def run(world: Run, runtime: Runtime, hub: Hub) -> None:
        guards = ("global",) if world.guarded else ()
        for _ in range(rounds):
            try:
                lock = hub.locks.acquire("x", ttl=LOCK_TTL, wait=60, guards=guards)
                if lock is None:
                    continue
                told.tokens.append(lock.token)
                for _ in range(2):
                    if runtime.randbits(2) == 0:
                        runtime.sleep(DAWDLES * world.pace)
                    fenced_write(told, world, hub, lock.token)
                hub.locks.release("x", hub.actor, lock.token)
            except FenceRefused:
                told.refused += 1
            except (LockError, NotFound):
                runtime.sleep(runtime.uniform(0, 0.5))
            except OutcomeUnknown:
                world.gave_up()
            except GhcoordError:
                runtime.sleep(1)

    return run


def fenced_write(told: Told, world: Run, hub: Hub, token: int) -> None:
    call = told.fenced.invoke(hub.actor)
    try:
        entry = hub.memory.set("fenced", {"token": token, "call": call.id}, fence=("x", token))
        call.done((entry.revision, token))
    except OutcomeUnknown:
        world.gave_up()
        raise
    except GhcoordError as error:
        call.refused(repr(error))
        raise


def submitter(world: Run, runtime: Runtime, hub: Hub) -> None:
    """Queues the tasks, each as often as it takes; the same id twice is one task."""
    for task_id in TASKS:
        while True:
            try:
                hub.tasks.submit("echo", id=task_id)
                break
            except GhcoordError:
                runtime.sleep(0.5)


def worker(told: Told) -> Workload:
    """Leases, dawdles, reports, tends the others, until every task has ended."""

    def run(world: Run, runtime: Runtime, hub: Hub) -> None:
        token = 0
        unreported: list[Task] = []
        deadline = runtime.monotonic() + 3600
        while runtime.monotonic() < deadline:
            try:
                if not token:
                    token = hub.workers.register(hub.actor, capacity=2, ttl=WORKER_TTL).token
                finished = tuple(
                    Finished(task.id, task.lease.token, TaskResult(success=True)) for task in unreported if task.lease
                )
                want = 1 + runtime.randbits(1)
                reply = hub.beat(
                    Beat(hub.actor, token, tools=("echo",), want=want, renew=True, finished=finished), timeout=2.0
                )
                for task in unreported:
                    if task.id not in reply.refused and task.lease is not None:
                        told.succeeded.setdefault(task.id, set()).add((task.lease.worker, task.lease.token))
                unreported = list(reply.leased)
                give_unknown_back(hub, hub.actor, token, reply)
                if reply.lost:
                    token = 0
                    continue
                hub.workers.tend()
                counts = hub.tasks.counts()
                if len(TASKS) == counts["succeeded"] == sum(counts.values()):
                    return
                pause = WORKER_TTL * 2.5 if runtime.randbits(4) == 0 else runtime.uniform(0.5, WORKER_TTL / 3)
                runtime.sleep(pause * world.pace)
            except WorkerReplaced:
                token = 0
            except OutcomeUnknown:
                world.gave_up()
            except GhcoordError:
                runtime.sleep(0.5)
        raise AssertionError(f"{hub.actor} waits for ever: {hub.tasks.counts()}")

    return run
