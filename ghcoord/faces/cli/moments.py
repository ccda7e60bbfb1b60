"""Moments as people write them: a time, how long ago, a revision, a commit."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from ghcoord.errors import UsageError
from ghcoord.units import parse_duration

_REVISION = re.compile(r"[0-9]{12,16}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_DURATION = re.compile(r"[0-9.]+|([0-9.]+(ms|s|m|h|d))+", re.ASCII)


def parse_when(text: str, now: datetime, option: str) -> datetime | int | str:
    """The moment that ``text`` names: an aware datetime, a revision (a number), or a commit's id (a text).

    ``10m`` is ten minutes before ``now``; a time without a zone is local.  A
    bare number is a revision with 12 digits or more, and seconds ago with up to
    six: those between are commits, which may happen to have digits alone.
    Raises ``UsageError`` naming ``option``.
    """
    plain = text.strip()
    short = plain.lower().removesuffix("ago").rstrip()
    if _REVISION.fullmatch(plain):
        return int(plain)
    if _COMMIT.fullmatch(plain):
        return plain
    if _DURATION.fullmatch(short):
        return now - timedelta(seconds=parse_duration(short))
    try:
        return datetime.fromisoformat(plain).astimezone()
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"{option} {text[:40]!r} is no moment: write 2026-11-21T10:00Z, 10m for ten minutes ago, a revision or "
            "a commit's id"
        ) from None


def parse_time(text: str | None, now: datetime, option: str) -> datetime | int | None:
    """As :func:`parse_when`, without commits; ``None`` for none."""
    found = None if text is None else parse_when(text, now, option)
    if isinstance(found, str):
        raise UsageError(f"{option} takes a time, 10m for ten minutes ago, or a revision; not a commit")
    return found
