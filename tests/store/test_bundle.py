"""Packs and bundles: git reads ours, we read git's, and whatever a stranger made of one is refused in one line."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from ghcoord.errors import Corrupt, TooLarge, UsageError
from ghcoord.store import packfile, unpack
from ghcoord.store.base import Entry, Oid
from ghcoord.store.bundle import write_bundle
from ghcoord.store.deltas import apply_delta, tree_delta
from ghcoord.store.inmemory import MemoryStore
from ghcoord.store.objects import encode_tree, object_id
from ghcoord.store.unbundle import load_bundle
from ghcoord.testing.contract import HubUnderTest, content
from tests.store.gitrepo import DEFAULT_PREFIX, fsck, git, make_hub, open_store, under_test


def silent(what: str, count: int) -> None:
    """Nobody looks."""


# -- differences


def some_tree(dice: random.Random, count: int) -> dict[str, Entry]:
    names = [f"{dice.randrange(10**6):06x}{'é' * dice.randrange(3)}" for _ in range(count)]
    return {
        name: Entry(name, f"{dice.getrandbits(160):040x}", dice.choice(["40000", "100644", "120000"])) for name in names
    }


@pytest.mark.parametrize("seed", range(10))
def test_a_difference_makes_the_tree_again(seed: int) -> None:
    """Whatever was changed, added or removed; and it is small when little was."""
    dice = random.Random(seed)
    before = some_tree(dice, dice.randrange(1, 400))
    after = dict(before)
    for name in dice.sample(sorted(before), dice.randrange(len(before) // 4 + 1)):
        del after[name]
    after |= some_tree(dice, dice.randrange(4))
    one, other = encode_tree(before), encode_tree(after)
    delta = tree_delta(one, other)
    assert delta is not None
    assert other == apply_delta(one, delta)
    assert tree_delta(one, one) is not None
    if len(before) > 100 and len(after.keys() ^ before.keys()) < 5:
        assert len(delta) < len(other) / 4


@pytest.mark.parametrize(
    "delta",
    [
        b"",
        b"\x03",
        b"\x04\x03\x90\x03",
        b"\x03\x03\x90",
        b"\x03\x03\x91\x02\x03",
        b"\x03\x03\x00abc",
        b"\x03\x03\x05abc",
        b"\x03\x02\x03abc",
        b"\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x03\x05\x90\x03",
    ],
)
def test_a_wrong_difference_is_refused(delta: bytes) -> None:
    """Cut off, with another base, copying from beyond it, of another size than it says."""
    with pytest.raises(Corrupt):
        apply_delta(b"abc", delta)


# -- there and back


def fill(path: Path, commits: int = 12) -> Path:
    hub, store = under_test(path), open_store(path)
    for n in range(commits):
        changes = {f"d/{n % 3}/{i}": b"%d of %d" % (i, n) for i in range(n % 7, 60, 7)}
        hub.put(store, "fleet", changes, n + 1)
    hub.put(store, "memory/a", {"big": os.urandom(300_000), "empty": b""})
    return path


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub with history, made once."""
    return fill(make_hub(tmp_path_factory.mktemp("template") / "hub.git"))


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(template, tmp_path / "hub.git")


def export(path: Path, file: Path) -> dict[str, Oid]:
    store = open_store(path)
    return write_bundle(store, file, DEFAULT_PREFIX, store.heads(), [], "fleet", silent).heads


def load(file: Path, folder: Path) -> dict[str, Oid]:
    return load_bundle(file, make_hub(folder), DEFAULT_PREFIX, silent)


def test_git_reads_ours(path: Path, tmp_path: Path) -> None:
    """git verifies it, clones it, and finds nothing wrong in the pack; differences were made."""
    made = export(path, tmp_path / "x.bundle")
    assert made == open_store(path).heads()
    git(path, "bundle", "verify", "-q", str(tmp_path / "x.bundle"))
    git(tmp_path, "clone", "-q", "--bare", str(tmp_path / "x.bundle"), "clone.git")
    assert made["fleet"] == git(tmp_path / "clone.git", "rev-parse", "HEAD").strip()
    fsck(tmp_path / "clone.git")
    assert load(tmp_path / "x.bundle", tmp_path / "copy.git") == made
    (pack,) = (tmp_path / "copy.git" / "objects" / "pack").glob("*.idx")
    said = git(tmp_path / "copy.git", "verify-pack", "-v", str(pack))
    assert "chain length" in said
    fsck(tmp_path / "copy.git")


