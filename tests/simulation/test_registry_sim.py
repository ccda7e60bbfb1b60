"""The registry under simulated histories: workers that crash, restart and get no answers, and those that reap them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from ghcoord.coord.context import TASK_TABLE, WORKER_TABLE
from ghcoord.coord.layout import FLEET, LOCKS
from ghcoord.coord.observer import Observer
from ghcoord.coord.queue import leasing
from ghcoord.coord.workers.tick import Beat, Finished, Returned
from ghcoord.errors import GhcoordError, NotFound, UsageError, WorkerReplaced
from ghcoord.model.task import State, TaskResult
from ghcoord.model.worker import Worker
from ghcoord.store.base import Store
from ghcoord.store.message import read_events
from ghcoord.testing.history import Violation, check_increasing
from ghcoord.testing.simulation import SimRuntime, Simulation, SimulationFailure
from tests.simulation.test_hub_sim import history, opened

TTL = 3.0
WORKERS = ("w1", "w2", "w3")
LIFE = 40.0
"""Seconds of virtual time that each process goes on."""

SEEDS = 100

ROUNDED = 0.002
"""Seconds by which times in events and records are rounded."""


@dataclass
class Told:
    """What the processes were told, beyond any doubt."""

    tokens: list[int] = field(default_factory=list)
    renewed: list[tuple[str, int, float, float]] = field(default_factory=list)
    """(worker, token, sent, answered): renewals that were acknowledged, by the hub's clock."""
    recovered: int = 0


def worker(name: str, told: Told) -> Callable[[SimRuntime, Store], None]:
    """Registers, ticks, takes a lock, dawdles now and then beyond its lease, deregisters, begins anew."""

    def run(runtime: SimRuntime, store: Store) -> None:
        hub = opened(runtime, store, name)
        end = runtime.monotonic() + LIFE
        token = 0
        mine: dict[str, int] = {}
        while runtime.monotonic() < end:
            try:
                if not token:
                    token = hub.workers.register(name, capacity=2, ttl=TTL).token
                    told.tokens.append(token)
                    mine = {}
                if runtime.randbits(3) == 0:
                    hub.locks.acquire(f"of-{name}", name, ttl=600.0)
                done = tuple(Finished(task, held, TaskResult(success=True)) for task, held in mine.items())
                sent = store.server_time()
                reply = hub.beat(Beat(name, token, tools=("echo",), want=2, renew=True, finished=done), timeout=2.0)
                if reply.renewed:
                    told.renewed.append((name, token, sent, store.server_time()))
                if reply.lost:
                    token = 0
                    continue
                mine = {task.id: task.lease.token for task in reply.leased if task.lease is not None}
                unknown = [Returned(task, held, "unknown") for task, held in reply.held.items() if task not in mine]
                if unknown:
                    hub.beat(Beat(name, token, returned=unknown), timeout=2.0)
                if runtime.randbits(5) == 0:
                    hub.workers.deregister(name, token=token)
                    token = 0
                runtime.sleep(TTL * 3 if runtime.randbits(4) == 0 else runtime.uniform(0, TTL / 3))
            except WorkerReplaced:
                token = 0
            except GhcoordError:
                mine = {}
                runtime.sleep(0.2)

    return run


def keeper(told: Told) -> Callable[[SimRuntime, Store], None]:
    """A reaper in the background, and commands of a person beside it."""

    def run(runtime: SimRuntime, store: Store) -> None:
        hub = opened(runtime, store, "keeper")

        def count(done: Any) -> None:
            told.recovered += len(done.recovered)

        with hub.workers.reaper(1.0, stale_after=TTL * 4, log=lambda level, text: None, on_pass=count):
            end = runtime.monotonic() + LIFE
            while runtime.monotonic() < end:
                name = WORKERS[runtime.randbits(4) % len(WORKERS)]
                commands: list[Callable[[], object]] = [
                    lambda name=name: hub.workers.recover(name),  # type: ignore[misc]
                    hub.workers.mark_stale,
                    hub.workers.tend,
                    hub.workers.reap,
                    lambda name=name: hub.workers.drain(name),  # type: ignore[misc]
                    lambda name=name: hub.workers.set_status(name, "active"),  # type: ignore[misc]
                    lambda: hub.tasks.submit("echo", {}),
                ]
                try:
                    commands[runtime.randbits(6) % len(commands)]()
                except (UsageError, NotFound):
                    pass  # alive, or not there: as it should be
                except GhcoordError:
                    runtime.sleep(0.3)
                runtime.sleep(runtime.uniform(0, 1))

    return run


# -- the checks


