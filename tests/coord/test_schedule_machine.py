"""Schedules and bulk actions against a model in plain Python: any order of commands, on both stores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from ghcoord.coord.tasks.tasks import TaskQuery
from ghcoord.errors import NotFound
from ghcoord.model.schedule import task_id
from ghcoord.model.task import ENDED, State
from tests.coord.links import check_links
from tests.coord.test_machines import Machine, on_disk, run
from tests.coord.world import BAD, GOOD, Daemon

NAMES = st.sampled_from(["s", "r"])
KEPT = 30.0
"""Seconds that ended tasks are kept."""

OPEN = {state for state in State if state not in ENDED}


@dataclass
class Times:
    """What the model knows of a schedule; times in whole seconds."""

    period: int
    anchor: int
    missed: str
    grace: float
    overlap: bool
    paused: bool
    next: int | None = None

    def after(self, now: float) -> int | None:
        if self.paused:
            return None
        return self.anchor + self.period * max(1, int((now - self.anchor) // self.period) + 1)

    def due(self, now: float) -> list[int]:
        """What fires at ``now``."""
        if self.next is None or self.next > now:
            return []
        every = list(range(self.next, int(now) + 1, self.period))
        in_time = [at for at in every if now - at <= self.grace]
        if self.missed == "all":
            return every
        return in_time or (every[-1:] if self.missed == "latest" else [])


@dataclass
class Made:
    """What the model knows of a task."""

    schedule: str
    alone: bool
    state: State = State.QUEUED
    ended: float = 0.0
    waited_for: set[str] = field(default_factory=set)


class ScheduleMachine(Machine):
    """Two schedules, a worker, and people who cancel, retry and purge."""

    def __init__(self) -> None:
        super().__init__()
        self.schedules: dict[str, Times] = {}
        self.tasks: dict[str, Made] = {}
        for state in ("succeeded", "cancelled", "dead"):
            self.hubs["a"].config.set(f"retention.{state}", KEPT)
        self.daemon = Daemon(self.hubs["a"], slots=100)

    @rule(
        name=NAMES,
        period=st.sampled_from([1, 3, 7]),
        missed=st.sampled_from(["latest", "skip", "all"]),
        grace=st.sampled_from([0.0, 4.0]),
        overlap=st.booleans(),
        paused=st.booleans(),
    )
    def put(self, name: str, period: int, missed: str, grace: float, overlap: bool, paused: bool) -> None:
        options: dict[str, Any] = {"missed": missed, "grace": grace, "overlap": overlap, "paused": paused}
        self.hubs["b"].schedules.put(name, f"every {period}s", "echo", **options)
        old = self.schedules.get(name)
        goes_on = old is not None and old.period == period
        anchor = old.anchor if old is not None and goes_on else int(self.now)
        new = Times(period, anchor, missed, grace, overlap, paused)
        new.next = old.next if old is not None and goes_on and not old.paused and not paused else new.after(self.now)
        self.schedules[name] = new

    @rule(name=NAMES, verb=st.sampled_from(["pause", "resume", "remove", "run_now"]))
    def change(self, name: str, verb: str) -> None:
        act = getattr(self.hubs["c"].schedules, verb)
        times = self.schedules.get(name)
        if times is None:
            with pytest.raises(NotFound):
                act(name)
            return
        answer = act(name)
        if verb == "remove":
            del self.schedules[name]
        elif verb == "run_now":
            assert answer.created is self.may_fire(name, times)
            if answer.created:
                self.tasks[answer.task.id] = Made(name, not times.overlap)
        elif verb == "pause":
            times.paused, times.next = True, None
        elif times.paused:
            times.paused = False
            times.next = times.after(self.now)

    def may_fire(self, name: str, times: Times) -> bool:
        beside = (one for one in self.tasks.values() if one.schedule == name and one.alone and one.state in OPEN)
        return times.overlap or next(beside, None) is None

    @rule(seconds=st.sampled_from([0.4, 1.0, 2.6, 9.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.world.runtime.advance(seconds)

    @rule()
    def tick(self) -> None:
        self.daemon.beat(renew=True)
        for name, times in self.schedules.items():
            if times.next is None or times.next > self.now:
                continue
            for at in times.due(self.now):
                made = task_id(name, _moment(at))
                if made not in self.tasks and self.may_fire(name, times):
                    self.tasks[made] = Made(name, not times.overlap)
            times.next = times.after(self.now)

    @precondition(lambda self: any(one.state is State.QUEUED for one in self.tasks.values()))
    @rule(success=st.booleans(), count=st.integers(1, 3))
    def work(self, success: bool, count: int) -> None:
        self.tick()
        for task in self.daemon.lease(count):
            if task.schedule is None:
                continue
            self.tasks[task.id].state = State.LEASED
            self.daemon.report(task, GOOD if success else BAD)
            self.end(task.id, State.SUCCEEDED if success else State.DEAD)

    def end(self, one: str, state: State) -> None:
        self.tasks[one].state, self.tasks[one].ended = state, self.now

    def of(self, name: str | None, states: set[State]) -> list[str]:
        return [k for k, t in self.tasks.items() if t.state in states and name in (None, t.schedule)]

    @rule(name=st.sampled_from(["s", "r", None]))
    def cancel_many(self, name: str | None) -> None:
        expected = self.of(name, OPEN)
        query = TaskQuery(schedule=name)
        assert len(expected) == self.hubs["b"].tasks.cancel_many(query, dry_run=True).changed
        assert len(expected) == self.hubs["b"].tasks.cancel_many(query).changed
        for one in expected:
            self.end(one, State.CANCELLED)

    @rule(name=NAMES, states=st.sets(st.sampled_from(["dead", "cancelled"])))
    def retry_many(self, name: str, states: set[str]) -> None:
        done = self.hubs["c"].tasks.retry_many(TaskQuery(schedule=name, states=sorted(states)))
        wanted = self.of(name, {State(one) for one in states or {"dead"}})
        taken = bool([one for one in self.of(name, OPEN) if self.tasks[one].alone])
        free = [one for one in wanted if not self.tasks[one].alone]
        alone = [one for one in wanted if self.tasks[one].alone]
        assert len(free) + (1 if alone and not taken else 0) == done.changed
        assert set(done.refused) <= set(alone)
        for one in wanted:
            if one not in done.refused:
                self.tasks[one].state = State.QUEUED

    @rule(name=st.sampled_from(["s", "r", None]), ended_before=st.sampled_from([None, 5.0]))
    def purge(self, name: str | None, ended_before: float | None) -> None:
        expected = self.of(name, set(ENDED))
        if ended_before is not None:
            expected = [one for one in expected if round(self.now - self.tasks[one].ended, 3) >= ended_before]
        done = self.hubs["b"].tasks.purge(TaskQuery(schedule=name, ended_before=ended_before))
        assert len(expected) == done.changed
        for one in expected:
            del self.tasks[one]

    @rule()
    def retain(self) -> None:
        old = [one for one in self.of(None, set(ENDED)) if round(self.now - self.tasks[one].ended, 3) >= KEPT]
        assert len(old) == self.hubs["c"].tasks.retain()
        for one in old:
            del self.tasks[one]

    @invariant()
    def the_records_are_the_model(self) -> None:
        found = check_links(self.world.store(), self.now)
        assert {one: made.state for one, made in self.tasks.items()} == {one: t.state for one, t in found.items()}
        assert {one: made.schedule for one, made in self.tasks.items()} == {one: t.schedule for one, t in found.items()}
        kept = {one.name: one.next_fire for one in self.hubs["a"].schedules.list()}
        assert {name: times.next for name, times in self.schedules.items()} == {
            name: None if at is None else at.timestamp() for name, at in kept.items()
        }


def _moment(seconds: int) -> Any:
    from ghcoord.model.codec import stamp

    return stamp(seconds)


def test_schedules_follow_the_model() -> None:
    """Any order of commands: what fires when, what is left, and every index are the model's."""
    run(ScheduleMachine, 12, 20)


def test_the_same_on_disk() -> None:
    """The local store behaves as the one in memory."""
    run(on_disk(ScheduleMachine), 2, 8)


@pytest.mark.slow
@pytest.mark.parametrize("machine", [ScheduleMachine, on_disk(ScheduleMachine)])
def test_far_more_of_it(machine: type[Machine]) -> None:
    """As above, longer."""
    run(machine, 200 if machine.where == "memory" else 15, 50)