def test_we_read_gits(path: Path, tmp_path: Path) -> None:
    """With differences of all kinds, of which git makes more than we do."""
    git(path, "repack", "-adfq", "--depth=50", "--window=50")
    git(path, "bundle", "create", "-q", str(tmp_path / "x.bundle"), "--all")
    heads = open_store(path).heads()
    assert heads == load(tmp_path / "x.bundle", tmp_path / "copy.git")
    fsck(tmp_path / "copy.git")
    assert content(open_store(path), heads["fleet"]) == content(open_store(tmp_path / "copy.git"), heads["fleet"])


def test_offsets_beyond_two_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index has a table for them; here the limit is lowered to check that git finds everything by it."""
    from array import array

    raw = [hashlib.sha1(bytes([n])).digest() for n in range(3)]
    index = packfile.encode_index(b"".join(raw), array("L", [1, 2, 3]), array("Q", [12, 1 << 31, 1 << 40]), b"d" * 20)
    places = {oid: at for at, oid in enumerate(sorted(raw))}
    near = struct.unpack_from(">3I", index, 8 + 1024 + 3 * 24)
    far = struct.unpack_from(">2Q", index, 8 + 1024 + 3 * 28)
    assert 12 == near[places[raw[0]]]
    assert {1 << 31, 1 << 40} == set(far)
    assert [1 << 31, 1 << 40] == [far[near[places[one]] & 0x7FFFFFFF] for one in raw[1:]]


def test_a_broken_export_leaves_the_file_before(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there stays until the new one is complete."""
    export(path, tmp_path / "x.bundle")
    before = (tmp_path / "x.bundle").read_bytes()

    def dies(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(packfile.PackWriter, "finish", dies)
    with pytest.raises(KeyboardInterrupt):
        export(path, tmp_path / "x.bundle")
    assert before == (tmp_path / "x.bundle").read_bytes()
    assert ["hub.git", "x.bundle"] == sorted(os.listdir(tmp_path))


# -- from strangers


def entry(kind: int, data: bytes, head: bytes = b"", size: int | None = None) -> bytes:
    return packfile._sized(kind, len(data) if size is None else size) + head + zlib.compress(data)


def bundle(*entries: bytes, heads: str | None = None, count: int | None = None, after: bytes = b"") -> bytes:
    body = b"PACK" + struct.pack(">II", 2, len(entries) if count is None else count) + b"".join(entries) + after
    names = f"{'0' * 40} {DEFAULT_PREFIX}meta\n" if heads is None else heads
    return b"# v2 git bundle\n" + names.encode() + b"\n" + body + hashlib.sha1(body).digest()


BLOB = object_id("blob", b"x")
TREE = encode_tree({"a": Entry("a", BLOB, "100644")})
COMMIT = f"tree {object_id('tree', TREE)}\nauthor a <a@b> 1 +0000\ncommitter a <a@b> 1 +0000\n\nx\n".encode()
HEAD = object_id("commit", COMMIT)
META = f"{HEAD} {DEFAULT_PREFIX}meta\n"
WHOLE = (entry(1, COMMIT), entry(2, TREE), entry(3, b"x"))


def with_commit(data: bytes) -> bytes:
    """A bundle whose only commit is ``data``."""
    return bundle(entry(1, data), *WHOLE[1:], heads=f"{object_id('commit', data)} {DEFAULT_PREFIX}meta\n")


def test_the_smallest_bundle(tmp_path: Path) -> None:
    """What the broken ones below are made of is sound itself."""
    (tmp_path / "x.bundle").write_bytes(bundle(*WHOLE, heads=META))
    assert {"meta": HEAD} == load(tmp_path / "x.bundle", tmp_path / "copy.git")
    fsck(tmp_path / "copy.git")


@pytest.mark.parametrize(
    ("data", "error", "why"),
    [
        (b"", UsageError, "is not a Git bundle"),
        (b"PK\x03\x04" + b"x" * 5000, UsageError, "is not a Git bundle"),
        (b"# v3 git bundle\n@object-format=sha256\n", UsageError, "of another version"),
        (b"# v2 git bundle\n", Corrupt, "its list of branches"),
        (b"# v2 git bundle\n" + b"x" * 10_000_000, Corrupt, "its list of branches"),
        (bundle(*WHOLE, heads=f"-{HEAD} x\n{META}"), UsageError, "counts on commits that it does not hold"),
        (bundle(*WHOLE, heads=f"{HEAD} refs/heads/main\n"), UsageError, "has the branch 'refs/heads/main'"),
        (bundle(*WHOLE, heads=f"{HEAD} {DEFAULT_PREFIX}../../x\n"), UsageError, "has the branch"),
        (bundle(*WHOLE, heads=f"{HEAD} {DEFAULT_PREFIX}x.lock\n"), UsageError, "has the branch"),
        (bundle(*WHOLE, heads=f"{HEAD} {DEFAULT_PREFIX}\n"), UsageError, "has the branch"),
        (bundle(*WHOLE, heads=META + f"{HEAD} {DEFAULT_PREFIX}meta/x\n"), Corrupt, "lies below another"),
        (bundle(*WHOLE, heads=META + f"{BLOB} {DEFAULT_PREFIX}meta\n"), Corrupt, "has the branch 'meta' twice"),
        (
            bundle(*WHOLE, heads="".join(f"{'0' * 40} {DEFAULT_PREFIX}a/{n}\n" for n in range(20_000))),
            Corrupt,
            "is missing",
        ),
        (with_commit(COMMIT.replace(b"author", b"parent not-an-id\nauthor", 1)), Corrupt, "is damaged: its tree"),
        (with_commit(b"tree abc" + COMMIT[COMMIT.index(b"\n") :]), Corrupt, "is damaged: its tree"),
        (with_commit(COMMIT[COMMIT.index(b"\n") + 1 :]), Corrupt, "is damaged: its tree"),
        (bundle(*WHOLE, heads=f"{HEAD[:-1]}g {DEFAULT_PREFIX}meta\n"), Corrupt, "its list of branches"),
        (bundle(*WHOLE)[:-1], Corrupt, "its checksum is another"),
        (bundle(*WHOLE, heads=META)[:110], Corrupt, "it ends before"),
        (bundle(*WHOLE), Corrupt, "is missing"),
        (bundle(*WHOLE[1:], heads=META), Corrupt, "is missing"),
        (bundle(*WHOLE[:2], heads=META), Corrupt, f"the blob {BLOB} is missing"),
        (bundle(WHOLE[0], WHOLE[2], heads=META), Corrupt, "is missing"),
        (bundle(*WHOLE, heads=f"{BLOB} {DEFAULT_PREFIX}meta\n"), Corrupt, "is a blob, not a commit"),
        (bundle(*WHOLE, heads=META, count=4), Corrupt, "ends in the middle"),
        (bundle(*WHOLE, heads=META, count=2**32 - 1), Corrupt, "more objects than it has room for"),
        (bundle(*WHOLE, heads=META, after=b"more"), Corrupt, "something stands behind"),
        (bundle(*WHOLE, WHOLE[0], heads=META), Corrupt, "twice"),
        (bundle(*WHOLE, entry(4, b"object"), heads=META), Corrupt, "tags or objects of a kind"),
        (bundle(*WHOLE, entry(5, b"?"), heads=META), Corrupt, "tags or objects of a kind"),
        (bundle(*WHOLE, entry(3, b"y" * 50, size=49), heads=META), Corrupt, "larger than it says"),
        (bundle(*WHOLE, entry(3, b"y" * 50, size=51), heads=META), Corrupt, "smaller than it says"),
        (bundle(*WHOLE, entry(3, b"", size=2**40), heads=META), TooLarge, "an object of 1099511627776 bytes"),
        (bundle(*WHOLE, b"\xbf" + b"\xff" * 30, heads=META), Corrupt, "an impossible size"),
        (bundle(*WHOLE, packfile._sized(3, 5) + b"garbage!", heads=META), Corrupt, "cannot be decompressed"),
        (bundle(*WHOLE, entry(7, b"\x01\x01\x01y", b"\x11" * 20), heads=META), Corrupt, "counts on objects"),
        (bundle(*WHOLE, entry(6, b"\x01\x01\x01y", b"\x7f"), heads=META), Corrupt, "counts on objects"),
        (bundle(*WHOLE, entry(6, b"\x01\x01\x01y", b"\x00"), heads=META), Corrupt, "counts on objects"),
        (bundle(*WHOLE, entry(6, b"", b"\xff\xff\xff\xff\xff\x7f"), heads=META), Corrupt, "has no base"),
        (
            bundle(*WHOLE, entry(7, b"\x01\x80\x80\x80\x80\x04", bytes.fromhex(BLOB)), heads=META),
            TooLarge,
            "an object of 1073741824 bytes",
        ),
        (bundle(*WHOLE, entry(7, b"\x02\x01\x01y", bytes.fromhex(BLOB)), heads=META), Corrupt, "another base"),
        (bundle(WHOLE[0], entry(2, TREE[:-1]), WHOLE[2], heads=META), Corrupt, "is missing"),
    ],
)
def test_what_strangers_send(tmp_path: Path, data: bytes, error: type[Exception], why: str) -> None:
    """One clear error that names the file, no branch, and never another exception."""
    file = tmp_path / "x.bundle"
    file.write_bytes(data)
    with pytest.raises(error, match=why) as raised:
        load(file, tmp_path / "copy.git")
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert {} == open_store(tmp_path / "copy.git").heads()


def test_a_damaged_tree_is_found(tmp_path: Path) -> None:
    """Also where its name is that of its damaged content."""
    bad = TREE[:-3]
    commit = COMMIT.replace(object_id("tree", TREE).encode(), object_id("tree", bad).encode())
    heads = f"{object_id('commit', commit)} {DEFAULT_PREFIX}meta\n"
    (tmp_path / "x.bundle").write_bytes(bundle(entry(1, commit), entry(2, bad), WHOLE[2], heads=heads))
    with pytest.raises(Corrupt, match=r"the tree \w+ is damaged"):
        load(tmp_path / "x.bundle", tmp_path / "copy.git")


def test_differences_may_not_take_all_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand large objects that all wait for one are refused before they are made."""
    monkeypatch.setattr(unpack, "MAX_HELD", 1_000_000)
    big = b"b" * 10_000
    base = bytes.fromhex(object_id("blob", big))
    waiting = [entry(7, b"\x90\x4e\x01\x01y", base) for _ in range(200)]
    (tmp_path / "x.bundle").write_bytes(bundle(*WHOLE, entry(3, big), *waiting, heads=META))
    with pytest.raises(TooLarge, match="more memory"):
        load(tmp_path / "x.bundle", tmp_path / "copy.git")


@pytest.fixture(scope="module")
def sound(template: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A bundle with differences in it."""
    file = tmp_path_factory.mktemp("sound") / "x.bundle"
    export(template, file)
    return file.read_bytes()


@pytest.mark.parametrize("seed", [*range(5), *[pytest.param(n, marks=pytest.mark.slow) for n in range(5, 150)]])
def test_any_byte_may_be_wrong(sound: bytes, tmp_path: Path, seed: int) -> None:
    """A bundle with bytes changed, cut or added, and its checksum made right, is refused or still whole."""
    dice = random.Random(seed)
    raw = bytearray(sound)
    begin = raw.index(b"PACK")
    change: Callable[[], None] = dice.choice(
        [
            lambda: raw.__setitem__(dice.randrange(begin + 12, len(raw) - 20), dice.randrange(256)),
            lambda: raw.__delitem__(slice(dice.randrange(begin, len(raw)), None)),
            lambda: raw.__setitem__(slice(begin + 30, begin + 30), dice.randbytes(dice.randrange(1, 9))),
        ]
    )
    change()
    body = bytes(raw[begin:-20])
    (tmp_path / "y.bundle").write_bytes(bytes(raw[:begin]) + body + hashlib.sha1(body).digest())
    try:
        load(tmp_path / "y.bundle", tmp_path / "copy.git")
    except (Corrupt, TooLarge):
        assert {} == open_store(tmp_path / "copy.git").heads()
    else:
        fsck(tmp_path / "copy.git")


def test_of_a_hub_in_memory(tmp_path: Path) -> None:
    """The bundle is made through the port."""
    import time

    store = MemoryStore(time.time)
    hub = HubUnderTest(open=lambda: store, delete_space=lambda space: None)
    head = hub.put(store, "meta", {"a": b"1"})
    write_bundle(store, tmp_path / "x.bundle", DEFAULT_PREFIX, store.heads(), [], "fleet", silent)
    assert {"meta": head} == load(tmp_path / "x.bundle", tmp_path / "copy.git")
