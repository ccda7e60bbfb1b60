"""What every driver that builds git objects itself does with a commit: compare, check, build."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ghcoord.errors import Conflict, TooLarge
from ghcoord.store.base import Capabilities, ChangeSet, CommitInfo, Oid, Operation
from ghcoord.store.message import format_message
from ghcoord.store.objects import TreeEditor, encode_commit


def compare(expected: Mapping[str, Oid | None], heads: Mapping[str, Oid]) -> None:
    """Raise ``Conflict`` unless every space in ``expected`` is at that head."""
    for space, head in expected.items():
        if heads.get(space) != head:
            raise Conflict(f"{space} is at {heads.get(space)}, not at {head}")


def check_size(changes: Mapping[str, ChangeSet], capabilities: Capabilities) -> None:
    """Raise ``TooLarge`` for a commit beyond what the driver takes."""
    size = sum(len(data) for change in changes.values() for data in change.values() if data is not None)
    if size > capabilities.max_commit_bytes:
        raise TooLarge(f"a commit of {size} bytes: at most {capabilities.max_commit_bytes} are accepted")


def build_commits(
    editor: TreeEditor,
    commit_info: Callable[[Oid], CommitInfo],
    expected: Mapping[str, Oid | None],
    changes: Mapping[str, ChangeSet],
    op: Operation,
) -> dict[str, Oid]:
    """Collect in ``editor`` one commit a changed space, a direct child of its expected head."""
    made: dict[str, Oid] = {}
    for space, change in changes.items():
        parent = expected[space]
        tree = editor.apply(commit_info(parent).tree if parent is not None else None, change)
        data = encode_commit(
            tree, (parent,) if parent is not None else (), op.actor, op.time, format_message(space, op)
        )
        made[space] = editor.add("commit", data)
    return made
