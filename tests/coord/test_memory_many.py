"""Many keys in one commit, whole namespaces, the quota: all of it or nothing, and nothing of others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ghcoord.coord.memory import write as memory_write
from ghcoord.coord.memory.memory import CheckKey, DeleteKey, SetKey
from ghcoord.errors import FenceRefused, InvalidName, RevisionMismatch, TooLarge, Unsupported, UsageError
from ghcoord.hub import Hub
from ghcoord.testing.faults import CommitFault
from tests.coord.memory_checks import check_namespace
from tests.coord.world import World, taken, where

SPACE = "memory/global"


def test_many_keys_are_one_commit(both: World) -> None:
    """All values with one revision; read back they are what was set."""
    hub = both.open()
    before = hub.commits
    done = hub.memory.set_many({"b": 1, "a/1": None, "e\u0301": [2]}, ttl=60)
    assert before + 1 == hub.commits
    assert 1 == len({entry.revision for entry in done.values()})
    assert {"b": 1, "a/1": None, "e\u0301": [2]} == {key: entry.value for key, entry in done.items()}
    assert {"a/1": None, "b": 1, "é": [2]} == {entry.key: entry.value for entry in hub.memory.entries()}
    assert {60.0} == {entry.ttl for entry in hub.memory.entries()}
    assert ["b", "é"] == hub.memory.delete_many(["b", "missing", "é"])
    assert ["a/1"] == check_namespace(both.snapshot(SPACE))
    assert {} == hub.memory.set_many({})
    assert [] == hub.memory.delete_many([]) == hub.memory.apply([])


def test_one_condition_that_fails_stops_all(both: World) -> None:
    """Also that of a key which is only compared; both numbers are told, and no trace is left."""
    hub = both.open()
    k = hub.memory.set("k", 1)
    heads = both.store().heads()
    for conditions in ({"k": 5}, {"k": k.revision, "new": 9}, {"k": k.revision, "other": 1}, {"k": 0}):
        with pytest.raises(RevisionMismatch):
            hub.memory.set_many({"k": 2, "new": 2}, if_revisions=conditions)
        with pytest.raises(RevisionMismatch):
            hub.memory.delete_many(["k"], if_revisions={**conditions, "other": 1})
    assert heads == both.store().heads()
    hub.memory.set_many({"k": 2, "new": 2}, if_revisions={"k": k.revision, "new": 0, "other": 0})
    assert (2, 2) == (hub.memory.get("k"), hub.memory.get("new"))


def test_a_change_over_namespaces(both: World) -> None:
    """Moves a key from one to another, on the condition of a third; the results are in the order of the changes."""
    hub = both.open()
    hub.memory.set("job", "mine", "todo")
    flag = hub.memory.set("open", True, "flags")
    move = [
        DeleteKey("job", "todo"),
        SetKey("job", "mine", "done", if_revision=0),
        CheckKey("open", flag.revision, "flags"),
        DeleteKey("missing"),
    ]
    gone, entry, checked, missing = hub.memory.apply(move)
    assert (True, flag, False) == (gone, checked, missing)
    assert hub.memory.entry("job", "done") == entry
    assert ["done", "flags"] == hub.memory.namespaces()
    with pytest.raises(RevisionMismatch):
        hub.memory.apply(move)
    hub.memory.set("open", False, "flags")
    heads = both.store().heads()
    with pytest.raises(RevisionMismatch):
        hub.memory.apply([DeleteKey("job", "done"), CheckKey("open", flag.revision, "flags")])
    assert heads == both.store().heads()


def test_conditions_are_judged_on_the_state_before(hub: Hub) -> None:
    """A change does not meet the condition of another one of the same list."""
    with pytest.raises(RevisionMismatch):
        hub.memory.apply([SetKey("a", 1), CheckKey("b", 7)])
    with pytest.raises(UsageError, match="'a' is there twice"):
        hub.memory.apply([SetKey("a", 1), CheckKey("a", 0)])
    with pytest.raises(UsageError, match="is there twice"):
        hub.memory.set_many({"e\u0301": 1, "é": 2})


def test_what_cannot_be_is_refused_before_anything(hub: Hub) -> None:
    """One bad key, value, ttl or namespace is enough."""
    before = hub.commits
    for bad, error in (
        (SetKey("../x", 1), InvalidName),
        (SetKey("k", object()), UsageError),
        (SetKey("k", 1, ttl=-1.0), UsageError),
        (SetKey("k", 1, "n" * 61), InvalidName),
        (DeleteKey(""), InvalidName),
        (CheckKey("k", None), UsageError),  # type: ignore[arg-type]
    ):
        with pytest.raises(error):
            hub.memory.apply([SetKey("fine", 1), bad])
    with pytest.raises(TooLarge, match="at most 5000"):
        hub.memory.set_many({f"k{n}": 1 for n in range(memory_write.MAX_OPS + 1)})
    assert before == hub.commits


def test_what_does_not_fit_into_a_commit_is_not_cut(world: World) -> None:
    """Refused whole, whatever the store takes."""
    hub = world.open()
    store = world.store()
    store.capabilities = replace(store.capabilities, max_commit_bytes=50_000)  # type: ignore[misc]
    with pytest.raises(TooLarge):
        hub.memory.set_many({f"k{n}": "x" * 10_000 for n in range(10)})
    assert [] == hub.memory.list()
    hub.memory.set_many({f"k{n}": "x" * 10_000 for n in range(3)})


def test_a_store_of_single_spaces_takes_one_namespace(world: World) -> None:
    """Not weaker: several are unsupported."""
    hub = world.open()
    store = world.store()
    store.capabilities = replace(store.capabilities, multi_space=False)  # type: ignore[misc]
    with pytest.raises(Unsupported, match="one namespace after the other"):
        hub.memory.apply([SetKey("k", 1), SetKey("k", 1, "other")])
    hub.memory.apply([SetKey("k", 1), SetKey("l", 1)])


def test_a_fence_guards_all_of_it(both: World) -> None:
    """Only the present grant's token writes, in every namespace that is changed."""
    a, b = both.open("a"), both.open("b")
    lock = taken(a.locks.acquire("x", ttl=10))
    ops = [SetKey("k", 1), SetKey("k", 1, "other"), DeleteKey("gone")]
    with pytest.raises(FenceRefused):
        b.memory.apply(ops, fence=("x", lock.token + 1))
    with pytest.raises(FenceRefused):
        b.memory.set_many({"k": 1}, fence=("x", lock.token + 1))
    assert [] == b.memory.namespaces()
    b.memory.apply(ops, fence=("x", lock.token))
    assert where("fence", "x") in both.files("memory/other")
    assert ["k"] == a.memory.delete_many(["k"], fence=("x", lock.token))


