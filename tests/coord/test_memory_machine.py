"""Memory against a dictionary: any order of commands of three users and of people with git, on both stores."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from ghcoord.coord.layout import memory_space
from ghcoord.coord.memory.watch import Watch
from ghcoord.coord.memory.write import CheckKey, DeleteKey, Op, SetKey
from ghcoord.errors import FenceRefused, NotFound, RevisionMismatch
from ghcoord.hub import Hub
from ghcoord.model.memory import MemoryEntry
from ghcoord.store.heads import stamp_of
from tests.coord.memory_checks import check_namespace
from tests.coord.test_machines import Machine, on_disk, run
from tests.coord.world import edited, where

OWNERS = st.sampled_from(["a", "b", "c"])
LONG = "a" * 90
KEYS = ["a", "ab", "a/b", "aé", "x.lock", LONG, LONG + "b", LONG + "/" + "é" * 100]
NAMESPACES = st.sampled_from(["global", "global", "global", "Other"])
NAMES = st.sampled_from(["a", "a", "a", *KEYS])
VALUES = st.sampled_from([None, 0, 1, "text", [1, {"b": None}]])
TTLS = st.sampled_from([None, None, 0.5, 3.0])
PREFIXES = st.sampled_from(["", "a", "a/", "x.", LONG[:50], LONG])


@dataclass
class Value:
    """What the model knows of a key that is set."""

    value: Any
    revision: int
    ends: float | None = None


@dataclass
class Space:
    """A namespace of the model, with what became of each key, oldest first."""

    keys: dict[str, Value] = field(default_factory=dict)
    past: dict[str, list[tuple[int, str, Any, float | None]]] = field(default_factory=dict)
    revisions: list[int] = field(default_factory=list)
    edited: set[str] = field(default_factory=set)
    """Keys that people touched: their past is looked at in tests of its own."""

    def note(self, revision: int, key: str, kind: str, value: Any = None, ends: float | None = None) -> None:
        self.past.setdefault(key, []).append((revision, kind, value, ends))
        if revision not in self.revisions:
            self.revisions.append(revision)


class Follower:
    """A watch of everything, whose mirror must be what is set."""

    def __init__(self, hub: Hub, namespace: str) -> None:
        self._hub, self._namespace = hub, namespace
        self.mirror: dict[str, Any] = {}
        self._seen = hub.revision(memory_space(namespace))
        self._watch = self._make(None)

    def _make(self, since: int | None) -> Watch:
        return Watch(self._hub._context, memory_space(self._namespace), "", prefix=True, since=since)

    def resume(self) -> None:
        """Begin anew from the highest revision that was heard."""
        self._watch = self._make(self._seen)

    def poll(self) -> None:
        for change in self._watch.look():
            assert "resync" != change.kind
            if change.kind == "set":
                self.mirror[change.key] = change.value
            else:
                self.mirror.pop(change.key, None)
            self._seen = max(self._seen, change.revision)


class MemoryMachine(Machine):
    """Three users of two namespaces, who set, compare, delete, list, look back and watch; people edit with git."""

    def __init__(self) -> None:
        super().__init__()
        self.spaces = {name: Space() for name in ("global", "Other")}
        self.followers = {name: Follower(self.hubs["c"], name) for name in self.spaces}
        self.token: int | None = None

    # -- the model

    def ended(self, value: Value) -> bool:
        return value.ends is not None and self.now >= value.ends

    def alive(self, namespace: str) -> dict[str, Value]:
        return {key: value for key, value in self.spaces[namespace].keys.items() if not self.ended(value)}

    def written(self, namespace: str, revision: int) -> None:
        """A write removes what has ended: there are never more ended keys here than it may."""
        space = self.spaces[namespace]
        for key in [key for key, value in space.keys.items() if self.ended(value)]:
            ends = space.keys.pop(key).ends
            space.note(revision, key, "expired", ends=ends)

    def put(self, namespace: str, entry: MemoryEntry) -> None:
        ends = entry.expires_at.timestamp() if entry.expires_at is not None else None
        self.spaces[namespace].keys[entry.key] = Value(entry.value, entry.revision, ends)
        self.spaces[namespace].note(entry.revision, entry.key, "set", entry.value, ends)

    def revision(self, namespace: str) -> int:
        return self.hubs["a"].revision(memory_space(namespace))

    def condition(self, namespace: str, key: str, how: str) -> tuple[int | None, bool]:
        """A revision to compare with, and whether it fits."""
        present = self.alive(namespace).get(key)
        if how == "none":
            return None, True
        if how == "unset":
            return 0, present is None
        if how == "right":
            return (present.revision if present is not None else 0), True
        return 7, False

    # -- commands

    @rule(
        by=OWNERS,
        namespace=NAMESPACES,
        key=NAMES,
        value=VALUES,
        ttl=TTLS,
        how=st.sampled_from(["none", "none", "unset", "right", "wrong"]),
    )
    def set(self, by: str, namespace: str, key: str, value: Any, ttl: float | None, how: str) -> None:
        expected, fits = self.condition(namespace, key, how)
        if not fits:
            with pytest.raises(RevisionMismatch):
                self.hubs[by].memory.set(key, value, namespace, if_revision=expected, ttl=ttl)
            return
        entry = self.hubs[by].memory.set(key, value, namespace, if_revision=expected, ttl=ttl)
        assert (key, value, by, ttl) == (entry.key, entry.value, entry.updated_by, entry.ttl)
        assert entry.revision > max(self.spaces[namespace].revisions, default=0)
        self.put(namespace, entry)
        self.written(namespace, entry.revision)

    @rule(by=OWNERS, namespace=NAMESPACES, key=NAMES, how=st.sampled_from(["none", "right", "wrong"]))
    def delete(self, by: str, namespace: str, key: str, how: str) -> None:
        expected, fits = self.condition(namespace, key, how)
        if not fits:
            with pytest.raises(RevisionMismatch):
                self.hubs[by].memory.delete(key, namespace, if_revision=expected)
            return
        there = key in self.alive(namespace)
        assert there is self.hubs[by].memory.delete(key, namespace, if_revision=expected)
        self.removed(namespace, [key])

    def removed(self, namespace: str, keys: list[str]) -> None:
        space, revision = self.spaces[namespace], self.revision(namespace)
        gone = {key: space.keys.pop(key) for key in keys if key in space.keys}
        for key, value in gone.items():
            if self.ended(value):
                space.note(revision, key, "expired", ends=value.ends)
            else:
                space.note(revision, key, "deleted")
        if gone:
            self.written(namespace, revision)

    @rule(by=OWNERS, data=st.data())
    def change_many(self, by: str, data: Any) -> None:
        """Sets, deletes and checks over both namespaces: all of them, or none when one condition fails."""
        places = st.tuples(NAMESPACES, NAMES)
        ops: list[Op] = []
        fitting = True
        for namespace, key in data.draw(st.lists(places, min_size=1, max_size=5, unique=True)):
            kind = data.draw(st.sampled_from(["set", "delete", "check"]))
            how = data.draw(st.sampled_from(["right" if kind == "check" else "none", "right", "right", "wrong"]))
            expected, fits = self.condition(namespace, key, how)
            fitting = fitting and fits
            if kind == "set":
                ops.append(SetKey(key, data.draw(VALUES), namespace, expected, data.draw(TTLS)))
            elif kind == "delete":
                ops.append(DeleteKey(key, namespace, expected))
            else:
                ops.append(CheckKey(key, expected or 0, namespace))
        if not fitting:
            before = self.world.store().heads()
            with pytest.raises(RevisionMismatch):
                self.hubs[by].memory.apply(ops)
            after = self.world.store().heads()
            assert all(before[space] == after[space] for space in before)
            return
        alive = {(op.namespace, op.key): op.key in self.alive(op.namespace) for op in ops}
        for op, result in zip(ops, self.hubs[by].memory.apply(ops), strict=True):
            if isinstance(op, DeleteKey):
                assert alive[op.namespace, op.key] is result
            elif isinstance(op, CheckKey):
                assert alive[op.namespace, op.key] is (result is not None)
        self.applied(by, ops)

    def applied(self, by: str, ops: list[Op]) -> None:
        for namespace in {op.namespace for op in ops}:
            mine = [op for op in ops if op.namespace == namespace]
            set_ = [op.key for op in mine if isinstance(op, SetKey)]
            for key in set_:
                entry = self.hubs[by].memory.entry(key, namespace)
                assert entry is not None
                self.put(namespace, entry)
            self.removed(namespace, [op.key for op in mine if isinstance(op, DeleteKey)])
            if set_:
                self.written(namespace, self.revision(namespace))

    @rule(by=OWNERS, namespace=NAMESPACES, key=NAMES, right=st.booleans())
    def write_fenced(self, by: str, namespace: str, key: str, right: bool) -> None:
        """Only under the token of the present grant."""
        if self.token is None:
            lock = self.hubs["a"].locks.acquire("x", ttl=10_000)
            assert lock is not None
            self.token = lock.token
        if not right:
            with pytest.raises(FenceRefused):
                self.hubs[by].memory.set(key, "wrong", namespace, fence=("x", self.token + 1))
            return
        entry = self.hubs[by].memory.set(key, self.token, namespace, fence=("x", self.token))
        self.put(namespace, entry)
        self.written(namespace, entry.revision)

    @rule(by=OWNERS, key=NAMES, told=st.booleans())
    def end(self, by: str, key: str, told: bool) -> None:
        """A value that ends at once, seen by who follows or not."""
        self.set(by, "global", key, "short", 0.5, "none")
        if told:
            self.follow("global", resumed=False)
        self.world.runtime.advance(0.6)

    @rule(by=OWNERS, namespace=NAMESPACES)
    def sweep(self, by: str, namespace: str) -> None:
        ended = [key for key, value in self.spaces[namespace].keys.items() if self.ended(value)]
        assert len(ended) == self.hubs[by].memory.sweep(namespace)
        self.written(namespace, self.revision(namespace))

    @rule(by=OWNERS, namespace=NAMESPACES)
    def drop(self, by: str, namespace: str) -> None:
        assert len(self.alive(namespace)) == self.hubs[by].memory.drop_namespace(namespace)
        self.removed(namespace, list(self.spaces[namespace].keys))
        assert namespace not in self.hubs[by].memory.namespaces()

    @rule(seconds=st.sampled_from([0.1, 0.6, 3.5]))
    def wait(self, seconds: float) -> None:
        self.world.runtime.advance(seconds)

    # -- people

    @precondition(lambda self: any(self.alive(name) for name in self.spaces))
    @rule(data=st.data(), how=st.sampled_from(["edit", "delete", "move ttl", "damage index", "drop index"]))
    def edit_by_hand(self, data: Any, how: str) -> None:
        """A person changes or deletes a record, or something in the index, and pushes."""
        namespace = data.draw(st.sampled_from([name for name in self.spaces if self.alive(name)]))
        key = data.draw(st.sampled_from(sorted(self.alive(namespace))))
        space, path = self.spaces[namespace], where("key", key)
        files = self.world.files(memory_space(namespace))
        changes: dict[str, bytes | None] = {}
        if how == "delete":
            changes = {path: None}
            del space.keys[key]
            space.edited.add(key)
        elif how == "edit":
            changes = {path: edited(files[path], value="by hand")}
            space.keys[key].value = "by hand"
            space.edited.add(key)
        elif how == "move ttl":
            changes = {path: edited(files[path], ttl=10_000.0)}
            space.keys[key].ends = json.loads(files[path])["revision"] / 1000 + 10_000.0
            space.edited.add(key)
        elif how == "damage index":
            index = sorted(one for one in files if one.startswith("index/"))
            changes = {data.draw(st.sampled_from(index)): None, "index/zz/=junk": b"{", "index/ab": b"{}"}
        else:
            changes = {one: None for one in files if one.startswith(("index/", "expiry/")) or one == "namespace.json"}
        self.world.put(memory_space(namespace), changes)
        # The next write takes it over; the model goes on from there.
        entry = self.hubs["b"].memory.set("taken over", 1, namespace)
        self.put(namespace, entry)
        self.written(namespace, entry.revision)
        for one, value in space.keys.items():
            present = self.hubs["b"].memory.entry(one, namespace)
            assert present is not None
            if value.revision != present.revision:
                value.revision = present.revision
                space.edited.add(one)

    # -- looking

    @rule(namespace=NAMESPACES, prefix=PREFIXES, after=st.none() | NAMES, limit=st.none() | st.integers(0, 4))
    def list_page(self, namespace: str, prefix: str, after: str | None, limit: int | None) -> None:
        alive = self.alive(namespace)
        keys = sorted(key for key in alive if key.startswith(prefix) and (after is None or key > after))[:limit]
        memory = self.hubs["b"].memory
        assert keys == memory.list(namespace, prefix, limit=limit, after=after)
        page = memory.entries(namespace, prefix, limit=limit, after=after)
        assert [(key, alive[key].value) for key in keys] == [(entry.key, entry.value) for entry in page]

    @rule(namespace=NAMESPACES, key=NAMES)
    def look_back(self, namespace: str, key: str) -> None:
        """Every version of the key, and its value at every revision of the namespace."""
        space, memory = self.spaces[namespace], self.hubs["a"].memory
        if key in space.edited:
            return
        past = space.past.get(key, [])
        found = memory.history(key, namespace, limit=None)
        assert [(r, k, v) for r, k, v, _ in reversed(past)] == [(one.revision, one.kind, one.value) for one in found]
        for revision in space.revisions[-6:]:
            kind, value, ends = next(
                ((k, v, e) for r, k, v, e in reversed(past) if r <= revision), ("never", None, None)
            )
            if kind == "set" and (ends is None or revision / 1000 < ends):
                assert value == memory.get(key, namespace, revision=revision)
            else:
                with pytest.raises(NotFound):
                    memory.get(key, namespace, revision=revision)

    def follow(self, namespace: str, resumed: bool) -> None:
        follower = self.followers[namespace]
        if resumed:
            follower.resume()
        follower.poll()
        assert {key: value.value for key, value in self.alive(namespace).items()} == follower.mirror

    @rule(namespace=NAMESPACES)
    def follow_on(self, namespace: str) -> None:
        self.follow(namespace, resumed=False)

    @rule(namespace=NAMESPACES)
    def follow_from_what_was_heard(self, namespace: str) -> None:
        self.follow(namespace, resumed=True)

    @rule()
    def carry_over(self) -> None:
        """Exported and brought into another hub it is the same."""
        from tests.coord.world import World

        other = World()
        target = other.open()
        target.memory.bring_in(self.hubs["a"].memory.export())
        for name in self.spaces:
            wanted = {key: value.value for key, value in self.alive(name).items()}
            assert wanted == {entry.key: entry.value for entry in target.memory.entries(name)}
            check_namespace(other.snapshot(memory_space(name)))
        other.close()

    @invariant()
    def the_records_are_the_model(self) -> None:
        store = self.world.store()
        for name, space in self.spaces.items():
            snapshot = self.world.snapshot(memory_space(name))
            assert sorted(self.alive(name)) == self.hubs["c"].memory.list(name)
            if snapshot.head is not None and stamp_of(store, store.commit_info(snapshot.head)) is not None:
                assert sorted(space.keys) == check_namespace(snapshot)
        held = {name: len(space.keys) for name, space in self.spaces.items() if space.keys}
        assert held == {one.namespace: one.keys for one in self.hubs["b"].memory.usage()}


def test_memory_follows_the_model() -> None:
    """Any order of commands: values, conditions, ttl, pages, history, watches, index and counts are the model's."""
    run(MemoryMachine, 10, 30)


def test_the_same_on_disk() -> None:
    """The local store behaves as the one in memory."""
    run(on_disk(MemoryMachine), 2, 10)


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: MemoryMachine, lambda: on_disk(MemoryMachine)], ids=["memory", "local"])
def test_far_more_of_it(make: Callable[[], type[Machine]]) -> None:
    """As above, longer."""
    machine = make()
    run(machine, 100 if machine.where == "memory" else 15, 50)
