"""Worker daemons inside the test: registered functions, odd results, lost replies, bounded commits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from ghcoord.coord.tasks.tasks import Submission
from ghcoord.coord.workers.tick import Beat, Reply
from ghcoord.errors import OutcomeUnknown
from ghcoord.execution.worker import Summary
from ghcoord.hub import Hub
from ghcoord.model.tool import ToolContext


def test_a_registered_function_runs(hub: Hub, work: Callable[..., Summary]) -> None:
    """A Python function registered on the hub gets its arguments and its value comes back."""

    @hub.tools.register("build")
    def build(target: str, jobs: int = 1) -> dict[str, object]:
        return {"built": target, "jobs": jobs}

    task = hub.tasks.submit("build", {"target": "all"})
    assert 1 == work().succeeded
    result = hub.tasks.result(task.id)
    assert result is not None
    assert {"built": "all", "jobs": 1} == result.data["value"]


def test_what_a_function_raises_is_the_tasks_error(hub: Hub, work: Callable[..., Summary]) -> None:
    """An exception fails the task, with its type and text as the message."""

    @hub.tools.register("broken")
    def broken() -> None:
        raise ValueError("no such thing")

    task = hub.tasks.submit("broken", {})
    assert 1 == work().failed
    result = hub.tasks.result(task.id)
    assert result is not None
    assert "ValueError: no such thing" == result.error


@pytest.mark.parametrize(("value", "message"), [("x" * 2_000_000, None), ([0] * 400_000, "bytes"), ("\ud800", None)])
def test_a_result_too_large_for_a_record_never_stops_the_worker(
    hub: Hub, work: Callable[..., Summary], value: object, message: str | None
) -> None:
    """Huge or unencodable results are cut or become a failure that says so; the next task runs."""

    @hub.tools.register("huge")
    def huge() -> object:
        return value

    task = hub.tasks.submit("huge", {})
    after = hub.tasks.submit("echo", {"message": "still here"})
    work()
    result = hub.tasks.result(task.id)
    assert result is not None
    if message is not None:
        assert message in result.error
    assert "still here" == getattr(hub.tasks.result(after.id), "output", None)


def test_a_function_that_ignores_its_timeout_is_reported(
    hub: Hub, work: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function cannot be killed: its timeout is reported as a failure, and a cancelled context tells it."""
    seen: list[bool] = []

    @hub.tools.register("stubborn")
    def stubborn(ctx: ToolContext | None = None) -> None:
        assert ctx is not None
        while not ctx.cancelled():
            time.sleep(0.02)
        seen.append(True)

    task = hub.tasks.submit("stubborn", {}, timeout=0.2)
    monkeypatch.setattr("ghcoord.execution.slots.TIMEOUT_SLACK", 0.1)
    work(grace=0.1)
    result = hub.tasks.result(task.id)
    assert result is not None
    assert "timed out after 0.2 s" in result.error
    assert [True] == seen


