"""Gates: what starts, by whatever clock, never breaks a limit."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ghcoord.model import gate as model
from ghcoord.model.codec import ms_of, stamp
from ghcoord.model.gate import MAX_STARTS, UNLIMITED, Gate
from ghcoord.model.task import Limit

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Other work on the machine must not fail a test."""

NOW = 1_700_000_000.0


def gate(**fields: object) -> Gate:
    return Gate.model_validate({"key": "k", **fields})


@pytest.mark.parametrize(
    ("fields", "room"),
    [
        ({}, UNLIMITED),
        ({"concurrency": 3}, 3),
        ({"concurrency": 3, "running": 2}, 1),
        ({"concurrency": 3, "running": 9}, 0),
        ({"rate": 2, "period": 10}, 2),
        ({"rate": 2, "period": 10, "starts": [stamp(NOW - 9.999)]}, 1),
        ({"rate": 2, "period": 10, "starts": [stamp(NOW - 10)]}, 2),
        ({"rate": 2, "period": 10, "starts": [stamp(NOW + 3), stamp(NOW + 9.999)]}, 0),
        ({"rate": 2, "period": 10, "starts": [stamp(NOW + 3), stamp(NOW + 10)]}, 1),
        ({"rate": 2, "period": 0.0004, "starts": [stamp(NOW)] * 2}, 0),
        ({"rate": 5, "period": 10, "concurrency": 4, "running": 3, "starts": [stamp(NOW)] * 3}, 1),
    ],
)
def test_room_is_what_both_limits_leave(fields: dict[str, object], room: int) -> None:
    """Of tasks that run and of starts within the period, of which the hub's milliseconds count."""
    assert room == gate(**fields).room(NOW)


def test_when_the_window_moves_on() -> None:
    """The next start is possible when the oldest of as many starts as may be leaves the window."""
    full = gate(rate=2, period=10, starts=[stamp(NOW), stamp(NOW + 1), stamp(NOW + 4)])
    assert (NOW + 11, NOW + 16) == (full.next_room(NOW + 5), full.ends_at())
    assert (0, 1) == (full.room(NOW + 10.999), full.room(NOW + 11))
    assert NOW + 14 == full.next_room(NOW + 11)
    assert None is full.next_room(NOW + 14)
    assert None is gate(concurrency=1, running=1).next_room(NOW)
    assert None is gate().ends_at()


@relaxed
@given(
    rate=st.integers(1, 4),
    period=st.sampled_from([0.001, 0.5, 1.0, 3.3337]),
    tries=st.lists(st.tuples(st.floats(0, 2), st.floats(-1, 1), st.integers(0, 5)), max_size=40),
)
def test_no_window_has_too_many_starts(rate: int, period: float, tries: list[tuple[float, float, int]]) -> None:
    """As the clocks of the machines that lease show it, though each is up to a second off; and soon there is room."""
    one = gate(rate=rate, period=period)
    clock, shown = NOW, list[int]()
    for passed, off, wanted in tries:
        clock += passed
        now = clock + off
        started = min(wanted, one.room(now))
        shown += [ms_of(stamp(now).timestamp())] * started
        one = model.pruned(model.moved(one, stopped=0, started=started, now=now), now)
        reopens = one.next_room(now)
        assert one.room(now) > 0 or (reopens is not None and one.room(reopens) > 0)
        assert one.room(now) > 0 or reopens is None or reopens - now <= 2 * period + 2.1
    shown.sort()
    assert all(last - first >= period * 1000 for first, last in zip(shown, shown[rate:], strict=False))
    assert len(one.starts) <= MAX_STARTS
    assert () == model.pruned(one, clock + 2 * period + 9).starts


def test_a_clock_that_went_far_ahead_holds_up_nobody() -> None:
    """Starts of an hour that has not come yet do not count now."""
    one = gate(rate=1, period=10, starts=[stamp(NOW + 3600)])
    assert 1 == one.room(NOW)
    assert 0 == one.room(NOW + 3595)


def test_a_gate_follows_its_tasks() -> None:
    """Starts and stops are counted; nothing goes below zero, whatever people made of the record."""
    one = model.limited(gate(), Limit(key="k", rate=3, period=10))
    one = model.moved(one, stopped=0, started=2, now=NOW)
    assert (2, (stamp(NOW),) * 2) == (one.running, one.starts)
    earlier = model.moved(one, stopped=1, started=1, now=NOW - 5)
    assert (2, stamp(NOW - 5)) == (earlier.running, earlier.starts[0])
    assert 0 == model.moved(one, stopped=9, started=0, now=NOW).running
    assert () == model.pruned(model.limited(one, Limit(key="k", concurrency=1)), NOW).starts
