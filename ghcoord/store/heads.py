"""Reading heads safely: revisions, walks by operation id, and the guard against going backwards."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ghcoord.errors import HeadRegressed
from ghcoord.store.base import ROOT_RECORD, CommitInfo, Oid, Store
from ghcoord.store.message import Stamp, read_stamp
from ghcoord.store.snapshot import Snapshot


def walk(
    store: Store, head: Oid, below: Callable[[CommitInfo, Stamp | None], bool] = lambda info, stamp: True
) -> Iterator[tuple[CommitInfo, Stamp | None]]:
    """Commits reachable from ``head``, each once, nearest first, with their trailers.

    The parents of a commit are visited only where ``below`` says so.
    """
    seen = {head}
    todo = deque([head])
    while todo:
        info = store.commit_info(todo.popleft())
        stamp = read_stamp(info.message)
        yield info, stamp
        if below(info, stamp):
            todo.extend(parent for parent in info.parents if parent not in seen)
            seen.update(info.parents)


def stamped_base(store: Store, head: Oid) -> tuple[Oid | None, int]:
    """The newest commit that ghcoord made at or below ``head``, and its revision; ``(None, 0)`` for none.

    Commits without trailers, made by people, are stepped over; of a merge's
    sides the one with the higher revision counts.
    """
    best: tuple[Oid | None, int] = (None, 0)
    for info, stamp in walk(store, head, lambda info, stamp: stamp is None):
        if stamp is not None and stamp.revision > best[1]:
            best = (info.oid, stamp.revision)
    return best


def recorded_revision(snapshot: Snapshot) -> int:
    """The revision in the root record; 0 when it is missing or broken."""
    raw = snapshot.read(ROOT_RECORD)
    try:
        value = json.loads(raw)["revision"] if raw is not None else 0
    except (ValueError, KeyError, TypeError):
        return 0
    return value if isinstance(value, int) and 0 < value < 1 << 53 else 0


def revision_of(store: Store, space: str, head: Oid | None) -> int:
    """The revision of ``space`` at ``head``: from the trailers, else from the root record and the history."""
    if head is None:
        return 0
    stamp = read_stamp(store.commit_info(head).message)
    if stamp is not None:
        return stamp.revision
    return max(recorded_revision(Snapshot(store, space, head)), stamped_base(store, head)[1])


def find_operation(store: Store, head: Oid, ops: frozenset[str], *, until: Oid | None, above: int) -> bool:
    """Whether a commit with one of ``ops`` lies between ``head`` and the commit ``until``.

    The walk ends at ``until`` and at commits whose revision is not above
    ``above``: no commit that holds the operation can have such a revision.
    """
    commits = walk(store, head, lambda info, stamp: info.oid != until and not (stamp and stamp.revision <= above))
    return any(stamp is not None and stamp.ops & ops for _, stamp in commits)


@dataclass(frozen=True, slots=True)
class Mark:
    """The highest state of a space that was seen."""

    revision: int
    head: Oid


class HeadGuard:
    """Remembers the highest head of each space and refuses to write below it.

    Not a lock: the caller serialises.  ``marks`` may come from an earlier
    process of the same machine.
    """

    def __init__(self, store: Store, marks: Mapping[str, Mark] | None = None) -> None:
        self._store = store
        self.marks: dict[str, Mark] = dict(marks or {})

    def check(self, heads: Mapping[str, Oid], spaces: Iterable[str]) -> None:
        """Note ``heads``; raises ``HeadRegressed`` where a space vanished or went back."""
        for space in spaces:
            mark, head = self.marks.get(space), heads.get(space)
            if mark is None:
                if head is not None:
                    self.marks[space] = Mark(revision_of(self._store, space, head), head)
                continue
            if head == mark.head:
                continue
            if head is None:
                raise HeadRegressed(
                    f"the space {space!r} has vanished from the hub: look at its history, "
                    "then run 'ghcoord doctor --adopt' to go on from here"
                )
            revision = revision_of(self._store, space, head)
            if revision < mark.revision or (revision == mark.revision and not self._descends(head, mark)):
                raise HeadRegressed(
                    f"the space {space!r} went back from revision {mark.revision} to {revision}: "
                    "look at its history, then run 'ghcoord doctor --adopt' to go on from here"
                )
            self.marks[space] = Mark(revision, head)

    def note(self, space: str, revision: int, head: Oid) -> None:
        """Remember a head that this process has just made."""
        self.marks[space] = Mark(revision, head)

    def _descends(self, head: Oid, mark: Mark) -> bool:
        commits = walk(self._store, head, lambda info, stamp: not (stamp and stamp.revision <= mark.revision))
        return any(info.oid == mark.head for info, _ in commits)
