"""What happened: the event lines in the hub's own history, newest first."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

from ghcoord.coord.context import Context
from ghcoord.coord.layout import FLEET, LOCKS
from ghcoord.coord.workers.tick import RENEWED
from ghcoord.errors import Corrupt, GhcoordError
from ghcoord.model.codec import MAX_DEPTH, check_value, sane, stamp
from ghcoord.store.heads import commits
from ghcoord.store.message import read_events, read_summary

WALK_LIMIT = 500
"""Commits of one space with more than renewals that a look at recent events reads at most."""

WALK_MOST = 5000
"""Commits of any kind that it reads at most: idle workers make hundreds an hour that only renew."""


class Event(NamedTuple):
    """One thing that happened. ``fields`` holds what it was about: task, worker, lock, token …"""

    at: datetime
    space: str
    kind: str
    fields: dict[str, Any]


class Commit(NamedTuple):
    """A commit of the hub's own history; ``summary`` is its line for people."""

    oid: str
    summary: str


def log(context: Context, space: str) -> Iterator[Commit]:
    """The commits of ``space``, newest first, as far as its history goes back."""
    head = context.snapshot(space).head
    if head is None:
        return
    try:
        for info in commits(context.transactor.store, head):
            yield Commit(info.oid, read_summary(info.message))
    except Corrupt:
        return  # history ends where it was cut


def _of_space(context: Context, space: str) -> Iterator[Event]:
    head = context.snapshot(space).head
    if head is None:
        return
    try:
        telling = 0
        for info in islice(commits(context.transactor.store, head), WALK_MOST):
            if telling >= WALK_LIMIT:
                return
            found = [event for line in read_events(info.message) if (event := parse(space, line)) is not None]
            shown = [event for event in reversed(found) if event.kind != RENEWED]
            telling += bool(shown)
            yield from shown
    except Corrupt:
        return  # history ends where it was cut


def parse(space: str, line: str, otherwise: float | None = None) -> Event | None:
    """The event in a line of a commit's message; ``None`` for one that is none.

    ``otherwise`` is its time, in seconds, where the line has none.
    """
    try:
        value = json.loads(line, parse_constant=_no_number, parse_float=_finite)
        seconds, kind = float(value.pop("at", otherwise)), str(value.pop("kind"))
        at = sane(stamp(seconds))
        if line.count("{") + line.count("[") > MAX_DEPTH:
            check_value(value, "event")  # what is nested deeper could be read, but not shown
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError, RecursionError, GhcoordError):
        return None
    return Event(at, space, kind, value)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number there")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("beyond every number")
    return number


def recent(context: Context, limit: int = 20, *, task: str | None = None) -> list[Event]:
    """The newest events of the fleet and the locks, of one ``task`` if given; renewals are left out."""
    found: list[Event] = []
    for space in (FLEET, LOCKS) if task is None else (FLEET,):
        taken = 0
        for event in _of_space(context, space):
            if taken >= limit:
                break
            if task is not None and event.fields.get("task") != task:
                continue
            found.append(event)
            taken += 1
    return sorted(found, key=lambda event: event.at, reverse=True)[:limit]
