"""The caller's trace where work is done: what a tool sees of it, and the spans of a process that is traced."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import opentelemetry.trace as otel
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ghcoord.clock import SystemRuntime
from ghcoord.errors import UsageError
from ghcoord.execution import spans
from ghcoord.execution.places import Places
from ghcoord.execution.session.local import LocalSessions
from ghcoord.execution.workspace import Workspaces
from ghcoord.hub import Hub
from ghcoord.model.codec import stamp
from ghcoord.model.task import State, Task, TaskLease
from ghcoord.model.tool import Tool, ToolContext, ToolResult
from ghcoord.tracing import trace_id_of
from tests.execution.session.conftest import CopyingCheckpoints, Station
from tests.test_tracing import GOOD, SPAN, TRACE

SECRET = "ghp_0123456789abcdefghijABCDEFGHIJ012345"
Ended = Callable[[], list[ReadableSpan]]


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ended]:
    """This process is traced; returns the spans that have ended, in their order."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(otel, "get_tracer_provider", lambda: provider)
    yield lambda: list(exporter.get_finished_spans())
    provider.shutdown()


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    workspaces = Workspaces(tmp_path / "work")
    yield Places(workspaces)
    workspaces.close()


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[LocalSessions]:
    """A worker's sessions, one of them called ``s1``, with the tool ``see``."""
    import ghcoord.bootstrap as bootstrap

    opened, _ = bootstrap.create(tmp_path / "hub.git")
    (tmp_path / "base").mkdir(mode=0o711)
    with opened:
        station = Station(opened, "w1", tmp_path / "base", _checkpoints(opened, tmp_path))
        station.pool.serve({"see": Tool("see", "", see)})
        station.pool.create("s1")
        yield station.pool
        station.pool.close()


def _checkpoints(hub: Hub, folder: Path) -> CopyingCheckpoints:
    return CopyingCheckpoints(folder / "checkpoints", hub)


def see(args: dict[str, Any], ctx: ToolContext) -> ToolResult:
    """What the tool is told of the trace."""
    return ToolResult(success=not args.get("fail"), output=ctx.trace, error=args.get("fail", ""))


def task(**given: Any) -> Task:
    lease = TaskLease(worker="w1", token=7, attempt=1, at=stamp(0))
    held = {"id": "t1", "tool": "see", "created_at": stamp(0), "state": State.LEASED, "attempt": 1, "lease": lease}
    return Task.model_validate({**held, **given})


def run(places: Places, given: Task, tool: Callable[..., ToolResult] = see) -> ToolResult:
    one = places.take(SystemRuntime(), given)
    return places.run(one, Tool("see", "", tool), lambda: 5.0)


@pytest.mark.parametrize(("trace", "seen"), [(GOOD, GOOD), ("", ""), ("hostile\r\n", ""), (5, "")])
def test_a_task_sees_its_trace(places: Places, trace: Any, seen: str) -> None:
    """As it was submitted; what is no trace in a record is none."""
    assert seen == run(places, task(trace=trace)).output


def test_a_call_in_this_process_sees_its_trace(pool: LocalSessions) -> None:
    """Given by the caller, none by default, and a bad one is refused before anything runs."""
    assert [GOOD, ""] == [pool.call("s1", "see", {}, trace=GOOD).output, pool.call("s1", "see", {}).output]
    with pytest.raises(UsageError, match="no W3C traceparent"):
        pool.call("s1", "see", {}, trace="x")


