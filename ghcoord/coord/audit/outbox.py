"""A bounded queue that a thread of its own empties, so that whoever puts something in never waits."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ghcoord.clock import Runtime, Thread
from ghcoord.errors import Unavailable

MAX_ITEMS = 10_000
"""Items that wait at most, on the way to a hub that cannot be reached."""

MAX_BYTES = 8 * 1024 * 1024
"""Bytes that they have together at most."""

BATCH_ITEMS = 2000
BATCH_BYTES = 900_000
"""What is sent together at most: a file of less than 1 MB, as everything in a hub is."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What is sent together; the same object again until it has arrived. ``dropped`` were too many before it."""

    items: tuple[bytes, ...]
    dropped: int


class Outbox:
    """Items on their way, oldest first. Thread-safe.

    ``send`` is called in the outbox's thread, with one batch an interval, or at
    once when a whole batch waits; ``to`` says in messages where it goes.  A batch that could not be sent is tried
    again unchanged; meanwhile items wait, and when they are too many the oldest
    are dropped and counted.
    """

    def __init__(
        self,
        runtime: Runtime,
        send: Callable[[Batch], None],
        *,
        to: str,
        interval: float,
        most: int = MAX_ITEMS,
        most_bytes: int = MAX_BYTES,
    ) -> None:
        self.interval = interval
        self.trouble: Exception | None = None
        """Why the last attempt failed; ``None`` when it did not."""
        self._runtime = runtime
        self._send = send
        self._to = to
        self._most, self._most_bytes = most, most_bytes
        self._mutex = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._batch: Batch | None = None
        self._attempts = 0
        self._running = False
        self._closing = False
        self._thread: Thread | None = None
        self._news = runtime.event()
        self._urgent = runtime.event()
        self._progress = runtime.event()

    def put(self, item: bytes) -> None:
        """Put ``item`` in; never waits. Raises ``Unavailable`` once closed."""
        with self._mutex:
            if self._closing:
                raise Unavailable("the hub is closed: nothing can be recorded any more")
            self._waiting.append(item)
            self._bytes += len(item)
            while len(self._waiting) > self._most or self._bytes > self._most_bytes:
                self._bytes -= len(self._waiting.popleft())
                self._dropped += 1
            whole = self._bytes >= BATCH_BYTES or len(self._waiting) >= BATCH_ITEMS
            if self._thread is None:
                self._thread = self._runtime.spawn(self._run, f"ghcoord audit to {self._to}")
        if whole and self.trouble is None:
            self._urgent.set()
        self._news.set()

    @property
    def pending(self) -> int:
        """Items that have not arrived."""
        with self._mutex:
            return len(self._waiting) + (len(self._batch.items) if self._batch is not None else 0)

    def flush(self, timeout: float) -> None:
        """Send everything now.

        Raises what a failed attempt raised, and ``Unavailable`` after ``timeout`` seconds.
        """
        deadline = self._runtime.monotonic() + timeout
        with self._mutex:
            first = self._attempts + 1  # one that runs already knows nothing of the newest
        while True:
            with self._mutex:
                if self._empty():
                    return
                if self.trouble is not None and self._attempts >= first and not self._running:
                    raise self.trouble
                self._progress.clear()
            self._urgent.set()
            self._news.set()
            left = deadline - self._runtime.monotonic()
            if left <= 0:
                raise Unavailable(f"{self.pending} audit entries are left: {self._to} did not answer in {timeout:g} s")
            self._progress.wait(left)

    def close(self, timeout: float) -> None:
        """As :meth:`flush`, and end the thread, whether that succeeds or not; once closed it does nothing."""
        try:
            if self._thread is not None and not self._closing:
                self.flush(timeout)
        finally:
            with self._mutex:
                self._closing = True
            self._urgent.set()
            self._news.set()

    # -- the thread

    def _empty(self) -> bool:
        return self._batch is None and not self._waiting and not self._dropped

    def _run(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            if not self._closing:
                self._urgent.wait(self.interval)
            self._urgent.clear()
            if self._closing:
                return
            while self._attempt() and (self._whole() or self._urgent.is_set()):
                pass

    def _whole(self) -> bool:
        with self._mutex:
            return self._bytes >= BATCH_BYTES or len(self._waiting) >= BATCH_ITEMS

    def _attempt(self) -> bool:
        """Send one batch; ``False`` when there was none, or it failed."""
        with self._mutex:
            batch = self._batch = self._batch or self._take()
            if batch is None:
                return False
            self._running = True
            self._attempts += 1
        failed: Exception | None = None
        try:
            self._send(batch)
        except Exception as error:
            failed = error
        with self._mutex:
            self._running = False
            self.trouble = failed
            if failed is None:
                self._batch = None
            again = not self._empty()
        if again:
            self._news.set()
        self._progress.set()
        return failed is None

    def _take(self) -> Batch | None:
        """The oldest items, as many as go together."""
        items: list[bytes] = []
        size = 0
        while self._waiting and len(items) < BATCH_ITEMS and (not items or size + len(self._waiting[0]) <= BATCH_BYTES):
            items.append(self._waiting.popleft())
            size += len(items[-1])
        self._bytes -= size
        dropped, self._dropped = self._dropped, 0
        return Batch(tuple(items), dropped) if items or dropped else None
