"""The remote driver beside people, other processes, strange servers, and damage to its copy."""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ghcoord.bootstrap import create
from ghcoord.clock import SystemRuntime
from ghcoord.errors import Conflict, Denied, NotFound, OutcomeUnknown, Unavailable, Unsupported
from ghcoord.store.base import Operation
from ghcoord.store.remote import upkeep
from ghcoord.store.remote.driver import RemoteStore
from ghcoord.store.transact import Transactor
from ghcoord.testing.contract import HubUnderTest, content, in_threads
from ghcoord.testing.transact_contract import increment, value_of
from tests.store.gitrepo import DEFAULT_PREFIX, fsck, git
from tests.store.remote.hubs import make_bare, open_remote, under_test

ROOT = Path(__file__).resolve().parents[3]
SLOW = pytest.mark.slow


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The server's repository."""
    return make_bare(tmp_path / "srv" / "hub.git")


@pytest.fixture
def url(path: Path) -> str:
    return f"git+file://{path}"


@pytest.fixture
def hub(path: Path, url: str, tmp_path: Path) -> HubUnderTest:
    return under_test(path, url, tmp_path / "cache")


def hook(path: Path, name: str, *lines: str) -> None:
    """Let the server run a hook."""
    file = path / "hooks" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    file.chmod(0o755)


# -- what is there


def test_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    """It is not found, with the fix named, and stays missing."""
    store = open_remote(f"git+file://{tmp_path}/no.git", tmp_path / "cache")
    with pytest.raises(NotFound, match="git init --bare"):
        store.heads()
    assert not (tmp_path / "no.git").exists()


def test_only_spaces_are_listed(hub: HubUnderTest, path: Path) -> None:
    """Other branches, tags and refs with strange names are no spaces."""
    head = hub.put(hub.open(), "memory/x", {"a": b"1"})
    for ref in ("refs/heads/main", "refs/tags/v1", DEFAULT_PREFIX + "ü", DEFAULT_PREFIX + "a$b", "refs/ghcoord/fleet"):
        git(path, "update-ref", ref, head)
    assert {"memory/x": head} == hub.open().heads()


def test_another_prefix(path: Path, url: str, tmp_path: Path) -> None:
    """Refs outside of branches work as well, and two hubs in one repository do not see each other."""
    one = under_test(path, url, tmp_path / "cache", prefix="refs/ghcoord/")
    two = under_test(path, url, tmp_path / "cache")
    head = one.put(one.open(), "fleet", {"a": b"1"})
    assert ({"fleet": head}, {}) == (one.open().heads(), two.open().heads())
    assert head == git(path, "rev-parse", "refs/ghcoord/fleet").strip()


def test_a_repository_with_its_own_branches(hub: HubUnderTest, path: Path, tmp_path: Path) -> None:
    """A hub may be made in a repository that is filled already."""
    git(tmp_path, "init", "-q", "work")
    git(tmp_path / "work", "commit", "-q", "--allow-empty", "-m", "one")
    git(tmp_path / "work", "push", "-q", str(path), "HEAD:refs/heads/main")
    store = hub.open()
    assert {} == store.heads()
    assert {"fleet": hub.put(store, "fleet", {"a": b"1"})} == hub.open().heads()


def test_a_branch_in_the_way(hub: HubUnderTest, path: Path) -> None:
    """A branch called as the prefix is named, and what to do about it."""
    head = hub.put(hub.open(), "fleet", {"a": b"1"})
    git(path, "update-ref", "refs/heads/ghcoord2", head)
    store = under_test(path, f"git+file://{path}", path.parent / "cache", prefix="refs/heads/ghcoord2/").open()
    with pytest.raises(Unsupported, match="prefix"):
        store.commit({"fleet": None}, {"fleet": {"a": b"1"}}, hub.op())


def test_sha256(tmp_path: Path) -> None:
    """A SHA-256 repository is refused."""
    git(tmp_path, "init", "-q", "--bare", "--object-format=sha256", "hub.git")
    with pytest.raises(Unsupported, match="SHA-256"):
        Transactor(open_remote(f"git+file://{tmp_path}/hub.git", tmp_path / "cache"), SystemRuntime()).transact(
            ["fleet"], increment
        )


