"""The ordered index: a list costs what it returns, no directory gets wide, and it is never other than the records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghcoord.coord.layout import memory_space
from ghcoord.coord.memory import index as memory_index
from ghcoord.coord.memory import write as memory_write
from ghcoord.coord.memory.trie import LEVELS, Marker, Trie, arrange, decode, encode, listed, place, steps
from ghcoord.coord.memory.write import SetKey
from ghcoord.errors import InvalidName
from ghcoord.hub import Hub
from ghcoord.ids import check_name
from ghcoord.store.base import Oid, Operation
from ghcoord.store.inmemory import MemoryStore
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.tx import Overlay, SpaceView, Tx
from ghcoord.store.wrappers import WrappedStore
from tests.coord.memory_checks import check_namespace, check_shape
from tests.coord.world import World, edited, where

SPACE = "memory/global"
WIDEST = 3000


def fill(hub: Hub, keys: Iterable[str], namespace: str = "global", ttl: float | None = None) -> None:
    """Set keys in few big commits, past the limit that an atomic change has."""
    space = memory_space(namespace)
    ops = [SetKey(key, 1, namespace, None, ttl) for key in keys]
    for at in range(0, len(ops), 10_000):
        hub._context.transact(
            (space,),
            lambda tx, at=at: memory_write.apply(tx, ops[at : at + 10_000], fence=None, actor="x"),
            timeout=300,
        )


# -- names

texts = st.text(st.sampled_from("aAbz09_-/.%!~=+ é名\U0001f600"), min_size=1, max_size=120)


@given(texts, texts)
def test_a_prefix_is_a_prefix_when_encoded(one: str, other: str) -> None:
    """And the reverse; what is encoded is decoded; its steps are all of it; names are plain."""
    assert (one + other).startswith(one) is encode(one + other).startswith(encode(one))
    assert other.startswith(one) is encode(other).startswith(encode(one))
    assert one.encode() == decode(encode(one))
    assert encode(one) == "".join(steps(encode(one)))
    assert not set(encode(one)) - set("abcdefghijklmnopqrstuvwxyz0123456789_-%!")


@pytest.mark.parametrize("text", ["%", "%2", "%zz", "!", "!9x", "~", "A", "a/b", "=", "\udcff", "%+1", "!é"])
def test_what_is_never_written_is_never_read(text: str) -> None:
    """Names that people made up stand for no key."""
    assert None is decode(text)


def test_where_keys_lie() -> None:
    """Alone at the top; with company below what is shared; a key that others go on from lies at its own end."""
    assert {"index/=task-1"} == set(arrange([Marker("task-1")]))
    keys = ["task-1", "task/a/x", "task/b", "task", "Z"]
    assert {
        "index/=!z",
        "index/ta/sk/=",
        "index/ta/sk/=-1",
        "index/ta/sk/%2f/=a%2fx",
        "index/ta/sk/%2f/=b",
    } == set(arrange(map(Marker, keys)))


# -- the tree of directories against a dictionary


def changed(store: MemoryStore, head: Oid | None, run: Callable[[Trie], None]) -> Oid:
    """The state after one batch of changes of the index."""
    overlay = Overlay()
    view = SpaceView(Snapshot(store, "s", head), overlay)
    run(Trie(Tx({"s": view}, now=0, revision=1), "s"))
    view.keep()
    op = Operation(ids=("op",), revision=1, time=0)
    return store.commit({"s": head}, {"s": {**overlay.files, "kept": b""}}, op)["s"]


def _name(text: str) -> str | None:
    try:
        return check_name(text[:256], "key")
    except InvalidName:
        return None


alike = st.builds(
    lambda start, end: _name("a" * start + end), st.sampled_from([0, 1, 78, 79, 80, 81, 90]), texts
).filter(bool)
commands = st.lists(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from([None, 0.5, 7.0, "remove"])), max_size=8), max_size=5
)


@settings(deadline=None, max_examples=60)
@given(st.lists(alike, min_size=1, max_size=10, unique=True), commands, st.data())
def test_the_index_is_the_same_however_it_came_about(keys: list[str], batches: list[list], data: st.DataObject) -> None:
    """Any order of adding and removing gives the index of what is left, and any prefix lists it in order."""
    store, head, model = MemoryStore(lambda: 0.0), None, {}
    for batch in batches:

        def run(trie: Trie, batch: list = batch) -> None:
            for number, what in batch:
                key = keys[number % len(keys)]
                if what == "remove":
                    assert (key in model) is trie.remove(key)
                    model.pop(key, None)
                else:
                    model[key] = Marker(key, None if what is None else datetime.fromtimestamp(what, UTC))
                    trie.put(model[key])

        head = changed(store, head, run)
    snapshot = Snapshot(store, "s", head)
    assert arrange(model.values()) == {path: snapshot.read(path) for path, _ in snapshot.walk("index")}
    key = data.draw(st.sampled_from(keys))
    prefix, after = key[: data.draw(st.integers(0, len(key)))], data.draw(st.none() | st.sampled_from(keys))
    wanted = [model[k] for k in sorted(model) if k.startswith(prefix) and (after is None or k > after)]
    assert wanted == list(listed(snapshot, prefix, after))


# -- what it costs


class Counting(WrappedStore):
    """Counts the objects that are read."""

    reads = 0

    def tree(self, oid: Oid):  # type: ignore[no-untyped-def]
        self.reads += 1
        return self.inner.tree(oid)

    def blob(self, oid: Oid) -> bytes:
        self.reads += 1
        return self.inner.blob(oid)


def counted(world: World, run: Callable[[Hub], object]) -> int:
    """The objects that a freshly opened hub reads for ``run`` itself."""
    store = Counting(world.store())
    hub = world.open("reader", store=store)
    store.reads = 0
    run(hub)
    return store.reads


@pytest.mark.parametrize("count", [1000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_list_costs_what_it_returns(world: World, count: int) -> None:
    """Ten keys of many: some objects for the way there and one or two a key, also for pages; not one for each key."""
    hub = world.open()
    fill(hub, [f"job-{number:05d}/state" for number in range(count)])
    wanted = [f"job-{number:05d}/state" for number in range(120, 130)]
    seen: list[object] = []
    assert 25 >= counted(world, lambda hub: seen.append(hub.memory.list(prefix="job-0012")))
    # Three trees and the record for each key, and half of the trees are shared.
    assert 25 + 4 * len(wanted) >= counted(world, lambda hub: seen.append(hub.memory.entries(prefix="job-0012")))
    assert 25 >= counted(world, lambda hub: seen.append(hub.memory.list(limit=10, after="job-00119/state")))
    assert 8 >= counted(world, lambda hub: seen.append(hub.memory.list(prefix="zz")))
    assert 8 >= counted(world, lambda hub: seen.append(hub.memory.usage()))
    assert [wanted, wanted, wanted, []] == [
        seen[0],
        [entry.key for entry in seen[1]],  # type: ignore[attr-defined]
        seen[2],
        seen[3],
    ]
    assert count // 8 >= counted(world, lambda hub: hub.memory.list()), "even all of it reads no record"


def test_keys_with_a_ttl_cost_one_object_more(world: World) -> None:
    """Their markers say when they end: no record is read."""
    hub = world.open()
    fill(hub, [f"job-{number:05d}" for number in range(500)], ttl=60)
    assert 20 + 10 >= counted(world, lambda hub: hub.memory.list(prefix="job-0012"))
    world.runtime.advance(60)
    assert [] == hub.memory.list()


def test_updating_a_key_leaves_the_index_alone(world: World) -> None:
    """Only making, deleting and another end change it."""
    hub = world.open()
    hub.memory.set("a/b", 1)
    before = [world.snapshot(SPACE).entry(part) for part in ("index", "expiry")]
    hub.memory.set("a/b", [2])
    assert before == [world.snapshot(SPACE).entry(part) for part in ("index", "expiry")]
    hub.memory.set("a/b", 3, ttl=5)
    assert before != [world.snapshot(SPACE).entry(part) for part in ("index", "expiry")]


# -- how wide and how deep


def adversarial(count: int) -> list[str]:
    """Keys that agree in as much as keys can, each family in its own way."""
    families: list[list[str]] = [
        ["p" * 250 + f"{n:05d}"[-5:] for n in range(count // 5)],  # all in one fan-out, cut by digest
        [f"{n:05d}" + "s" * 200 for n in range(count // 5)],  # cut at the top
        ["A/" * 40 + f"{n:05d}" for n in range(count // 5)],  # every letter a step of its own
        ["".join(pair) for pair in product(map(chr, range(126, 32, -1)), repeat=2) if "/" not in pair][: count // 4],
        ["é" * 10 + chr(0x4E00 + n) for n in range(count // 5)],
    ]
    return sorted({key for family in families for key in family if _name(key) == key})


@pytest.mark.parametrize("count", [400, pytest.param(50_000, marks=pytest.mark.slow)])
def test_no_directory_gets_wide(world: World, count: int) -> None:
    """Nor deep, with keys that are as alike as can be, with and without ttl; they are listed all the same."""
    hub = world.open()
    keys = adversarial(count)
    assert count // 2 < len(keys)
    fill(hub, keys[::2])
    fill(hub, keys[1::2], ttl=100)
    store, root = world.store(), world.snapshot(SPACE).root
    assert root is not None
    widest, deepest = check_shape(store, root)
    assert widest <= WIDEST
    assert deepest <= LEVELS + 5
    assert keys == hub.memory.list()
    longest = [key for key in keys if key.startswith("p" * 250)]
    assert longest == hub.memory.list(prefix="p" * 240)
    assert longest[3:5] == hub.memory.list(prefix="p" * 250, after=longest[2], limit=2)
    if count < 1000:
        check_namespace(world.snapshot(SPACE))


def test_the_fullest_directory_there_can_be() -> None:
    """Every step that a key can begin with, and a key of each: still far below the bound."""
    chars = [chr(code) for code in range(32, 127)] + [chr(0x80), chr(0x7FF), "\uffff", "\U0010ffff"]
    first = {steps(encode(a + b + "x"))[0] for a, b in product(chars, repeat=2)}
    most_bytes = {f"%{byte:02x}" for byte in range(256)}
    assert len(first | most_bytes) + 2 <= 1800 < WIDEST


# -- people


def touched(world: World, hub: Hub) -> list[str]:
    """What is listed after the next write to the namespace, all checked."""
    world.runtime.advance(1)
    hub.memory.set("after", 1)
    hub.memory.delete("after")
    return check_namespace(world.snapshot(SPACE))


def test_records_made_and_deleted_by_hand_are_indexed(both: World) -> None:
    """At once in lists, and in the index with the next write; without making it anew."""
    hub = both.open()
    for key in ("a", "a/1", "b"):
        hub.memory.set(key, 1, ttl=1000 if key == "b" else None)
    record = both.files(SPACE)[where("key", "a")]
    both.put(
        SPACE, {where("key", "a/1"): None, where("key", "a/2"): edited(record, key="a/2"), where("key", "b"): None}
    )
    assert ["a", "a/2"] == hub.memory.list()
    assert [("global", 2)] == [(one.namespace, one.keys) for one in hub.memory.usage()]
    assert ["a", "a/2"] == touched(both, hub)


def test_only_what_changed_is_indexed_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One record edited by hand does not make the whole index anew."""
    hub = world.open()
    hub.memory.set_many({f"k{n}": n for n in range(20)})
    path = where("key", "k7")
    world.put(SPACE, {path: edited(world.files(SPACE)[path], ttl=5000.0), where("key", "k8"): None})
    monkeypatch.setattr(memory_index, "rebuild", lambda tx, space: pytest.fail("made anew"))
    assert 19 == len(touched(world, hub))


