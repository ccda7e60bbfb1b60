"""An interpreter that lives in a session's sandbox, and the conversation with it."""

from __future__ import annotations

import json
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ghcoord.clock import Runtime
from ghcoord.execution.capture import Capture
from ghcoord.execution.process import Completed

MAX_MESSAGE = 1024 * 1024
"""Bytes of the longest message that an interpreter may send."""

TICK = 0.05
"""Seconds at most between two looks at whether to stop."""

_KERNEL = Path(__file__).with_name("kernel.py")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one call."""

    success: bool
    stdout: str
    stderr: str
    value: str | None
    truncated: bool
    stopped: str = ""
    """``timeout`` or ``cancelled``; empty when the code came to its end."""
    ended: str = ""
    """Why the interpreter is gone, and its variables with it; empty while it lives."""
    exit_code: int | None = None
    """The code that the program left with, where it did."""


class Interpreter:
    """A running interpreter. One call at a time; :meth:`close` may come from any thread.

    ``start(argv tail, stdin_fd, cancelled)`` runs the sandboxed command to its
    end, in a thread of its own.
    """

    def __init__(
        self,
        runtime: Runtime,
        start: Callable[[list[str], int, Callable[[], bool]], Completed],
        stop: Callable[[float], bool],
    ) -> None:
        """``stop(idle seconds)`` says whether to end it, asked every 50 ms."""
        self._runtime = runtime
        self._stop = stop
        self._closing = runtime.event()
        self._gone = runtime.event()
        self._completed: Completed | None = None
        self._failure: BaseException | None = None
        self._busy = False
        self._used = runtime.monotonic()
        self._incoming = bytearray()
        self._line, theirs = socket.socketpair()
        self._line.setblocking(False)
        theirs_fd = theirs.detach()
        self._thread = runtime.spawn(lambda: self._live(start, theirs_fd), "interpreter")

    @property
    def alive(self) -> bool:
        """Whether it can be called."""
        return not self._gone.is_set() and not self._closing.is_set()

    def close(self, timeout: float = 10.0) -> None:
        """End it, whatever it does; returns when it is gone, or after ``timeout`` seconds."""
        self._closing.set()
        self._gone.wait(timeout)
        self._line.close()

    def _live(self, start: Callable[[list[str], int, Callable[[], bool]], Completed], stdin_fd: int) -> None:
        try:
            self._completed = start(["-u", "-c", _KERNEL.read_text()], stdin_fd, self._to_end)
        except BaseException as why:
            self._failure = why
        finally:
            self._gone.set()
            if not self._busy:
                self._line.close()

    def _to_end(self) -> bool:
        if self._busy:
            self._used = self._runtime.monotonic()
        return self._closing.is_set() or self._stop(self._runtime.monotonic() - self._used)

    # -- a call

    def run(
        self,
        code: str,
        *,
        cap: int,
        timeout: float | None,
        grace: float,
        cancelled: Callable[[], bool],
        log: Callable[[str, str], None],
    ) -> Answer:
        """Run ``code`` and wait for it.

        After ``timeout`` seconds, or once ``cancelled()``, it is interrupted as
        by Ctrl-C; when that does not help for ``grace`` seconds the interpreter
        is ended.  Raises what kept the interpreter from starting.
        """
        self._busy = True
        try:
            return self._run(_Call(f"{self._runtime.randbits(128):032x}", cap, log), code, timeout, grace, cancelled)
        finally:
            self._busy = False
            if self._gone.is_set():
                self._line.close()
            self._used = self._runtime.monotonic()

    def _run(
        self, call: _Call, code: str, timeout: float | None, grace: float, cancelled: Callable[[], bool]
    ) -> Answer:
        now = self._runtime.monotonic
        deadline = None if timeout is None else now() + timeout
        stopped = ""
        outgoing = _frame(nonce=call.nonce, code=code)
        while call.end is None:
            if not stopped and (cancelled() or (deadline is not None and now() >= deadline)):
                stopped = "cancelled" if cancelled() else "timeout"
                if outgoing:
                    return self._broken(call, stopped)
                outgoing = _frame(interrupt=call.nonce)
                deadline = now() + grace
            elif stopped and deadline is not None and now() >= deadline:
                return self._broken(call, stopped)
            wait = TICK if deadline is None else min(TICK, max(0.0, deadline - now()))
            try:
                outgoing = self._move(call, outgoing, wait)
            except (OSError, EOFError):
                self._gone.wait(grace)  # it has ended by itself, or will in a moment: then it is known how
                return self._broken(call, stopped)
            except ValueError:
                return self._broken(call, stopped)
        end = call.end
        left = end.get("exit")
        exit_code = left[0] if isinstance(left, list) and left and isinstance(left[0], int) else None
        if exit_code is not None:
            self.close()
        value = end.get("value")
        return Answer(
            success=end.get("success") is True or exit_code == 0,
            stdout=call.text("stdout"),
            stderr=call.text("stderr"),
            value=value if isinstance(value, str) else None,
            truncated=call.truncated,
            stopped=stopped,
            ended="" if exit_code is None else f"the program left with exit code {exit_code}",
            exit_code=exit_code,
        )

    def _move(self, call: _Call, outgoing: bytes, wait: float) -> bytes:
        """Send and receive for at most ``wait`` seconds; what is left to send. Raises when the other end is gone."""
        readable, writable, _ = select.select([self._line], [self._line] if outgoing else [], [], wait)
        if writable:
            outgoing = outgoing[self._line.send(outgoing) :]
        if readable:
            data = self._line.recv(256 * 1024)
            if not data:
                raise EOFError
            self._incoming += data
            for message in self._messages():
                call.take(message)
        return outgoing

    def _messages(self) -> list[dict[str, Any]]:
        """The whole messages that came. Raises ``ValueError`` for what is none."""
        found = []
        while len(self._incoming) >= 4:
            (size,) = struct.unpack_from(">I", self._incoming)
            if size > MAX_MESSAGE:
                raise ValueError(f"a message of {size} bytes")
            if len(self._incoming) < 4 + size:
                break
            try:
                message = json.loads(bytes(self._incoming[4 : 4 + size]))
            except RecursionError:
                raise ValueError("a message that is nested too deeply") from None
            del self._incoming[: 4 + size]
            if isinstance(message, dict):
                found.append(message)
        return found

    def _broken(self, call: _Call, stopped: str) -> Answer:
        """The answer when the interpreter had to be ended, or is gone."""
        self.close()
        if self._failure is not None:
            raise self._failure
        done = self._completed
        why = "it did not answer"
        if stopped:
            why = "it did not stop when it was interrupted"
        elif done is not None and done.stopped and done.stopped != "cancelled":
            why = f"it passed the limit of {done.stopped}"
        elif done is not None and done.exit_code:
            why = f"exit code {done.exit_code}"
        stderr = call.text("stderr") + (done.stderr if done is not None and not stopped else "")
        return Answer(False, call.text("stdout"), stderr, None, call.truncated, stopped, why)


class _Call:
    """What has come of one call so far."""

    def __init__(self, nonce: str, cap: int, log: Callable[[str, str], None]) -> None:
        self.nonce = nonce
        self.end: dict[str, Any] | None = None
        self._cap = cap
        self._log = log
        self._kept = {"stdout": Capture(cap), "stderr": Capture(cap)}
        self._logged = dict.fromkeys(self._kept, 0)

    def take(self, message: dict[str, Any]) -> None:
        """Take a message; one of another call is dropped."""
        if message.get("nonce") != self.nonce or self.end is not None:
            return
        name, text = message.get("stream"), message.get("text")
        if isinstance(name, str) and name in self._kept and isinstance(text, str):
            data = text.encode("latin-1", errors="replace")
            self._kept[name].add(data)
            room = self._cap - self._logged[name]
            if room > 0:
                self._logged[name] += len(data)
                self._log(name, data[:room].decode(errors="replace"))
        elif message.get("end") is True:
            self.end = message

    def text(self, name: str) -> str:
        """What was kept of a stream."""
        return self._kept[name].text()

    @property
    def truncated(self) -> bool:
        """Whether some of it was left out."""
        return any(each.truncated for each in self._kept.values())


def _frame(**fields: str) -> bytes:
    data = json.dumps(fields).encode()
    return struct.pack(">I", len(data)) + data