def test_no_git(url: str, tmp_path: Path) -> None:
    """Without the program the hub is unsupported, with the fix."""
    with pytest.raises(Unsupported, match="install git"):
        open_remote(url, tmp_path / "cache", environment={"PATH": str(tmp_path)}).heads()


def test_history_that_was_replaced(hub: HubUnderTest, path: Path) -> None:
    """A branch set back by force, or deleted, is seen as it is."""
    store = hub.open()
    heads = [hub.put(store, "fleet", {"n": b"%d" % n}) for n in range(3)]
    git(path, "update-ref", DEFAULT_PREFIX + "fleet", heads[0])
    assert {"fleet": heads[0]} == store.heads()
    other = store.commit({"fleet": heads[0]}, {"fleet": {"n": b"other"}}, hub.op())
    assert other == hub.open().heads()
    hub.delete_space("fleet")
    assert {} == store.heads()


def test_a_hub_whose_history_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local hub whose history ends where gc cut it can be read and written through the protocol."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    made, _ = create(tmp_path / "hub.git")
    store = made._context.transactor.store
    transactor = made._context.transactor
    for _ in range(6):
        transactor.transact(["fleet"], increment)
    head = store.heads()["fleet"]
    store.collect([head], dry_run=False, tell=lambda what, count: None)
    assert (tmp_path / "hub.git" / "shallow").exists()
    remote = open_remote(f"git+file://{tmp_path}/hub.git", tmp_path / "cache")
    assert store.heads() == remote.heads()
    assert 7 == Transactor(remote, SystemRuntime()).transact(["fleet"], increment)
    assert 7 == value_of(store)
    made.close()
    fsck(tmp_path / "hub.git")


# -- what may not be done


def test_a_hook_that_declines(hub: HubUnderTest, path: Path) -> None:
    """A refusal of the server's own rules is denied, and nothing is changed."""
    store = hub.open()
    hook(path, "pre-receive", "echo not here >&2", "exit 1")
    with pytest.raises(Denied, match="hook"):
        store.commit({"fleet": None}, {"fleet": {"a": b"1"}}, hub.op())
    assert {} == store.heads()


def test_a_hook_for_one_of_two(hub: HubUnderTest, path: Path) -> None:
    """Of two spaces of which the server refuses one, none is changed."""
    store = hub.open()
    hook(path, "update", 'case "$1" in *locks) exit 1;; esac')
    with pytest.raises(Denied, match="hook"):
        store.commit({"fleet": None, "locks": None}, {"fleet": {"a": b"1"}, "locks": {"a": b"1"}}, hub.op())
    assert {} == store.heads()


def test_hidden_refs(hub: HubUnderTest, path: Path) -> None:
    """A server that hides the prefix refuses it: the fix is another prefix."""
    git(path, "config", "receive.hideRefs", "refs/heads/ghcoord")
    with pytest.raises(Denied, match="prefix"):
        hub.open().commit({"fleet": None}, {"fleet": {"a": b"1"}}, hub.op())


def test_no_atomic_push(hub: HubUnderTest, path: Path) -> None:
    """A server that cannot move several refs as one takes one space at a time, and says that it can do no more."""
    git(path, "config", "receive.advertiseAtomic", "false")
    store = hub.open()
    assert store.capabilities.multi_space
    with pytest.raises(Unsupported, match="atomic"):
        store.commit({"fleet": None, "locks": None}, {"fleet": {"a": b"1"}, "locks": {"a": b"1"}}, hub.op())
    assert not store.capabilities.multi_space
    assert {} == store.heads()
    head = hub.put(store, "fleet", {"a": b"1"})
    assert {"fleet": head} == store.heads()
    with pytest.raises(Conflict):
        store.commit({"fleet": None}, {"fleet": {"a": b"2"}}, hub.op())


def test_compared_only(hub: HubUnderTest) -> None:
    """A space that is expected and not changed is refused, since a push would not compare it."""
    store = hub.open()
    with pytest.raises(Unsupported):
        store.commit({"fleet": None, "locks": None}, {"fleet": {"a": b"1"}}, hub.op())


