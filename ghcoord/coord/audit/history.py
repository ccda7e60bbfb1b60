"""A space's commits in the order of time: what was committed when, and where the hub stood at a moment.

Commits by ghcoord carry a revision, which is the time in milliseconds unless
that would not grow.  A person's commit says what it likes about its time; it is
believed as far as it fits between the commits around it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from heapq import heappop, heappush
from itertools import islice
from typing import NamedTuple

from ghcoord.coord.layout import META
from ghcoord.errors import Corrupt, NotFound, Unsupported, UsageError
from ghcoord.model.codec import stamp
from ghcoord.store.base import CommitInfo, Entry, Oid, Store
from ghcoord.store.heads import recorded_schema, revision_of, stamp_of, walk
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.takeover import SCHEMA

When = datetime | int | str
"""An aware datetime, a revision, or the id of a commit (at least ``SHORTEST_ID`` digits of it)."""

SHORTEST_ID = 7

LOOK_BELOW = 200
"""Commits by people that are searched for the ghcoord commit below them."""

READ_AHEAD = 256
"""Commits whose stamps are checked together at most: the check of one needs the next ones anyway."""

DRIFT = 3.0
"""Seconds by which an event or the revision of a commit may be ahead of its time and still be the better clock."""

EXACT = 0.0005
"""Half of the millisecond to which times are kept."""


_EVENT = '\n- {"at": '
_EVENT_AT = re.compile(re.escape(_EVENT) + r"([0-9]{1,12}(?:\.[0-9]{1,6})?),")


class Point(NamedTuple):
    """A commit with its place in time.

    ``revision`` is its own, for a person's commit that of the newest ghcoord
    commit below it; ``at`` is in seconds since the epoch.
    """

    info: CommitInfo
    revision: int
    at: float
    by_hand: bool


class History:
    """The history of a space up to the commit ``head``; walk it once.

    ``cut_at`` is afterwards the time of the oldest commit that is left, where
    older ones were removed; ``None`` where the history goes back to the start.
    """

    def __init__(self, store: Store, head: Oid) -> None:
        self.cut_at: float | None = None
        self._store = store
        self._head = head
        self._checked = 0
        self._ahead = 8

    def every(self, stop: Point | None = None) -> Iterator[Point]:
        """Every commit, newest first; people's commits stand where their time and their parents put them.

        With ``stop``, a commit of before, only what was added since.
        """
        seen: set[Oid] = {self._head, *([stop.info.oid] if stop is not None else ())}
        todo: list[tuple[int, int, int, Point]] = []

        def push(point: Point | None, ceiling: int) -> None:
            if point is None or (stop is not None and not point.by_hand and point.revision <= stop.revision):
                return
            key = point.revision
            if point.by_hand:
                key = max(key, min(int(point.at * 1000), ceiling))
            heappush(todo, (-key, -int(point.by_hand), len(seen), point))

        if stop is None or stop.info.oid != self._head:
            now = self._store.server_time()
            push(self._load(self._head, now), int(now * 1000))
        while todo:
            key, _, _, point = heappop(todo)
            yield point
            for parent in point.info.parents:
                if parent not in seen:
                    seen.add(parent)
                    push(self._load(parent, point.at), -key)

    def heads(self) -> Iterator[Point]:
        """The commits that the space was at, newest first.

        That is the first parent, and of a person's merge the side on which ghcoord was later.
        """
        return self._line(lambda point: None)

    def of(self, path: str) -> Iterator[Point]:
        """As :meth:`heads`; of a merge the side from which the file at ``path`` comes."""
        return self._line(lambda point: Snapshot(self._store, "", point.info.oid).entry(path))

    def _line(self, look: Callable[[Point], Entry | None]) -> Iterator[Point]:
        point = self._load(self._head, self._store.server_time())
        while point is not None:
            yield point
            sides = [found for one in point.info.parents if (found := self._load(one, point.at)) is not None]
            if len(sides) > 1:
                seen = look(point)
                sides = [side for side in sides if look(side) == seen] or sides
            # Of equal ones the first, as max() does.
            point = max(sides, key=lambda side: (side.revision, not side.by_hand), default=None)

    def _load(self, oid: Oid, latest: float) -> Point | None:
        """The commit ``oid``, which was made at ``latest`` at the latest; ``None`` and a mark where it is gone."""
        try:
            info = self._store.commit_info(oid)
        except Corrupt:
            self._cut(latest)
            return None
        self._read_ahead(info)
        own = stamp_of(self._store, info)
        if own is not None:
            point = Point(info, own.revision, moment(info, own.revision), False)
        else:
            revision, floor = self._below(info)
            point = Point(info, revision, max(floor, min(float(info.time), latest)), True)
        return point

    def _cut(self, at: float) -> None:
        self.cut_at = at if self.cut_at is None else max(self.cut_at, at)

    def _below(self, info: CommitInfo) -> tuple[int, float]:
        """Revision and time of the newest ghcoord commit below a person's."""
        best = (0, 0.0)
        try:
            for one, own in islice(walk(self._store, info.oid, lambda _, own: own is None), LOOK_BELOW):
                if own is not None:
                    best = max(best, (own.revision, moment(one, own.revision)))
        except Corrupt:
            return best  # history ends where it was cut
        return best

    def _read_ahead(self, info: CommitInfo) -> None:
        """Check stamps from the oldest on: whether a commit's is its own depends on those below it."""
        if self._checked:
            self._checked -= 1
            return
        line = [info]
        while len(line) < self._ahead and line[-1].parents:
            try:
                line.append(self._store.commit_info(line[-1].parents[0]))
            except Corrupt:
                break
        for one in reversed(line):
            stamp_of(self._store, one)
        self._checked = len(line) - 1
        self._ahead = min(self._ahead * 2, READ_AHEAD)


