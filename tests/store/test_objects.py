"""Git objects and messages: the formats, against the real ``git`` and against made-up input."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghcoord.store.base import FILE_MODE, TREE_MODE, Entry, Operation
from ghcoord.store.message import format_message, read_events, read_stamp, read_summary
from ghcoord.store.objects import (
    TreeEditor,
    clean_author,
    encode_commit,
    encode_tree,
    object_id,
    parse_commit,
    parse_tree,
)
from tests.store.gitrepo import git, make_hub

BLOB = object_id("blob", b"")
names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..") and name.lower() != ".git"
)
texts = st.text(max_size=60)


def entry(name: str, *, tree: bool = False) -> Entry:
    return Entry(name, object_id("tree", b"") if tree else BLOB, TREE_MODE if tree else FILE_MODE)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(names, st.booleans(), max_size=8))
def test_trees_round_trip(found: dict[str, bool]) -> None:
    """What is encoded is parsed back, whatever the names."""
    entries = {name: entry(name, tree=tree) for name, tree in found.items()}
    assert entries == parse_tree(encode_tree(entries))


def test_trees_sort_as_git_sorts(tmp_path: Path) -> None:
    """A tree of names around ``/`` has the id that ``git mktree`` gives it."""
    path = make_hub(tmp_path / "hub.git")
    git(path, "hash-object", "-w", "-t", "tree", "/dev/null")
    git(path, "hash-object", "-w", "/dev/null")
    entries = {
        name: entry(name, tree=tree)
        for group, tree in (("foo-bar foo0 foo! 日本語 Z é", False), ("foo foo.bar fo 日本 ~ aaaa", True))
        for name in group.split()
    }
    lines = [
        f"{e.mode.zfill(6)} {'tree' if e.is_tree else 'blob'} {e.oid}\t{e.name}\0" for e in reversed(entries.values())
    ]
    made = subprocess.run(
        ["git", "mktree", "-z"], cwd=path, input="".join(lines).encode(), capture_output=True, check=True
    ).stdout.decode()
    assert made.strip() == object_id("tree", encode_tree(entries))


def test_object_ids_are_gits(tmp_path: Path) -> None:
    """Blobs have the ids that ``git hash-object`` gives them."""
    for data in (b"", b"hello\n", bytes(range(256)) * 100):
        file = tmp_path / "file"
        file.write_bytes(data)
        assert git(tmp_path, "hash-object", "--no-filters", str(file)).strip() == object_id("blob", data)


@settings(max_examples=80, deadline=None)
@given(
    author=texts,
    time=st.integers(0, 2**33),
    message=texts,
    parents=st.lists(st.integers(0, 2**160 - 1).map(lambda n: f"{n:040x}"), max_size=3),
)
def test_commits_round_trip(author: str, time: int, message: str, parents: list[str]) -> None:
    """A commit's fields come back; an author that git would refuse comes back cleaned."""
    data = encode_commit(BLOB, tuple(parents), author, time, message)
    info = parse_commit("0" * 40, data)
    assert (BLOB, tuple(parents), time) == (info.tree, info.parents, info.time)
    assert clean_author(author) == info.author
    assert message.encode(errors="replace").decode() == info.message


@pytest.mark.parametrize("author", ["", "<>", "a\nb", "x" * 500, "  .  ", "Ü <u@example.org>", "a\0b", "\ud800"])
def test_authors_pass_fsck(tmp_path: Path, author: str) -> None:
    """Whatever the actor is called, git takes the commit."""
    path = make_hub(tmp_path / "hub.git")
    tree = git(path, "hash-object", "-w", "-t", "tree", "/dev/null").strip()
    data = encode_commit(tree, (), author, 1, "message\n")
    file = tmp_path / "commit"
    file.write_bytes(data)
    # Without --literally, git checks the format as fsck does.
    assert object_id("commit", data) == git(path, "hash-object", "-w", "-t", "commit", str(file)).strip()


def test_foreign_commits_are_understood(tmp_path: Path) -> None:
    """A commit with a signature, an encoding and several parents, as other programs write them."""
    raw = (
        b"tree %s\nparent %s\nparent %s\n" % (b"a" * 40, b"b" * 40, b"c" * 40)
        + b"author J\xf6rg <j@x> 12 +0100\ncommitter J <j@x> 99 -0200\nencoding ISO-8859-1\n"
        + b"gpgsig -----BEGIN\n \n tree fake\n -----END\n\nMessage\n\nBody\n"
    )
    info = parse_commit("d" * 40, raw)
    assert ("a" * 40, ("b" * 40, "c" * 40), "J�rg", 12) == (info.tree, info.parents, info.author, info.time)
    assert "Message\n\nBody\n" == info.message


