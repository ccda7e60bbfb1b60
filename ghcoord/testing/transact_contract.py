"""What ``transact`` promises on every driver, as tests.

Here the driver, the operation ids and the retry loop are tested together:
these promises are the ones that everything above the store relies on.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import HeadRegressed, OutcomeUnknown, RevisionMismatch, Unavailable, Unsupported
from ghcoord.store.base import ROOT_RECORD, ChangeSet, Oid, Store
from ghcoord.store.heads import walk
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.transact import Transactor
from ghcoord.store.tx import Tx
from ghcoord.testing.clock import ManualRuntime
from ghcoord.testing.contract import HubUnderTest, in_threads
from ghcoord.testing.faults import CommitFault, FaultyStore, HeadsFault


def increment(tx: Tx, space: str = "fleet", path: str = "count") -> int:
    """Add one to the number at ``path``; returns the new one."""
    value = int(tx.read(space, path) or b"0") + 1
    tx.write(space, path, b"%d" % value)
    return value


def value_of(store: Store, path: str = "count", space: str = "fleet") -> int:
    """The number at ``path`` as committed."""
    return int(Snapshot(store, space, store.heads().get(space)).read(path) or b"0")


class _Gate:
    """Holds the first transaction of a batch until others have queued behind it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, tx: Tx) -> None:
        self.entered.set()
        assert self.open.wait(20)


def batch(transactor: Transactor, runs: list[Callable[[Tx], Any]]) -> list[Any]:
    """Run ``runs`` as one batch, in this order; returns results and exceptions."""
    gate = _Gate()
    results: list[Any] = [None] * len(runs)
    threads = [threading.Thread(target=transactor.transact, args=(["fleet"], gate), daemon=True)]
    threads[0].start()
    assert gate.entered.wait(20)

    def one(at: int, run: Callable[[Tx], Any]) -> None:
        try:
            results[at] = transactor.transact(["fleet"], run)
        except Exception as error:
            results[at] = error

    for at, run in enumerate(runs):
        threads.append(threading.Thread(target=one, args=(at, run), daemon=True))
        threads[-1].start()
        while queued(transactor) <= at:
            threads[-1].join(0.001)
    gate.open.set()
    for thread in threads:
        thread.join(30)
    return results


def queued(transactor: Transactor) -> int:
    """How many transactions wait for the next batch."""
    return len(transactor._queue)


