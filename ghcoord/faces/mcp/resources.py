"""Resources: what a client can read by its address, each only for the caller whose it is to see.

``?offset=N`` gives the next part of one that is long: characters of text, bytes of an artifact, rows of a table.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ghcoord.faces.cli.output import to_json
from ghcoord.faces.mcp.answer import Failure
from ghcoord.faces.mcp.call import Call
from ghcoord.faces.mcp.contents import as_text, part_of
from ghcoord.faces.mcp.rows import lock_row, worker_row
from ghcoord.faces.mcp.shown import bounded, line, page_of, text
from ghcoord.faces.mcp.tools.taskoutput import log_page
from ghcoord.faces.mcp.visible import need_artifact, need_task
from ghcoord.faces.session_views import checkpoint_view, session_view
from ghcoord.model.session import Session

PAGE = 48_000
"""Characters of text in one reading."""

MAX_BYTES = 512 * 1024
"""Bytes in one reading of what is not text: as base64 under the 1 MiB that breaks clients (facts/mcp.md)."""

MAX_ROWS = 50
"""Rows of a table in one reading."""

MAX_LISTED = 100
"""Sessions, and long outputs, in the list of resources."""

JSON = "application/json"
TEXT = "text/plain"


@dataclass(frozen=True, slots=True)
class Listed:
    """A resource in the list."""

    uri: str
    name: str
    title: str
    description: str
    mime: str


@dataclass(frozen=True, slots=True)
class Template:
    """A kind of resource: an RFC 6570 template with what to put into it."""

    uri: str
    name: str
    title: str
    description: str
    mime: str | None


@dataclass(frozen=True, slots=True)
class Content:
    """What was read: ``text``, or ``blob`` as base64. ``next_uri`` is where it goes on, ``None`` at the end."""

    uri: str
    mime: str
    text: str = ""
    blob: str | None = None
    next_uri: str | None = None


TEMPLATES = (
    Template("ghcoord://sessions/{id}", "session", "A session", "One of your sessions: state, use, checkpoints.", JSON),
    Template(
        "ghcoord://tasks/{id}/log{?offset}",
        "task-log",
        "A task's output",
        "What a task printed; while it runs the end of it.",
        TEXT,
    ),
    Template(
        "ghcoord://artifacts/{id}{?offset}",
        "artifact",
        "An artifact",
        "A stored file: text, or bytes. artifact_list names them.",
        None,
    ),
    Template(
        "ghcoord://outputs/{id}{?offset}",
        "output",
        "A long output",
        "All of an answer that was too long, kept for a while. The answer names it.",
        TEXT,
    ),
)

_TABLES = (
    Listed("ghcoord://sessions", "sessions", "Your sessions", "Your sessions and where they run.", JSON),
    Listed("ghcoord://locks", "locks", "Locks", "Who holds which locks, and for how much longer.", JSON),
    Listed("ghcoord://workers", "workers", "Workers", "The hub's workers and what they can run.", JSON),
)


def list_resources(call: Call) -> list[Listed]:
    """The tables, the caller's sessions, and its long outputs that are still kept."""
    sessions = [
        Listed(f"ghcoord://sessions/{one.id}", one.id, f"Session {one.id}", f"{one.state}, see its record", JSON)
        for one in _sessions(call)[-MAX_LISTED:]
    ]
    outputs = [
        Listed(uri, uri.rpartition("/")[2], line(kept.title, 200), "A long output", TEXT)
        for uri, kept in call.services.outputs.of(call.caller)[:MAX_LISTED]
    ]
    return [*_TABLES, *sessions, *outputs]


_URI = re.compile(r"ghcoord://([a-z]{1,20})(?:/([A-Za-z0-9._-]{1,128})(/log)?)?/?(?:\?offset=([0-9]{1,13}))?", re.ASCII)


def read(call: Call, uri: str) -> Content:
    """The resource at ``uri``. Raises :class:`Failure` for one that is not there for this caller."""
    match = _URI.fullmatch(uri) if len(uri) <= 500 else None
    kind, one, log, offset = match.groups() if match is not None else ("", None, None, None)
    at = int(offset or 0)
    if one is None:
        table = _READ_TABLE.get(kind)
        if table is not None:
            return _table(kind, table(call), at)
    elif kind == "tasks":
        if log is not None:
            return _log(call, one, at)
    elif log is None and kind in _READ_ONE:
        return _READ_ONE[kind](call, one, at)
    raise _unknown(uri)


