"""Collecting: the contract on both drivers, and the local one beside writers, git, pushes and kills."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pygit2
import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import Corrupt, Denied, Unavailable, Unsupported
from ghcoord.store.base import Collected, Oid
from ghcoord.store.collect import Sweep
from ghcoord.store.inmemory import MemoryStore
from ghcoord.store.local import LocalStore
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.transact import Transactor
from ghcoord.testing.collect_contract import CollectContract, collect, history
from ghcoord.testing.contract import HubUnderTest, content
from ghcoord.testing.transact_contract import increment, value_of
from tests.store.gitrepo import DEFAULT_PREFIX, fsck, git, locks_left, make_hub, open_store, under_test
from tests.store.test_kill import die_at, drained, forked


class TestMemory(CollectContract):
    """The in-memory driver."""

    @pytest.fixture
    def hub(self) -> HubUnderTest:
        store = MemoryStore(time.time)
        return HubUnderTest(open=lambda: store, delete_space=lambda space: store._heads.pop(space))


class TestLocal(CollectContract):
    """The local driver."""

    @pytest.fixture
    def hub(self, tmp_path: Path) -> HubUnderTest:
        return under_test(make_hub(tmp_path / "hub.git"))


def fill(path: Path, commits: int = 20, space: str = "fleet") -> list[Oid]:
    """Commits to collect, oldest first, in directories large enough for differences."""
    hub, store = under_test(path), open_store(path)
    made = []
    for n in range(commits):
        changes = {f"d/{n % 3}/{i}": b"%d of %d" % (i, n) for i in range(n % 7, 40, 7)}
        made.append(hub.put(store, space, {**changes, "n": b"%d" % n}, n + 1))
    return made


class Filled(NamedTuple):
    """A hub of twenty commits, oldest first."""

    path: Path
    made: list[Oid]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """Made once, since a commit is flushed to disk."""
    path = make_hub(tmp_path_factory.mktemp("template") / "hub.git")
    return Filled(path, fill(path))


@pytest.fixture
def path(template: Filled, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(template.path, tmp_path / "hub.git", symlinks=True)


@pytest.fixture
def made(template: Filled) -> list[Oid]:
    """Its commits."""
    return template.made


def packs(path: Path) -> list[str]:
    return sorted(found.name for found in (path / "objects" / "pack").iterdir())


def when(stage: str, run: Callable[[], object]) -> Callable[[str, int], None]:
    """What to pass as ``tell``: runs ``run`` once, when the collection comes to ``stage``."""
    left = [run]

    def tell(what: str, count: int) -> None:
        if what == stage and left:
            left.pop()()

    return tell


def collect_telling(store: LocalStore, tell: Callable[[str, int], None], *cut: Oid) -> Collected:
    return store.collect(cut, dry_run=False, tell=tell)


# -- git


def test_git_lives_with_it(path: Path, made: list[Oid], tmp_path: Path) -> None:
    """Afterwards fsck is content, a new clone works, and pushes of a new and of an older clone arrive."""
    hub = under_test(path)
    git(tmp_path, "clone", "-q", "-b", "ghcoord/fleet", f"file://{path}", "older")
    hub.put(open_store(path), "fleet", {"later": b"1"}, 30)
    collect(open_store(path), made[10])
    fsck(path)
    git(tmp_path, "clone", "-q", "-b", "ghcoord/fleet", f"file://{path}", "newer")
    assert 11 == int(git(tmp_path / "newer", "rev-list", "--count", "HEAD"))
    for clone in ("newer", "older"):
        if clone == "older":
            git(tmp_path / clone, "pull", "-q", "--rebase")
        (tmp_path / clone / clone).write_text("by hand")
        git(tmp_path / clone, "add", "-A")
        git(tmp_path / clone, "commit", "-q", "-m", "by hand")
        git(tmp_path / clone, "push", "-q", "origin", "HEAD:ghcoord/fleet")
    files = content(open_store(path), open_store(path).heads()["fleet"])
    assert {b"by hand"} == {files["newer"], files["older"]}
    assert b"19" == files["n"]
    fsck(path)
    collect(open_store(path), made[15])
    assert files == content(open_store(path), open_store(path).heads()["fleet"])
    fsck(path)


def test_a_push_may_bring_back_what_was_cut(path: Path, made: list[Oid], tmp_path: Path) -> None:
    """A person restores files of a commit that is being collected while they push: nothing is missing afterwards."""
    git(tmp_path, "clone", "-q", "-b", "ghcoord/fleet", f"file://{path}", "clone")
    git(tmp_path / "clone", "checkout", "-q", made[2], "--", ".")
    git(tmp_path / "clone", "commit", "-q", "-am", "as it was")

    def push() -> None:
        git(tmp_path / "clone", "push", "-q", "origin", "HEAD:ghcoord/fleet")

    for stage in ("packing", "removing"):
        collect_telling(open_store(path), when(stage, push), made[-1])
        fsck(path)
        store = open_store(path)
        assert b"2" == content(store, store.heads()["fleet"])["n"]


def test_gits_own_gc_may_run_too(path: Path, made: list[Oid]) -> None:
    """Before, in the middle of it and afterwards, with summaries of its own."""
    git(path, "gc", "-q", "--prune=now")
    git(path, "multi-pack-index", "write")
    git(path, "commit-graph", "write", "--reachable")
    store = open_store(path)
    collect_telling(store, when("packing", lambda: git(path, "gc", "-q", "--prune=now")), made[5])
    assert made[:4:-1] == history(open_store(path), made[-1])
    fsck(path)
    collect_telling(store, when("removing", lambda: git(path, "repack", "-adq")), made[12])
    git(path, "gc", "-q", "--prune=now")
    fsck(path)
    assert b"19" == content(open_store(path), made[-1])["n"]


# -- beside others


def test_writers_go_on_at_every_stage(path: Path, made: list[Oid]) -> None:
    """What is committed while packs are written and merged, and what comes back from the cut past, is all there."""
    hub, writer = under_test(path), open_store(path)
    past = content(writer, made[1])
    expected: dict[str, bytes] = {}

    def write(stage: str) -> Callable[[], None]:
        def run() -> None:
            # Twenty commits: packs of before and after are merged with each other.
            for n in range(20):
                expected[f"{stage}/{n}"] = b"%d" % n
                hub.put(writer, "fleet", {f"{stage}/{n}": b"%d" % n}, 100 + n)
            hub.put(writer, "fleet", {"again": past["n"], **{f"old/{name}": data for name, data in past.items()}}, 200)

        return run

    store = open_store(path)
    for stage in ("packing", "removing"):
        collect_telling(store, when(stage, write(stage)), made[-1])
        fsck(path)
        files = content(open_store(path), open_store(path).heads()["fleet"])
        assert expected.items() <= files.items()
        assert past == {name.removeprefix("old/"): data for name, data in files.items() if name.startswith("old/")}


def test_one_at_a_time(path: Path, made: list[Oid]) -> None:
    """A second collection is refused while one runs, and the first one ends as if alone."""
    refused: list[str] = []

    def second() -> None:
        with pytest.raises(Unavailable) as error:
            collect(open_store(path), made[5])
        refused.append(error.value.message)

    done = collect_telling(open_store(path), when("packing", second), made[5])
    assert ["another gc of this hub is running: let it end"] == refused
    assert (15, 5) == (done.commits, done.commits_cut)


def test_one_that_waited_goes_by_what_the_other_left(path: Path, made: list[Oid]) -> None:
    """History that another run has cut, after this one was told where to, is not missed."""
    store = open_store(path)
    sweep = Sweep(path, store._refs, SystemRuntime(), store.raw, [made[5]], lambda: None, lambda what, count: None)
    collect(open_store(path), made[10])
    done = sweep.run(dry_run=False)
    assert (10, 0) == (done.commits, done.commits_cut)
    assert made[:9:-1] == history(open_store(path), made[-1])


def test_a_push_in_progress_postpones(path: Path, made: list[Oid]) -> None:
    """While git checks a push nothing is removed; what a killed push left a day ago stands in nobody's way."""
    folder = path / "objects" / "tmp_objdir-incoming-x1y2z3"
    folder.mkdir()
    done = collect(open_store(path), made[10])
    assert "a push is in progress" == done.postponed
    assert made[::-1] == history(open_store(path), made[-1])
    os.utime(folder, (time.time() - 90_000,) * 2)
    assert "" == collect(open_store(path), made[10]).postponed
    assert made[:9:-1] == history(open_store(path), made[-1])