def test_spans_of_tasks_hang_below_their_submitters(places: Places, ended: Ended) -> None:
    """The span's parent is the submitter's span, and what the task calls gets the task's own."""
    seen = run(places, task(trace=GOOD, args={"password": SECRET})).output
    failed = run(places, task(args={"fail": SECRET}))
    assert not failed.success
    one, two = ended()
    assert one.context is not None
    assert one.parent is not None
    assert (TRACE, SPAN) == (f"{one.context.trace_id:032x}", f"{one.parent.span_id:016x}")
    assert f"00-{TRACE}-{one.context.span_id:016x}-01" == seen
    assert ("task see", otel.SpanKind.CONSUMER, True) == (one.name, one.kind, one.status.is_ok)
    assert {"ghcoord.task": "t1", "ghcoord.attempt": 1} == dict(one.attributes or {})
    assert (None, False) == (two.parent, two.status.is_ok)
    assert SECRET not in f"{one.to_json()}{two.to_json()}"


def test_spans_of_calls_hang_below_their_callers(pool: LocalSessions, ended: Ended) -> None:
    """A traceparent decides; without one it is the span that is present."""
    pool.call("s1", "see", {}, trace=GOOD)
    with spans.span("outer") as outer:
        seen = pool.call("s1", "see", {}).output
        assert outer.trace == spans.current()
    by_trace, inner, around = ended()
    assert (SPAN, "call see") == (f"{by_trace.parent.span_id:016x}" if by_trace.parent else "", by_trace.name)
    assert {"ghcoord.session": "s1", "ghcoord.worker": "w1"} == dict(by_trace.attributes or {})
    assert around.context is not None
    assert inner.parent is not None
    assert around.context.span_id == inner.parent.span_id
    assert trace_id_of(outer.trace) == trace_id_of(seen)


def test_a_caller_that_records_nothing_is_respected(places: Places, ended: Ended) -> None:
    """Without the sampled flag no span is recorded, and the flag goes on with the trace."""
    seen = run(places, task(trace=GOOD[:-2] + "00")).output
    assert [] == ended()
    assert (TRACE, "00") == (trace_id_of(seen), seen[-2:])


def test_what_a_span_tells_is_short(ended: Ended) -> None:
    """Names and values are cut, and what has none is left out."""
    with spans.span("n" * 1000, "", {"a": "v" * 1000, "b": None, "c": 3}):
        spans.describe({"d": "later"})
    (one,) = ended()
    assert (200, {"a": "v" * 200, "c": 3, "d": "later"}) == (len(one.name), dict(one.attributes or {}))


@pytest.mark.parametrize("exporter", ["zipkin", "", "otlp,console"])
def test_an_unknown_exporter_is_refused(exporter: str) -> None:
    """By name, with those there are."""
    with pytest.raises(UsageError, match="one of otlp, console, none"):
        spans.install(exporter)


@pytest.mark.parametrize("missing", ["opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http"])
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """With what to install."""
    monkeypatch.delitem(sys.modules, f"{missing}.trace_exporter", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UsageError, match=r"pip install 'ghcoord\[otel\]'"):
        spans.install("otlp")


def test_an_exception_in_a_span_is_not_told(ended: Ended) -> None:
    """The span failed, and says nothing of why: the message may hold anything."""
    with pytest.raises(ValueError, match=SECRET), spans.span("x"):
        raise ValueError(SECRET)
    (one,) = ended()
    assert (False, ()) == (one.status.is_ok, one.events)
    assert SECRET not in one.to_json()


PROGRAM = """
import sys
from ghcoord.execution import places, spans
with spans.span("x", {trace!r}) as span:
    assert {trace!r} == span.trace and "" == spans.current()
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
spans.install("none")
spans.install("console")
with spans.span("work", {trace!r}, {{"k": "v"}}) as span:
    span.ended(False)
    print(span.trace)
"""


@pytest.mark.slow
def test_a_process_that_is_not_traced_imports_nothing() -> None:
    """OpenTelemetry is loaded by install() alone; then spans go where it says, never to standard output."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(trace=GOOD)], capture_output=True, text=True, timeout=60, check=False
    )
    assert 0 == done.returncode, done.stderr
    assert TRACE == trace_id_of(done.stdout.strip())
    assert all(part in done.stderr for part in ('"name": "work"', TRACE, SPAN, '"status_code": "ERROR"', "ghcoord"))
