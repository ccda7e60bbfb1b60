"""Objects kept on disk by id, for all processes of this user. Best effort: what goes wrong here costs a request."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ghcoord.errors import Corrupt
from ghcoord.store.base import CommitInfo, Kind, Oid
from ghcoord.store.objects import Tree, object_id, parse_tree

LIMIT = 256 * 1024 * 1024
"""Bytes kept by default."""

LARGEST = 4 * 1024 * 1024
"""Bytes of the largest object that is kept."""

TOUCH_AFTER = 3600.0
"""Seconds after which reading an object marks it as used."""

TIDY_AFTER = 3600.0
"""Seconds between two looks at how much there is."""

SLACK = 0.75
"""Part of the limit that is left after tidying."""

BLOCK = 4096
"""Bytes that a small file takes on disk."""


class DiskCache:
    """A folder with a file an object: ``ab/cdef….tree``. Safe for any number of processes and threads at once.

    Trees and blobs are checked by their id whenever they are read.  A commit
    is kept as what is known of it, which its id does not prove: a checksum
    tells damage.  ``limit`` in bytes; the files that were not used for longest
    go first.
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self._folder = folder
        self._limit = limit
        self._written = 0
        self._now = 0.0
        self._looked_at = 0.0
        self._usable = self._private(folder)

    @staticmethod
    def _private(folder: Path) -> bool:
        """Make the folder; whether it is this user's own, so that nobody else's commits are believed."""
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = folder.stat()
            if found.st_uid != os.geteuid():
                return False
            if found.st_mode & 0o077:
                folder.chmod(0o700)
        except OSError:
            return False
        return True

    def tree(self, oid: Oid) -> Tree | None:
        """The tree ``oid``, where it is kept and whole."""
        data = self._read(oid, "tree")
        if data is None:
            return None
        if object_id("tree", data) != oid:
            self._drop(oid, "tree")
            return None
        try:
            return parse_tree(data)
        except Corrupt:
            return None

    def blob(self, oid: Oid) -> bytes | None:
        """The blob ``oid``, where it is kept and whole."""
        data = self._read(oid, "blob")
        if data is None or object_id("blob", data) == oid:
            return data
        self._drop(oid, "blob")
        return None

    def commit(self, oid: Oid) -> CommitInfo | None:
        """What is known of the commit ``oid``, where it is kept and whole."""
        data = self._read(oid, "commit")
        if data is None:
            return None
        digest, _, text = data.partition(b"\n")
        if digest != _digest(oid, text):
            self._drop(oid, "commit")
            return None
        try:
            tree, parents, author, time, message = json.loads(text)
            return CommitInfo(oid, str(tree), tuple(map(str, parents)), str(author), int(time), str(message))
        except (ValueError, TypeError):
            return None

    def put_tree(self, oid: Oid, tree: Tree) -> None:
        self._write(oid, "tree", tree.encode)

    def put_blob(self, oid: Oid, data: bytes) -> None:
        self._write(oid, "blob", lambda: data)

    def put_commit(self, info: CommitInfo) -> None:
        fields = [info.tree, info.parents, info.author, info.time, info.message]
        text = json.dumps(fields).encode()
        self._write(info.oid, "commit", lambda: _digest(info.oid, text) + b"\n" + text)

    # -- files

    def _path(self, oid: Oid, kind: Kind) -> str:
        return f"{self._folder}/{oid[:2]}/{oid[2:]}.{kind}"

    def _read(self, oid: Oid, kind: Kind) -> bytes | None:
        if not self._usable:
            return None
        path = self._path(oid, kind)
        try:
            with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                    return None
                data, used = file.read(LARGEST + 1), found.st_mtime
        except OSError:
            return None
        if not self._now:
            self._look_at_clock()
        if self._now - used > TOUCH_AFTER:
            with contextlib.suppress(OSError):
                os.utime(path)
        return data

    def _drop(self, oid: Oid, kind: Kind) -> None:
        """Remove a damaged file, so that the next one takes its place."""
        with contextlib.suppress(OSError):
            os.unlink(self._path(oid, kind))

    def _write(self, oid: Oid, kind: Kind, encode: Callable[[], bytes]) -> None:
        if not self._usable:
            return
        path = self._path(oid, kind)
        try:
            if os.path.exists(path):
                return
            data = encode()
            if len(data) > LARGEST:
                return
            self._now = _write_whole(path, data)
        except OSError:
            return
        self._written += max(BLOCK, len(data))
        if self._written > self._limit // 8 or self._now - self._looked_at > TIDY_AFTER:
            with contextlib.suppress(OSError):
                self._tidy()

    def _look_at_clock(self) -> None:
        """Learn the time from the file system, which is what files are compared with."""
        with contextlib.suppress(OSError):
            handle = os.open(self._folder / "clock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.utime(handle)
                self._now = os.fstat(handle).st_mtime
            finally:
                os.close(handle)

    def _tidy(self) -> None:
        """Remove what was not used for longest, when there is too much.

        Whoever wrote much looks himself; of the others one process an hour does.
        """
        mark = self._folder / "tidied"
        much, self._written = self._written > self._limit // 8, 0
        with contextlib.suppress(FileNotFoundError):
            self._looked_at = mark.stat().st_mtime
        if not much and self._now - self._looked_at < TIDY_AFTER:
            return
        self._looked_at = _write_whole(str(mark), b"")
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        if total <= self._limit:
            return
        for _, size, path in files:
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size
            if total <= self._limit * SLACK:
                return

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """Every file of the cache: when it was used, what it takes, where it is."""
        with os.scandir(self._folder) as folders:
            names = [folder.path for folder in folders if folder.is_dir(follow_symlinks=False)]
        for name in names:
            with contextlib.suppress(OSError), os.scandir(name) as files:
                for file in files:
                    with contextlib.suppress(OSError):
                        found = file.stat(follow_symlinks=False)
                        yield found.st_mtime, max(BLOCK, found.st_size), file.path


def _digest(oid: Oid, text: bytes) -> bytes:
    return hashlib.sha256(oid.encode() + text).hexdigest().encode()


def _write_whole(path: str, data: bytes) -> float:
    """Put ``data`` at ``path``, whole or not at all, readable by this user only; returns the time of it."""
    folder = os.path.dirname(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=folder)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        handle, temporary = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            written = os.fstat(file.fileno()).st_mtime
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return written
