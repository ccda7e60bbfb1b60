"""A worker's slots: tasks waiting for one, tasks running in one, and what has come of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

from ghcoord.clock import Event, Runtime
from ghcoord.coord.workers.tick import Finished, Returned, Said
from ghcoord.execution.fulllog import FullLogKeeper
from ghcoord.execution.places import Places
from ghcoord.execution.running import RunningTask, to_record
from ghcoord.model.task import Task
from ghcoord.model.tool import Tool, ToolResult

PREFETCH_BELOW = 1.0
"""Only while tasks take less than this many seconds are more leased than can start at once."""

PREFETCH_MAX = 256
"""Tasks leased ahead at most."""

FIRST_AHEAD = 8
"""Tasks a slot that are leased ahead where commits are scarce and nobody knows yet how long they take."""

AHEAD_MAX = 1000
"""Tasks leased ahead at most where commits are scarce."""

TOO_MUCH = 2.0
"""What was leased ahead goes back when it takes this many times as long as was planned."""

QUICK = 0.001
"""Seconds below which a task takes less than a commit."""

TIMEOUT_SLACK = 5.0
"""Seconds past timeout and grace after which the worker itself reports a task that did not stop."""

PREFETCH_SECONDS = 0.25
"""Seconds of work that is leased ahead: what a commit and a poll may take."""


BROKEN_AFTER = 3
"""Faults of this machine in a row after which it stops leasing for a while."""

BROKEN_PAUSE = 60.0
"""Seconds of such a while at most."""

SESSION_PAUSE = 300.0
"""Seconds at most for which the calls of one session are not leased after its files could not be had."""

REPORT_BYTES = 16 * 1024 * 1024
"""Results that one commit reports at most, in bytes; a local hub takes 64 MiB."""

Held = tuple[str, int]
"""A lease: the task's id and the token."""


