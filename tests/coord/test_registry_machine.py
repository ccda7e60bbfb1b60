"""The registry against a model in plain Python: any order of its commands, on both stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from ghcoord.coord.workers.reaper import Reaped
from ghcoord.coord.workers.recovery import STALE_AFTER
from ghcoord.coord.workers.tick import Beat
from ghcoord.errors import NoCapacity, NotFound, UsageError, WorkerReplaced
from ghcoord.model.task import LOST_LIMIT, State
from tests.coord.test_machines import MARGIN, Machine, on_disk, run

IDS = st.sampled_from(["w1", "w2", "w3"])
ACTORS = st.sampled_from(["a", "b"])
STATUSES = st.sampled_from(["active", "busy", "draining", "offline"])


@dataclass
class Known:
    """What the model knows of a registered worker."""

    token: int
    ttl: float
    slots: int
    sessions: int
    last: float
    renewals: int = 0
    status: str = "active"
    drain: bool = False
    active_tasks: int = 0
    active_sessions: int = 0

    @property
    def alive(self) -> bool:
        return self.status != "offline"


@dataclass
class Job:
    """What the model knows of a task; its number is its place in the queue."""

    holder: str | None = None
    lost: int = 0

    @property
    def queued(self) -> bool:
        return self.holder is None and self.lost < LOST_LIMIT


class RegistryMachine(Machine):
    """Three workers, whose newest registration counts; two actors, and a third that watches by its own clock."""

    def __init__(self) -> None:
        super().__init__()
        self.workers: dict[str, Known] = {}
        self.given: dict[str, list[int]] = {}
        self.jobs: dict[str, Job] = {}
        self.locks: dict[str, int] = {}
        self.seen: dict[str, tuple[int, int, float]] = {}
        self.highest = 0
        self.renewals = 0
        self.register("w1", "a", 2.0, 1, 1)
        self.register("w2", "b", 10.0, 2, 2)

    # -- the model's own judgements

    def expired(self, worker_id: str) -> bool:
        known = self.workers[worker_id]
        return known.alive and self.now > known.last + known.ttl + MARGIN[self.where]

    def stood_still(self, worker_id: str) -> bool:
        """What the watching hub makes of it: the same lease before its eyes for ttl and margin."""
        known = self.workers[worker_id]
        token, renewal, since = self.seen.get(worker_id, (0, 0, self.now))
        same = (token, renewal) == (known.token, known.renewals)
        return known.alive and same and self.now - since > known.ttl + MARGIN[self.where]

    def look(self) -> None:
        for worker_id, known in self.workers.items():
            if known.alive and self.seen.get(worker_id, ())[:2] != (known.token, known.renewals):
                self.seen[worker_id] = (known.token, known.renewals, self.now)
        self.seen = {name: one for name, one in self.seen.items() if name in self.workers and self.workers[name].alive}

    def renewed(self, known: Known) -> None:
        self.renewals += 1
        known.last, known.renewals = self.now, self.renewals

    def held(self, worker_id: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.holder == worker_id]

    def lose(self, worker_id: str) -> int:
        held = self.held(worker_id)
        for job in held:
            job.holder, job.lost = None, job.lost + 1
        return len(held)

    def recovered(self, worker_id: str) -> tuple[int, int, int]:
        """Take everything from a worker; (locks, tasks, sessions) as the hub counts them."""
        known = self.workers[worker_id]
        locks, sessions = self.locks.pop(worker_id, 0), known.active_sessions
        known.status, known.active_tasks, known.active_sessions = "offline", 0, 0
        return locks, self.lose(worker_id), sessions

    def recover_dead(self, dead: list[str]) -> dict[str, tuple[int, int, int]]:
        gone = {name for name, known in self.workers.items() if not known.alive and self.held(name)}
        return {name: self.recovered(name) for name in sorted({*dead, *gone})}

    # -- commands

    @rule(
        worker_id=IDS,
        by=ACTORS,
        ttl=st.sampled_from([2.0, 10.0]),
        slots=st.integers(0, 2),
        sessions=st.integers(0, 2),
    )
    def register(self, worker_id: str, by: str, ttl: float, slots: int, sessions: int) -> None:
        """The newest registration wins, and what the one before held is queued."""
        answer = self.hubs[by].workers.register(worker_id, ttl=ttl, capacity=slots, max_sessions=sessions)
        word = "updated" if worker_id in self.workers else "registered"
        assert (True, f"worker {worker_id} {word}", round(ttl / 3, 3)) == answer[:3]
        assert answer.token > self.highest, "tokens strictly increase"
        self.highest = answer.token
        self.lose(worker_id)
        self.given.setdefault(worker_id, []).append(answer.token)
        self.workers[worker_id] = known = Known(answer.token, ttl, slots, sessions, self.now)
        self.renewed(known)

    def token(self, data: Any, worker_id: str, *, required: bool = False) -> int | None:
        """A token that the worker was ever given, or none at all."""
        given: list[int | None] = list(self.given.get(worker_id, []))
        return data.draw(st.sampled_from((given or [1]) if required else [None, *given]))  # type: ignore[no-any-return]

    @rule(worker_id=IDS, by=ACTORS, data=st.data(), sessions=st.sampled_from([None, 0, 1, 2]))
    def heartbeat(self, worker_id: str, by: str, data: Any, sessions: int | None) -> None:
        """With a token only the newest registration that is alive may; without one it revives the worker."""
        token, known = self.token(data, worker_id), self.workers.get(worker_id)
        beat = self.hubs[by].workers.heartbeat
        if known is None:
            with pytest.raises(NotFound):
                beat(worker_id, active_sessions=sessions, token=token)
        elif token is not None and (token != known.token or not known.alive):
            with pytest.raises(WorkerReplaced):
                beat(worker_id, active_sessions=sessions, token=token)
        else:
            assert beat(worker_id, active_sessions=sessions, token=token).acknowledged
            self.renewed(known)
            known.status = known.status if known.alive else "active"
            known.active_sessions = known.active_sessions if sessions is None else sessions

    @rule(worker_id=IDS, by=ACTORS, status=STATUSES)
    def set_status(self, worker_id: str, by: str, status: str) -> None:
        known = self.workers.get(worker_id)
        if known is None:
            with pytest.raises(NotFound):
                self.hubs[by].workers.set_status(worker_id, status)
            return
        assert status == self.hubs[by].workers.set_status(worker_id, status).status
        known.status, known.drain = status, status == "draining"

    @rule(worker_id=IDS, data=st.data(), want=st.integers(0, 2), draining=st.booleans())
    def tick(self, worker_id: str, data: Any, want: int, draining: bool) -> None:
        """A daemon's tick: the newest registration gets tasks and the status that follows from them."""
        token, known = self.token(data, worker_id, required=True), self.workers.get(worker_id)
        task_id = f"t{len(self.jobs)}"
        self.hubs["a"].tasks.submit("echo", id=task_id)
        self.jobs[task_id] = Job()
        request = Beat(worker_id, token or 1, tools=("echo",), want=want, renew=True, draining=draining)
        reply = self.hubs["a"].beat(request)
        if known is None or known.token != token or not known.alive:
            assert reply.lost
            assert reply.replaced is (known is not None and known.token != token)
            assert [] == reply.leased
            return
        idle = draining or known.drain
        ready = [name for name, job in self.jobs.items() if job.queued]
        # Without slots it has calls of its own sessions only.
        expected = [] if idle or not known.slots else ready[:want]
        assert (expected, known.drain) == ([task.id for task in reply.leased], reply.drain)
        for name in expected:
            self.jobs[name].holder = worker_id
        known.active_tasks = len(self.held(worker_id))
        busy = known.active_tasks >= known.slots > 0
        known.status = "draining" if idle else "busy" if busy else "active"
        self.renewed(known)

    @rule(worker_id=IDS)
    def lock(self, worker_id: str) -> None:
        """Workers hold locks, registered or not."""
        got = self.hubs["a"].locks.acquire(f"of {worker_id}", worker_id, ttl=86_400.0)
        assert (got is None) is (worker_id in self.locks)
        self.locks[worker_id] = 1

    @rule(worker_id=IDS, by=ACTORS, data=st.data())
    def deregister(self, worker_id: str, by: str, data: Any) -> None:
        """A process that was replaced cannot; its tasks go back, its locks are its own affair."""
        token, known = self.token(data, worker_id), self.workers.get(worker_id)
        if known is None or (token is not None and token != known.token):
            with pytest.raises(NotFound if known is None else WorkerReplaced):
                self.hubs[by].workers.deregister(worker_id, token=token)
            return
        self.hubs[by].workers.deregister(worker_id, token=token)
        self.lose(worker_id)
        del self.workers[worker_id]

    # -- the dead

    @rule(by=ACTORS)
    def mark_stale(self, by: str) -> None:
        """Whose lease is over goes offline and keeps what it holds."""
        expected = sorted(name for name in self.workers if self.expired(name))
        assert expected == self.hubs[by].workers.mark_stale()
        for name in expected:
            self.workers[name].status, self.workers[name].active_tasks = "offline", 0

    @rule(worker_id=IDS, by=ACTORS, look_first=st.booleans())
    def recover(self, worker_id: str, by: str, look_first: bool) -> None:
        """Of a worker whose lease runs nothing is taken; of a dead one everything, as a preview says."""
        known, workers = self.workers.get(worker_id), self.hubs[by].workers
        if known is None or (known.alive and not self.expired(worker_id)):
            for call in (workers.preview_recover, workers.recover):
                with pytest.raises(NotFound if known is None else UsageError):
                    call(worker_id)
            return
        preview = workers.preview_recover(worker_id) if look_first else None
        taken = workers.recover(worker_id)
        assert preview in (None, taken)
        assert self.recovered(worker_id) == taken

    @rule(by=ACTORS, stale_after=st.sampled_from([None, 1.0, 5.0, 15.0, 60.0]))
    def reap(self, by: str, stale_after: float | None) -> None:
        """The dead are recovered and the long gone removed, as a preview says; a threshold under a lease is refused."""
        workers, margin = self.hubs[by].workers, MARGIN[self.where]
        longest = max((known.ttl for known in self.workers.values() if known.alive), default=0.0)
        if stale_after is not None and stale_after < longest + margin:
            for call in (workers.preview_reap, workers.reap_now):
                with pytest.raises(UsageError):
                    call(stale_after)
            return
        preview = workers.preview_reap(stale_after)
        done = workers.reap_now(stale_after)
        assert preview == done
        taken = self.recover_dead([name for name in self.workers if self.expired(name)])
        limit = STALE_AFTER if stale_after is None else stale_after
        gone = [
            name
            for name, known in sorted(self.workers.items())
            if not known.alive and self.now - known.last > max(limit, known.ttl + margin)
        ]
        assert Reaped(taken, gone) == done  # type: ignore[arg-type]
        for name in gone:
            del self.workers[name]

    @rule()
    def tend(self) -> None:
        """The watching hub takes from those that stood still before its own eyes, and from those called offline."""
        self.look()
        expected = self.recover_dead([name for name in self.workers if self.stood_still(name)])
        assert expected == self.hubs["c"].workers.tend()

    @rule(seconds=st.sampled_from([0.303, 1.111, 3.717, 20.023, 307.307]))
    def wait(self, seconds: float) -> None:
        self.world.runtime.advance(seconds)

    # -- what must always hold

    @invariant()
    def the_records_are_the_model(self) -> None:
        found = {worker.id: worker for worker in self.hubs["b"].workers.list()}
        assert {
            name: (k.token, k.status, k.drain, k.active_tasks, k.active_sessions, k.ttl)
            for name, k in self.workers.items()
        } == {
            name: (w.token, w.status, w.drain_requested, w.capacity.active_tasks, w.active_sessions, w.ttl)
            for name, w in found.items()
        }
        for name, known in self.workers.items():
            assert pytest.approx(known.last, abs=0.001) == found[name].last_heartbeat.timestamp()

    @invariant()
    def what_workers_hold_is_the_model(self) -> None:
        tasks = self.world.check_index()
        assert {name: (job.holder, job.lost) for name, job in self.jobs.items()} == {
            name: (task.lease.worker if task.lease else None, task.lost) for name, task in tasks.items()
        }
        assert {name for name, job in self.jobs.items() if job.queued} == {
            name for name, task in tasks.items() if task.state is State.QUEUED
        }
        assert sorted(self.locks) == sorted(lock.owner for lock in self.hubs["b"].locks.list())

    @invariant()
    def the_questions_are_answered(self) -> None:
        workers = self.hubs["b"].workers
        assert len(self.workers) == workers.count()
        assert sorted(name for name in self.workers if self.expired(name)) == workers.stale()
        free = [name for name, k in sorted(self.workers.items()) if k.alive and k.slots > k.active_tasks]
        assert free == [worker.id for worker in workers.list(has_capacity=True)]
        room = [
            name
            for name, k in sorted(self.workers.items())
            if k.status == "active" and not self.expired(name) and k.active_sessions < k.sessions
        ]
        if room:
            assert room[0] == workers.find_with_capacity().id
        else:
            with pytest.raises(NoCapacity):
                workers.find_with_capacity()


def test_the_registry_follows_the_model() -> None:
    """Any order of commands: one registration an id, nothing lost or held twice, the dead told from the living."""
    run(RegistryMachine, 15, 30)


def test_the_same_on_disk() -> None:
    """The local store behaves as the one in memory."""
    run(on_disk(RegistryMachine), 2, 10)


@pytest.mark.slow
@pytest.mark.parametrize("machine", [RegistryMachine, on_disk(RegistryMachine)])
def test_far_more_of_it(machine: type[Machine]) -> None:
    """As above, longer."""
    run(machine, 250 if machine.where == "memory" else 25, 50)
