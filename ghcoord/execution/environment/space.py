"""Holds a session's cache of packages to a size.

It lies beside the workspace, so nothing else counts it; and a small wheel may
hold very much.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from ghcoord.clock import Runtime
from ghcoord.errors import GhcoordError
from ghcoord.execution.files.beneath import Files
from ghcoord.execution.workspace import remove_tree

PAUSE = 0.5
"""Seconds between two measurements."""

ENTRY_BYTES = 4096
"""What anything counts at least: its place in a folder and on the disk."""

_using: Counter[Path] = Counter()
_mutex = threading.Lock()


class Space:
    """The size of ``folder``, measured while something is written there.

    ``most`` is in bytes, ``None`` for no limit.
    """

    def __init__(self, folder: Path, most: int | None, runtime: Runtime) -> None:
        self.folder = folder
        self.over = False
        """Whether it was seen to hold more."""
        self._most = most
        self._done = runtime.event()
        self._thread = None if most is None else runtime.spawn(self._watch, "package cache")

    def close(self) -> None:
        """Stop measuring."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def too_large(self) -> bool:
        """Whether it holds more than half of what it may, so that it is time to begin anew."""
        return self._most is not None and (self.over or self._holds_more(self._most // 2))

    def _watch(self) -> None:
        assert self._most is not None
        while not self._done.wait(PAUSE):
            if self._holds_more(self._most):
                self.over = True
                return

    def _holds_more(self, most: int) -> bool:
        """What vanishes meanwhile is passed over."""
        total = 0
        with contextlib.suppress(GhcoordError, OSError), Files(self.folder) as files:
            for entry in files.walk():
                total += max(entry.size, ENTRY_BYTES)
                if total > most:
                    return True
        return False


@contextlib.contextmanager
def held_to(keep: Callable[[], Path], most: int | None, runtime: Runtime) -> Iterator[Space]:
    """Measure the folder that ``keep`` makes while the block runs; afterwards remove it if it is too large.

    Removed only when no other block of this process is at work in it.
    """
    with _mutex:
        folder = keep()
        _using[folder] += 1
    space = Space(folder, most, runtime)
    try:
        yield space
    finally:
        space.close()
        too_large = space.too_large()
        aside = folder.with_name(f".{folder.name}-{runtime.randbits(64):016x}")
        with _mutex:
            _using[folder] -= 1
            if not _using[folder]:
                del _using[folder]
                if too_large:
                    with contextlib.suppress(FileNotFoundError):
                        folder.rename(aside)
        remove_tree(aside)