@pytest.mark.parametrize(
    "damage",
    [
        {"index/=a": None},
        {"index/=zz": b"{}\n", "index/ab/cd": b"{}\n"},
        {"index/=a": b"{broken", "index/=b": b'{"expires_at": "yesterday"}', "index/=c": b"[]"},
        {"index/=b": b'{"expires_at": "2020-01-01T00:00:00"}'},
        {"namespace.json": b'{"keys": "many"}'},
        {"namespace.json": b'{"keys": -1, "bytes": 1e400}', "expiry/junk": b"", "expiry/zzzzz/a/b/c": b""},
        {"expiry/00001/002/003/aa/bb/no-such": b"{}\n"},
        {"index": b"a file"},
        {"index/%zz/~/=": b"", "index/+/00/11/=x": b"{}", "index/" + "aa/" * 80 + "=x": b"{}"},
    ],
    ids=range(9),
)
def test_a_damaged_index_is_made_anew(both: World, damage: dict[str, bytes | None]) -> None:
    """Whatever people did to it: lists go by the records until the next write has repaired it."""
    hub = both.open()
    for key in ("a", "b", "c"):
        hub.memory.set(key, 1, ttl=500 if key == "c" else None)
    files = dict.fromkeys(both.files(SPACE)) if damage.get("index") else {}
    both.put(SPACE, {**{path: None for path in files if path.startswith("index/")}, **damage})
    assert ["a", "b", "c"] == hub.memory.list()
    assert 3 == hub.memory.usage()[0].keys
    hub.memory.sweep()
    assert ["a", "b", "c"] == touched(both, hub)