class Slots:
    """Runs tasks in threads, ``count`` at a time. ``wake`` is set whenever one ends.

    ``now`` is the hub's clock in seconds; ``grace`` the seconds between asking
    a process to end and ending it; ``report_bytes`` are the bytes of results
    that one commit takes.  ``logs`` stores outputs that are more than a record
    keeps.
    """

    def __init__(
        self,
        runtime: Runtime,
        count: int,
        tools: Mapping[str, Tool],
        places: Places,
        wake: Event,
        now: Callable[[], float],
        grace: float,
        report_bytes: int = REPORT_BYTES,
        logs: FullLogKeeper | None = None,
    ) -> None:
        self._runtime = runtime
        self._count = count
        self._report_bytes = report_bytes
        self._tools = tools
        self._places = places
        self._wake = wake
        self._now = now
        self._grace = grace
        self._logs = logs
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Task, float]] = deque()
        self._running: dict[Held, RunningTask] = {}
        self._finished: list[tuple[Finished, int]] = []
        self._returned: list[Returned] = []
        self._average: float | None = None
        self._broken = 0
        self._resume_at = 0.0
        self._faulty: dict[str, tuple[int, float]] = {}
        """Sessions whose calls failed by this machine's fault: how often in a row, and until when they wait."""
        self._settled = runtime.event()
        self._settled.set()

    # -- what the daemon asks

    @property
    def running(self) -> int:
        """Tasks in a slot, in-process functions that ignore their timeout included."""
        with self._lock:
            return len(self._running)

    @property
    def faults(self) -> int:
        """Faults of this machine in a row."""
        with self._lock:
            return self._broken

    def avoided(self) -> tuple[str, ...]:
        """Sessions whose calls are not to be leased now: what is wrong with one must not stop the others."""
        with self._lock:
            now = self._runtime.monotonic()
            for session in [one for one, (_, until) in self._faulty.items() if now > until + 2 * SESSION_PAUSE]:
                del self._faulty[session]
            return tuple(sorted(one for one, (_, until) in self._faulty.items() if now < until))

    @property
    def idle(self) -> bool:
        """Whether nothing waits, runs, or is left to report."""
        with self._lock:
            running = any(not one.reported for one in self._running.values())
            return not (self._waiting or running or self._finished or self._returned)

    @property
    def busy(self) -> bool:
        """Whether anything runs, or waits for a slot."""
        with self._lock:
            return bool(self._waiting) or any(not one.reported for one in self._running.values())

    def wanted(self, seconds: float | None = None) -> int:
        """How many more tasks to lease: free slots, and a little ahead while tasks are short.

        Where commits are scarce, ``seconds`` lie until the next one: then as much ahead as is finished by then.
        None for a while after the sandbox or the disk has failed several times in a row, then one to try.
        """
        with self._lock:
            broken = self._broken >= BROKEN_AFTER
            if broken and self._runtime.monotonic() < self._resume_at:
                return 0
            ahead = 0
            if seconds is not None:
                ahead = self._ahead(seconds)
            elif self._average is not None and self._average < PREFETCH_BELOW:
                ahead = min(PREFETCH_MAX, int(self._count * PREFETCH_SECONDS / max(self._average, 0.004)))
            free = max(0, self._count + ahead - len(self._running) - len(self._waiting))
            return min(free, 1) if broken else free

    def _ahead(self, seconds: float) -> int:
        """How many tasks the slots finish in so many seconds. Under the lock."""
        now = self._runtime.monotonic()
        # What runs for long already tells of how long tasks take before the first has ended.
        longest = max((now - one.started for one in self._running.values()), default=0.0)
        if self._average is None and longest * FIRST_AHEAD < seconds:
            return min(AHEAD_MAX, self._count * FIRST_AHEAD)
        takes = max(self._average if self._average is not None else longest, 0.004)
        return min(AHEAD_MAX, int(self._count * seconds / takes))

    def finished_in(self, seconds: float) -> int:
        """How many tasks the slots are expected to finish in so many seconds; 0 while nobody knows."""
        with self._lock:
            return (
                0 if self._average is None else min(AHEAD_MAX, int(self._count * seconds / max(self._average, 0.004)))
            )

    def give_back_surplus(self, seconds: float, reason: str) -> None:
        """Return what was leased ahead and would not start within so many seconds by far: tasks take longer."""
        with self._lock:
            kept = self._ahead(seconds)
            if len(self._waiting) <= TOO_MUCH * kept:
                return
            while len(self._waiting) > kept:
                task, _ = self._waiting.pop()
                if task.lease is not None:
                    self._returned.append(Returned(task.id, task.lease.token, reason))

    def free(self) -> int:
        """How many of the tasks that are leased next would start at once."""
        with self._lock:
            return max(0, self._count - len(self._running) - len(self._waiting))

    def known(self) -> set[Held]:
        """The leases that this worker knows it holds."""
        with self._lock:
            held = {key_of(task) for task, _ in self._waiting} | set(self._running)
            held |= {(one.task_id, one.token) for one, _ in self._finished}
            return held | {(one.task_id, one.token) for one in self._returned}

    def outcomes(self) -> tuple[list[Finished], list[Returned]]:
        """What is to be reported, as much as one commit takes; stays until :meth:`reported`."""
        with self._lock:
            finished: list[Finished] = []
            room = self._report_bytes
            for one, size in self._finished:
                if finished and size > room:
                    break
                finished.append(one)
                room -= size
            return finished, list(self._returned)

    def reported(self, finished: list[Finished], returned: list[Returned]) -> None:
        """The hub has these now."""
        taken = set(map(id, (*finished, *returned)))
        with self._lock:
            self._finished = [entry for entry in self._finished if id(entry[0]) not in taken]
            self._returned = [one for one in self._returned if id(one) not in taken]

    def settle(self, timeout: float) -> None:
        """Wait until nothing runs or waits any more, at most ``timeout`` seconds.

        Five times that while tasks take less than a commit: all that were leased end in it.
        """
        quick = self._average is not None and self._average < QUICK
        self._settled.wait(timeout * 5 if quick else timeout)

    def said(self) -> list[Said]:
        """What running tasks have said since the last call."""
        with self._lock:
            running = [one for one in self._running.values() if not one.reported]
        return [said for said in (one.said() for one in running) if said is not None]

    # -- what the daemon tells

    def add(self, tasks: list[Task]) -> None:
        """Take leased tasks and start as many as there are slots for."""
        with self._lock:
            since = self._runtime.monotonic()
            self._waiting.extend((task, since) for task in tasks)
            self._note_settled()
        self._start()

    def give_back_waiting(self, reason: str, *, older_than: float = 0.0) -> None:
        """Return tasks that have not started, those waiting for at least ``older_than`` seconds."""
        with self._lock:
            limit = self._runtime.monotonic() - older_than
            kept: deque[tuple[Task, float]] = deque()
            for task, since in self._waiting:
                if since <= limit and task.lease is not None:
                    self._returned.append(Returned(task.id, task.lease.token, reason))
                else:
                    kept.append((task, since))
            self._waiting = kept

    def give_back(self, task_id: str, token: int, reason: str) -> None:
        """Return a lease that this worker does not know how it got: the reply that granted it was lost."""
        with self._lock:
            self._returned.append(Returned(task_id, token, reason))

    def cancel(self, task_id: str) -> None:
        """Stop a task because somebody asked for it."""
        with self._lock:
            running = [one for one in self._running.values() if one.task.id == task_id]
            for entry in [e for e in self._waiting if e[0].id == task_id]:
                self._waiting.remove(entry)
                if entry[0].lease is not None:
                    self._returned.append(Returned(task_id, entry[0].lease.token, "cancelled before it started"))
        for one in running:
            one.cancel()

    def stop_all(self, because: str) -> None:
        """Stop everything and give every lease back."""
        self.give_back_waiting(because)
        with self._lock:
            running = list(self._running.values())
        for one in running:
            one.cancel(because)

    def enforce_timeouts(self) -> None:
        """Report tasks that outlived their timeout and the grace: in-process functions cannot be killed.

        Their slot stays taken until they return.
        """
        slack = self._grace + TIMEOUT_SLACK
        with self._lock:
            late = [one for one in self._running.values() if one.overdue(slack) and not one.reported]
            for one in late:
                one.reported = True
                result = ToolResult(success=False, error=f"timed out after {one.timeout:g} s and did not stop")
                self._note(one, result, self._ended(one, result))
        for one in late:
            one.cancel()

    def abandon(self, because: str) -> None:
        """Give back the leases of tasks that do not stop, and wait for them no longer."""
        with self._lock:
            for one in self._running.values():
                if not one.reported:
                    one.reported = True
                    self._returned.append(Returned(one.task.id, one.token, because))

    # -- running

    def _start(self) -> None:
        """Take as many waiting tasks as there are free slots, each with a thread that goes on with the next."""
        with self._lock:
            while (one := self._next()) is not None:
                try:
                    one.thread = self._runtime.spawn(partial(self._work, one), "ghcoord-slot")
                except RuntimeError as error:  # no more threads
                    del self._running[key_of(one.task)]
                    self._give_up_on(one.task, f"it could not be started: {error}")

    def _next(self) -> RunningTask | None:
        """The next task, from now on in a slot; ``None`` when none is free or nothing waits. Under the lock."""
        task = self._take() if len(self._running) < self._count else None
        if task is None:
            self._note_settled()
            return None
        one = self._places.take(self._runtime, task)
        one.full = self._logs.begin() if self._logs is not None else None
        self._running[key_of(task)] = one
        return one

    def _note_settled(self) -> None:
        if self._running or self._waiting:
            self._settled.clear()
        else:
            self._settled.set()

    def _work(self, one: RunningTask | None) -> None:
        """A slot's thread: run ``one``, then what waits."""
        while one is not None:
            self._execute(one)
            with self._lock:
                one = self._next()

    def _take(self) -> Task | None:
        """The next task to start: none whose earlier attempt still runs here, which would be two at once."""
        busy = {one.task.id for one in self._running.values()}
        for at, (task, _) in enumerate(self._waiting):
            if task.id not in busy:
                del self._waiting[at]
                return task
        return None

    def _execute(self, one: RunningTask) -> None:
        result = self._places.run(one, self._tools.get(one.task.tool), self._now)
        if one.fault and not result.success:
            result = ToolResult(success=False, error=one.fault, infrastructure=True)
        one.returned = True
        ended = self._ended(one, result)  # not under the lock: other slots go on meanwhile
        with self._lock:
            del self._running[key_of(one.task)]
            if not one.reported:
                self._note(one, result, ended)
        self._wake.set()
        if one.full is not None:
            one.full.close()
        self._places.clear(one)

    def _ended(self, one: RunningTask, result: ToolResult) -> tuple[Finished, int]:
        """What is to be reported, and its size in bytes."""
        record = to_record(result, duration=self._runtime.monotonic() - one.started, now=self._now())
        counts = one.returned and not result.infrastructure and (result.success or not one.stopped_because)
        if self._logs is not None and one.full is not None and counts:
            record = self._logs.keep(one.full, one.task, record)
        return Finished(one.task.id, one.token, record, one.task.need.type), len(record.model_dump_json())

    def _note(self, one: RunningTask, result: ToolResult, ended: tuple[Finished, int]) -> None:
        duration = self._runtime.monotonic() - one.started
        self._average = duration if self._average is None else 0.8 * self._average + 0.2 * duration
        if result.infrastructure:
            self._give_up_on(one.task, result.error or "the sandbox could not be set up")
            return
        if one.task.session is None:
            self._broken = 0
        else:
            self._faulty.pop(one.task.session, None)
        if one.stopped_because and not result.success:
            self._returned.append(Returned(one.task.id, one.token, one.stopped_because))
            return
        self._finished.append(ended)

    def _give_up_on(self, task: Task, reason: str) -> None:
        """Return a lease for a fault of this machine, and lease less while that goes on; of a session its calls."""
        now = self._runtime.monotonic()
        if task.session is None:
            self._broken += 1
            self._resume_at = now + min(BROKEN_PAUSE, 2.0 ** min(self._broken, 10))
        else:
            count = self._faulty.get(task.session, (0, 0.0))[0] + 1
            self._faulty[task.session] = count, now + min(SESSION_PAUSE, 2.0 ** min(count, 10))
        task_id, token = key_of(task)
        self._returned.append(Returned(task_id, token, reason))


def key_of(task: Task) -> Held:
    """What names one lease of one task: a later attempt of the same task is another."""
    return task.id, task.lease.token if task.lease is not None else 0
