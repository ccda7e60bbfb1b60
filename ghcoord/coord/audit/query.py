"""What is asked of the audit log: filters, and where the record of a name lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypedDict

from ghcoord.coord import layout
from ghcoord.coord.layout import DEFAULT_NAMESPACE, FLEET, LOCKS, MEMORY_PREFIX, memory_space
from ghcoord.errors import UsageError
from ghcoord.ids import check_name
from ghcoord.store.objects import clean_author

BY_HAND = "commit by hand"
"""Kind of the event that stands for a person's commit."""

NOUNS: Mapping[str, tuple[str, ...]] = {
    "task": ("task", "first"),
    "worker": ("worker", "owner"),
    "lock": ("lock",),
    "key": ("key",),
    "schedule": ("schedule",),
    "session": ("session", "session_id"),
    "tool": ("tool", "tool_name"),
    "user": ("user", "user_id"),
    "workspace": ("workspace", "workspace_id"),
    "trace": ("trace", "trace_id"),
}
"""What can be asked for by name, and the fields of events in which such a name stands."""

RECORDS = ("task", "worker", "lock", "key", "schedule")
"""Those of them that are records of the hub."""


When = datetime | int
"""An aware datetime, or a revision."""


class Filters(TypedDict, total=False):
    """What events can be asked for; ``None`` for everything.

    ``task``, ``worker``, ``lock``, ``key`` (in ``namespace``, else in any) and
    ``schedule`` also find people's commits that changed the record.  ``actor``
    is who did it, ``kind`` a pattern with ``*`` and ``?``, or the beginning of a
    kind.  The others are of recorded tool calls; ``tool`` and ``trace`` also of
    tasks submitted, ``trace`` being a trace id.
    """

    task: str | None
    worker: str | None
    lock: str | None
    key: str | None
    namespace: str | None
    schedule: str | None
    actor: str | None
    kind: str | None
    session: str | None
    tool: str | None
    user: str | None
    workspace: str | None
    trace: str | None


class AuditEvent(NamedTuple):
    """One thing that happened, and who made it known.

    ``revision`` and ``commit`` are those of the commit that holds it; several
    transactions may share one.  ``commit`` is ``None`` where history was cut.
    ``author`` is the commit's, ``fields`` what the event was about.
    """

    at: datetime
    space: str
    kind: str
    fields: dict[str, Any]
    revision: int
    commit: str | None
    author: str

    @property
    def by(self) -> str:
        """Who did it: as the event says, else the commit's author."""
        told = self.fields.get("by")
        return told if isinstance(told, str) and told else self.author

    @property
    def namespace(self) -> str | None:
        """The namespace in which it happened; ``None`` elsewhere."""
        return layout.namespace_of(self.space)


class Place(NamedTuple):
    """The file of a record; ``space`` is ``None`` where every namespace has one."""

    space: str | None
    path: str


def place_of(noun: str, name: str, namespace: str | None = DEFAULT_NAMESPACE) -> Place:
    """Where the record ``name`` lies, whether it is there or not. Raises ``UsageError`` and ``InvalidName``."""
    if noun == "task":
        return Place(FLEET, layout.task_path(name))
    if noun == "worker":
        return Place(FLEET, layout.worker_path(name))
    if noun == "lock":
        return Place(LOCKS, layout.lock_path(check_name(name, "lock name")))
    if noun == "key":
        path = layout.key_path(check_name(name, "key"))
        return Place(None if namespace is None else memory_space(namespace), path)
    if noun == "schedule":
        return Place(FLEET, layout.schedule_path(name))
    raise UsageError(f"there is no record of a {noun[:40]!r}: one of {', '.join(RECORDS)}")


@dataclass(frozen=True, slots=True)
class Query:
    """Which events are wanted; those that pass every part of it.

    ``names`` are by the keys of ``NOUNS``.  ``since`` and ``until`` are times
    or revisions, both inclusive.  ``kind`` is a pattern with ``*`` and ``?``,
    or the beginning of a kind.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    namespace: str | None = None
    actor: str | None = None
    kind: str | None = None
    since: datetime | int | None = None
    until: datetime | int | None = None

    def check(self) -> Query:
        """This query, its names as they stand in records; raises ``UsageError`` for one that cannot be met."""
        for moment in (self.since, self.until):
            if isinstance(moment, datetime) and moment.tzinfo is None:
                raise UsageError(f"{moment} has no time zone: give an aware datetime")
        if self.namespace is not None:
            memory_space(self.namespace)
        for noun in RECORDS:
            if noun in self.names:
                place_of(noun, self.names[noun], self.namespace)
        return self

    def covers(self, space: str) -> bool:
        """Whether events of ``space`` can pass."""
        if self.namespace is not None:
            return space == memory_space(self.namespace)
        return "key" not in self.names or space.startswith(MEMORY_PREFIX)

    def too_old(self, at: float, revision: int) -> bool:
        """Whether a commit is older than every event that passes; ``at`` is exact to a second."""
        if isinstance(self.since, datetime):
            return at + 1.0 < self.since.timestamp()
        return self.since is not None and revision < self.since

    def paths(self, space: str) -> list[str]:
        """The records in ``space`` that the names stand for."""
        places = [place_of(noun, name, self.namespace) for noun, name in self.names.items() if noun in RECORDS]
        return [place.path for place in places if place.space in (None, space)]

    def passes(self, event: AuditEvent, touched: frozenset[str] = frozenset()) -> bool:
        """Whether ``event`` is wanted; ``touched`` are records that a person's commit changed."""
        return (
            self._in_time(event)
            and (self.kind is None or _fits(event.kind, self.kind))
            and (self.actor is None or event.by in (self.actor, clean_author(self.actor)))
            and all(self._named(event, noun, name, touched) for noun, name in self.names.items())
        )

    def _in_time(self, event: AuditEvent) -> bool:
        after = event.at if isinstance(self.since, datetime) else event.revision
        before = event.at if isinstance(self.until, datetime) else event.revision
        return (self.since is None or after >= self.since) and (self.until is None or before <= self.until)  # type: ignore[operator]

    def _named(self, event: AuditEvent, noun: str, name: str, touched: frozenset[str]) -> bool:
        if any(event.fields.get(one) == name for one in NOUNS[noun]):
            return True
        several = event.fields.get(noun + "s")
        if isinstance(several, list) and name in several:
            return True
        told = event.fields.get("path")
        if noun not in RECORDS or not (touched or told):
            return False
        path = place_of(noun, name, self.namespace).path
        return path in touched or path == told


def make_query(filters: Filters, since: When | None = None, until: When | None = None) -> Query:
    """The query for ``filters``. Raises ``UsageError`` for a name or a time that cannot be."""
    given = {name: value for name, value in filters.items() if value is not None}
    unknown = sorted(set(given) - set(Filters.__annotations__))
    if unknown:
        raise UsageError(f"{unknown[0]!r} is no filter: one of {', '.join(Filters.__annotations__)}")
    names = {noun: str(given[noun]) for noun in NOUNS if noun in given}
    rest = {name: str(given[name]) for name in ("namespace", "actor", "kind") if name in given}
    return Query(names, **rest, since=since, until=until).check()


def _fits(kind: str, pattern: str) -> bool:
    return fnmatchcase(kind, pattern) if set(pattern) & set("*?[") else kind.startswith(pattern)
