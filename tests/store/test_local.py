"""The local driver: both contracts, and living with git, with other users and with other processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import Corrupt, Denied, NotFound, Unavailable, Unsupported, UsageError
from ghcoord.store import localrefs, packs
from ghcoord.store.local import LocalStore, create_repository
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.transact import Transactor
from ghcoord.testing.contract import HubUnderTest, StoreContract, content
from ghcoord.testing.transact_contract import TransactContract, increment, value_of
from tests.store.gitrepo import DEFAULT_PREFIX, fsck, git, locks_left, make_hub, open_store, under_test

ROOT = Path(__file__).resolve().parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")


class TestLocalStore(StoreContract, TransactContract):
    """Both contracts."""

    @pytest.fixture
    def hub(self, tmp_path: Path) -> HubUnderTest:
        return under_test(make_hub(tmp_path / "hub.git"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A hub's repository."""
    return make_hub(tmp_path / "hub.git")


@pytest.fixture
def hub(path: Path) -> HubUnderTest:
    return under_test(path)


def child(*code: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python ``code`` in another process, as another user where one is given."""
    drop = [f"import os; os.setgroups([]); os.setgid({user}); os.setuid({user})"] if user else []
    # Everything is imported before the user changes: the new one may not read our packages.
    first = (
        "import encodings.ascii, pygit2; from pathlib import Path; from ghcoord.clock import SystemRuntime\n"
        "from ghcoord.store.local import LocalStore, create_repository\n"
        "from ghcoord.errors import Denied; from ghcoord.store.base import Operation\n"
        "pygit2.settings.owner_validation = False"
    )
    return subprocess.run(
        [sys.executable, "-c", "\n".join([first, *drop, *code])],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# -- opening


def test_not_a_repository(tmp_path: Path) -> None:
    """A missing path and a folder that is no repository are not found, with the fix named."""
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(NotFound, match="ghcoord init"):
            LocalStore(path, SystemRuntime())


def test_creating(tmp_path: Path) -> None:
    """A hub is made in a new or empty folder, an existing repository is taken, anything else is refused."""
    made = create_repository(tmp_path / "new" / "hub.git", DEFAULT_PREFIX + "fleet")
    assert made == create_repository(made, DEFAULT_PREFIX + "fleet")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="new folder"):
        create_repository(tmp_path / "full", DEFAULT_PREFIX + "fleet")


def test_a_repository_with_a_work_tree(tmp_path: Path) -> None:
    """A hub may live in an ordinary repository beside its own branches."""
    git(tmp_path, "init", "-q", "work")
    hub = under_test(tmp_path / "work")
    head = hub.put(hub.open(), "fleet", {"a": b"1"})
    assert head == git(tmp_path / "work", "rev-parse", DEFAULT_PREFIX + "fleet").strip()


def test_sha256_is_unsupported(tmp_path: Path) -> None:
    """A SHA-256 repository is refused when it is opened."""
    git(tmp_path, "init", "-q", "--bare", "--object-format=sha256", "hub.git")
    with pytest.raises(Unsupported):
        open_store(tmp_path / "hub.git")


@needs_root
def test_unwritable(hub: HubUnderTest, path: Path, tmp_path: Path) -> None:
    """Another user can read a hub that is not theirs; writing to it and making one are denied."""
    head = hub.put(hub.open(), "fleet", {"a": b"1"})
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    result = child(
        f"store = LocalStore(Path({str(path)!r}), SystemRuntime())",
        "heads = store.heads()",
        "print(heads['fleet'], len(store.tree(store.commit_info(heads['fleet']).tree)))",
        "try: store.commit(heads, {'fleet': {'a': b'2'}}, Operation(ids=('x',), revision=2, time=1))",
        "except Denied as error: print('denied', error)",
        f"try: create_repository(Path({str(tmp_path / 'other.git')!r}), 'refs/heads/x')",
        "except Denied as error: print('denied', error)",
        user=65534,
    )
    assert "" == result.stderr
    lines = result.stdout.splitlines()
    assert [f"{head} 1", "denied", "denied"] == [lines[0], *(line.split()[0] for line in lines[1:])]


@needs_root
@pytest.mark.parametrize("unwritable", ["refs", "objects/pack"])
def test_partly_unwritable(hub: HubUnderTest, path: Path, tmp_path: Path, unwritable: str) -> None:
    """A hub of which only a part may be written denies the commit and is left as it was."""
    head = hub.put(hub.open(), "fleet", {"a": b"1"})
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    for folder, _, files in os.walk(path):
        os.chown(folder, 65534, 65534)
        for name in files:
            os.chown(Path(folder) / name, 65534, 65534)
    for folder, _, _ in os.walk(path / unwritable):
        os.chown(folder, 0, 0)
    result = child(
        f"store = LocalStore(Path({str(path)!r}), SystemRuntime())",
        "try: store.commit(store.heads(), {'fleet': {'a': b'2'}}, Operation(ids=('x',), revision=2, time=1))",
        "except Denied as error: print('denied')",
        user=65534,
    )
    assert ("denied\n", "") == (result.stdout, result.stderr)
    os.chown(path, 0, 0)
    assert {"fleet": head} == hub.open().heads()
    assert [] == locks_left(path)


# -- beside git


def test_a_lock_of_git_is_respected(hub: HubUnderTest, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While git holds a branch's lock, writing it fails with that path, and other spaces go on at once."""
    monkeypatch.setattr(localrefs, "GIT_LOCK_TIMEOUT", 0.3)
    store = hub.open()
    old = {space: hub.put(store, space, {"a": b"1"}) for space in ("fleet", "locks")}
    lock = path / (DEFAULT_PREFIX + "fleet.lock")
    lock.touch()
    with pytest.raises(Unavailable, match=r"ghcoord/fleet\.lock"):
        hub.put(store, "fleet", {"a": b"2"})
    started = time.monotonic()
    head = hub.put(store, "locks", {"a": b"2"})
    assert time.monotonic() - started < 1
    assert {"fleet": old["fleet"], "locks": head} == store.heads()
    assert lock.exists(), "a lock that is not ours is not ours to remove"
    with pytest.raises(Unavailable):
        store.commit({**old, "locks": head}, {"fleet": {"a": b"2"}, "locks": {"a": b"3"}}, hub.op())
    assert head == store.heads()["locks"]
    lock.unlink()
    hub.put(store, "fleet", {"a": b"3"})
    assert [] == locks_left(path)


def test_a_lock_of_a_dead_writer_is_removed(hub: HubUnderTest, path: Path) -> None:
    """A branch's lock that is a link to a file of ours was left by a killed writer and goes."""
    store = hub.open()
    hub.put(store, "fleet", {"a": b"1"})
    own = path / "ghcoord" / ("ref-" + (DEFAULT_PREFIX + "fleet").replace("/", ":"))
    own.write_text("0" * 40)
    os.link(own, path / (DEFAULT_PREFIX + "fleet.lock"))
    hub.put(store, "locks", {"a": b"1"})
    assert [] == locks_left(path)
    assert not own.exists()


def test_packed_refs_are_read(hub: HubUnderTest, path: Path) -> None:
    """Branches that git packed are read, compared, moved and kept apart from newer loose ones."""
    store = hub.open()
    heads = {space: hub.put(store, space, {"a": b"1"}) for space in ("fleet", "locks", "memory/a")}
    git(path, "pack-refs", "--all", "--prune")
    assert not (path / (DEFAULT_PREFIX + "fleet")).exists()
    assert heads == store.heads() == hub.open().heads()
    heads["fleet"] = hub.put(store, "fleet", {"a": b"2"})
    assert heads == store.heads() == hub.open().heads()
    hub.delete_space("locks")
    del heads["locks"]
    assert heads == store.heads()
    fsck(path)


def test_long_names_of_spaces(hub: HubUnderTest) -> None:
    """A space whose name takes the 180 characters that names are encoded to, many of them escapes."""
    store = hub.open()
    name = "memory/" + "%e6" * 60
    head = hub.put(store, name, {"a": b"1"})
    assert {name: head} == store.heads()
    hub.check()


def test_a_person_pushes(hub: HubUnderTest, path: Path, tmp_path: Path) -> None:
    """A clone can edit a record and push; writers on both sides lose nothing."""
    transactor = Transactor(hub.open(), SystemRuntime())
    transactor.transact(["fleet"], increment)
    git(tmp_path, "clone", "-q", str(path), "clone")
    clone = tmp_path / "clone"
    (clone / "count").write_text("41")
    (clone / "note é.txt").write_text("by hand")
    git(clone, "add", ".")
    git(clone, "commit", "-q", "-m", "by hand")
    git(clone, "push", "-q")
    assert 42 == transactor.transact(["fleet"], increment)
    store = open_store(path)
    assert b"by hand" == Snapshot(store, "fleet", store.heads()["fleet"]).read("note é.txt")
    assert "42" == git(path, "show", DEFAULT_PREFIX + "fleet:count")
    git(clone, "pull", "-q", "--ff-only")
    assert "42" == (clone / "count").read_text()
    fsck(path)


def test_damage_is_reported(hub: HubUnderTest, path: Path) -> None:
    """A branch that holds no object id and an object that is gone are corruption, not emptiness."""
    head = hub.put(hub.open(), "fleet", {"a": b"1"})
    ref = path / (DEFAULT_PREFIX + "fleet")
    ref.write_text("")
    with pytest.raises(Corrupt, match="update-ref"):
        hub.open().heads()
    ref.write_text(head + "\n")
    shutil.rmtree(path / "objects" / "pack")
    (path / "objects" / "pack").mkdir()
    with pytest.raises(Corrupt, match="fsck"):
        hub.open().commit_info(head)


def test_links_are_not_followed(hub: HubUnderTest, path: Path, tmp_path: Path) -> None:
    """A symbolic link that somebody pushed is no file of the space, and survives our commits."""
    hub.put(hub.open(), "fleet", {"a": b"1"})
    git(tmp_path, "clone", "-q", str(path), "clone")
    (tmp_path / "clone" / "link").symlink_to("/etc/passwd")
    git(tmp_path / "clone", "add", ".")
    git(tmp_path / "clone", "commit", "-q", "-m", "a link")
    git(tmp_path / "clone", "push", "-q")
    store = hub.open()
    head = hub.put(store, "fleet", {"a": b"2"})
    assert {"a": b"2"} == content(store, head)
    assert None is Snapshot(store, "", head).read("link")
    assert "120000" in git(path, "ls-tree", head, "link")


# -- packs


def test_merging_packs_keeps_everything(hub: HubUnderTest, path: Path) -> None:
    """Packs are merged in tiers, few are left, and every object of every commit is still there."""
    store = hub.open()
    heads = [hub.put(store, "fleet", {f"d/{n}": b"%d" % n, "n": b"%d" % n}) for n in range(packs.FAN_IN**2 + 20)]
    names = [found.name for found in (path / "objects" / "pack").glob("*.idx")]
    assert len(names) < 3 * packs.FAN_IN
    assert {"pack-g0", "pack-g1", "pack-g2"} >= {name[:7] for name in names} > {"pack-g0"}
    fresh = open_store(path)
    for number in (0, 1, 15, 16, 255, 256, len(heads) - 1):
        assert b"%d" % number == Snapshot(fresh, "", heads[number]).read("n")
    assert len(heads) == int(git(path, "rev-list", "--count", heads[-1]))
    fsck(path)


def test_large_packs_are_left_alone(hub: HubUnderTest, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs beyond the size that is merged stay as they are: an index cannot address 2 GiB, nor should a lock wait."""
    monkeypatch.setattr(packs, "MAX_MERGED", 10_000)
    store = hub.open()
    for n in range(packs.FAN_IN + 4):
        hub.put(store, "fleet", {"big": os.urandom(20_000), "n": b"%d" % n})
    assert packs.FAN_IN + 4 == len(list((path / "objects" / "pack").glob("pack-g0-*.pack")))
    for n in range(packs.FAN_IN):
        hub.put(store, "locks", {"n": b"%d" % n})
    assert 1 == len(list((path / "objects" / "pack").glob("pack-g1-*.pack")))
    fsck(path)


def test_leftovers_of_killed_writers_are_swept(hub: HubUnderTest, path: Path) -> None:
    """Temporary files and packs without an index are removed by the next commit; foreign packs are not."""
    folder = path / "objects" / "pack"
    mine = [folder / f"ghcoord-pack-g0-{'a' * 40}.pack.tmp", folder / f"pack-g0-{'b' * 40}.pack"]
    other = folder / f"tmp_pack_{'c' * 6}"
    for file in (*mine, other):
        file.write_bytes(b"PACK")
    hub.put(hub.open(), "fleet", {"a": b"1"})
    assert [False, False, True] == [file.exists() for file in (*mine, other)]


def test_gc_between_a_pack_and_its_index_deletes_nothing(
    hub: HubUnderTest, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``git gc`` that sees a commit's pack but not yet its index leaves the pack where it is."""
    store = hub.open()
    hub.put(store, "fleet", {"a": b"1"})
    rename = os.rename
    collected = 0

    def renaming(source: Path, target: Path) -> None:
        nonlocal collected
        if str(target).endswith(".idx"):
            git(path, "gc", "-q", "--prune=now")
            collected += 1
        rename(source, target)

    monkeypatch.setattr("os.rename", renaming)
    head = hub.put(store, "fleet", {"a": b"2"})
    assert 1 == collected
    assert "2" == git(path, "rev-list", "--count", head).strip()
    assert [] == [each for each in os.listdir(path / "objects" / "pack") if each.endswith(".keep")]
    fsck(path)


def test_readers_live_through_merging_and_gc(hub: HubUnderTest, path: Path) -> None:
    """A reader in another process reads on, old commits too, while packs are merged and git collects garbage."""
    store = hub.open()
    first = hub.put(store, "fleet", {f"d/{n}": b"%d" % n for n in range(20)})
    reader = subprocess.Popen(
        [sys.executable, "-c", _READER, str(path), first],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert reader.stdout is not None
        assert "reading\n" == reader.stdout.readline()
        stop = threading.Event()
        collected: list[bool] = []

        def collect() -> None:
            try:
                for _ in range(60):  # git itself may give up while packs come and go, and is run again then
                    with contextlib.suppress(AssertionError):
                        git(path, "gc", "-q")
                        collected.append(True)
                    if len(collected) == 3:
                        break
            finally:
                stop.set()

        collector = threading.Thread(target=collect)
        collector.start()
        written = 0
        while not stop.is_set() or written < 40:
            hub.put(store, "fleet", {"n": b"%d" % written, f"d/{written % 7}": b"x%d" % written})
            written += 1
        collector.join(60)
        assert 3 == len(collected)
        out, _ = reader.communicate("stop\n", timeout=60)
    finally:
        reader.kill()
        reader.wait()
    assert 0 == reader.returncode
    assert int(out.split()[-1]) >= 1, "rounds read"
    assert written + 1 == int(git(path, "rev-list", "--count", store.heads()["fleet"]))
    fsck(path)


_READER = """
import sys, select
from pathlib import Path
from ghcoord.clock import SystemRuntime
from ghcoord.store.local import LocalStore
from ghcoord.store.snapshot import Snapshot
store = LocalStore(Path(sys.argv[1]), SystemRuntime())
rounds = 0
print("reading", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    head = store.heads()["fleet"]
    for oid in (sys.argv[2], head):
        files = {name: store.blob(entry.oid) for name, entry in Snapshot(store, "", oid).walk()}
        assert len(files) >= 20, files
    fresh = LocalStore(Path(sys.argv[1]), SystemRuntime())
    assert files == {name: fresh.blob(entry.oid) for name, entry in Snapshot(fresh, "", head).walk()}
    rounds += 1
print(rounds)
"""


@pytest.mark.slow
def test_heads_survive_pack_refs(hub: HubUnderTest, path: Path) -> None:
    """No reading misses a space or shows an older state while git moves the branches to ``packed-refs``."""
    transactor = Transactor(hub.open(), SystemRuntime())
    names = ["fleet", "locks"]
    for name in names:
        transactor.transact([name], lambda tx, name=name: increment(tx, name))  # type: ignore[misc]
    stop = threading.Event()
    missed: list[object] = []

    def read() -> None:
        store = open_store(path)
        last = 0
        while not stop.is_set():
            heads = store.heads()
            if set(names) != set(heads):
                missed.append(heads)
                continue
            value = int(Snapshot(store, "", heads["fleet"]).read("count") or b"0")
            if value < last:
                missed.append((value, last))
            last = value

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(25):
            transactor.transact(["fleet"], increment)
            git(path, "pack-refs", "--all", "--prune")
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert [] == missed
    assert 26 == value_of(open_store(path))


def test_denied_names_the_folder(hub: HubUnderTest, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system refuses to write the pack, the error is ``Denied`` and names the place."""

    def refuse(folder: Path, objects: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ghcoord.store.local.write_pack", refuse)
    with pytest.raises(Denied, match="objects/pack"):
        hub.put(hub.open(), "fleet", {"a": b"1"})
    assert {} == hub.open().heads()


def test_a_full_disk(hub: HubUnderTest, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full, the commit is unavailable, nothing changed, and later commits go through."""
    store = hub.open()
    head = hub.put(store, "fleet", {"a": b"1"})
    write = os.write

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Unavailable, match="No space left"):
        store.commit({"fleet": head}, {"fleet": {"a": b"2"}}, hub.op())
    monkeypatch.setattr(os, "write", write)
    assert {"fleet": head} == store.heads()
    hub.put(store, "fleet", {"a": b"3"})
    assert [] == locks_left(path)
    fsck(path)
