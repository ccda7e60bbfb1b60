"""Tasks by state, from the index of a snapshot: as many names are read as are asked for, and no record."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator

from ghcoord.coord import layout
from ghcoord.coord.layout import ASSIGNED, BEHIND_GATES, ENDED, GATED, IN_SESSIONS, OPEN_CALLS, READY
from ghcoord.model.codec import ms_of
from ghcoord.model.task import ENDED as ENDED_STATES
from ghcoord.model.task import State
from ghcoord.store.snapshot import Snapshot

ENDED_LEVELS = 4
"""Directories that stand for the time at which a task ended."""


def ids_of(snapshot: Snapshot, state: State) -> Iterator[str]:
    """Ids of the tasks in ``state``.

    Queued ones in the order in which they will run, as far as gates and workers
    let them; scheduled and backing-off ones by their time; ended ones the latest
    first; leased and blocked ones by their place in the queue, each worker's apart.
    """
    if state is State.QUEUED:
        yield from (_id(place) for place in _queued(snapshot))
    elif state in ENDED_STATES:
        yield from (task_id for _, task_id in ended(snapshot, state))
    elif state is State.LEASED:
        yield from (_id(path) for path, _ in snapshot.walk(layout.LEASED))
    elif state is State.BLOCKED:
        yield from (_id(path) for path, _ in snapshot.walk(layout.BLOCKED))
    else:
        folder = layout.SCHEDULED if state is State.SCHEDULED else layout.BACKING_OFF
        yield from (path.rpartition("/")[2] for path, _ in snapshot.walk(folder))


def _id(path: str) -> str:
    return path.rpartition("/")[2].partition("-")[2]


def _queued(snapshot: Snapshot) -> Iterator[str]:
    last = ""
    for place in heapq.merge(*(_places(snapshot, line) for line in lines(snapshot))):
        if place != last:  # the first of a line behind a gate is shown a second time
            yield place
        last = place


def _places(snapshot: Snapshot, line: str) -> Iterator[str]:
    return (path.removeprefix(f"{line}/") for path, _ in snapshot.walk(line))


def lines(snapshot: Snapshot) -> Iterator[str]:
    """The folders in which queued tasks stand: for all, for a worker, of a session, and behind the gates of keys."""
    for name in snapshot.entries(READY):
        yield f"{READY}/{name}"
    yield from _of_owners(snapshot, ASSIGNED)
    yield from _of_owners(snapshot, IN_SESSIONS)
    for fan in snapshot.entries(GATED):
        for key in snapshot.entries(f"{GATED}/{fan}"):
            top = f"{GATED}/{fan}/{key}"
            for name in snapshot.entries(f"{top}/ready"):
                yield f"{top}/ready/{name}"
            yield from _of_owners(snapshot, f"{top}/assigned")
            yield from _of_owners(snapshot, f"{top}/sessions")


def by_tool(snapshot: Snapshot) -> dict[str, int]:
    """How many tasks of each tool are queued, from the index alone; one whose name had to be cut goes by that."""
    found: dict[str, set[str]] = {}
    for line in lines(snapshot):
        places = set(_places(snapshot, line))
        need = layout.parse_need(line.rpartition("/")[2])
        found.setdefault(need.tool if need is not None else line.rpartition("/")[2], set()).update(places)
    return {tool: len(places) for tool, places in sorted(found.items()) if places}


def _of_owners(snapshot: Snapshot, top: str) -> Iterator[str]:
    """The lines of single workers, or of single sessions."""
    for owner in snapshot.entries(top):
        names = (name for name in snapshot.entries(f"{top}/{owner}") if name not in (BEHIND_GATES, OPEN_CALLS))
        yield from (f"{top}/{owner}/{name}" for name in names)


def ended(
    snapshot: Snapshot, state: State, *, before: float = math.inf, oldest_first: bool = False
) -> Iterator[tuple[float, str]]:
    """When tasks in ``state`` ended, in seconds since the epoch, and their ids; those until ``before`` (seconds)."""
    limit = before if before == math.inf else ms_of(before)
    for ms, task_id in _ended(snapshot, f"{ENDED}/{state}", (), reverse=not oldest_first):
        if ms <= limit:
            yield ms / 1000, task_id
        elif oldest_first:
            return


def _ended(snapshot: Snapshot, top: str, blocks: tuple[int, ...], *, reverse: bool) -> Iterator[tuple[int, str]]:
    if len(blocks) < ENDED_LEVELS:
        for name in sorted(snapshot.entries(top), reverse=reverse):
            block = _hex(name)
            if block is not None:
                yield from _ended(snapshot, f"{top}/{name}", (*blocks, block), reverse=reverse)
        return
    start = sum(block << shift for block, shift in zip(blocks, (32, 24, 16, 8), strict=True))
    names = (name for fan in snapshot.entries(top) for name in snapshot.entries(f"{top}/{fan}"))
    for name in sorted(names, reverse=reverse):
        rest, _, place = name.partition("-")
        within = _hex(rest)
        if within is not None:
            yield start + within, place.partition("-")[2]


def _hex(text: str) -> int | None:
    try:
        return int(text, 16)
    except ValueError:
        return None
