"""An index by time: names that are due at a moment, in the order of these moments.

A folder holds one kind of timers.  However many there are, the next one is
found by reading a handful of small trees.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ghcoord.coord import layout
from ghcoord.coord.layout import FLEET
from ghcoord.store.tx import Tx

LEVELS = 4
"""Directories that stand for the time."""


def add(tx: Tx, folder: str, at: float, name: str) -> None:
    """Let ``name`` be due at ``at``, in seconds since the epoch, kept to the millisecond."""
    tx.write(FLEET, layout.due_path(folder, at, name), layout.MARKER)


def remove(tx: Tx, folder: str, at: float, name: str) -> None:
    """Take back what :func:`add` did with the same arguments."""
    tx.delete(FLEET, layout.due_path(folder, at, name))


def due(tx: Tx, folder: str, limit: int) -> list[tuple[float, str]]:
    """The first ``limit`` names that are due now, earliest first."""
    found: list[tuple[float, str]] = []
    for at, name in _walk(tx, folder, (), tx.now):
        if len(found) >= limit:
            break
        found.append((at, name))
    return found


def next(tx: Tx, folder: str) -> float | None:
    """When the earliest one is due, in seconds since the epoch."""
    for at, _ in _walk(tx, folder, (), math.inf):
        return at
    return None


def _walk(tx: Tx, folder: str, blocks: tuple[str, ...], until: float) -> Iterator[tuple[float, str]]:
    """Each timer as far as ``until``. What lies in no place of a timer is passed over, and deleted where it is due."""
    top = "/".join((folder, *blocks))
    for name in tx.names(FLEET, top):
        begins = layout.due_at(*blocks, name)
        if begins is None:
            continue
        if begins > until:
            return
        if len(blocks) + 1 < LEVELS:
            yield from _walk(tx, folder, (*blocks, name), until)
            continue
        for fan in tx.names(FLEET, f"{top}/{name}"):
            for leaf in tx.names(FLEET, f"{top}/{name}/{fan}"):
                path = f"{top}/{name}/{fan}/{leaf}"
                if layout.due_path(folder, begins, leaf) == path:
                    yield begins, leaf
                elif begins <= tx.now:
                    tx.delete(FLEET, path)
