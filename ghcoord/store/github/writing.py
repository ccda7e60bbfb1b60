"""What the three ways of writing share: a commit drafted here, and finding out what became of it.

A draft is made on trees that are near, so that the new tree's id is known
before anything is sent: what the server makes is compared with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ghcoord.errors import Conflict, GhcoordError, OutcomeUnknown
from ghcoord.store.base import FILE_MODE, ChangeSet, CommitInfo, Entry, Oid, Operation
from ghcoord.store.message import Stamp, format_message, read_stamp
from ghcoord.store.objects import TreeEditor

if TYPE_CHECKING:
    from ghcoord.store.github.objects import Objects

EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
"""The tree without entries; git knows it everywhere."""

LOOK_BACK = 64
"""Commits that are looked at to find out what became of one; normally it is the first or second."""


@dataclass(frozen=True, slots=True)
class Draft:
    """One commit to be made in ``space``, on ``parent`` whose tree is ``base``.

    ``files`` are written and ``gone`` deleted: no more than what differs.
    ``swaps`` says that a file takes a directory's place or the other way round.
    ``editor`` has all new objects, ``tree`` is the id of the new tree.
    """

    space: str
    ref: str
    parent: Oid | None
    base: Oid | None
    tree: Oid
    files: Mapping[str, bytes]
    gone: tuple[str, ...]
    swaps: bool
    message: str
    op: Operation
    editor: TreeEditor

    def is_mine(self, info: CommitInfo) -> bool:
        """Whether ``info`` is the commit drafted here, whoever was named as its author.

        A copy of it by a person has another parent.
        """
        if info.parents != ((self.parent,) if self.parent is not None else ()):
            return False
        stamp = read_stamp(info.message)
        if stamp is None or not self.op.ids:
            return info.message.rstrip() == self.message.rstrip()
        return bool(stamp.ops & set(self.op.ids))


def draft(
    objects: Objects,
    prefix: str,
    expected: Mapping[str, Oid | None],
    changes: Mapping[str, ChangeSet],
    op: Operation,
    *,
    with_actor: bool,
) -> list[Draft]:
    """A draft for each changed space. Fetches the trees on the way that are not near."""
    made = []
    for space, change in changes.items():
        parent = expected[space]
        base = objects.commit_info(parent).tree if parent is not None else None
        if parent is not None and base is not None and _is_far(objects, base, change):
            # The folders alone: what is in them is about to be replaced.
            objects.near(parent, sorted({path.rpartition("/")[0] for path in change} - {""}))
        editor = TreeEditor(objects.tree)
        tree = editor.apply(base, change)
        files, gone, swaps = _differences(objects.tree, base, editor, tree, change)
        message = format_message(space, op, with_actor=with_actor)
        made.append(Draft(space, prefix + space, parent, base, tree, files, gone, swaps, message, op, editor))
    return made


def _is_far(objects: Objects, base: Oid, change: ChangeSet) -> bool:
    """Whether a tree on the way to a changed path is not near."""
    return any(_first_far(objects, base, path.split("/")[:-1]) for path in change)


def _first_far(objects: Objects, oid: Oid, folders: list[str]) -> bool:
    for name in folders:
        tree = objects.known_tree(oid)
        if tree is None:
            return True
        entry = tree.get(name)
        if entry is None or not entry.is_tree:
            return False
        oid = entry.oid
    return objects.known_tree(oid) is None


def _differences(
    read: Callable[[Oid], Mapping[str, Entry]], base: Oid | None, editor: TreeEditor, tree: Oid, change: ChangeSet
) -> tuple[dict[str, bytes], tuple[str, ...], bool]:
    """Of ``change``, the files written and the paths deleted that make a difference, and whether kinds are swapped."""

    def read_new(oid: Oid) -> Mapping[str, Entry]:
        return editor.trees[oid] if oid in editor.trees else {} if oid == EMPTY_TREE else read(oid)

    files: dict[str, bytes] = {}
    gone: list[str] = []
    swaps = False
    for path, content in change.items():
        before, crossed = _find(read, base, path)
        after, _ = _find(read_new, tree, path)
        if content is not None:
            swaps = swaps or crossed or (before is not None and before.is_tree)
            if after is not None and (before is None or (before.oid, before.mode) != (after.oid, FILE_MODE)):
                files[path] = content
        elif before is not None and not before.is_tree:
            # A deletion that makes room for a directory, or happens within one that gives way, is part of the swap.
            swaps = swaps or after is not None
            gone.append(path)
    return files, tuple(gone), swaps


def _find(read: Callable[[Oid], Mapping[str, Entry]], root: Oid | None, path: str) -> tuple[Entry | None, bool]:
    """What is at ``path``, and whether a file stands in its way."""
    oid = root
    *folders, name = path.split("/")
    for folder in folders:
        entry = read(oid).get(folder) if oid is not None else None
        if entry is None:
            return None, False
        if not entry.is_tree:
            return None, True
        oid = entry.oid
    return (read(oid).get(name) if oid is not None else None), False


# -- what became of it


def settle(
    objects: Objects, heads: Mapping[str, Oid], drafts: list[Draft], ours: Mapping[str, Oid], *, refused: bool
) -> dict[str, Oid]:
    """What became of ``drafts`` by the ``heads`` read after they were sent: the commits made, when they landed.

    ``ours`` are their commit ids where they are known.  ``refused`` says that
    the server answered, with an error.  Raises ``Conflict`` when a space is
    known to have moved on without them, ``OutcomeUnknown`` otherwise: heads
    that lag behind, or are as expected, prove nothing.
    """
    lost: Draft | None = None
    for one in drafts:
        head = heads.get(one.space)
        if head == one.parent:
            continue
        if head is None:
            lost = lost or (one if refused else None)
            continue
        verdict = _trace(objects, head, one, ours.get(one.space))
        if isinstance(verdict, str):
            return {**ours, one.space: verdict}
        lost = lost or (one if verdict is False else None)
    if lost is not None:
        raise Conflict(f"{lost.space} is at {heads.get(lost.space)}, not at {lost.parent}")
    raise OutcomeUnknown("the server did not say whether it committed, and may still do so")


def _trace(objects: Objects, head: Oid, one: Draft, own: Oid | None) -> Oid | bool | None:
    """The commit of ``one`` at or below ``head``; ``False`` when it is not there, ``None`` when nobody knows.

    It is ruled out by a history that goes back to what it was made on without
    it, or, where that history was collected meanwhile, by one that is newer and
    has none of its operations.
    """
    met = one.parent is None
    newer = doubtful = False
    try:
        below = read_stamp(objects.commit_info(one.parent).message) if one.parent is not None else None
        floor = below.revision if below is not None else 0
        for info, stamp in _commits(objects, head, one.parent, floor):
            if info is None:
                return None
            if info.oid == own or (own is None and one.is_mine(info)):
                return info.oid
            met = met or info.oid == one.parent
            newer = newer or (stamp is not None and stamp.revision > floor)
            doubtful = doubtful or (stamp is not None and not stamp.ops.isdisjoint(one.op.ids))
    except GhcoordError:
        return None  # whatever cannot be read: the commit may have been made
    return False if met or (newer and not doubtful and floor) else None


def _commits(
    objects: Objects, head: Oid, until: Oid | None, floor: int
) -> Iterator[tuple[CommitInfo | None, Stamp | None]]:
    """Commits from ``head``, nearest first, down to ``until`` and to revisions below ``floor``.

    The last is ``None`` when there are more than are looked at.
    """
    seen = {head}
    todo = deque([head])
    for _ in range(LOOK_BACK):
        if not todo:
            return
        info = objects.commit_info(todo.popleft())
        stamp = read_stamp(info.message)
        yield info, stamp
        if info.oid != until and (stamp is None or stamp.revision >= floor):
            todo.extend(parent for parent in info.parents if parent not in seen)
            seen.update(info.parents)
    if todo:
        yield None, None


def keep(objects: Objects, one: Draft, info: CommitInfo) -> None:
    """Remember what was committed, and its objects where the server made the same tree of them."""
    if info.tree == one.tree:
        objects.add(one.editor.objects)
    objects.add_commit(info)
