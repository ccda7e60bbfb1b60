"""The pool when things go wrong at a bad moment: nothing that was acknowledged is thrown away, nothing runs twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ghcoord.errors import Corrupt, LeaseLost, Unavailable
from ghcoord.execution.places import Places
from ghcoord.execution.workspace import Workspaces
from ghcoord.hub import Hub
from ghcoord.model.codec import stamp
from ghcoord.model.session import SessionState
from ghcoord.model.task import Attempt, State, Task, TaskLease
from ghcoord.model.tool import Tool, ToolContext, ToolResult
from ghcoord.model.worker import SandboxInfo
from tests.execution.session.conftest import Station
from tests.execution.session.test_pool import got, put, state
from tests.processes import until

Make = Callable[..., Station]


def with_tool(station: Station, run: Callable[[dict[str, Any], ToolContext], ToolResult]) -> None:
    station.pool.serve({**station.pool._tools, "own": Tool("own", "", run)})


def test_a_worker_that_comes_back_weaker_keeps_the_files(hub: Hub, station: Make) -> None:
    """Its lost sessions are there again when its sandbox is."""
    first = station()
    first.pool.create("s1")
    put(first, "s1", "kept")
    first.tick()
    first.pool.close()
    hub.workers.register("w1", max_sessions=5, sandbox=SandboxInfo(driver="test", tier="partial"))
    assert SessionState.LOST is state(hub, "s1")
    weak = hub.workers.get("w1")
    assert weak is not None
    first.pool._draining = False
    assert first.pool.recover(weak.token)
    first.pool.close()
    again = station()
    assert "kept" == got(again, "s1")


def test_a_worker_that_comes_back_smaller_keeps_the_files(hub: Hub, station: Make) -> None:
    """What it has no room for goes on when it has; what is elsewhere by then is removed."""
    first = station()
    for name in ("s1", "s2", "s3"):
        first.pool.create(name)
        put(first, name, name)
    first.tick()
    first.pool.close()
    hub.workers.deregister("w1")
    small = station(max_sessions=1)
    assert "s1" == got(small, "s1")
    small.pool.close()
    hub.sessions.destroy("s2")
    again = station()
    assert "s3" == got(again, "s3")
    until(lambda: not again.pool.home.root("s2").exists())


def test_files_that_wait_go_when_their_session_is_over(hub: Hub, station: Make) -> None:
    """Also while the worker runs: its sweep finds them."""
    first = station()
    for name in ("s1", "s2"):
        first.pool.create(name)
        put(first, name, name)
    first.tick()
    first.pool.close()
    hub.workers.deregister("w1")
    small = station(max_sessions=1)
    assert small.pool.home.root("s2").exists()
    hub.sessions.touched()
    assert 0 == small.pool.sweep()
    assert {} == hub.sessions.touched(), "looking is no use"
    hub.sessions.destroy("s2")
    assert 1 == small.pool.sweep()
    until(lambda: not small.pool.home.root("s2").exists())
    assert "s1" == got(small, "s1")


def test_a_record_that_cannot_be_read_costs_no_files(hub: Hub, station: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody puts it right, and the session goes on."""
    first = station()
    first.pool.create("s1")
    put(first, "s1", "kept")
    first.tick()
    first.pool.close()
    hub.workers.deregister("w1")

    def broken(*args: object) -> None:
        raise Corrupt("the record is broken")

    with monkeypatch.context() as patch:
        patch.setattr(type(hub.sessions), "reattach", lambda *args: {})
        patch.setattr(type(hub.sessions), "get", broken)
        patch.setattr(type(hub.sessions), "list", lambda self: [])
        station().pool.close()
    assert "kept" == got(station(), "s1")


