"""How many runs there should be, and what is done about it: pure functions of what is known.

The rules, in the order in which they win: never more than the maximum, counting
the live workers that were started and the runs that may still bring one; never
more dispatches an hour than the budget; nothing is started while it is not
known what became of an earlier dispatch; not before the cool-down is over,
which doubles with each run in a row that came to nothing; never fewer than
the minimum.  Times are the hub's, in seconds; what another machine stamped is
compared with a margin for its clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ghcoord.coord.scaling.records import MAX_RUNS, PENDING, Run, RunState, Scaler, sane
from ghcoord.errors import UsageError
from ghcoord.model.codec import stamp
from ghcoord.store.dispatching import RemoteRun
from ghcoord.units import format_duration

HOUR = 3600.0

SETTLE = 120.0
"""Seconds after which a run that the server does not list was never started: lists trail behind by a few."""

LATE = 25 * HOUR
"""Seconds for which a lost run may still come: GitHub lets one wait 24 hours for a runner."""

LONGEST_COOL_DOWN = HOUR
"""Seconds up to which the cool-down doubles while runs come to nothing."""

SHORTEST_BACK_OFF = 30.0
"""Seconds that such a wait begins with at least."""

MOST = 500
"""Runs, and dispatches an hour: GitHub takes no more content-creating requests (facts/github.md)."""

AT_ONCE = 20
"""Dispatches of one look at most: GitHub wants a second between two, and the lease has to hold meanwhile."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a scaler keeps to. ``per_run``: open tasks for each run. ``budget``: dispatches an hour.

    In seconds: ``cool_down`` lies between two changes, ``start_timeout`` is
    until a run's worker must have registered.
    """

    minimum: int = 0
    maximum: int = 5
    per_run: int = 5
    cool_down: float = 60.0
    start_timeout: float = 600.0
    budget: int = 60

    def check(self) -> Policy:
        """The policy itself; raises ``UsageError`` for one that cannot be kept."""
        if not 0 <= self.minimum <= self.maximum:
            raise UsageError(f"a minimum of {self.minimum} does not go with a maximum of {self.maximum} runs")
        if not 1 <= self.maximum <= MOST:
            raise UsageError(f"a maximum of {self.maximum} runs is out of range: give 1 to {MOST}")
        if self.per_run < 1:
            raise UsageError(f"{self.per_run} tasks for a run are too few: give at least 1")
        if not 1 <= self.budget <= MOST:
            raise UsageError(f"a budget of {self.budget} dispatches an hour is out of range: give 1 to {MOST}")
        if not 0 <= self.cool_down <= LONGEST_COOL_DOWN:
            raise UsageError(f"a cool-down of {self.cool_down:g} s is out of range: give at most an hour")
        if not 30 <= self.start_timeout <= 24 * HOUR:
            raise UsageError(f"a start timeout of {self.start_timeout:g} s is out of range: give 30s to 24h")
        return self


@dataclass(frozen=True, slots=True)
class Seat:
    """A worker of one of the runs as the hub has it: its lease runs; tasks and sessions that it has."""

    busy: int = 0
    sessions: int = 0
    takes: bool = True
    worked: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What the hub holds: ``demand`` are tasks that wait for a run; ``seats`` the runs' workers that live, by id.

    ``gone`` are runs' workers that are still registered and dead.
    """

    demand: int = 0
    seats: Mapping[str, Seat] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Answers:
    """What the server told: the run of each worker that it knows, of the workers ``asked`` for, at the hub's time
    ``at``, taken before asking.
    """

    asked: frozenset[str] = frozenset()
    runs: Mapping[str, RemoteRun] = field(default_factory=dict)
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done, and what it follows from. ``waits`` says why no more are started, empty where enough are.

    Only runs that the server lists as the workflow's are in ``cancel``: a record alone, which many may write, ends
    nobody else's run.
    """

    scaler: Scaler
    start: tuple[str, ...] = ()
    cancel: tuple[Run, ...] = ()
    drain: tuple[str, ...] = ()
    demand: int = 0
    busy: int = 0
    live: int = 0
    pending: int = 0
    target: int = 0
    waits: str = ""


def decide(
    scaler: Scaler, seen: Seen, answers: Answers, policy: Policy, *, now: float, margin: float, fresh: Sequence[str]
) -> Decision:
    """What to do now. ``fresh`` are ids that new workers may get; ``margin`` is how far clocks differ, in seconds."""
    before = sane(scaler, now, margin)
    runs = [_follow(run, seen, answers, policy, now, margin) for run in before.runs]
    runs = _kept(runs, seen, now, margin)
    stuck = {run.worker for run in before.runs if run.state is RunState.CANCELLING}
    cancel = [
        run
        for run in runs
        if run.worker in answers.runs
        and (run.state is RunState.CANCELLING or (run.state is RunState.LOST and run.worker in stuck))
    ][:AT_ONCE]
    pending = [run for run in runs if run.state in PENDING and run.worker not in seen.seats]
    live = {run.worker: seen.seats[run.worker] for run in runs if run.worker in seen.seats}
    count = len(live) + len(pending)
    busy = sum(max(seat.busy, min(1, seat.sessions)) for seat in live.values())
    target = min(policy.maximum, max(policy.minimum, math.ceil((seen.demand + busy) / policy.per_run)))
    hoped = sum(run.state is not RunState.CANCELLING for run in pending)
    missing = target - hoped - sum(seat.takes for seat in live.values())

    number, waits = 0, ""
    if missing > 0:
        number, waits = _allowed(runs, pending, answers, policy, missing, policy.maximum - count, now, margin)
        number = min(number, AT_ONCE, len(fresh))
    start = tuple(fresh[:number])
    runs += [Run(worker=worker, intended_at=stamp(now), since=stamp(now)) for worker in start]
    surplus_since, drain = _surplus(before, live, policy, -missing, count - policy.maximum, now, margin)
    after = before.model_copy(
        update={
            "runs": tuple(runs),
            "surplus_since": surplus_since,
            "minimum": policy.minimum,
            "maximum": policy.maximum,
        }
    )
    return Decision(
        after if after != scaler else scaler,
        start,
        tuple(cancel),
        drain,
        demand=seen.demand,
        busy=busy,
        live=len(live),
        pending=len(pending) + number,
        target=target,
        waits=waits,
    )


def to_look_up(scaler: Scaler, now: float) -> list[Run]:
    """The runs of which the server should be asked: those not settled, and those that take long to bring a worker."""
    return [
        run
        for run in scaler.runs
        if run.state in (RunState.INTENDED, RunState.CANCELLING)
        or (run.state is RunState.ACCEPTED and (run.run_id is None or now - run.since.timestamp() > SHORTEST_BACK_OFF))
    ]


# -- one run


def _follow(run: Run, seen: Seen, answers: Answers, policy: Policy, now: float, margin: float) -> Run:
    """What has become of a run."""
    seat = seen.seats.get(run.worker)
    if seat is not None:
        started = run.to(RunState.STARTED, now)
        return started if started.worked or not seat.worked else started.model_copy(update={"worked": True})
    if run.state is RunState.ENDED:
        return run
    if run.worker in seen.gone:
        return run.to(RunState.ENDED, now, "its worker died")
    if run.state is RunState.STARTED:
        idle = seen.demand > 0 and not run.worked
        why = "its worker left without having run anything" if idle else "its worker left"
        return run.to(RunState.ENDED, now, why, failed=idle)
    return _without_worker(run, answers, policy, now, margin)


def _without_worker(run: Run, answers: Answers, policy: Policy, now: float, margin: float) -> Run:
    """As :func:`_follow`, of a run that brought no worker so far.

    It is given up only once the server was asked, or has itself forgotten it.
    """
    told = answers.runs.get(run.worker)
    if told is not None:
        if told.over:
            good = told.conclusion == "success"
            why = f"the run is over ({told.conclusion or 'no conclusion'}) and its worker was not seen"
            return run.to(RunState.ENDED, now, why, failed=not good)
        if run.state is RunState.INTENDED:
            run = run.to(RunState.ACCEPTED, now)
        if run.run_id is None:
            run = run.model_copy(update={"run_id": told.id, "url": told.url[:300]})
    if run.state is RunState.LOST:
        return run
    age = now - run.intended_at.timestamp()
    asked = run.worker in answers.asked or age > LATE
    if run.state is RunState.INTENDED:
        absent = asked and (age > LATE or answers.at - run.intended_at.timestamp() > SETTLE + margin)
        return run.to(RunState.LOST, now, "the server knows no such run") if absent else run
    if run.state is RunState.CANCELLING:
        over = asked and now - run.since.timestamp() > policy.start_timeout + margin
        return run.to(RunState.LOST, now, "it neither started nor ended", failed=True) if over else run
    if age <= policy.start_timeout + margin or not asked:
        return run
    why = f"no worker within {format_duration(policy.start_timeout)}"
    return run.to(RunState.LOST if told is None else RunState.CANCELLING, now, why, failed=True)


def _kept(runs: Sequence[Run], seen: Seen, now: float, margin: float) -> list[Run]:
    """The runs that still count for something, oldest first; of old ones the newest where there are too many.

    Those of the last hour count for the budget, lost ones may still come, and
    those that came to nothing since the last good one slow the next ones down.
    """
    good = max((run.intended_at for run in runs if _is_good(run)), default=None)

    def age(run: Run) -> float:
        return now - run.intended_at.timestamp()

    def counts(run: Run) -> bool:
        return run.worker in seen.seats or run.state in PENDING

    ordered = sorted(runs, key=lambda run: (run.intended_at, run.worker))
    kept = [
        run
        for run in ordered
        if counts(run)
        or age(run) <= HOUR + 2 * margin
        or (
            age(run) <= LATE
            and (run.state is RunState.LOST or (run.failed and (good is None or run.intended_at > good)))
        )
    ]
    spare = len(kept) - (MAX_RUNS - AT_ONCE)
    if spare > 0:
        over = [run for run in kept if not counts(run)][:spare]
        gone = {run.worker for run in over}
        kept = [run for run in kept if run.worker not in gone]
    return kept


# -- how many


def _allowed(
    runs: Sequence[Run],
    pending: Sequence[Run],
    answers: Answers,
    policy: Policy,
    missing: int,
    room: int,
    now: float,
    margin: float,
) -> tuple[int, str]:
    """How many of the ``missing`` runs may be started, ``room`` at most; and why not all."""
    if room <= 0:
        return 0, f"the maximum of {policy.maximum} is reached"
    if any(run.state is RunState.INTENDED and run.worker not in answers.asked for run in pending):
        return 0, "it is not known yet what became of an earlier dispatch"
    left = policy.budget - sum(now - run.intended_at.timestamp() <= HOUR + margin for run in runs)
    if left <= 0 or len(runs) > MAX_RUNS - AT_ONCE:
        return 0, f"the budget of {policy.budget} dispatches an hour is used up"
    failures = _failures(runs)
    wait = _cool_down(policy, failures)
    last = max((run.intended_at.timestamp() for run in runs), default=-math.inf)
    if wait > 0 and now - last < wait + margin:
        why = f" after {failures} runs that came to nothing" if failures else ""
        return 0, f"cooling down for {format_duration(math.ceil(wait + margin - (now - last)))}{why}"
    number = min(missing, room, left)
    if number == missing:
        return number, ""
    return number, f"the {'maximum of ' + str(policy.maximum) if number == room else 'budget'} is reached"


def _failures(runs: Sequence[Run]) -> int:
    """Runs in a row that came to nothing, up to the newest of which one knows."""
    found = 0
    for run in sorted(runs, key=lambda one: one.intended_at, reverse=True):
        if run.failed:
            found += 1
        elif _is_good(run):
            break
    return found


def _is_good(run: Run) -> bool:
    """Whether a run was of use, as far as one knows."""
    return not run.failed and (run.state is RunState.ENDED or (run.state is RunState.STARTED and run.worked))


def _cool_down(policy: Policy, failures: int) -> float:
    if not failures:
        return policy.cool_down
    base = max(policy.cool_down, SHORTEST_BACK_OFF)
    return max(policy.cool_down, min(LONGEST_COOL_DOWN, base * 2.0 ** min(failures, 12)))


def _surplus(
    scaler: Scaler, live: Mapping[str, Seat], policy: Policy, spare: int, over: int, now: float, margin: float
) -> tuple[datetime | None, tuple[str, ...]]:
    """Since when idle workers are too many, and which are told to end.

    ``spare`` are those beyond the target, after the cool-down; ``over`` those
    beyond the maximum, at once and busy or not: a lost run has come after all.
    """
    able = sorted(worker for worker, seat in live.items() if seat.takes)
    idle = [worker for worker in able if not live[worker].busy and not live[worker].sessions]
    if over > 0:
        draining = sum(not seat.takes for seat in live.values())
        busy = [worker for worker in able if worker not in idle]
        return scaler.surplus_since, tuple([*idle, *busy][: max(0, over - draining)])
    if spare <= 0 or not idle:
        return None, ()
    since = scaler.surplus_since
    if since is None:
        return stamp(now), ()
    if now - since.timestamp() <= policy.cool_down + margin:
        return since, ()
    return None, tuple(idle[:spare])
