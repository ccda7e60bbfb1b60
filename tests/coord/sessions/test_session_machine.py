"""Sessions against a model in plain Python: any order of what callers, workers and death do, on both stores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from ghcoord.errors import LeaseLost, NoCapacity, NotFound, SessionLost, UsageError
from ghcoord.hub import Hub
from ghcoord.model.session import SessionReport
from ghcoord.model.task import State, Task
from tests.coord.sessions.checks import check_world, saved, worker
from tests.coord.test_machines import Machine, on_disk, run
from tests.coord.world import BAD, GOOD, Daemon

SESSIONS = ("s1", "s2", "s3", "s4")
WORKERS = {"w1": 2, "w2": 1}
"""How many sessions each takes."""


@dataclass
class Known:
    """What the model knows of a session."""

    worker: str | None
    last: str
    epoch: int
    state: str = "new"
    points: list[tuple[str, bool]] = field(default_factory=list)
    start: str | None = None
    calls: dict[str, str] = field(default_factory=dict)
    """Open calls: ``queued`` or the worker that runs it."""
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def published(self) -> str | None:
        return next((name for name, public in reversed(self.points) if public), None)

    def leave(self) -> None:
        """Its worker is gone."""
        self.worker = None
        if self.state == "active" or (self.state == "parked" and dict(self.points).get(self.start or "") is not True):
            self.state, self.start = ("parked", self.published) if self.published else ("lost", self.start)

    def drop_queued(self) -> None:
        self.calls = {task: who for task, who in self.calls.items() if who != "queued"}


class SessionMachine(Machine):
    """Four sessions on two workers that die, drain and come back; every command there is."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, Known] = {}
        self.daemons: dict[str, Daemon] = {}
        self.leases: dict[str, Task] = {}
        self.stale: list[tuple[str, str, int]] = []
        """(worker, session, epoch) of placements that are over."""
        self.points = 0
        for name in WORKERS:
            self.register(name)

    @property
    def hub(self) -> Hub:
        return self.hubs["a"]

    def had(self, worker_id: str) -> list[str]:
        return sorted(name for name, one in self.known.items() if one.worker == worker_id)

    def room(self, worker_id: str) -> int:
        return WORKERS[worker_id] - len(self.had(worker_id)) if worker_id in self.daemons else 0

    def give_back(self, worker_id: str) -> None:
        """The calls that the worker runs are queued again, or end with their session."""
        for one in self.known.values():
            one.calls = {task: "queued" if who == worker_id else who for task, who in one.calls.items()}
        self.leases = {task: one for task, one in self.leases.items() if one.lease and one.lease.worker != worker_id}

    def end(self, worker_id: str) -> None:
        self.give_back(worker_id)
        for name in self.had(worker_id):
            self.leave(name)

    def leave(self, name: str) -> None:
        one = self.known[name]
        self.stale.append((one.worker or "", name, one.epoch))
        one.leave()
        if one.state == "lost":
            one.drop_queued()

    # -- workers

    def register(self, name: str) -> None:
        self.daemons[name] = worker(self.hubs["b"], name, max_sessions=WORKERS[name])

    @rule(name=st.sampled_from(list(WORKERS)))
    def come(self, name: str) -> None:
        """A new process of the worker: it keeps its sessions, and takes back what it still has."""
        self.give_back(name)
        self.register(name)
        mine = {key: one.epoch for key, one in self.known.items() if one.last == name}
        room = self.room(name)
        kept = {key: epoch for key, epoch in mine.items() if self.known[key].worker == name}
        away = sorted(key for key in mine if self.known[key].worker is None)
        kept |= {key: mine[key] for key in away[:room]}
        assert kept == self.hub.sessions.reattach(name, self.daemons[name].token, mine)
        for key in away[:room]:
            one = self.known[key]
            one.worker, one.state = name, "new" if one.state == "new" else "active"

    @precondition(lambda self: self.daemons)
    @rule(data=st.data(), how=st.sampled_from(["dies", "deregisters"]))
    def go(self, data: Any, how: str) -> None:
        """It dies and is recovered, or deregisters."""
        name = data.draw(st.sampled_from(sorted(self.daemons)))
        if how == "dies":
            self.hub.workers.set_status(name, "offline")
            assert len(self.had(name)) == self.hub.workers.recover(name).sessions
        else:
            self.hub.workers.deregister(name)
        self.end(name)
        del self.daemons[name]

    @precondition(lambda self: self.daemons)
    @rule(data=st.data(), want=st.integers(0, 3), adopt=st.integers(0, 2))
    def beat(self, data: Any, want: int, adopt: int) -> None:
        """A tick: sessions with calls are adopted as far as there is room, and only own calls are leased."""
        name = data.draw(st.sampled_from(sorted(self.daemons)))
        waiting = sorted(
            key for key, one in self.known.items() if one.worker is None and one.state != "lost" and one.calls
        )
        taken = waiting[: min(adopt, max(0, self.room(name)))]
        reply = self.daemons[name].beat(want, adopt=adopt)
        assert {*self.had(name), *taken} == set(reply.sessions)
        for key in taken:
            one = self.known[key]
            assert reply.sessions[key] > one.epoch
            one.worker, one.last, one.epoch = name, name, reply.sessions[key]
        free = sum("queued" in one.calls.values() for one in self.known.values() if one.worker == name)
        assert bool(reply.leased) is bool(want and free)
        for task in reply.leased:
            one = self.known[task.session or ""]
            assert (name, "queued") == (one.worker, one.calls[task.id])
            one.calls[task.id] = name
            self.leases[task.id] = task

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), success=st.booleans())
    def finish(self, data: Any, success: bool) -> None:
        """A call ends; its result is the caller's."""
        task = self.leases.pop(data.draw(st.sampled_from(sorted(self.leases))))
        assert task.lease is not None
        assert task.session is not None
        reply = self.daemons[task.lease.worker].report(task, GOOD if success else BAD)
        assert {} == reply.refused
        if task.session in self.known:
            self.known[task.session].calls.pop(task.id, None)

    @rule(data=st.data(), lost=st.booleans())
    def say(self, data: Any, lost: bool) -> None:
        """A worker opens or loses a session that it has."""
        name = data.draw(st.sampled_from(SESSIONS))
        one = self.known.get(name)
        if one is None or one.worker is None:
            return
        report = SessionReport(id=name, epoch=one.epoch, opened=not lost, lost="broken" if lost else "")
        holder = one.worker
        reply = self.daemons[holder].beat(sessions=[report])
        if lost:
            self.stale.append((holder, name, one.epoch))
            one.worker, one.state = None, "lost"
            one.drop_queued()
        else:
            one.state = "active"
        assert (name in reply.sessions) is not lost

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def haunt(self, data: Any) -> None:
        """What a worker says under a placement that is over changes nothing."""
        name, session_id, epoch = data.draw(st.sampled_from(self.stale))
        one = self.known.get(session_id)
        if one is not None and one.epoch == epoch and one.worker == name:
            return  # it was taken back
        present = self.hub.sessions.get(session_id)
        if name in self.daemons:
            self.daemons[name].beat(sessions=[SessionReport(id=session_id, epoch=epoch, lost="x", opened=True)])
        assert {} == self.hub.sessions.park(name, {session_id: epoch})
        if present is not None and (one is None or one.worker is None or one.epoch != epoch):
            with pytest.raises(LeaseLost):
                self.hub.sessions.record_checkpoint(session_id, epoch, saved(present))
        assert present == self.hub.sessions.get(session_id)

    @rule(name=st.sampled_from(SESSIONS), public=st.booleans(), keep=st.integers(1, 3))
    def save(self, name: str, public: bool, keep: int) -> None:
        """Its worker records a checkpoint."""
        one = self.known.get(name)
        present = self.hub.sessions.get(name)
        if one is None or one.worker is None or present is None:
            return
        self.points += 1
        point = f"c{self.points}"
        one.points.append((point, public))
        kept = [
            entry for at, entry in enumerate(one.points) if at >= len(one.points) - keep or entry[0] == one.published
        ]
        gone = [entry[0] for entry in one.points if entry not in kept]
        one.points, one.start = kept, point
        assert gone == self.hub.sessions.record_checkpoint(
            name, one.epoch, saved(present, point, published=public), keep
        )

    @rule(name=st.sampled_from(SESSIONS))
    def park(self, name: str) -> None:
        """Its worker leaves it."""
        one = self.known.get(name)
        if one is None or one.worker is None:
            return
        holder = one.worker
        running = [task for task, who in one.calls.items() if who == holder]
        if running:
            return  # a worker that drains has ended them
        self.leave(name)
        assert {name: one.state} == self.hub.sessions.park(holder, {name: one.epoch})

    # -- callers

    @rule(name=st.sampled_from(SESSIONS))
    def create(self, name: str) -> None:
        """On the worker with the fewest, if there is one with room."""
        able = sorted((len(self.had(one)), one) for one in self.daemons if self.room(one) > 0)
        if name in self.known:
            with pytest.raises(UsageError, match="there already"):
                self.hub.sessions.create(name)
        elif not able:
            with pytest.raises(NoCapacity):
                self.hub.sessions.create(name)
        else:
            made = self.hub.sessions.create(name)
            assert able[0][1] == made.worker_id
            self.known[name] = Known(made.worker_id, able[0][1], made.epoch)

    @rule(name=st.sampled_from(SESSIONS))
    def destroy(self, name: str) -> None:
        """With its calls."""
        if name not in self.known:
            with pytest.raises(NotFound):
                self.hub.sessions.destroy(name)
            return
        self.hub.sessions.destroy(name)
        gone = self.known.pop(name)
        self.stale.append((gone.last, name, gone.epoch))

    @rule(name=st.sampled_from(SESSIONS), key=st.sampled_from([None, None, "k", "l"]))
    def call(self, name: str, key: str | None) -> None:
        """A call is queued once for each key, where somebody can run it."""
        one = self.known.get(name)
        if one is None:
            with pytest.raises(NotFound):
                self.hub.sessions.submit_call(name, "echo", {"key": key}, key=key)
            return
        before = self.hub.tasks.get(one.keys[key]) if key in one.keys else None
        again = before is not None and before.state is State.CANCELLED and not before.attempt
        if before is not None and not again:
            assert before.id == self.hub.sessions.submit_call(name, "echo", {"key": key}, key=key).id
            return
        if one.state == "lost":
            with pytest.raises(SessionLost):
                self.hub.sessions.submit_call(name, "echo", {"key": key}, key=key)
            return
        if not again and one.worker is None and not any(self.room(who) > 0 for who in self.daemons):
            with pytest.raises(NoCapacity):
                self.hub.sessions.submit_call(name, "echo", {"key": key}, key=key)
            return
        task = self.hub.sessions.submit_call(name, "echo", {"key": key}, key=key)
        assert (name, State.QUEUED) == (task.session, task.state)
        one.calls[task.id] = "queued"
        if key is not None:
            assert before is None or before.id == task.id
            one.keys[key] = task.id

    @rule(name=st.sampled_from(SESSIONS))
    def restore(self, name: str) -> None:
        """From the newest checkpoint in the hub: where it is, elsewhere, or as soon as there is room."""
        one = self.known.get(name)
        if one is None or not one.points or one.published is None:
            return
        if any(who != "queued" for who in one.calls.values()):
            with pytest.raises(UsageError, match="are running"):
                self.hub.sessions.restore(name)
            return
        made = self.hub.sessions.restore(name)
        self.stale.append((one.last, name, one.epoch))
        holder, one.worker = one.worker, None
        able = sorted((len(self.had(who)), who) for who in self.daemons if self.room(who) > 0)
        expected = holder if holder is not None else able[0][1] if able else None
        assert (expected, "parked", one.published) == (made.worker_id, made.state, made.restore_from)
        assert made.epoch > one.epoch
        one.worker, one.last, one.epoch = expected, expected or one.last, made.epoch
        one.state, one.start = "parked", one.published

    # -- what must hold

    @invariant()
    def the_hub_is_the_model(self) -> None:
        """Every record is what the model says, and all indexes agree with the records."""
        found = {one.id: one for one in self.hub.sessions.list()}
        assert set(self.known) == set(found)
        for name, one in self.known.items():
            record = found[name]
            assert (one.worker, one.state, one.epoch) == (record.worker_id, record.state, record.epoch), name
            assert one.points == [(point.id, point.published) for point in record.checkpoints]
            assert one.start == record.restore_from, name
        tasks = {task.id: task for task in self.hub.tasks.list(("queued", "leased")) if task.session in self.known}
        expected = {task: who for one in self.known.values() for task, who in one.calls.items()}
        assert expected == {task.id: "queued" if task.lease is None else task.lease.worker for task in tasks.values()}
        check_world(self.world)


LocalSessionMachine = on_disk(SessionMachine)


@pytest.mark.parametrize(
    ("machine", "examples", "steps"),
    [
        (SessionMachine, 8, 30),
        pytest.param(SessionMachine, 60, 50, marks=pytest.mark.slow),
        pytest.param(LocalSessionMachine, 10, 40, marks=pytest.mark.slow),
    ],
)
def test_sessions_follow_the_model(machine: type[Machine], examples: int, steps: int) -> None:
    """Whoever calls, dies, drains, comes back or restores, in any order."""
    run(machine, examples, steps)
