"""Plain functions in threads, for the one coroutine that waits for each: with progress, and given up when it is.

A thread is not ended from outside: what it runs looks at ``cancelled``.  The
coroutine does not wait for that.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import anyio

from ghcoord.clock import Runtime
from ghcoord.faces.mcp.answer import Failure

MAX_THREADS = 256
"""Calls at a time in one server; a further one is refused, and may be tried again. Of one user half as many."""

PROGRESS_EVERY = 0.25
"""Seconds between two messages of progress of one call, at least."""

T = TypeVar("T")

Cancelled = Callable[[], bool]
Progressed = Callable[[float | None, str], None]
Report = Callable[[float, float | None, str | None], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[T]):
    value: T | None = None
    error: BaseException | None = None


class Threads:
    """Runs functions in threads of their own, at most ``limit`` at a time. May be shared between event loops."""

    def __init__(self, runtime: Runtime, limit: int = MAX_THREADS) -> None:
        self._runtime = runtime
        self._limit = limit
        self._running = 0
        self._of: Counter[str] = Counter()
        self._mutex = threading.Lock()

    @property
    def running(self) -> int:
        """How many run, those whose callers gave up among them."""
        with self._mutex:
            return self._running

    async def run(
        self, work: Callable[[Cancelled, Progressed], T], report: Report | None = None, *, who: str = ""
    ) -> T:
        """``work(cancelled, progress)``, in a thread; raises what it raises.

        When the coroutine is cancelled ``cancelled()`` turns true and nobody
        waits for the rest.  Raises :class:`Failure` when too much runs already,
        in all or for ``who``, where several share the server.
        """
        with self._mutex:
            mine = bool(who) and self._of[who] >= self._limit // 2
            if mine or self._running >= self._limit:
                raise Failure(
                    f"the server runs {f'{self._of[who]} calls of yours' if mine else f'{self._limit} calls'} already",
                    "Try again when some of them have ended.",
                    code="THROTTLED",
                    retryable=True,
                )
            self._running += 1
            self._of[who] += 1
        loop = asyncio.get_running_loop()
        settled: asyncio.Future[_Outcome[T]] = loop.create_future()
        given_up = threading.Event()
        told = Progress(loop, self._runtime)
        context = contextvars.copy_context()

        def body() -> None:
            try:
                outcome = _Outcome(value=context.run(work, given_up.is_set, told.tell))
            except BaseException as error:
                outcome = _Outcome(error=error)
            finally:
                with self._mutex:
                    self._running -= 1
                    self._of[who] -= 1
                    if not self._of[who]:
                        del self._of[who]
            call_soon(loop, lambda: None if settled.done() else settled.set_result(outcome))

        self._runtime.spawn(body, "ghcoord-mcp-call")
        try:
            outcome = await _with_progress(settled, told, report)
        except BaseException:
            given_up.set()
            raise
        if outcome.error is not None:
            raise outcome.error
        return outcome.value  # type: ignore[return-value]


async def _with_progress(settled: asyncio.Future[_Outcome[T]], told: Progress, report: Report | None) -> _Outcome[T]:
    if report is None:
        return await settled
    async with anyio.create_task_group() as group:
        group.start_soon(told.pump, report)
        outcome = await settled
        told.end()
    return outcome


class Progress:
    """What a call said last of how far it is, sent to its client now and then; each value is above the one before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, runtime: Runtime) -> None:
        self._loop = loop
        self._runtime = runtime
        self._mutex = threading.Lock()
        self._waiting: tuple[float | None, str] | None = None
        self._news = asyncio.Event()
        self._ended = asyncio.Event()
        self._value = 0.0
        self._total: float | None = None
        self._sent_at: float | None = None

    def tell(self, fraction: float | None, message: str) -> None:
        """From any thread: how far it is, between 0 and 1 if that is known."""
        with self._mutex:
            fresh = self._waiting is None
            self._waiting = fraction, message
        if fresh:
            call_soon(self._loop, self._news.set)

    def end(self) -> None:
        """Nothing more is told: :meth:`pump` sends what is left, and returns."""
        self._ended.set()
        self._news.set()

    async def pump(self, report: Report) -> None:
        """Send what is told until :meth:`end`, at most every :data:`PROGRESS_EVERY` seconds."""
        while not self._ended.is_set():
            await self._news.wait()
            self._news.clear()
            if self._sent_at is not None:
                with anyio.move_on_after(self._sent_at + PROGRESS_EVERY - self._runtime.monotonic()):
                    await self._ended.wait()
            await self._send(report)
        await self._send(report)

    async def _send(self, report: Report) -> None:
        """Send what was told last, if it was not sent yet."""
        with self._mutex:
            waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        fraction, message = waiting
        if fraction is not None:
            self._total = 1.0
        # MCP wants a higher value each time; a sign of life without a fraction counts for a thousandth of the rest.
        self._value = max(min(fraction or 0.0, 0.999), self._value + (1.0 - self._value) / 1000)
        self._sent_at = self._runtime.monotonic()
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await report(self._value, self._total, message[:1000] or None)


async def in_thread(runtime: Runtime, work: Callable[[], T]) -> T:
    """``work()`` in a thread that does not keep the process from ending; a cancelled caller does not wait for it."""
    return await Threads(runtime, 1).run(lambda cancelled, progress: work())


def call_soon(loop: asyncio.AbstractEventLoop, act: Callable[[], object]) -> None:
    """Have the loop call ``act``; nothing when it has ended."""
    try:
        loop.call_soon_threadsafe(act)
    except RuntimeError:
        return