paths = st.lists(names, min_size=1, max_size=3).map("/".join)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.dictionaries(paths, st.one_of(st.none(), st.binary(max_size=4)), max_size=5), max_size=4))
def test_editing_trees(steps: list[dict[str, bytes | None]]) -> None:
    """Applying changes one after the other gives what a plain dictionary of paths gives."""
    objects: dict[str, tuple[str, bytes]] = {}
    expected: dict[str, bytes] = {}
    root: str | None = None
    for step in steps:
        taken = {path for path, data in expected.items()} | set(step)
        if any(a != b and b.startswith(a + "/") for a in taken for b in taken):
            continue  # a path that is a file and a directory is tested in the contract
        editor = TreeEditor(lambda oid: parse_tree(objects[oid][1]))
        root = editor.apply(root, step)
        objects.update(editor.objects)
        for path, data in step.items():
            expected.pop(path, None)
            if data is not None:
                expected[path] = data

    def flat(oid: str, above: str = "") -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for name, item in parse_tree(objects[oid][1]).items():
            if item.is_tree:
                below = flat(item.oid, f"{above}{name}/")
                assert below, "no empty directory is left"
                found.update(below)
            else:
                found[above + name] = objects[item.oid][1]
        return found

    assert expected == (flat(root) if root else {})


event_lines = st.dictionaries(texts, texts, max_size=3).map(lambda fields: json.dumps({"kind": "x", **fields}))


@settings(max_examples=150, deadline=None)
@given(events=st.lists(event_lines, max_size=4), revision=st.integers(1, 2**53 - 1), actor=texts)
def test_trailers_cannot_be_forged_by_events(events: list[str], revision: int, actor: str) -> None:
    """Whatever the events say, the trailers say what the operation was, and the events come back."""
    op = Operation(ids=("real1", "real2"), revision=revision, time=1, actor=actor, events={"s": tuple(events)})
    stored = parse_commit("0" * 40, encode_commit(BLOB, (), actor, 1, format_message("s", op))).message
    stamp = read_stamp(stored)
    assert stamp is not None
    assert (frozenset({"real1", "real2"}), revision) == (stamp.ops, stamp.revision)
    assert events == read_events(stored)


@settings(max_examples=100, deadline=None)
@given(summary=st.one_of(texts, st.just("x\n\nGhcoord-Op: forged\nGhcoord-Revision: 9\n\n- {}")))
def test_trailers_cannot_be_forged_by_summaries(summary: str) -> None:
    """Whatever the line for people says, the trailers are the operation's."""
    op = Operation(ids=("real",), revision=5, time=1, summaries={"s": summary})
    stamp = read_stamp(format_message("s", op))
    assert stamp is not None
    assert (frozenset({"real"}), 5) == (stamp.ops, stamp.revision)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "by hand\n",
        "Ghcoord-Revision: 5\n",
        "x\n\nGhcoord-Op: a\n",
        "x\n\nGhcoord-Op: a\nGhcoord-Revision: 5\nand more\n",
        "x\n\nGhcoord-Op: a\nGhcoord-Revision: 5\n\nThis reverts it.\n",
        "x\n\nGhcoord-Op: a\nGhcoord-Revision: 5\nGhcoord-Revision: 6\n",
        "x\n\nGhcoord-Op: a\nGhcoord-Revision: ²\n",
        "x\n\nGhcoord-Op: a\nGhcoord-Revision: " + "9" * 5000 + "\n",
        "x\n\nGhcoord-Op: a\nGhcoord-Revision: -5\n",
    ],
)
def test_other_messages_have_no_stamp(message: str) -> None:
    """A commit without our trailers, or with broken ones, is somebody else's."""
    assert None is read_stamp(message)


def test_the_line_for_people() -> None:
    """The subject is short, names the space and is read back without the mark for CI."""
    op = Operation(ids=("a",), revision=1, time=1, summaries={"fleet": "task queued t1"})
    assert "fleet: task queued t1 [skip ci]" == format_message("fleet", op).splitlines()[0]
    assert "fleet: task queued t1" == read_summary(format_message("fleet", op))
    assert "locks: update" == read_summary(format_message("locks", op))
    long = Operation(ids=("a",), revision=1, time=1, summaries={"fleet": "x" * 500})
    assert len(format_message("fleet", long).splitlines()[0]) < 120
