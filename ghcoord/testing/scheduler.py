"""A deterministic scheduler: real threads of which one runs at a time, chosen by a seed, in virtual time.

A thread gives the baton away only where it sleeps, waits or says
:meth:`Scheduler.step`.  Time stands still while somebody can run and jumps to
the next deadline when nobody can.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

STUCK_LIMIT = 30.0
"""Real seconds without a step after which a thread is taken to be blocked outside the scheduler."""

TRACE_TAIL = 60
"""Lines of the trace in a failure."""


class SimulationFailure(AssertionError):
    """A simulated run went wrong; the message has the seed and the end of the trace."""


class Crash(BaseException):
    """Unwinds a thread of a process that was killed. Never to be caught."""


@dataclass(eq=False)
class Task:
    """One simulated thread. ``group`` names its process."""

    name: str
    group: str
    run: Callable[[], None]
    baton: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    ready: Callable[[], bool] | None = None
    deadline: float = 0.0
    killed: bool = False
    unwound: bool = False
    done: bool = False
    error: BaseException | None = None


class Scheduler:
    """Runs tasks one at a time. ``time`` is virtual, in seconds from zero."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.time = 0.0
        self.steps = 0
        self.trace: list[str] = []
        self.failure: str | None = None
        self._max_steps = 0
        self._tasks: list[Task] = []
        self._current: Task | None = None
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._finished = threading.Event()
        self._stopping = False

    # -- from outside the tasks

    def run(self, max_steps: int) -> None:
        """Run until every task is done; raises ``SimulationFailure``, also beyond ``max_steps``."""
        self._max_steps = max_steps
        first = self._choose()
        if first is None:
            return
        self._resume(first)
        seen = -1
        while not self._finished.wait(STUCK_LIMIT):
            if seen == self.steps:
                name = self._current.name if self._current else "nobody"
                raise self._report(f"{name} is blocked outside the scheduler, perhaps by a lock held while waiting")
            seen = self.steps
        if self.failure is not None:
            raise self._report(self.failure)

    def _report(self, why: str) -> SimulationFailure:
        tail = "\n".join(self.trace[-TRACE_TAIL:])
        return SimulationFailure(f"seed {self.seed}: {why}\nthe last of {len(self.trace)} steps:\n{tail}")

    # -- tasks

    def add(self, name: str, group: str, run: Callable[[], None]) -> Task:
        """A new task, which runs when it is first chosen."""
        task = Task(name, group, run)
        threading.Thread(target=self._body, args=(task,), name=name, daemon=True).start()
        self._tasks.append(task)
        return task

    def kill(self, group: str) -> None:
        """Let every task of ``group`` unwind at the point where it stands."""
        for task in self._tasks:
            if task.group == group:
                task.killed = True

    def later(self, seconds: float, run: Callable[[], None]) -> None:
        """Call ``run`` when ``seconds`` have passed, between the tasks' steps. It may not wait."""
        heapq.heappush(self._timers, (self.time + seconds, next(self._order), run))

    def _body(self, task: Task) -> None:
        task.baton.acquire()
        try:
            self._alive(task)
            task.run()
        except Crash:
            self.note(f"{task.name}: gone")
        except BaseException as error:
            task.error = error
            self.fail(f"{task.name} raised {type(error).__name__}: {error}")
        task.done = True
        self._tasks.remove(task)
        following = self._choose()
        if following is None:
            self._finished.set()
        else:
            self._resume(following)

    # -- from inside a task

    def note(self, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.steps:5d} {self.time:9.4f} {what}")

    def fail(self, why: str) -> None:
        """End the run with ``why``."""
        if self.failure is None:
            self.failure = why
        self._stopping = True
        for task in self._tasks:
            task.killed = True

    def alive(self) -> None:
        """Raise ``Crash`` in a task whose process was killed: it may have no effect any more."""
        if self._current is not None:
            self._alive(self._current)

    def _alive(self, task: Task) -> None:
        if task.killed:
            task.unwound = True
            raise Crash

    def step(self, what: str) -> None:
        """Let others run."""
        self._switch(what, None, self.time)

    def wait(self, what: str, ready: Callable[[], bool] | None, seconds: float | None) -> None:
        """Let others run until ``ready()`` or until ``seconds`` have passed (``None``: without limit)."""
        self._switch(what, ready or (lambda: False), float("inf") if seconds is None else self.time + seconds)

    def _switch(self, what: str, ready: Callable[[], bool] | None, deadline: float) -> None:
        task = self._current
        assert task is not None, "only a simulated thread can wait"
        self._alive(task)
        self.steps += 1
        self.note(f"{task.name}: {what}")
        if self.steps >= self._max_steps:
            self.fail(f"not finished after {self._max_steps} steps")
        task.ready, task.deadline = ready, deadline
        following = self._choose()
        assert following is not None
        if following is not task:
            self._resume(following)
            task.baton.acquire()
        task.ready = None
        self._alive(task)

    def _resume(self, task: Task) -> None:
        self._current = task
        task.baton.release()

    def _choose(self) -> Task | None:
        """The task that runs next; ``None`` when all are done and nothing is to come."""
        while self._tasks or (self._timers and not self._stopping):
            while self._timers and self._timers[0][0] <= self.time and not self._stopping:
                heapq.heappop(self._timers)[2]()
            able = [task for task in self._tasks if self._able(task)]
            if able:
                chosen = able[0] if len(able) == 1 else self.random.choice(able)
                self._current = chosen
                return chosen
            due = [task.deadline for task in self._tasks] + [at for at, _, _ in self._timers[:1]]
            following = min(due, default=self.time)
            if following == float("inf"):
                self.fail(f"all wait for ever: {', '.join(task.name for task in self._tasks)}")
                continue
            self.time = max(self.time, following)
        return None

    def _able(self, task: Task) -> bool:
        return task.killed or task.ready is None or task.deadline <= self.time or task.ready()
