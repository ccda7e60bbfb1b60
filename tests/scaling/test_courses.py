"""Two scalers on one hub, on made-up courses: processes die, answers are lost, the hub and the server fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ghcoord.coord.scaling.autoscaler import Autoscaler
from ghcoord.errors import GhcoordError
from ghcoord.hub import Hub
from ghcoord.testing.faults import CommitFault, FaultyStore
from tests.scaling.fakes import POLICY, Killed, Plant

PLAN = replace(POLICY, maximum=3, per_run=1, cool_down=20.0, start_timeout=300.0, budget=8)

STEPS = st.one_of(
    st.tuples(st.just("look"), st.integers(0, 1)),
    st.tuples(st.just("look"), st.integers(0, 1)),
    st.tuples(st.just("wait"), st.sampled_from([5.0, 25.0, 130.0, 320.0, 620.0])),
    st.tuples(st.just("begin"), st.integers(0, 3)),
    st.tuples(st.just("leave"), st.integers(0, 3)),
    st.tuples(st.just("kill"), st.integers(0, 3)),
    st.tuples(
        st.just("fault"),
        st.sampled_from(["lost", "never", "refused", "silent", "killed before", "killed after"]),
    ),
    st.tuples(st.just("down"), st.booleans()),
    st.tuples(
        st.just("trouble"), st.integers(0, 1), st.lists(st.sampled_from([None, *CommitFault]), min_size=1, max_size=3)
    ),
    st.tuples(st.just("land"), st.integers(0, 1)),
)


class Course:
    """A plant with two machines; ``alive`` are workers that send heartbeats."""

    def __init__(self) -> None:
        self.plant = Plant()
        self.hubs: list[tuple[Hub, FaultyStore]] = [self.plant.world.open_faulty(name) for name in ("a", "b")]
        self.scalers: list[Autoscaler] = [self._new(0), self._new(1)]
        self.alive: list[str] = []
        self.looking = 0
        self.plant.server.on_send = self.on_send
        self.plant.submit(12)

    def _new(self, at: int) -> Autoscaler:
        return self.plant.scaler(PLAN, hub=self.hubs[at][0])

    def truth(self) -> set[str]:
        """Workers that live or that a run may still bring."""
        return {*self.alive, *self.plant.server.open()}

    def on_send(self, worker: str) -> None:
        """A dispatch arrives at the server."""
        assert len(self.truth()) < PLAN.maximum, "above the maximum"
        record = self.plant.hub.scaling.get("worker")
        assert record is not None
        assert "intended" == {run.worker: str(run.state) for run in record.runs}[worker], "not written down before"
        assert record.leader is not None
        assert record.leader.id.startswith("ab"[self.looking] + ":"), "sent by somebody who does not lead"

    def look(self, at: int) -> None:
        self.looking = at
        try:
            self.scalers[at].step(lease=600.0)
        except Killed:
            self.scalers[at] = self._new(at)
        except GhcoordError:
            pass

    def wait(self, seconds: float) -> None:
        while seconds > 0:
            self.plant.advance(min(30.0, seconds))
            seconds -= 30.0
            for worker in self.alive:
                self.plant.hub.workers.heartbeat(worker)

    def begin(self, at: int) -> None:
        queued = [worker for worker in self.plant.server.open() if worker not in self.alive]
        if at < len(queued):
            self.plant.run(queued[at])
            self.alive.append(queued[at])

    def leave(self, at: int) -> None:
        if at < len(self.alive):
            worker = self.alive.pop(at)
            self.plant.hub.workers.deregister(worker)
            self.plant.server.end(worker)

    def kill(self, at: int) -> None:
        if at < len(self.alive):
            self.plant.server.end(self.alive.pop(at), "failure")

    def fault(self, kind: str) -> None:
        self.plant.server.faults = [kind]

    def down(self, value: bool) -> None:
        self.plant.server.down = value

    def trouble(self, at: int, faults: list[CommitFault | None]) -> None:
        """The next commits of one machine go wrong."""
        self.hubs[at][1].fail_commits(*faults)

    def land(self, at: int) -> None:
        """What was late arrives."""
        self.hubs[at][1].land_delayed()

    def settle(self) -> None:
        """All goes well from now on: the maximum is reached in time."""
        self.plant.server.down, self.plant.server.faults = False, []
        for _, store in self.hubs:
            store._commit_faults.clear()
            store.land_delayed()
        for _ in range(150):
            self.look(1)
            for _ in range(3):
                self.begin(0)
            if len(self.alive) == PLAN.maximum:
                return
            self.wait(300.0)
        raise AssertionError(f"stuck: {self.plant.hub.scaling.get('worker')}")


@pytest.mark.slow
@given(st.lists(STEPS, min_size=5, max_size=60))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_two_scalers_whatever_happens(steps: list[tuple[Any, ...]]) -> None:
    """Never above the maximum in truth, only what the leader wrote down is sent, the budget holds, nothing sticks."""
    course = Course()
    for step in steps:
        getattr(course, step[0])(*step[1:])
    course.settle()
    sent = [at for at, _ in course.plant.server.sent]
    assert all(sum(at <= other < at + 3600 for other in sent) <= PLAN.budget for at in sent), "over the budget"
    names = [worker for _, worker in course.plant.server.sent]
    assert len(names) == len(set(names)), "sent twice"
    course.plant.close()