def test_replacing_history_is_refused(hub: HubUnderTest, path: Path) -> None:
    """Where the server takes no forced push gc is denied, with the fix, and writing goes on."""
    git(path, "config", "receive.denyNonFastForwards", "true")
    store = hub.open()
    transactor = Transactor(store, SystemRuntime())
    for _ in range(3):
        transactor.transact(["fleet"], increment)
    with pytest.raises(Denied, match="force"):
        store.collect([store.heads()["fleet"]], dry_run=False, tell=lambda what, count: None)
    assert 4 == transactor.transact(["fleet"], increment)


def test_own_ids_are_a_win(hub: HubUnderTest) -> None:
    """The identical request sent again after it landed is done, not lost."""
    store, again = hub.open(), hub.open()
    op = hub.op()
    made = store.commit({"fleet": None}, {"fleet": {"a": b"1"}}, op)
    assert made == again.commit({"fleet": None}, {"fleet": {"a": b"1"}}, op)


# -- the user's settings, and what stands in the environment


def test_foreign_settings_and_variables(path: Path, url: str, tmp_path: Path) -> None:
    """Hooks, signing, pushing tags along, tracing, and variables that name another repository change nothing."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("pre-push", "reference-transaction", "post-checkout"):
        (hooks / name).write_text(f'#!/bin/sh\ncase "$PWD" in */cache/*) touch {tmp_path}/ran; exit 1;; esac\n')
        (hooks / name).chmod(0o755)
    settings = tmp_path / "gitconfig"
    settings.write_text(
        f"[core]\nhooksPath = {hooks}\n[push]\ngpgSign = true\nfollowTags = true\npushOption = x\nnegotiate = true\n"
        "[fetch]\nprune = true\nwriteCommitGraph = true\n[color]\nui = always\n[protocol]\nversion = 0\n"
        "[core]\nlogAllRefUpdates = always\n[transfer]\nfsckObjects = true\n"
    )
    environment = {
        "GIT_CONFIG_GLOBAL": str(settings),
        "GIT_DIR": str(tmp_path / "nowhere"),
        "GIT_WORK_TREE": str(tmp_path),
        "GIT_OBJECT_DIRECTORY": str(tmp_path / "nowhere"),
        "GIT_NAMESPACE": "other",
        "GIT_TRACE": "1",
        "GIT_TRACE_CURL": "1",
        "LC_ALL": "de_DE.UTF-8",
    }
    hub = under_test(path, url, tmp_path / "cache", environment=environment)
    head = hub.put(hub.open(), "fleet", {"a": b"1"})
    head = hub.put(hub.open(), "fleet", {"a": b"2"})
    assert head == git(path, "rev-parse", DEFAULT_PREFIX + "fleet").strip()
    assert {"fleet": head} == hub.open().heads()
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "nowhere").exists()


def test_another_protocol_by_settings(url: str, path: Path, tmp_path: Path) -> None:
    """Settings that turn the URL into one that runs programs are refused."""
    settings = tmp_path / "gitconfig"
    settings.write_text(f'[url "ext::touch {tmp_path}/ran; "]\ninsteadOf = file://\n[protocol]\nallow = always\n')
    store = open_remote(url, tmp_path / "cache", environment={"GIT_CONFIG_GLOBAL": str(settings)})
    with pytest.raises(Denied, match="insteadOf"):
        store.heads()
    assert not (tmp_path / "ran").exists()


# -- the copy on this machine


def copy_of(cache: Path) -> Path:
    [found] = cache.glob("*/mirror.git")
    return found


def test_the_copy_is_private(url: str, path: Path, tmp_path: Path) -> None:
    """Nobody else may read it, it holds no setting of the user's, and no ref of ours appears at the server."""
    store = open_remote(url, tmp_path / "cache")
    store.commit({"fleet": None}, {"fleet": {"a": b"1"}}, Operation(("x",), 1, 1))
    store.heads()
    folder = copy_of(tmp_path / "cache").parent
    assert 0o700 == stat.S_IMODE(folder.stat().st_mode)
    assert [] == list((folder / "calls").iterdir())
    assert [DEFAULT_PREFIX + "fleet"] == git(path, "for-each-ref", "--format=%(refname)").split()


