"""Queues, semaphores and shared locks under simulated histories, with crashes and lost replies."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from ghcoord.coord import layout
from ghcoord.coord.context import LOCK_TABLE
from ghcoord.coord.layout import LOCKS
from ghcoord.errors import GhcoordError, LockError, NotFound, OutcomeUnknown
from ghcoord.model import lock_queue, lock_steps
from ghcoord.model.lock import LockRecord, Mode
from ghcoord.store.base import Store
from ghcoord.store.message import read_events
from ghcoord.store.snapshot import Snapshot
from ghcoord.testing.history import Violation, check_increasing
from ghcoord.testing.simulation import SimRuntime, Simulation, SimulationFailure
from tests.simulation.test_hub_sim import SPACE, history, opened

TTL = 3.0
MARGIN = 0.5
"""Seconds by which the simulated hub's clock may differ for its users."""

ROUNDS = 3
WAIT = 300.0
"""Seconds that everybody is ready to wait: far more than all the others can take."""

SLACK = 0.002
"""Seconds by which times in records are rounded."""

KINDS: dict[str, tuple[dict[str, Any], ...]] = {
    "alone": ({},),
    "permits": ({"permits": 2},),
    "shared": ({}, {"shared": True}, {"shared": True}),
}
"""What the users of a lock ask for, by turns."""


@dataclass
class Told:
    """What the processes were told, beyond any doubt."""

    tokens: list[int] = field(default_factory=list)
    writes: list[tuple[int, int]] = field(default_factory=list)
    """(revision, token) of acknowledged fenced writes."""


def user(name: str, kind: str, told: Told, mixed: bool) -> Callable[[SimRuntime, Store], None]:
    """Waits in the queue, or with ``mixed`` sometimes beside it; writes, sometimes dawdles too long, lets go."""

    def run(runtime: SimRuntime, store: Store) -> None:
        hub = opened(runtime, store, name)
        for number in range(ROUNDS):
            how = KINDS[kind][runtime.randbits(8) % len(KINDS[kind])]
            fair = not mixed or runtime.randbits(2) > 0
            try:
                lock = hub.locks.acquire("x", ttl=TTL, wait=WAIT, fair=fair, **how)
                if lock is None:
                    raise AssertionError(f"{name} waits for ever in round {number}")
                told.tokens.append(lock.token)
                if runtime.randbits(3) == 0:
                    runtime.sleep(TTL * 2)
                entry = hub.memory.set(f"k{lock.token}", {"token": lock.token}, fence=("x", lock.token))
                told.writes.append((entry.revision, lock.token))
                hub.locks.release("x", name, lock.token)
            except (LockError, NotFound, OutcomeUnknown):
                runtime.sleep(runtime.uniform(0, 0.5))
            except GhcoordError:
                runtime.sleep(1)

    return run


# -- the checks, on nothing but the history


@dataclass
class Replay:
    """The lock as the events tell it: who holds it and who stands in the queue."""

    kind: str
    holders: dict[int, str] = field(default_factory=dict)
    queue: list[tuple[str, str]] = field(default_factory=list)
    """(waiter, mode), the first in line first; the mode is known from the record."""
    granted: list[int] = field(default_factory=list)
    passed: int = 0

    def room(self, mode: str, inside: list[str]) -> bool:
        if self.kind == "permits":
            return len(inside) < 2
        return not inside or (mode == "shared" and set(inside) == {"shared"})

    def grant(self, event: dict[str, Any]) -> None:
        mode, token = event.get("mode", "exclusive"), event["token"]
        place = next((n for n, (one, _) in enumerate(self.queue) if one == event.get("waiter")), len(self.queue))
        inside = list(self.holders.values())
        if not self.room(mode, inside):
            raise Violation(f"token {token} ({mode}) was granted beside {self.holders}")
        for one, other in self.queue[:place]:
            inside.append(other)
            if not self.room(mode, inside):
                raise Violation(f"token {token} was granted past {one}, who came before and was not silent")
        self.queue = [entry for entry in self.queue if entry[0] != event.get("waiter")]
        self.holders[token] = mode
        self.granted.append(token)

    def end(self, event: dict[str, Any], before: LockRecord | None) -> None:
        if event["token"] not in self.holders:
            raise Violation(f"{event['kind']} of token {event['token']}, held are {self.holders}")
        del self.holders[event["token"]]
        if event["kind"] == "lock expired":
            (grant,) = [one for one in before.grants if one.token == event["token"]] if before else [None]
            if grant is not None and event["at"] < grant.lease.expires_at.timestamp() + MARGIN - SLACK:
                raise Violation(f"token {grant.token} was called expired too early")

    def leave(self, event: dict[str, Any], before: LockRecord | None) -> None:
        waiters = [one for one, _ in self.queue]
        if event["waiter"] not in waiters:
            raise Violation(f"{event['kind']} of {event['waiter']}, who does not wait")
        del self.queue[waiters.index(event["waiter"])]
        if event["kind"] != "lock waiter passed over":
            return
        self.passed += 1
        (waiter,) = [one for one in before.waiters if one.id == event["waiter"]] if before else [None]
        if waiter is not None and waiter.offered_at is not None:
            offered = event["at"] - waiter.offered_at.timestamp()
            if offered < 2 * waiter.poll - SLACK:
                raise Violation(f"{waiter.id} was passed over after {offered:.2f} s")
        elif waiter is not None and not any(one.offered_at for one in before.waiters) and before.grants:
            raise Violation(f"{waiter.id} was passed over without having had an offer")


