"""The decision alone, on made-up courses of events: what holds whatever servers, workers and clocks do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ghcoord.coord.scaling.decision import Answers, Decision, Policy, Seat, Seen, decide, to_look_up
from ghcoord.coord.scaling.records import PENDING, RunState, Scaler
from ghcoord.store.dispatching import RemoteRun
from ghcoord.testing.clock import START

MARGIN = 2.0
"""Seconds by which the clocks of two scalers differ at most."""

POLICIES = st.builds(
    Policy,
    minimum=st.integers(0, 2),
    maximum=st.integers(2, 5),
    per_run=st.integers(1, 3),
    cool_down=st.sampled_from([0.0, 30.0, 120.0]),
    start_timeout=st.sampled_from([60.0, 600.0]),
    budget=st.integers(1, 8),
)

FATES = st.sampled_from(["accepted", "silent", "lost", "never", "refused", "died"])
"""What becomes of a dispatch: ``died`` is of its scaler, before it could write anything down."""

STEPS = st.one_of(
    st.tuples(st.just("look"), st.sampled_from([-1.0, 0.0, 1.0]), st.lists(FATES, max_size=5), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 20.0, 27.0, 61.0, 117.0, 130.0, 700.0, 3598.0, 3700.0])),
    st.tuples(st.just("begin"), st.integers(0, 5)),
    st.tuples(st.just("kill"), st.integers(0, 5)),
    st.tuples(st.just("leave"), st.integers(0, 5)),
    st.tuples(st.just("fail"), st.integers(0, 5)),
    st.tuples(st.just("submit"), st.integers(0, 20)),
)


@dataclass
class Course:
    """The truth beside what the record says. ``runs`` is the server's list, ``alive`` are workers that live."""

    policy: Policy
    now: float = START
    waiting: int = 0
    record: Scaler = field(default_factory=lambda: Scaler(name="w"))
    runs: dict[str, RemoteRun] = field(default_factory=dict)
    alive: set[str] = field(default_factory=set)
    ever: set[str] = field(default_factory=set)
    sent: list[tuple[float, str]] = field(default_factory=list)

    def take(self, step: tuple) -> None:  # type: ignore[type-arg]  # of several shapes
        getattr(self, step[0])(*step[1:])

    def look(self, skew: float, fates: list[str], reachable: bool) -> None:
        """A scaler whose clock is off looks, sends, and writes down what became of it, unless it dies."""
        here = self.now + skew * MARGIN / 2
        asked = to_look_up(self.record, here)
        answers = Answers(at=here)
        if reachable and asked:
            known = {run.worker: self.runs[run.worker] for run in asked if run.worker in self.runs}
            answers = Answers(frozenset(run.worker for run in asked), known, here)
        fresh = [f"w-{len(self.ever) + number}" for number in range(20)]
        decision = decide(self.record, self.seen(), answers, self.policy, now=here, margin=MARGIN, fresh=fresh)
        self.check(decision, answers)
        self.record = decision.scaler
        for run in decision.cancel:
            self.end(run.worker, "cancelled")
        for worker in decision.drain:
            self.alive.discard(worker)
            self.end(worker, "success")
        self.send(list(decision.start), fates)

    def send(self, start: list[str], fates: list[str]) -> None:
        """As the scaler does: it stops at the first dispatch that goes wrong."""
        self.ever.update(start)
        outcome = {}
        for worker, fate in zip(start, [*fates, *["accepted"] * len(start)], strict=False):
            assert len(self.truth()) < self.policy.maximum, "above the maximum"
            if fate == "died":
                return
            if fate == "refused":
                break
            self.sent.append((self.now, worker))
            outcome[worker] = fate
            if fate != "never":
                self.runs[worker] = RemoteRun(len(self.ever) + 1000, f"worker {worker}", "queued", None, self.now)
            if fate in ("lost", "never"):
                break
        runs = []
        for run in self.record.runs:
            fate = outcome.get(run.worker, "")
            if run.worker in start and not fate:
                continue
            if fate in ("accepted", "silent"):
                run = run.to(RunState.ACCEPTED, self.now)
                run = run.model_copy(update={"run_id": self.runs[run.worker].id if fate == "accepted" else None})
            runs.append(run)
        self.record = self.record.model_copy(update={"runs": tuple(runs)})

    def seen(self) -> Seen:
        known = {run.worker for run in self.record.runs}
        return Seen(self.waiting, {worker: Seat(busy=1, worked=True) for worker in sorted(self.alive & known)})

    def truth(self) -> set[str]:
        """Workers that live, and those that a run may still bring."""
        return self.alive | {worker for worker, run in self.runs.items() if not run.over}

    def check(self, decision: Decision, answers: Answers) -> None:
        """What holds of every decision, by what its scaler knows."""
        counted = [
            run
            for run in decision.scaler.runs
            if run.worker in self.alive or (run.state in PENDING and run.worker not in self.alive)
        ]
        assert not decision.start or len(counted) <= self.policy.maximum
        if decision.start:
            before = [run for run in decision.scaler.runs if run.worker not in decision.start]
            unsettled = {run.worker for run in before if run.state is RunState.INTENDED}
            assert unsettled <= answers.asked, "sent before an earlier dispatch was looked up"
            assert not set(decision.start) & self.ever, "an id was given twice"
            if self.sent:
                assert self.now - self.sent[-1][0] >= self.policy.cool_down, "no cool-down"

    def submit(self, number: int) -> None:
        """So many tasks wait for a run."""
        self.waiting = number

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def begin(self, at: int) -> None:
        """A queued run's worker registers."""
        queued = [worker for worker, run in self.runs.items() if run.status == "queued"]
        if at < len(queued):
            self.runs[queued[at]] = replace(self.runs[queued[at]], status="in_progress")
            self.alive.add(queued[at])

    def leave(self, at: int) -> None:
        """A worker ends as it should."""
        if at < len(self.alive):
            worker = sorted(self.alive)[at]
            self.alive.discard(worker)
            self.end(worker, "success")

    def kill(self, at: int) -> None:
        """A worker and its run die."""
        if at < len(self.alive):
            worker = sorted(self.alive)[at]
            self.alive.discard(worker)
            self.end(worker, "failure")

    def fail(self, at: int) -> None:
        """A queued run ends without a worker."""
        queued = [worker for worker, run in self.runs.items() if run.status == "queued"]
        if at < len(queued):
            self.end(queued[at], "failure")

    def end(self, worker: str, conclusion: str) -> None:
        if worker in self.runs:
            self.runs[worker] = replace(self.runs[worker], status="completed", conclusion=conclusion)

    def settle(self) -> None:
        """From now on all goes well: there are as many as are wanted, in time."""
        self.waiting = 10
        for _ in range(200):
            self.look(0.0, [], True)
            for _ in range(6):
                self.begin(0)
            if len(self.alive & {run.worker for run in self.record.runs}) == self.policy.maximum:
                return
            self.wait(610.0)
        raise AssertionError(f"stuck: {self.record}")


def _run(policy: Policy, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    course = Course(policy)
    for step in steps:
        course.take(step)
    for at, _ in course.sent:
        assert sum(at <= other < at + 3600 for other, _ in course.sent) <= policy.budget, "over the budget"
    course.settle()


@given(POLICIES, st.lists(STEPS, max_size=40))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_always_holds(policy: Policy, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    """Never above the maximum, in truth and by the record; never beyond budget or before the cool-down is over;
    nothing sent before an earlier dispatch was looked up; and once all goes well, as many as wanted.
    """
    _run(policy, steps)


@pytest.mark.slow
@given(POLICIES, st.lists(STEPS, min_size=20, max_size=120))
@settings(max_examples=700, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_always_holds_at_length(policy: Policy, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    """The same over longer courses, many more of them."""
    _run(policy, steps)
