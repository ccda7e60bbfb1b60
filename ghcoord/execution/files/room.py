"""How much a workspace may still take."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

from ghcoord.errors import UsageError
from ghcoord.execution.files.paths import shown
from ghcoord.model.limits import Limits

_MIB = 1024 * 1024


class Room:
    """Keeps ``file_mb`` and ``workspace_mb`` of ``limits``.

    The latter against what was measured last and what was written since:
    ``measure`` counts the bytes there are, up to the limit that it is given; it
    is called when nothing is known or the limit seems reached.
    """

    def __init__(self, limits: Limits, measure: Callable[[int], int]) -> None:
        self._file = None if limits.file_mb is None else limits.file_mb * _MIB
        self._all = None if limits.workspace_mb is None else limits.workspace_mb * _MIB
        self._measure = measure
        self.known: int | None = None
        """Bytes that there are, as far as known."""
        self._lock = threading.Lock()

    def check(self, path: str, size: int, more: int) -> None:
        """Raises :class:`UsageError` when ``path`` may not have ``size`` bytes, or the workspace not ``more`` bytes."""
        if self._file is not None and size > self._file:
            raise UsageError(
                f"{shown(path)} would have {size} bytes: the limit file_mb allows {self._file // _MIB} MiB"
            )
        if self._all is None:
            return
        known = self.known
        if known is None or known + more > self._all:
            known = self.known = self._measure(self._all)
        if known + more > self._all:
            raise UsageError(
                f"the workspace has {known} bytes, {more} more are too many: "
                f"the limit workspace_mb allows {self._all // _MIB} MiB; delete something"
            )

    def left(self, path: str, size: int) -> tuple[int, str]:
        """Bytes that a new file may grow to, at least the ``size`` that was checked, and what is wrong beyond."""
        found = [(1 << 62, "")]
        if self._file is not None:
            found.append((self._file, f"{shown(path)} grows beyond {self._file // _MIB} MiB, the limit file_mb"))
        if self._all is not None:
            left = max(size, self._all - (self.known or 0))
            found.append((left, f"the workspace grows beyond {self._all // _MIB} MiB, the limit workspace_mb"))
        return min(found)

    def written(self, size: int) -> None:
        """``size`` bytes were added."""
        with self._lock:
            if self.known is not None:
                self.known += size


class Counted(io.FileIO):
    """A file that takes no more than it has room for."""

    def __init__(self, fd: int, room: tuple[int, str]) -> None:
        super().__init__(fd, "wb")
        self._left, self._beyond = room

    def write(self, data: Any, /) -> int:
        self._left -= len(data)
        if self._left < 0:
            raise UsageError(self._beyond)
        return super().write(data)