def _unknown(uri: str) -> Failure:
    return Failure(
        f"there is no resource {line(uri, 200)!r}",
        "List the resources and templates: sessions, tasks/ID/log, artifacts/ID, locks, workers and outputs/ID.",
        code="NOT_FOUND",
    )


# -- tables


def _sessions(call: Call) -> list[Session]:
    return call.hub.sessions.list(user=call.caller.user_id, workspace=call.caller.workspace_id)


def _session_rows(call: Call) -> list[dict[str, Any]]:
    return [_session_view(one) for one in _sessions(call)]


def _session_view(session: Session) -> dict[str, Any]:
    view: dict[str, Any] = bounded(session_view(session), 4_000, 500)
    return view


def _lock_rows(call: Call) -> list[dict[str, Any]]:
    now = call.hub.now()
    return [lock_row(lock, now, call.caller) for lock in call.hub.locks.list()]


def _worker_rows(call: Call) -> list[dict[str, Any]]:
    now, margin = call.hub.now(), call.hub.clock_margin
    return [worker_row(worker, now, margin) for worker in call.hub.workers.list()]


_READ_TABLE: dict[str, Callable[[Call], list[dict[str, Any]]]] = {
    "sessions": _session_rows,
    "locks": _lock_rows,
    "workers": _worker_rows,
}


def _table(kind: str, rows: list[dict[str, Any]], offset: int) -> Content:
    uri = f"ghcoord://{kind}"
    shown = rows[offset : offset + MAX_ROWS]
    after = f"{uri}?offset={offset + MAX_ROWS}" if offset + MAX_ROWS < len(rows) else None
    return Content(uri, JSON, to_json({kind: shown, "total": len(rows), "next": after}), next_uri=after)


# -- one of its kind


def _session(call: Call, session_id: str, offset: int) -> Content:
    session = call.services.owners.need(call.caller, session_id)
    checkpoints = [checkpoint_view(one, session.id) for one in session.checkpoints[-MAX_ROWS:]]
    view = {**_session_view(session), "checkpoints": bounded(checkpoints, PAGE // 2, 500)}
    return Content(f"ghcoord://sessions/{session_id}", JSON, to_json(view))


def _log(call: Call, task_id: str, offset: int) -> Content:
    page = log_page(call, need_task(call, task_id), offset, PAGE)
    return _paged(f"ghcoord://tasks/{task_id}/log", text(page.text), page.next_offset)


def _output(call: Call, output_id: str, offset: int) -> Content:
    uri = f"ghcoord://outputs/{output_id}"
    kept = call.services.outputs.find(call.caller, uri)
    if kept is None:
        raise Failure(f"the output {output_id} is not kept any more", "Make the call again.", code="NOT_FOUND")
    page = page_of([kept.text], offset, PAGE)
    return _paged(uri, text(page.text), page.next_offset)


def _paged(uri: str, part: str, next_offset: int | None) -> Content:
    if next_offset is None:
        return Content(uri, TEXT, part)
    after = f"{uri}?offset={next_offset}"
    return Content(uri, TEXT, f"{part}\n[… more: read {after} …]", next_uri=after)


def _artifact(call: Call, artifact_id: str, offset: int) -> Content:
    uri = f"ghcoord://artifacts/{artifact_id}"
    artifact = need_artifact(call, artifact_id)
    data = part_of(call, artifact, offset, MAX_BYTES)
    found = as_text(data[:PAGE], offset + len(data[:PAGE]) >= artifact.size)
    used = len(data) if found is None else found[1]
    after = f"{uri}?offset={offset + used}" if used and offset + used < artifact.size else None
    kind = line(artifact.content_type, 200)
    if found is None:
        return Content(uri, kind, blob=base64.b64encode(data).decode(), next_uri=after)
    return Content(uri, kind if kind.startswith("text/") or kind == JSON else TEXT, found[0], next_uri=after)


_READ_ONE: dict[str, Callable[[Call, str, int], Content]] = {
    "sessions": _session,
    "artifacts": _artifact,
    "outputs": _output,
}
