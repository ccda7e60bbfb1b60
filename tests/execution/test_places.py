"""Where tasks run: what a task of its own and a session's task are given, and what a fault of the place means."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import NoCapacity, NotFound, SandboxError, SessionLost, Unavailable, UsageError
from ghcoord.execution.places import Places
from ghcoord.execution.running import RunningTask
from ghcoord.execution.session.folder import SessionFolder
from ghcoord.execution.workspace import Workspaces
from ghcoord.model.codec import stamp
from ghcoord.model.limits import DEFAULT_LIMITS, Limits
from ghcoord.model.session import CallNote, Session, Usage
from ghcoord.model.task import State, Task, TaskLease
from ghcoord.model.tool import Tool, ToolContext, ToolResult

RUNTIME = SystemRuntime()


def task(session: str | None = None, **given: Any) -> Task:
    """A leased task."""
    lease = TaskLease(worker="w1", token=7, attempt=1, at=stamp(0))
    made = {"id": "t1", "tool": "x", "type": "x", "sequence": 1, "created_at": stamp(0)}
    held = {"state": State.LEASED, "attempt": 1, "lease": lease, "session": session}
    return Task.model_validate({**made, **held, **given})


class Pool:
    """A pool with one session, or with what it raises."""

    def __init__(self, folder: SessionFolder | Exception) -> None:
        self.folder = folder
        self.notes: list[CallNote] = []
        self.usages: list[Usage] = []
        self.inside = 0

    @contextlib.contextmanager
    def enter(self, session_id: str, **given: Any) -> Iterator[SessionFolder]:
        if isinstance(self.folder, Exception):
            raise self.folder
        self.inside += 1
        try:
            yield self.folder
        finally:
            self.inside -= 1

    def note(self, session_id: str, note: CallNote) -> None:
        self.notes.append(note)

    def used(self, session_id: str, usage: Usage) -> None:
        self.usages.append(usage)


def run(places: Places, one: RunningTask, tool: Any) -> ToolResult:
    return places.run(one, None if tool is None else Tool("x", "", tool), lambda: 5.0)


@pytest.fixture
def workspaces(tmp_path: Path) -> Iterator[Workspaces]:
    made = Workspaces(tmp_path / "work")
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> SessionFolder:
    """A session's folder."""
    session = Session(
        id="s1",
        created_at=stamp(0),
        last_active=stamp(0),
        epoch=3,
        env={"A": "1"},
        allow=("example.org",),
        limits=Limits(timeout=9, memory_mb=100),
    )
    made = SessionFolder(session, tmp_path / "s1")
    made.make()
    return made


def test_a_task_of_its_own_has_a_private_directory(workspaces: Workspaces) -> None:
    """It goes with the attempt, and so does what was kept beside it; the limits are the worker's."""
    places = Places(workspaces, limits=DEFAULT_LIMITS.under(Limits(timeout=2)))
    one = places.take(RUNTIME, task())
    seen: list[Path] = []

    def tool(args: dict[str, Any], ctx: ToolContext) -> ToolResult:
        seen.extend([ctx.workspace, ctx.keep("cache")])
        (seen[0] / "f").write_text("x")
        (seen[1] / "g").write_text("x")
        assert seen[1] == ctx.keep("cache")
        assert (None, {}, (), 2.0) == (ctx.session_id, dict(ctx.env), ctx.allow, ctx.timeout)
        with pytest.raises(UsageError, match="in a session only"):
            one.checkpoint()
        return ToolResult(success=True)

    assert run(places, one, tool).success
    assert seen[0] != seen[1]
    assert all(path.exists() for path in seen)
    places.clear(one)
    assert not any(path.exists() for path in seen)


def test_a_sessions_task_has_the_session(workspaces: Workspaces, folder: SessionFolder) -> None:
    """Its workspace, variables, hosts and limits; the call is noted, and what it used."""
    pool = Pool(folder)
    places = Places(workspaces, pool=pool)  # type: ignore[arg-type]
    one = places.take(RUNTIME, task("s1", timeout=30.0))

    def tool(args: dict[str, Any], ctx: ToolContext) -> ToolResult:
        assert (folder.workspace, folder.root / "keep" / "uv") == (ctx.workspace, ctx.keep("uv"))
        assert ("s1", {"A": "1"}, ("example.org",), 9.0) == (ctx.session_id, dict(ctx.env), ctx.allow, ctx.timeout)
        assert 100 == ctx.limits.memory_mb
        one.used(Usage(cpu_seconds=1.5))
        return ToolResult(success=False, error="it failed")

    assert "it failed" == run(places, one, tool).error
    assert [("x", "t1", False, "it failed")] == [(n.tool, n.task, n.success, n.error) for n in pool.notes]
    assert [1.5] == [usage.cpu_seconds for usage in pool.usages]
    assert 0 == pool.inside
    assert one.made is None


@pytest.mark.parametrize("fault", [SandboxError("no"), OSError(28, "No space left"), Unavailable("gone")])
def test_a_fault_of_this_machine_is_no_failure(workspaces: Workspaces, fault: Exception) -> None:
    """The lease goes back."""
    places = Places(workspaces, pool=Pool(fault))  # type: ignore[arg-type]
    one = places.take(RUNTIME, task("s1"))
    assert run(places, one, lambda args, ctx: ToolResult(True)).infrastructure


@pytest.mark.parametrize("elsewhere", [NoCapacity("it is with w2", "w1"), NotFound("there is no session")])
def test_a_session_that_moved_is_no_fault_either(workspaces: Workspaces, elsewhere: Exception) -> None:
    """The lease goes back, and the worker does not count as broken."""
    places = Places(workspaces, pool=Pool(elsewhere))  # type: ignore[arg-type]
    one = places.take(RUNTIME, task("s1"))
    result = run(places, one, lambda args, ctx: ToolResult(True))
    assert (False, False) == (result.success, result.infrastructure)
    assert str(elsewhere) == one.stopped_because


def test_a_lost_session_fails_its_call(workspaces: Workspaces) -> None:
    """With the reason: trying again would not help."""
    places = Places(workspaces, pool=Pool(SessionLost("its files are gone", "s1")))  # type: ignore[arg-type]
    result = run(places, places.take(RUNTIME, task("s1")), lambda args, ctx: ToolResult(True))
    assert (False, "its files are gone", False) == (result.success, result.error, result.infrastructure)


def test_what_a_tool_raises(workspaces: Workspaces) -> None:
    """A sandbox that cannot be set up gives the lease back; a mistake is its message, anything else is named."""

    def raising(error: Exception) -> ToolResult:
        def tool(args: dict[str, Any], ctx: ToolContext) -> ToolResult:
            raise error

        places = Places(workspaces)
        return run(places, places.take(RUNTIME, task()), tool)

    assert raising(SandboxError("no")).infrastructure
    assert "wrong" == raising(UsageError("wrong")).error
    assert "ValueError: odd" == raising(ValueError("odd")).error


def test_without_tool_or_sessions_the_lease_goes_back(workspaces: Workspaces) -> None:
    """Another worker may have them."""
    places = Places(workspaces)
    assert run(places, places.take(RUNTIME, task()), None).infrastructure
    assert run(places, places.take(RUNTIME, task("s1")), lambda args, ctx: ToolResult(True)).infrastructure
