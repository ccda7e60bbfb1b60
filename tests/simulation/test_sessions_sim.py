"""Sessions under simulated histories: workers that die, pause and come back, lost replies, callers that repeat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from ghcoord.coord.context import SESSION_TABLE, TASK_TABLE
from ghcoord.coord.layout import FLEET
from ghcoord.coord.workers.tick import Beat, Finished, Reply, Returned
from ghcoord.errors import GhcoordError, LeaseLost, NotFound, SessionLost, WorkerReplaced
from ghcoord.hub import Hub
from ghcoord.model import session as model
from ghcoord.model.codec import stamp
from ghcoord.model.session import Checkpoint, Session, SessionReport, SessionState
from ghcoord.model.task import State, TaskResult
from ghcoord.model.worker import Capabilities, SandboxInfo
from ghcoord.store.base import Store
from ghcoord.testing.history import Violation
from ghcoord.testing.simulation import SimRuntime, Simulation, SimulationFailure
from tests.coord.sessions.checks import check_sessions
from tests.simulation.test_hub_sim import events, history, opened

TTL = 6.0
SESSIONS = ("s0", "s1", "s2")
WORKERS = 3
CALLS = 5
"""Calls of each session, in a sequence."""


@dataclass
class Machine:
    """A worker's disk, which outlives its processes: for each session the epoch and how many calls have run in it."""

    files: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass
class Told:
    """What the callers were told, and what lies in the hub's checkpoints."""

    results: dict[tuple[str, int], str] = field(default_factory=dict)
    points: dict[str, int] = field(default_factory=dict)
    """Checkpoint → how many calls had run."""
    destroyed: set[str] = field(default_factory=set)
    busy: int = len(SESSIONS)


def worker(name: str, disk: Machine, told: Told) -> Callable[[SimRuntime, Store], None]:
    """A worker with a pool: it reattaches, adopts, opens, runs calls one tick later, saves, and now and then pauses."""

    def run(runtime: SimRuntime, store: Store) -> None:
        hub = opened(runtime, store, name)
        token = 0
        state = _Pool(hub, name, disk, told, runtime)
        deadline = runtime.monotonic() + 3600
        while runtime.monotonic() < deadline:
            try:
                if not token:
                    can = Capabilities(supported_task_types=("echo",))
                    box = SandboxInfo(driver="bwrap", tier="full")
                    token = hub.workers.register(
                        name, capacity=3, ttl=TTL, capabilities=can, sandbox=box, max_sessions=2
                    ).token
                    state.begin(token)
                reply = hub.beat(state.request(token), timeout=2.0)
                if reply.lost:
                    token = 0
                    continue
                state.receive(reply)
                hub.workers.tend()
                if told.busy <= 0:
                    return
                runtime.sleep(TTL * 3 if runtime.randbits(6) == 0 else runtime.uniform(0, TTL / 3))
            except WorkerReplaced:
                token = 0
            except GhcoordError:
                runtime.sleep(0.2)
        raise AssertionError(f"{name} waits for ever: {hub.tasks.counts()}, {told}")

    return run


