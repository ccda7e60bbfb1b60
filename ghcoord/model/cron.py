"""When a schedule is due: cron expressions in a time zone, and plain intervals.

The library ``cronsim`` reads the expressions and knows what a change of the
clocks does to them (``docs/decisions/0005-cron-library.md``).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import count, islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from ghcoord.errors import UsageError
from ghcoord.units import parse_duration

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

MAX_EXPRESSION = 200
"""Longest expression in characters."""

_LAST = datetime(9999, 1, 1, tzinfo=UTC)
"""Nothing is due after this: time zones could not show it."""

_FIELDS = re.compile(r"[0-9A-Za-z*/,#\-]+(?: [0-9A-Za-z*/,#\-]+){4}", re.ASCII)
_EVERY = re.compile(r"@?every (\S+)", re.ASCII)
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+\-]*(?:/[A-Za-z0-9_+\-]+){0,2}", re.ASCII)
_NOT_EVERYWHERE = frozenset({"localtime", "posixrules", "Factory"})


@lru_cache(256)
def zone(name: str) -> ZoneInfo:
    """The time zone called ``name``, such as ``Europe/Berlin``; raises ``UsageError``."""
    shown = name[:60]
    try:
        if (
            len(name) > 60
            or not _ZONE.fullmatch(name)
            or name in _NOT_EVERYWHERE
            or name.startswith(("posix", "right"))
        ):
            raise ValueError
        return ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        raise UsageError(f"there is no time zone {shown!r}: give a name such as UTC or Europe/Berlin") from None


@dataclass(frozen=True, slots=True)
class Timetable:
    """The times at which something is due, to the second.

    Either ``cron``, five fields evaluated in ``zone``, or ``period``, a whole
    number of seconds counted from ``anchor``.
    """

    cron: str
    zone: ZoneInfo
    period: int | None
    anchor: datetime

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The due times after ``moment``, in order, in UTC."""
        last = moment
        try:
            for due in self._every(self.period, moment) if self.period is not None else self._cron(moment):
                if due >= _LAST:
                    return
                if due > last:  # within an hour that comes twice, cronsim may begin in the first of the two
                    last = due
                    yield due
        except (OverflowError, ValueError):
            return  # the end of the calendar

    def _every(self, period: int, moment: datetime) -> Iterator[datetime]:
        step = timedelta(seconds=period)
        return (self.anchor + step * number for number in count(max(1, (moment - self.anchor) // step + 1)))

    def _cron(self, moment: datetime) -> Iterator[datetime]:
        return (local.astimezone(UTC) for local in CronSim(self.cron, moment.astimezone(self.zone)))

    def newest(self, since: datetime, until: datetime, most: int) -> list[datetime]:
        """The last ``most`` due times later than ``since`` and not later than ``until``, in order.

        Looks back in growing steps, so that a year of sleep costs little more than a day.
        """
        back = min(timedelta(seconds=(self.period or 60) * most), until - since)
        while True:
            begin = max(since, until - back)
            found = deque(self._until(begin, until), maxlen=most)
            if len(found) == most or begin == since:
                return list(found)
            back = min(6 * back, until - since)

    def _until(self, begin: datetime, until: datetime) -> Iterator[datetime]:
        for due in self.after(begin):
            if due > until:
                return
            yield due


@lru_cache(256)
def parse(text: str, timezone: str, anchor: datetime) -> Timetable:
    """The timetable for ``text``: five cron fields, ``@daily`` and the like, or ``every 15m``.

    Raises ``UsageError`` naming what is wrong, also for dates that never come.
    """
    shown = text[:60]
    where = zone(timezone)
    if len(text) > MAX_EXPRESSION:
        raise UsageError(f"the schedule has {len(text)} characters: at most {MAX_EXPRESSION} are accepted")
    words = " ".join(text.split())
    every = _EVERY.fullmatch(words)
    if every is not None:
        seconds = parse_duration(every[1])
        if seconds < 1 or seconds != int(seconds):
            raise UsageError(f"{shown!r}: give whole seconds, at least one")
        return Timetable(words, where, int(seconds), anchor.replace(microsecond=0))
    cron = ALIASES.get(words.lower(), words)
    if not _FIELDS.fullmatch(cron):
        raise UsageError(
            f"{shown!r} is no schedule: give five cron fields (minute hour day month weekday), "
            "@hourly, @daily, @weekly, @monthly, or 'every 15m'"
        )
    table = Timetable(cron, where, None, anchor)
    try:
        CronSim(cron, anchor)
    except (CronSimError, ValueError, AssertionError) as error:
        reason = str(error).removeprefix("Bad ") or "it cannot be read"
        raise UsageError(f"{shown!r} is no schedule: the field {reason} is wrong") from None
    if not list(islice(table.after(anchor), 1)):
        raise UsageError(f"{shown!r} never comes: there is no such date")
    return table
