"""Who is told of commits."""

from __future__ import annotations

import pytest

from ghcoord.errors import UsageError
from ghcoord.store.inmemory import MemoryStore
from ghcoord.store.transact import Transactor
from ghcoord.store.tx import Tx
from ghcoord.testing.clock import ManualRuntime


@pytest.fixture
def transactor() -> Transactor:
    runtime = ManualRuntime()
    return Transactor(MemoryStore(runtime.now), runtime)


def _write(*spaces: str) -> None:
    def run(tx: Tx) -> None:
        for space in spaces:
            tx.write(space, "file", str(tx.revision).encode())

    return run  # type: ignore[return-value]


def test_those_of_a_moved_space_are_told(transactor: Transactor) -> None:
    """Once a commit, of the spaces that it changed, and with the commit already visible."""
    told: list[tuple[str, bool]] = []
    for space in ("a", "b"):
        transactor.moved.add(space, lambda space=space: told.append((space, space in transactor.store.heads())))
    transactor.transact(("a", "b"), _write("a"))
    assert [("a", True)] == told
    transactor.transact(("a", "b"), _write("a", "b"))
    assert [("a", True), ("a", True), ("b", True)] == sorted(told)


def test_nobody_is_told_of_nothing(transactor: Transactor) -> None:
    """A transaction that changes nothing or raises tells nobody, and neither does a commit of another process."""
    told: list[str] = []
    transactor.moved.add("a", lambda: told.append("a"))

    def refuse(tx: Tx) -> None:
        tx.write("a", "file", b"x")
        raise UsageError("no")

    transactor.transact(("a",), lambda tx: tx.names("a", ""))
    with pytest.raises(UsageError):
        transactor.transact(("a",), refuse)
    Transactor(transactor.store, transactor.runtime).transact(("a",), _write("a"))
    assert [] == told


def test_who_left_is_told_no_more(transactor: Transactor) -> None:
    """Leaving affects nobody else, is harmless twice, and possible while being told."""
    told: list[str] = []

    def once() -> None:
        told.append("once")
        leave()

    leave = transactor.moved.add("a", once)
    transactor.moved.add("a", lambda: told.append("always"))
    for _ in range(2):
        transactor.transact(("a",), _write("a"))
    leave()
    assert ["once", "always", "always"] == told
