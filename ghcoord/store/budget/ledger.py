"""What the processes of one machine have sent lately, in one small file that they share.

Times are seconds of the boot clock (:meth:`ghcoord.clock.Runtime.monotonic`),
which all processes have in common and no administrator sets; the wall clock is
used only to carry them over a reboot.  The file holds one line of JSON and is
changed in place under ``flock``, in one write: whoever reads it sees all or,
after a crash of the machine, nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import os
import re
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ghcoord.clock import Runtime
from ghcoord.store.budget.limits import HOUR, MINUTE

LARGEST = 1 << 20
"""Bytes that are read at most: a thousand times what there can be."""

LOCK_WAIT = 2.0
"""Seconds to wait for the file's lock; it is held for less than a millisecond."""

LONGEST_BLOCK = 86400.0
"""Seconds after which a block is not believed any more: the file is damaged."""

LARGEST_NUMBER = 10**12
"""No count of a server's is larger, and no time since the epoch."""

LOCK_PAUSE = 0.005
"""Seconds between two tries to get the lock."""

VERSION = 1

_AHEAD = 1.0
"""Seconds that a time may lie in the future before it is dropped."""


@dataclasses.dataclass(slots=True)
class Primary:
    """One of the server's own counts: ``left`` of ``limit`` until ``resets`` (boot clock)."""

    limit: int
    left: int
    resets: float


@dataclasses.dataclass(slots=True)
class State:
    """The counts. Lists of times are sorted; ``workers`` maps a process to the number it told and when that expires."""

    writes: list[float] = dataclasses.field(default_factory=list)
    pushes: list[float] = dataclasses.field(default_factory=list)
    refusals: list[float] = dataclasses.field(default_factory=list)
    points: dict[int, int] = dataclasses.field(default_factory=dict)
    blocked_until: float = 0.0
    why: str = ""
    primary: dict[str, Primary] = dataclasses.field(default_factory=dict)
    workers: dict[str, tuple[int, float]] = dataclasses.field(default_factory=dict)

    def tidy(self, now: float) -> None:
        """Forget what does not count any more, and times that cannot be."""
        self.writes = _window(self.writes, now, HOUR)
        self.pushes = _window(self.pushes, now, HOUR)
        self.refusals = _window(self.refusals, now, HOUR)
        self.points = {
            second: count
            for second, count in self.points.items()
            if now - MINUTE <= second <= now + _AHEAD and 0 < count <= LARGEST_NUMBER
        }
        self.workers = {
            who: told
            for who, told in self.workers.items()
            if now < told[1] <= now + LONGEST_BLOCK and told[0] <= LARGEST_NUMBER
        }
        self.primary = {
            name: one
            for name, one in self.primary.items()
            if now < one.resets <= now + HOUR + MINUTE + _AHEAD
            and 0 < one.limit <= LARGEST_NUMBER
            and 0 <= one.left <= LARGEST_NUMBER
        }
        if not now < self.blocked_until <= now + LONGEST_BLOCK:
            self.blocked_until, self.why = 0.0, ""

    def clear(self) -> None:
        """Forget everything."""
        for one in dataclasses.fields(self):
            setattr(self, one.name, type(getattr(self, one.name))())

    def merge(self, other: State) -> None:
        """Add what ``other`` knows."""
        self.writes = sorted({*self.writes, *other.writes})
        self.pushes = sorted({*self.pushes, *other.pushes})
        self.refusals = sorted({*self.refusals, *other.refusals})
        for second, count in other.points.items():
            self.points[second] = max(count, self.points.get(second, 0))
        if other.blocked_until > self.blocked_until:
            self.blocked_until, self.why = other.blocked_until, other.why
        for name, one in other.primary.items():
            self.learn(name, one)
        self.workers.update(other.workers)

    def learn(self, name: str, told: Primary) -> bool:
        """Take an answer's count, which may be older than what is known; whether anything changed."""
        known = self.primary.get(name)
        if known is not None and known.limit == told.limit and told.resets < known.resets + MINUTE:
            older_window = told.resets <= known.resets - MINUTE
            if older_window or told.left >= known.left:
                return False
        self.primary[name] = told
        return True


def _window(times: list[float], now: float, length: float) -> list[float]:
    return [time for time in times if now - length < time <= now + _AHEAD]


