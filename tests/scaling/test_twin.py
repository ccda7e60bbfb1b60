"""Scalers against the twin of GitHub, over its REST API: from nothing to enough and back, with whatever goes wrong."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ghcoord.bootstrap import open_hub
from ghcoord.config import Settings
from ghcoord.coord.scaling.autoscaler import Autoscaler
from ghcoord.coord.scaling.decision import Policy
from ghcoord.errors import Denied, NotFound, OutcomeUnknown, Throttled, UsageError
from ghcoord.hub import Hub
from ghcoord.store.budget.governor import Governor
from ghcoord.store.budget.limits import Limits
from ghcoord.store.github.dispatch import GithubDispatcher
from ghcoord.testing.clock import ManualRuntime
from ghcoord.twin.actions import WorkflowRun
from ghcoord.twin.faults import FaultKind
from ghcoord.twin.limits import TwinLimits
from ghcoord.twin.messages import Incoming
from ghcoord.twin.server import Twin
from ghcoord.twin.switches import Switches
from tests.coord.world import Daemon
from tests.store.github.twins import TwinHub

INPUTS = {"worker-id": None, "slots": "1", "until-idle": "30s"}
POLICY = Policy(minimum=0, maximum=3, per_run=4, cool_down=30.0, start_timeout=300.0, budget=50)


@dataclass
class Plant:
    """A hub at a twin whose runs start workers after a while, unless they are told not to."""

    folder: Path
    switches: Switches = field(default_factory=Switches)

    def __post_init__(self) -> None:
        self.runtime = ManualRuntime()
        self.twin = Twin(self.folder, switches=self.switches, runtime=self.runtime)
        self.site = TwinHub(self.twin, runtime=self.runtime)
        self.hub = self.open("me")
        self.twin.actions.workflow("me/hub", "worker.yml", INPUTS, run_name="worker ${{ inputs.worker-id }}")
        self.highest = 0
        self.queued: list[WorkflowRun] = []
        self.twin.actions.on_dispatch = self._dispatched
        self.daemons: dict[str, tuple[Daemon, WorkflowRun]] = {}

    def open(self, actor: str) -> Hub:
        return open_hub(self.site.open(), self.runtime, Settings(), actor=actor, state=Path("/nonexistent"), make=True)

    def fail(self, kind: FaultKind, *, after: int = 0, **more: Any) -> None:
        """Something goes wrong with one dispatch, the first or that ``after`` so many."""
        left = [after]

        def match(incoming: Incoming) -> bool:
            if not incoming.path.endswith("/dispatches"):
                return False
            left[0] -= 1
            return left[0] < 0

        self.twin.faults.add(kind, match=match, **more)

    def scaler(self, policy: Policy = POLICY, *, hub: Hub | None = None, **more: bool) -> Autoscaler:
        dispatcher = GithubDispatcher(self.site.api(), "worker.yml", "main")
        return (hub or self.hub).scaling.autoscaler("worker", dispatcher, policy, inputs={"slots": "4"}, **more)

    def _dispatched(self, run: WorkflowRun) -> None:
        self.queued.append(run)
        self.highest = max(self.highest, self.running)

    @property
    def running(self) -> int:
        """Runs that are not over."""
        return sum(run.status != "completed" for run in self.twin.actions.runs)

    def begin(self) -> None:
        """Each queued run gets a runner, and its worker registers."""
        for run in self.queued:
            if run.status == "queued":
                self.twin.actions.begin(run, self.runtime.now())
                worker = run.inputs["worker-id"]
                self.daemons[worker] = (Daemon(self.hub, worker, slots=int(run.inputs["slots"])), run)
        self.queued.clear()

    def work(self) -> None:
        """Each worker does what it can get; one that gets nothing leaves, as with --until-idle."""
        for worker, (daemon, run) in list(self.daemons.items()):
            taken = daemon.lease(4)
            for task in taken:
                daemon.report(task)
            if not taken:
                self.hub.workers.deregister(worker)
                self.twin.actions.complete(run, "success", self.runtime.now())
                del self.daemons[worker]

    def submit(self, number: int) -> None:
        for _ in range(number):
            self.hub.tasks.submit("echo", {"message": "x"})

    def open_tasks(self) -> int:
        counts = self.hub.tasks.counts()
        return counts["queued"] + counts["leased"]


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path / "twin")


def drive(plant: Plant, scaler: Autoscaler, rounds: int, *, every: float = 20.0) -> list[int]:
    """Steps, runners and workers in turn; how many runs were there after each step."""
    seen = []
    for _ in range(rounds):
        scaler.step()
        seen.append(plant.running)
        plant.runtime.advance(every / 2)
        plant.begin()
        plant.work()
        plant.runtime.advance(every / 2)
    return seen


@pytest.mark.slow
def test_from_nothing_to_the_maximum_and_back(plant: Plant) -> None:
    """40 tasks bring three runs, never a fourth; they do all of it and end; each dispatch is on record."""
    plant.submit(40)
    seen = drive(plant, plant.scaler(), 14)
    assert (3, 3, 0) == (plant.highest, max(seen), seen[-1])
    assert 0 == plant.open_tasks()
    record = plant.hub.scaling.get("worker")
    assert {run.inputs["worker-id"] for run in plant.twin.actions.runs} == {run.worker for run in record.runs}
    assert {run.number for run in plant.twin.actions.runs} == {run.run_id for run in record.runs}
    assert {"ended"} == {str(run.state) for run in record.runs}
    assert {"4"} == {run.inputs["slots"] for run in plant.twin.actions.runs}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["reply_lost", "request_lost", "truncated", "reset"])
@pytest.mark.parametrize("tells", [True, False])
def test_an_answer_that_is_lost_starts_nothing_twice(tmp_path: Path, fault: FaultKind, tells: bool) -> None:
    """The second dispatch's answer is lost, done or not: what is there is found by its title, and the maximum holds."""
    plant = Plant(tmp_path / "twin", Switches(dispatch_tells_run=tells))
    plant.submit(40)
    plant.fail(fault, after=1)
    seen = drive(plant, plant.scaler(), 24)
    assert (2 if fault == "request_lost" else 3) == plant.highest  # by the time that is clear two have done it all
    assert (0, 0) == (seen[-1], plant.open_tasks())
    ids = [run.inputs["worker-id"] for run in plant.twin.actions.runs]
    assert len(ids) == len(set(ids))