def test_changes_of_many_keys_lose_nothing(world: World) -> None:
    """Two users move tokens between two keys by compare-and-set: their sum stays, also when replies are lost."""
    (a, faulty), b = world.open_faulty("a"), world.open("b")
    a.memory.set_many({"left": 50, "right": 50})
    faulty.fail_commits(*[CommitFault.REPLY_LOST, CommitFault.CONFLICT_AFTER_LANDING, None] * 4)
    for number in range(20):
        hub = (a, b)[number % 2]
        left, right = hub.memory.entry("left"), hub.memory.entry("right")
        assert left is not None
        assert right is not None
        values = {"left": left.value - number, "right": right.value + number}
        hub.memory.set_many(values, if_revisions={"left": left.revision, "right": right.revision})
    assert (50 - 190, 50 + 190) == (b.memory.get("left"), b.memory.get("right"))


def test_a_broken_key_is_repaired_or_refused(world: World) -> None:
    """A plain change writes over what a person broke; a condition on it does not guess."""
    hub = world.open()
    hub.memory.set("k", 1)
    hub._context.transact((SPACE,), lambda tx: tx.write(SPACE, where("key", "k"), b"{broken"))
    with pytest.raises(Exception, match="is not JSON"):
        hub.memory.delete_many(["k"], if_revisions={"k": 5})
    hub.memory.set_many({"k": 2})
    assert 2 == hub.memory.get("k")
    hub._context.transact((SPACE,), lambda tx: tx.write(SPACE, where("key", "k"), b"{broken"))
    assert [] == hub.memory.delete_many(["k"]), "nothing that could be read was set"
    assert where("key", "k") not in world.files(SPACE)


# -- namespaces


