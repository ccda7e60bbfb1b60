"""The audit log: what happened in every space, merged by time, read only as far as somebody looks."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice, tee
from math import inf
from typing import Any

from ghcoord.clock import Event
from ghcoord.coord.audit import calls as audit_calls
from ghcoord.coord.audit.events import parse
from ghcoord.coord.audit.history import History, Point
from ghcoord.coord.audit.query import BY_HAND, AuditEvent, Query
from ghcoord.coord.context import Context
from ghcoord.coord.layout import AUDIT, CALLS
from ghcoord.coord.workers.tick import RENEWED
from ghcoord.errors import Corrupt
from ghcoord.model.codec import sane, stamp
from ghcoord.store.base import CommitInfo, Oid, Store
from ghcoord.store.message import read_events, read_summary
from ghcoord.store.snapshot import Snapshot, diff

QUIET = (RENEWED, audit_calls.RECORDED)
"""Kinds that tell nothing new: shown only when their very name is asked for."""

MAX_PATHS = 20
"""Files named in the event of a person's commit."""

LEVELS = 8
"""Directory levels that are compared for them."""


class AuditLog(Iterator[AuditEvent]):
    """Events, newest first unless asked otherwise.

    ``cut`` tells, for what was read so far, where history ends early because
    older commits were removed: space → time in seconds.
    """

    def __init__(self, events: Iterator[AuditEvent], cut: dict[str, float]) -> None:
        self._events = events
        self.cut = cut

    def __next__(self) -> AuditEvent:
        return next(self._events)


def log(
    context: Context,
    query: Query,
    *,
    limit: int | None,
    oldest_first: bool = False,
    heads: Mapping[str, Oid] | None = None,
) -> AuditLog:
    """What happened, at most ``limit`` events, up to ``heads`` (default: those of now).

    Oldest first means the oldest ``limit`` of them, for which all are read.
    """
    present = context.transactor.store.heads() if heads is None else heads
    cut: dict[str, float] = {}
    store = context.transactor.store
    streams = [_stream(store, space, present[space], query, cut) for space in sorted(present) if query.covers(space)]
    merged = (event for _, event in heapq.merge(*streams, key=_time, reverse=True))
    if oldest_first:
        return AuditLog(_reversed(merged, limit), cut)
    return AuditLog(islice(merged, limit), cut)


def _reversed(events: Iterator[AuditEvent], limit: int | None) -> Iterator[AuditEvent]:
    yield from reversed(deque(events, limit))


def follow(context: Context, query: Query, *, last: int | None, stopped: Event) -> Iterator[AuditEvent]:
    """The newest ``last`` events (``None``: all), oldest first, then each new one as it happens, until ``stopped``."""
    store = context.transactor.store
    heads = store.heads()
    marks = {space: _newest(store, heads[space]) for space in heads if query.covers(space)}
    yield from reversed(list(log(context, query, limit=last, heads=heads)))
    while not stopped.wait(context.poll_interval):
        present = store.heads()
        fresh: list[AuditEvent] = []
        for space in present:
            if query.covers(space) and present[space] != heads.get(space):
                fresh += _added(context, space, heads.get(space), present[space], marks.get(space), query)
                marks[space] = _newest(store, present[space])
        heads = present
        yield from sorted(fresh, key=lambda event: event.at)


def _newest(store: Store, head: Oid) -> Point | None:
    return next(History(store, head).heads(), None)


def _added(
    context: Context, space: str, old: Oid | None, new: Oid, mark: Point | None, query: Query
) -> list[AuditEvent]:
    """What ``space`` tells since the head ``old``, which ``mark`` describes; oldest first."""
    store = context.transactor.store
    found = [event for point in History(store, new).every(mark) for event in _of_commit(store, space, point, query)]
    found.reverse()
    if space == AUDIT:
        before, snapshot = Snapshot(store, AUDIT, old), Snapshot(store, AUDIT, new)
        for path, _, blob in diff(store, before, snapshot, CALLS, levels=LEVELS):
            ms = audit_calls.time_of(path)
            if blob is not None and ms is not None:
                events = (_of_call(call, None) for call in audit_calls.read(snapshot, path, ms))
                found += [event for event in events if query.passes(event)]
    return found


# -- one space


