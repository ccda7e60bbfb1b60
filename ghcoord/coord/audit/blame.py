"""Blame: which commit gave each field of a record the value that it has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ghcoord.coord.audit.events import parse
from ghcoord.coord.audit.history import History, Point
from ghcoord.coord.audit.query import BY_HAND, AuditEvent, Place, Query, place_of
from ghcoord.coord.context import Context
from ghcoord.coord.layout import memory_space
from ghcoord.errors import Corrupt, NotFound
from ghcoord.model.codec import MAX_RECORD, stamp
from ghcoord.store.base import Entry, Store
from ghcoord.store.message import read_events, read_summary
from ghcoord.store.snapshot import Snapshot

CUT = "history was removed before this"
"""Kind of the origin of what is older than the history that is left."""

TEXT = "(text)"
"""The one field of a record that cannot be read."""

MAX_SUMMARY = 500


@dataclass(frozen=True, slots=True)
class Origin:
    """A commit that changed a record: ``kind`` names its events about the record, ``by`` who did it.

    ``commit`` and ``revision`` are ``None`` where the commit was removed; then ``at`` is the latest that it can be.
    """

    at: datetime
    by: str
    kind: str
    summary: str
    revision: int | None
    commit: str | None


@dataclass(frozen=True, slots=True)
class Line:
    """A field (``name`` or ``outer.inner``), its value, and where that comes from."""

    field: str
    value: Any
    origin: Origin


@dataclass(frozen=True, slots=True)
class Blame:
    """The fields of a record, sorted; of one that is gone as they were last, and ``removed`` says who removed it."""

    noun: str
    name: str
    space: str
    path: str
    removed: Origin | None
    lines: tuple[Line, ...]


def blame(context: Context, noun: str, name: str, namespace: str) -> Blame:
    """Who last changed each field of the record ``name``.

    Raises ``NotFound`` where the history knows nothing of it.
    """
    place = place_of(noun, name, namespace)
    space = place.space or memory_space(namespace)
    store = context.transactor.store
    head = store.heads().get(space)
    if head is None:
        raise NotFound(f"there is no {noun} {name!r}: the space {space!r} does not exist")
    history = History(store, head)
    versions = _versions(store, place, history)
    ask = Query({noun: name}, namespace if noun == "key" else None)
    newest = next(versions, None)
    removed: Origin | None = None
    if newest is not None and newest.entry is None:
        removed = _origin(newest.point, space, ask)
        newest = next(versions, None)
    if newest is None or newest.entry is None:
        since = f" since {_iso(history.cut_at)}" if history.cut_at is not None else ""
        raise NotFound(f"there is no {noun} {name!r}, and history{since} knows of none")
    present = _fields(store, newest.entry) or {TEXT: "cannot be read"}
    found: dict[str, Origin] = {}
    while newest is not None and len(found) < len(present):
        older, before = _readable(store, versions)
        if older is None and history.cut_at is not None:
            origin = Origin(stamp(history.cut_at), "", CUT, "", None, None)
        else:
            origin = _origin(newest.point, space, ask)
        for field, value in present.items():
            if field not in found and (field not in before or before[field] != value):
                found[field] = origin
        newest = older
    lines = tuple(Line(field, present[field], found[field]) for field in sorted(found))
    return Blame(noun, name, space, place.path, removed, lines)


@dataclass(frozen=True, slots=True)
class _Version:
    """A commit that made the record's file what ``entry`` is; ``None`` for removed."""

    point: Point
    entry: Entry | None


def _versions(store: Store, place: Place, history: History) -> Iterator[_Version]:
    """The commits that changed the file, newest first; the others cost no more than a look at its folders."""
    last: _Version | None = None
    for point in history.of(place.path):
        entry = Snapshot(store, "", point.info.oid).entry(place.path)
        if last is not None and last.entry != entry:
            yield last
        last = _Version(point, entry)
    if last is not None and last.entry is not None:
        yield last


def _readable(store: Store, versions: Iterator[_Version]) -> tuple[_Version | None, dict[str, Any]]:
    """The next version that can be read, or in which the record is not there, with its fields."""
    for version in versions:
        fields = _fields(store, version.entry)
        if fields is not None:
            return version, fields
    return None, {}


def _fields(store: Store, entry: Entry | None) -> dict[str, Any] | None:
    """What a file holds, by field, one level of objects opened; ``None`` for what cannot be read."""
    if entry is None:
        return {}
    try:
        data = store.blob(entry.oid) if entry.is_file else b""
        value = json.loads(data, parse_constant=_no_number) if len(data) <= MAX_RECORD else None
    except (ValueError, RecursionError, Corrupt):
        return None
    if not isinstance(value, dict):
        return None
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            flat |= {f"{key}.{below}": deep for below, deep in inner.items()}
        else:
            flat[key] = inner
    return flat


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number there")


def _origin(point: Point, space: str, ask: Query) -> Origin:
    """The commit at ``point``, by what its events say about the record."""
    info, at = point.info, stamp(point.at)
    summary = read_summary(info.message)[:MAX_SUMMARY]
    if point.by_hand:
        return Origin(at, info.author, BY_HAND, summary, point.revision, info.oid)
    told = [event for line in read_events(info.message) if (event := parse(space, line, point.at)) is not None]
    events = [AuditEvent(one.at, space, one.kind, one.fields, point.revision, info.oid, info.author) for one in told]
    about = [event for event in events if ask.passes(event)]
    if not about:
        return Origin(at, info.author, summary.removeprefix(f"{space}: "), summary, point.revision, info.oid)
    kinds = ", ".join(dict.fromkeys(event.kind for event in about))
    return Origin(about[-1].at, about[-1].by, kinds, summary, point.revision, info.oid)


def _iso(seconds: float) -> str:
    return stamp(seconds).isoformat(timespec="milliseconds").replace("+00:00", "Z")
