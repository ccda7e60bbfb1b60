"""``transact`` under hundreds of simulated histories: none breaks it, and planted bugs are found."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ghcoord.errors import OutcomeUnknown, StoreError
from ghcoord.store.base import Operation, Store
from ghcoord.store.heads import walk
from ghcoord.store.inmemory import MemoryStore
from ghcoord.store.sending import Sender
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.transact import Transactor
from ghcoord.store.tx import Tx
from ghcoord.testing.broken import LostUpdateStore, PartialCommitStore
from ghcoord.testing.far import FarStore
from ghcoord.testing.history import Call, History, Outcome, Violation, check_increasing
from ghcoord.testing.simulation import FaultRates, SimRuntime, Simulation, SimulationFailure

SEEDS = 500
PROCESSES = 3
CALLS = 4


KINDS = (("fleet",), ("locks",), ("fleet", "locks"), ("fleet", "locks"))


class Calls:
    """What was asked of each space: a call over two spaces is in both histories."""

    def __init__(self) -> None:
        self.all = History()
        self.of_space = {"fleet": History(), "locks": History()}


def counting(calls: Calls, make: type[Transactor]) -> Callable[[SimRuntime, Store], None]:
    """A process of which two threads count, in one space or in both at once."""

    def run(runtime: SimRuntime, store: Store) -> None:
        transactor = make(store, runtime)

        def work() -> None:
            for _ in range(CALLS // 2):
                spaces = KINDS[runtime.randbits(2)]
                call = calls.all.invoke("call")
                parts = {space: Call(call.id, space) for space in spaces}
                for space, part in parts.items():
                    calls.of_space[space].calls.append(part)

                def count(tx: Tx, call: str = call.id) -> tuple[dict[str, int], int]:
                    values = {}
                    for space in tx.spaces:
                        values[space] = int(tx.read(space, "count") or b"0") + 1
                        tx.write(space, "count", b"%d" % values[space])
                        tx.write(space, f"calls/{call}", b"%d" % (int(tx.read(space, f"calls/{call}") or b"0") + 1))
                    return values, tx.revision

                try:
                    values, revision = transactor.transact(spaces, count)
                except OutcomeUnknown:
                    continue
                except StoreError as error:
                    for part in (call, *parts.values()):
                        part.refused(repr(error))
                else:
                    call.done(revision)
                    for space, value in values.items():
                        parts[space].done((value, revision))

        other = runtime.spawn(work, "second")
        work()
        other.join()

    return run


def check(simulation: Simulation, calls: Calls) -> None:
    """Every call applied as often as its client was told, whole, with revisions rising in the order of application."""
    store, applied = simulation.store, {}
    for space, history in calls.of_space.items():
        head = store.heads().get(space)
        snapshot = Snapshot(store, space, head)
        applied[space] = [
            name.removeprefix("calls/")
            for name, entry in snapshot.walk("calls")
            for _ in range(int(store.blob(entry.oid)))
        ]
        history.check_applied_once(applied[space])
        told = sorted(call.value for call in history.of(Outcome.DONE))
        check_increasing([revision for _, revision in told])
        for call in history.of(Outcome.DONE):
            call.value = call.value[0]
        history.check_counter(int(snapshot.read("count") or b"0"))
        if head is not None:
            stamps = [stamp.revision for _, stamp in walk(store, head) if stamp]
            check_increasing(stamps[::-1], "commits' revisions")
    both = {call.id for call in calls.of_space["fleet"].calls} & {call.id for call in calls.of_space["locks"].calls}
    torn = both & (set(applied["fleet"]) ^ set(applied["locks"]))
    if torn:
        raise Violation(f"{sorted(torn)} changed one of two spaces")


def simulate(
    seed: int,
    *,
    make: type[Transactor] = Transactor,
    make_store: Callable[[Callable[[], float]], Store] = MemoryStore,
    rates: FaultRates | None = None,
) -> tuple[Simulation, History]:
    """One run, checked; the seed is in what it raises."""
    simulation, calls = Simulation(seed, rates, make_store=make_store), Calls()
    for number in range(PROCESSES):
        simulation.process(f"p{number}", counting(calls, make), restarts=1)
    simulation.run()
    try:
        check(simulation, calls)
    except Violation as violation:
        raise Violation(f"seed {seed}: {violation}\n" + "\n".join(simulation.trace[-60:])) from None
    return simulation, calls.all


def first_found(**options: object) -> tuple[int, str]:
    """The first of the seeds that finds a violation, and which."""
    for seed in range(SEEDS):
        try:
            simulate(seed, **options)  # type: ignore[arg-type]
        except (Violation, SimulationFailure) as found:
            return seed, str(found)
    pytest.fail(f"not found in {SEEDS} seeds")


@pytest.mark.parametrize("make_store", [MemoryStore, FarStore])
@pytest.mark.parametrize("seeds", [150, pytest.param(SEEDS, marks=pytest.mark.slow)])
def test_transact_has_no_violation(seeds: int, make_store: Callable[[Callable[[], float]], Store]) -> None:
    """Seeds of crashes, lost, late and repeated requests, lost replies, old and torn answers: nothing is wrong."""
    done = doubt = crashes = 0
    for seed in range(seeds):
        simulation, history = simulate(seed, make_store=make_store)
        done += len(history.of(Outcome.DONE))
        doubt += len(history.of(Outcome.IN_DOUBT))
        crashes += simulation.crashes
    assert done > seeds * PROCESSES * CALLS * 0.7, "most calls are to succeed, or nothing was tested"
    assert doubt > 0
    assert crashes > seeds / 5


def test_without_faults_everything_succeeds() -> None:
    """When only the order is left to chance, every call is acknowledged."""
    for seed in range(40):
        _, history = simulate(seed, rates=FaultRates.none())
        assert [] == [call for call in history.calls if call.outcome is not Outcome.DONE]
        assert PROCESSES * CALLS == len(history.calls)


def test_an_answer_without_a_commit_is_of_one_moment() -> None:
    """Where heads are read apart, what commits nothing is believed only once they are confirmed."""
    for seed in range(100):
        simulation = Simulation(seed, FaultRates.none(), make_store=FarStore)
        seen: list[tuple[bytes | None, bytes | None]] = []

        def write(runtime: SimRuntime, store: Store) -> None:
            transactor = Transactor(store, runtime)
            for number in range(6):

                def both(tx: Tx, number: int = number) -> None:
                    for space in ("fleet", "locks"):
                        tx.write(space, "value", b"%d" % number)

                with suppress(StoreError):
                    transactor.transact(("fleet", "locks"), both)

        def look(runtime: SimRuntime, store: Store, seen: list[tuple[bytes | None, bytes | None]] = seen) -> None:
            transactor = Transactor(store, runtime)
            for _ in range(8):
                with suppress(StoreError):
                    seen.append(
                        transactor.transact(
                            ("fleet", "locks"), lambda tx: (tx.read("fleet", "value"), tx.read("locks", "value"))
                        )
                    )

        simulation.process("writer", write)
        simulation.process("reader", look)
        simulation.run()
        assert [] == [pair for pair in seen if pair[0] != pair[1]], f"seed {seed}"


def test_a_stale_comparison_is_found() -> None:
    """Planted: the commit is compared with what the client read instead of the present head."""
    seed, why = first_found(make_store=LostUpdateStore, rates=FaultRates.none())
    assert f"seed {seed}" in why


def test_a_partial_commit_is_found() -> None:
    """Planted: two spaces are committed one after the other."""
    first_found(make_store=PartialCommitStore, rates=FaultRates.none())


class NeverLooks(Sender):
    """Planted: the operation id is not looked for; a commit without an answer counts as lost."""

    def _landed(self, request: object, space: str, head: object) -> bool:
        return False


class DecidesAgain(Sender):
    """Planted: after a lost reply the decision is simply made again."""

    def _look(self, request: object, *, after_conflict: bool, deadline: float) -> bool | None:
        return False


class BelievesOldAnswers(Sender):
    """Planted: an outdated reading of the heads rules an operation out."""

    def _look(self, request: object, *, after_conflict: bool, deadline: float) -> bool | None:
        self._check = lambda heads, spaces: None
        return super()._look(request, after_conflict=after_conflict, deadline=deadline)  # type: ignore[arg-type]


@pytest.mark.parametrize("planted", [NeverLooks, DecidesAgain, BelievesOldAnswers])
@pytest.mark.parametrize("far", [False, True])
def test_an_operation_not_looked_for_is_found(planted: type[Sender], far: bool) -> None:
    """Planted bugs around the operation id are found within 500 seeds, with seed and trace, near and far."""
    make = type(f"With{planted.__name__}", (Transactor,), {"sender": planted})
    seed, why = first_found(make=make, make_store=FarStore if far else MemoryStore)
    assert f"seed {seed}" in why
    assert "commits to" in why, "the trace is shown"


# -- the simulation itself


def test_same_seed_same_trace() -> None:
    """The trace follows from the seed alone, and another seed gives another one."""
    one, two, other = (simulate(seed)[0].trace for seed in (7, 7, 8))
    assert one == two
    assert one != other
    assert len(one) > 50


def test_same_seed_same_trace_in_another_process() -> None:
    """Nothing depends on Python's hash seed or on memory addresses."""
    code = "from tests.simulation.test_transact_sim import simulate; print('\\n'.join(simulate(11)[0].trace))"
    root = Path(__file__).resolve().parents[2]
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert runs[0] == runs[1]