def test_a_push_whose_branch_is_about_to_move_postpones(path: Path, made: list[Oid]) -> None:
    """What git has just moved in may count on what was cut, although no branch leads to it yet."""
    tree = git(path, "rev-parse", f"{made[3]}^{{tree}}").strip()
    pushed: list[Oid] = []

    def push() -> None:
        pushed.append(git(path, "commit-tree", "-p", made[-1], "-m", "back", tree).strip())

    done = collect_telling(open_store(path), when("packing", push), made[10])
    assert "a push is in progress" == done.postponed
    git(path, "update-ref", DEFAULT_PREFIX + "fleet", pushed[0])
    assert "" == collect(open_store(path), made[10]).postponed
    fsck(path)


def test_the_packs_become_one(path: Path, made: list[Oid]) -> None:
    """Afterwards one pack is left, and packs that somebody wants kept."""
    (path / "objects" / "pack" / "pack-0.keep").touch()
    collect(open_store(path), made[-1])
    assert ["pack", "idx", "keep"] == [name.rpartition(".")[2] for name in reversed(packs(path))]
    assert [made[-1]] == (path / "shallow").read_text().split()
    assert ["collecting", "lock"] == sorted(os.listdir(path / "ghcoord"))


def test_entries_of_any_mode_are_kept(path: Path) -> None:
    """Modes that git no longer writes count as git reads them, and a submodule's commit is not looked for here."""
    repository = pygit2.Repository(str(path))
    kinds = pygit2.enums.ObjectType

    def write(kind: pygit2.enums.ObjectType, data: bytes) -> str:
        return str(repository.odb.write(kind, data))

    blob, other = write(kinds.BLOB, b"kept"), write(kinds.BLOB, b"kept too")
    below = write(kinds.TREE, b"100664 file\0" + bytes.fromhex(other))
    lines = [b"120000 a\0" + bytes.fromhex(blob), b"00040000 b\0" + bytes.fromhex(below), b"160000 c\0" + b"1" * 20]
    tree = write(kinds.TREE, b"".join(lines))
    who = b"a <a@b> 1 +0000"
    text = f"tree {tree}\nparent {open_store(path).heads()['fleet']}\n".encode()
    head = write(kinds.COMMIT, text + b"author " + who + b"\ncommitter " + who + b"\n\nby hand\n")
    git(path, "update-ref", DEFAULT_PREFIX + "fleet", head)
    collect(open_store(path), head)
    store = open_store(path)
    assert [b"kept", b"kept too"] == [store.blob(blob), store.blob(other)]
    assert b"kept too" == Snapshot(store, "fleet", head).read("b/file")