@pytest.mark.slow
def test_a_slot_that_such_a_function_leaves_late_is_used_at_once(
    hub: Hub, work: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is queued does not wait for the next renewal, though nothing on the hub has changed."""

    @hub.tools.register("stubborn")
    def stubborn() -> None:
        time.sleep(0.6)

    @hub.tools.register("quick")
    def quick() -> str:
        return "done"

    hub.tasks.submit("stubborn", {}, timeout=0.1)
    queued = hub.tasks.submit("quick", {})
    monkeypatch.setattr("ghcoord.execution.slots.TIMEOUT_SLACK", 0.1)
    work(grace=0.1, ttl=30.0, until_idle=1.0)
    assert getattr(hub.tasks.result(queued.id), "success", None)


def test_progress_and_output_reach_the_hub(hub: Hub, work: Callable[..., Summary]) -> None:
    """What a running function says is in the record while it runs."""
    go_on = threading.Event()

    @hub.tools.register("slow")
    def slow(ctx: ToolContext | None = None) -> None:
        assert ctx is not None
        ctx.progress(0.5, "half")
        ctx.log("stdout", "line\n")
        go_on.wait(10)

    task = hub.tasks.submit("slow", {})
    thread = threading.Thread(target=work)
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while (found := hub.tasks.get(task.id)) is None or found.progress is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert (0.5, "half", "line\n") == (found.progress.fraction, found.progress.message, found.progress.tail)
        assert "line\n" == next(hub.tasks.logs(task.id))
    finally:
        go_on.set()
        thread.join()


def test_a_lost_reply_leaves_no_lease_behind(
    hub: Hub, work: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases granted by a tick whose reply never came show as held but unknown, go back, and run."""
    real, dropped = hub.beat, []

    def lossy(request: Beat, timeout: float = 30.0) -> Reply:
        reply = real(request, timeout)
        if reply.leased and not dropped:
            dropped.extend(reply.leased)
            raise OutcomeUnknown("the reply was lost")
        return reply

    monkeypatch.setattr(hub, "beat", lossy)
    tasks = hub.tasks.submit_many([Submission("echo", {"message": str(n)}) for n in range(5)])
    work(ttl=3.0)
    assert dropped
    for task in tasks:
        found = hub.tasks.get(task.id)
        assert found is not None
        assert ("succeeded", 0, 0) == (found.state, found.failures, found.lost)


def test_commits_are_shared_by_many_tasks(hub: Hub, work: Callable[..., Summary]) -> None:
    """400 short tasks on 4 slots take far fewer commits than tasks: results, leases and renewal share them."""
    hub.tasks.submit_many([Submission("echo", {"message": str(n)}) for n in range(400)])
    summary = work(slots=4)
    assert 400 == summary.succeeded
    assert summary.commits <= 400 / 8


def test_priorities_decide_the_order(hub: Hub, work: Callable[..., Summary]) -> None:
    """Higher priority first, then the order of submission."""
    order: list[str] = []

    @hub.tools.register("note")
    def note(name: str) -> None:
        order.append(name)

    for name, priority in (("a", 0), ("b", 5), ("c", 9), ("d", 5), ("e", 0)):
        hub.tasks.submit("note", {"name": name}, priority=priority)
    work(slots=1)
    assert ["c", "b", "d", "a", "e"] == order


def test_a_hub_drain_request_is_followed(hub: Hub, work: Callable[..., Summary]) -> None:
    """`worker drain` reaches the daemon through the hub: it ends by itself."""
    thread = threading.Thread(target=work, kwargs={"until_idle": None})
    thread.start()
    deadline = time.monotonic() + 10
    while hub.workers.get("w1") is None and time.monotonic() < deadline:
        time.sleep(0.02)
    hub.workers.drain("w1")
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert [] == hub.workers.list()


@pytest.mark.slow
def test_limits_hold_for_what_really_runs(hub: Hub, work: Callable[..., Summary]) -> None:
    """With slots to spare and tasks leased ahead, a key's tasks run one at a time, and start at their rate."""
    lock, running, most, starts = threading.Lock(), [0], [0], list[float]()

    @hub.tools.register("alone")
    def alone() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.01)
        with lock:
            running[0] -= 1

    @hub.tools.register("slow")
    def slow() -> None:
        starts.append(time.monotonic())

    hub.tasks.submit_many([Submission("echo", {"message": str(n)}) for n in range(40)])
    hub.tasks.submit_many([Submission("alone", key="a", concurrency=1) for _ in range(8)])
    hub.tasks.submit_many([Submission("slow", key="s", rate=(2, 0.5)) for _ in range(5)])
    assert 53 == work(slots=4).succeeded
    assert 1 == most[0]
    assert all(later - earlier > 0.3 for earlier, later in zip(starts, starts[2:], strict=False)), starts


def test_a_daemon_whose_slots_are_all_busy_does_what_is_due(hub: Hub, work: Callable[..., Summary]) -> None:
    """A scheduled task is queued at its time, so that others can take it; and then run."""
    go_on = threading.Event()

    @hub.tools.register("long")
    def long() -> None:
        go_on.wait(10)

    hub.tasks.submit("long")
    thread = threading.Thread(target=work, kwargs={"poll": 5.0, "ttl": 60.0})
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while hub.tasks.counts()["leased"] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        later = hub.tasks.submit("echo", {"message": "now"}, not_before=0.5)
        while getattr(hub.tasks.get(later.id), "state", "") != "queued":
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        go_on.set()
        thread.join()
    assert "succeeded" == getattr(hub.tasks.get(later.id), "state", "")
