"""Locks and the queue against a model in plain Python: any order of commands, on both stores."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from ghcoord.coord.tick import Finished, Returned
from ghcoord.errors import FenceRefused, IllegalTransition, LeaseLost, NotFound, NotOwner
from ghcoord.model.task import LOST_LIMIT, State, Task
from tests.coord.world import BAD, GOOD, Daemon, World, token_of

MARGIN = {"memory": 0.5, "local": 2.0}
OWNERS = st.sampled_from(["a", "b", "c"])
NAMES = st.sampled_from(["x", "y"])


class Machine(RuleBasedStateMachine):
    """A world in memory, or on disk."""

    where = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp()) if self.where == "local" else None
        self.world = World(self.folder / "hub.git" if self.folder else None)
        self.hubs = {actor: self.world.open(actor) for actor in ("a", "b", "c")}

    @property
    def now(self) -> float:
        return self.world.runtime.now()

    def teardown(self) -> None:
        self.world.close()
        if self.folder is not None:
            shutil.rmtree(self.folder)


@dataclass
class Held:
    owner: str
    token: int
    ttl: float
    since: float


class LockMachine(Machine):
    """Two locks and three owners, of whom each knows the tokens it was ever given."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[str, Held] = {}
        self.given: dict[tuple[str, str], list[int]] = {}
        self.written: dict[str, Any] = {}
        self.highest = 0

    def over(self, name: str) -> bool:
        held = self.held[name]
        return self.now > held.since + held.ttl + MARGIN[self.where]

    @rule(name=NAMES, owner=OWNERS, ttl=st.sampled_from([1.0, 5.0, 20.0]))
    def acquire(self, name: str, owner: str, ttl: float) -> None:
        got = self.hubs[owner].locks.acquire(name, ttl=ttl)
        free = name not in self.held or self.over(name)
        assert free is (got is not None)
        if got is not None:
            assert got.token > self.highest, "tokens strictly increase"
            self.highest = got.token
            self.held[name] = Held(owner, got.token, ttl, self.now)
            self.given.setdefault((name, owner), []).append(got.token)

    def known(self, data: Any, name: str, owner: str) -> int | None:
        return data.draw(st.sampled_from([None, *self.given.get((name, owner), [])]))  # type: ignore[no-any-return]

    def expected(self, name: str, owner: str, token: int | None) -> type[Exception] | None:
        held = self.held.get(name)
        if held is None:
            return NotFound if token is None else LeaseLost
        if token is not None and held.token != token:
            return LeaseLost
        return None if held.owner == owner else NotOwner

    @rule(name=NAMES, owner=OWNERS, data=st.data())
    def renew(self, name: str, owner: str, data: Any) -> None:
        token = self.known(data, name, owner)
        error = self.expected(name, owner, token)
        if error is not None:
            with pytest.raises(error):
                self.hubs[owner].locks.renew(name, owner, token)
            return
        assert self.held[name].token == self.hubs[owner].locks.renew(name, owner, token).token
        self.held[name].since = self.now

    @rule(name=NAMES, owner=OWNERS, data=st.data())
    def release(self, name: str, owner: str, data: Any) -> None:
        token = self.known(data, name, owner)
        error = self.expected(name, owner, token)
        if error is not None:
            with pytest.raises(error):
                self.hubs[owner].locks.release(name, owner, token)
            return
        self.hubs[owner].locks.release(name, owner, token)
        del self.held[name]

    @rule(name=NAMES, owner=OWNERS, data=st.data())
    def write(self, name: str, owner: str, data: Any) -> None:
        """A fenced write succeeds exactly with the present grant's token."""
        token = self.known(data, name, owner)
        if token is None:
            return
        held = self.held.get(name)
        if held is not None and held.token == token:
            self.hubs[owner].memory.set(name, token, fence=(name, token))
            self.written[name] = token
        else:
            with pytest.raises(FenceRefused):
                self.hubs[owner].memory.set(name, "wrong", fence=(name, token))

    @rule(name=NAMES, by=OWNERS)
    def force(self, name: str, by: str) -> None:
        if name in self.held:
            assert self.held.pop(name).token == self.hubs[by].locks.force_unlock(name).token
        else:
            with pytest.raises(NotFound):
                self.hubs[by].locks.force_unlock(name)

    @rule(by=OWNERS)
    def clean(self, by: str) -> None:
        expired = [name for name in self.held if self.over(name)]
        assert len(expired) == self.hubs[by].locks.clean()
        for name in expired:
            del self.held[name]

    @rule(owner=OWNERS, by=OWNERS)
    def release_all(self, owner: str, by: str) -> None:
        own = [name for name, held in self.held.items() if held.owner == owner]
        assert len(own) == self.hubs[by].locks.release_all(owner)
        for name in own:
            del self.held[name]

    @rule(seconds=st.sampled_from([0.1, 0.4, 1.0, 3.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.world.runtime.advance(seconds)

    @invariant()
    def the_records_are_the_model(self) -> None:
        found = {lock.name: lock for lock in self.hubs["a"].locks.list(include_expired=True)}
        assert {n: (h.owner, h.token, h.ttl) for n, h in self.held.items()} == {
            n: (lock.owner, lock.token, lock.ttl) for n, lock in found.items()
        }
        for name in ("x", "y"):
            alive = name in self.held and self.now < self.held[name].since + self.held[name].ttl - 0.001
            if alive or name not in self.held:
                assert alive is self.hubs["b"].locks.is_locked(name)
            assert self.written.get(name) == self.hubs["c"].memory.get(name)


@dataclass
class Wanted:
    """What the model knows of a task."""

    priority: int
    place: int
    tool: str
    allowed: int
    state: State = State.QUEUED
    attempt: int = 0
    failures: int = 0
    lost: int = 0
    holder: str | None = None
    token: int = 0
    asked_to_cancel: bool = False
    due: float = 0.0
    successes: int = 0
    reported: set[tuple[str, int]] = field(default_factory=set)


class QueueMachine(Machine):
    """Two workers with other tools each, tasks of two tools, and every command there is."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: dict[str, Wanted] = {}
        self.places = 0
        self.daemons: dict[str, Daemon] = {}
        self.leases: list[Task] = []
        self.highest = 0
        for worker, tools in (("w1", ("echo",)), ("w2", ("shell", "echo"))):
            self.register(worker, tools)

    def register(self, worker: str, tools: tuple[str, ...]) -> None:
        self.daemons[worker] = Daemon(self.hubs["a"], worker, slots=5, tools=tools)

    @rule(
        tool=st.sampled_from(["echo", "shell"]),
        priority=st.integers(0, 2),
        retries=st.integers(0, 2),
        count=st.integers(1, 3),
    )
    def submit(self, tool: str, priority: int, retries: int, count: int) -> None:
        for _ in range(count):
            task_id = f"t{len(self.tasks)}"
            self.hubs["b"].tasks.submit(tool, id=task_id, priority=priority, retries=retries, backoff=2.0)
            self.tasks[task_id] = Wanted(priority, self.places, tool, retries + 1)
            self.places += 1

    def ready(self, tools: tuple[str, ...]) -> list[str]:
        able = [(-t.priority, t.place, k) for k, t in self.tasks.items() if t.state is State.QUEUED and t.tool in tools]
        return [task_id for _, _, task_id in sorted(able)]

    @rule(worker=st.sampled_from(["w1", "w2"]), want=st.integers(1, 3))
    def lease(self, worker: str, want: int) -> None:
        for task in self.tasks.values():
            if task.state is State.FAILED and task.due <= self.now:
                task.state = State.QUEUED
        daemon = self.daemons[worker]
        expected = self.ready(daemon.tools)[:want]
        got = daemon.lease(want)
        assert expected == [task.id for task in got], "the best ones, in order"
        for task in got:
            model = self.tasks[task.id]
            model.state, model.holder, model.token, model.attempt = (
                State.LEASED,
                worker,
                token_of(task),
                model.attempt + 1,
            )
            assert (model.attempt, True) == (task.attempt, model.token > self.highest or len(got) > 1)
            self.leases.append(task)
        if got:
            assert token_of(got[0]) > self.highest
            self.highest = token_of(got[0])

    def end_lease(self, model: Wanted, state: State) -> None:
        model.state, model.holder = (State.CANCELLED if model.asked_to_cancel else state), None

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), success=st.booleans(), again=st.booleans())
    def finish(self, data: Any, success: bool, again: bool) -> None:
        """Any lease that was ever given may be reported, also late, also twice."""
        task = data.draw(st.sampled_from(self.leases))
        assert task.lease is not None
        model, key = self.tasks[task.id], (task.lease.worker, token_of(task))
        holds = model.state is State.LEASED and (model.holder, model.token) == key
        for _ in range(1 + again):
            reply = self.hubs["a"].beat(self.report(task, success))
            assert (holds or key in model.reported) is (task.id not in reply.refused)
            if not holds:
                continue
            holds = False
            model.reported.add(key)
            if success:
                model.asked_to_cancel = False
                self.end_lease(model, State.SUCCEEDED)
                model.successes += 1
            elif model.asked_to_cancel:
                self.end_lease(model, State.CANCELLED)
            else:
                model.failures += 1
                self.end_lease(model, State.FAILED if model.failures < model.allowed else State.DEAD)
                record = self.hubs["a"].tasks.get(task.id)
                if model.state is State.FAILED:
                    assert record is not None
                    assert record.due_at is not None
                    model.due = record.due_at.timestamp()
                    full = 2.0**model.failures
                    assert full / 2 - 0.01 <= model.due - self.now <= full

    def report(self, task: Task, success: bool) -> Any:
        from ghcoord.coord.tick import Beat

        assert task.lease is not None
        daemon = self.daemons[task.lease.worker]
        finished = (Finished(task.id, token_of(task), GOOD if success else BAD),)
        return Beat(daemon.worker_id, daemon.token, finished=finished)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def give_back(self, data: Any) -> None:
        task = data.draw(st.sampled_from(self.leases))
        assert task.lease is not None
        model = self.tasks[task.id]
        self.daemons[task.lease.worker].beat(returned=(Returned(task.id, token_of(task), "draining"),))
        if model.state is State.LEASED and (model.holder, model.token) == (task.lease.worker, token_of(task)):
            self.end_lease(model, State.QUEUED)

    def lose(self, worker: str) -> None:
        for model in self.tasks.values():
            if model.holder == worker:
                model.lost += 1
                self.end_lease(model, State.QUEUED if model.lost < LOST_LIMIT else State.DEAD)

    @rule(worker=st.sampled_from(["w1", "w2"]))
    def start_again(self, worker: str) -> None:
        self.register(worker, self.daemons[worker].tools)
        self.lose(worker)

    @rule(worker=st.sampled_from(["w1", "w2"]))
    def die(self, worker: str) -> None:
        """The others notice, take its tasks, and it starts anew."""
        other = self.daemons["w1" if worker == "w2" else "w2"]
        for _ in range(2):
            self.world.runtime.advance(10)
            other.beat(renew=True)
        self.hubs["c"].workers.recover(worker)
        self.lose(worker)
        self.register(worker, self.daemons[worker].tools)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.tasks)))
        model = self.tasks[task_id]
        if model.state in (State.SUCCEEDED, State.DEAD, State.CANCELLED):
            with pytest.raises(IllegalTransition):
                self.hubs["b"].tasks.cancel(task_id)
            return
        self.hubs["b"].tasks.cancel(task_id)
        if model.state is State.LEASED:
            model.asked_to_cancel = True
        else:
            model.state = State.CANCELLED

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def retry(self, data: Any) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.tasks)))
        model = self.tasks[task_id]
        if model.state not in (State.FAILED, State.DEAD, State.CANCELLED):
            with pytest.raises(IllegalTransition):
                self.hubs["b"].tasks.retry(task_id)
            return
        self.hubs["b"].tasks.retry(task_id)
        model.state, model.failures, model.lost, model.asked_to_cancel = State.QUEUED, 0, 0, False
        model.place, self.places = self.places, self.places + 1

    @rule(seconds=st.sampled_from([0.01, 0.6, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.world.runtime.advance(seconds)
        for daemon in self.daemons.values():
            daemon.beat(renew=True)

    @invariant()
    def the_records_are_the_model(self) -> None:
        found = self.world.check_index()
        assert {
            k: (t.state, t.attempt, t.failures, t.lost, t.holder, t.asked_to_cancel if t.holder else None)
            for k, t in self.tasks.items()
        } == {
            k: (
                t.state,
                t.attempt,
                t.failures,
                t.lost,
                t.lease.worker if t.lease else None,
                t.cancel_requested if t.lease else None,
            )
            for k, t in found.items()
        }
        for task_id, model in self.tasks.items():
            outcomes = [attempt.outcome for attempt in found[task_id].history]
            assert model.successes == outcomes.count("succeeded") <= 1
            assert (model.state is State.SUCCEEDED) is (model.successes == 1)

    @invariant()
    def the_lists_are_in_order(self) -> None:
        listed = [task.id for task in self.hubs["c"].tasks.list("queued")]
        assert self.ready(("echo", "shell")) == listed


def on_disk(machine: type[Machine]) -> type[Machine]:
    return type(f"Local{machine.__name__}", (machine,), {"where": "local"})


def run(machine: type[Machine], examples: int, steps: int) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_locks_follow_the_model() -> None:
    """Any order of commands of three owners: one holder, growing tokens, fences that hold."""
    run(LockMachine, 15, 20)


def test_the_queue_follows_the_model() -> None:
    """Any order of commands: index and counts are the records', each task succeeds at most once, order is kept."""
    run(QueueMachine, 12, 20)


@pytest.mark.parametrize("machine", [LockMachine, QueueMachine])
def test_the_same_on_disk(machine: type[Machine]) -> None:
    """The local store behaves as the one in memory."""
    run(on_disk(machine), 2, 10)


@pytest.mark.slow
@pytest.mark.parametrize("machine", [LockMachine, QueueMachine, on_disk(LockMachine), on_disk(QueueMachine)])
def test_far_more_of_it(machine: type[Machine]) -> None:
    """As above, longer."""
    run(machine, 300 if machine.where == "memory" else 30, 60)
