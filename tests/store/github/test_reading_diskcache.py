"""The disk cache: whole or not at all, bounded, private, and never a reason to fail."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from ghcoord.store.base import CommitInfo, Entry
from ghcoord.store.github.diskcache import LARGEST, DiskCache
from ghcoord.store.objects import Tree, object_id

INFO = CommitInfo("1" * 40, "2" * 40, ("3" * 40,), "wörker", 1_700_000_000, "title\n\nbody \ud83d\n")
TREE = Tree.of([Entry("a", "4" * 40, "100644"), Entry("b", "5" * 40, "40000")])
TREE_ID = object_id("tree", TREE.encode())
BLOB = b"\0any\xff"
BLOB_ID = object_id("blob", BLOB)


def filled(folder: Path) -> DiskCache:
    """A cache with one object of each kind."""
    cache = DiskCache(folder)
    cache.put_commit(INFO)
    cache.put_tree(TREE_ID, TREE)
    cache.put_blob(BLOB_ID, BLOB)
    return cache


def test_another_process_finds_what_was_put(tmp_path: Path) -> None:
    """Objects of each kind come out as they went in, and others are not there."""
    filled(tmp_path / "cache")
    cache = DiskCache(tmp_path / "cache")
    assert (INFO, BLOB) == (cache.commit(INFO.oid), cache.blob(BLOB_ID))
    tree = cache.tree(TREE_ID)
    assert tree is not None
    assert dict(TREE) == dict(tree)
    assert (None, None, None) == (cache.commit("9" * 40), cache.tree(BLOB_ID), cache.blob(TREE_ID))


def test_only_the_user_may_look(tmp_path: Path) -> None:
    """Folders and files are this user's alone, also where the folder was there before and open to all."""
    (tmp_path / "cache").mkdir(mode=0o755)
    filled(tmp_path / "cache")
    found = [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]
    assert {0o700} == {path.stat().st_mode & 0o777 for path in found if path.is_dir()}
    assert {0o600} == {path.stat().st_mode & 0o777 for path in found if path.is_file()}


@pytest.mark.parametrize("damage", [b"", b"x", b"\0" * 100])
def test_damaged_files_are_not_there(tmp_path: Path, damage: bytes) -> None:
    """Cut off, overwritten or changed in one place: it is as if they were not there."""
    cache = filled(tmp_path)
    for path in tmp_path.glob("*/*.*"):
        path.write_bytes(damage or path.read_bytes()[:-1])
    assert (None, None, None) == (cache.commit(INFO.oid), cache.tree(TREE_ID), cache.blob(BLOB_ID))


def test_damaged_files_are_replaced(tmp_path: Path) -> None:
    """Damage costs one request, not one in every process from then on."""
    cache = filled(tmp_path)
    for path in tmp_path.glob("*/*.*"):
        path.write_bytes(b"x")
    assert (None, None, None) == (cache.commit(INFO.oid), cache.tree(TREE_ID), cache.blob(BLOB_ID))
    cache = filled(tmp_path)
    assert (INFO, BLOB) == (cache.commit(INFO.oid), cache.blob(BLOB_ID))
    assert cache.tree(TREE_ID) is not None


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_of_this_user_is_not_read(tmp_path: Path, kind: str) -> None:
    """A commit is not proved by its id: links, pipes and what others put there are not looked into, nor waited for."""
    cache = filled(tmp_path / "cache")
    path = next((tmp_path / "cache").glob("*/*.commit"))
    path.rename(tmp_path / "elsewhere")
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert None is cache.commit(INFO.oid)


def test_files_of_others_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody put there while the folder was open to all is not read."""
    cache = filled(tmp_path)
    status = os.fstat

    def of_another(handle: int) -> os.stat_result:
        found = list(status(handle))
        found[4] += 1
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", of_another)
    assert None is cache.commit(INFO.oid)


def test_a_commit_of_another_id_is_not_believed(tmp_path: Path) -> None:
    """A file under another commit's name is not that commit."""
    cache = filled(tmp_path)
    kept = next(tmp_path.glob("*/*.commit"))
    kept.rename(kept.with_name("9" * 38 + ".commit"))
    assert cache.commit("11" + "9" * 38) is None