@SLOW
def test_two_handles_on_one_copy(url: str, path: Path, tmp_path: Path) -> None:
    """Processes of one machine share it: increments are exact."""
    stores = [open_remote(url, tmp_path / "cache") for _ in range(2)]
    transactors = [Transactor(store, SystemRuntime()) for store in stores]

    def work(number: int) -> None:
        for _ in range(5):
            transactors[number].transact(["fleet"], increment)

    in_threads(lambda: work(0), lambda: work(1))
    assert 10 == value_of(stores[0])
    fsck(path)
    git(copy_of(tmp_path / "cache"), "fsck", "--strict", "--no-dangling")


@pytest.mark.parametrize("fresh", [True, pytest.param(False, marks=SLOW)])
def test_a_deleted_copy(hub: HubUnderTest, url: str, tmp_path: Path, fresh: bool) -> None:
    """It is made anew, by a new process and by one that was using it."""
    store = open_remote(url, tmp_path / "mine")
    head = hub.put(store, "fleet", {"dir/a": b"1"})
    hub.put(hub.open(), "locks", {"b": b"2"})
    shutil.rmtree(tmp_path / "mine")
    if fresh:
        store = open_remote(url, tmp_path / "mine")
        assert {"dir/a": b"1"} == content(store, head), "what a head remembered from before needs is fetched"
    assert {"fleet", "locks"} == set(store.heads())
    newer = hub.put(store, "fleet", {"dir/a": b"3"})
    assert {"dir/a": b"3"} == content(hub.open(), newer)


@pytest.mark.parametrize(
    "kind",
    ["emptied", *(pytest.param(kind, marks=SLOW) for kind in ("packs gone", "refs broken", "config broken"))],
)
def test_a_damaged_copy(hub: HubUnderTest, url: str, tmp_path: Path, kind: str) -> None:
    """It is made anew, and everything can be read and written."""
    seed = hub.open()
    first, *_ = [hub.put(seed, "fleet", {"dir/a": b"%d" % n, f"dir/{n}": b"x"}) for n in range(3)]
    store = open_remote(url, tmp_path / "mine")
    store.heads()
    store.close()
    copy = copy_of(tmp_path / "mine")
    files = [file for file in (copy / "objects").rglob("*") if file.is_file()]
    assert files
    if kind == "emptied":
        for file in files:
            file.chmod(0o644)
            file.write_bytes(b"")
    elif kind == "packs gone":
        for file in files:
            file.unlink()
    elif kind == "refs broken":
        (copy / "packed-refs").write_text(f"# pack-refs with: peeled fully-peeled sorted \n{'1' * 40} refs/x/y\n")
    else:
        (copy / "config").write_text("[core\n")
        assert () == open_remote(url, tmp_path / "mine").commit_info(first).parents, "even before heads are read"
        (copy / "config").write_text("[core\n")
    store = open_remote(url, tmp_path / "mine")
    head = store.heads()["fleet"]
    assert {"dir/a": b"2", "dir/0": b"x", "dir/1": b"x", "dir/2": b"x"} == content(store, head)
    assert 3 == len(list(walked(store, head)))
    newer = hub.put(store, "fleet", {"dir/a": b"new"})
    assert b"new" == content(hub.open(), newer)["dir/a"]


def walked(store: RemoteStore, head: str | None) -> list[str]:
    found = []
    while head is not None:
        found.append(head)
        head = next(iter(store.commit_info(head).parents), None)
    return found


def test_a_full_or_unwritable_cache(url: str, tmp_path: Path) -> None:
    """A cache that cannot be written is said to be one."""
    (tmp_path / "file").write_text("")
    with pytest.raises((Unavailable, Denied), match="cache"):
        open_remote(url, tmp_path / "file").heads()