def test_a_forged_index_is_lived_through(world: World) -> None:
    """Even one that passes for ghcoord's own: what stands for no key is not listed, and nothing fails."""
    hub = world.open()
    hub.memory.set("a", 1)
    junk = {
        "index/=%ff": b"{}\n",
        "index/=b": b'{"expires_at": 5}',
        f"index/={'x' * 140}~{'0' * 32}": b'{"key": "other"}',
        f"index/={'y' * 140}~{'0' * 32}": b"{}",
        "index/=": b"{}",
        "index/zz/=\udcff": b"{}",
    }

    def forge(tx: Tx) -> None:
        for path, data in junk.items():
            tx.write(SPACE, path, data)
        tx.write(SPACE, "expiry/00001/002/003/aa/bb/c", b"")

    hub._context.transact((SPACE,), forge)
    assert ["a"] == hub.memory.list() == hub.memory.list(after="A")
    hub.memory.set("zz1", 1)
    hub.memory.set("b", 1)
    assert hub.memory.delete("b")
    assert 0 == hub.memory.sweep()
    assert {"a", "zz1"} <= set(hub.memory.list())


def old(world: World, hub: Hub) -> None:
    """Make the namespace what a ghcoord without the index would have left."""
    derived = [
        path for path in world.files(SPACE) if path.startswith(("index/", "expiry/")) or path == "namespace.json"
    ]
    hub._context.transact((SPACE,), lambda tx: [tx.delete(SPACE, path) for path in derived] and None)