def test_virtual_time() -> None:
    """Sleeping takes virtual time and no real one, in the order of the deadlines."""
    simulation, woke = Simulation(1, FaultRates.none()), []

    def sleeper(seconds: float) -> Callable[[SimRuntime, Store], None]:
        def run(runtime: SimRuntime, store: Store) -> None:
            begin = runtime.monotonic()
            runtime.sleep(seconds)
            woke.append((seconds, runtime.monotonic() - begin))

        return run

    for seconds in (3600.0, 60.0, 86400.0):
        simulation.process(f"s{seconds:.0f}", sleeper(seconds))
    started = time.monotonic()
    simulation.run()
    assert time.monotonic() - started < 2
    assert [60.0, 3600.0, 86400.0] == [seconds for seconds, _ in woke]
    assert all(abs(seconds - took) < 1 for seconds, took in woke)


def test_events_and_threads() -> None:
    """Events wake their waiters, time out, and threads can be joined; they end with their process."""
    simulation, log = Simulation(3, FaultRates.none()), []

    def run(runtime: SimRuntime, store: Store) -> None:
        event = runtime.event()
        log.append(event.wait(5))
        waiter = runtime.spawn(lambda: log.append(("woken", event.wait())), "waiter")
        forgotten = runtime.spawn(lambda: runtime.sleep(10**9) or log.append("never"), "forgotten")
        runtime.sleep(1)
        event.set()
        waiter.join()
        log.append((waiter.is_alive(), forgotten.is_alive()))

    simulation.process("p", run)
    simulation.run()
    assert [False, ("woken", True), (False, True)] == log
    assert simulation.scheduler.time < 100


