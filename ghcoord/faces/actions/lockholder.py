"""Holding a lock across the steps of a job, and letting go of it.

A step ends before the next one begins, so a process of its own holds the lock:
it renews the lease until it is told to stop, and ends by itself when the job's
runner is gone, after ``at_most`` seconds, or when the lease is lost.  What ends
without its being told does not release: what the job left running may still
write, and others wait for the lease to end.
"""

from __future__ import annotations

import contextlib
import os
import signal
from contextlib import ExitStack
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from ghcoord.clock import Runtime
from ghcoord.errors import GhcoordError, LeaseLost, LockHeld, NotFound, NotOwner, WaitTimeout
from ghcoord.faces.actions.holdfile import OVER, HoldFolder, HoldState, Stage
from ghcoord.faces.actions.jobprocess import Process, ancestor, find
from ghcoord.hub import Hub
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from ghcoord.coord.locks.waiting import Granted
    from ghcoord.model.lock import Lock, LockRecord

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

LOOK_EVERY = 0.2
"""Seconds between two looks for what ends the hold."""


class Holder:
    """One lock of one job; :meth:`run` returns when it is over.

    ``state`` is what is told from the start: who holds what.  ``at_most`` in
    seconds.
    """

    def __init__(self, runtime: Runtime, folder: HoldFolder, name: str, owner: str, *, at_most: float) -> None:
        me = find(os.getpid())
        self.state = HoldState("waiting", name, owner, os.getpid(), me.started if me is not None else 0)
        self._runtime = runtime
        self._folder = folder
        self._at_most = at_most
        self._parent = os.getppid()
        self._runner: Process | None = ancestor()
        self._signalled = self._over = False
        self._stop = runtime.event()
        self._wake = runtime.event()
        self._left = ""
        self._held = False

    def tell(self, state: HoldState) -> None:
        """Say how it stands now."""
        self.state = state
        with contextlib.suppress(OSError):  # the job is over, and its folder with it
            self._folder.write(state)

    def failed(self, error: GhcoordError) -> None:
        """Say that it did not come to anything, and why."""
        if self.state.state not in OVER:
            stage: Stage = "refused" if isinstance(error, LockHeld | WaitTimeout) else "failed"
            self.tell(replace(self.state, state=stage, code=error.exit_code, message=error.message))

    def run(self, hub: Hub, *, wait: float, how: dict[str, Any]) -> HoldState:
        """Get the lock as ``how`` says, hold it, and return what became of it; ``waiting``: it was not to be had."""
        before = {number: signal.signal(number, self._on_signal) for number in ENDING}
        try:
            return self._run(hub, wait, how)
        finally:
            self._over = True
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self, hub: Hub, wait: float, how: dict[str, Any]) -> HoldState:
        self.tell(self.state)
        if self._folder.asked_to_stop:
            self._stop.set()
            return self._stopped()
        self._runtime.spawn(self._watch, "ghcoord-job")
        granted = hub.locks.pursuit(
            self.state.name, self.state.owner, wait=wait, fair=wait > 0, stop=self._stop, seen=self._saw, **how
        ).run()
        if granted is not None:
            return self._hold(hub, granted)
        return self._stopped() if self._stop.is_set() else self.state

    def _stopped(self) -> HoldState:
        why = self._left or "it was told to stop"
        self.tell(replace(self.state, state="stopped", message=f"not waited for any longer: {why}"))
        return self.state

    def _hold(self, hub: Hub, granted: Granted) -> HoldState:
        lock = granted.lock
        held = hub.locks.held(lock.name, lambda: granted, on_lost=self._wake.set)
        try:
            with ExitStack() as stack:
                stack.enter_context(held)
                self._held = True
                self.tell(replace(self.state, state="held", token=lock.token, ttl=lock.ttl, message=""))
                self._wait(lock)
                if self._left and not held.lost:
                    stack.pop_all()  # neither renewed nor released from here on
                    why = f"not renewed any longer: {self._left}"
                    self.tell(replace(self.state, state="lost", code=LeaseLost.exit_code, message=why))
                    return self.state
        except LeaseLost as lost:
            self.tell(replace(self.state, state="lost", code=lost.exit_code, message=lost.message))
            return self.state
        self.tell(replace(self.state, state="released"))
        return self.state

    def _wait(self, lock: Lock) -> None:
        end = self._runtime.monotonic() + self._at_most
        while not self._wake.wait(min(1.0, max(0.0, end - self._runtime.monotonic()))):
            if self._runtime.monotonic() >= end:
                self._left = f"held for {format_duration(self._at_most)}, the longest that was allowed"
                return

    def _watch(self) -> None:
        """Look, apart from what waits for a hub, for what ends the hold."""
        while not self._over:
            if self._signalled or self._folder.asked_to_stop:
                break
            if self._runner is not None and not self._runner.alive:
                self._left = "the runner of the job has ended"
                break
            if not self._held and os.getppid() != self._parent:
                self._left = "the step that asked has ended"
                break
            self._runtime.sleep(LOOK_EVERY)
        self._stop.set()
        self._wake.set()

    def _saw(self, record: LockRecord | None) -> None:
        """Tell for whom it waits, when that changes."""
        owners = [] if record is None else [grant.owner for grant in record.grants]
        others = [owner for owner in owners if owner != self.state.owner]
        told = f"held by {others[0]!r}{f' and {len(others) - 1} more' if others[1:] else ''}" if others else ""
        if told != self.state.message:
            self.tell(replace(self.state, message=told))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True


def stop_holder(runtime: Runtime, folder: HoldFolder, patience: float) -> HoldState | None:
    """Tell the holder to let go, and wait for it ``patience`` seconds; returns how it stands.

    A holder that does not end is killed: the state is not in ``OVER`` then, and
    what it held is the caller's to release.  ``None`` when there never was one.
    """
    folder.ask_to_stop()
    end = runtime.monotonic() + patience
    while True:
        state = folder.read()
        if state is not None and state.state in OVER:
            return state
        process = state.holder if state is not None else folder.starting()
        if process is None or not process.alive:
            return folder.read()
        if runtime.monotonic() >= end:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            while process.alive:
                runtime.sleep(LOOK_EVERY / 4)
            return folder.read()
        runtime.sleep(LOOK_EVERY / 4)


def release_for(hub: Hub, state: HoldState) -> HoldState:
    """Release what a holder that is dead held as ``state`` says; returns what became of it.

    A grant that is still there was nobody else's meanwhile, also when nobody
    renewed it.  Any other error than that of a lost lease is raised.
    """
    try:
        hub.locks.release(state.name, state.owner, state.token, whole=True)
    except (LeaseLost, NotFound, NotOwner) as error:
        if state.token is None:
            return replace(state, state="stopped", message="the process that waited for it ended")
        message = f"the process that held it ended, and then the lease: {error.message}"
        return replace(state, state="lost", code=LeaseLost.exit_code, message=message)
    return replace(state, state="released", message="the process that held it had ended")
