"""Stores around a store: each adds one thing and knows nothing of the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type

from ghcoord.clock import Runtime
from ghcoord.errors import Throttled, Unavailable
from ghcoord.store.base import (
    Capabilities,
    ChangeSet,
    Collected,
    CommitInfo,
    Entry,
    Oid,
    Operation,
    RawObject,
    Store,
    Tell,
)
from ghcoord.store.budget.base import Budget, OnWait
from ghcoord.store.recent import Recent, tree_size

T = TypeVar("T")

QUIET = 1.5
"""Seconds of retrying that nobody is told of."""

TELL_AGAIN = 60.0
"""Seconds before it is told again that a store is ``Unavailable``."""


class WrappedStore:
    """Passes everything on; the base of the wrappers."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def budget(self) -> Budget | None:
        return self.inner.budget

    def heads(self) -> dict[str, Oid]:
        return self.inner.heads()

    def near(self, head: Oid, paths: Collection[str]) -> None:
        self.inner.near(head, paths)

    def commit_info(self, oid: Oid) -> CommitInfo:
        return self.inner.commit_info(oid)

    def tree(self, oid: Oid) -> Mapping[str, Entry]:
        return self.inner.tree(oid)

    def blob(self, oid: Oid) -> bytes:
        return self.inner.blob(oid)

    def commit(
        self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
    ) -> dict[str, Oid]:
        return self.inner.commit(expected, changes, op)

    def raw(self, oid: Oid) -> RawObject:
        return self.inner.raw(oid)

    def collect(self, cut: Collection[Oid], *, dry_run: bool, tell: Tell) -> Collected:
        return self.inner.collect(cut, dry_run=dry_run, tell=tell)

    def server_time(self) -> float:
        return self.inner.server_time()

    def close(self) -> None:
        self.inner.close()


class RetryingStore(WrappedStore):
    """Tries again what was ``Unavailable``, which by contract has had no effect, for ``patience`` seconds.

    ``OutcomeUnknown`` and ``Conflict`` pass, and ``Throttled`` of a commit: only
    ``transact`` may decide about those.  ``on_wait`` hears of a retry that takes
    long, not more than once in :data:`TELL_AGAIN`.
    """

    def __init__(
        self, inner: Store, runtime: Runtime, patience: float = 10.0, *, on_wait: OnWait | None = None
    ) -> None:
        super().__init__(inner)
        self._runtime = runtime
        self._patience = patience
        self._on_wait = on_wait
        self._told: float | None = None

    def _call(self, run: Callable[[], T]) -> T:
        deadline = self._runtime.monotonic() + self._patience
        try:
            return run()
        except Unavailable:
            if self._runtime.monotonic() >= deadline:
                raise
            return self._again(run, deadline)

    def _again(self, run: Callable[[], T], deadline: float) -> T:
        runtime = self._runtime
        # One object a call: a Retrying keeps state and is not made for threads.
        retrying = Retrying(
            retry=retry_if_exception_type(Unavailable),
            wait=lambda state: runtime.uniform(0, min(2.0, 0.05 * 2.0**state.attempt_number)),
            stop=lambda state: runtime.monotonic() >= deadline,
            sleep=runtime.sleep,
            before_sleep=lambda state: self._tell(state, deadline),
            reraise=True,
        )
        return retrying(run)

    def _tell(self, state: RetryCallState, deadline: float) -> None:
        now = self._runtime.monotonic()
        recently = self._told is not None and now - self._told < TELL_AGAIN
        if self._on_wait is None or recently or now < deadline - self._patience + QUIET or state.outcome is None:
            return
        self._told = now
        why = getattr(state.outcome.exception(), "message", "").partition(": ")[0]
        self._on_wait(self._runtime.now() + deadline - now, f"trying again, {why}")

    def _read(self, run: Callable[[], T]) -> T:
        """A reading that a limit refused is tried once more: the budget waits, or raises where that is too long."""
        try:
            return self._call(run)
        except Throttled:
            if self.inner.budget is None:
                raise
            return self._call(run)

    def heads(self) -> dict[str, Oid]:
        return self._read(self.inner.heads)

    def near(self, head: Oid, paths: Collection[str]) -> None:
        self._read(lambda: self.inner.near(head, paths))

    def commit_info(self, oid: Oid) -> CommitInfo:
        return self._read(lambda: self.inner.commit_info(oid))

    def tree(self, oid: Oid) -> Mapping[str, Entry]:
        return self._read(lambda: self.inner.tree(oid))

    def blob(self, oid: Oid) -> bytes:
        return self._read(lambda: self.inner.blob(oid))

    def commit(
        self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
    ) -> dict[str, Oid]:
        return self._call(lambda: self.inner.commit(expected, changes, op))


class CachingStore(WrappedStore):
    """Keeps objects by id: they never change. ``limit`` in bytes bounds each kind's share."""

    def __init__(self, inner: Store, limit: int = 32 * 1024 * 1024) -> None:
        super().__init__(inner)
        self._commits: Recent[CommitInfo] = Recent(limit // 4)
        self._trees: Recent[Mapping[str, Entry]] = Recent(limit)
        self._blobs: Recent[bytes] = Recent(limit)

    def commit_info(self, oid: Oid) -> CommitInfo:
        return self._commits.get(oid, self.inner.commit_info, lambda info: 300 + len(info.message))

    def tree(self, oid: Oid) -> Mapping[str, Entry]:
        return self._trees.get(oid, self.inner.tree, tree_size)

    def blob(self, oid: Oid) -> bytes:
        return self._blobs.get(oid, self.inner.blob, lambda data: 100 + len(data))


class TracingStore(WrappedStore):
    """Counts and reports every call: ``report`` gets its name, seconds and the error's class, if any."""

    def __init__(self, inner: Store, runtime: Runtime, report: Callable[[str, float, str | None], None]) -> None:
        super().__init__(inner)
        self._runtime = runtime
        self._report = report
        self._lock = threading.Lock()
        self.calls: dict[str, int] = {}

    def _call(self, name: str, run: Callable[[], T]) -> T:
        started = self._runtime.monotonic()
        failed: str | None = None
        try:
            return run()
        except Exception as error:
            failed = type(error).__name__
            raise
        finally:
            with self._lock:
                self.calls[name] = self.calls.get(name, 0) + 1
            self._report(name, self._runtime.monotonic() - started, failed)

    def heads(self) -> dict[str, Oid]:
        return self._call("heads", self.inner.heads)

    def near(self, head: Oid, paths: Collection[str]) -> None:
        self._call("near", lambda: self.inner.near(head, paths))

    def commit_info(self, oid: Oid) -> CommitInfo:
        return self._call("commit_info", lambda: self.inner.commit_info(oid))

    def tree(self, oid: Oid) -> Mapping[str, Entry]:
        return self._call("tree", lambda: self.inner.tree(oid))

    def blob(self, oid: Oid) -> bytes:
        return self._call("blob", lambda: self.inner.blob(oid))

    def commit(
        self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
    ) -> dict[str, Oid]:
        return self._call("commit", lambda: self.inner.commit(expected, changes, op))