class TransactContract:
    """What every driver and ``transact`` promise together."""

    def test_increments_are_exact(self, hub: HubUnderTest) -> None:
        """Threads on two handles that increment one key end at exactly their number, each value once."""
        transactors = [Transactor(hub.open(), SystemRuntime()) for _ in range(2)]
        seen: list[int] = []

        def work(number: int) -> None:
            for _ in range(6):
                seen.append(transactors[number % 2].transact(["fleet"], increment))

        in_threads(*(lambda number=number: work(number) for number in range(6)))
        assert list(range(1, 37)) == sorted(seen)
        assert 36 == value_of(hub.open())
        hub.check()

    def test_two_spaces_stay_together(self, hub: HubUnderTest) -> None:
        """Transactions that keep two spaces equal never leave or see them different."""
        transactors = [Transactor(hub.open(), SystemRuntime()) for _ in range(2)]
        if not transactors[0].store.capabilities.multi_space:
            with pytest.raises(Unsupported, match="one space at a time"):
                transactors[0].transact(["fleet", "locks"], increment)
            return

        def both(tx: Tx) -> tuple[int, int]:
            return increment(tx, "fleet"), increment(tx, "locks")

        def work(number: int) -> None:
            for _ in range(6):
                one, two = transactors[number].transact(["fleet", "locks"], both)
                assert one == two

        in_threads(lambda: work(0), lambda: work(1))
        store = hub.open()
        assert (12, 12) == (value_of(store, space="fleet"), value_of(store, space="locks"))

    def test_waiting_transactions_leave_together(self, hub: HubUnderTest) -> None:
        """Transactions that wait in one process leave as one commit that names each of them."""
        store = hub.open()
        transactor = Transactor(store, SystemRuntime())
        assert [1, 2, 3, 4, 5, 6] == batch(transactor, [increment] * 6)
        assert 1 == transactor.commits
        [(_, stamp)] = walk(store, store.heads()["fleet"])
        assert stamp is not None
        assert 6 == len(stamp.ops)

    def test_savepoints(self, hub: HubUnderTest) -> None:
        """A transaction that raises changes nothing, and its neighbours in the batch are applied."""
        store = hub.open()
        transactor = Transactor(store, SystemRuntime())

        def bad(tx: Tx) -> None:
            tx.write("fleet", "bad", b"x")
            tx.event("fleet", "bad")
            increment(tx)
            raise RevisionMismatch("not this", expected=1, actual=2)

        results = batch(transactor, [increment, bad, increment])
        assert [1, 2] == [results[0], results[2]]
        assert isinstance(results[1], RevisionMismatch)
        head = store.heads()["fleet"]
        assert {"count", ROOT_RECORD} == set(Snapshot(store, "fleet", head).entries(""))
        assert "bad" not in store.commit_info(head).message

    def test_no_result_before_it_is_durable(self, hub: HubUnderTest) -> None:
        """While a commit is on its way nobody in the batch has a result or an exception."""
        held, release = threading.Event(), threading.Event()

        class Slow(FaultyStore):
            def commit(self, expected: Any, changes: Any, op: Any) -> dict[str, Oid]:
                held.set()
                assert release.wait(20)
                return super().commit(expected, changes, op)

        transactor = Transactor(Slow(hub.open()), SystemRuntime())
        finished: list[str] = []

        def good() -> None:
            transactor.transact(["fleet"], increment)
            finished.append("good")

        def bad(tx: Tx) -> None:
            raise RevisionMismatch("no", expected=1, actual=tx.revision)

        def observe() -> None:
            assert held.wait(20)
            assert [] == finished
            release.set()

        in_threads(good, observe)
        assert ["good"] == finished
        held.clear()
        release.clear()

        def observe_both() -> None:
            assert held.wait(20)
            assert ["good"] == finished
            release.set()

        in_threads(lambda: finished.extend(map(str, batch(transactor, [increment, bad]))), observe_both)
        assert ["good", "2", "no"] == finished

    def test_a_lost_reply_is_applied_once(self, hub: HubUnderTest) -> None:
        """When the answer is lost after the effect, the operation is found and not repeated."""
        faulty = FaultyStore(hub.open())
        transactor = Transactor(faulty, ManualRuntime())
        for n in range(1, 4):
            faulty.fail_commits(CommitFault.REPLY_LOST)
            assert n == transactor.transact(["fleet"], increment)
        assert (3, 3) == (value_of(hub.open()), faulty.requests)

    def test_a_lost_request_is_sent_again(self, hub: HubUnderTest) -> None:
        """When the request is lost, the same one is sent again until it lands, and lands once."""
        faulty = FaultyStore(hub.open())
        transactor = Transactor(faulty, ManualRuntime())
        faulty.fail_commits(CommitFault.REQUEST_LOST, CommitFault.REQUEST_LOST)
        assert 1 == transactor.transact(["fleet"], increment)
        assert (1, 3) == (value_of(hub.open()), faulty.requests)

    def test_a_late_request_is_applied_once(self, hub: HubUnderTest) -> None:
        """A request that lands after its repetition changes nothing."""
        faulty = FaultyStore(hub.open())
        transactor = Transactor(faulty, ManualRuntime())
        faulty.fail_commits(CommitFault.DELAYED)
        assert 1 == transactor.transact(["fleet"], increment)
        assert 1 == faulty.land_delayed()
        assert 2 == transactor.transact(["fleet"], increment)
        assert 2 == value_of(hub.open())

    def test_a_reported_conflict_may_be_a_win(self, hub: HubUnderTest) -> None:
        """A conflict reported for a request that landed is recognised by its operation id."""
        faulty = FaultyStore(hub.open())
        transactor = Transactor(faulty, ManualRuntime())
        transactor.transact(["fleet"], increment)
        faulty.fail_commits(CommitFault.CONFLICT_AFTER_LANDING)
        assert 2 == transactor.transact(["fleet"], increment)
        assert (2, 2) == (value_of(hub.open()), faulty.requests)

    def test_an_old_answer_does_not_rule_an_operation_out(self, hub: HubUnderTest) -> None:
        """After a lost reply an outdated reading of the heads is no proof that the commit failed."""
        faulty = FaultyStore(hub.open())
        transactor = Transactor(faulty, ManualRuntime())
        for fault in (None, None, CommitFault.REPLY_LOST, CommitFault.CONFLICT_AFTER_LANDING):
            before = value_of(hub.open())
            faulty.fail_commits(fault)
            if fault is not None:
                faulty.stale_by = 2
                faulty.fail_heads(None, HeadsFault.STALE, HeadsFault.STALE)
            assert before + 1 == transactor.transact(["fleet"], increment)
            assert before + 1 == value_of(hub.open()), fault

    def test_a_failed_look_leaves_the_outcome_open(self, hub: HubUnderTest) -> None:
        """When looking for the operation fails for good, the caller hears that the outcome is unknown."""
        for fault in (HeadsFault.UNAVAILABLE, HeadsFault.THROTTLED):
            faulty = FaultyStore(hub.open())
            transactor = Transactor(faulty, ManualRuntime())
            faulty.fail_commits(*[CommitFault.REPLY_LOST, *[CommitFault.REQUEST_LOST] * 500])
            faulty.fail_heads(None, *[fault] * 500)
            with pytest.raises(OutcomeUnknown):
                transactor.transact(["fleet"], increment)

    def test_a_refused_commit_did_not_happen(self, hub: HubUnderTest) -> None:
        """Refusals reach the caller as such, with nothing changed; a short throttling is waited for."""
        faulty = FaultyStore(hub.open())
        runtime = ManualRuntime(start=faulty.server_time())
        transactor = Transactor(faulty, runtime)
        faulty.fail_commits(CommitFault.UNAVAILABLE)
        with pytest.raises(Unavailable):
            transactor.transact(["fleet"], increment)
        assert 0 == value_of(hub.open())
        faulty.fail_commits(CommitFault.THROTTLED)
        assert 1 == transactor.transact(["fleet"], increment)

    def test_foreign_commits_are_adopted_once(self, hub: HubUnderTest) -> None:
        """A commit without trailers is shown to the adopter with the states around it, exactly once."""
        store = hub.open()
        calls: list[tuple[str, bytes | None, bytes | None]] = []

        def adopt(tx: Tx, space: str, base: Snapshot, now: Snapshot) -> None:
            calls.append((space, base.read("edited"), now.read("edited")))
            tx.write(space, "adopted", b"%d" % len(calls))

        transactor = Transactor(store, SystemRuntime(), adopt=adopt)
        transactor.transact(["fleet"], lambda tx: tx.write("fleet", "edited", b"by ghcoord"))
        assert [] == calls
        revision = transactor.transact(["fleet"], lambda tx: tx.revision)
        for text in (b"by hand", b"by another hand"):
            foreign(hub, store, "fleet", {"edited": text})
        assert 1 == transactor.transact(["fleet"], increment)
        assert 2 == transactor.transact(["fleet"], increment)
        assert [("fleet", b"by ghcoord", b"by another hand")] == calls
        assert b"1" == Snapshot(store, "fleet", store.heads()["fleet"]).read("adopted")
        assert revision < transactor.transact(["fleet"], lambda tx: tx.revision)

    def test_a_vanished_space_stops_writes(self, hub: HubUnderTest) -> None:
        """A space that was seen and is gone is not made again until a person says so."""
        store = hub.open()
        transactor = Transactor(store, ManualRuntime())
        transactor.transact(["fleet"], increment)
        hub.delete_space("fleet")
        for _ in range(2):
            with pytest.raises(HeadRegressed):
                transactor.transact(["fleet"], increment)
            assert {} == hub.open().heads()
        transactor.adopt_heads()
        assert 1 == transactor.transact(["fleet"], increment)

    def test_a_space_that_went_back_stops_writes(self, hub: HubUnderTest) -> None:
        """Older heads than those seen stop writes; a reading that lags for a moment does not."""
        faulty = FaultyStore(hub.open())
        transactor = Transactor(faulty, ManualRuntime())
        for _ in range(3):
            transactor.transact(["fleet"], increment)
        faulty.fail_heads(*[HeadsFault.STALE] * 2)
        assert 4 == transactor.transact(["fleet"], increment)
        later = Transactor(faulty, ManualRuntime(), marks=transactor.guard.marks)
        faulty.fail_heads(*[HeadsFault.STALE] * 100)
        with pytest.raises(HeadRegressed):
            later.transact(["fleet"], increment)
        assert 4 == value_of(hub.open())

    def test_revisions_strictly_increase(self, hub: HubUnderTest) -> None:
        """Each applied transaction has a higher revision, in a batch, over handles, and in a space born again."""

        def grant(tx: Tx) -> int:
            increment(tx)
            return tx.revision

        transactor = Transactor(hub.open(), SystemRuntime())
        revisions = [transactor.transact(["fleet"], grant), *batch(transactor, [grant] * 5)]
        revisions.append(Transactor(hub.open(), SystemRuntime()).transact(["fleet"], grant))
        hub.delete_space("fleet")
        wait = threading.Event()
        # Born again, only the hub's clock tells, which two handles read as exactly as they say.
        wait.wait(transactor.store.capabilities.clock_margin if transactor.store.capabilities.remote else 0.02)
        revisions.append(Transactor(hub.open(), SystemRuntime()).transact(["fleet"], grant))
        assert revisions == sorted(set(revisions))
        store = hub.open()
        root = json.loads(Snapshot(store, "fleet", store.heads()["fleet"]).read(ROOT_RECORD) or b"")
        assert revisions[-1] == root["revision"]


def foreign(hub: HubUnderTest, store: Store, space: str, changes: ChangeSet) -> Oid:
    """Commit as a person does: without operation ids."""
    head = store.heads().get(space)
    return store.commit({space: head}, {space: changes}, replace(hub.op(), ids=()))[space]
