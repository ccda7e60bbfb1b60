"""Connections: a list's page, as ``first``, ``after``, ``last`` and ``before`` cut it out."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ghcoord.twin.graphql_errors import Refused


@dataclass(frozen=True, slots=True)
class Edge:
    cursor: str
    node: Any


@dataclass(frozen=True, slots=True)
class Page:
    """One page of ``total`` items, the first of which is number ``start`` (from 0)."""

    items: Sequence[Any]
    start: int
    total: int

    @property
    def edges(self) -> list[Edge]:
        return [Edge(_cursor(self.start + number), item) for number, item in enumerate(self.items)]

    @property
    def info(self) -> dict[str, Any]:
        """The fields of PageInfo."""
        end = self.start + len(self.items)
        return {
            "startCursor": _cursor(self.start) if self.items else None,
            "endCursor": _cursor(end - 1) if self.items else None,
            "hasPreviousPage": self.start > 0,
            "hasNextPage": end < self.total,
        }


def page(
    items: Sequence[Any],
    *,
    first: int | None = None,
    after: str | None = None,
    last: int | None = None,
    before: str | None = None,
) -> Page:
    """The page. Cursors are places in the list: as on GitHub, a list that changes meanwhile shifts under them."""
    start = _place(after) + 1 if after else 0
    stop = min(_place(before), len(items)) if before else len(items)
    if first is not None:
        stop = min(stop, start + first)
    if last is not None:
        start = max(start, stop - last)
    return Page(items[start:stop], start, len(items))


def _cursor(place: int) -> str:
    return base64.b64encode(str(place + 1).encode()).decode()


def _place(cursor: str) -> int:
    try:
        return int(base64.b64decode(cursor, validate=True)) - 1
    except (binascii.Error, ValueError):
        raise Refused("INVALID_CURSOR_ARGUMENTS", f"`{cursor}` does not appear to be a valid cursor.") from None