def test_restore_leaves_alone_what_was_opened_since(hub: Hub, station: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that comes as soon as the hub has put the session back is not thrown away with the old files."""
    one = station()
    one.pool.create("s1")
    put(one, "s1", "first")
    one.pool.checkpoint("s1")
    put(one, "s1", "second")
    one.tick()
    restore = type(hub.sessions).restore

    def then_a_call(*args: Any, **given: Any) -> Any:
        session = restore(*args, **given)
        one.tick()
        put(one, "s1", "since", "g")
        return session

    monkeypatch.setattr(type(hub.sessions), "restore", then_a_call)
    one.pool.restore("s1")
    assert ("first", "since") == (got(one, "s1"), got(one, "s1", "g"))


def test_a_call_that_ended_before_it_was_stopped_is_remembered(hub: Hub, station: Make) -> None:
    """Its effect is there: with its key it does not happen again."""
    one = station()
    one.pool.create("s1")
    asked: list[int] = []

    def run(args: dict[str, Any], ctx: ToolContext) -> ToolResult:
        (ctx.workspace / f"ran-{len(asked)}").write_text("")
        asked.append(1)
        return ToolResult(success=True, output=str(len(asked)))

    with_tool(one, run)
    assert "1" == one.pool.call("s1", "own", {}, key="k", cancelled=lambda: bool(asked)).output
    assert "1" == one.pool.call("s1", "own", {}, key="k").output


def test_a_lease_that_ran_out_counts_before_anybody_says_so(hub: Hub, station: Make) -> None:
    """After a pause of the whole process nothing is believed until the lease is known to run."""
    one = station()
    one.pool.create("s1")
    put(one, "s1", "one")
    over: list[int] = []
    one.pool.lease_runs = lambda: not over

    def run(args: dict[str, Any], ctx: ToolContext) -> ToolResult:
        over.append(1)
        return ToolResult(success=True)

    with_tool(one, run)
    with pytest.raises(LeaseLost):
        one.pool.call("s1", "own", {})
    with pytest.raises(Unavailable, match="try again"):
        got(one, "s1")
    over.clear()
    assert "one" == got(one, "s1")


def test_a_marked_call_of_the_hub_that_ended_is_not_run_again(hub: Hub, station: Make, tmp_path: Path) -> None:
    """A worker that dies before the hub has its result gives the same result when it gets the call again."""
    ran: list[int] = []

    def run(args: dict[str, Any], ctx: ToolContext) -> ToolResult:
        ran.append(1)
        return ToolResult(success=False, output="out", error=f"run {len(ran)}", exit_code=3, data={"a": [1]})

    tool = Tool("own", "", run)
    one = station()
    one.pool.create("s1")
    marked, plain = hub.sessions.submit_call("s1", "own", {"x": 1}, key="k"), hub.sessions.submit_call("s1", "own")

    def attempt(task: Task, token: int, *before: tuple[int, str]) -> ToolResult:
        lease = TaskLease(worker="w1", token=token, attempt=len(before) + 1, at=stamp(0))
        past = tuple(
            Attempt(attempt=1, worker="w1", token=old, started_at=stamp(0), ended_at=stamp(0), outcome=outcome)
            for old, outcome in before
        )
        held = task.model_copy(update={"lease": lease, "state": State.LEASED, "history": past})
        places = Places(Workspaces(tmp_path / "own"), pool=one.pool)
        return places.run(places.take(hub.runtime, held), tool, lambda: 5.0)

    first = attempt(marked, 7)
    assert ("run 1", 3, {"a": [1]}) == (first.error, first.exit_code, first.data)
    one.pool.close()
    one = station()
    assert first == attempt(marked, 9, (7, "lost"))
    assert first == attempt(marked, 11, (7, "lost"), (9, "given back"))
    assert "run 2" == attempt(marked, 13, (7, "lost"), (11, "failed")).error, "asked to try again, it does"
    assert "run 3" == attempt(marked, 15, (14, "lost")).error, "that one had not ended"
    assert "run 4" == attempt(plain, 17).error
    assert "run 5" == attempt(plain, 19, (17, "lost")).error, "without a key it runs again"
