"""Time, randomness, waiting and threads: the only module that touches them.

Everything else receives a :class:`Runtime`.  ``ghcoord.testing`` has a manual
one and one driven by the deterministic simulation, so no code may call
``time``, ``random`` or ``threading.Thread`` itself.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Event(Protocol):
    """A flag threads wait for."""

    def set(self) -> None: ...

    def clear(self) -> None: ...

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until set, at most ``timeout`` seconds; returns whether it is set."""
        ...


class Thread(Protocol):
    """A started thread."""

    def join(self, timeout: float | None = None) -> None: ...

    def is_alive(self) -> bool: ...


class Runtime(Protocol):
    """What a process needs of the outside besides storage."""

    def now(self) -> float:
        """Wall clock, seconds since the epoch (UTC). Never compared across machines without a margin."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back and that count suspended time (CLOCK_BOOTTIME)."""
        ...

    def sleep(self, seconds: float) -> None: ...

    def uniform(self, low: float, high: float) -> float: ...

    def randbits(self, bits: int) -> int: ...

    def event(self) -> Event: ...

    def spawn(self, run: Callable[[], None], name: str) -> Thread:
        """Start ``run`` in a daemon thread."""
        ...

    def boot_id(self) -> str:
        """Identifies the boot that :meth:`monotonic` counts from."""
        ...


class SystemRuntime:
    """The real machine."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()
        self._clock_id = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.clock_gettime(self._clock_id)

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def randbits(self, bits: int) -> int:
        return self._random.getrandbits(bits)

    def event(self) -> Event:
        return threading.Event()

    def spawn(self, run: Callable[[], None], name: str) -> Thread:
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def boot_id(self) -> str:
        try:
            return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            # No boot id on this platform: the wall-clock second of the boot stands in for it.
            return f"boot-{round(time.time() - self.monotonic())}"
