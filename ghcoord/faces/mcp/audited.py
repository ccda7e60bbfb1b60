"""The audit of tool calls: each one and how it ended, recorded in the hub and, if asked, as lines of JSON.

What is kept of arguments and results is redacted and cut by
:mod:`ghcoord.coord.audit`, which writes the entries of several seconds in one
commit, from a thread of its own: a call never waits for its audit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ghcoord.errors import GhcoordError
from ghcoord.execution import spans
from ghcoord.faces.mcp.answer import Answer
from ghcoord.faces.mcp.caller import Caller
from ghcoord.model.event import AuditEntry
from ghcoord.model.task import TaskResult
from ghcoord.tracing import continued, trace_id_of

if TYPE_CHECKING:
    from ghcoord.coord.audit.audit import Sink
    from ghcoord.hub import Hub

SHORT = 200
"""Characters of a text that an entry's data has at most: longer ones are in the answer's text already."""

Warned = Callable[[str], None]
"""Told, in one sentence, of entries that could not be recorded."""


def _unheard(text: str) -> None:
    """Nobody asked to be told."""


def call_trace(given: object, randbits: Callable[[int], int]) -> str:
    """The traceparent of a call whose request says ``given``: of the span that runs it, or as given, or a new one."""
    present, asked = spans.current(), trace_id_of(given)
    return present if present and asked in ("", trace_id_of(present)) else continued(given, randbits)


class Audited:
    """Records the calls of one server. May be used from any thread.

    ``sink`` gets each entry besides the hub, in a thread of its own.  A call
    goes on when it cannot be recorded: ``warn`` is told once, until it works
    again.
    """

    def __init__(self, hub: Hub, sink: Sink | None = None, warn: Warned = _unheard) -> None:
        self._hub = hub
        self._warn = warn
        self._warned = ""
        self._mutex = threading.Lock()
        self._open: dict[object, dict[str, Any]] = {}
        """The calls that have not ended."""
        if sink is not None:
            hub.audit.sink = sink

    def run(
        self,
        name: str,
        caller: Caller,
        arguments: Mapping[str, Any],
        trace: str,
        run: Callable[[], Answer],
    ) -> Answer:
        """``run()``, recorded as a call of the tool ``name`` before it and with its answer after it.

        What it raises passes through, and is recorded as why the call failed:
        so a name that is no tool, bad arguments and missing rights are in the
        log as well, where ``run`` is what finds them.
        """
        runtime = self._hub.runtime
        about = _about(name, caller, arguments, trace)
        spans.describe(_attributes(about))
        self._record(self._hub.audit.tool_call, AuditEntry(**about))
        call = object()
        with self._mutex:
            self._open[call] = about
        started = runtime.monotonic()
        try:
            answer = run()
        except BaseException as error:
            self._end(call, error_msg=_text(str(error).strip() or type(error).__name__))
            raise
        made = answer.data.get("session_id")
        if not about["session_id"] and isinstance(made, str):
            about["session_id"] = _text(made)
        result = _result(answer, max(0.0, runtime.monotonic() - started))
        self._end(call, result=result, error_msg=result.error)
        return answer

    def close(self) -> None:
        """Record of the calls that still run that the server ended first; before the hub is closed."""
        with self._mutex:
            calls = list(self._open)
        for call in calls:
            self._end(call, error_msg="the server ended before the call did")

    def _end(self, call: object, **how: Any) -> None:
        with self._mutex:
            about = self._open.pop(call, None)
        if about is not None:
            self._record(self._hub.audit.tool_result, AuditEntry(**about, **how))

    def _record(self, record: Callable[[AuditEntry], None], entry: AuditEntry) -> None:
        try:
            record(entry)
            trouble = self._hub.audit.trouble
        except GhcoordError as error:
            trouble = str(error)
        if trouble and trouble != self._warned:
            self._warn(f"tool calls are not recorded: {trouble}")
        self._warned = trouble


def _about(name: str, caller: Caller, arguments: Mapping[str, Any], trace: str) -> dict[str, Any]:
    """What both entries of a call say."""
    session = arguments.get("session_id")
    return {
        "tool_name": _text(name) or "?",
        "session_id": _text(session) if isinstance(session, str) else "",
        "user_id": _text(caller.user_id),
        "workspace_id": _text(caller.workspace_id),
        "client": _text(caller.client),
        "arguments": dict(arguments),
        "trace_id": trace_id_of(trace),
    }


def _attributes(about: Mapping[str, Any]) -> dict[str, str]:
    """What a span tells of the call: whose it is, and nothing of what is in it."""
    names = {"session_id": "ghcoord.session", "user_id": "enduser.id", "workspace_id": "ghcoord.workspace"}
    return {shown: about[name] for name, shown in names.items() if about[name]}


def _result(answer: Answer, duration: float) -> TaskResult:
    """The answer as a result; of its data what the text does not have."""
    text = _text("\n".join((*answer.notices, answer.text)))
    exit_code = answer.data.get("exit_code")
    return TaskResult(
        success=not answer.failed,
        output="" if answer.failed else text,
        error=text if answer.failed else "",
        exit_code=exit_code if isinstance(exit_code, int) else None,
        duration=round(duration, 3),
        data={key: value for key, value in answer.data.items() if not (isinstance(value, str) and len(value) > SHORT)},
        truncated=answer.data.get("truncated") is True,
    )


def _text(text: str) -> str:
    return text.encode(errors="replace").decode()
