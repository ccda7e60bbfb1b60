"""The contract of the storage port, as tests that every driver must pass.

A driver's test file subclasses :class:`StoreContract` (and
:class:`ghcoord.testing.transact_contract.TransactContract`) and provides the
fixture ``hub``.  Every test takes the hub alone, so that the same methods can
be run by hand against a driver that is wrong on purpose.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable

import pytest

from ghcoord.errors import Conflict, Corrupt, OutcomeUnknown, StoreError, TooLarge, Unavailable, Unsupported
from ghcoord.store.base import ChangeSet, Oid, Operation
from ghcoord.store.heads import walk
from ghcoord.store.message import read_events, read_stamp, read_summary
from ghcoord.store.snapshot import Snapshot, diff
from ghcoord.testing.under_test import EPOCH, HubUnderTest, content, in_threads, refuses_several

__all__ = ["EPOCH", "HubUnderTest", "StoreContract", "content", "in_threads"]


class StoreContract:
    """What every driver promises at the port."""

    # -- comparing

    def test_a_new_hub_is_empty(self, hub: HubUnderTest) -> None:
        """A hub without spaces has no heads."""
        assert {} == hub.open().heads()

    def test_create_needs_absence(self, hub: HubUnderTest) -> None:
        """``None`` as the expected head creates a space, and only where there is none."""
        store = hub.open()
        made = store.commit({"fleet": None}, {"fleet": {"a.json": b"1"}}, hub.op())
        assert {"fleet": made["fleet"]} == store.heads()
        with pytest.raises(Conflict):
            store.commit({"fleet": None}, {"fleet": {"a.json": b"2"}}, hub.op())
        assert made == store.heads()
        assert {"a.json": b"1"} == content(store, made["fleet"])

    def test_a_head_is_not_expected_where_there_is_none(self, hub: HubUnderTest) -> None:
        """Expecting some head of a space that does not exist is a conflict."""
        store = hub.open()
        head = hub.put(store, "fleet", {"a": b"1"})
        with pytest.raises(Conflict):
            store.commit({"locks": head}, {"locks": {"a": b"2"}}, hub.op())
        assert {"fleet": head} == store.heads()

    def test_commits_are_direct_children(self, hub: HubUnderTest) -> None:
        """Each commit's only parent is the expected head; the first has none."""
        store = hub.open()
        heads = [hub.put(store, "fleet", {"n": b"%d" % n}) for n in range(3)]
        assert [(), (heads[0],), (heads[1],)] == [store.commit_info(head).parents for head in heads]

    def test_stale_expectation_changes_nothing(self, hub: HubUnderTest) -> None:
        """A commit on an outdated head is a conflict, and the hub stays as it is."""
        store = hub.open()
        first = hub.put(store, "fleet", {"a": b"1"})
        second = hub.put(store, "fleet", {"a": b"2"})
        with pytest.raises(Conflict):
            store.commit({"fleet": first}, {"fleet": {"a": b"3"}}, hub.op())
        assert {"fleet": second} == store.heads()

    def test_several_spaces_whole(self, hub: HubUnderTest) -> None:
        """A commit over several spaces, old and new, moves them all."""
        store = hub.open()
        if refuses_several(hub, store):
            return
        old = hub.put(store, "fleet", {"a": b"1"})
        made = store.commit({"fleet": old, "locks": None}, {"fleet": {"a": b"2"}, "locks": {"b": b"3"}}, hub.op())
        assert {"fleet", "locks"} == set(made)
        assert made == store.heads()
        assert {"a": b"2"} == content(store, made["fleet"])
        assert {"b": b"3"} == content(store, made["locks"])

    def test_several_spaces_or_nothing(self, hub: HubUnderTest) -> None:
        """One stale head among several spaces, whichever it is, leaves every space as it was."""
        store = hub.open()
        if refuses_several(hub, store):
            return
        names = ["audit", "fleet", "locks"]
        old = {name: hub.put(store, name, {"a": b"1"}) for name in names}
        for stale in names:
            heads = {**old, stale: hub.put(store, stale, {"a": b"new"})}
            with pytest.raises(Conflict):
                store.commit(old, {name: {"a": b"bad"} for name in names}, hub.op())
            assert heads == store.heads(), f"with {stale} stale"
            old = heads

    def test_compared_spaces_are_checked(self, hub: HubUnderTest) -> None:
        """A space that is only expected is compared as strictly as one that changes, and not written, or refused."""
        store = hub.open()
        fleet, locks = hub.put(store, "fleet", {"a": b"1"}), hub.put(store, "locks", {"b": b"1"})
        if not store.capabilities.compare_only:
            with pytest.raises(Unsupported):
                store.commit({"fleet": fleet, "locks": locks}, {"fleet": {"a": b"2"}}, hub.op())
            assert {"fleet": fleet, "locks": locks} == store.heads()
            return
        made = store.commit({"fleet": fleet, "locks": locks, "memory/x": None}, {"fleet": {"a": b"2"}}, hub.op())
        assert {"fleet": made["fleet"], "locks": locks} == store.heads()
        moved = hub.put(store, "locks", {"b": b"2"})
        wrong: list[dict[str, Oid | None]] = [{"locks": locks}, {"locks": None}, {"locks": moved, "meta": locks}]
        for expected in wrong:
            with pytest.raises(Conflict):
                store.commit({"fleet": made["fleet"], **expected}, {"fleet": {"a": b"3"}}, hub.op())
            assert {"fleet": made["fleet"], "locks": moved} == store.heads()

    def test_spaces_do_not_disturb_each_other(self, hub: HubUnderTest) -> None:
        """A commit to one space goes through whatever happened in another."""
        one, two = hub.open(), hub.open()
        fleet = hub.put(one, "fleet", {"a": b"1"})
        hub.put(two, "memory/global", {"b": b"1"})
        made = one.commit({"fleet": fleet}, {"fleet": {"a": b"2"}}, hub.op())
        assert made["fleet"] == two.heads()["fleet"]

    def test_handles_see_each_other(self, hub: HubUnderTest) -> None:
        """What one handle committed, another reads at once, objects included, and can build on."""
        one, two = hub.open(), hub.open()
        for n in range(5):
            writer, reader = (one, two) if n % 2 else (two, one)
            head = hub.put(writer, "fleet", {f"dir/{n}": b"%d" % n})
            assert {"fleet": head} == reader.heads()
            assert {f"dir/{m}": b"%d" % m for m in range(n + 1)} == content(reader, head)

    def test_one_winner_a_head(self, hub: HubUnderTest) -> None:
        """Of many threads on two handles that commit on one head, exactly one wins, round after round."""
        handles = [hub.open(), hub.open()]
        for turn in range(8):
            expected = handles[0].heads().get("fleet")
            won: list[Oid] = []

            def race(number: int, expected: Oid | None = expected, won: list[Oid] = won) -> None:
                with contextlib.suppress(Conflict):
                    made = handles[number % 2].commit({"fleet": expected}, {"fleet": {"n": b"%d" % number}}, hub.op())
                    won.append(made["fleet"])

            in_threads(*(lambda number=number: race(number) for number in range(6)))
            assert 1 == len(won), f"round {turn}"
            assert {"fleet": won[0]} == handles[1].heads()

    def test_same_content_in_the_same_second_has_one_winner(self, hub: HubUnderTest) -> None:
        """Two operations that write the same content in one second are two commits, and one loses."""
        one, two = hub.open(), hub.open()
        base = hub.put(one, "fleet", {"a": b"0"})
        ops = [hub.op(7), hub.op(7)]
        won = []
        for store, op in zip((one, two), ops, strict=True):
            with contextlib.suppress(Conflict):
                won.append(store.commit({"fleet": base}, {"fleet": {"a": b"1"}}, op)["fleet"])
        assert 1 == len(won)
        stamp = read_stamp(one.commit_info(won[0]).message)
        assert stamp is not None
        assert frozenset(ops[0].ids) == stamp.ops

    def test_a_failure_left_nothing(self, hub: HubUnderTest) -> None:
        """A commit reported as failed has not happened; only ``OutcomeUnknown`` leaves that open."""
        store = hub.open()
        head: Oid | None = None
        for number in range(12):
            try:
                head = store.commit({"fleet": head}, {"fleet": {"n": b"%d" % number}}, hub.op())["fleet"]
            except OutcomeUnknown:
                head = store.heads().get("fleet")
            except (Conflict, Unavailable):
                pass  # reported as failed, so nothing may have happened
            assert head == store.heads().get("fleet"), "a commit reported as failed happened"

    # -- content

    def test_deleting(self, hub: HubUnderTest) -> None:
        """Deleted files go, directories left empty go with them, and a missing path may be deleted."""
        store = hub.open()
        hub.put(store, "fleet", {"a/b/c": b"1", "a/b/d": b"2", "e/f": b"3", "g": b"4"})
        head = hub.put(store, "fleet", {"a/b/c": None, "e/f": None, "no/such/file": None, "g/below/file": None})
        snapshot = Snapshot(store, "fleet", head)
        assert {"a", "g"} == set(snapshot.entries(""))
        assert {"a/b/d": b"2", "g": b"4"} == content(store, head)
        head = hub.put(store, "fleet", {"a/b/d": None, "g": None})
        assert {} == content(store, head)
        assert {"fleet": head} == store.heads()

    def test_a_file_may_become_a_directory_and_back(self, hub: HubUnderTest) -> None:
        """The last write of a path decides whether it is a file or a directory."""
        store = hub.open()
        hub.put(store, "fleet", {"x": b"file"})
        assert {"x/y": b"below"} == content(store, hub.put(store, "fleet", {"x/y": b"below"}))
        assert {"x": b"again"} == content(store, hub.put(store, "fleet", {"x": b"again", "x2": None}))

    def test_untouched_files_stay(self, hub: HubUnderTest) -> None:
        """A change leaves every other file and its id alone, at any depth."""
        store = hub.open()
        files = {"/".join(["d"] * depth + [f"f{depth}"]): b"%d" % depth for depth in range(12)}
        first = hub.put(store, "fleet", files)
        second = hub.put(store, "fleet", {"d/d/d/new": b"x"})
        assert {**files, "d/d/d/new": b"x"} == content(store, second)
        assert Snapshot(store, "", first).entry("d/f1") == Snapshot(store, "", second).entry("d/f1")

    def test_names_and_order(self, hub: HubUnderTest) -> None:
        """Odd names and git's order of files and directories come out as they went in."""
        store = hub.open()
        names = ["a", "a-b", "a.b", "a.b/c", "a/b", "a0", "a=b/c", "Ä ö/ü", "日本語", "🙂", "-x", "x y", "%2f", "~"]
        files = {name + ("" if "/" in name else "!"): name.encode() for name in names}
        files.update({"foo.bar": b"1", "foo/bar": b"2", "foo-bar": b"3", "foo0": b"4"})
        head = hub.put(store, "fleet", files)
        assert files == content(store, head)
        listed = hub.listing(head)
        if listed is not None:
            assert listed == {name: entry.oid for name, entry in Snapshot(store, "", head).walk()}
        hub.check()

    def test_any_bytes(self, hub: HubUnderTest) -> None:
        """Content is bytes: empty, binary, line ends of all kinds, and a megabyte."""
        store = hub.open()
        big = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(32_768))
        files = {"empty": b"", "zero": b"\0\0", "crlf": b"a\r\nb\rc\n", "all": bytes(range(256)), "big": big}
        assert files == content(store, hub.put(store, "fleet", files))
        hub.check()

    def test_too_large(self, hub: HubUnderTest) -> None:
        """More than the driver takes is refused as too large, and nothing is changed."""
        store = hub.open()
        limit = store.capabilities.max_commit_bytes
        half = bytes(limit // 2 + 1)
        parts: dict[str, ChangeSet] = {"fleet": {"a": half}, "locks": {"b": half}}
        if not store.capabilities.multi_space:
            parts = {"fleet": {"a": half, "b": half}}
        with pytest.raises(TooLarge):
            store.commit(dict.fromkeys(parts), parts, hub.op())
        assert {} == store.heads()

    def test_missing_objects(self, hub: HubUnderTest) -> None:
        """An object that is not there, or of another kind, is reported as corruption."""
        store = hub.open()
        head = hub.put(store, "fleet", {"a": b"1"})
        reads: list[Callable[[Oid], object]] = [store.commit_info, store.tree, store.blob]
        for read in reads:
            with pytest.raises(Corrupt):
                read("1" * 40)
        for read in reads[1:]:
            with pytest.raises(Corrupt):
                read(head)

    # -- history

    def test_trailers(self, hub: HubUnderTest) -> None:
        """Every changed space's commit names all its operations, the revision, the events and the actor."""
        store = hub.open()
        event = '{"at": 1.5, "kind": "task queued"}'
        op = Operation(
            ids=("one", "two"),
            revision=1_700_000_000_123,
            time=EPOCH,
            actor="host:42",
            summaries={"fleet": "task queued t1"},
            events={"fleet": (event,)},
        )
        made: dict[str, Oid] = {}
        for spaces in [["fleet", "locks"]] if store.capabilities.multi_space else [["fleet"], ["locks"]]:
            made |= store.commit(dict.fromkeys(spaces), {space: {"a": b"1"} for space in spaces}, op)
        infos = {space: hub.open().commit_info(head) for space, head in made.items()}
        for info in infos.values():
            stamp = read_stamp(info.message)
            assert stamp is not None
            assert (frozenset({"one", "two"}), 1_700_000_000_123) == (stamp.ops, stamp.revision)
            assert "host:42" == info.author
            assert EPOCH == info.time or not store.capabilities.keeps_author
        assert [event] == read_events(infos["fleet"].message)
        assert "fleet: task queued t1" == read_summary(infos["fleet"].message)
        assert "[skip ci]" in infos["locks"].message

    def test_history(self, hub: HubUnderTest) -> None:
        """All commits of a space can be walked from its head, newest first."""
        store = hub.open()
        heads = [hub.put(store, "fleet", {"n": b"%d" % n}, revision=n + 1) for n in range(6)]
        assert heads[::-1] == [info.oid for info, _ in walk(hub.open(), heads[-1])]
        assert [6, 5, 4, 3, 2, 1] == [stamp.revision for _, stamp in walk(store, heads[-1]) if stamp]

    def test_snapshots_never_change(self, hub: HubUnderTest) -> None:
        """A snapshot reads the same while others write, and after."""
        writer, reader = hub.open(), hub.open()
        head = hub.put(writer, "fleet", {f"d{n % 3}/{n}": b"%d" % n for n in range(9)})
        snapshot = Snapshot(reader, "fleet", head)
        before = content(reader, head)

        def write() -> None:
            for n in range(20):
                hub.put(writer, "fleet", {f"d{n % 3}/{n}": b"new"})

        def read() -> None:
            for _ in range(20):
                assert before == {name: reader.blob(entry.oid) for name, entry in snapshot.walk()}

        in_threads(write, read)
        assert before == content(hub.open(), head)

    def test_diff(self, hub: HubUnderTest) -> None:
        """The difference of two commits names the files added, changed and removed, and no others."""
        store = hub.open()
        old = hub.put(store, "fleet", {"same/x": b"1", "d/changed": b"1", "d/gone": b"1"})
        new = hub.put(store, "fleet", {"d/changed": b"2", "d/gone": None, "e/added": b"3"})
        found = {
            path: (before and store.blob(before), after and store.blob(after))
            for path, before, after in diff(store, Snapshot(store, "", old), Snapshot(store, "", new))
        }
        assert {"d/changed": (b"1", b"2"), "d/gone": (b"1", None), "e/added": (None, b"3")} == found
        assert [] == list(diff(store, Snapshot(store, "", new), Snapshot(store, "", new)))

    def test_heads_are_of_one_moment(self, hub: HubUnderTest) -> None:
        """Two spaces that are always changed together are never read apart; where they may be, reading twice tells."""
        writer, reader = hub.open(), hub.open()
        if refuses_several(hub, writer):
            return
        both = {"fleet": {"n": b"0"}, "locks": {"n": b"0"}}
        made: dict[str, Oid] = dict(writer.commit({"fleet": None, "locks": None}, both, hub.op()))
        done = threading.Event()

        def write() -> None:
            try:
                current: dict[str, Oid | None] = dict(made)
                for n in range(1, 25):
                    changes = {space: {"n": b"%d" % n} for space in current}
                    current = dict(writer.commit(current, changes, hub.op()))
            finally:
                done.set()

        def read() -> None:
            while not done.is_set():
                heads = reader.heads()
                if not reader.capabilities.atomic_heads and reader.heads() != heads:
                    continue
                values = {space: reader.blob(Snapshot(reader, "", heads[space]).entries("")["n"].oid) for space in both}
                assert values["fleet"] == values["locks"]

        in_threads(write, read)

    def test_errors_are_of_the_tree(self, hub: HubUnderTest) -> None:
        """What the driver refuses, it refuses with an error of ghcoord's."""
        store = hub.open()
        with pytest.raises(StoreError):
            store.commit({"fleet": None}, {"fleet": {"x": b"1", "x/y": b"2"}}, hub.op())
        assert {} == store.heads()

    def test_the_clock(self, hub: HubUnderTest) -> None:
        """Two handles read one clock, within the stated margin."""
        one, two = hub.open(), hub.open()
        assert abs(one.server_time() - two.server_time()) <= one.capabilities.clock_margin
