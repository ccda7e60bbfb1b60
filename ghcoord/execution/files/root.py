"""One open folder that all paths are resolved below, and what the system's refusals mean."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from ghcoord.errors import GhcoordError, NotFound, PathRefused, SandboxError, UsageError
from ghcoord.execution.files.entries import kind_of
from ghcoord.execution.files.opening import Opener, best_opener, open_beneath
from ghcoord.execution.files.paths import shown
from ghcoord.execution.sandbox.base import Identity

_LINKS = 40


class Root:
    """The folder ``path``, held open. What is made below it belongs to ``identity`` when the worker is root.

    Its methods raise ``OSError``; :func:`told` turns that into ours.
    """

    def __init__(self, path: Path, identity: Identity | None, opener: Opener | None) -> None:
        """Raises :class:`SandboxError` when there is no such folder."""
        try:
            self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as why:
            raise SandboxError(f"the workspace {path} cannot be used: {why.strerror}") from None
        self.opener = opener or best_opener()
        self._identity = identity if os.geteuid() == 0 else None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the folder."""
        with self._lock:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1

    def open(self, path: str, flags: int) -> int:
        """A descriptor of what ``path`` leads to, links followed as long as they stay below."""
        return open_beneath(self.opener, self.fd, path, flags)

    def open_own(self, path: str) -> int:
        """Open a file that its owner, who we are, may not read: its mode is changed for that moment."""
        handle = self.open(path, os.O_PATH)
        try:
            info = os.fstat(handle)
            if info.st_uid != os.geteuid() or not stat.S_ISREG(info.st_mode):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            this = f"/proc/self/fd/{handle}"
            os.chmod(this, stat.S_IMODE(info.st_mode) | 0o400)
            try:
                return os.open(this, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            finally:
                os.chmod(this, stat.S_IMODE(info.st_mode))
        finally:
            os.close(handle)

    def place(self, path: str, make_parents: bool) -> tuple[int, str]:
        """The folder, open, and the name at which ``path`` is written; links to it are followed."""
        parent, _, name = path.rpartition("/")
        for _ in range(_LINKS):
            folder = self.folder(parent, make_parents)
            try:
                target = os.readlink(name, dir_fd=folder)
            except OSError:
                return folder, name
            os.close(folder)
            if target.startswith("/"):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            above, _, name = target.rpartition("/")
            parent = "/".join(part for part in (parent, above) if part)
            make_parents = False
            if name in ("", ".", ".."):
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    def folder(self, path: str, make: bool = False) -> int:
        """The folder ``path``, open to work in; made with all above it when asked to."""
        flags = os.O_PATH | os.O_DIRECTORY
        try:
            return self.open(path or ".", flags)
        except FileNotFoundError:
            if not make:
                raise
        at = self.open(".", flags)
        parts = path.split("/")
        for deep, name in enumerate(parts):
            try:
                below = self._step(at, name, "/".join(parts[: deep + 1]))
            finally:
                os.close(at)
            at = below
        return at

    def _step(self, folder: int, name: str, path: str) -> int:
        """The folder ``name`` in ``folder``, whose path is ``path``; made when there is none."""
        flags = os.O_PATH | os.O_DIRECTORY
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=folder)
            made = os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
            self._own_folder(made)
            return made
        try:
            return os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
        except OSError as why:
            if why.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
        return self.open(path, flags)

    def _own_folder(self, folder: int) -> None:
        if self._identity is not None and os.fstat(folder).st_uid == 0:
            os.chown(f"/proc/self/fd/{folder}", self._identity.uid, self._identity.gid)

    def give(self, fd: int, mode: int) -> None:
        """Hand a file over with ``mode``, never with set-user-id and the like."""
        if self._identity is not None:
            os.fchown(fd, self._identity.uid, self._identity.gid)
        os.fchmod(fd, mode & 0o777)

    def regular(self, fd: int, path: str) -> int:
        """``fd`` when it is a plain file, else it is closed. Raises :class:`PathRefused`."""
        try:
            info = os.fstat(fd)
            if stat.S_ISDIR(info.st_mode):
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            check_plain(info, path)
        except BaseException:
            os.close(fd)
            raise
        return fd


def check_plain(info: os.stat_result, path: str) -> None:
    if kind_of(info.st_mode) != "file":
        raise PathRefused(f"not a regular file: {shown(path)}")
    if info.st_nlink > 1:
        raise PathRefused(f"{shown(path)} has {info.st_nlink} names (hard links): copy it and use the copy")


_MEANING: dict[int | None, tuple[type[GhcoordError], str]] = {
    errno.ENOENT: (NotFound, "no such file or folder: {}"),
    errno.EXDEV: (PathRefused, "the path leads out of the workspace: {}"),
    errno.ELOOP: (PathRefused, "links lead in a circle: {}"),
    errno.ENXIO: (PathRefused, "not a regular file: {}"),
    errno.ENOTDIR: (UsageError, "not a folder, or below what is none: {}"),
    errno.EISDIR: (UsageError, "is a folder, not a file: {}"),
    errno.EEXIST: (UsageError, "something is there already: {}; pass overwrite"),
    errno.ENOTEMPTY: (UsageError, "the folder there is not empty: {}"),
    errno.EINVAL: (UsageError, "that cannot be done with {}: a folder cannot be moved into itself"),
    errno.EACCES: (UsageError, "its permissions forbid that: {}"),
    errno.ENOSPC: (UsageError, "the disk is full: {}"),
    errno.EDQUOT: (UsageError, "the disk quota is used up: {}"),
}


@contextlib.contextmanager
def told(path: str) -> Iterator[None]:
    """Turn the system's errors about ``path`` into ours."""
    try:
        yield
    except OSError as why:
        kind, text = _MEANING.get(why.errno, (UsageError, f"{why.strerror or why}: {{}}"))
        raise kind(text.format(shown(path)[:500])) from None
