"""Reading a workspace for a checkpoint, whatever the tasks have put there and go on doing.

Nothing is followed and nothing but regular files is opened.  A file that
changes while it is read is kept as it was read; one that goes is left out.
What did not change since it was last read is not read again: inode, size and
both times, to the nanosecond, tell.  A task can set a file's mtime, never its
ctime.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from ghcoord.coord.sessions.manifests import (
    MAX_LEFT_OUT,
    MAX_TARGET,
    FileEntry,
    FolderEntry,
    LeftOut,
    defect_of_path,
    quota,
    quota_message,
)
from ghcoord.errors import GhcoordError, SandboxError, UsageError
from ghcoord.execution.files.beneath import Files
from ghcoord.execution.files.entries import Entry
from ghcoord.execution.files.paths import shown
from ghcoord.execution.files.tree import walk
from ghcoord.model.codec import MAX_NUMBER
from ghcoord.model.limits import Limits

SKIPPED = frozenset({".venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".ipynb_checkpoints"})
"""Folders that are left out wherever they lie: environments, and what programs make again."""

SKIPPED_AT_TOP = frozenset({".cache"})
"""The same at the top only, which is the tasks' HOME."""

FRESH = 0.1
"""Seconds within which a change may not show in a file's times: they move with the kernel's tick, at most 10 ms."""

COARSE = 2.5
"""The same on file systems whose times are whole seconds (FAT: two)."""


class Keeper(Protocol):
    """Where the contents go."""

    def known(self) -> dict[str, tuple[int, ...]]:
        """What :attr:`Scan.known` was at the last time."""
        ...

    def has(self, digest: str) -> bool:
        """Whether the content is kept."""
        ...

    def add(self, source: BinaryIO, size: int) -> tuple[str, int]:
        """Take at most ``size`` bytes; their sha256 and how many there were."""
        ...


@dataclass(slots=True)
class Scan:
    """What a workspace holds, its contents being in the local store by now."""

    files: dict[str, FileEntry] = field(default_factory=dict)
    folders: dict[str, FolderEntry] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    left_out_count: int = 0
    size: int = 0
    read: int = 0
    """Files that had to be read."""
    known: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def leave_out(self, path: str, why: str) -> None:
        """Note what a checkpoint will not have."""
        self.left_out_count += 1
        if len(self.left_out) < MAX_LEFT_OUT:
            self.left_out.append(LeftOut(path=shown(path)[:1000], why=why[:300]))


def scan(workspace: Path, files: Files, store: Keeper, limits: Limits, now: float) -> Scan:
    """Read the workspace; ``now`` is the machine's time in seconds.

    Raises :class:`UsageError` when it has more than ``limits.archive_files``
    files and folders or more than ``archive_mb`` MiB.
    """
    found = Scan()
    most = quota(limits)
    known = store.known()
    todo: list[tuple[Entry, os.stat_result]] = []
    for entry, info in _entries(workspace):
        if entry.path.partition("/")[0] in SKIPPED_AT_TOP:
            continue
        if why := defect_of_path(entry.path) or _defect(entry):
            found.leave_out(entry.path, why)
        elif entry.kind == "folder":
            found.folders[entry.path] = FolderEntry(entry.mode & 0o777, _micros(info))
        elif entry.kind == "link":
            found.links[entry.path] = entry.target
        else:
            todo.append((entry, info))
            found.size += entry.size
        _check(most, len(todo) + len(found.folders) + len(found.links), found.size)
    _drop_orphans(found, todo)
    found.size = 0
    for entry, info in sorted(todo, key=lambda each: each[0].path):
        _file(found, entry, info, files, store, known.get(entry.path), now)
        _check(most, 0, found.size)
    return found


def _entries(workspace: Path) -> Iterator[tuple[Entry, os.stat_result]]:
    root = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield from walk(root, skip=SKIPPED, force=True)
    except OSError as why:
        raise SandboxError(f"the workspace {workspace} cannot be read: {why.strerror}") from why
    finally:
        os.close(root)


def _defect(entry: Entry) -> str:
    if entry.kind == "other":
        return "it is a FIFO, a socket or a device"
    if entry.kind == "link":
        try:
            good = 0 < len(entry.target.encode()) <= MAX_TARGET
        except UnicodeEncodeError:
            good = False
        return "" if good else "its target is not UTF-8"
    if entry.kind == "file" and entry.links != 1:
        return "it has several names (hard links): copy it to keep it"
    return ""


def _check(limits: Limits, count: int, size: int) -> None:
    if message := quota_message(count, size, limits):
        raise UsageError(f"the workspace is too large for a checkpoint: {message}")


def _drop_orphans(found: Scan, todo: list[tuple[Entry, os.stat_result]]) -> None:
    """Leave out what lies in a folder that is left out itself, or was renamed while the workspace was read."""

    def lost(path: str) -> bool:
        above = path.rpartition("/")[0]
        return bool(above) and above not in found.folders

    while gone := [path for path in found.folders if lost(path)]:
        for path in gone:
            found.folders.pop(path)
            found.leave_out(path, "its folder is left out")
    for path in [path for path in found.links if lost(path)]:
        found.links.pop(path)
        found.leave_out(path, "its folder is left out")
    taken = {*found.folders, *found.links}
    kept: dict[str, tuple[Entry, os.stat_result]] = {}
    for entry, info in todo:
        if lost(entry.path):
            found.leave_out(entry.path, "its folder is left out")
        elif entry.path in taken:
            found.leave_out(entry.path, "it changed into something else while the workspace was read")
        else:
            kept[entry.path] = (entry, info)
    todo[:] = kept.values()
    for path in found.folders.keys() & found.links.keys():
        found.links.pop(path)
        found.leave_out(path, "it changed into something else while the workspace was read")


def _file(
    found: Scan,
    entry: Entry,
    info: os.stat_result,
    files: Files,
    store: Keeper,
    known: tuple[int, ...] | None,
    now: float,
) -> None:
    if known is not None and known[:-1] == _look(info) and store.has(digest := f"{known[-1]:064x}"):
        found.files[entry.path] = FileEntry(entry.mode & 0o777, entry.size, _micros(info), digest)
        found.known[entry.path] = known
        found.size += entry.size
        return
    try:
        with files.open_read(entry.path) as source:
            before = os.fstat(source.fileno())
            digest, size = store.add(source, before.st_size)
            after = os.fstat(source.fileno())
    except GhcoordError as why:
        found.leave_out(entry.path, why.message)
        return
    except PermissionError:
        found.leave_out(entry.path, "the worker may not read it")
        return
    found.read += 1
    found.size += size
    found.files[entry.path] = FileEntry(before.st_mode & 0o777, size, _micros(before), digest)
    if _look(before) == _look(after) and size == before.st_size and _settled(before, now):
        found.known[entry.path] = (*_look(before), int(digest, 16))


def _look(info: os.stat_result) -> tuple[int, ...]:
    """What tells a file from the same file after a change."""
    return (info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)


def _settled(info: os.stat_result, now: float) -> bool:
    """Whether a change after ``now`` is sure to show in the file's times."""
    coarse = info.st_ctime_ns % 1_000_000_000 == 0
    return info.st_ctime_ns < (now - (COARSE if coarse else FRESH)) * 1e9


def _micros(info: os.stat_result) -> int:
    return min(max(info.st_mtime_ns // 1000, 0), MAX_NUMBER)