# -- where it is not offered, and damage


@pytest.mark.parametrize("stage", ["packing", "removing"])
def test_a_tag_made_meanwhile_keeps_its_history(path: Path, made: list[Oid], stage: str) -> None:
    """What is named by hand while it is being collected stays, and it says so."""
    with pytest.raises(Unsupported, match="remove refs/tags/kept"):
        collect_telling(open_store(path), when(stage, lambda: git(path, "tag", "kept", made[3])), made[10])
    assert made[::-1] == history(open_store(path), made[-1])
    fsck(path)


def test_a_repository_with_more_than_a_hub_is_left_alone(path: Path, made: list[Oid], tmp_path: Path) -> None:
    """Other branches, reflogs and working folders may need what gc removes: it says so."""
    git(path, "update-ref", "refs/heads/main", made[3])
    with pytest.raises(Unsupported, match="remove refs/heads/main, or move the hub"):
        collect(open_store(path), made[10])
    git(path, "update-ref", "-d", "refs/heads/main")
    git(path, "-c", "core.logAllRefUpdates=always", "update-ref", DEFAULT_PREFIX + "x", made[3])
    with pytest.raises(Unsupported, match="git reflog expire"):
        collect(open_store(path), made[10])
    git(path, "reflog", "expire", "--expire=now", "--all")
    git(path, "worktree", "add", "-q", "-f", str(tmp_path / "tree"), "ghcoord/fleet")
    with pytest.raises(Unsupported):
        collect(open_store(path), made[10])
    assert made[::-1] == history(open_store(path), made[-1])
    ordinary = tmp_path / "ordinary"
    git(tmp_path, "init", "-q", "ordinary")
    with pytest.raises(Unsupported, match="'ghcoord export' and"):
        collect(LocalStore(ordinary, SystemRuntime()))


