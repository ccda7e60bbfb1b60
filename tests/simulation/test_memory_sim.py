"""Memory under simulated histories: crashes and lost, late and outdated messages, and nothing acknowledged is lost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from ghcoord.coord.context import KEY_TABLE
from ghcoord.coord.memory import watch as memory_watch
from ghcoord.coord.memory import write as memory_write
from ghcoord.coord.memory.memory import CheckKey, DeleteKey, SetKey
from ghcoord.coord.memory.watch import Watch
from ghcoord.errors import GhcoordError, OutcomeUnknown, RevisionMismatch
from ghcoord.hub import Hub
from ghcoord.model import memory as model
from ghcoord.model.memory import MemoryEntry
from ghcoord.store.base import Store
from ghcoord.store.snapshot import Snapshot
from ghcoord.testing.history import Violation
from ghcoord.testing.simulation import SimRuntime, Simulation, SimulationFailure
from tests.coord.memory_checks import check_namespace
from tests.simulation.test_hub_sim import history, opened

SPACE = "memory/global"
ROUNDS = 8
NOTHING = "nothing"


@dataclass
class Told:
    """What the processes were told, and what a follower keeps on its own disk."""

    counted: dict[int, int] = field(default_factory=dict)
    """Revision → value of acknowledged increments."""
    doubtful: int = 0
    """Increments whose outcome nobody knows."""
    possible: dict[str, list[Any]] = field(default_factory=dict)
    """By key of one writer: what may be there. One value after an acknowledgement, more while in doubt."""
    writing: int = 0
    mirror: dict[str, Any] = field(default_factory=dict)
    heard: int = 0
    followed: bool = False


def writer(name: str, told: Told) -> Callable[[SimRuntime, Store], None]:
    """Counts by compare-and-set, moves a pair in one change, and sets and deletes keys of its own."""

    def run(runtime: SimRuntime, store: Store) -> None:
        hub = opened(runtime, store, name)
        for step in range(ROUNDS):
            try:
                (count, move, own_keys)[runtime.randbits(8) % 3](hub, told, runtime, f"{name}{step % 3}")
            except (OutcomeUnknown, RevisionMismatch):
                runtime.sleep(runtime.uniform(0, 0.3))
            except GhcoordError:
                runtime.sleep(0.5)
        told.writing -= 1

    return run


def count(hub: Hub, told: Told, runtime: SimRuntime, key: str) -> None:
    entry = hub.memory.entry("n")
    value, revision = (entry.value, entry.revision) if entry is not None else (0, 0)
    told.doubtful += 1  # until there is an answer
    try:
        done = hub.memory.set("n", value + 1, if_revision=revision)
    except RevisionMismatch:
        told.doubtful -= 1
        raise
    told.doubtful -= 1
    told.counted[done.revision] = value + 1


def move(hub: Hub, told: Told, runtime: SimRuntime, key: str) -> None:
    """Both sides or none, on the condition that neither has changed."""
    left, right = hub.memory.entry("left"), hub.memory.entry("right")
    values = [entry.value if entry is not None else 0 for entry in (left, right)]
    revisions = [entry.revision if entry is not None else 0 for entry in (left, right)]
    hub.memory.apply(
        [
            SetKey("left", values[0] - 1, if_revision=revisions[0]),
            SetKey("right", values[1] + 1, if_revision=revisions[1]),
            CheckKey("never", 0),
        ]
    )


def own_keys(hub: Hub, told: Told, runtime: SimRuntime, key: str) -> None:
    value = runtime.randbits(20)
    kind = runtime.randbits(8) % 4
    wanted = {0: NOTHING, 1: value, 2: value, 3: [value]}[kind]
    told.possible.setdefault(key, [NOTHING]).append(wanted)
    if kind == 0:
        hub.memory.apply([DeleteKey(key), SetKey("filler", value)])
    else:
        hub.memory.set(key, wanted, ttl=2.0 if kind == 3 else None)
    told.possible[key] = [wanted]


def sweeper(told: Told) -> Callable[[SimRuntime, Store], None]:
    """Removes what has ended, and one time ends a namespace."""

    def run(runtime: SimRuntime, store: Store) -> None:
        hub = opened(runtime, store, "sweeper")
        while told.writing > 0:
            runtime.sleep(runtime.uniform(0, 1.5))
            try:
                hub.memory.sweep("global")
                hub.memory.drop_namespace("scratch")
                hub.memory.set_many({f"s{n}": n for n in range(5)}, "scratch")
            except GhcoordError:
                continue

    return run


def follower(told: Told) -> Callable[[SimRuntime, Store], None]:
    """Keeps a mirror of everything; after a crash it goes on from the revision that it heard last."""

    def run(runtime: SimRuntime, store: Store) -> None:
        hub = opened(runtime, store, "follower")
        watch: Watch | None = None
        deadline = runtime.monotonic() + 300
        while runtime.monotonic() < deadline:
            try:
                watch = watch or Watch(hub._context, SPACE, "", prefix=True, since=told.heard)
                for change in watch.look():
                    with suppress(GhcoordError):
                        store.heads()  # where it may die between two changes
                    if change.kind == "resync":
                        told.mirror.clear()
                    elif change.kind == "set":
                        told.mirror[change.key] = change.value
                    else:
                        told.mirror.pop(change.key, None)
                    told.heard = max(told.heard, change.revision)
                entries = hub.memory.entries()
            except GhcoordError:
                continue
            if told.writing == 0 and told.mirror == {entry.key: entry.value for entry in entries}:
                told.followed = True
                return
            runtime.sleep(runtime.uniform(0.1, 1))

    return run


# -- the checks


def values_of(store: Store, key: str) -> list[MemoryEntry]:
    """What a key was in the states of the namespace, oldest first, each once."""
    found: list[MemoryEntry] = []
    for snapshot in history(store, SPACE):
        entry = KEY_TABLE.find(snapshot, key)
        if entry is not None and (not found or found[-1] != entry):
            found.append(entry)
    return found


def check(store: Store, told: Told, now: float) -> None:
    counted = values_of(store, "n")
    if [entry.value for entry in counted] != list(range(1, len(counted) + 1)):
        raise Violation(f"increments were lost or doubled: {[entry.value for entry in counted]}")
    known = {entry.revision: entry.value for entry in counted}
    missing = {revision: value for revision, value in told.counted.items() if known.get(revision) != value}
    if missing:
        raise Violation(f"acknowledged increments are missing: {missing}")
    if len(counted) > len(told.counted) + told.doubtful:
        raise Violation(f"{len(counted)} increments of {len(told.counted)} acknowledged and {told.doubtful} in doubt")
    for snapshot in history(store, SPACE):
        left, right = (KEY_TABLE.find(snapshot, key) for key in ("left", "right"))
        if (left.value if left else 0) + (right.value if right else 0) != 0:
            raise Violation("half of an atomic change was there")
    snapshot = history(store, SPACE)[-1]
    for key, possible in told.possible.items():
        entry = KEY_TABLE.find(snapshot, key)
        present = NOTHING if entry is None or entry.expired(now) else entry.value
        ended = [NOTHING for value in possible if isinstance(value, list)]
        if present not in [*possible, *ended]:
            raise Violation(f"{key} is {present}, possible were {possible}")
    for space in (SPACE, "memory/scratch"):
        states = history(store, space)
        if states:
            check_namespace(states[-1])
    if not told.followed:
        raise Violation(f"the follower has {told.mirror}, not what is set")


def simulate(seed: int) -> tuple[Simulation, Told]:
    """One run, checked."""
    simulation, told = Simulation(seed), Told(writing=3)
    for name in ("a", "b", "c"):
        simulation.process(name, writer(name, told), restarts=1)
    simulation.process("sweeper", sweeper(told), restarts=1)
    simulation.process("follower", follower(told), restarts=9)
    simulation.run()
    try:
        check(simulation.store, told, simulation.server_time())
    except (Violation, AssertionError) as violation:
        raise Violation(f"seed {seed}: {violation}\n" + "\n".join(simulation.trace[-60:])) from None
    return simulation, told


@pytest.mark.parametrize("seeds", [12, pytest.param(250, marks=pytest.mark.slow)])
def test_memory_has_no_violation(seeds: int) -> None:
    """Counts are exact, atomic changes whole, acknowledged values there, the index right, and followers up to date."""
    increments = crashes = 0
    for seed in range(seeds):
        simulation, told = simulate(seed)
        increments += len(told.counted)
        crashes += simulation.crashes
    assert increments > seeds, "most writers are to count, or nothing was tested"
    assert crashes > seeds / 4


def first_found(seeds: int = 60) -> str:
    for seed in range(seeds):
        try:
            simulate(seed)
        except (Violation, SimulationFailure) as found:
            return str(found)
    pytest.fail(f"not found in {seeds} seeds")


def test_an_unchecked_revision_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a compare-and-set that does not compare."""
    monkeypatch.setattr(model, "check_revision", lambda entry, key, expected: None)
    assert "increments were lost" in (found := first_found()) or "atomic" in found


def test_an_index_that_forgets_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: what is swept stays in the index."""
    monkeypatch.setattr(memory_write, "remove", lambda tx, space, key, old: KEY_TABLE.remove(tx, space, key))
    assert first_found()


@pytest.mark.slow
def test_a_watch_that_goes_on_too_late_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: whoever goes on from a revision is not told the other keys that have it."""
    monkeypatch.setattr(memory_watch, "_states_at", lambda snapshot, revision: _after(snapshot, revision))
    assert "the follower has" in first_found(500)


def _after(snapshot: Snapshot, revision: int) -> tuple[Snapshot | None, None]:
    from ghcoord.coord.audit.history import History

    if snapshot.head is None:
        return snapshot, None
    points = History(snapshot.store, snapshot.head).heads()
    found = next((point.info.oid for point in points if point.revision <= revision), None)
    return Snapshot(snapshot.store, SPACE, found), None


def test_the_same_seed_gives_the_same_history() -> None:
    """Two runs of one seed end at the same commits."""
    heads = [simulate(4)[0].store.heads() for _ in range(2)]
    assert heads[0] == heads[1]
