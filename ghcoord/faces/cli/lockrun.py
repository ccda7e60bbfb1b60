"""A command that runs while a lock is held, and ends when the lease is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from ghcoord.clock import Runtime
from ghcoord.errors import LockHeld, UsageError
from ghcoord.faces.cli.context import environment, invocation, portable_hub_url
from ghcoord.hub import Hub

if TYPE_CHECKING:
    from ghcoord.faces.cli.lock_text import Target
    from ghcoord.model.lock import Lock

MAX_GRACE = 5.0
"""Seconds between TERM and KILL at most; never more than half of what is left until others may take the lock."""

_STDERR = 2

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_guarded(
    hub: Hub, target: Target, command: Sequence[str], *, owner: str, wait: float, how: dict[str, Any]
) -> dict[str, Any]:
    """Run ``command`` under the lock ``target``, taken as ``how`` says; returns the grant and the command's exit code.

    Raises ``LockHeld`` or, after a ``wait``, ``WaitTimeout``; ``LeaseLost`` when
    the lease was lost, after the command's process group has ended; and
    ``UsageError`` for a command that cannot be started.
    """
    from ghcoord.faces.cli.lock_text import refusal, say_waiting

    child = Child(hub.runtime)
    held = target.hold(hub, owner, child.end, **how)
    with passing_signals(child.signal), ExitStack() as stack:
        if wait > 0:
            say_waiting(hub, target)
        try:
            stack.enter_context(held)
        except LockHeld:
            raise refusal(hub, target, owner, wait) from None
        lock = held.lock
        child.grace = min(MAX_GRACE, lock.ttl / 6)
        started = hub.runtime.monotonic()
        child.start(command, guarded_environment(lock))
        code = child.wait()
        return {
            "name": lock.name,
            "owner": lock.owner,
            "token": lock.token,
            "exit_code": code,
            "duration": round(hub.runtime.monotonic() - started, 3),
        }


def guarded_environment(lock: Lock) -> dict[str, str]:
    """The environment of a command that runs while ``lock`` is held."""
    return environment(GHCOORD_FENCING_TOKEN=str(lock.token), GHCOORD_LOCK=lock.name, GHCOORD_HUB=portable_hub_url())


@contextmanager
def passing_signals(pass_on: Callable[[int], bool]) -> Iterator[None]:
    """Pass signals on to the command; while there is none they end this process, which releases the lock."""

    def forward(number: int, frame: FrameType | None) -> None:
        if not pass_on(number):
            raise typer.Exit(128 + number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Child:
    """The command, in a process group of its own that has the terminal while it runs.

    ``grace`` is in seconds.  The leader is not reaped while anybody may still
    signal its group, so its number cannot become another group's.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.grace = 1.0
        self._runtime = runtime
        self._process: subprocess.Popen[bytes] | None = None
        self._mutex = threading.RLock()
        self._ended = runtime.event()
        self._condemned = False
        self._starting = False
        self._meanwhile: list[int] = []

    def start(self, command: Sequence[str], env: dict[str, str]) -> None:
        """Start it; raises ``UsageError`` when that is not possible, or nothing when the lease is lost already."""
        program = command[0]
        if "/" not in program and shutil.which(program) is None:
            raise UsageError(f"cannot run {program[:80]!r}: no such command")
        with self._mutex:
            if self._condemned:
                return
            self._starting = True
            try:
                self._process = subprocess.Popen(
                    command, env=env, process_group=0, stdout=_STDERR if invocation().json else None
                )
            except (OSError, ValueError) as error:
                reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
                raise UsageError(f"cannot run {program[:80]!r}: {reason}") from None
            finally:
                self._starting = False
            for number in self._meanwhile:
                self.signal(number)
        if _hand_terminal(self._process.pid, os.getpgrp()):
            # It may have asked for the terminal before it had it, and been stopped for that.
            self.signal(signal.SIGCONT)

    def signal(self, number: int) -> bool:
        """Send a signal to the whole group; ``False`` when it has not started. After its end nothing is sent."""
        with self._mutex:
            if self._process is None:
                # A handler that interrupts the very start must not take it for not begun: the command would live on.
                self._meanwhile += [number] if self._starting else []
                return self._starting
            if self._process.returncode is None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, number)
            return True

    def end(self) -> None:
        """End the whole group: TERM, the grace period, KILL. Called from the thread that renews the lease."""
        with self._mutex:
            self._condemned = True
        if self.signal(signal.SIGTERM):
            self.signal(signal.SIGCONT)
            self._ended.wait(self.grace)
            self.signal(signal.SIGKILL)

    def wait(self) -> int:
        """Wait for the command; its exit code, 128 + n when signal n ended it."""
        process = self._process
        if process is None:
            return 1
        while True:
            state = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
            if state is None or state.si_code != os.CLD_STOPPED:
                break
            self._suspend(process.pid, state.si_status)
        self._ended.set()
        with self._mutex:
            if self._condemned:
                self.signal(signal.SIGKILL)
            code = process.wait()
        _hand_terminal(os.getpgrp(), process.pid)
        return code if code >= 0 else 128 - code

    def _suspend(self, pid: int, number: int) -> None:
        """The command is stopped. If by the terminal's user, stop too, and go on with it; else wait for who did it."""
        os.waitid(os.P_PID, pid, os.WSTOPPED)
        if number == signal.SIGSTOP or not os.isatty(0):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WCONTINUED | os.WNOWAIT)
            return
        _hand_terminal(os.getpgrp(), pid)
        # To this very thread, so that it is stopped when the call returns; without a shell that could go on, ignored.
        signal.pthread_kill(threading.get_ident(), signal.SIGTSTP)
        if not _hand_terminal(pid, os.getpgrp()):
            self._runtime.sleep(0.5)
        self.signal(signal.SIGCONT)


def _hand_terminal(group: int, now: int) -> bool:
    """Make ``group`` the terminal's foreground group if ``now`` is; whether that was so."""
    try:
        if not os.isatty(0) or os.tcgetpgrp(0) != now:
            return False
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            os.tcsetpgrp(0, group)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    except OSError:
        return False
    return True
