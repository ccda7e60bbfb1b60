"""What is reported of a commit whose outcome is open, whatever the errors are that come in between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import (
    GhcoordError,
    NotFound,
    OutcomeUnknown,
    StoreError,
    Throttled,
    TooLarge,
    Unavailable,
    Unsupported,
)
from ghcoord.store.base import ChangeSet, Oid, Operation
from ghcoord.store.budget.governor import Governor
from ghcoord.store.budget.limits import Limits
from ghcoord.store.inmemory import MemoryStore
from ghcoord.store.transact import Transactor
from ghcoord.store.tx import Tx
from ghcoord.testing.clock import ManualRuntime
from ghcoord.testing.transact_contract import batch, increment


class Losing(MemoryStore):
    """Commits, loses the answer, and then fails in another way, as :attr:`then` says."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.then: Exception | None = None
        self.silent = 0
        self.blind = 0
        self.unseen: Exception | None = None

    def commit(
        self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
    ) -> dict[str, Oid]:
        if self.silent:
            self.silent -= 1
            self.blind = 1
            raise OutcomeUnknown("no answer")
        if self.then is not None:
            raise self.then
        return super().commit(expected, changes, op)

    def heads(self) -> dict[str, Oid]:
        if self.blind and (error := self.unseen or self.then) is not None:
            self.blind -= 1
            raise error
        return super().heads()


@pytest.mark.parametrize(
    "error",
    [NotFound("no repository"), StoreError("refused"), Unsupported("no"), GhcoordError("strange")],
    ids=lambda error: type(error).__name__,
)
def test_no_error_hides_an_open_outcome(error: Exception) -> None:
    """Once an answer was lost, neither the look nor the repetition can make a failure of it."""
    runtime = ManualRuntime()
    store = Losing(runtime.now)
    transactor = Transactor(store, runtime)
    store.silent, store.then = 1, error
    with pytest.raises(OutcomeUnknown, match="operation"):
        transactor.transact(["fleet"], increment, timeout=5)


def test_a_look_that_finds_no_repository_is_repeated() -> None:
    """After a conflict a hub that is not to be seen for a moment is looked at again."""
    runtime = ManualRuntime()
    store = Losing(runtime.now)
    Transactor(store, runtime).transact(["fleet"], increment)
    rivals = 1

    def overtaken(tx: Tx) -> int:
        nonlocal rivals
        if rivals:
            rivals -= 1
            Transactor(store, runtime).transact(["fleet"], increment)
            store.blind, store.then = 1, None
            store.unseen = NotFound("no repository")
        return increment(tx)

    assert 3 == Transactor(store, runtime).transact(["fleet"], overtaken)


def test_a_hub_that_is_gone_for_a_moment_is_no_lost_lock() -> None:
    """Who has seen the hub is told that it cannot be reached: «not found» would be said of the lock, or the task."""
    runtime = ManualRuntime()
    store = Losing(runtime.now)
    store.blind, store.unseen = 1, NotFound("no repository")
    transactor = Transactor(store, runtime)
    with pytest.raises(NotFound):
        transactor.transact(["fleet"], increment)
    assert 1 == transactor.transact(["fleet"], increment)
    store.blind = 1
    with pytest.raises(Unavailable, match="no repository"):
        transactor.transact(["fleet"], increment)

    def missing(tx: Tx) -> None:
        raise NotFound("no such lock")

    with pytest.raises(NotFound, match="no such lock"):
        transactor.transact(["fleet"], missing)


class Refusing(MemoryStore):
    """Refuses every commit for a minute, as the budget is told."""

    def __init__(self, runtime: ManualRuntime) -> None:
        super().__init__(runtime.now)
        self.runtime = runtime
        self.governor = Governor("github.com/me", runtime, Limits.github())
        self.asked = 0

    @property
    def budget(self) -> Any:
        return self.governor

    def commit(
        self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
    ) -> dict[str, Oid]:
        self.asked += 1
        self.governor.note(429, {"retry-after": "60"})
        raise Throttled("refused", self.runtime.now() + 60)


def test_who_is_always_refused_gives_up() -> None:
    """A server that refuses again after each pause that it asked for is not asked for ever: so one gets banned."""
    runtime = ManualRuntime()
    store = Refusing(runtime)
    began = runtime.monotonic()
    with pytest.raises(Throttled):
        Transactor(store, runtime).transact(["fleet"], increment, timeout=30)
    assert 2 <= store.asked <= 10
    assert 60 <= runtime.monotonic() - began <= 900


class Waiting(MemoryStore):
    """Takes one transaction at a time, and lets each wait once: :attr:`meanwhile` runs then."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.meanwhile: Callable[[], None] | None = None
        self.failure: BaseException | None = None

    @property
    def budget(self) -> Any:
        return self

    def write_ready_in(self) -> float:
        return 1.0 if self.meanwhile is not None else 0.0

    def await_write(self) -> None:
        assert self.meanwhile is not None
        meanwhile, self.meanwhile = self.meanwhile, None
        meanwhile()

    def commit(
        self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
    ) -> dict[str, Oid]:
        if self.failure is not None and len(op.ids) == 3:
            self.meanwhile = self.board
            raise TooLarge("one by one")
        if self.failure is not None:
            raise self.failure
        return super().commit(expected, changes, op)

    board: Callable[[], None]


def test_who_joins_a_split_batch_is_freed_by_an_interrupt() -> None:
    """A transaction that was taken along by a part of a batch does not wait for ever when that part is interrupted."""
    runtime = SystemRuntime()
    store = Waiting(runtime.now)
    transactor = Transactor(store, runtime)
    ends: list[Callable[[], int | None]] = []
    store.board = lambda: ends.append(transactor.ride(["fleet"], increment))

    def arm(tx: Tx) -> int:
        store.failure = KeyboardInterrupt()
        return increment(tx)

    threading.excepthook, before = lambda args: None, threading.excepthook
    try:
        batch(transactor, [arm, increment, increment])
    finally:
        threading.excepthook = before
    said: list[object] = []

    def end() -> None:
        try:
            said.append(ends[0]())
        except OutcomeUnknown as error:
            said.append(error)

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    thread.join(5)
    assert [OutcomeUnknown] == [type(one) for one in said]


def test_a_space_that_reads_do_not_show_leaves_an_unanswered_commit_open() -> None:
    """Sent without an answer, landed late, refused when sent again, and then no reading shows the space any more."""
    runtime = ManualRuntime()

    class Hidden(MemoryStore):
        sent = 0

        def commit(
            self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
        ) -> dict[str, Oid]:
            self.sent += 1
            made = super().commit(expected, changes, op)
            if self.sent == 2:
                raise OutcomeUnknown("no answer")
            return made

        def heads(self) -> dict[str, Oid]:
            return super().heads() if self.sent < 2 else {}

    transactor = Transactor(Hidden(runtime.now), runtime)
    transactor.transact(["fleet"], increment)
    with pytest.raises(OutcomeUnknown, match=r"vanished.*operation"):
        transactor.transact(["fleet"], increment)
