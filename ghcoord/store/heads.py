"""Reading heads safely: revisions, walks by operation id, and the guard against going backwards.

Every stamp that anything goes by comes from :func:`stamp_of`.  People copy
messages (``git cherry-pick``, ``git rebase``, ``git commit -C``): a commit whose
trailers do not fit it counts as theirs.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ghcoord.errors import Corrupt, HeadRegressed
from ghcoord.store.base import ROOT_RECORD, CommitInfo, Oid, Store
from ghcoord.store.message import REVISION_LIMIT, Stamp, read_stamp
from ghcoord.store.snapshot import Snapshot

LOOK_BACK = 64
"""First parents that a stamp is compared with; fewer where one was looked at before."""

LOOK_BACK_FAR = 1
"""As many where each may cost a request: a copied commit stands on one that it is older than."""

AHEAD = 86400.0
"""Seconds that a root record edited by hand may be ahead of the hub's clock."""

_KNOWN = 8192  # verdicts kept


class _Verdicts:
    """What was found out about commits. An id stands for a whole history, so it holds for every store."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._found: OrderedDict[Oid, Stamp | None] = OrderedDict()

    def get(self, oid: Oid) -> tuple[Stamp | None] | None:
        with self._mutex:
            return (self._found[oid],) if oid in self._found else None

    def put(self, oid: Oid, stamp: Stamp | None) -> None:
        with self._mutex:
            self._found[oid] = stamp
            while len(self._found) > _KNOWN:
                self._found.popitem(last=False)


_verdicts = _Verdicts()


def stamp_of(store: Store, info: CommitInfo) -> Stamp | None:
    """The trailers of a commit that ghcoord made; ``None`` for one made by a person.

    The commit is ghcoord's when its revision is that of its own root record,
    and above those of the commits it goes on from.
    """
    known = _verdicts.get(info.oid)
    if known is not None:
        return known[0]
    stamp = _fitting(store, info)
    if stamp is not None and stamp.revision <= _highest_below(store, info, stamp.revision):
        stamp = None
    _verdicts.put(info.oid, stamp)
    return stamp


def _fitting(store: Store, info: CommitInfo) -> Stamp | None:
    """The trailers in a commit's message if its root record, where it has one, says the same."""
    stamp = read_stamp(info.message)
    if stamp is None:
        return None
    entry = store.tree(info.tree).get(ROOT_RECORD)
    if entry is None or not entry.is_file:
        return stamp
    return stamp if parse_revision(store.blob(entry.oid)) == stamp.revision else None


def _highest_below(store: Store, info: CommitInfo, revision: int) -> int:
    """The highest revision among the nearest first parents, as far as it matters for ``revision``."""
    highest = 0
    for _ in range(LOOK_BACK_FAR if store.capabilities.far_objects else LOOK_BACK):
        if not info.parents:
            break
        known = _verdicts.get(info.parents[0])
        if known is not None and known[0] is not None:
            return max(highest, known[0].revision)
        try:
            info = store.commit_info(info.parents[0])
        except Corrupt:
            break  # history ends where it was cut
        stamp = read_stamp(info.message)
        if stamp is not None and stamp.revision >= revision and _fitting(store, info) is not None:
            highest = max(highest, stamp.revision)
    return highest


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
        stamp = stamp_of(store, info)
        yield info, stamp
        if below(info, stamp):
            todo.extend(parent for parent in info.parents if parent not in seen)
            seen.update(info.parents)


def commits(store: Store, head: Oid) -> Iterator[CommitInfo]:
    """Commits reachable from ``head``, each once, nearest first: for looking at, whoever made them."""
    seen = {head}
    todo = deque([head])
    while todo:
        info = store.commit_info(todo.popleft())
        yield info
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
    return parse_revision(raw) if raw is not None else 0


def parse_revision(raw: bytes) -> int:
    """The revision in a root record's text; 0 when it is broken."""
    try:
        value = json.loads(raw)["revision"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return value if isinstance(value, int) and 0 < value < REVISION_LIMIT else 0


def recorded_schema(snapshot: Snapshot) -> int | None:
    """The version of the layout that the root record tells; ``None`` when it is missing or broken."""
    raw = snapshot.read(ROOT_RECORD)
    try:
        value = json.loads(raw)["schema"] if raw is not None else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def revision_of(store: Store, space: str, head: Oid | None) -> int:
    """The revision of ``space`` at ``head``: from the trailers, else from the root record and the history.

    A person's root record is believed up to a day ahead of the hub's clock, so
    that a typing error does not use up the numbers.
    """
    if head is None:
        return 0
    stamp = stamp_of(store, store.commit_info(head))
    if stamp is not None:
        return stamp.revision
    recorded = recorded_revision(Snapshot(store, space, head))
    if recorded > (store.server_time() + AHEAD) * 1000:
        recorded = 0
    return max(recorded, stamped_base(store, head)[1])


def find_operation(store: Store, head: Oid, ops: frozenset[str], *, until: Oid | None, above: int) -> bool:
    """Whether a commit with one of ``ops`` lies between ``head`` and the commit ``until``.

    The walk ends at ``until`` and at commits whose revision is not above
    ``above``: no commit that holds the operation can have such a revision.
    """
    seen = {head}
    todo = deque([head])
    while todo:
        info = store.commit_info(todo.popleft())
        said = read_stamp(info.message)
        # Whether the commit is ghcoord's takes more reading: it is asked where it matters only.
        if said is not None and (said.ops & ops or said.revision <= above):
            stamp = stamp_of(store, info)
            if stamp is not None and stamp.ops & ops:
                return True
            if stamp is not None and stamp.revision <= above:
                continue
        if info.oid != until:
            todo.extend(parent for parent in info.parents if parent not in seen)
            seen.update(info.parents)
    return False


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