def test_namespaces_tell_what_they_hold(both: World) -> None:
    """Keys, bytes and the last change of each, also after updates, deletions and edits by hand."""
    hub = both.open()
    hub.memory.set_many({"a": "x" * 100, "b": 1})
    both.runtime.advance(10)
    entry = hub.memory.set("a", 1, "Other")
    hub.memory.set("a", "longer")
    hub.memory.delete("b")
    files = {name: both.files(f"memory/{space}") for name, space in (("global", "global"), ("Other", "!other"))}
    sizes = {name: sum(len(files[name][p]) for p in files[name] if p.startswith("keys/")) for name in files}
    other, own = hub.memory.usage()
    assert ("Other", 1, sizes["Other"], entry.revision) == other[:4]
    assert ("global", 1, sizes["global"]) == own[:3]
    assert both.runtime.now() == pytest.approx(own.updated_at.timestamp(), abs=0.01)


def test_dropping_a_namespace(both: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key goes, page by page; the branch stays, and writers and fencing tokens go on."""
    monkeypatch.setattr("ghcoord.coord.memory.namespaces.PAGE", 7)
    hub, other = both.open("a"), both.open("b")
    lock = taken(hub.locks.acquire("x"))
    hub.memory.set_many({f"k{n}": n for n in range(30)})
    hub.memory.set_many({f"t{n}": n for n in range(5)}, ttl=1)
    hub.memory.set("f", 1, fence=("x", lock.token))
    hub.memory.set("k", 1, "other")
    both.runtime.advance(2)
    assert 31 == hub.memory.drop_namespace("global"), "what had ended was there no more"
    assert (["other"], []) == (hub.memory.namespaces(), other.memory.list())
    assert [] == check_namespace(both.snapshot(SPACE))
    assert where("fence", "x") in both.files(SPACE)
    assert 0 == hub.memory.drop_namespace("global") == hub.memory.drop_namespace("no-such")
    other.memory.set("again", 1)
    assert ["again"] == hub.memory.list()


def test_dropping_takes_what_was_there_and_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is set while the pages go stays; what people edited before goes too."""
    monkeypatch.setattr("ghcoord.coord.memory.namespaces.PAGE", 5)
    hub = world.open()
    hub.memory.set_many({f"k{n:02d}": n for n in range(12)})
    record = world.files(SPACE)[where("key", "k00")]
    world.put(SPACE, {where("key", "by hand"): record.replace(b'"k00"', b'"by hand"')})
    world.runtime.advance(1)
    transact, pages = hub._context.transactor.transact, []

    def interrupted(spaces, run, **more):  # type: ignore[no-untyped-def]
        if len(pages) == 1:
            world.runtime.advance(1)
            world.open("b").memory.set_many({"k01": "anew", "k11": "anew"})
        pages.append(1)
        return transact(spaces, run, **more)

    hub._context.transactor.transact = interrupted  # type: ignore[method-assign]
    assert 12 == hub.memory.drop_namespace("global")
    assert 3 == len(pages)
    assert ["k01", "k11"] == check_namespace(world.snapshot(SPACE))


# -- quota


def test_a_quota_bounds_the_keys_of_a_namespace(both: World) -> None:
    """New keys are refused at the limit, whole changes too; what is there may change, and ended values make room."""
    hub = both.open()
    hub.config.set("quota.memory_keys", 3)
    hub.memory.set_many({"a": 1, "b": 1})
    with pytest.raises(TooLarge, match=r"may have 3 keys .* quota\.memory_keys") as refused:
        hub.memory.set_many({"c": 1, "d": 1})
    assert "QUOTA_EXCEEDED" == refused.value.code
    assert ["a", "b"] == hub.memory.list()
    hub.memory.set("c", 1, ttl=5)
    with pytest.raises(TooLarge):
        hub.memory.set("d", 1)
    hub.memory.set("a", 2)
    hub.memory.set("d", 1, "other")
    hub.memory.apply([DeleteKey("b"), SetKey("d", 1)])
    both.runtime.advance(10)
    hub.memory.set("e", 1)
    assert ["a", "d", "e"] == check_namespace(both.snapshot(SPACE))
    hub.config.unset("quota.memory_keys")
    hub.memory.set("f", 1)
