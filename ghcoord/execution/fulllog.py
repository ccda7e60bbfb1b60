"""All of a task's output, kept beside it within a cap, for when it is more than its record keeps."""

from __future__ import annotations

import io
import tempfile
import threading
from typing import TYPE_CHECKING, BinaryIO

from ghcoord.errors import GhcoordError
from ghcoord.model.artifact import LOG_NAME, LOG_TYPE

if TYPE_CHECKING:
    from ghcoord.coord.artifacts.artifacts import Artifacts
    from ghcoord.execution.summary import Log
    from ghcoord.hub import Hub
    from ghcoord.model.task import Task, TaskResult

RETENTION = 14 * 86400.0
"""Seconds that a whole output is kept at most."""

FAR_CAP = 4_000_000
"""Bytes that are kept where commits are scarce: they fit into one (driver.MOST_AT_ONCE, sending.SHARE)."""

PATIENCE = 60.0
"""Seconds that a server's limits may put a commit off before a task's end is reported without the whole output."""

CAP = 16 * 1024 * 1024
"""Bytes that are kept: the first half, and of the rest at least the last quarter."""

IN_MEMORY = 64 * 1024
"""Bytes that are kept in memory; what is more goes to temporary files."""


class FullLog:
    """Takes a task's output as it comes, from any thread, and stores it if that is needed.

    At most ``cap`` bytes are kept: the beginning and the end, with a line
    between that says how much was left out.  A disk that is full costs the log
    and nothing else: what came until then is kept.
    """

    def __init__(self, cap: int = CAP) -> None:
        self._lock = threading.Lock()
        self._half = cap // 2
        self._quarter = cap // 4
        self._head: BinaryIO | None = None
        self._head_size = 0
        self._tails: list[tuple[BinaryIO, int]] = []
        self._size = 0
        self._closed = False

    @property
    def size(self) -> int:
        """Bytes that came."""
        return self._size

    def add(self, text: str) -> None:
        """Take the next piece. Raises nothing."""
        data = text.encode(errors="replace")
        with self._lock:
            self._size += len(data)
            if self._closed:
                return
            try:
                self._keep(data)
            except OSError:
                self._closed = True

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

    def store(self, artifacts: Artifacts, task: Task) -> str:
        """Make it an artifact of ``task`` and return its id. Raises what that raises, and ``OSError``."""
        with self._lock:
            self._closed = True
            source = io.BufferedReader(_Joined(self._parts()))
        made = artifacts.put(
            LOG_NAME,
            source,
            content_type=LOG_TYPE,
            task_id=task.id,
            session_id=task.session,
            retention=artifacts.at_most(RETENTION),
        )
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
        with self._lock:
            self._closed = True
            for file, _ in self._tails:
                file.close()
            if self._head is not None:
                self._head.close()
            self._head, self._tails = None, []

    def __del__(self) -> None:
        self.close()  # of a task that never came to its end


class FullLogKeeper:
    """Keeps the outputs of a worker's tasks until they end, and stores those whose records have not all of it."""

    def __init__(self, hub: Hub, log: Log) -> None:
        self._hub = hub
        self._log = log
        self._far = hub.requests_per_commit > 0

    def begin(self) -> FullLog:
        """For one attempt of a task."""
        return FullLog(FAR_CAP if self._far else CAP)

    def keep(self, full: FullLog, task: Task, record: TaskResult) -> TaskResult:
        """``record``, with the id of the artifact that has all of the output where the record does not.

        Takes as long as storing it does: not for the thread that renews leases.
        """
        if not record.truncated or not full.size:
            return record
        if self._far and self._hub.write_ready_in() > PATIENCE:
            self._log("warn", f"the whole output of task {task.id} is not stored: the server's limits are used up")
            return record
        try:
            stored = full.store(self._hub.artifacts, task)
        except (GhcoordError, OSError) as error:
            self._log("warn", f"the whole output of task {task.id} could not be stored: {error}")
            return record
        return record.model_copy(update={"artifacts": (*record.artifacts, stored)})


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
