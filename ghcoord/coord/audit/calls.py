"""Tool calls in the space ``audit``: one small file a flush, by the minute, and their end after the retention."""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from ghcoord.coord import layout
from ghcoord.coord.audit.events import parse
from ghcoord.coord.audit.redact import MAX_TEXT, Known, keep, keep_text
from ghcoord.coord.context import Context
from ghcoord.coord.layout import AUDIT, CALLS
from ghcoord.errors import GhcoordError
from ghcoord.ids import new_suffix
from ghcoord.model.codec import stamp
from ghcoord.model.event import AuditEntry
from ghcoord.model.task import TaskResult
from ghcoord.store.base import Entry
from ghcoord.store.message import REVISION_LIMIT
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.tx import Tx

CALL = "tool call"
RESULT = "tool result"
DROPPED = "tool calls dropped"
RECORDED = "tool calls recorded"
"""Kind of the event in the commit of a flush; the log shows the calls instead."""

PURGED = "audit purged"

MAX_NAME = 500
"""Characters kept of an id or a name that a caller gives."""

MAX_FILE = 4_000_000
"""Bytes above which a file in ``calls/`` is none of ours."""

PAGE = 500
"""Files that one commit of a purge removes."""

SHOWN = 5
"""Entries that the preview of a purge shows."""

_FILE = re.compile(r"([0-9]{12,14})-[a-z0-9]{4}\.jsonl")
_WIDTHS = (4, 2, 2, 2, 2)
"""Digits of the folders: year, month, day, hour, minute."""


def encode(kind: str, entry: AuditEntry, now: float, known: Known) -> dict[str, Any]:
    """``entry`` as it is kept, redacted and cut; ``now`` is its time where it has none.

    Its secrets are added to those that are ``known``, which are redacted wherever they stand.
    """
    arguments = keep(entry.arguments, known)
    result = None if entry.result is None else _result(entry.result, known)
    at = now if entry.timestamp is None else entry.timestamp.timestamp()
    return {
        "at": round(at, 3),
        "kind": kind,
        "timestamp": stamp(at).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "session_id": entry.session_id[:MAX_NAME],
        "user_id": entry.user_id[:MAX_NAME],
        "tool_name": entry.tool_name[:MAX_NAME],
        "arguments": arguments,
        "result": result,
        "error_msg": keep_text(entry.error_msg, known=known),
        "trace_id": entry.trace_id[:MAX_NAME],
        "workspace_id": entry.workspace_id[:MAX_NAME],
        **({"client": keep_text(entry.client, MAX_NAME)} if entry.client else {}),
    }


def _result(result: TaskResult, known: Known) -> dict[str, Any]:
    data = keep(result.data, known)
    cut = result.truncated or len(result.output) > MAX_TEXT or len(result.error) > MAX_TEXT
    return {
        "success": result.success,
        "output": keep_text(result.output, known=known),
        "error": keep_text(result.error, known=known),
        "exit_code": result.exit_code,
        "duration": result.duration,
        "data": data,
        "truncated": cut,
        "artifacts": keep(result.artifacts[:100]),
    }


