"""A runtime whose time moves only when a test says so."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ghcoord.clock import Event, Thread

START = 1_700_000_000.0
"""Where the wall clock of tests starts, in seconds since the epoch (November 2023)."""

SETTLE_LIMIT = 2.0
"""Real seconds that a moving clock waits for a spawned thread that is busy outside the runtime."""

STUCK_LIMIT = 20.0
"""Real seconds after which a wait without a timeout, in the test's own thread, is an error."""


class ManualEvent:
    """An event whose timeouts are in manual time."""

    def __init__(self, runtime: ManualRuntime) -> None:
        self._runtime = runtime
        self._flag = False

    def set(self) -> None:
        with self._runtime.changed:
            self._flag = True
            self._runtime.changed.notify_all()

    def clear(self) -> None:
        with self._runtime.changed:
            self._flag = False

    def is_set(self) -> bool:
        return self._flag

    def wait(self, timeout: float | None = None) -> bool:
        self._runtime.wait_for(self.is_set, timeout)
        return self._flag


class ManualThread:
    """A real thread started by :meth:`ManualRuntime.spawn`."""

    def __init__(self, runtime: ManualRuntime, thread: threading.Thread) -> None:
        self._runtime = runtime
        self._thread = thread

    def join(self, timeout: float | None = None) -> None:
        self._runtime.wait_for(lambda: not self.is_alive(), timeout)

    def is_alive(self) -> bool:
        return self._runtime.is_running(self._thread)


class ManualRuntime:
    """A :class:`ghcoord.clock.Runtime` with a clock moved by hand and seeded randomness.

    A thread made by :meth:`spawn` waits until time has moved.  Everybody else,
    above all the test itself, moves it: there ``sleep(5)`` is ``advance(5)``,
    and an event's ``wait(5)`` advances until the event is set, five seconds at
    most.  Advancing stops at every moment for which a spawned thread waits and
    lets it run until it waits again, so such tests are repeatable.
    """

    def __init__(self, *, start: float = START, seed: int = 0, boot_id: str = "manual-boot") -> None:
        self.changed = threading.Condition()
        self.failures: list[BaseException] = []
        self._random = random.Random(seed)
        self._wall = start
        self._elapsed = 1000.0
        self._boot_id = boot_id
        self._running: set[threading.Thread] = set()
        self._deadlines: dict[threading.Thread, tuple[Callable[[], bool], float]] = {}

    # -- the runtime

    def now(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._elapsed

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            self.wait_for(lambda: False, seconds)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def randbits(self, bits: int) -> int:
        return self._random.getrandbits(bits)

    def event(self) -> Event:
        return ManualEvent(self)

    def spawn(self, run: Callable[[], None], name: str) -> Thread:
        """Start ``run`` in a real daemon thread; what it raises is kept in :attr:`failures`."""

        def body() -> None:
            try:
                run()
            except BaseException as error:
                self.failures.append(error)
            finally:
                with self.changed:
                    self._running.discard(threading.current_thread())
                    self.changed.notify_all()

        thread = threading.Thread(target=body, name=name, daemon=True)
        with self.changed:
            self._running.add(thread)
        thread.start()
        return ManualThread(self, thread)

    def boot_id(self) -> str:
        return self._boot_id

    # -- for tests

    def advance(self, seconds: float) -> None:
        """Move both clocks ``seconds`` forward, through everything that spawned threads wait for."""
        with self.changed:
            self._advance_to(self._elapsed + seconds, lambda: False)

    def jump_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an administrator or NTP would; no time passes."""
        with self.changed:
            self._wall += seconds

    def settle(self) -> None:
        """Wait until every spawned thread waits for time or an event, or has ended."""
        with self.changed:
            self._settle()

    # -- inside

    def is_running(self, thread: threading.Thread) -> bool:
        """Whether the spawned ``thread`` has not ended."""
        return thread in self._running

    def wait_for(self, ready: Callable[[], bool], timeout: float | None) -> None:
        """Return when ``ready()`` or after ``timeout`` seconds of manual time."""
        with self.changed:
            end = float("inf") if timeout is None else self._elapsed + timeout
            if threading.current_thread() in self._running:
                with self._blocked(ready, end):
                    while not ready() and self._elapsed < end:
                        self.changed.wait()
            elif timeout is not None:
                self._advance_to(end, ready)
            elif not self.changed.wait_for(ready, STUCK_LIMIT):
                raise RuntimeError(f"waited {STUCK_LIMIT:.0f} real seconds for what no thread does")

    @contextmanager
    def _blocked(self, ready: Callable[[], bool], end: float) -> Iterator[None]:
        thread = threading.current_thread()
        self._deadlines[thread] = ready, end
        self.changed.notify_all()
        try:
            yield
        finally:
            del self._deadlines[thread]

    def _advance_to(self, end: float, ready: Callable[[], bool]) -> None:
        self._settle()
        while not ready() and self._elapsed < end:
            step = min([end, *(due for _, due in self._deadlines.values())])
            step = max(step, self._elapsed)
            self._wall += step - self._elapsed
            self._elapsed = step
            self.changed.notify_all()
            self._settle()

    def _settle(self) -> None:
        limit = time.monotonic() + SETTLE_LIMIT
        while any(self._busy(thread) for thread in self._running):
            left = limit - time.monotonic()
            if left <= 0:
                return
            self.changed.wait(left)

    def _busy(self, thread: threading.Thread) -> bool:
        ready, end = self._deadlines.get(thread, (lambda: True, 0.0))
        return ready() or end <= self._elapsed