def _stream(
    store: Store, space: str, head: Oid, query: Query, cut: dict[str, float]
) -> Iterator[tuple[float, AuditEvent]]:
    """Wanted events of one space, newest first, each with a time that never grows."""
    history = History(store, head)
    points = _until_too_old(history, query)
    if space == AUDIT:
        points, others = tee(points)
        calls = _of_calls(Snapshot(store, AUDIT, head), _Commits(others, history), query)
        told = _ordered(event for point in points for event in _of_commit(store, space, point, query))
        yield from heapq.merge(told, _ordered(calls), key=_time, reverse=True)
    else:
        yield from _ordered(event for point in points for event in _of_commit(store, space, point, query))
    if history.cut_at is not None:
        cut[space] = history.cut_at


def _until_too_old(history: History, query: Query) -> Iterator[Point]:
    for point in history.every():
        if query.too_old(point.at, point.revision):
            return
        yield point


def _ordered(events: Iterable[AuditEvent]) -> Iterator[tuple[float, AuditEvent]]:
    order = inf
    for event in events:
        order = min(order, event.at.timestamp())
        yield order, event


def _time(pair: tuple[float, AuditEvent]) -> float:
    return pair[0]


def _of_commit(store: Store, space: str, point: Point, query: Query) -> Iterator[AuditEvent]:
    """The wanted events of one commit, newest first; a person's commit is one event."""
    info = point.info
    if point.by_hand:
        event = _by_hand(store, space, point)
        if query.passes(event, _touched(store, info, query.paths(space))):
            yield event
        return
    for line in reversed(read_events(info.message)):
        found = parse(space, line, point.at)
        if found is None or (found.kind in QUIET and found.kind != query.kind):
            continue
        event = AuditEvent(found.at, space, found.kind, found.fields, point.revision, info.oid, info.author)
        if query.passes(event):
            yield event


def _by_hand(store: Store, space: str, point: Point) -> AuditEvent:
    info = point.info
    changed = diff(store, _parent(store, info), Snapshot(store, space, info.oid), levels=LEVELS)
    paths: list[str] = []
    try:
        paths = [path.encode(errors="backslashreplace").decode() for path, _, _ in islice(changed, MAX_PATHS + 1)]
    except Corrupt:
        paths.append("…")
    fields: dict[str, Any] = {"summary": read_summary(info.message)[:500], "paths": paths[:MAX_PATHS]}
    if len(paths) > MAX_PATHS:
        fields["more"] = True
    return AuditEvent(sane(stamp(point.at)), space, BY_HAND, fields, point.revision, info.oid, info.author)


def _parent(store: Store, info: CommitInfo) -> Snapshot:
    return Snapshot(store, "", info.parents[0] if info.parents else None)


def _touched(store: Store, info: CommitInfo, paths: Iterable[str]) -> frozenset[str]:
    """Which of ``paths`` a person's commit changed."""
    try:
        now, before = Snapshot(store, "", info.oid), _parent(store, info)
        return frozenset(path for path in paths if now.entry(path) != before.entry(path))
    except Corrupt:
        return frozenset()  # history ends where it was cut


# -- tool calls


class _Commits:
    """Finds the commit in which a transaction went; walks the history as far as it is asked for."""

    def __init__(self, points: Iterator[Point], history: History) -> None:
        self._points = points
        self._history = history
        self._ages: list[int] = []
        self._oids: list[Oid] = []

    def of(self, revision: int) -> Oid | None:
        """The oldest commit at or above ``revision``; ``None`` where it may be one that was removed."""
        while not self._ages or -self._ages[-1] > revision:
            point = next(self._points, None)
            if point is None:
                if self._history.cut_at is not None:
                    return None
                break
            if not point.by_hand:
                self._ages.append(-point.revision)
                self._oids.append(point.info.oid)
        at = bisect_right(self._ages, -revision) - 1
        return self._oids[at] if at >= 0 else None


def _of_calls(snapshot: Snapshot, commits: _Commits, query: Query) -> Iterator[AuditEvent]:
    until = query.until.timestamp() if isinstance(query.until, datetime) else None
    since = query.since.timestamp() if isinstance(query.since, datetime) else None
    for call in audit_calls.calls(snapshot, until=until, since=since):
        event = _of_call(call, None)
        if query.passes(event):
            yield event._replace(commit=commits.of(call.revision))


def _of_call(call: audit_calls.Call, commit: Oid | None) -> AuditEvent:
    return AuditEvent(stamp(call.at), AUDIT, call.kind, call.fields, call.revision, commit, call.by)