def line(value: dict[str, Any]) -> bytes:
    """One line of a file. Halves of characters become JSON escapes."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode(errors="backslashreplace")


class Place(NamedTuple):
    """Where a batch goes: chosen once, so that sending it again cannot write it twice."""

    path: str
    ms: int


def new_place(context: Context, after: int) -> Place:
    """A file of its own for what is flushed now, later than the one before it, of the millisecond ``after``."""
    ms = max(int(context.now() * 1000), after + 1)
    return Place(layout.calls_path(ms, new_suffix(context.runtime.randbits)), ms)


def write(context: Context, place: Place, lines: list[bytes]) -> None:
    """Commit ``lines`` as the file ``place``; nothing happens when an earlier attempt did it after all."""
    actor = context.actor

    def run(tx: Tx) -> None:
        if tx.read(AUDIT, place.path) is None:
            head = {"batch": place.ms, "by": actor, "count": len(lines), "revision": tx.revision}
            tx.write(AUDIT, place.path, b"\n".join([line(head), *lines, b""]))
            tx.event(AUDIT, RECORDED, count=len(lines), by=actor)

    context.transact((AUDIT,), run)


# -- reading


class Call(NamedTuple):
    """A line of a file: what it says, and the transaction and the person that recorded it."""

    at: float
    kind: str
    fields: dict[str, Any]
    revision: int
    by: str


def calls(snapshot: Snapshot, *, until: float | None = None, since: float | None = None) -> Iterator[Call]:
    """Tool calls of a snapshot, newest first; ``until`` and ``since`` in seconds leave whole files out.

    No line is believed to be newer than its file, so a line waits until no file can hold a newer one.
    """
    waiting: list[tuple[float, int, int, Call]] = []
    for number, (ms, path, _) in enumerate(files(snapshot)):
        # A call lies in the first file that was written after it: a file may hold calls of any time before.
        while waiting and -waiting[0][0] >= ms / 1000:
            yield heapq.heappop(waiting)[-1]
        if since is not None and ms / 1000 < since:
            break
        for place, call in enumerate(read(snapshot, path, ms)):
            if until is None or call.at <= until:
                heapq.heappush(waiting, (-call.at, number, -place, call))
    while waiting:
        yield heapq.heappop(waiting)[-1]


def files(snapshot: Snapshot, *, oldest_first: bool = False) -> Iterator[tuple[int, str, Entry]]:
    """The files of calls by time, newest first unless told: milliseconds, path, entry; what is none is left out."""
    todo: list[tuple[str, int]] = [(CALLS, 0)]
    while todo:
        folder, level = todo.pop()
        below = snapshot.entries(folder)
        if level < len(_WIDTHS):
            names = [name for name, entry in below.items() if entry.is_tree and _is_folder(name, level)]
            todo += [(f"{folder}/{name}", level + 1) for name in sorted(names, reverse=oldest_first)]
            continue
        found = [
            (ms, name) for name in below if (ms := time_of(f"{folder}/{name}")) is not None and below[name].is_file
        ]
        for ms, name in sorted(found, reverse=not oldest_first):
            yield ms, f"{folder}/{name}", below[name]


def time_of(path: str) -> int | None:
    """The milliseconds in the name of a file of calls; ``None`` for a path that is none's."""
    folder, _, name = path.rpartition("/")
    match = _FILE.fullmatch(name)
    return int(match[1]) if match is not None and layout.calls_folder(int(match[1])) == folder else None


def _is_folder(name: str, level: int) -> bool:
    return len(name) == _WIDTHS[level] and name.isascii() and name.isdecimal()


def read(snapshot: Snapshot, path: str, ms: int) -> Iterator[Call]:
    """The lines of one file that can be read, as they stand in it."""
    try:
        data = snapshot.read(path) or b""
    except GhcoordError:
        return
    head, *lines = data[:MAX_FILE].split(b"\n")
    revision, by = _head(head, ms)
    for text in lines:
        found = parse(AUDIT, text.decode(errors="replace"))
        if found is not None:
            yield Call(min(found.at.timestamp(), ms / 1000), found.kind, found.fields, revision, by)


def _head(text: bytes, ms: int) -> tuple[int, str]:
    """Revision and actor of the transaction that wrote the file."""
    try:
        value = json.loads(text)
        revision, by = value["revision"], value["by"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ms, ""
    return (revision if isinstance(revision, int) and 0 < revision < REVISION_LIMIT else ms), str(by)


# -- retention


@dataclass(frozen=True, slots=True)
class Purge:
    """What a purge removed, or would: ``entries`` in ``files`` written before ``before``; ``first`` are the oldest."""

    entries: int
    files: int
    before: datetime
    first: tuple[Call, ...]


def purge(context: Context, before: float, *, dry_run: bool, page: int) -> Purge:
    """Remove the files written before ``before`` seconds, ``page`` of them a commit."""
    snapshot = context.snapshot(AUDIT)
    old: list[str] = []
    entries = 0
    first: list[Call] = []
    for ms, path, _ in files(snapshot, oldest_first=True):
        if ms / 1000 >= before:
            break
        old.append(path)
        for call in read(snapshot, path, ms):
            entries += 1
            if len(first) < SHOWN:
                first.append(call)
    if not dry_run:
        for at in range(0, len(old), page):
            _remove(context, old[at : at + page], before)
    return Purge(entries, len(old), stamp(before), tuple(first))


def _remove(context: Context, paths: list[str], before: float) -> None:
    def run(tx: Tx) -> None:
        gone = [path for path in paths if tx.read(AUDIT, path) is not None]
        for path in gone:
            tx.delete(AUDIT, path)
        if gone:
            tx.event(AUDIT, PURGED, files=len(gone), before=round(before, 3), by=context.actor)

    context.transact((AUDIT,), run)
