"""What is in the hub, made fit for an answer: no control characters in text, and nothing longer than it may be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ghcoord.faces.cli.output import clean, clean_text, to_json

MAX_CELL = 300
"""Characters of one value in a line of text."""

MAX_FIELD = 4_000
"""Characters of one text in data, where nothing else is said."""

MAX_DATA = 20_000
"""Characters, about, of one record's free-form data."""

MAX_DEPTH = 32
"""Levels of nesting that are shown: what is deeper is left out."""

MAX_KEY = 256
"""Characters of an object's key."""

MAX_PAGE = 32_000
"""Characters of a long text that one answer has."""


def line(value: object, most: int = MAX_CELL) -> str:
    """``value`` in one line without control characters, cut to ``most`` characters."""
    text = str(value)
    return clean(cut(text, most))


def text(value: str) -> str:
    """``value`` as several lines without control characters."""
    return clean_text(value)


def json_line(value: Any, most: int = MAX_CELL) -> str:
    """``value`` as JSON in one line, cut to ``most`` characters."""
    return clean(cut(to_json(bounded(value, most * 4), None), most))


def cut(value: str, most: int) -> str:
    """``value``, at most ``most`` characters of it, with how many are missing."""
    return value if len(value) <= most else f"{value[:most]}… ({len(value) - most} more characters)"


def bounded(value: Any, room: int = MAX_DATA, field: int = MAX_FIELD) -> Any:
    """A copy of a JSON ``value`` of about ``room`` characters, no text longer than ``field``.

    What is left out of a text, a list or an object is said in its place.
    """
    return _Walk(room, field).copy(value, 0)


class _Walk:
    def __init__(self, room: int, field: int) -> None:
        self._left = room
        self._field = field

    def copy(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            kept = cut(value, max(0, min(self._field, self._left)))
            self._left -= len(kept) + 2
            return kept
        if isinstance(value, dict):
            return self._object(value, depth)
        if isinstance(value, list | tuple):
            return self._list(value, depth)
        self._left -= 8
        return value

    def _object(self, value: dict[str, Any], depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for at, (key, one) in enumerate(value.items()):
            if self._left <= 0 or depth >= MAX_DEPTH:
                made["…"] = f"{len(value) - at} more keys"
                break
            short = cut(str(key), MAX_KEY)
            self._left -= len(short) + 4
            made[short] = self.copy(one, depth + 1)
        return made

    def _list(self, value: Sequence[Any], depth: int) -> list[Any]:
        made: list[Any] = []
        for at, one in enumerate(value):
            if self._left <= 0 or depth >= MAX_DEPTH:
                made.append(f"… {len(value) - at} more")
                break
            made.append(self.copy(one, depth + 1))
        return made


class TextPage(NamedTuple):
    """A part of a long text: ``start`` is where it begins, ``next_offset`` where it goes on, ``None`` at the end."""

    text: str
    start: int
    next_offset: int | None


def page_of(pieces: Iterable[str], offset: int, limit: int) -> TextPage:
    """``limit`` characters of a text in ``pieces`` from ``offset`` on; a negative one counts from the end.

    Holds no more of it in memory than that, or than what a negative offset asks for.
    """
    if offset < 0:
        return _from_end(pieces, -offset, limit)
    rest = _skipping(pieces, offset)
    found: list[str] = []
    size = 0
    for piece in rest:
        found.append(piece)
        size += len(piece)
        if size > limit:
            break
    whole = "".join(found)
    return TextPage(whole[:limit], offset, offset + limit if len(whole) > limit else None)


def _skipping(pieces: Iterable[str], offset: int) -> Iterator[str]:
    left = offset
    for piece in pieces:
        if left >= len(piece):
            left -= len(piece)
            continue
        yield piece[left:]
        left = 0


def _from_end(pieces: Iterable[str], back: int, limit: int) -> TextPage:
    kept, seen = "", 0
    for piece in pieces:
        seen += len(piece)
        kept = (kept + piece)[-back:]
    start = seen - len(kept)
    return TextPage(kept[:limit], start, start + limit if len(kept) > limit else None)


def rows(lines: Sequence[str], empty: str, more: str = "") -> str:
    """Lines as the text of an answer, ``empty`` where there are none, with ``more`` at the end."""
    return "\n".join([*(lines or [empty]), *([more] if more else [])])