def moment(info: CommitInfo, revision: int) -> float:
    """When ghcoord made a commit, in seconds: as its last event says, else its revision.

    Revisions run ahead of the clock where several are taken in a millisecond,
    and when it is set back; then the commit's own time, in whole seconds, is nearest.
    """
    at = info.message.rfind(_EVENT)
    last = _EVENT_AT.match(info.message, at) if at >= 0 else None
    for seconds in ([float(last[1])] if last is not None else []) + [revision / 1000]:
        if info.time <= seconds < info.time + DRIFT:
            return seconds
    return float(info.time)


class Past(NamedTuple):
    """Where the hub stood: the head of each space, and the time, in seconds since the epoch."""

    heads: dict[str, Oid]
    at: float


def find(store: Store, when: When) -> Past:
    """The hub as it was at ``when``: each space at its newest commit at or before then.

    Raises ``NotFound`` for what was before the hub, or before what its history
    still holds, naming the earliest moment; ``UsageError`` for the future;
    ``Unsupported`` for what an older version had not yet migrated.
    """
    past = _find(store, when)
    for space, head in past.heads.items():
        schema = recorded_schema(Snapshot(store, space, head))
        if schema is not None and schema < SCHEMA:
            raise Unsupported(
                f"the space {space!r} had schema {schema} then, this ghcoord reads {SCHEMA}: "
                "'ghcoord audit log' tells what happened"
            )
    return past


def _find(store: Store, when: When) -> Past:
    heads = store.heads()
    if isinstance(when, str):
        return _at_commit(store, heads, when)
    if isinstance(when, datetime):
        if when.tzinfo is None:
            raise UsageError(f"{when} has no time zone: give an aware datetime")
        if when.timestamp() > store.server_time() + store.capabilities.clock_margin:
            raise UsageError(
                f"{_iso(when.timestamp())} is in the future: the hub's time is {_iso(store.server_time())}"
            )
        return _at_time(store, heads, when.timestamp())
    newest = max((revision_of(store, space, head) for space, head in heads.items()), default=0)
    if when > newest:
        raise UsageError(f"the hub has no revision {when} yet: its newest is {newest}")
    return _at_revision(store, heads, when)


def _at_time(store: Store, heads: Mapping[str, Oid], seconds: float) -> Past:
    return Past(_pin(store, heads, lambda point: point.at <= seconds + EXACT, {}), seconds)


def _at_revision(store: Store, heads: Mapping[str, Oid], revision: int) -> Past:
    def fits(point: Point) -> bool:
        # A person's commit has no revision: it is there if it came before this one was taken.
        return point.revision <= revision - point.by_hand and (not point.by_hand or point.at * 1000 <= revision)

    times: dict[str, float] = {}
    pinned = _pin(store, heads, fits, times)
    return Past(pinned, max(times.values()))


def _at_commit(store: Store, heads: Mapping[str, Oid], oid: str) -> Past:
    if len(oid) >= SHORTEST_ID:
        for space, head in heads.items():
            for point in History(store, head).heads():
                if point.info.oid.startswith(oid):
                    if not point.by_hand:
                        return _at_revision(store, heads, point.revision)
                    found = _at_time(store, heads, point.at)
                    return Past({**found.heads, space: point.info.oid}, point.at)
    raise NotFound(f"no space of the hub was ever at the commit {oid[:40]!r}: 'git log' in the hub shows them")


def _pin(
    store: Store, heads: Mapping[str, Oid], fits: Callable[[Point], bool], times: dict[str, float]
) -> dict[str, Oid]:
    """The newest commit of each space that ``fits``; their times go into ``times``."""
    pinned: dict[str, Oid] = {}
    lost: list[float] = []
    oldest: dict[str, float] = {}
    for space, head in sorted(heads.items()):
        history = History(store, head)
        for point in history.heads():
            oldest[space] = point.at
            if fits(point):
                pinned[space], times[space] = point.info.oid, point.at
                break
        else:
            if history.cut_at is not None:
                lost.append(history.cut_at)
    if lost:
        raise NotFound(f"the history before {_iso(max(lost))} was removed: that is the earliest moment to look at")
    if META not in pinned:
        born = f"it was made at {_iso(oldest[META])}" if META in oldest else "its branch 'meta' is missing"
        raise NotFound(f"there was no hub then: {born}")
    return pinned


def _iso(seconds: float) -> str:
    return stamp(seconds).isoformat(timespec="milliseconds").replace("+00:00", "Z")
