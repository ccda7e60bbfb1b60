"""A workspace's files, for a worker that must not be led out of it.

Whoever owns the workspace may be at work in it, swapping folders for links:
every path is resolved by the kernel below one open folder
(:mod:`ghcoord.execution.files.opening`), and what was opened is looked at, not
its name.  Only regular files with one name are read and overwritten: a second
name could be one of a file elsewhere, and a FIFO or a device would make the
worker wait.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import itertools
import os
import stat
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from ghcoord.errors import PathRefused, UsageError
from ghcoord.execution.files import tree
from ghcoord.execution.files.entries import Entry, Pattern, entry_of
from ghcoord.execution.files.opening import Opener
from ghcoord.execution.files.paths import PRIVATE_PREFIX, folder_path, shown, workspace_path
from ghcoord.execution.files.room import Counted, Room
from ghcoord.execution.files.root import Root, check_plain, told
from ghcoord.execution.sandbox.base import Identity
from ghcoord.model.limits import Limits

MAX_READ = 64 * 1024 * 1024
"""Bytes that :meth:`Files.read` returns at most; more is read in pieces, or with :meth:`Files.open_read`."""

ENTRY_BYTES = 512
"""What anything counts at least before a write, so that there is an end to counting."""

_NOREPLACE = 1
_TRIES = 100
_count = itertools.count()
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY)


class Files:
    """The files below ``root``; all paths are relative to it. Safe to share between threads.

    What is made belongs to ``identity`` when the worker is root.  Of ``limits``
    it keeps ``file_mb`` and ``workspace_mb``, the latter against the size last
    measured plus what was written since.

    Everywhere: :class:`PathRefused` for a path that leaves ``root`` or leads to
    what is no regular file, :class:`NotFound`, :class:`UsageError` for anything
    else that the caller can mend.
    """

    def __init__(
        self,
        root: Path,
        identity: Identity | None = None,
        *,
        limits: Limits | None = None,
        opener: Opener | None = None,
    ) -> None:
        """Raises :class:`SandboxError` when there is no such folder."""
        self._root = Root(root, identity, opener)
        self._room = Room(limits or Limits(), self._taken)

    def close(self) -> None:
        """Let go of the folder; nothing works afterwards."""
        self._root.close()

    @property
    def known(self) -> int | None:
        """Bytes that the workspace takes as far as known: as measured last, and what was written since."""
        return self._room.known

    @known.setter
    def known(self, size: int) -> None:
        self._room.known = size

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- reading

    def read(self, path: str, offset: int = 0, limit: int | None = None) -> tuple[bytes, int]:
        """At most ``limit`` bytes from ``offset`` on, and the size of the whole file."""
        if offset < 0 or (limit is not None and limit < 0):
            raise UsageError("offset and limit must not be negative")
        with self.open_read(path) as file:
            size = os.fstat(file.fileno()).st_size
            wanted = max(0, size - offset) if limit is None else limit
            if limit is None and wanted > MAX_READ:
                raise UsageError(f"{shown(path)} has {size} bytes: at most {MAX_READ} are read at a time, give a limit")
            if offset >= size:
                return b"", size
            file.seek(offset)
            return file.read(min(wanted, MAX_READ)), size

    def open_read(self, path: str) -> BinaryIO:
        """The regular file ``path``, open for reading. Links are followed as long as they stay inside."""
        path = workspace_path(path)
        with told(path):
            try:
                fd = self._root.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
            except PermissionError:
                fd = self._root.open_own(path)
            return open(self._root.regular(fd, path), "rb")

    # -- writing

    def write(
        self, path: str, data: bytes, *, mode: int | None = None, append: bool = False, make_parents: bool = True
    ) -> int:
        """Write ``data``, at once unless it is appended; returns the bytes written.

        Without ``mode`` a file that is there keeps its own, a new one gets
        0644.  A link is followed to the file that it names.
        """
        if append:
            return self._append(path, data, mode, make_parents)
        with self.open_new(path, mode, make_parents=make_parents, size=len(data)) as file:
            file.write(data)
        return len(data)

    @contextlib.contextmanager
    def open_new(
        self, path: str, mode: int | None = 0o644, *, make_parents: bool = True, size: int = 0
    ) -> Iterator[BinaryIO]:
        """A file to write that takes the place of ``path`` when the block ends, and none when it raises.

        ``size``: bytes that are coming, as far as known.  More than ``limits``
        allow raises :class:`UsageError`, also while they are written.
        """
        path = workspace_path(path)
        self._room.check(path, size, size)
        with told(path):
            folder, name = self._root.place(path, make_parents)
        try:
            with told(path):
                there = _replaceable(folder, name, path)
                temporary, fd = _new_file(folder)
            try:
                with io.BufferedWriter(Counted(fd, self._room.left(path, size))) as file:
                    yield file
                    with told(path):
                        file.flush()
                        self._root.give(fd, there if mode is None else mode)
                        written = os.fstat(fd).st_size
                        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
                self._room.written(written)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def private(self, data: bytes, suffix: str = "") -> Iterator[str]:
        """A file of the tasks' own at the top, for as long as the block runs; its name."""
        name = ""
        with told("."):
            folder = self._root.folder("")
        try:
            with told("."):
                name, fd = _new_file(folder, suffix)
                with open(fd, "wb") as file:
                    file.write(data)
                    self._root.give(fd, 0o600)
            yield name
        finally:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
            os.close(folder)

    def _append(self, path: str, data: bytes, mode: int | None, make_parents: bool) -> int:
        path = workspace_path(path)
        self._room.check(path, len(data), len(data))
        with told(path):
            folder, name = self._root.place(path, make_parents)
            try:
                flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
                try:
                    fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
                    self._root.give(fd, 0o644 if mode is None else mode)
                except FileExistsError:
                    fd = os.open(name, flags, dir_fd=folder)
                with open(self._root.regular(fd, path), "ab") as file:
                    self._room.check(path, os.fstat(fd).st_size + len(data), len(data))
                    file.write(data)
                    file.flush()
                    if mode is not None:
                        self._root.give(fd, mode)
            finally:
                os.close(folder)
        self._room.written(len(data))
        return len(data)

    # -- the rest

    def list(
        self, path: str = ".", *, recursive: bool = False, glob: str | None = None, limit: int = 10_000
    ) -> list[Entry]:
        """What lies in the folder ``path``, sorted, with paths relative to it; the first ``limit`` that are found."""
        pattern = Pattern(glob) if glob is not None else None
        path = folder_path(path)
        with told(path):
            folder = self._root.folder("" if path == "." else path)
            try:
                found: Iterator[Entry]
                if recursive:
                    found = (entry for entry, _ in tree.walk(folder))
                else:
                    found = (entry for name, entry, _ in tree.scan_at(folder) if not tree.is_private(name, entry))
                wanted = (entry for entry in found if pattern is None or pattern.matches(entry.path))
                return sorted(islice(wanted, limit), key=lambda entry: entry.path)
            finally:
                os.close(folder)

    def stat(self, path: str) -> Entry:
        """What lies at ``path``; a link is not followed."""
        path = folder_path(path)
        with told(path):
            fd = self._root.open(path, os.O_PATH | os.O_NOFOLLOW)
            try:
                info = os.fstat(fd)
                return entry_of(path, info, os.readlink("", dir_fd=fd) if stat.S_ISLNK(info.st_mode) else "")
            finally:
                os.close(fd)

    def delete(self, path: str, *, recursive: bool = False) -> int:
        """Remove what lies at ``path``, a link itself; returns the number of things removed.

        A folder must be empty unless ``recursive``.
        """
        path = workspace_path(path)
        parent, _, name = path.rpartition("/")
        with told(path):
            folder = self._root.folder(parent)
            try:
                if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    os.unlink(name, dir_fd=folder)
                    return 1
                if recursive:
                    return tree.remove(folder, name)
                try:
                    os.rmdir(name, dir_fd=folder)
                except OSError as why:
                    if why.errno in _TAKEN:
                        raise UsageError(f"the folder {shown(path)} is not empty: pass recursive") from None
                    raise
                return 1
            finally:
                os.close(folder)

    def move(self, source: str, target: str, *, overwrite: bool = False) -> None:
        """Give ``source`` the path ``target``, making the folders above it; a link moves itself.

        Something at ``target`` is an error unless ``overwrite``; a folder is
        replaced only by a folder, and only when it is empty.
        """
        source, target = workspace_path(source), workspace_path(target)
        old_parent, _, old = source.rpartition("/")
        new_parent, _, new = target.rpartition("/")
        with told(source):
            before = self._root.folder(old_parent)
        try:
            with told(source):
                os.stat(old, dir_fd=before, follow_symlinks=False)
            with told(target):
                after = self._root.folder(new_parent, make=True)
                try:
                    _rename(before, old, after, new, overwrite)
                finally:
                    os.close(after)
        finally:
            os.close(before)

    def walk(self, *, skip: Collection[str] = ()) -> Iterator[Entry]:
        """Everything, a folder before what it holds, in no order else; no link followed.

        Names in ``skip`` are left out with all below them.  A folder of the
        worker's own user that forbids reading is given back to its owner.
        """
        with told("."):
            for entry, _ in tree.walk(self._root.fd, skip=skip, force=True):
                yield entry

    def usage(self) -> tuple[int, int]:
        """Bytes on disk and number of entries. Leaves out what lies in folders that the worker may not read."""
        size = count = 0
        with told("."):
            for _, info in tree.walk(self._root.fd):
                size += info.st_blocks * 512
                count += 1
        self.known = size + count * ENTRY_BYTES
        return size, count

    def _taken(self, most: int) -> int:
        """Bytes that the workspace takes; more than ``most`` need not be counted."""
        size = 0
        with told("."):
            for _, info in tree.walk(self._root.fd):
                size += info.st_blocks * 512 + ENTRY_BYTES
                if size > most:
                    break
        return size