@pytest.mark.slow
def test_a_run_that_never_starts_is_cancelled_and_does_not_block(plant: Plant) -> None:
    """No runner comes for the first: after the start timeout GitHub is told to cancel it, and others do the work."""
    plant.submit(4)
    scaler = plant.scaler(replace(POLICY, maximum=1))
    scaler.step()
    (stuck,) = plant.queued
    plant.queued.clear()
    seen = drive(plant, scaler, 40)
    assert ("completed", "cancelled") == (stuck.status, stuck.conclusion)
    assert (1, 0, 0) == (plant.highest, seen[-1], plant.open_tasks())
    assert 2 == len(plant.twin.actions.runs)


@pytest.mark.slow
def test_two_scalers_on_two_machines(plant: Plant) -> None:
    """Both look all the time; one works, and there are never more runs than one would have."""
    plant.submit(40)
    first, second = plant.scaler(), plant.scaler(hub=plant.open("you"))
    for _ in range(10):
        second.step()
        drive(plant, first, 1)
    assert 3 == plant.highest
    assert 0 == plant.open_tasks()


@pytest.mark.slow
def test_from_cron(plant: Plant) -> None:
    """A new process every five minutes does it too; it leaves nobody leading."""
    plant.submit(20)
    for _ in range(6):
        plant.scaler(once=True).step()
        plant.runtime.advance(100)
        plant.begin()
        for _ in range(4):
            plant.work()
        plant.runtime.advance(200)
    assert (3, 0, 0) == (plant.highest, plant.running, plant.open_tasks())
    assert plant.hub.scaling.get("worker").leader is None


@pytest.mark.slow
def test_requests_are_few(plant: Plant) -> None:
    """An hour of looking at an empty queue costs the renewals of the lease, some polls, and nothing of Actions."""
    scaler = plant.scaler()
    scaler.step()
    before = len(plant.twin.log)
    for _ in range(120):
        plant.runtime.advance(30)
        scaler.step()
    counted = plant.twin.requests(before, counted=True)
    assert 70 >= len(counted), len(counted)
    assert [] == [one for one in counted if "actions" in one.path]


def refused(
    plant: Plant, error: type[Exception], words: str, file: str = "worker.yml", ref: str = "main", **inputs: str
) -> None:
    with pytest.raises(error, match=words):
        GithubDispatcher(plant.site.api(), file, ref).start("w", inputs)
    assert [] == plant.twin.actions.runs


def test_refusals_name_the_fix(plant: Plant) -> None:
    """Workflow, ref, inputs, permission, limits: each is an error of its own, and nothing was started."""
    refused(plant, NotFound, "must be on the default branch", file="no.yml")
    refused(plant, UsageError, "No ref found for: next", ref="next")
    refused(plant, UsageError, "Unexpected inputs", colour="red")
    refused(plant, UsageError, "25 inputs", **{f"i{n}": "1" for n in range(25)})
    refused(plant, UsageError, "no workflow: name its file", file="../../x")
    refused(plant, UsageError, "no branch or tag", ref="a b")
    weak = plant.twin.user("me", kind="actions", permissions={"contents": "write", "metadata": "read"})
    with pytest.raises(Denied, match="actions: write"):
        GithubDispatcher(plant.site.api(weak), "worker.yml", "main").start("w", {})
    plant.fail("secondary", seconds=60.0)
    refused(plant, Throttled, "allows no request")
    plant.runtime.advance(61)
    plant.fail("status", status=502)
    refused(plant, OutcomeUnknown, "may have been done")


@pytest.mark.slow
def test_runs_are_listed_over_pages_and_as_far_as_they_matter(plant: Plant) -> None:
    """150 runs are two pages; with a time only what came since; a strange list is no list."""
    dispatcher = GithubDispatcher(plant.site.api(), "worker.yml", "main")
    started = []
    for number in range(150):
        started.append(dispatcher.start(f"w{number}", {}).run_id)
        plant.runtime.advance(1)
    assert started == [run.id for run in reversed(dispatcher.runs(0.0))]
    assert started[-10:] == [run.id for run in reversed(dispatcher.runs(plant.runtime.now() - 10))]
    assert (True, False, False) == (
        dispatcher.cancel(started[0]),
        dispatcher.cancel(started[0]),
        dispatcher.cancel(7),
    )


def test_dispatches_go_through_the_budget(tmp_path: Path) -> None:
    """They keep the second between two writes that GitHub asks for: the twin, with its limits on, refuses nothing."""
    plant = Plant(tmp_path / "twin")
    plant.twin.limiter.limits = TwinLimits.published()
    api = plant.site.api()
    api._budget = Governor("twin/me", plant.runtime, Limits.github())
    before = plant.runtime.now()
    dispatcher = GithubDispatcher(api, "worker.yml", "main")
    for number in range(5):
        dispatcher.start(f"w{number}", {})
    assert 4 <= plant.runtime.now() - before < 20
    assert 0 == plant.twin.refusals
    assert dispatcher.ready_in() > 0