def test_a_namespace_without_an_index_is_read_whole(world: World) -> None:
    """Nothing is missing before it is made; the first write makes it."""
    hub = world.open()
    for key in ("a/1", "a/2", "b"):
        hub.memory.set(key, 1, ttl=50 if key == "b" else None)
    old(world, hub)
    assert ["a/1", "a/2"] == hub.memory.list(prefix="a/")
    assert ["a/2"] == hub.memory.list(prefix="a/", after="a/1")
    assert 3 == hub.memory.usage()[0].keys
    assert ["a/1", "a/2", "b"] == touched(world, hub)


def test_rebuilding_counts(world: World) -> None:
    """What the migration of an old hub calls: all of it from the records, broken ones left out."""
    hub = world.open()
    for number in range(5):
        hub.memory.set(f"k{number}", number, ttl=50 if number else None)
    old(world, hub)

    def run(tx: Tx) -> memory_index.Counts:
        tx.write(SPACE, where("key", "k9"), b"{broken")
        return memory_index.rebuild(tx, SPACE)

    found = hub._context.transact((SPACE,), run)
    assert 5 == found.keys
    hub._context.transact((SPACE,), lambda tx: tx.delete(SPACE, where("key", "k9")))
    check_namespace(world.snapshot(SPACE))
    assert found == memory_index.read_counts(world.files(SPACE)["namespace.json"])


