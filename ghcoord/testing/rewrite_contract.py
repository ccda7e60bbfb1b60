"""The contract of collecting where history is written again: heads move, and nobody who writes meanwhile is harmed."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import Conflict, OutcomeUnknown
from ghcoord.store.base import ROOT_RECORD, ChangeSet, Collected, Oid, Operation, Store, Tell
from ghcoord.store.heads import HeadGuard, find_operation, revision_of, walk
from ghcoord.store.message import read_events
from ghcoord.store.transact import Transactor
from ghcoord.store.wrappers import WrappedStore
from ghcoord.testing.contract import HubUnderTest, content, in_threads
from ghcoord.testing.transact_contract import increment, value_of


def _unheard(what: str, count: int) -> None:
    """Nobody listens."""


def collect(store: Store, *cut: Oid, dry_run: bool = False, tell: Tell = _unheard) -> Collected:
    """Let history end at ``cut``."""
    return store.collect(cut, dry_run=dry_run, tell=tell)


def history(store: Store, head: Oid) -> list[Oid]:
    """The commits from ``head`` on."""
    return [info.oid for info, _ in walk(store, head)]


def filled(store: Store, space: str = "fleet", times: int = 6) -> list[Oid]:
    """Increments, one commit each; the heads, oldest first."""
    transactor = Transactor(store, SystemRuntime())
    made = []
    for _ in range(times):
        transactor.transact([space], lambda tx: increment(tx, space))
        made.append(store.heads()[space])
    return made


class RewriteContract:
    """What every driver promises whose :meth:`collect` writes history again."""

    def test_what_stays_is_as_it_was(self, hub: HubUnderTest) -> None:
        """Above the cut: the same trees, authors, times and messages; on top one commit with a higher revision."""
        store = hub.open()
        made = filled(store)
        others = filled(store, "locks", 2)
        before = {oid: store.commit_info(oid) for oid in made}
        files = content(store, made[-1])
        done = collect(store, made[3])
        assert 3 == done.commits_cut
        fresh = hub.open()
        heads = fresh.heads()
        assert others[-1] == heads["locks"], "what needs no cut is not touched"
        infos = [fresh.commit_info(oid) for oid in history(fresh, heads["fleet"])]
        assert [made[5], made[4], made[3]] != [info.oid for info in infos[1:]]
        kept = [before[oid] for oid in (made[5], made[4], made[3])]
        assert [(one.tree, one.time, one.message) for one in kept] == [
            (one.tree, one.time, one.message) for one in infos[1:]
        ]
        if store.capabilities.keeps_author:
            assert [one.author for one in kept] == [one.author for one in infos[1:]]
        assert () == infos[-1].parents
        after = content(fresh, heads["fleet"])
        assert {**files, ROOT_RECORD: after[ROOT_RECORD]} == after
        revisions = [revision_of(fresh, "fleet", info.oid) for info in infos]
        assert sorted(set(revisions), reverse=True) == revisions
        assert "history collected" in "".join(read_events(infos[0].message))
        hub.check()

    def test_a_dry_run_changes_nothing(self, hub: HubUnderTest) -> None:
        """It tells how many commits would go."""
        store = hub.open()
        made = filled(store)
        told = collect(store, made[3], dry_run=True)
        assert (3, made[-1]) == (told.commits_cut, hub.open().heads()["fleet"])
        done = collect(store, made[3])
        assert (told.commits, told.commits_cut) == (done.commits, done.commits_cut)

    def test_nothing_to_cut(self, hub: HubUnderTest) -> None:
        """A cut at the first commit, or at one that is gone by now, moves no head."""
        store = hub.open()
        made = filled(store)
        assert 0 == collect(store, made[0], "1" * 40).commits_cut
        assert made[-1] == store.heads()["fleet"]
        collect(store, made[2])
        head = store.heads()["fleet"]
        assert 0 == collect(store, made[2]).commits_cut
        assert head == store.heads()["fleet"]

    def test_again_and_deeper(self, hub: HubUnderTest) -> None:
        """A second collection goes on from the first."""
        store = hub.open()
        made = filled(store)
        collect(store, made[1])
        now = history(store, store.heads()["fleet"])
        assert 6 == len(now)
        collect(store, now[1])
        assert 3 == len(history(hub.open(), hub.open().heads()["fleet"]))
        hub.check()

    def test_those_who_had_it_open_go_on(self, hub: HubUnderTest) -> None:
        """Their commit on the old head is a conflict, their transactions go through, and their guard is content."""
        store, other = hub.open(), hub.open()
        made = filled(store)
        transactor = Transactor(other, SystemRuntime())
        assert 7 == transactor.transact(["fleet"], increment)
        guard = HeadGuard(other)
        old = other.heads()
        guard.check(old, ["fleet"])
        collect(store, made[3])
        with pytest.raises(Conflict):
            other.commit({"fleet": old["fleet"]}, {"fleet": {"count": b"0"}}, hub.op(9))
        guard.check(other.heads(), ["fleet"])
        assert 8 == transactor.transact(["fleet"], increment)
        assert 8 == value_of(hub.open())

    def test_a_writer_that_is_first(self, hub: HubUnderTest) -> None:
        """Whoever commits between the plan and its commit is not lost, and history is shorter all the same."""
        store, other = hub.open(), hub.open()
        made = filled(store)
        writer = Transactor(other, SystemRuntime())
        turns = iter(range(2))

        def meanwhile(what: str, count: int) -> None:
            if what.startswith("writing") and next(turns, None) is not None:
                writer.transact(["fleet"], increment)

        assert 5 == collect(store, made[-1], tell=meanwhile).commits_cut
        fresh = hub.open()
        assert 8 == value_of(fresh)
        assert 4 == len(history(fresh, fresh.heads()["fleet"]))
        hub.check()

    @pytest.mark.parametrize("landed", [True, False])
    def test_a_reply_lost_before_a_collection(self, hub: HubUnderTest, landed: bool) -> None:
        """A commit in flight is found, or ruled out, in the history that was written again: applied once."""
        filled(hub.open(), times=3)
        store = _CollectedMeanwhile(hub, landed=landed)
        assert 4 == Transactor(store, SystemRuntime()).transact(["fleet"], increment, timeout=30)
        assert 4 == value_of(hub.open())

    def test_operations_are_found_as_before(self, hub: HubUnderTest) -> None:
        """Operation ids of the commits that stay are found, those of others not, whatever head was expected."""
        store = hub.open()
        made = filled(store)
        stamps = {oid: stamp for info, stamp in walk(store, made[-1]) for oid in [info.oid]}
        collect(store, made[3])
        head = store.heads()["fleet"]
        for at in (4, 5):
            stamp, floor = stamps[made[at]], stamps[made[at - 1]]
            assert stamp is not None
            assert floor is not None
            assert find_operation(store, head, stamp.ops, until=made[at - 1], above=floor.revision)
            assert not find_operation(store, head, frozenset({"other"}), until=made[at - 1], above=floor.revision)

    def test_beside_writers(self, hub: HubUnderTest) -> None:
        """Every acknowledged write is there, each value was given once, and revisions only rise."""
        collector = hub.open()
        made = filled(collector, times=4)
        seen: list[int] = []
        revisions: list[int] = []
        done = threading.Event()

        def write(number: int) -> None:
            transactor = Transactor(hub.open(), SystemRuntime())
            mine: list[int] = []
            for _ in range(6):
                seen.append(transactor.transact(["fleet"], increment, timeout=60))
                mine.append(transactor.guard.marks["fleet"].revision)
            assert sorted(set(mine)) == mine
            revisions.extend(mine)

        def gc() -> None:
            runs = 0
            while not done.is_set() and runs < 20:
                head = collector.heads()["fleet"]
                kept = history(collector, head)
                try:
                    collect(collector, kept[min(2, len(kept) - 1)])
                except Exception as error:
                    if "faster" not in str(error):
                        raise
                runs += 1
                done.wait(0.05)

        def writers() -> None:
            try:
                in_threads(lambda: write(0), lambda: write(1))
            finally:
                done.set()

        in_threads(writers, gc)
        assert len(made) + 12 == value_of(hub.open())
        assert list(range(5, 17)) == sorted(seen)
        assert len(set(revisions)) == len(revisions)
        hub.check()

    def test_a_persons_commit_is_adopted_first(self, hub: HubUnderTest) -> None:
        """A space whose head is a person's is left for the next time, and the report says so."""
        store = hub.open()
        made = filled(store)
        by_hand = Operation(ids=(), revision=0, time=1)
        head = store.commit({"fleet": made[-1]}, {"fleet": {"note": b"mine"}}, by_hand)["fleet"]
        done = collect(store, made[3])
        assert (0, head) == (done.commits_cut, store.heads()["fleet"])
        assert "fleet" in done.postponed


class _CollectedMeanwhile(WrappedStore):
    """Loses its first request, or the reply to it, and all history up to it is collected before anybody can look."""

    def __init__(self, hub: HubUnderTest, *, landed: bool) -> None:
        super().__init__(hub.open())
        self._hub = hub
        self._landed = landed
        self._lost = False

    def commit(
        self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
    ) -> dict[str, Oid]:
        if self._lost:
            return self.inner.commit(expected, changes, op)
        self._lost = True
        if self._landed:
            self.inner.commit(expected, changes, op)
        other = self._hub.open()
        collect(other, other.heads()["fleet"])
        raise OutcomeUnknown("no answer")
