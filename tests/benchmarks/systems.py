"""Two embedded queues behind one interface, so that they are measured by the same code on the same disk.

Both add two numbers in a registered function of this very process, are told of
their tasks in batches, and must have every result on disk and read back before
a batch counts as done.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from huey import SqliteHuey

from ghcoord.bootstrap import create
from ghcoord.config import Settings
from ghcoord.execution.worker import WorkerDaemon
from ghcoord.hub import Submission

TIMEOUT = 60.0
"""Seconds that a batch may take."""

SLOTS = 4
"""Tasks that ghcoord's worker runs at a time."""


@dataclass
class Measured:
    """One run: seconds from the first submission to the last result, and of each batch; commits of all tasks."""

    tasks: int
    seconds: float
    batches: list[float] = field(default_factory=list)
    commits: int | None = None

    @property
    def throughput(self) -> float:
        """Tasks a second."""
        return self.tasks / self.seconds


class System(Protocol):
    """An embedded queue with a function registered that adds two numbers."""

    @property
    def commits(self) -> int | None:
        """Commits made so far, where they are counted."""
        ...

    def add(self, pairs: list[tuple[int, int]]) -> list[int]:
        """Enqueue an addition for each pair, and give back the results once all are there."""
        ...

    def close(self) -> None: ...


def measure(system: System, tasks: int, batch: int) -> Measured:
    """Run ``tasks`` additions in batches, checking each result."""
    commits = system.commits
    measured = Measured(tasks, 0.0)
    began = time.perf_counter()
    for first in range(0, tasks, batch):
        numbers = range(first, min(first + batch, tasks))
        sent = time.perf_counter()
        results = system.add([(number, 1) for number in numbers])
        measured.batches.append(time.perf_counter() - sent)
        assert [number + 1 for number in numbers] == results
    measured.seconds = time.perf_counter() - began
    if commits is not None and system.commits is not None:
        measured.commits = system.commits - commits
    return measured


class Ghcoord:
    """A hub in a bare repository, with a worker in a thread."""

    def __init__(self, folder: Path) -> None:
        self.hub, _ = create(folder / "hub.git", Settings(), state=folder / "state")
        self.hub.tools.register("add")(_add)
        self._worker = WorkerDaemon(self.hub, "bench", slots=SLOTS, workspace=folder / "work")
        self._thread = threading.Thread(target=self._worker.run)
        self._thread.start()

    @property
    def commits(self) -> int:
        return self.hub.commits

    def add(self, pairs: list[tuple[int, int]]) -> list[int]:
        tasks = self.hub.tasks.submit_many([Submission("add", {"a": a, "b": b}) for a, b in pairs])
        ended = self.hub.tasks.wait_many([task.id for task in tasks], timeout=TIMEOUT)
        results = [ended[task.id].result for task in tasks]
        return [result.data["value"] for result in results if result is not None]

    def close(self) -> None:
        self._worker.stop()
        self._thread.join()
        self.hub.close()


def _add(a: int, b: int) -> int:
    return a + b


class _Huey:
    """What the two ways of running huey share: SQLite in WAL mode, flushed to disk by each commit."""

    def __init__(self, folder: Path) -> None:
        logging.getLogger("huey").setLevel(logging.CRITICAL)
        self.huey = SqliteHuey(filename=str(folder / "huey.db"), fsync=True)
        self._add: Any = self.huey.task()(_add)

    @property
    def commits(self) -> None:
        return None


class HueyLoop(_Huey):
    """huey without its consumer: one thread enqueues, runs and reads, so that nothing waits for anything.

    Results stay in the database as ghcoord's do (``preserve``), which spares huey a commit each.
    """

    def add(self, pairs: list[tuple[int, int]]) -> list[int]:
        results = [self._add(a, b) for a, b in pairs]
        while (task := self.huey.dequeue()) is not None:
            self.huey.execute(task)
        return [result.get(preserve=True) for result in results]

    def close(self) -> None:
        self.huey.storage.close()


class HueyConsumer(_Huey):
    """huey with its own consumer: one worker thread, polling far more often than its default."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._consumer = self.huey.create_consumer(
            workers=1, periodic=False, initial_delay=0.001, max_delay=0.005, check_worker_health=False
        )
        self._consumer.start()

    def add(self, pairs: list[tuple[int, int]]) -> list[int]:
        results = [self._add(a, b) for a, b in pairs]
        return [
            result.get(blocking=True, timeout=TIMEOUT, backoff=1.0, max_delay=0.001, preserve=True)
            for result in results
        ]

    def close(self) -> None:
        self._consumer.stop(graceful=True)
        self.huey.storage.close()