# -- values that end


def test_writes_remove_what_has_ended(both: World) -> None:
    """A few each, the oldest first, so that whoever writes never has much to do; reading never needs it."""
    hub = both.open()
    for number in range(30):
        hub.memory.set(f"k{number:02d}", 1, ttl=10 + number / 10)
    both.runtime.advance(1000)
    assert [] == hub.memory.list()
    hub.memory.set("other", 1)
    left = check_namespace(both.snapshot(SPACE))
    removed = memory_write.SWEPT + 2
    assert [*(f"k{n:02d}" for n in range(removed, 30)), "other"] == left
    for _ in range(10):
        hub.memory.set("other", 1)
    assert ["other"] == check_namespace(both.snapshot(SPACE))
    assert 1 == hub.memory.usage()[0].keys


def test_a_write_that_does_nothing_sweeps_nothing(world: World) -> None:
    """No commit is made for the sake of sweeping."""
    hub = world.open()
    hub.memory.set("k", 1, ttl=1)
    world.runtime.advance(5)
    before = hub.commits
    assert not hub.memory.delete("missing")
    assert before == hub.commits


def test_sweeping_in_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that has ended, of one namespace or all; what has not stays, what was renewed too."""
    monkeypatch.setattr("ghcoord.coord.memory.namespaces.PAGE", 7)
    hub = world.open()
    hub.memory.set_many({f"k{n}": n for n in range(30)}, ttl=5)
    hub.memory.set("k", 1, "other", ttl=5)
    hub.memory.set("renewed", 1, ttl=5)
    hub.memory.set("renewed", 1, ttl=500)
    world.runtime.advance(5)
    assert 30 == hub.memory.sweep("global")
    assert 1 == hub.memory.sweep()
    assert 0 == hub.memory.sweep() == hub.memory.sweep("no-such")
    assert ["renewed"] == check_namespace(world.snapshot(SPACE))
    assert ["global"] == hub.memory.namespaces()


def test_a_stray_time_is_tidied_away(world: World) -> None:
    """A time without its record, or of an older value, stops nothing and does not stay."""
    hub = world.open()
    hub.memory.set("k", 1, ttl=100)
    (path,) = [path for path in world.files(SPACE) if path.startswith("expiry/")]
    stray = path.replace(path.split("/")[1], "00001")
    hub._context.transact((SPACE,), lambda tx: tx.write(SPACE, stray, b""))
    hub.memory.set("other", 1)
    assert ["k", "other"] == check_namespace(world.snapshot(SPACE))


def test_the_end_of_the_calendar(world: World) -> None:
    """A ttl that reaches beyond every date, put there by hand, ends nothing and breaks nothing."""
    hub = world.open()
    hub.memory.set("k", 1)
    path = where("key", "k")
    world.put(SPACE, {path: edited(world.files(SPACE)[path], ttl=1e300, updated_at="9999-12-29T00:00:00Z")})
    assert ["k"] == touched(world, hub)
    assert 0 == hub.memory.sweep()
    assert ["k"] == hub.memory.list()


def test_the_marker_of_a_long_key_has_it(world: World) -> None:
    """Where the name is cut, and again when it moves to where it is not."""
    hub = world.open()
    one, other = "x" * 255 + "1", "x" * 255 + "2"
    hub.memory.set(one, 1, ttl=50)
    (cut,) = [path for path in world.files(SPACE) if path.startswith("index/")]
    assert one == json.loads(world.files(SPACE)[cut])["key"]
    assert ([one], []) == (hub.memory.list(after=one[:-1]), hub.memory.list(after=one))
    hub.memory.set(other, 1)
    assert {place(one, LEVELS), place(other, LEVELS)} == {p for p in world.files(SPACE) if p.startswith("index/")}
    hub.memory.delete(other)
    assert [one] == check_namespace(world.snapshot(SPACE)) == hub.memory.list(prefix="x" * 250)
    assert [] == hub.memory.list(prefix="x" * 250 + "y")