def ledger_name(account: str) -> str:
    """The name of the file for an account: readable, and another one for each account."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", account)[:40].strip("-.") or "account"
    return f"{readable}-{hashlib.sha256(account.encode(errors='surrogateescape')).hexdigest()[:8]}.json"


class Ledger:
    """The counts of one account. Thread-safe; shared through ``file``, or this object's own without one.

    A damaged file counts as empty and is written anew.  Where the file cannot
    be used, what this process itself sent is counted, and added once it can.
    """

    def __init__(self, runtime: Runtime, file: Path | None) -> None:
        self._runtime = runtime
        self._file = file
        self._mutex = threading.Lock()
        self._own = State()
        self._apart = False

    @contextlib.contextmanager
    def open(self) -> Iterator[State]:
        """The counts as they are now; what is changed in them is kept, and nobody else sees them meanwhile.

        Must be left at once: others wait.
        """
        handle = self._lock()
        try:
            if handle is None:
                self._own.tidy(self._runtime.monotonic())
                yield self._own
                return
            state = self._read(handle)
            if self._apart:
                state.merge(self._own)
            state.tidy(self._runtime.monotonic())
            before = None if self._apart else _encode(state)
            yield state
            self._own, self._apart = state, False
            if before != (after := _encode(state)):
                self._write(handle, after)
        finally:
            if handle is not None:
                os.close(handle)
            self._mutex.release()

    def move(self, account: str) -> None:
        """Keep the counts as those of ``account`` from now on, added to what is known of it."""
        if self._file is None:
            return
        file = self._file.with_name(ledger_name(account))
        if file == self._file:
            return
        with self.open() as state:
            known = dataclasses.replace(state)
            state.clear()
        with self._mutex:
            self._file, self._own, self._apart = file, known, True
        with self.open():
            pass

    # -- the file

    def _lock(self) -> int | None:
        """Take the mutex, and the file's lock if it can be had; its descriptor."""
        tries = round(LOCK_WAIT / LOCK_PAUSE)
        while True:
            self._mutex.acquire()
            if self._file is None:
                return None
            try:
                return _open_locked(self._file)
            except BlockingIOError:
                tries -= 1
            except OSError:
                tries = 0
            except BaseException:
                self._mutex.release()
                raise
            if tries <= 0:
                self._apart = True
                return None
            self._mutex.release()
            self._runtime.sleep(LOCK_PAUSE)

    def _read(self, handle: int) -> State:
        try:
            line, end, _ = os.pread(handle, LARGEST, 0).partition(b"\n")
            return _decode(json.loads(line), self._runtime) if end else State()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return State()

    def _write(self, handle: int, body: dict[str, Any]) -> None:
        offset = round(self._runtime.now() - self._runtime.monotonic(), 3)
        head = {"version": VERSION, "boot": self._runtime.boot_id(), "wall": offset}
        line = json.dumps(head | body, separators=(",", ":")).encode() + b"\n"
        try:
            if os.pwrite(handle, line, 0) != len(line):
                raise OSError("the disk is full")
            os.ftruncate(handle, len(line))
        except OSError:
            self._apart = True  # this process's own counts go on


def _open_locked(file: Path) -> int:
    """A descriptor of the locked file. Raises ``BlockingIOError`` while another has it, ``OSError``."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        handle = os.open(file, flags, 0o600)
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(file, flags, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{file} is no file")
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _encode(state: State) -> dict[str, Any]:
    return {
        "writes": [_milli(time) for time in state.writes],
        "pushes": [_milli(time) for time in state.pushes],
        "refusals": [_milli(time) for time in state.refusals],
        "points": [[second, count] for second, count in sorted(state.points.items())],
        "blocked": [_milli(state.blocked_until), state.why],
        "primary": {name: [one.limit, one.left, _milli(one.resets)] for name, one in state.primary.items()},
        "workers": {who: [count, _milli(until)] for who, (count, until) in state.workers.items()},
    }


def _decode(told: dict[str, Any], runtime: Runtime) -> State:
    if told["version"] != VERSION:
        raise ValueError("written by another version")
    shift = 0.0
    if told["boot"] != runtime.boot_id():
        shift = float(told["wall"]) - (runtime.now() - runtime.monotonic())

    def time(milli: Any) -> float:
        return int(milli) / 1000 + shift

    until, why = told["blocked"]
    return State(
        sorted(map(time, told["writes"])),
        sorted(map(time, told["pushes"])),
        sorted(map(time, told["refusals"])),
        {int(second): int(count) for second, count in told["points"] if not shift},
        time(until),
        str(why)[:400],
        {str(name): Primary(int(limit), int(left), time(end)) for name, (limit, left, end) in told["primary"].items()},
        {str(who): (int(count), time(end)) for who, (count, end) in told["workers"].items()},
    )


def _milli(time: float) -> int:
    return math.ceil(time * 1000 - 1e-3)
