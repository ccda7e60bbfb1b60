"""What daemons do not do: folders, threads, commits and ticks that nobody needs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ghcoord.coord.workers.tick import Beat, Reply
from ghcoord.execution.worker import Summary, WorkerDaemon
from ghcoord.execution.workspace import Workspaces
from ghcoord.hub import Hub, Submission
from ghcoord.model.tool import ToolContext
from tests.processes import until


@contextmanager
def running(hub: Hub, folder: Path, slots: int = 1) -> Iterator[WorkerDaemon]:
    """A daemon that hardly ever polls, resting when the block begins."""
    daemon = WorkerDaemon(hub, "w1", slots=slots, poll=20.0, ttl=120.0, workspace=folder)
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        until(lambda: hub.workers.get("w1") is not None)
        time.sleep(0.1)
        yield daemon
    finally:
        daemon.stop()
        thread.join()


def test_a_workspace_is_made_for_who_asks(
    hub: Hub, work: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that does not look at it costs no folder; one that does has one, gone afterwards."""
    made: list[Path] = []
    real = Workspaces.make

    def make(self: Workspaces, task_id: str, attempt: int) -> Path:
        made.append(real(self, task_id, attempt))
        return made[-1]

    monkeypatch.setattr(Workspaces, "make", make)
    hub.tools.register("modest")(lambda: None)

    @hub.tools.register("asks")
    def asks(ctx: ToolContext | None = None) -> bool:
        assert ctx is not None
        return ctx.workspace.is_dir() and ctx.workspace == ctx.workspace

    for tool in ("modest", "asks", "modest"):
        hub.tasks.submit(tool)
    assert 3 == work().succeeded
    assert 1 == len(made)
    assert not made[0].exists()


def test_a_slots_thread_goes_on_with_the_next_task(hub: Hub, work: Callable[..., Summary]) -> None:
    """200 short tasks on two slots need a few threads, not 200."""
    threads: set[threading.Thread] = set()
    hub.tools.register("note")(lambda: threads.add(threading.current_thread()) or None)
    hub.tasks.submit_many([Submission("note")] * 200)
    assert 200 == work(slots=2).succeeded
    assert 1 <= len(threads) <= 40


def test_what_this_process_submits_is_leased_in_the_same_commit(hub: Hub, tmp_path: Path) -> None:
    """A resting daemon takes the submitter's commit along; one that is stopped meanwhile leaves nothing behind."""
    hub.tools.register("add")(lambda a, b: a + b)
    with running(hub, tmp_path / "work", slots=2):
        before = hub.commits
        tasks = hub.tasks.submit_many([Submission("add", {"a": n, "b": 1}) for n in range(2)])
        ended = hub.tasks.wait_many([task.id for task in tasks], timeout=10)
        assert 2 <= hub.commits - before <= 3
    assert [1, 2] == [ended[task.id].result.data["value"] for task in tasks]  # type: ignore[union-attr]
    summaries = [commit.summary for commit in hub.log()]
    assert any("2 tasks submitted" in one and "task leased" in one for one in summaries)
    later = hub.tasks.submit("add", {"a": 1, "b": 1})
    found = hub.tasks.get(later.id)
    assert found is not None
    assert "queued" == found.state


def test_its_own_commits_are_no_news(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its tick a daemon does not look at what that tick wrote: one beat for each thing to say."""
    beats: list[Beat] = []
    real = hub.beat

    def beat(request: Beat, timeout: float = 30.0) -> Reply:
        beats.append(request)
        return real(request, timeout)

    monkeypatch.setattr(hub, "beat", beat)
    hub.tools.register("nothing")(lambda: None)
    with running(hub, tmp_path / "work"):
        beats.clear()
        for _ in range(3):
            hub.tasks.wait(hub.tasks.submit("nothing").id, timeout=10)
        time.sleep(0.2)
        empty = [one for one in beats if not one.finished and not one.renew]
        assert 3 == len([one for one in beats if one.finished])
        assert len(empty) <= 3, "only for a lease that found nobody resting"


def test_others_commits_are_news(hub: Hub, tmp_path: Path) -> None:
    """What somebody else commits right after is found at the next poll, not taken for one's own."""
    from ghcoord.bootstrap import connect

    hub.tools.register("nothing")(lambda: None)
    daemon = WorkerDaemon(hub, "w1", poll=0.05, ttl=60.0, workspace=tmp_path / "work")
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        with connect(hub.url) as other:
            for _ in range(5):
                mine, theirs = hub.tasks.submit("nothing"), other.tasks.submit("nothing")
                ended = other.tasks.wait_many([mine.id, theirs.id], timeout=10)
                assert {"succeeded"} == {task.state for task in ended.values()}
    finally:
        daemon.stop()
        thread.join()
