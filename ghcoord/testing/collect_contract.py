"""The contract of collecting: what stays, what goes, and what those notice who use the hub meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import pytest

from ghcoord.errors import Corrupt, OutcomeUnknown
from ghcoord.store.base import ChangeSet, Collected, Oid, Operation, Store
from ghcoord.store.heads import find_operation, walk
from ghcoord.store.objects import object_id
from ghcoord.store.transact import Transactor
from ghcoord.store.wrappers import WrappedStore
from ghcoord.testing.clock import ManualRuntime
from ghcoord.testing.contract import HubUnderTest, content
from ghcoord.testing.transact_contract import increment, value_of


def collect(store: Store, *cut: Oid, dry_run: bool = False) -> Collected:
    """Let history end at ``cut``."""
    return store.collect(cut, dry_run=dry_run, tell=lambda what, count: None)


def history(store: Store, head: Oid) -> list[Oid]:
    """The commits from ``head`` on, as far as they are there."""
    found: list[Oid] = []
    try:
        for info, _ in walk(store, head):
            found.append(info.oid)
    except Corrupt:
        return found
    return found


class CollectContract:
    """What every driver promises that keeps its objects itself."""

    def _filled(self, hub: HubUnderTest, store: Store, commits: int = 6) -> list[Oid]:
        """Commits that each replace one file, keep another, and bring and remove a third; oldest first."""
        hub.put(store, "locks", {"x": b"x"}, 1)
        made = [hub.put(store, "fleet", {"kept/a": b"a", "changing": b"0"}, 1)]
        for n in range(1, commits):
            made.append(
                hub.put(store, "fleet", {"changing": b"%d" % n, f"old/{n}": b"%d" % n, f"old/{n - 1}": None}, n + 1)
            )
        return made

    def test_history_ends_at_the_cut(self, hub: HubUnderTest) -> None:
        """Heads are untouched, commits down to the cut can be read whole, those below are gone."""
        store = hub.open()
        made = self._filled(hub, store)
        before = store.heads()
        files = [content(store, oid) for oid in made]
        done = collect(store, made[3])
        assert (4, 3) == (done.commits, done.commits_cut)
        for handle in (store, hub.open()):
            assert before == handle.heads()
            assert files[3:] == [content(handle, oid) for oid in made[3:]]
            assert b"x" == content(handle, before["locks"])["x"]
        fresh = hub.open()  # one that wrote the old commits may remember them
        assert made[:2:-1] == history(fresh, made[-1])
        for gone in made[:3]:
            with pytest.raises(Corrupt):
                fresh.commit_info(gone)
        hub.check()

    def test_the_hub_gets_smaller(self, hub: HubUnderTest) -> None:
        """What only the past needed takes no room any more."""
        store = hub.open()
        made = [hub.put(store, "fleet", {"big": b"%d" % n * 50_000, "small": b"x"}, n + 1) for n in range(8)]
        done = collect(store, made[-1])
        assert done.objects < 8
        assert done.bytes_after < done.bytes_before
        with pytest.raises(Corrupt):
            hub.open().blob(object_id("blob", b"0" * 50_000))

    def test_a_dry_run_changes_nothing(self, hub: HubUnderTest) -> None:
        """It tells what the run would do, and everything is still there."""
        store = hub.open()
        made = self._filled(hub, store)
        told = collect(store, made[3], dry_run=True)
        assert made[::-1] == history(hub.open(), made[-1])
        done = collect(store, made[3])
        assert (told.commits, told.commits_cut, told.objects) == (done.commits, done.commits_cut, done.objects)
        assert abs(told.bytes_after - done.bytes_after) < 100

    def test_those_who_had_it_open_go_on(self, hub: HubUnderTest) -> None:
        """A handle from before reads what it reads next, and its commit on the old head is no conflict."""
        store, other = hub.open(), hub.open()
        made = self._filled(hub, store)
        assert b"5" == content(other, made[-1])["changing"]
        collect(store, made[-1])
        assert b"a" == content(other, made[-1])["kept/a"]
        head = other.commit({"fleet": made[-1]}, {"fleet": {"changing": b"next"}}, hub.op(9))["fleet"]
        assert {"kept/a": b"a", "changing": b"next", "old/5": b"5"} == content(hub.open(), head)
        assert [head, made[-1]] == history(hub.open(), head)
        hub.check()

    def test_content_that_comes_back_is_there(self, hub: HubUnderTest) -> None:
        """A file as it was before the cut can be written again: nobody counts on what was removed."""
        store, other = hub.open(), hub.open()
        first = hub.put(store, "fleet", {"d/file": b"once", "d/other": b"o"}, 1)
        second = hub.put(other, "fleet", {"d/file": b"twice"}, 2)
        assert content(store, first)["d/file"] == b"once"
        collect(other, second)
        third = hub.put(store, "fleet", {"d/file": b"once"}, 3)
        assert {"d/file": b"once", "d/other": b"o"} == content(hub.open(), third)
        hub.check()

    def test_again_and_deeper(self, hub: HubUnderTest) -> None:
        """Collecting goes on from an earlier cut, and a cut below that one changes nothing."""
        store = hub.open()
        made = self._filled(hub, store)
        assert 2 == collect(store, made[2]).commits_cut
        assert 0 == collect(store, made[0]).commits_cut
        assert made[:1:-1] == history(hub.open(), made[-1])
        assert 2 == collect(hub.open(), made[4]).commits_cut
        assert made[:3:-1] == history(hub.open(), made[-1])
        hub.check()

    def test_a_merge_keeps_both_sides(self, hub: HubUnderTest) -> None:
        """The cut may have several commits; each stays, with what leads to it."""
        store = hub.open()
        made = self._filled(hub, store)
        locks = store.heads()["locks"]
        newer = hub.put(store, "locks", {"x": b"y"}, 2)
        collect(store, made[4], locks)
        assert [newer, locks] == history(hub.open(), newer)
        assert [made[5], made[4]] == history(hub.open(), made[5])

    def test_a_missing_past_rules_nothing_out(self, hub: HubUnderTest) -> None:
        """An operation is not "lost" where the history that would tell has been collected: nobody knows."""
        store = hub.open()
        made = self._filled(hub, store)
        ops = frozenset({"sought"})
        assert not find_operation(store, made[5], ops, until=made[1], above=2)
        collect(store, made[4])
        with pytest.raises(Corrupt):
            find_operation(hub.open(), made[5], ops, until=made[1], above=2)

    def test_a_reply_lost_before_a_collection(self, hub: HubUnderTest) -> None:
        """With the trailers collected it is won, if remembered, or unknown; never taken for lost and applied again."""
        runtime = ManualRuntime()
        hub.put(hub.open(), "fleet", {"a": b"a"}, 1)
        store = _CollectedMeanwhile(hub)
        with contextlib.suppress(OutcomeUnknown):
            assert 1 == Transactor(store, runtime).transact(["fleet"], increment, timeout=5)
        assert 1 == value_of(hub.open())


class _CollectedMeanwhile(WrappedStore):
    """Loses the reply of its first commit, and all history with it before anybody can look."""

    def __init__(self, hub: HubUnderTest) -> None:
        super().__init__(hub.open())
        self._hub = hub
        self._lost = False

    def commit(
        self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
    ) -> dict[str, Oid]:
        made = self.inner.commit(expected, changes, op)
        if self._lost:
            return made
        self._lost = True
        other = self._hub.open()
        for n in range(2):
            head = self._hub.put(other, "fleet", {"a": b"%d" % n}, op.revision + 1 + n)
        collect(other, head)
        raise OutcomeUnknown("no answer")