def check(simulation: Simulation, kind: str, told: Told) -> Replay:
    """Room for every grant, first come first served, tokens grow, each write under a token of its time."""
    replay, store = Replay(kind), simulation.store
    held_at: dict[str | None, frozenset[int]] = {}
    before: LockRecord | None = None
    for snapshot in history(store, LOCKS):
        message = store.commit_info(snapshot.head or "").message
        record = LOCK_TABLE.find(snapshot, "x")
        modes = {
            one.id: str(one.mode) for one in (*(before.waiters if before else ()), *(record.waiters if record else ()))
        }
        for event in map(json.loads, read_events(message)):
            if event["kind"] == "lock acquired":
                replay.grant(event)
            elif event["kind"] == "lock queued":
                replay.queue.append((event["waiter"], modes.get(event["waiter"], "exclusive")))
            elif "token" in event:
                replay.end(event, before)
            elif "waiter" in event:
                replay.leave(event, before)
        held_at[snapshot.head] = frozenset(replay.holders)
        before = record
        waiting = [one.id for one in record.waiters] if record else []
        if waiting != [one for one, _ in replay.queue]:
            raise Violation("the queue in the record is not that of the events")
    check_increasing(replay.granted, "fencing tokens")
    if not set(told.tokens) <= set(replay.granted):
        raise Violation(f"tokens {set(told.tokens) - set(replay.granted)} were told and never granted")
    check_writes(simulation, held_at, told)
    return replay


def check_writes(simulation: Simulation, held_at: dict[str | None, frozenset[int]], told: Told) -> None:
    """Every fenced write carries a token that was held when it landed; none that was acknowledged is missing."""
    written: dict[int, int] = {}
    landed = {heads.get(SPACE): heads for heads in reversed(simulation.seen)}  # each commit with what was held then
    for heads in reversed(landed.values()):
        for path, _ in Snapshot(simulation.store, SPACE, heads.get(SPACE)).walk(layout.KEYS):
            record = json.loads(Snapshot(simulation.store, SPACE, heads[SPACE]).read(path) or b"")
            revision, token = record["revision"], record["value"]["token"]
            held = held_at.get(heads.get(LOCKS), frozenset())
            if revision not in written and token not in held:
                raise Violation(f"the write {revision} carries {token}, held were {set(held)}")
            written[revision] = token
    if not set(told.writes) <= set(written.items()):
        raise Violation(f"acknowledged writes are missing: {set(told.writes) - set(written.items())}")


def simulate(seed: int, kind: str, *, mixed: bool = False) -> tuple[Simulation, Replay]:
    """One run, checked."""
    simulation, told = Simulation(seed), Told()
    for name in ("a", "b", "c", "d"):
        simulation.process(name, user(name, kind, told, mixed), restarts=1)
    simulation.run()
    try:
        return simulation, check(simulation, kind, told)
    except Violation as violation:
        raise Violation(f"seed {seed}: {violation}\n" + "\n".join(simulation.trace[-60:])) from None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seeds", [5, pytest.param(150, marks=pytest.mark.slow)])
def test_every_kind_keeps_its_promise(kind: str, seeds: int) -> None:
    """Never more inside than there is room for, first come first served past the silent only, nobody waits for ever."""
    passed = crashes = granted = 0
    for seed in range(seeds):
        simulation, replay = simulate(seed, kind, mixed=seed % 4 == 3)
        passed, crashes, granted = passed + replay.passed, crashes + simulation.crashes, granted + len(replay.granted)
    assert granted > seeds * 4 * (ROUNDS - 1), "most are to get the lock most of the time, or nothing was tested"
    if seeds > 100:
        assert passed > 0
        assert crashes > seeds / 10


def first_found(kind: str) -> str:
    for seed in range(60):
        try:
            simulate(seed, kind)
        except (Violation, SimulationFailure) as found:
            return str(found)
    pytest.fail("not found in 60 seeds")


def test_a_queue_without_order_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: whoever comes first takes it."""
    real = lock_queue.offers

    def any_time(record: LockRecord, now: float, newcomer: Mode | None = None) -> list[float]:
        return [at if at == float("inf") else now for at in real(record, now, newcomer)]

    monkeypatch.setattr(lock_steps, "offers", any_time)
    monkeypatch.setattr("ghcoord.coord.locks.waiting.offers", any_time)
    assert "who came before and was not silent" in first_found("alone")


def test_impatience_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: waiters are passed over at once."""
    monkeypatch.setattr(lock_queue, "PATIENCE", 0.1)
    assert "was passed over after" in first_found("alone")


def test_one_permit_too_many_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a semaphore lets one more in than it has permits."""

    def has(room: Any, mode: Mode) -> bool:
        return bool(room._all <= room._permits)

    monkeypatch.setattr(lock_queue._Room, "has", has)
    assert "was granted beside" in first_found("permits")


def test_readers_beside_a_writer_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: readers get in whoever holds the lock."""
    real = lock_queue._Room.has

    def has(room: Any, mode: Mode) -> bool:
        return mode is Mode.SHARED or real(room, mode)

    monkeypatch.setattr(lock_queue._Room, "has", has)
    assert "was granted" in first_found("shared")


def test_a_place_that_is_never_given_up_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the dead are waited for, so everybody behind them waits for ever."""
    monkeypatch.setattr(lock_queue, "PATIENCE", 1e9)
    assert "waits for ever" in first_found("alone")


def test_the_same_seed_gives_the_same_history() -> None:
    """Two runs of one seed end at the same commits."""
    heads = [simulate(4, "shared")[0].store.heads() for _ in range(2)]
    assert heads[0] == heads[1]
