"""Transactions that go along with the next commit."""

from __future__ import annotations

import pytest

from ghcoord.errors import Unavailable, UsageError
from ghcoord.store.base import ChangeSet, Oid, Operation
from ghcoord.store.inmemory import MemoryStore
from ghcoord.store.transact import Transactor
from ghcoord.store.tx import Tx
from ghcoord.testing.clock import ManualRuntime


@pytest.fixture
def transactor() -> Transactor:
    runtime = ManualRuntime()
    return Transactor(MemoryStore(runtime.now), runtime)


def _count(tx: Tx) -> int:
    found = int(tx.read("a", "count") or 0) + 1
    tx.write("a", "count", str(found).encode())
    return found


def test_a_rider_shares_the_commit(transactor: Transactor) -> None:
    """It runs after what the commit is made for, sees that, has a revision of its own, and both are in one commit."""
    end = transactor.ride(("a",), lambda tx: (_count(tx), tx.revision))
    first, revision = transactor.transact(("a",), lambda tx: (_count(tx), tx.revision))
    assert (1, 1) == (first, transactor.commits)
    assert (2, True) == ((ridden := end() or (0, 0))[0], ridden[1] > revision)
    head = transactor.store.heads()["a"]
    assert () == transactor.store.commit_info(head).parents
    assert b"2" == transactor.view("a")["a"].read("count")


def test_nobody_came_by(transactor: Transactor) -> None:
    """Without a batch over exactly its spaces a rider never runs, and none comes after its end."""
    ran: list[str] = []
    end = transactor.ride(("a",), lambda tx: ran.append("a"))
    transactor.transact(("a", "b"), _count)
    transactor.transact(("b",), lambda tx: tx.write("b", "file", b"x"))
    assert end() is None
    transactor.transact(("a",), _count)
    assert [] == ran


def test_a_rider_is_taken_once(transactor: Transactor) -> None:
    """The second batch goes without it."""
    end = transactor.ride(("a",), _count)
    transactor.transact(("a",), _count)
    assert 3 == transactor.transact(("a",), _count)
    assert 2 == end()


def test_a_rider_that_fails_harms_nobody(transactor: Transactor) -> None:
    """What it raises is raised at its end, and what it wrote is not there."""

    def fail(tx: Tx) -> None:
        tx.write("a", "bad", b"x")
        raise UsageError("no")

    end = transactor.ride(("a",), fail)
    assert 1 == transactor.transact(("a",), _count)
    with pytest.raises(UsageError, match="no"):
        end()
    assert transactor.view("a")["a"].read("bad") is None


def test_a_rider_may_be_all_that_changes_something(transactor: Transactor) -> None:
    """When the batch itself had nothing to write, the rider's changes are committed all the same."""
    end = transactor.ride(("a",), _count)
    assert [] == transactor.transact(("a",), lambda tx: tx.names("a", ""))
    assert 1 == end()
    assert 1 == transactor.commits


def test_riders_know_when_the_commit_failed(monkeypatch: pytest.MonkeyPatch, transactor: Transactor) -> None:
    """The hub's refusal reaches who made the commit and who went along."""

    def unreachable(expected: dict[str, Oid | None], changes: dict[str, ChangeSet], op: Operation) -> dict[str, Oid]:
        raise Unavailable("the disk is gone")

    monkeypatch.setattr(transactor.store, "commit", unreachable)
    end = transactor.ride(("a",), _count)
    for call in (lambda: transactor.transact(("a",), _count), end):
        with pytest.raises(Unavailable, match="the disk is gone"):
            call()
    assert {} == transactor.store.heads()


def test_riders_are_run_again_after_a_conflict(transactor: Transactor) -> None:
    """Somebody was first: batch and rider are decided anew on the newer state."""
    other = Transactor(transactor.store, transactor.runtime)
    calls: list[int] = []

    def slow(tx: Tx) -> int:
        if not calls:
            other.transact(("a",), _count)
        calls.append(1)
        return _count(tx)

    end = transactor.ride(("a",), _count)
    assert 2 == transactor.transact(("a",), slow)
    assert 3 == end()
    assert 2 == len(calls)
