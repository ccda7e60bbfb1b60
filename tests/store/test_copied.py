"""Commits that carry ghcoord's trailers without being ghcoord's: copied, rebased, forged."""

from __future__ import annotations

import json

import pytest

from ghcoord.errors import Corrupt
from ghcoord.store.base import ROOT_RECORD, Oid, Operation
from ghcoord.store.heads import find_operation, revision_of, stamp_of, walk
from ghcoord.store.inmemory import MemoryStore
from ghcoord.store.message import REVISION_LIMIT, format_message, read_stamp
from ghcoord.store.objects import TreeEditor, encode_commit
from ghcoord.store.snapshot import MAX_LEVELS, Snapshot, diff
from ghcoord.store.transact import Transactor
from ghcoord.store.tx import Tx
from ghcoord.testing.clock import ManualRuntime

SPACE = "fleet"


class Hub:
    """A store in memory with a person who commits to it."""

    def __init__(self) -> None:
        self.runtime = ManualRuntime()
        self.store = MemoryStore(self.runtime.now)
        self.adopted: list[tuple[Oid | None, Oid | None]] = []

    def transactor(self) -> Transactor:
        def adopt(tx: Tx, space: str, base: Snapshot, present: Snapshot) -> None:
            self.adopted.append((base.head, present.head))

        return Transactor(self.store, self.runtime, adopt=adopt)

    def write(self, transactor: Transactor, name: str = "n") -> int:
        self.runtime.advance(0.01)

        def run(tx: Tx) -> int:
            tx.write(SPACE, name, b"%d" % tx.revision)
            return tx.revision

        return transactor.transact([SPACE], run)

    @property
    def head(self) -> Oid:
        return self.store.heads()[SPACE]

    def person(self, message: str, changes: dict[str, bytes | None]) -> Oid:
        editor = TreeEditor(self.store.tree)
        tree = editor.apply(self.store.commit_info(self.head).tree, changes)
        made = editor.add("commit", encode_commit(tree, (self.head,), "A Person", 1, message))
        self.store._objects.update(editor.objects)
        self.store._heads[SPACE] = made
        return made

    def copy(self, oid: Oid, *, theirs: bool) -> Oid:
        """``git cherry-pick``; with ``theirs`` the conflict in the root record was settled by taking the copied one."""
        snapshot = Snapshot(self.store, SPACE, oid)
        record = {ROOT_RECORD: snapshot.read(ROOT_RECORD)} if theirs else {}
        return self.person(self.store.commit_info(oid).message, {"n": snapshot.read("n"), **record})


def root(revision: int) -> dict[str, bytes | None]:
    return {ROOT_RECORD: json.dumps({"revision": revision, "schema": 1, "space": SPACE}).encode()}


def forged(revision: int) -> str:
    return format_message(SPACE, Operation(ids=("forged",), revision=revision, time=1))


@pytest.mark.parametrize("theirs", [False, True])
def test_copied_commits_are_a_persons(theirs: bool) -> None:
    """A range of commits copied on top of newer ones, messages and all: adopted, and revisions go on rising."""
    hub = Hub()
    transactor = hub.transactor()
    old = []
    for _ in range(4):
        hub.write(transactor)
        old.append(hub.head)
    last = hub.write(transactor)
    base = hub.head
    for oid in old:
        made = hub.copy(oid, theirs=theirs)
        assert None is stamp_of(hub.store, hub.store.commit_info(made))
    assert last == revision_of(hub.store, SPACE, hub.head)
    present = hub.head
    assert last < hub.write(transactor)
    assert [(base, present)] == hub.adopted
    assert hub.write(hub.transactor()) == revision_of(hub.store, SPACE, hub.head)


def test_a_message_used_again_is_a_persons() -> None:
    """``git commit -C HEAD``: the same revision and the same root record, on top of the commit that has them."""
    hub = Hub()
    transactor = hub.transactor()
    revision = hub.write(transactor)
    base = hub.head
    hub.person(hub.store.commit_info(base).message, {"n": b"by hand"})
    assert None is stamp_of(hub.store, hub.store.commit_info(hub.head))
    assert revision < hub.write(transactor)
    assert 1 == len(hub.adopted)


def test_a_copy_hides_no_operation() -> None:
    """The operation is found in its own commit under copies, and not in a copy."""
    hub = Hub()
    transactor = hub.transactor()
    hub.write(transactor)
    start = hub.head
    hub.write(transactor)
    wanted = stamp_of(hub.store, hub.store.commit_info(hub.head))
    assert wanted is not None
    hub.write(transactor)
    hub.copy(start, theirs=True)
    below = revision_of(hub.store, SPACE, start)
    assert find_operation(hub.store, hub.head, wanted.ops, until=start, above=below)
    first = stamp_of(hub.store, hub.store.commit_info(start))
    assert first is not None
    assert not find_operation(hub.store, hub.head, frozenset({"other"}), until=start, above=below)
    assert 3 == sum(stamp is not None for _, stamp in walk(hub.store, hub.head))