def _replaceable(folder: int, name: str, path: str) -> int:
    """The mode of the file that is there, 0644 for none. Raises :class:`PathRefused` for what is no plain file."""
    try:
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return 0o644
    if stat.S_ISDIR(info.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    check_plain(info, path)
    return stat.S_IMODE(info.st_mode)


def _new_file(folder: int, suffix: str = "") -> tuple[str, int]:
    """A new empty file under a name of ours, open for writing."""
    for _ in range(_TRIES):
        name = f"{PRIVATE_PREFIX}{os.getpid()}-{next(_count)}{suffix}"
        with contextlib.suppress(FileExistsError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            return name, os.open(name, flags, 0o600, dir_fd=folder)
    raise PathRefused(f"names that begin with {PRIVATE_PREFIX} are taken: remove them")


def _rename(before: int, old: str, after: int, new: str, overwrite: bool) -> None:
    if overwrite:
        os.rename(old, new, src_dir_fd=before, dst_dir_fd=after)
        return
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    code = errno.ENOSYS
    if call is not None:
        if not call(before, os.fsencode(old), after, os.fsencode(new), _NOREPLACE):
            return
        code = ctypes.get_errno()
    if code not in (errno.ENOSYS, errno.EINVAL):
        raise OSError(code, os.strerror(code))
    # This system cannot do both at once (an old libc, some network file systems).
    try:
        os.stat(new, dir_fd=after, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(old, new, src_dir_fd=before, dst_dir_fd=after)
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
