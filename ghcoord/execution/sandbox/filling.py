"""How much a workspace holds, measured a little at a time while a hostile command changes it.

Files without a name are found by the descriptors and the mappings of the
command's processes.  What it misses: one that lies in a socket's queue.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Sequence
from io import RawIOBase
from pathlib import Path

from ghcoord.errors import SandboxError

MAX_DEPTH = 128
"""Folders within folders; what lies deeper counts as too much, or it could not be measured."""

ENTRY_BYTES = 512
"""What a name costs besides its content, so that a million empty files count."""

REST = 0.25
"""Seconds at least between two passes over the folder; four times what the last one took otherwise."""

STEP = 400
"""Entries looked at in one look: about 2 ms."""

FIRST_STEP = 4 * STEP
"""The same before the command starts; mostly the sandbox is still being set up meanwhile."""

HURRIED_STEP = 10 * STEP
"""The same when the disk has lost more room than the folder may still take."""

MOST_MAPPINGS = 2 * 1024 * 1024
"""Bytes that are read of a process's list of mappings; a longer one may hide files."""

_TURN = 8192  # bytes of such a list that count as one entry of a step

SLACK = 1024 * 1024
"""Bytes by which a folder that was over its limit may still grow, so that what clears it up can run."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Filling:
    """Watches one folder. No link is followed, and each file counts once, by the blocks it takes on disk."""

    def __init__(self, folder: Path, limit: int) -> None:
        """``limit`` is in bytes. Raises :class:`SandboxError` when ``folder`` is none."""
        try:
            self._root = os.open(folder, _FOLDER)
        except OSError as why:
            raise SandboxError(f"the workspace {folder} cannot be measured: {why.strerror}") from None
        self._limit = limit
        self._device = os.fstat(self._root).st_dev
        self._free_at_start = self._free_at_pass = self._free()
        self._pass: Generator[None, None, None] | None = None
        self._began = self._next = 0.0
        self._found = self._at_start = 0
        self._closed = False
        self._seen: set[int] = set()
        self.size: int | None = None
        """Bytes that the last whole pass found."""

    def begin(self) -> None:
        """Measure what is there before the command starts, as far as a few milliseconds go."""
        self._start_pass(())
        if self._go_on(FIRST_STEP):
            self._end_first_pass(0)

    def look(self, now: float, pids: Sequence[int]) -> bool:
        """Go on measuring; whether a pass has found more than is allowed.

        A pass begins when one is due, and at once when the disk has lost half
        the room that the folder had left.  Deleted files that ``pids`` hold open
        or have mapped count as well.
        """
        lost = self._free_at_pass - self._free()
        hurried = self.size is not None and lost > max(self._limit - self.size, 0) // 2
        if self._pass is None:
            if now < self._next and not hurried:
                return False
            self._began = now
            self._start_pass(pids)
        if not self._go_on(HURRIED_STEP if hurried else STEP):
            return False
        self._next = now + max(REST, 4 * (now - self._began))
        if self.size is None:
            self._end_first_pass(max(self._free_at_start - self._free(), 0))
        if self._closed:
            # What lies where nobody may look is at most what the disk has lost.
            self._found = max(self._found, self._at_start + max(self._free_at_start - self._free(), 0))
        self.size = self._found
        return self.size > self._limit

    def _start_pass(self, pids: Sequence[int]) -> None:
        self._free_at_pass = self._free()
        self._found, self._closed = 0, False
        self._seen.clear()
        self._pass = self._measure(pids)

    def _go_on(self, entries: int) -> bool:
        """Look at so many more; whether the pass has ended."""
        assert self._pass is not None
        for number, _ in enumerate(self._pass, start=1):
            if number >= entries:
                return False
        self._pass = None
        return True

    def _end_first_pass(self, grown: int) -> None:
        """``grown`` bytes of what was found were not there at the start."""
        self.size = self._found
        self._at_start = max(self._found - grown, 0)
        self._limit = max(self._limit, self._at_start + SLACK)

    def close(self) -> None:
        """Let go of the folder."""
        if self._pass is not None:
            self._pass.close()
        os.close(self._root)

    def _free(self) -> int:
        info = os.fstatvfs(self._root)
        return info.f_bfree * info.f_frsize + info.f_ffree * ENTRY_BYTES

    def _measure(self, pids: Sequence[int]) -> Generator[None, None, None]:
        yield from self._folder(os.open(".", _FOLDER, dir_fd=self._root), 0)
        for pid in pids:
            yield from self._deleted(pid)

    def _folder(self, fd: int, depth: int) -> Generator[None, None, None]:
        """Closes ``fd``."""
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    yield
                    try:
                        info = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue
                    self._count(info)
                    if not stat.S_ISDIR(info.st_mode):
                        continue
                    if depth >= MAX_DEPTH:
                        self._found += self._limit + SLACK
                        continue
                    try:
                        below = os.open(entry.name, _FOLDER, dir_fd=fd)
                    except PermissionError:
                        self._closed = True
                        continue
                    except OSError:
                        continue
                    yield from self._folder(below, depth + 1)
        except OSError:
            return
        finally:
            os.close(fd)

    def _deleted(self, pid: int) -> Generator[None, None, None]:
        """Files that the process holds and that have no name any more."""
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError as why:
            self._closed = self._closed or isinstance(why, PermissionError)
            return
        for name in names:
            yield
            try:
                info = os.stat(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            self._count_nameless(info)
        yield from self._mapped(pid)

    def _mapped(self, pid: int) -> Generator[None, None, None]:
        """A mapping keeps a file on the disk without any descriptor; only root may look at which one it is."""
        try:
            with open(f"/proc/{pid}/maps", "rb", buffering=0) as file:
                text = _read_some(file, MOST_MAPPINGS)
        except OSError as why:
            self._closed = self._closed or isinstance(why, PermissionError)
            return
        self._closed = self._closed or len(text) >= MOST_MAPPINGS
        for _ in range(len(text) // _TURN):
            yield
        where = f"{os.major(self._device):02x}:{os.minor(self._device):02x}".encode()
        seen: set[bytes] = set()
        for line in text.splitlines():
            fields = line.split(None, 5)
            if not line.endswith(b"(deleted)") or len(fields) < 6 or fields[3] != where or fields[4] in seen:
                continue
            yield
            seen.add(fields[4])
            try:
                info = os.stat(f"/proc/{pid}/map_files/{fields[0].decode()}")
            except FileNotFoundError:
                continue
            except OSError:
                self._closed = True
                return
            self._count_nameless(info)

    def _count_nameless(self, info: os.stat_result) -> None:
        if info.st_nlink == 0 and info.st_dev == self._device and stat.S_ISREG(info.st_mode):
            self._count(info)

    def _count(self, info: os.stat_result) -> None:
        self._found += ENTRY_BYTES
        if info.st_ino not in self._seen:
            if info.st_nlink != 1:
                self._seen.add(info.st_ino)
            self._found += info.st_blocks * 512


def _read_some(file: RawIOBase, most: int) -> bytes:
    parts, size = [], 0
    while size < most and (part := file.read(65536)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)
