"""All of a task's output, kept beside it within a cap, for when it is more than its record keeps."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

from ghcoord.errors import GhcoordError
from ghcoord.model.artifact import LOG_NAME, LOG_TYPE

if TYPE_CHECKING:
    from ghcoord.coord.artifacts.artifacts import Artifacts
    from ghcoord.model.task import Task

CAP = 16 * 1024 * 1024
"""Bytes that are kept: the first half, and of the rest at least the last quarter."""

IN_MEMORY = 64 * 1024
"""Bytes that are kept in memory; what is more goes to temporary files."""


class FullLog:
    """Takes a task's output as it comes, from one thread at a time, and stores it if that is needed.

    At most ``cap`` bytes are kept: the beginning and the end, with a line
    between that says how much was left out.  A disk that is full costs the log
    and nothing else: what came until then is kept.
    """

    def __init__(self, cap: int = CAP) -> None:
        self._half = cap // 2
        self._quarter = cap // 4
        self._head: BinaryIO | None = None
        self._head_size = 0
        self._tails: list[tuple[BinaryIO, int]] = []
        self._size = 0
        self._failed = False

    @property
    def size(self) -> int:
        """Bytes that came."""
        return self._size

    def add(self, text: str) -> None:
        """Take the next piece. Raises nothing."""
        data = text.encode(errors="replace")
        self._size += len(data)
        if self._failed:
            return
        try:
            self._keep(data)
        except OSError:
            self._failed = True

    def _keep(self, data: bytes) -> None:
        room = self._half - self._head_size
        if room > 0:
            if self._head is None:
                self._head = _file()
            self._head.write(data[:room])
            self._head_size += len(data[:room])
            data = data[room:]
        while data:
            if not self._tails or self._tails[-1][1] >= self._quarter:
                self._tails.append((_file(), 0))
                if len(self._tails) > 2:
                    self._tails.pop(0)[0].close()
            file, size = self._tails[-1]
            piece = data[: self._quarter - size]
            file.write(piece)
            self._tails[-1] = file, size + len(piece)
            data = data[len(piece) :]

    def store(self, artifacts: Artifacts, task: Task, log: Callable[[str], None] = lambda text: None) -> str | None:
        """Make it an artifact of ``task`` and return its id; ``None`` where it is empty or cannot be stored.

        ``log`` hears why.
        """
        if not self._size:
            return None
        try:
            source = _Joined(self._parts())
            made = artifacts.put(
                LOG_NAME, io.BufferedReader(source), content_type=LOG_TYPE, task_id=task.id, session_id=task.session
            )
        except (GhcoordError, OSError) as error:
            log(f"the whole output of task {task.id} could not be stored: {error}")
            return None
        return made.id

    def _parts(self) -> list[BinaryIO]:
        kept = self._head_size + sum(size for _, size in self._tails)
        files = [file for file in (self._head, *(file for file, _ in self._tails)) if file is not None]
        for file in files:
            file.seek(0)
        if kept < self._size:
            left_out = io.BytesIO(f"\n[… {self._size - kept} bytes left out …]\n".encode())
            files.insert(1 if self._head is not None else 0, left_out)
        return files

    def close(self) -> None:
        """Let go of what was kept."""
        for file, _ in self._tails:
            file.close()
        if self._head is not None:
            self._head.close()
        self._head, self._tails = None, []


def _file() -> BinaryIO:
    return tempfile.SpooledTemporaryFile(IN_MEMORY)  # type: ignore[return-value]


class _Joined(io.RawIOBase):
    """Several files read one after the other."""

    def __init__(self, files: list[BinaryIO]) -> None:
        super().__init__()
        self._files = files

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while self._files:
            data = self._files[0].read(len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)
            self._files.pop(0)
        return 0