@pytest.mark.parametrize("text", [b"[]", b"{}", b"nothing", b"[1,2,3,4,5]"])
def test_a_commit_that_is_none_is_not_there(tmp_path: Path, text: bytes) -> None:
    """What a stranger put there with a checksum that fits is ignored, not crashed on."""
    from ghcoord.store.github.diskcache import _digest

    cache = filled(tmp_path)
    next(tmp_path.glob("*/*.commit")).write_bytes(_digest(INFO.oid, text) + b"\n" + text)
    assert cache.commit(INFO.oid) is None


def test_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    """Beyond the limit the oldest go; what was read lately stays, though it was written first."""
    cache = DiskCache(tmp_path, 40 * 4096)
    blobs = [b"%d" % number for number in range(36)]
    ids = [object_id("blob", data) for data in blobs]
    for oid, data in zip(ids, blobs, strict=True):
        cache.put_blob(oid, data)
    hours_ago = time.time() - 7200
    for age, path in enumerate(tmp_path.glob("*/*.blob")):
        os.utime(path, (hours_ago - age, hours_ago - age))
    reader = DiskCache(tmp_path, 40 * 4096)
    assert blobs[:3] == [reader.blob(oid) for oid in ids[:3]]
    for number in range(100, 110):
        data = b"%d" % number
        reader.put_blob(object_id("blob", data), data)
    left = list(tmp_path.glob("*/*.blob"))
    assert 20 < len(left) <= 40
    assert blobs[:3] == [reader.blob(oid) for oid in ids[:3]]


def test_short_processes_tidy_up_too(tmp_path: Path) -> None:
    """A process that writes one object looks at the whole when nobody has for an hour."""
    cache = DiskCache(tmp_path, 10 * 4096)
    (tmp_path / "tidied").write_bytes(b"")
    for number in range(9):
        (tmp_path / "00").mkdir(exist_ok=True)
        (tmp_path / "00" / f"{number}.blob").write_bytes(bytes(5 * 4096))
    cache.put_blob(BLOB_ID, BLOB)
    assert 9 == len(list((tmp_path / "00").iterdir()))
    os.utime(tmp_path / "tidied", (1, 1))
    DiskCache(tmp_path, 10 * 4096).put_tree(TREE_ID, TREE)
    assert 2 >= len(list((tmp_path / "00").iterdir()))


def test_huge_objects_are_not_kept(tmp_path: Path) -> None:
    """One object may not drive out all others."""
    cache = DiskCache(tmp_path)
    data = bytes(LARGEST + 1)
    cache.put_blob(object_id("blob", data), data)
    assert [] == list(tmp_path.glob("*/*"))


def test_where_nothing_can_be_kept_nothing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the way, another user's folder and a full disk are no error."""
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        assert filled(folder).blob(BLOB_ID) is None
    mine = filled(tmp_path / "mine")
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: 4_000_000)
        assert DiskCache(tmp_path / "mine").commit(INFO.oid) is None
    assert INFO == mine.commit(INFO.oid)

    def full(*of: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    cache = filled(tmp_path / "full")
    assert cache.blob(BLOB_ID) is None
    assert [] == [path for path in (tmp_path / "full").rglob("*") if path.is_file()]


def _hammer(folder: Path, seed: int) -> None:
    cache = DiskCache(folder, 30 * 4096)
    for turn in range(150):
        data = b"%d" % ((turn * 7 + seed) % 60)
        oid = object_id("blob", data)
        cache.put_blob(oid, data)
        found = cache.blob(oid)
        assert found in (None, data)


def test_many_processes_at_once(tmp_path: Path) -> None:
    """Processes that write, read and tidy the same folder get what they asked for, or nothing."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_hammer, args=(tmp_path, seed)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [0, 0, 0] == [process.exitcode for process in processes]
    assert 40 >= len(list(tmp_path.glob("*/*.blob")))
    assert [] == list(tmp_path.glob("*/tmp*"))
