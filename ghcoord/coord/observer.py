"""Watching foreign leases by one's own clock: a lease is over when it stood still for ttl + margin.

No wall clock of another machine is trusted.  What was seen is kept on disk
under the boot id, so that a restarted daemon does not begin from nothing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from pathlib import Path

from ghcoord.clock import Runtime
from ghcoord.model.lease import Judge, Lease

SAVE_EVERY = 5.0
"""Seconds between saves; what a crash loses makes the next observation start later, never earlier."""


class Observer:
    """Remembers since when each lease has looked the same. Thread-safe.

    ``margin`` in seconds is added to every ttl.
    """

    def __init__(self, runtime: Runtime, *, margin: float, file: Path | None = None) -> None:
        self._runtime = runtime
        self._margin = margin
        self._file = file
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[int, int, float]] = {}
        self._saved_at = runtime.monotonic()
        self._load()

    def look(self, leases: Iterable[tuple[str, Lease]], *, complete: str = "") -> None:
        """Note the leases as they are now. Keys starting with ``complete`` that are not among them are forgotten."""
        now = self._runtime.monotonic()
        with self._lock:
            present = set()
            for key, lease in leases:
                present.add(key)
                known = self._seen.get(key)
                if known is None or known[:2] != (lease.token, lease.renewal):
                    self._seen[key] = (lease.token, lease.renewal, now)
            if complete:
                for key in [k for k in self._seen if k.startswith(complete) and k not in present]:
                    del self._seen[key]
            if now - self._saved_at >= SAVE_EVERY:
                self._save()

    def judge(self) -> Judge:
        """A judge that goes by what has been observed up to now."""
        here = self._runtime.monotonic()
        with self._lock:
            seen = dict(self._seen)

        def expired(key: str, lease: Lease, now: float) -> bool:
            known = seen.get(key)
            if known is None or known[:2] != (lease.token, lease.renewal):
                return False
            return here - known[2] > lease.ttl + self._margin

        return expired

    def close(self) -> None:
        """Keep what was seen for the next process."""
        with self._lock:
            self._save()

    def _load(self) -> None:
        if self._file is None:
            return
        try:
            state = json.loads(self._file.read_text())
            if state["boot"] != self._runtime.boot_id():
                return
            now = self._runtime.monotonic()
            for key, (token, renewal, since) in state["seen"].items():
                if float(since) <= now:
                    self._seen[str(key)] = (int(token), int(renewal), float(since))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            self._seen.clear()  # nothing seen yet is always safe

    def _save(self) -> None:
        self._saved_at = self._runtime.monotonic()
        if self._file is None:
            return
        state = {"boot": self._runtime.boot_id(), "seen": {key: list(value) for key, value in self._seen.items()}}
        temporary = self._file.with_name(f"{self._file.name}.{self._runtime.randbits(32):08x}")
        try:
            temporary.write_text(json.dumps(state))
            temporary.replace(self._file)
        except OSError:
            return  # only makes the next process observe for longer
