"""Which queued tasks a worker gets next: the best of all lines that it can serve."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from ghcoord.coord import layout
from ghcoord.coord.layout import BEHIND_GATES, FLEET, OPEN_CALLS, READY
from ghcoord.coord.queue import gates, lookup, records
from ghcoord.model.requirements import Need, Offer
from ghcoord.model.task import State, Task
from ghcoord.store.tx import Tx

PASSED = 100
"""Tasks with a key that are passed over, when there is no slot for them, until no others are looked for."""

STRAYS = 20
"""Index files without a task that are looked at to learn what a line is for."""


BROUGHT = 500
"""Tasks that are fetched together at most."""


@dataclass(order=True, slots=True)
class _Candidate:
    """A place in a line. ``place`` sorts by priority and sequence; ``rest`` goes on with the same line.

    ``behind`` is the key in whose line ``rest`` goes on; ``None`` for what all workers see.
    """

    place: str
    number: int
    line: str = field(compare=False)
    rest: Iterator[str] = field(compare=False)
    behind: str | None = field(compare=False)

    @property
    def path(self) -> str:
        return f"{self.line}/{self.place}"

    @property
    def task_id(self) -> str:
        return self.place.rpartition("/")[2].partition("-")[2]


class _Merge:
    """Several lines as one, best first; lines may be added on the way."""

    def __init__(self) -> None:
        self._heap: list[_Candidate] = []
        self._added = 0

    def add(self, line: str, places: Iterator[str], behind: str | None = None) -> None:
        place = next(places, None)
        if place is not None:
            self._added += 1
            heapq.heappush(self._heap, _Candidate(place, self._added, line, places, behind))

    def pop(self) -> _Candidate | None:
        return heapq.heappop(self._heap) if self._heap else None


def choose(
    tx: Tx,
    worker_id: str,
    offer: Offer,
    count: int,
    room: int,
    ahead: int = 0,
    sessions: Iterable[str] = (),
    *,
    calls_only: bool = False,
) -> list[Task]:
    """The best ``count`` queued tasks for ``offer``, meant for anybody or for this worker, in order.

    ``sessions`` are those whose calls it runs, with ``calls_only`` nothing else.  Their records have at most
    ``room`` bytes in all.  Tasks behind a gate are chosen as far as it lets
    them start, and not for the last ``ahead`` places.
    """
    merge = _Merge()
    for_all = () if calls_only else (READY, layout.assigned_top(worker_id))
    for top in (*for_all, *map(layout.session_top, sessions)):
        for name in tx.names(FLEET, top):
            if _serves(tx, offer, f"{top}/{name}", name):
                merge.add(f"{top}/{name}", _brought(tx, gates.leaves(tx, f"{top}/{name}"), count))
    chosen: list[Task] = []
    left: dict[str, int] = {}
    shut: set[str] = set()
    passed = 0
    while len(chosen) < count and (one := merge.pop()) is not None:
        task, size = lookup.sized(tx, one.task_id) or (None, 0)
        key = records.key_of(task) if task is not None else None
        if task is None or task.state is not State.QUEUED or layout.line_path(task) != one.path:
            _forget(tx, one)
        elif key is not None and len(chosen) >= count - ahead:
            passed += 1
            if passed >= PASSED:
                break
        elif key is not None and left.setdefault(key, gates.room(tx, key)) <= 0:
            shut.add(key)
        else:
            room -= size
            if room < 0:
                break
            chosen.append(task)
            if key is not None:
                left[key] -= 1
                if one.behind is None and left[key] > 0:
                    merge.add(one.line, _following(tx, key, one), behind=key)
        if len(chosen) < count and (one.behind is None or left.get(one.behind, 1) > 0):
            merge.add(one.line, one.rest, one.behind)
    for key in sorted(shut - {records.key_of(task) for task in chosen}):
        gate = gates.get(tx, key)
        if gate is not None:
            gates.settle(tx, gate)
    return chosen


def _brought(tx: Tx, places: Iterator[str], count: int) -> Iterator[str]:
    """``places``, the tasks behind them fetched together where each would cost a request."""
    if not tx.is_far(FLEET):
        yield from places
        return
    while page := list(islice(places, min(count, BROUGHT))):
        ids = (place.rpartition("/")[2].partition("-")[2] for place in page)
        tx.near(FLEET, [layout.task_path(task_id) for task_id in ids])
        yield from page


def _serves(tx: Tx, offer: Offer, line: str, name: str) -> bool:
    if name in (BEHIND_GATES, OPEN_CALLS):
        return False
    need = layout.parse_need(name) or _need_of(tx, line, name)
    return need is not None and need.met_by(offer)


def _need_of(tx: Tx, line: str, name: str) -> Need | None:
    """The need behind a name that was cut, from a task of that line."""
    for place in islice(gates.leaves(tx, line), STRAYS):
        task = records.get(tx, place.rpartition("/")[2].partition("-")[2])
        if task is not None and layout.class_of(task.need) == name:
            return task.need
    return None


def _following(tx: Tx, key: str, one: _Candidate) -> Iterator[str]:
    """The places behind ``one`` in the line of its key."""
    return (place for place in gates.leaves(tx, layout.waiting_path(key, one.line)) if place > one.place)


def _forget(tx: Tx, one: _Candidate) -> None:
    """Delete an index file behind which there is no such task."""
    tx.delete(FLEET, one.path)
    if one.behind is not None:
        tx.delete(FLEET, layout.waiting_path(one.behind, one.path))
