"""The pace: bounded, monotonous, and within the limits whoever follows it."""

from __future__ import annotations

import heapq
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghcoord.config import BudgetSettings
from ghcoord.store.budget.governor import Governor
from ghcoord.store.budget.limits import Limits
from ghcoord.store.budget.plan import Load, plan, planned_writes
from ghcoord.testing.clock import ManualRuntime

LEFT = st.tuples(st.integers(0, 5000), st.floats(1, 3600))
LOADS = st.builds(
    Load,
    workers=st.integers(1, 500),
    here=st.integers(1, 500),
    used=st.integers(0, 600),
    refusals=st.integers(0, 3),
    left=st.lists(LEFT, max_size=2).map(tuple),
)
LIMITS = st.sampled_from([Limits.github(), Limits.github_actions(), Limits.git_host("github.com"), Limits.none()])
EPSILON = 1e-9


@given(LIMITS, LOADS, st.none() | st.integers(1, 100_000))
def test_bounds(limits: Limits, load: Load, wanted: int | None) -> None:
    """Nobody commits more often than once a second nor waits for longer than twice the even interval, or so."""
    pace = plan(limits, load, wanted)
    planned = planned_writes(limits, wanted)
    workers = max(load.workers, load.here)
    assert workers == pace.workers
    if planned is None or limits == Limits.none():
        return
    even = 3600 * workers / planned
    minute = limits.writes_per_minute or limits.pushes_per_minute or 1
    assert 1.0 <= pace.write_every <= max(1.0, 2 * even, 120 / minute * workers) + EPSILON
    assert 1.5 * workers <= pace.poll_every <= max(3600, 1.5 * workers) + EPSILON
    assert max(60.0, 3 * even) <= pace.lease_ttl + 0.001


@given(LIMITS, LOADS, st.integers(0, 100), st.integers(0, 100), st.integers(0, 2))
def test_more_load_is_never_faster(limits: Limits, load: Load, workers: int, used: int, refusals: int) -> None:
    """More workers, more writes sent, more refusals: each interval stays or grows."""
    before = plan(limits, load)
    more = replace(load, workers=load.workers + workers, used=load.used + used, refusals=load.refusals + refusals)
    after = plan(limits, more)
    assert before.write_every <= after.write_every + EPSILON
    assert before.poll_every <= after.poll_every + EPSILON
    assert before.lease_ttl <= after.lease_ttl + EPSILON


@given(LOADS, st.integers(0, 5000), st.integers(0, 5000), st.floats(1, 3600))
def test_less_left_is_never_faster(load: Load, one: int, other: int, seconds: float) -> None:
    """The less is left of a primary limit, the further apart the polls."""
    least, rest = sorted((one, other))
    slow, fast = (plan(Limits.github(), replace(load, left=((left, seconds),))) for left in (least, rest))
    assert fast.poll_every <= slow.poll_every + EPSILON


@pytest.mark.parametrize(
    ("workers", "ttl", "poll"), [(1, 60.0, 1.5), (4, 180.0, 6.0), (10, 450.0, 15.0), (40, 1800.0, 60.0)]
)
def test_leases_and_polls(workers: int, ttl: float, poll: float) -> None:
    """Half an hour with 40 workers: their renewals, at a third of it, stay under the 250 that are planned."""
    pace = plan(Limits.github(), Load(workers=workers))
    assert (ttl, poll) == (pace.lease_ttl, pace.poll_every)
    assert 250 > workers * 3600 / (pace.lease_ttl / 3) or workers == 1


def test_a_fresh_worker_is_quick_and_says_nothing() -> None:
    """One worker that has sent little commits at once, and there is nothing to explain."""
    pace = plan(Limits.github(), Load(used=50))
    assert (1.0, ()) == (pace.write_every, pace.stretched)


def test_what_is_stretched_is_told_with_its_reason() -> None:
    """Commits for what was used, polls for what is left, leases and polls for the workers, all for a refusal."""
    used = plan(Limits.github(), Load(used=200)).stretched
    assert 1 == len(used)
    assert used[0].endswith(": 200 sent in an hour, 250 planned")
    polls = plan(Limits.github(), Load(left=((100, 3000.0),))).stretched
    assert ("polls every 1m00s: 100 requests are left of the hourly limit",) == polls
    many = " ".join(plan(Limits.github(), Load(workers=40)).stretched)
    assert "leases last 30m00s: 40 workers" in many
    assert "polls every 1m00s: 40 workers" in many
    assert 70 >= max(map(len, (*used, *polls, *plan(Limits.github(), Load(workers=40, used=9)).stretched)))
    assert "refused once" in plan(Limits.github(), Load(refusals=1)).stretched[0]


def test_what_was_set_is_planned_as_far_as_the_limit_allows() -> None:
    """Half of the limit, or what was set, but never all of the limit."""
    limits = Limits.github()
    assert [250, 100, 490] == [planned_writes(limits, wanted) for wanted in (None, 100, 100_000)]
    assert [180, None] == [planned_writes(Limits.git_host(host), None) for host in ("github.com", "example.org")]


def test_no_limits() -> None:
    """A server without limits slows nobody down, unless it tells that little is left."""
    assert (0.0, 0.0, 0.0) == (
        (pace := plan(Limits.none(), Load(workers=40, used=9999))).write_every,
        pace.poll_every,
        pace.lease_ttl,
    )


def _most(times: list[float], window: float) -> int:
    """The largest number of ``times`` in any window."""
    found, first = 0, 0
    for last, time in enumerate(times):
        while times[first] <= time - window:
            first += 1
        found = max(found, last - first + 1)
    return found


def _run(machines: int, each: int, hours: float, *, aligned: bool) -> list[float]:
    """When writes left, of workers that always want to write and go by their pace; ``each`` on every machine."""
    runtime = ManualRuntime(seed=machines)
    workers = machines * each
    queue: list[tuple[float, int, Governor]] = []
    for machine in range(machines):
        first = Governor("github.com/mona", runtime, Limits.github(), settings=BudgetSettings(patience=1e9))
        for one in range(each):
            governor = first
            if one:
                governor = Governor("github.com/mona", runtime, Limits.github(), settings=BudgetSettings(patience=1e9))
                governor._ledger = first._ledger  # what the file does for processes
            governor.share(workers)
            start = runtime.monotonic() + (0.0 if aligned else runtime.uniform(0, 60))
            heapq.heappush(queue, (start, machine * each + one, governor))
    end = runtime.monotonic() + hours * 3600
    sent: list[float] = []
    while queue[0][0] < end:
        at, name, governor = heapq.heappop(queue)
        runtime.advance(max(0.0, at - runtime.monotonic()))
        governor.share(workers)
        governor.admit("write")
        sent.append(runtime.monotonic())
        heapq.heappush(queue, (runtime.monotonic() + governor.pace().write_every, name, governor))
    return sent


@pytest.mark.parametrize(
    ("machines", "each", "aligned"), [(1, 1, True), (40, 1, True), (80, 1, True), (1, 40, True), (5, 4, False)]
)
def test_nobody_gets_near_the_limits(machines: int, each: int, aligned: bool) -> None:
    """Workers that always want to write, on machines that cannot see each other, stay within 80 a minute and 500 an
    hour together, and use most of what is planned for them.
    """
    sent = sorted(_run(machines, each, 2.5, aligned=aligned))
    assert 80 >= _most(sent, 60.0)
    assert 420 >= _most(sent, 3600.0)
    later = [time for time in sent if time > sent[0] + 3600]
    assert 130 <= _most(later, 3600.0)
