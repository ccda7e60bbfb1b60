"""The queue with all its features against a model in plain Python: any order of commands, on both stores."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from ghcoord.coord.workers.tick import Beat, Finished, Returned
from ghcoord.errors import IllegalTransition
from ghcoord.model.codec import ms_of, stamp
from ghcoord.model.task import ENDED, LOST_LIMIT, State, Task
from ghcoord.model.worker import Capabilities
from tests.coord.test_machines import Machine, on_disk, run
from tests.coord.world import BAD, GOOD, Daemon, token_of

WORKERS = st.sampled_from(["w1", "w2"])
OFFERS = {
    "w1": (("echo",), Capabilities(cpu_cores=2, supported_task_types=("echo", "special"))),
    "w2": (("shell", "echo"), Capabilities(cpu_cores=8, supported_task_types=("shell", "echo"), labels={"gpu": ""})),
}
ABLE: dict[str, set[str | None]] = {"w1": {None, "special"}, "w2": {None, "gpu", "cores"}}
"""Which of the needs below each worker meets."""

NEEDS: dict[str | None, dict[str, Any]] = {
    None: {},
    "special": {"type": "special"},
    "gpu": {"requirements": {"required_capabilities": ("gpu",)}},
    "cores": {"requirements": {"min_cpu_cores": 4}},
    "nobody": {"requirements": {"required_capabilities": ("unicorn",)}},
}
LIMITS: dict[str | None, dict[str, Any]] = {
    None: {},
    "two": {"key": "two", "concurrency": 2},
    "slow": {"key": "slow", "rate": (2, 4.0)},
    "both": {"key": "both", "concurrency": 1, "rate": (3, 6.0)},
}


@dataclass
class Wanted:
    """What the model knows of a task."""

    priority: int
    place: int
    tool: str
    need: str | None
    key: str | None
    allowed: int
    created: float
    state: State = State.QUEUED
    assigned: str | None = None
    until: float | None = None
    pinned: bool = False
    not_before: float = 0.0
    waiting_for: set[str] = field(default_factory=set)
    if_failed: str = "cancel"
    unique: str | None = None
    unique_for: float | None = None
    attempt: int = 0
    failures: int = 0
    lost: int = 0
    holder: str | None = None
    token: int = 0
    asked_to_cancel: bool = False
    due: float = 0.0
    successes: int = 0
    reported: set[tuple[str, int]] = field(default_factory=set)

    def counts(self, period: float | None, now: float) -> bool:
        """Whether it stands for its unique key, also by the terms of another with ``period``."""
        open_states = set(State) - ENDED
        return all(
            (now - self.created < one and self.state in open_states | {State.SUCCEEDED})
            if one is not None
            else self.state in open_states
            for one in (self.unique_for, period)
        )


class QueueMachine(Machine):
    """Two workers that can do different things, tasks of all kinds, and every command there is."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: dict[str, Wanted] = {}
        self.places = 0
        self.daemons: dict[str, Daemon] = {}
        self.leases: list[Task] = []
        self.highest = 0
        self.starts: dict[str, list[int]] = {}
        self.releasing: set[str] = set()
        for worker in OFFERS:
            self.register(worker)

    def register(self, worker: str) -> None:
        tools, capabilities = OFFERS[worker]
        self.daemons[worker] = Daemon(self.hubs["a"], worker, slots=5, tools=tools, capabilities=capabilities)

    @property
    def stamped(self) -> float:
        """Now as a record keeps it, to the millisecond: what ages are counted from."""
        return stamp(self.now).timestamp()

    # -- the model: what follows from what

    def queue(self, model: Wanted) -> None:
        """It is queued; a preference that is over is dropped."""
        model.state = State.QUEUED
        if model.until is not None and model.until <= self.now:
            model.assigned = model.until = None

    def end(self, task_id: str, state: State) -> None:
        model = self.tasks[task_id]
        model.state = state
        model.waiting_for = set()
        if any(task_id in other.waiting_for for other in self.tasks.values()):
            self.releasing.add(task_id)

    def release(self) -> None:
        """Those that wait are told what has ended."""
        while self.releasing:
            task_id = self.releasing.pop()
            ended = self.tasks[task_id].state
            if ended not in ENDED:
                continue
            for other_id, other in self.tasks.items():
                if task_id not in other.waiting_for:
                    continue
                if ended is State.SUCCEEDED or other.if_failed == "run":
                    other.waiting_for.remove(task_id)
                    if not other.waiting_for:
                        self.unblocked(other)
                elif other.if_failed == "cancel":
                    self.end(other_id, State.CANCELLED)

    def unblocked(self, model: Wanted) -> None:
        if model.not_before > self.now:
            model.state, model.due = State.SCHEDULED, model.not_before
        else:
            self.queue(model)

    def upkeep(self) -> None:
        """What every beat of a worker does."""
        for model in self.tasks.values():
            if (
                model.state in (State.SCHEDULED, State.FAILED) and model.due <= self.now
            ) or model.state is State.QUEUED:
                self.queue(model)
        self.release()

    def beat(self, worker: str, **what: Any) -> Any:
        return self.daemons[worker].beat(**what)

    def ready(self) -> list[str]:
        able = [(-task.priority, task.place, name) for name, task in self.tasks.items() if task.state is State.QUEUED]
        return [name for _, _, name in sorted(able)]

    def room(self, key: str) -> int:
        limit = LIMITS[key]
        running = sum(task.key == key and task.state is State.LEASED for task in self.tasks.values())
        room = limit.get("concurrency", 99) - running
        if "rate" in limit:
            number, period = limit["rate"]
            begin = ms_of(self.now) - ms_of(period)
            room = min(room, number - sum(start > begin for start in self.starts.get(key, [])))
        return int(room)

    def best(self, worker: str, want: int) -> list[str]:
        """Ids of the tasks that ``worker`` must get."""
        chosen: list[str] = []
        taken: Counter[str] = Counter()
        for name in self.ready():
            model = self.tasks[name]
            if model.tool not in OFFERS[worker][0] or model.need not in ABLE[worker]:
                continue
            if model.assigned not in (None, worker):
                continue
            if model.key is not None:
                if taken[model.key] >= self.room(model.key):
                    continue
                taken[model.key] += 1
            chosen.append(name)
            if len(chosen) == want:
                break
        return chosen

    # -- the commands

    @rule(
        tool=st.sampled_from(["echo", "echo", "shell"]),
        priority=st.integers(0, 2),
        retries=st.integers(0, 2),
        count=st.integers(1, 3),
        need=st.sampled_from([None, None, None, *sorted(filter(None, NEEDS))]),
        key=st.sampled_from([None, None, *sorted(filter(None, LIMITS))]),
        later=st.sampled_from([0.0, 0.0, 0.0, 2.0, 5.0]),
        meant=st.sampled_from([None, None, ("worker", "w1"), ("prefer", "w1"), ("prefer", "w2")]),
    )
    def submit(
        self,
        tool: str,
        priority: int,
        retries: int,
        count: int,
        need: str | None,
        key: str | None,
        later: float,
        meant: tuple[str, str] | None,
    ) -> None:
        for _ in range(count):
            more: dict[str, Any] = {**NEEDS[need], **LIMITS[key]}
            if later:
                more["not_before"] = later
            if meant is not None:
                more |= {meant[0]: meant[1], "prefer_for": 3.0}
            model = Wanted(priority, self.places, tool, need, key, retries + 1, self.stamped)
            if meant is not None:
                model.assigned, model.pinned = meant[1], meant[0] == "worker"
                model.until = None if model.pinned else stamp(self.now + 3.0).timestamp()
            if later:
                model.state, model.due = State.SCHEDULED, stamp(self.now + later).timestamp()
                model.not_before = model.due
            self.add(model, retries=retries, **more)

    def add(self, model: Wanted, **more: Any) -> str:
        task_id = f"x{len(self.tasks)}"
        self.hubs["b"].tasks.submit(model.tool, id=task_id, priority=model.priority, backoff=2.0, **more)
        self.tasks[task_id] = model
        self.places += 1
        return task_id

    @precondition(lambda self: self.tasks)
    @rule(
        data=st.data(),
        if_failed=st.sampled_from(["cancel", "run", "wait"]),
        later=st.sampled_from([0.0, 0.0, 4.0]),
        key=st.sampled_from([None, "two"]),
    )
    def submit_after(self, data: Any, if_failed: str, later: float, key: str | None) -> None:
        """A task that waits for one or two others, whatever has become of those."""
        after = data.draw(st.lists(st.sampled_from(sorted(self.tasks)), min_size=1, max_size=2, unique=True))
        model = Wanted(0, self.places, "echo", None, key, 1, self.stamped, if_failed=if_failed)
        states = {name: self.tasks[name].state for name in after}
        waits = {
            name
            for name, state in states.items()
            if state not in ENDED or (state is not State.SUCCEEDED and if_failed != "run")
        }
        more: dict[str, Any] = {**LIMITS[key], **({"not_before": later} if later else {})}
        if later:
            model.not_before = stamp(self.now + later).timestamp()
        if if_failed == "cancel" and any(states[name] in ENDED for name in waits):
            model.state = State.CANCELLED
        elif waits:
            model.state, model.waiting_for = State.BLOCKED, waits
        else:
            self.unblocked(model)
        self.add(model, after=after, if_failed=if_failed, **more)

    @rule(name=st.sampled_from(["u", "v"]), period=st.sampled_from([None, 4.0]), key=st.sampled_from([None, "two"]))
    def submit_unique(self, name: str, period: float | None, key: str | None) -> None:
        """A task that must not stand beside another of its key."""
        others = [t for t in self.tasks.items() if t[1].unique == name and t[1].counts(period, self.now)]
        if others:
            newest = max(others, key=lambda item: item[1].place)[0]
            present = self.hubs["c"].tasks.submit("echo", unique_key=name, unique_for=period, **LIMITS[key])
            assert newest == present.id
            return
        model = Wanted(0, self.places, "echo", None, key, 1, self.stamped, unique=name, unique_for=period)
        self.add(model, unique_key=name, unique_for=period, **LIMITS[key])

    @rule(worker=WORKERS, want=st.integers(1, 4))
    def lease(self, worker: str, want: int) -> None:
        self.upkeep()
        expected = self.best(worker, want)
        got = self.daemons[worker].lease(want)
        assert expected == [task.id for task in got], "the best ones, in order"
        for task in got:
            model = self.tasks[task.id]
            model.state, model.holder, model.token = State.LEASED, worker, token_of(task)
            model.attempt += 1
            if not model.pinned:
                model.assigned = model.until = None
            if model.key is not None:
                self.starts.setdefault(model.key, []).append(ms_of(self.now))
            assert (model.attempt, True) == (task.attempt, model.token > self.highest or len(got) > 1)
            self.leases.append(task)
        if got:
            assert token_of(got[0]) > self.highest
            self.highest = token_of(got[0])

    def end_lease(self, task_id: str, state: State) -> None:
        model = self.tasks[task_id]
        model.holder = None
        if model.asked_to_cancel:
            state = State.CANCELLED
        if state in ENDED:
            self.end(task_id, state)
        elif state is State.QUEUED:
            self.queue(model)
        else:
            model.state = state

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
            if holds:
                model.reported.add(key)
                self.ended(task, success)
            holds = False
            self.upkeep()

    def ended(self, task: Task, success: bool) -> None:
        model = self.tasks[task.id]
        if success:
            model.asked_to_cancel = False
            model.successes += 1
            self.end_lease(task.id, State.SUCCEEDED)
        elif model.asked_to_cancel:
            self.end_lease(task.id, State.CANCELLED)
        else:
            model.failures += 1
            self.end_lease(task.id, State.FAILED if model.failures < model.allowed else State.DEAD)
            record = self.hubs["a"].tasks.get(task.id)
            if model.state is State.FAILED:
                assert record is not None
                assert record.due_at is not None
                model.due = record.due_at.timestamp()
                full = 2.0**model.failures
                assert full / 2 - 0.01 <= model.due - self.now <= full + 0.01

    def report(self, task: Task, success: bool) -> Beat:
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
            self.end_lease(task.id, State.QUEUED)
        self.upkeep()

    def lose(self, worker: str) -> None:
        for name, model in self.tasks.items():
            if model.holder == worker:
                model.lost += 1
                self.end_lease(name, State.QUEUED if model.lost < LOST_LIMIT else State.DEAD)

    @rule(worker=WORKERS)
    def start_again(self, worker: str) -> None:
        """A newer registration: of what was meant for the worker only what was pinned stays so."""
        self.register(worker)
        self.lose(worker)
        for model in self.tasks.values():
            if model.state is State.QUEUED and model.assigned == worker and not model.pinned:
                model.assigned = model.until = None

    @rule(worker=WORKERS)
    def die(self, worker: str) -> None:
        """The others notice, take its tasks and those that were meant for it, and it starts anew."""
        other = self.daemons["w1" if worker == "w2" else "w2"]
        for _ in range(2):
            self.world.runtime.advance(10)
            other.beat(renew=True)
            self.upkeep()
        self.hubs["c"].workers.recover(worker)
        self.lose(worker)
        for model in self.tasks.values():
            if model.state is State.QUEUED and model.assigned == worker:
                model.assigned = model.until = None
                model.pinned = False
        self.register(worker)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.tasks)))
        model = self.tasks[task_id]
        if model.state in ENDED:
            with pytest.raises(IllegalTransition):
                self.hubs["b"].tasks.cancel(task_id)
            return
        self.hubs["b"].tasks.cancel(task_id)
        if model.state is not State.LEASED:
            self.end(task_id, State.CANCELLED)
            self.release()
        elif not model.asked_to_cancel:
            model.asked_to_cancel = True
            self.release()

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def retry(self, data: Any) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.tasks)))
        model = self.tasks[task_id]
        beside = [
            name
            for name, other in self.tasks.items()
            if model.unique is not None and other.unique == model.unique and other.counts(model.unique_for, self.now)
        ]
        newest = max(beside, key=lambda name: self.tasks[name].place, default=task_id)
        allowed = model.state in (State.SCHEDULED, State.FAILED, State.DEAD, State.CANCELLED)
        if not allowed or newest != task_id:
            with pytest.raises(IllegalTransition):
                self.hubs["b"].tasks.retry(task_id)
            return
        self.hubs["b"].tasks.retry(task_id)
        model.failures, model.lost, model.asked_to_cancel = 0, 0, False
        model.place, self.places = self.places, self.places + 1
        self.queue(model)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), worker=st.sampled_from(["w1", "w2", None]))
    def assign(self, data: Any, worker: str | None) -> None:
        """A task that has not started is meant for a worker, or for all again."""
        task_id = data.draw(st.sampled_from(sorted(self.tasks)))
        model = self.tasks[task_id]
        tasks = self.hubs["b"].tasks
        if worker is None:
            tasks.unassign(task_id)
        elif model.state in ENDED or model.state is State.LEASED:
            with pytest.raises(IllegalTransition):
                tasks.assign(task_id, worker)
            return
        else:
            tasks.assign(task_id, worker)
        model.assigned, model.until, model.pinned = worker, None, False

    @rule(seconds=st.sampled_from([0.01, 0.6, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.world.runtime.advance(seconds)
        for daemon in self.daemons.values():
            daemon.beat(renew=True)
        self.upkeep()

    # -- what must hold

    @invariant()
    def the_records_are_the_model(self) -> None:
        found = self.world.check_index()
        assert {name: told(model) for name, model in self.tasks.items()} == {
            name: told_of(task) for name, task in found.items()
        }
        for task_id, model in self.tasks.items():
            outcomes = [attempt.outcome for attempt in found[task_id].history]
            assert model.successes == outcomes.count("succeeded") <= 1
            assert (model.state is State.SUCCEEDED) is (model.successes == 1)

    @invariant()
    def no_key_is_over_its_limits(self) -> None:
        for key, limit in LIMITS.items():
            if key is not None:
                running = sum(task.key == key and task.state is State.LEASED for task in self.tasks.values())
                assert running <= limit.get("concurrency", 99)
                number, period = limit.get("rate", (0, 0.0))
                starts = self.starts.get(key, [])
                assert not number or all(b - a >= ms_of(period) for a, b in zip(starts, starts[number:], strict=False))

    @invariant()
    def the_list_is_in_order(self) -> None:
        listed = [task.id for task in self.hubs["c"].tasks.list("queued")]
        assert self.ready() == listed


def told(model: Wanted) -> tuple[Any, ...]:
    """What of the model its record must say."""
    open_task = model.state not in ENDED
    return (
        model.state,
        model.attempt,
        model.failures,
        model.lost,
        model.holder,
        model.asked_to_cancel if model.holder else None,
        (model.assigned, model.until, model.pinned) if open_task and model.assigned else None,
        model.waiting_for,
        model.due if model.state in (State.SCHEDULED, State.FAILED) else None,
    )


def told_of(task: Task) -> tuple[Any, ...]:
    meant = None
    if task.assigned is not None and not task.ended:
        until = task.assigned.until
        meant = (task.assigned.worker, until.timestamp() if until else None, task.assigned.pinned)
    return (
        task.state,
        task.attempt,
        task.failures,
        task.lost,
        task.lease.worker if task.lease else None,
        task.cancel_requested if task.lease else None,
        meant,
        set(task.dependencies.waiting_for) if task.dependencies else set(),
        task.due_at.timestamp() if task.due_at else None,
    )


def test_the_queue_follows_the_model() -> None:
    """Any order of commands: everything follows from the records, tasks succeed once, in order, within limits."""
    run(QueueMachine, 12, 20)


def test_the_same_on_disk() -> None:
    """The local store behaves as the one in memory."""
    run(on_disk(QueueMachine), 2, 10)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("machine", [QueueMachine, on_disk(QueueMachine)])
def test_far_more_of_it(machine: type[Machine]) -> None:
    """As above, longer."""
    run(machine, 250 if machine.where == "memory" else 25, 60)