def states(store: Store) -> list[tuple[list[dict[str, Any]], dict[str, Worker], dict[str, tuple[str, int]]]]:
    """Commit by commit: what happened, the workers, and by task who holds it under which token."""
    found = []
    for snapshot in history(store, FLEET):
        events = [json.loads(line) for line in read_events(store.commit_info(snapshot.head or "").message)]
        workers = {worker.id: worker for worker in WORKER_TABLE.scan(snapshot)}
        held = {
            task.id: (task.lease.worker, task.lease.token)
            for task in TASK_TABLE.scan(snapshot)
            if task.lease is not None and task.state is State.LEASED
        }
        found.append((events, workers, held))
    return found


def check(store: Store, told: Told) -> int:
    """Only the dead are taken from, leases belong to the newest registration, and what was told is there."""
    margin = store.capabilities.clock_margin
    tokens: list[int] = []
    renewals: set[tuple[str, int, float]] = set()
    before: dict[str, Worker] = {}
    deaths = 0
    for events, workers, held in states(store):
        for event in events:
            name, was = event.get("worker"), before.get(event.get("worker", ""))
            if event["kind"] == "worker offline" and was is not None:
                deaths += 1
                silent = event["at"] - was.last_heartbeat.timestamp()
                if silent < was.ttl + margin - ROUNDED:
                    raise Violation(f"{name} was called dead {silent:.3f} s after its heartbeat")
            if event["kind"] == "worker removed" and was is not None and was.alive:
                raise Violation(f"{name} was removed alive")
        for name, one in workers.items():
            renewals.add((name, one.token, one.last_heartbeat.timestamp()))
            if name not in before or before[name].token != one.token:
                tokens.append(one.token)
        for task, (name, token) in held.items():
            if name not in workers:
                raise Violation(f"{task} is held by {name}, who is not registered")
            if token < workers[name].token:
                raise Violation(
                    f"{task} is held under {token}, before the registration {workers[name].token} of {name}"
                )
        before = workers
    check_increasing(tokens, "registration tokens")
    if not set(told.tokens) <= set(tokens):
        raise Violation(f"registrations {set(told.tokens) - set(tokens)} were told and never made")
    for name, token, sent, answered in told.renewed:
        if not any(n == name and t == token and sent - 0.01 <= at <= answered + 0.01 for n, t, at in renewals):
            raise Violation(f"the renewal of {name} under {token} between {sent:.3f} and {answered:.3f} is not there")
    for snapshot in history(store, LOCKS):
        for line in read_events(store.commit_info(snapshot.head or "").message):
            event = json.loads(line)
            if event["kind"] == "lock recovered" and event["owner"] not in WORKERS:
                raise Violation(f"{event['lock']} was taken from {event['owner']}")
    return deaths


def simulate(seed: int) -> tuple[Simulation, int]:
    """One run, checked; returns it with the number of workers that died and were noticed."""
    simulation, told = Simulation(seed), Told()
    for name in WORKERS:
        simulation.process(name, worker(name, told), restarts=2)
    simulation.process("keeper", keeper(told), restarts=1)
    simulation.run()
    try:
        deaths = check(simulation.store, told)
    except Violation as violation:
        raise Violation(f"seed {seed}: {violation}\n" + "\n".join(simulation.trace[-40:])) from None
    return simulation, deaths


@pytest.mark.parametrize("seeds", [2, pytest.param(SEEDS, marks=pytest.mark.slow)])
def test_the_registry_has_no_violation(seeds: int) -> None:
    """Nobody alive is taken from, no lease outlives its registration, acknowledged renewals are in the history."""
    deaths = crashes = 0
    for seed in range(seeds):
        simulation, noticed = simulate(seed)
        deaths += noticed
        crashes += simulation.crashes
    assert deaths > seeds, "workers are to die, or nothing was tested"
    assert crashes > seeds / 10


def first_found() -> str:
    for seed in range(30):
        try:
            simulate(seed)
        except (Violation, SimulationFailure) as found:
            return str(found)
    pytest.fail("not found in 30 seeds")


def test_an_impatient_observer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: who stood still for a second before one's own eyes counts as dead."""

    def impatient(self: Observer) -> Any:
        here, seen = self._runtime.monotonic(), dict(self._seen)
        return lambda key, lease, now: (
            key in seen and seen[key][:2] == (lease.token, lease.renewal) and here - seen[key][2] > 1
        )

    monkeypatch.setattr(Observer, "judge", impatient)
    assert "was called dead" in first_found()


@pytest.mark.slow
def test_leases_that_outlive_their_registration_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a new registration leaves what the one before held."""
    real = leasing.lose_all
    monkeypatch.setattr(
        leasing, "lose_all", lambda tx, name, reason: 0 if "newer" in reason else real(tx, name, reason)
    )
    assert "before the registration" in first_found()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_history() -> None:
    """Two runs of one seed end at the same commits."""
    heads = [simulate(3)[0].store.heads() for _ in range(2)]
    assert heads[0] == heads[1]
