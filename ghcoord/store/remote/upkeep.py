"""Keeping the copy on this machine small: packs merged as they pile up, what nobody needs pruned."""

from __future__ import annotations

import contextlib
import threading

from ghcoord.errors import StoreError, Unavailable
from ghcoord.store.remote.answers import last_words
from ghcoord.store.remote.mirror import Mirror
from ghcoord.store.remote.session import Session

LOOK_EVERY = 32
"""Uses of the copy between two looks at how it has grown."""

MANY = 96
"""Packs (sixteen loose objects count as one) beyond which they are merged."""

GROWTH = 3
ROOM = 32 * 1024 * 1024
"""The copy is pruned once it has so many times the bytes, and so many more, than after the last time."""

EXPIRY = "2.hours.ago"
"""What nothing leads to stays for this long: another process may still read an older state, or have just fetched it."""

LONG = 60.0
"""Seconds that each step of pruning may take: others wait for it, and not for ever."""


class Upkeep:
    """Looks after ``mirror``, which it uses alone and never waits for."""

    def __init__(self, mirror: Mirror, session: Session) -> None:
        self._mirror = mirror
        self._session = session
        self._mutex = threading.Lock()
        self._uses = 0

    def tick(self) -> None:
        """The copy was used once more."""
        with self._mutex:
            self._uses += 1
            if self._uses % LOOK_EVERY:
                return
        with contextlib.suppress(StoreError):  # busy, or the disk is full: another time
            self._look()

    def _look(self) -> None:
        many, size = self._mirror.size()
        last = self._mirror.pruned_size()
        if size > GROWTH * last + ROOM:
            self.prune(timeout=0.0)
        elif many > MANY:
            with self._mirror.exclusive(0.0):
                self._session.local("repack", "-d", "-q", "--geometric=2", "--no-write-bitmap-index")

    def prune(self, *, timeout: float, expiry: str = EXPIRY) -> None:
        """Remove what no head leads to any more; raises ``Unavailable`` where others use the copy for ``timeout`` s."""
        with self._mirror.exclusive(timeout):
            self._mirror.sweep()
            for command in (
                ["repack", "-A", "-d", "-q", "--no-write-bitmap-index", f"--unpack-unreachable={expiry}"],
                ["prune", f"--expire={expiry}"],
            ):
                done = self._session.local(*command, timeout=LONG)
                if done.code != 0:
                    raise Unavailable(f"the copy in {self._mirror.folder} was not pruned: {last_words(done.err)}")
            self._mirror.note_pruned()

    def bytes_of(self, oids: list[str]) -> int:
        """What ``oids`` take on this machine's disk."""
        with self._mirror.shared():
            done = self._session.local("cat-file", "--batch-check=%(objectsize:disk)", stdin="\n".join(oids) + "\n")
        return sum(int(line) for line in done.out.split() if line.isdecimal())
