"""What a task costs a hub, so that a change which makes it dearer shows at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ghcoord.bootstrap import create
from ghcoord.config import Settings
from ghcoord.execution.worker import WorkerDaemon
from ghcoord.faces.bench import Meter
from ghcoord.hub import Hub, Submission

TASKS = 100


@pytest.fixture
def meter() -> Meter:
    return Meter()


@pytest.fixture
def hub(tmp_path: Path, meter: Meter) -> Iterator[Hub]:
    """A hub that is hardly ever polled, with a registered function that does nothing."""
    made, _ = create(tmp_path / "hub.git", Settings(poll=20.0), state=tmp_path / "state", trace=meter)
    with made:
        made.tools.register("nothing")(lambda: None)
        yield made


@contextmanager
def worker(hub: Hub, folder: Path, slots: int) -> Iterator[None]:
    """A worker that is ready when the block begins."""
    daemon = WorkerDaemon(hub, "w1", slots=slots, ttl=120.0, workspace=folder / "work", only=("nothing",))
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        _until(lambda: hub.workers.get("w1") is not None)
        yield
    finally:
        daemon.stop()
        thread.join()


def _until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_batch_takes_a_handful_of_commits(hub: Hub, meter: Meter, tmp_path: Path) -> None:
    """100 tasks at 10 slots: few commits to submit, lease and finish them, and few reads."""
    with worker(hub, tmp_path, slots=10):
        commits, calls = hub.commits, meter.calls()
        tasks = hub.tasks.submit_many([Submission("nothing")] * TASKS)
        ended = hub.tasks.wait_many([task.id for task in tasks], timeout=60)
        made = meter.calls() - calls
    assert {"succeeded"} == {task.state for task in ended.values()}
    assert 2 <= hub.commits - commits <= 12
    assert made["commit"] <= 12
    assert made["heads"] <= 60
    # Each task's record is read from the store in each of its versions at most once, and its places in the index never.
    assert made["blob"] <= 3 * TASKS + 60
    assert made["tree"] <= 2 * TASKS + 60


def test_a_single_task_waits_for_nobodys_poll(hub: Hub, tmp_path: Path) -> None:
    """In one process submission and lease share a commit, and worker and waiter wake each other before any poll."""
    with worker(hub, tmp_path, slots=1):
        commits = hub.commits
        began = time.monotonic()
        for _ in range(3):
            hub.tasks.wait(hub.tasks.submit("nothing").id, timeout=60)
        assert time.monotonic() - began < 15
    assert 6 <= hub.commits - commits <= 12  # two each, and a third when the worker was not back at its place in time
