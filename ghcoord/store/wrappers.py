"""Stores around a store: each adds one thing and knows nothing of the others."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from tenacity import Retrying, retry_if_exception_type

from ghcoord.clock import Runtime
from ghcoord.errors import Unavailable
from ghcoord.store.base import Capabilities, ChangeSet, CommitInfo, Entry, Oid, Operation, Store

T = TypeVar("T")


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

    def heads(self) -> dict[str, Oid]:
        return self.inner.heads()

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

    def server_time(self) -> float:
        return self.inner.server_time()

    def close(self) -> None:
        self.inner.close()


class RetryingStore(WrappedStore):
    """Tries again what was ``Unavailable``, which by contract has had no effect, for ``patience`` seconds.

    ``OutcomeUnknown`` and ``Conflict`` pass: only ``transact`` may decide about those.
    """

    def __init__(self, inner: Store, runtime: Runtime, patience: float = 10.0) -> None:
        super().__init__(inner)
        self._runtime = runtime
        self._patience = patience

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
            reraise=True,
        )
        return retrying(run)

    def heads(self) -> dict[str, Oid]:
        return self._call(self.inner.heads)

    def commit_info(self, oid: Oid) -> CommitInfo:
        return self._call(lambda: self.inner.commit_info(oid))

    def tree(self, oid: Oid) -> Mapping[str, Entry]:
        return self._call(lambda: self.inner.tree(oid))

    def blob(self, oid: Oid) -> bytes:
        return self._call(lambda: self.inner.blob(oid))

    def commit(
        self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
    ) -> dict[str, Oid]:
        return self._call(lambda: self.inner.commit(expected, changes, op))


class _Recent(Generic[T]):
    """The most recently used objects, up to a size in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[Oid, tuple[T, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, oid: Oid, load: Callable[[Oid], T], size: Callable[[T], int]) -> T:
        with self._lock:
            found = self._kept.get(oid)
            if found is not None:
                self._kept.move_to_end(oid)
                return found[0]
        value = load(oid)
        weight = size(value)
        with self._lock:
            if oid not in self._kept and weight <= self._limit // 8:
                self._kept[oid] = (value, weight)
                self._size += weight
                while self._size > self._limit:
                    _, (_, dropped) = self._kept.popitem(last=False)
                    self._size -= dropped
        return value


class CachingStore(WrappedStore):
    """Keeps objects by id: they never change. ``limit`` in bytes bounds each kind's share."""

    def __init__(self, inner: Store, limit: int = 32 * 1024 * 1024) -> None:
        super().__init__(inner)
        self._commits: _Recent[CommitInfo] = _Recent(limit // 4)
        self._trees: _Recent[Mapping[str, Entry]] = _Recent(limit)
        self._blobs: _Recent[bytes] = _Recent(limit)

    def commit_info(self, oid: Oid) -> CommitInfo:
        return self._commits.get(oid, self.inner.commit_info, lambda info: 300 + len(info.message))

    def tree(self, oid: Oid) -> Mapping[str, Entry]:
        return self._trees.get(oid, self.inner.tree, lambda entries: 200 + 250 * len(entries))

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