class _Pool:
    def __init__(self, hub: Hub, name: str, disk: Machine, told: Told, runtime: SimRuntime) -> None:
        self.hub, self.name, self.disk, self.told, self.runtime = hub, name, disk, told, runtime
        self.done: list[Finished] = []
        self.unknown: tuple[Returned, ...] = ()
        self.reports: list[SessionReport] = []

    def begin(self, token: int) -> None:
        self.done, self.unknown, self.reports = [], (), []
        epochs = {key: epoch for key, (epoch, _) in self.disk.files.items()}
        kept = self.hub.sessions.reattach(self.name, token, epochs)
        self.disk.files = {key: one for key, one in self.disk.files.items() if key in kept}

    def request(self, token: int) -> Beat:
        return Beat(
            self.name,
            token,
            ("echo",),
            want=2,
            renew=True,
            finished=tuple(self.done),
            returned=self.unknown,
            sessions=tuple(self.reports),
            adopt=2,
        )

    def receive(self, reply: Reply) -> None:
        self.disk.files = {key: one for key, one in self.disk.files.items() if reply.sessions.get(key) == one[0]}
        known = {task.id for task in reply.leased}
        self.unknown = tuple(Returned(task, held, "unknown") for task, held in reply.held.items() if task not in known)
        self.done, self.reports = [], []
        for task in reply.leased:
            session = self.hub.sessions.get(task.session or "")
            if session is None or task.lease is None or not self.open(session):
                self.unknown += (Returned(task.id, task.lease.token if task.lease else 1, "not here"),)
                continue
            epoch, count = self.disk.files[session.id]
            self.disk.files[session.id] = (epoch, count + 1)
            result = TaskResult(success=True, output=f"{count + 1}")
            self.done.append(Finished(task.id, task.lease.token, result))
            if self.runtime.randbits(1):
                self.save(session.id, epoch, count + 1)

    def open(self, session: Session) -> bool:
        """Have its files: those that are here, of a checkpoint, or none at all."""
        if session.worker_id != self.name:
            return False
        here = self.disk.files.get(session.id)
        if here is not None and here[0] == session.epoch:
            return True
        start = session.restore_from
        if start is None and session.state is not SessionState.NEW:
            self.reports.append(SessionReport(id=session.id, epoch=session.epoch, lost=f"no files on {self.name}"))
            return False
        self.disk.files[session.id] = (session.epoch, self.told.points[start] if start is not None else 0)
        self.reports.append(SessionReport(id=session.id, epoch=session.epoch, opened=True, restored_from=start))
        return True

    def save(self, session_id: str, epoch: int, count: int) -> None:
        point = f"c{self.runtime.randbits(40)}"
        self.told.points[point] = count
        made = Checkpoint(id=point, created_at=stamp(self.runtime.now()), epoch=epoch, worker=self.name)
        try:
            self.hub.sessions.record_checkpoint(session_id, epoch, made, 3)
        except (LeaseLost, NotFound):
            self.disk.files.pop(session_id, None)


def caller(session_id: str, told: Told) -> Callable[[SimRuntime, Store], None]:
    """Makes the session and its calls in their order, each repeated until there is an answer."""

    def run(runtime: SimRuntime, store: Store) -> None:
        hub = opened(runtime, store, f"caller-{session_id}")
        for number in range(CALLS):
            while (session_id, number) not in told.results:
                try:
                    if hub.sessions.get(session_id) is None:
                        if number and session_id not in told.destroyed:
                            raise Violation(f"{session_id} is gone")
                        hub.sessions.create(session_id)
                    task = hub.sessions.submit_call(session_id, "echo", {"n": number}, sequence=number)
                    if task.ended:
                        result = task.result.output if task.result is not None else task.cancel_reason
                        told.results[session_id, number] = result
                    if runtime.randbits(4) == 0:
                        hub.sessions.restore(session_id, worker=f"w{runtime.randbits(4) % WORKERS}")
                except SessionLost:
                    told.results[session_id, number] = "lost"
                    restored(hub, session_id, runtime)
                except GhcoordError:
                    pass
                runtime.sleep(runtime.uniform(0, 1))
        told.busy -= 1

    def restored(hub: Hub, session_id: str, runtime: SimRuntime) -> None:
        """Another of the same id, or the same from a checkpoint."""
        try:
            hub.sessions.restore(session_id)
        except NotFound:
            told.destroyed.add(session_id)
            try:
                hub.sessions.destroy(session_id)
                hub.sessions.create(session_id)
            except GhcoordError:
                runtime.sleep(0.2)
        except GhcoordError:
            runtime.sleep(0.2)

    return run