def test_a_damaged_hub_is_left_alone(path: Path, made: list[Oid]) -> None:
    """Where an object in use is missing nothing is removed: that would hide what happened."""
    git(path, "repack", "-adq")
    (pack,) = (path / "objects" / "pack").glob("*.pack")
    whole = pack.read_bytes()
    pack.chmod(0o644)
    pack.write_bytes(whole[: len(whole) // 2] + b"\0" * 40 + whole[len(whole) // 2 + 40 :])
    before = packs(path)
    with pytest.raises(Corrupt):
        collect(open_store(path), made[0])
    assert before == packs(path)
    assert not (path / "shallow").exists()
    pack.write_bytes(whole)
    collect(open_store(path), made[10])
    fsck(path)


def test_a_full_disk_loses_nothing(path: Path, made: list[Oid], monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so, nothing is left behind, and the next run works."""

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(Unavailable, match="nothing is lost: No space left"):
            collect(open_store(path), made[10])
    assert not (path / "ghcoord" / "collect").exists()
    fsck(path)
    assert 10 == collect(open_store(path), made[10]).commits_cut


def test_foreign_files_are_no_surprise(path: Path, made: list[Oid], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not remove files is told which."""

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(Denied):
            collect(open_store(path), made[10])
    collect(open_store(path), made[10])
    fsck(path)


# -- killed


def kill_at(path: Path, cut: Oid, step: int) -> int:
    """Collect in a child that is killed at its ``step``-th call; returns how it ended."""

    def run(pipe: int) -> None:
        store = open_store(path)
        die_at(step, torn=True)
        collect(store, cut)

    child, pipe = forked(run)
    drained(pipe)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("stride", [31, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_every_step(template: Filled, tmp_path: Path, stride: int) -> None:
    """A collection killed at any step leaves a whole hub that can be written to, and the next one ends its work."""
    made = template.made
    files = content(open_store(template.path), made[-1])
    step, status = 0, -1
    while status != 0:
        path = tmp_path / f"{step}.git"
        shutil.copytree(template.path, path)
        status = kill_at(path, made[10], step)
        assert status in (0, -signal.SIGKILL)
        store = open_store(path)
        assert files == content(store, made[-1]), step
        assert made[:9:-1] == history(store, made[-1])[:10], step
        Transactor(store, SystemRuntime()).transact(["fleet"], increment)
        fsck(path)
        done = collect(store, made[12])
        assert 9 == done.commits
        assert made[:11:-1] == history(open_store(path), store.heads()["fleet"])[1:], step
        assert 1 == value_of(open_store(path))
        assert [] == locks_left(path), step
        assert ["collecting", "lock"] == sorted(os.listdir(path / "ghcoord")), step
        shutil.rmtree(path)
        step += stride
    assert step > 60
