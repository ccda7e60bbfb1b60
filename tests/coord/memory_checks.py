"""What must hold in every namespace at any time after a write of ghcoord: index, times and counts are the records'."""

from __future__ import annotations

from ghcoord.coord import layout
from ghcoord.coord.context import KEY_TABLE
from ghcoord.coord.layout import EXPIRY, INDEX, NAMESPACE_RECORD
from ghcoord.coord.memory import index as memory_index
from ghcoord.coord.memory.trie import Marker, arrange, listed
from ghcoord.coord.memory.write import SetKey, apply
from ghcoord.hub import Hub
from ghcoord.store.base import Oid, Store
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.tx import Tx
from tests.coord.world import World

SPACE = "memory/global"


def check_namespace(snapshot: Snapshot) -> list[str]:
    """Index, times and counts are exactly those of the records; returns the keys in their order."""
    entries = {entry.key: entry for entry in KEY_TABLE.scan(snapshot)}
    files = {path: snapshot.read(path) for path, _ in snapshot.walk()}
    ends = [entry.expires_at for entry in entries.values()]
    wanted = arrange(Marker(key, end) for key, end in zip(entries, ends, strict=True))
    assert wanted == {path: data for path, data in files.items() if path.startswith(f"{INDEX}/")}
    times = {layout.expiry_path(end, key) for key, end in zip(entries, ends, strict=True) if end is not None}
    assert times == {path for path in files if path.startswith(f"{EXPIRY}/")}
    sizes = [len(data or b"") for path, data in files.items() if path.startswith(f"{layout.KEYS}/")]
    if snapshot.head is not None and NAMESPACE_RECORD in files:
        assert (len(sizes), sum(sizes)) == memory_index.read_counts(files[NAMESPACE_RECORD])
    assert sorted(entries) == [marker.key for marker in listed(snapshot)]
    return sorted(entries)


def check_shape(store: Store, root: Oid, depth: int = 0) -> tuple[int, int]:
    """The most entries that one directory has, and how deep the deepest lies."""
    widest, deepest = 0, depth
    entries = store.tree(root)
    widest = max(widest, len(entries))
    for entry in entries.values():
        if entry.is_tree:
            wide, deep = check_shape(store, entry.oid, depth + 1)
            widest, deepest = max(widest, wide), max(deepest, deep)
    return widest, deepest


def set_together(world: World, hub: Hub, *ops: SetKey) -> list[int]:
    """What a group commit leaves: each of ``ops`` with a revision of its own, in one commit; their revisions."""
    world.runtime.advance(1)

    def run(tx: Tx) -> list[int]:
        last = tx.revision
        revisions = list(range(last - len(ops) + 1, last + 1))
        for op, tx.revision in zip(ops, revisions, strict=True):
            apply(tx, [op], fence=None, actor="me")
        return revisions

    return hub._context.transact((SPACE,), run)