def placed(seed: int) -> Simulation:
    """Three workers that die and pause, three sessions with a caller each."""
    simulation = Simulation(seed)
    told = Told()
    for session_id in SESSIONS:
        simulation.process(f"caller-{session_id}", caller(session_id, told), restarts=0)
    for number in range(WORKERS):
        disk = Machine()
        simulation.process(f"w{number}", worker(f"w{number}", disk, told), restarts=3)
    simulation.run(400_000)
    check(simulation, told)
    return simulation


def check(simulation: Simulation, told: Told) -> None:
    """In every state: all indexes agree, no bound is broken, epochs only rise, each placement's is its own."""
    epochs: dict[tuple[str, int], tuple[int, str | None]] = {}
    last: dict[str, int] = {}
    for snapshot in history(simulation.store, FLEET):
        try:
            check_sessions(snapshot)
        except AssertionError as wrong:
            raise Violation(str(wrong)) from wrong
        for session in SESSION_TABLE.scan(snapshot):
            if session.epoch < last.get(session.id, 0):
                raise Violation(f"the epoch of {session.id} went back")
            last[session.id] = session.epoch
            if session.worker_id is not None:
                holder = epochs.setdefault((session.id, session.epoch), (session.epoch, session.worker_id))[1]
                if holder != session.worker_id:
                    raise Violation(f"{session.id} is on {session.worker_id} under the epoch of {holder}")
        for task in TASK_TABLE.scan(snapshot):
            if task.session is not None and 1 < sum(one.outcome == "succeeded" for one in task.history):
                raise Violation(f"{task.id} succeeded more than once")
    for event in events(simulation.store, FLEET):
        reason = event.get("reason", "") if event["kind"] == "session lost" else ""
        if "no files on" in reason and not reason.endswith(f"no files on {event['worker']}"):
            raise Violation(f"a worker that did not have it lost a session: {event}")
    finals = {task.id: task for task in TASK_TABLE.scan(history_end(simulation))}
    if any(task.state is State.LEASED for task in finals.values()):
        return  # a caller that was told that it is lost does not wait for it
    for session_id in SESSIONS:
        answers = [told.results[session_id, number] for number in range(CALLS)]
        counts = [int(one) for one in answers if one.isdigit()]
        if Counter(answers).get("lost", 0) == 0 and len(counts) < CALLS:
            raise Violation(f"{session_id} answered {answers}")


def history_end(simulation: Simulation) -> Any:
    *_, end = history(simulation.store, FLEET)
    return end


def run(seeds: range) -> Counter[str]:
    """Run each seed; how often what happened."""
    found: Counter[str] = Counter()
    for seed in seeds:
        try:
            simulation = placed(seed)
        except (Violation, SimulationFailure, AssertionError) as wrong:
            raise Violation(f"seed {seed}: {wrong}") from wrong
        found["crashes"] += simulation.crashes
        found.update(event["kind"] for event in events(simulation.store, FLEET))
    return found


@pytest.mark.parametrize("seeds", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_sessions_hold(seeds: int) -> None:
    """With deaths at any point, pauses longer than a lease, lost replies, and callers that repeat themselves."""
    found = run(range(seeds))
    assert found["crashes"] > 0
    assert found["session placed"] > 3 * seeds
    if seeds > 10:
        for kind in ("session parked", "session lost", "session taken back", "session rolled back", "session saved"):
            assert found[kind] > 0, kind


def first_found(seeds: int = 40) -> str:
    for seed in range(seeds):
        try:
            placed(seed)
        except (Violation, SimulationFailure, AssertionError) as wrong:
            return str(wrong)
    pytest.fail(f"not found in {seeds} seeds")


@pytest.mark.slow
def test_a_placement_without_an_epoch_of_its_own_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: whoever gets a session has it under the epoch of the one before."""
    real = model.placed
    monkeypatch.setattr(
        model, "placed", lambda session, worker, revision: real(session, worker, revision=session.epoch)
    )
    assert "under the epoch of" in first_found()
