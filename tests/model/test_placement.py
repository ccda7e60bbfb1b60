"""Placement as pure functions: never an ineligible worker, and each strategy keeps what it promises."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghcoord.model import placement, steps
from ghcoord.model.codec import stamp
from ghcoord.model.placement import STRATEGIES, Move, Seat, choose, distribution, eligible, next_task, plan_moves
from ghcoord.model.requirements import Requirements
from ghcoord.model.task import Assignment, Attempt, State, Task
from ghcoord.model.worker import Capabilities, Capacity, Health, Worker

NOW = 1_700_000_000.0
AT = stamp(NOW)


def seat(name: str = "w1", slots: int = 4, active: int = 0, assigned: int = 0, **more: Any) -> Seat:
    """A worker that serves ``echo`` and ``build``."""
    can = {"cpu_cores": 4, "memory_mb": 1024, "supported_task_types": ("build", "echo"), **more.pop("can", {})}
    health = more.pop("health", None)
    return Seat(
        Worker(
            id=name,
            token=1,
            registered_at=AT,
            last_heartbeat=AT,
            renewal=1,
            ttl=15.0,
            capacity=Capacity(max_tasks=slots, active_tasks=active),
            capabilities=Capabilities(**can),
            health=Health(health_status=health) if health is not None else None,
            **more,
        ),
        assigned,
    )


def task(name: str = "t1", tool: str = "echo", **more: Any) -> Task:
    return Task(id=name, tool=tool, created_at=AT, **more)


def chosen(strategy: str, wanted: Task, *seats: Seat, last: str = "") -> str | None:
    worker = choose(strategy, wanted, seats, now=NOW, last=last)
    return worker.id if worker is not None else None


# -- who may


@pytest.mark.parametrize(
    ("other", "wanted", "fits"),
    [
        (seat(), task(), True),
        (seat(status="busy"), task(), False),
        (seat(status="draining"), task(), False),
        (seat(status="offline"), task(), False),
        (seat(drain_requested=True), task(), False),
        (seat(health="degraded"), task(), True),
        (seat(health="unhealthy"), task(), False),
        (seat(active=4), task(), False),
        (seat(active=3, assigned=1), task(), False),
        (seat(slots=0), task(), False),
        (seat(), task(tool="shell"), False),
        (seat(), task(type="build"), True),
        (seat(), task(type="deploy"), False),
        (seat(), task(requirements=Requirements(min_cpu_cores=5)), False),
        (seat(), task(requirements=Requirements(min_memory_mb=1025)), False),
        (seat(), task(requirements=Requirements(required_capabilities=("gpu",))), False),
        (
            seat(can={"labels": {"gpu": "true"}}),
            task(requirements=Requirements(required_capabilities=("gpu", "gpu=true"))),
            True,
        ),
        (seat(), task(assigned=Assignment(worker="w1", at=AT, pinned=True)), True),
        (seat(), task(assigned=Assignment(worker="w2", at=AT)), False),
        (seat(), task(assigned=Assignment(worker="w2", at=AT, until=stamp(NOW + 1))), False),
        (seat(), task(assigned=Assignment(worker="w2", at=AT, until=AT)), True),
    ],
)
def test_who_may_be_given_a_task(other: Seat, wanted: Task, fits: bool) -> None:
    """Status, health, slots, tool, type, size, capabilities, and whom the task is meant for."""
    assert fits is eligible(other, wanted, NOW)
    assert {"w1" if fits else None} == {chosen(strategy, wanted, other) for strategy in STRATEGIES}


SEATS = st.lists(
    st.builds(
        lambda name, slots, active, assigned, status, health, ran, labels: seat(
            f"w{name}",
            slots,
            active,
            assigned,
            status=status,
            health=health,
            recent_types=ran,
            can={"labels": labels},
        ),
        st.integers(0, 9),
        st.integers(0, 5),
        st.integers(0, 6),
        st.integers(0, 3),
        st.sampled_from(["active", "active", "active", "busy", "draining", "offline"]),
        st.sampled_from([None, "healthy", "degraded", "unhealthy"]),
        st.dictionaries(st.sampled_from(["echo", "build"]), st.integers(1, 50), max_size=2),
        st.dictionaries(st.just("gpu"), st.just("true"), max_size=1),
    ),
    max_size=8,
    unique_by=lambda one: one.worker.id,
)
TASKS = st.builds(
    lambda number, kind, cores, needed, meant: task(
        f"t{number}",
        type=kind,
        requirements=Requirements(min_cpu_cores=cores, required_capabilities=needed),
        assigned=None if meant is None else Assignment(worker=f"w{meant}", at=AT),
    ),
    st.integers(0, 10_000),
    st.sampled_from(["", "build", "deploy"]),
    st.sampled_from([0, 4, 5]),
    st.sampled_from([(), ("gpu",)]),
    st.none() | st.none() | st.integers(0, 9),
)


@settings(max_examples=60)
@given(st.sampled_from(STRATEGIES), TASKS, SEATS, st.sampled_from(["", "w3", "w9"]), st.randoms())
def test_only_the_eligible_are_chosen_whatever_the_order(
    strategy: str, wanted: Task, seats: list[Seat], last: str, chance: Any
) -> None:
    """One is chosen exactly when there is one, it is eligible, and the order of the workers does not matter."""
    able = {one.worker.id for one in seats if eligible(one, wanted, NOW)}
    first = choose(strategy, wanted, seats, now=NOW, last=last)
    assert (first is not None) is bool(able)
    assert first is None or first.id in able
    chance.shuffle(seats)
    assert first == choose(strategy, wanted, seats, now=NOW, last=last)


# -- the strategies


def test_round_robin_goes_round() -> None:
    """From the one chosen last to the next by id, from the last to the first, past those who may not; fair in all."""
    seats = [seat(name) for name in ("a", "b", "c", "d")]
    assert ["a", "b", "d", "a", "a"] == [
        chosen("round_robin", task(), *seats, last=at) for at in ("", "a", "c", "d", "z")
    ]
    assert "d" == chosen("round_robin", task(), seats[0], seats[1], seat("c", active=4), seats[3], last="b")
    last, counted = "", Counter[str]()
    for _ in range(40):
        last = chosen("round_robin", task(), *seats, last=last) or ""
        counted[last] += 1
    assert dict.fromkeys("abcd", 10) == counted


@settings(max_examples=60)
@given(SEATS)
def test_least_loaded_is_minimal(seats: list[Seat]) -> None:
    """No eligible worker uses a smaller share of its slots."""
    able = [one for one in seats if eligible(one, task(), NOW)]
    name = chosen("least_loaded", task(), *seats)
    if name is not None:
        (one,) = [one for one in able if one.worker.id == name]
        assert min((other.share(), other.load, other.worker.id) for other in able) == (one.share(), one.load, name)


def test_capacity_based_is_proportional() -> None:
    """Over many tasks each worker gets as many as its share of the free slots; a worker more moves only its own."""
    seats = [seat("a", slots=1), seat("b", slots=3), seat("c", slots=8, active=2)]
    names = [chosen("capacity_based", task(f"t{n}"), *seats) for n in range(2000)]
    counted = Counter(names)
    for name, share in (("a", 0.1), ("b", 0.3), ("c", 0.6)):
        assert pytest.approx(share, abs=0.03) == counted[name] / 2000
    with_more = [chosen("capacity_based", task(f"t{n}"), *seats, seat("d", slots=10)) for n in range(300)]
    assert all(new in (old, "d") for old, new in zip(names, with_more, strict=False))


def test_affinity_prefers_who_ran_it() -> None:
    """Most tasks of the type; without any history the least loaded; a full one is passed over."""
    a, b = seat("a", active=3, recent_types={"build": 5, "echo": 1}), seat("b", active=1, recent_types={"echo": 2})
    assert "a" == chosen("affinity", task(type="build"), a, b)
    assert "b" == chosen("affinity", task(), a, b)
    assert "b" == chosen("affinity", task(type="build"), seat("a", active=4, recent_types={"build": 5}), b)
    assert "y" == chosen("affinity", task(), seat("x", active=2), seat("y", active=1))


def attempt(worker: str, outcome: str) -> Attempt:
    return Attempt(attempt=1, worker=worker, token=1, started_at=AT, ended_at=AT, outcome=outcome)


def test_adaptive_goes_by_affinity_while_there_is_room() -> None:
    """Under half of the slots in use: who ran it; not where this very task failed, nor a degraded one."""
    ran, other = seat("a", active=1, recent_types={"echo": 9}), seat("b")
    assert "a" == chosen("adaptive", task(), ran, other)
    assert "b" == chosen("adaptive", task(history=(attempt("a", "failed"),)), ran, other)
    assert "b" == chosen("adaptive", task(history=(attempt("a", "lost"),)), ran, other)
    assert "a" == chosen("adaptive", task(history=(attempt("a", "given back"),)), ran, other)
    assert "b" == chosen("adaptive", task(), ran._replace(worker=seat("a", health="degraded").worker), other)


def test_adaptive_spreads_once_it_gets_tight() -> None:
    """From half of the slots on: the smallest share after it, health and failed attempts weighed in."""
    tight = seat("a", active=3, recent_types={"echo": 9}), seat("b", active=2), seat("c", slots=16, active=9)
    assert "c" == chosen("adaptive", task(), *tight), "10/16 is less than 3/4 and 4/4"
    sick = seat("c", slots=16, active=9, health="degraded")
    assert "b" == chosen("adaptive", task(), tight[0], tight[1], sick)
    failed_there = task(history=(attempt("c", "failed"),))
    assert "b" == chosen("adaptive", failed_there, *tight)
    assert "c" == chosen("adaptive", task(history=(attempt("x", "failed"),)), *tight)


# -- a task for a worker


def test_the_next_task_is_the_best_that_suits() -> None:
    """Highest priority first, then the order of the queue; what does not suit is passed over."""
    tasks = [
        task("t0", sequence=0, type="deploy", priority=9),
        task("t1", sequence=1, assigned=Assignment(worker="w2", at=AT), priority=8),
        task("t2", sequence=2),
        task("t4", sequence=4, priority=5),
        task("t3", sequence=3, priority=5),
    ]
    found = next_task("least_loaded", seat(), tasks, now=NOW)
    assert found is not None
    assert "t3" == found.id
    for other in (seat(active=4), seat(status="draining"), seat(status="offline"), seat(health="unhealthy")):
        assert None is next_task("least_loaded", other, tasks, now=NOW)
    ended = task("t5", state=State.CANCELLED)
    assert None is next_task("least_loaded", seat(), [ended], now=NOW)
    assert None is next_task("least_loaded", seat(), [], now=NOW)


def test_types_that_it_ran_come_first_among_equals() -> None:
    """With affinity and adaptive only, and never before a higher priority."""
    tasks = [task("t1", sequence=1), task("t2", sequence=2, type="build"), task("t3", sequence=3, type="build")]
    ran = seat(recent_types={"build": 3})
    found = {name: getattr(next_task(name, ran, tasks, now=NOW), "id", None) for name in STRATEGIES}
    assert {
        "affinity": "t2",
        "adaptive": "t2",
        "round_robin": "t1",
        "least_loaded": "t1",
        "capacity_based": "t1",
    } == found
    urgent = [*tasks, task("t4", sequence=4, priority=1)]
    assert "t4" == getattr(next_task("affinity", ran, urgent, now=NOW), "id", None)


# -- the load


def test_the_distribution_counts_slots() -> None:
    """What is held and what waits, up to the slots; only workers that take tasks; imbalanced beyond 30 points."""
    seats = [
        seat("b", slots=10, active=2, assigned=1),
        seat("a", slots=2, active=1),
        seat("gone", status="offline"),
        seat("drains", drain_requested=True),
        seat("none", slots=0),
    ]
    found = distribution(seats)
    assert (12, 4, 33.3, 20.0, False) == (
        found.total_capacity,
        found.utilized_capacity,
        found.utilization_percent,
        found.spread,
        found.imbalanced,
    )
    assert [("a", 1, 0, 2, 50.0), ("b", 2, 1, 10, 30.0), ("none", 0, 0, 0, 0.0)] == list(found.worker_loads)
    over = distribution([seat("a", slots=2, active=5, assigned=9), seat("b", slots=2)])
    assert (4, 2, 50.0, 100.0, True) == (
        over.total_capacity,
        over.utilized_capacity,
        over.utilization_percent,
        over.spread,
        over.imbalanced,
    )
    assert not distribution([seat("a", slots=10, active=3), seat("b", slots=10)]).imbalanced, "30 is not beyond 30"
    assert (0, 0.0, False) == (distribution([]).total_capacity, distribution([]).spread, distribution([]).imbalanced)


# -- evening out


def meant(name: str, worker: str, sequence: int = 0, **more: Any) -> Task:
    pinned = more.pop("pinned", False)
    return task(name, sequence=sequence, assigned=Assignment(worker=worker, at=AT, pinned=pinned), **more)


def moves(seats: list[Seat], *movable: Task) -> list[Move]:
    return plan_moves(seats, movable, now=NOW)[0]


def test_only_what_is_too_much_moves_the_last_first() -> None:
    """A worker keeps as many as it has slots; what it would run last goes to the least loaded one with room."""
    waiting = [meant(f"t{n}", "w1", n, priority=9 if n == 3 else 0) for n in range(4)]
    seats = [seat("w1", slots=2, assigned=4), seat("w2", slots=2), seat("w3", slots=4)]
    assert [("t2", "w1", "w2"), ("t1", "w1", "w3")] == moves(seats, *waiting)
    assert [] == moves([seat("w1", slots=4, assigned=4), seat("w2")], *waiting)
    assert [] == moves([seat("w1", slots=2, assigned=4), seat("w2", active=4)], *waiting), "nobody has room"
    assert [("t2", "w1", "w2")] == moves([seat("w1", slots=2, assigned=4), seat("w2", slots=1)], *waiting)


def test_who_takes_none_gives_all_away_the_best_first() -> None:
    """From a draining, unhealthy or vanished worker; to anybody where no worker has room."""
    waiting = [meant(f"t{n}", "w1", n) for n in range(2)]
    for own in ([seat("w1", drain_requested=True, assigned=2)], [seat("w1", health="unhealthy", assigned=2)], []):
        assert [("t0", "w1", "w2"), ("t1", "w1", None)] == moves([*own, seat("w2", slots=1)], *waiting)


def test_pins_needs_and_running_tasks_are_respected() -> None:
    """Pinned tasks stay, tasks go only where they can run, and what runs or is meant for nobody is left alone."""
    seats = [seat("w1", drain_requested=True, assigned=4), seat("w2")]
    held = steps.lease(task("t9"), "w1", now=NOW, revision=5)
    big = meant("t2", "w1", requirements=Requirements(min_cpu_cores=64))
    assert [("t2", "w1", None), ("t3", "w1", "w2")] == moves(
        seats, meant("t1", "w1", pinned=True), big, meant("t3", "w1"), held, task("t8")
    )


@settings(max_examples=60)
@given(SEATS, st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 2)), max_size=15))
def test_moving_never_makes_it_worse(seats: list[Seat], wanted: list[tuple[int, bool, int]]) -> None:
    """No task moves twice or to where it may not, nobody gets more than its slots by it, utilisation never falls."""
    waiting = [meant(f"t{n}", f"w{w}", n, pinned=p, priority=q) for n, (w, p, q) in enumerate(wanted)]
    counted = Counter(one.assigned.worker for one in waiting if one.assigned is not None)
    seats = [one._replace(assigned=counted[one.worker.id]) for one in seats]
    before, by_id = distribution(seats), {one.id: one for one in waiting}
    planned, after = plan_moves(seats, waiting, now=NOW)
    assert len(planned) == len({move.task_id for move in planned})
    arrived = Counter(move.to_worker for move in planned)
    left = {one.worker.id: one for one in after}
    for move in planned:
        own = by_id[move.task_id].assigned
        assert own is not None
        assert (move.from_worker, False) == (own.worker, own.pinned)
        assert move.to_worker != move.from_worker
    for name in arrived:
        if name is not None:
            assert left[name].load <= left[name].capacity
            assert placement.takes_tasks(left[name].worker)
    assert distribution(after).utilization_percent >= before.utilization_percent
    assert sum(one.assigned for one in after) <= sum(one.assigned for one in seats) + len(planned)
