"""``ghcoord bench`` behind the command line: what is measured of a hub, how many commits it may take, the clean-up.

Everything lies under one made-up name: a namespace, a lock, a tool that only
the bench's own worker has, and that worker, which offers nothing else.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ghcoord.errors import Unavailable
from ghcoord.execution.worker import WorkerDaemon
from ghcoord.hub import Hub, Submission, TaskQuery
from ghcoord.ids import new_suffix

SIZES = (1, 10, 100)
"""Tasks submitted at once, in turn."""

SLOTS = 4
"""Tasks that the bench's worker runs at a time."""

BATCH_COMMITS = 8
"""Commits that a batch is expected to take at most, whatever its size: most take three or four."""

SPARE = 20
"""Commits kept back for the worker's registration, its renewals and the clean-up."""

TIMEOUT = 120.0
"""Seconds that a batch may take."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: ``rounds`` of each operation and of each batch size, at most ``tasks`` of a size."""

    rounds: int
    tasks: int
    sizes: tuple[int, ...] = SIZES

    @property
    def batches(self) -> dict[int, int]:
        """Tasks in all by the number that is submitted at once."""
        return {size: min(self.tasks, size * self.rounds) for size in sorted({min(n, self.tasks) for n in self.sizes})}

    @property
    def steps(self) -> int:
        """Operations and tasks in all, for a progress bar."""
        return 4 * self.rounds + sum(self.batches.values())

    @property
    def commits(self) -> int:
        """Commits at most. What would pass it is left out."""
        single = 6 * self.rounds  # a key set, a lock taken and given back, a task submitted, leased and finished
        batches = sum(-(-tasks // size) * min(3 * size, BATCH_COMMITS) for size, tasks in self.batches.items())
        return single + batches + worst(max(self.batches)) + SPARE


def worst(size: int) -> int:
    """Commits of one batch when nothing shares any: the submission, and each task's lease and result."""
    return 1 + 2 * size


class Meter:
    """Counts the calls of a store, and keeps how long its commits took, in seconds. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self.commit_seconds: list[float] = []

    def __call__(self, call: str, seconds: float, failed: str | None) -> None:
        with self._lock:
            self._calls[call] += 1
            if call == "commit" and failed is None:
                self.commit_seconds.append(seconds)

    def calls(self) -> Counter[str]:
        """Calls so far, by name."""
        with self._lock:
            return self._calls.copy()


@dataclass(frozen=True, slots=True)
class Throughput:
    """What batches of one size came to. ``requests`` are those to a network, an upper bound."""

    batch: int
    tasks: int
    seconds: float
    commits: int
    calls: int
    requests: int


@dataclass(slots=True)
class Report:
    """Seconds of each round by operation, and a line for each batch size. ``complete`` unless commits ran out."""

    latency: dict[str, list[float]] = field(default_factory=dict)
    throughput: list[Throughput] = field(default_factory=list)
    commits: int = 0
    seconds: float = 0.0
    complete: bool = True


class Bench:
    """Measures ``hub``, whose store reports to ``meter``. ``on_progress`` gets the steps done so far."""

    def __init__(self, hub: Hub, meter: Meter, plan: Plan, on_progress: Callable[[int], None]) -> None:
        self._hub = hub
        self._meter = meter
        self._plan = plan
        self._on_progress = on_progress
        self._name = f"bench-{new_suffix(hub.runtime.randbits)}"
        self._first = hub.commits
        self._done = 0
        self._report = Report()
        self._tasks: list[str] = []

    def run(self) -> Report:
        """Measure and clean up. Raises ``Unavailable`` when the worker or a task did not get on."""
        clock = self._hub.runtime.monotonic
        began = clock()
        try:
            self._measure_memory()
            self._measure_locks()
            with self._worker():
                self._measure_tasks()
        finally:
            self._clean()
        self._report.seconds = clock() - began
        self._report.commits = self._hub.commits - self._first
        return self._report

    # -- measuring

    def _times(self, name: str, commits: int) -> Iterator[Callable[[], None]]:
        """Once a round, while ``commits`` more are left: what to call when the round is over."""
        clock = self._hub.runtime.monotonic
        kept = self._report.latency.setdefault(name, [])
        for _ in range(self._plan.rounds):
            if not self._may(commits):
                return
            began = clock()
            yield lambda began=began: kept.append(clock() - began)  # type: ignore[misc]
            self._step(1)

    def _may(self, commits: int) -> bool:
        """Whether ``commits`` more stay within the plan."""
        left = self._plan.commits - SPARE - (self._hub.commits - self._first)
        if left < commits:
            self._report.complete = False
        return left >= commits

    def _step(self, count: int) -> None:
        self._done += count
        self._on_progress(self._done)

    def _measure_memory(self) -> None:
        memory = self._hub.memory
        already = len(self._meter.commit_seconds)
        self._report.latency["commit"] = []
        for number, over in enumerate(self._times("memory set", 1)):
            memory.set(self._name, number, namespace=self._name)
            over()
        self._report.latency["commit"] = self._meter.commit_seconds[already:]
        for over in self._times("memory get", 0):
            memory.get(self._name, namespace=self._name)
            over()

    def _measure_locks(self) -> None:
        for over in self._times("lock acquire + release", 2):
            held = self._hub.locks.acquire(self._name, self._name)
            if held is None:
                raise Unavailable(f"somebody else holds the lock {self._name!r}")
            self._hub.locks.release(self._name, self._name, held.token)
            over()

    def _measure_tasks(self) -> None:
        for over in self._times("task submit to result", worst(1)):
            self._run_batch(1)
            over()
        for size, tasks in self._plan.batches.items():
            self._measure_batches(size, tasks)

    def _measure_batches(self, size: int, wanted: int) -> None:
        clock = self._hub.runtime.monotonic
        began, commits, calls, tasks = clock(), self._hub.commits, self._meter.calls(), 0
        while tasks < wanted and self._may(worst(count := min(size, wanted - tasks))):
            self._run_batch(count)
            tasks += count
            self._step(count)
        if tasks:
            made = self._meter.calls() - calls
            self._report.throughput.append(
                Throughput(
                    size, tasks, clock() - began, self._hub.commits - commits, made.total(), self._requests(made)
                )
            )

    def _requests(self, calls: Counter[str]) -> int:
        each = self._hub.requests_per_commit
        return calls["commit"] * each + (calls.total() - calls["commit"]) if each else 0

    def _run_batch(self, size: int) -> None:
        numbers = [Submission(self._name, {"number": number}) for number in range(size)]
        tasks = self._hub.tasks.submit_many(numbers)
        ids = [task.id for task in tasks]
        self._tasks += ids
        ended = self._hub.tasks.wait_many(ids, timeout=TIMEOUT)
        for task in ended.values():
            if task.result is None or not task.result.success:
                said = task.result.error if task.result is not None else task.cancel_reason
                raise Unavailable(f"the bench's task {task.id} did not succeed: {said}")

    # -- the worker

    @contextmanager
    def _worker(self) -> Iterator[None]:
        """A worker in this process that offers one tool, which nobody else has."""
        self._hub.tools.register(self._name)(_nothing)
        worker = WorkerDaemon(self._hub, self._name, slots=SLOTS, only=(self._name,))

        def work() -> None:
            worker.run()

        thread = self._hub.runtime.spawn(work, self._name)
        try:
            yield
        finally:
            worker.stop()
            thread.join(TIMEOUT)

    # -- afterwards

    def _clean(self) -> None:
        """Remove what the bench made, also after an error or an interruption."""
        mine = TaskQuery(ids=self._tasks)
        self._hub.tasks.cancel_many(mine, "the bench has ended")
        self._hub.tasks.purge(mine)
        self._hub.memory.drop_namespace(self._name)
        held = self._hub.locks.get(self._name)
        if held is not None:
            self._hub.locks.release(self._name, self._name, held.token)


def _nothing(number: int) -> int:
    return number


def percentile(seconds: Sequence[float], share: int) -> float | None:
    """The value that ``share`` percent of ``seconds`` do not exceed; ``None`` of nothing."""
    ordered = sorted(seconds)
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)] if ordered else None


def view(hub: Hub, plan: Plan, report: Report) -> dict[str, Any]:
    """The report as plain values, times in milliseconds."""
    return {
        "hub": hub.url,
        "requests_per_commit": hub.requests_per_commit,
        "commits": report.commits,
        "commit_limit": plan.commits,
        "complete": report.complete,
        "seconds": round(report.seconds, 3),
        "latency": [
            {"operation": name, "times": len(seconds), **_percentiles(seconds)}
            for name, seconds in report.latency.items()
        ],
        "throughput": [
            {
                "batch": one.batch,
                "tasks": one.tasks,
                "tasks_per_second": round(one.tasks / one.seconds, 1),
                "commits_per_task": round(one.commits / one.tasks, 3),
                "requests_per_task": round(one.requests / one.tasks, 3),
                "store_calls_per_task": round(one.calls / one.tasks, 3),
            }
            for one in report.throughput
        ],
    }


def _percentiles(seconds: Sequence[float]) -> dict[str, float | None]:
    found = {f"p{share}_ms": percentile(seconds, share) for share in (50, 95, 99)}
    return {name: None if one is None else round(one * 1000, 3) for name, one in found.items()}