@SLOW
def test_the_copy_stays_small(hub: HubUnderTest, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs are merged as they pile up, and all is still there."""
    monkeypatch.setattr(upkeep, "LOOK_EVERY", 8)
    monkeypatch.setattr(upkeep, "MANY", 10)
    store = open_remote(url, tmp_path / "mine")
    most = 0
    for n in range(40):
        hub.put(store, "fleet", {f"f{n % 7}": b"%d" % n})
        most = max(most, len(list(copy_of(tmp_path / "mine").glob("objects/pack/*.pack"))))
    assert 10 < most < 20
    assert 40 == len(walked(open_remote(url, tmp_path / "mine"), store.heads()["fleet"]))
    git(copy_of(tmp_path / "mine"), "fsck", "--strict", "--no-dangling")


@SLOW
def test_pruning_spares_what_is_used(hub: HubUnderTest, url: str, tmp_path: Path) -> None:
    """After a collection the copy loses old history once it is old enough, and what heads need stays."""
    store = open_remote(url, tmp_path / "mine")
    transactor = Transactor(store, SystemRuntime())
    for _ in range(5):
        transactor.transact(["fleet"], increment)
    old = store.heads()["fleet"]
    store.collect([old], dry_run=False, tell=lambda what, count: None)
    reader = open_remote(url, tmp_path / "mine")
    assert 5 == len(walked(reader, old)), "somebody may still be reading it"
    store._upkeep.prune(timeout=5, expiry="now")
    assert 2 == len(walked(store, store.heads()["fleet"]))
    assert not open_remote(url, tmp_path / "mine")._objects.has(old)
    assert 6 == transactor.transact(["fleet"], increment)


# -- killed


_WRITER = """
import sys
from pathlib import Path
from ghcoord.clock import SystemRuntime
from ghcoord.store.transact import Transactor
from ghcoord.testing.transact_contract import increment
from tests.store.remote.hubs import open_remote
transactor = Transactor(open_remote(sys.argv[1], Path(sys.argv[2])), SystemRuntime())
def both(tx):
    return increment(tx, "fleet"), increment(tx, "locks")
while True:
    print(*transactor.transact(["fleet", "locks"], both), flush=True)
"""


@SLOW
@pytest.mark.parametrize("kills", [2, 12])
def test_killed_at_random(path: Path, url: str, tmp_path: Path, kills: int) -> None:
    """Writers killed while they push leave both spaces or none, lose nothing they said, and disturb no other."""
    dice = random.Random(3)
    said = 0
    steady = Transactor(open_remote(url, tmp_path / "steady"), SystemRuntime())

    def both(tx: object) -> None:
        increment(tx, "fleet")  # type: ignore[arg-type]
        increment(tx, "locks")  # type: ignore[arg-type]

    for _ in range(kills):
        child = subprocess.Popen(
            [sys.executable, "-c", _WRITER, url, str(tmp_path / "cache")],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert child.stdout is not None
        with child.stdout:
            first = child.stdout.readline()
            time.sleep(dice.uniform(0.0, 0.15))
            child.send_signal(signal.SIGKILL)
            lines = [first, *child.stdout.readlines()]
        child.wait(10)
        said = max([said, *(int(line.split()[0]) for line in lines if line.endswith("\n"))])
        steady.transact(["fleet", "locks"], both)
        said += 1
        values = value_of(steady.store), value_of(steady.store, space="locks")
        assert values[0] == values[1] >= said
    time.sleep(0.3)
    fsck(path)
    assert [] == [str(found) for found in path.rglob("*.lock")]
    git(copy_of(tmp_path / "cache"), "fsck", "--strict", "--no-dangling")


def test_an_old_kernel(hub: HubUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel cannot tell that a process has ended it is waited for as ever."""

    def missing(pid: int, flags: int = 0) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", missing)
    head = hub.put(hub.open(), "fleet", {"a": b"1"})
    assert {"fleet": head} == hub.open().heads()


@SLOW
def test_interrupted(path: Path, url: str, tmp_path: Path) -> None:
    """A call that is interrupted ends git too; the outcome is for the operation id to tell."""
    hook(path, "pre-receive", f"touch {tmp_path}/there", "sleep 20", "exit 1")
    store = open_remote(url, tmp_path / "cache", timeout=1.0)
    began = time.monotonic()
    with pytest.raises(OutcomeUnknown, match="before the server answered"):
        store.commit({"fleet": None}, {"fleet": {"a": b"1"}}, Operation(("x",), 1, 1))
    assert (tmp_path / "there").exists()
    assert time.monotonic() - began < 10