@pytest.mark.parametrize("revision", [REVISION_LIMIT - 1, REVISION_LIMIT, 9_999_999_999_999_999, 10**30])
def test_a_forged_trailer_changes_no_revision(revision: int) -> None:
    """A message alone is not believed: three grants after it have three rising revisions, in any process."""
    hub = Hub()
    before = hub.write(hub.transactor())
    hub.person(forged(revision), {"note": b"x"})
    grants = [hub.write(hub.transactor()) for _ in range(3)]
    assert [before, *grants] == sorted({before, *grants})
    assert before + 1000 > grants[-1]


@pytest.mark.parametrize("revision", [REVISION_LIMIT - 2, 2**52, 10**30])
def test_a_forged_root_record_changes_no_revision(revision: int) -> None:
    """A root record edited by hand to the far future is not believed either."""
    hub = Hub()
    before = hub.write(hub.transactor())
    hub.person("by hand", root(revision))
    grants = [hub.write(hub.transactor()) for _ in range(3)]
    assert [before, *grants] == sorted({before, *grants})
    assert before + 1000 > grants[-1]


def test_both_forged_are_gone_on_from_or_refused() -> None:
    """Trailers and root record that agree are believed while there is room above them, and never repeated."""
    hub = Hub()
    hub.write(hub.transactor())
    hub.person(forged(2**52), root(2**52))
    assert [2**52 + 1, 2**52 + 2, 2**52 + 3] == [hub.write(hub.transactor()) for _ in range(3)]
    hub.person(forged(REVISION_LIMIT - 2), root(REVISION_LIMIT - 2))
    with pytest.raises(Corrupt, match="doctor --adopt"):
        hub.write(hub.transactor())


def test_every_revision_that_is_written_is_read() -> None:
    """Up to the limit, and nothing above it."""
    for revision in (1, 1_700_000_000_123, REVISION_LIMIT - 1):
        stamp = read_stamp(forged(revision))
        assert stamp is not None
        assert revision == stamp.revision
    assert None is read_stamp(forged(REVISION_LIMIT))


# -- any depth


def deep(hub: Hub, levels: int, top: str) -> None:
    editor = TreeEditor(hub.store.tree)
    oid = editor.apply(None, {"f": b"x"})
    for _ in range(levels):
        oid = editor.add("tree", b"40000 d\0" + bytes.fromhex(oid))
    entries = {**hub.store.tree(hub.store.commit_info(hub.head).tree)}
    raw = b"".join(b"%s %s\0%s" % (e.mode.encode(), e.name.encode(), bytes.fromhex(e.oid)) for e in entries.values())
    tree = editor.add("tree", b"40000 %s\0" % top.encode() + bytes.fromhex(oid) + raw)
    made = editor.add("commit", encode_commit(tree, (hub.head,), "A Person", 1, "deep\n"))
    hub.store._objects.update(editor.objects)
    hub.store._heads[SPACE] = made


def test_deep_directories_are_not_followed() -> None:
    """Walks and comparisons end at a depth that nothing of ghcoord's reaches, without recursion."""
    hub = Hub()
    hub.write(hub.transactor())
    base = Snapshot(hub.store, SPACE, hub.head)
    deep(hub, 3000, "a")
    present = Snapshot(hub.store, SPACE, hub.head)
    assert ["n", ROOT_RECORD] == [path for path, _ in present.walk()]
    told: list[str] = []
    assert [] == list(diff(hub.store, base, present, too_deep=told.append))
    assert ["/".join(["a", *"d" * (MAX_LEVELS - 1)])] == told
    walked = hub.transactor().transact([SPACE], lambda tx: list(tx.walk(SPACE, "")))
    assert ["n", ROOT_RECORD] == walked
    deep(hub, MAX_LEVELS - 2, "b")
    present = Snapshot(hub.store, SPACE, hub.head)
    assert "/".join(["b", *"d" * (MAX_LEVELS - 2), "f"]) in [path for path, _ in present.walk()]


def test_a_file_takes_the_place_of_a_directory() -> None:
    """In one change with the deletion of what was in it, in either order."""
    for order in (1, -1):
        editor = TreeEditor(lambda oid: {})
        changes = [("d/e/f", None), ("d/g", None), ("d", b"x")][::order]
        assert editor.apply(None, {"d": b"x"}) == editor.apply(None, dict(changes))
        with pytest.raises(Corrupt):
            editor.apply(None, dict([("d/e/f", b"y"), ("d", b"x")][::order]))