def test_a_crash_ends_every_thread_and_has_no_effect_after() -> None:
    """A crashed process stops where it stands, also in its ``finally`` blocks, and is started anew."""
    lives: list[str] = []

    def run(runtime: SimRuntime, store: Store) -> None:
        me = len(lives)
        lives.append("started")
        try:
            for _ in range(10):
                store.heads()
        finally:
            runtime.sleep(1)
            if me == 0:
                lives.append("cleaned up")

    simulation = Simulation(5, FaultRates(crash=1.0))
    simulation.process("p", run, restarts=1)
    simulation.run()
    assert (["started", "started"], 1) == (lives, simulation.crashes)


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (lambda runtime, store: runtime.event().wait(), "all wait for ever"),
        (lambda runtime, store: [runtime.sleep(1) for _ in range(10**6)], "not finished after 500 steps"),
        (lambda runtime, store: store.commit({}, {"x": {}}, Operation((), 1, 1)), "KeyError"),
    ],
    ids=["deadlock", "endless", "exception"],
)
def test_a_stuck_run_fails(run: Callable[[SimRuntime, Store], None], why: str) -> None:
    """Deadlocks, endless runs and unexpected exceptions fail with the seed and the trace."""
    simulation = Simulation(42, FaultRates.none())
    simulation.process("p", run)
    with pytest.raises(SimulationFailure, match=f"seed 42: .*{why}"):
        simulation.run(500)
