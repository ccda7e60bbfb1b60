"""Going through folders that a stranger may change meanwhile, and removing them.

No link is followed, and one descriptor is held however deep the folders lie:
the way down is by name from the folder that is open, the way up by ``..``,
which must be the folder that it came from.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from ghcoord.errors import PathRefused, UsageError
from ghcoord.execution.files.entries import Entry, entry_of
from ghcoord.execution.files.paths import MAX_DEPTH, PRIVATE_PREFIX, shown

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC

_PASSES = 10
"""How often a folder is emptied again that fills while it is removed."""


def scan(folder: int, above: str) -> Iterator[tuple[str, Entry, os.stat_result]]:
    """The names in an open folder and what they are, in the order that the system has them."""
    with os.scandir(folder) as found:
        for each in found:
            try:
                info = each.stat(follow_symlinks=False)
                target = os.readlink(each.name, dir_fd=folder) if stat.S_ISLNK(info.st_mode) else ""
            except OSError:
                continue
            path = f"{above}/{each.name}" if above else each.name
            yield each.name, entry_of(path, info, target), info


def scan_at(folder: int) -> Iterator[tuple[str, Entry, os.stat_result]]:
    """Like :func:`scan` for a folder that is open to work in, but not to be read. Raises ``OSError``."""
    listed = os.open(".", _FOLDER, dir_fd=folder)
    try:
        yield from scan(listed, "")
    finally:
        os.close(listed)


def is_private(name: str, entry: Entry) -> bool:
    """Whether it is a temporary file of ours, which is no part of the workspace's content."""
    return name.startswith(PRIVATE_PREFIX) and entry.kind == "file"


def walk(root: int, *, skip: Collection[str] = (), force: bool = False) -> Iterator[tuple[Entry, os.stat_result]]:
    """Everything below ``root``, a folder before what it holds, in no order else.

    Without ``force`` the content of a folder that cannot be read is left out.
    Names in ``skip`` are left out with all below them, and so are our own
    temporary files.  Raises :class:`PathRefused` beyond ``MAX_DEPTH``.
    """
    with _Climb(root, force) as climb:
        while climb.levels:
            level = climb.levels[-1]
            if not level.listed:
                level.listed = True
                above = climb.path()
                for name, entry, info in scan(climb.fd, above):
                    if name in skip or is_private(name, entry):
                        continue
                    yield entry, info
                    if entry.kind == "folder":
                        level.folders.append(name)
            while level.folders:
                if climb.down(level.folders.pop()):
                    break
            else:
                climb.up()


def remove(parent: int, name: str, deepest: float | None = None) -> int:
    """Remove the folder ``name`` and all below it; how many things that were.

    Raises :class:`PathRefused` for more than ``deepest`` folders within each
    other, ``MAX_DEPTH`` by default (what lies higher may be gone then),
    :class:`UsageError` when a task keeps filling it, and ``OSError``.
    """
    removed = 0
    with _Climb(parent, force=True, deepest=deepest) as climb:
        if not climb.down(name):
            return _unlink(parent, name, os.unlink)
        while len(climb.levels) > 1:
            level = climb.levels[-1]
            if not level.listed:
                level.listed = True
                level.passes += 1
                others, level.folders = _names(climb.fd)
                for inner in others:
                    removed += climb.unlink(inner, os.unlink)
            if level.folders:
                inner = level.folders.pop()
                if not climb.down(inner):
                    removed += climb.unlink(inner, os.unlink)
                continue
            above = climb.levels[-2]
            inner = level.name
            if not climb.up():
                continue
            try:
                removed += climb.unlink(inner, os.rmdir)
            except NotADirectoryError:
                removed += climb.unlink(inner, os.unlink)
            except OSError as why:
                if why.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if level.passes >= _PASSES:
                    raise UsageError(f"files keep appearing in {shown(inner)}: end what writes there first") from None
                if climb.down(inner):
                    climb.levels[-1].passes = level.passes
                else:
                    above.folders.append(inner)
    return removed


def _names(folder: int) -> tuple[list[str], list[str]]:
    """What lies in an open folder: the names of all but folders, and those of folders."""
    others: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as found:
        for each in found:
            (folders if each.is_dir(follow_symlinks=False) else others).append(each.name)
    return others, folders


def _unlink(folder: int, name: str, how: Callable[..., None]) -> int:
    """Remove one thing; 0 when it is gone already, or became a folder, which another pass finds."""
    try:
        how(name, dir_fd=folder)
    except (FileNotFoundError, IsADirectoryError):
        return 0
    return 1


@dataclass(slots=True)
class _Level:
    """A folder on the way down, and those in it that are still to be entered."""

    name: str
    identity: tuple[int, int]
    listed: bool = False
    folders: list[str] = field(default_factory=list)
    passes: int = 0


class _Climb:
    """A way through folders; ``fd`` is the one it is in, the last of ``levels``."""

    def __init__(self, root: int, force: bool, deepest: float | None = None) -> None:
        self._root = root
        self._force = force
        self._deepest = MAX_DEPTH if deepest is None else deepest
        self.fd = self._read(root)
        self.levels = [_Level("", _identity(self.fd))]

    def __enter__(self) -> _Climb:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def path(self) -> str:
        """Of the folder it is in; empty at the top."""
        return "/".join(level.name for level in self.levels[1:])

    def down(self, name: str) -> bool:
        """Enter a folder; false when there is none of that name, or it may not be entered.

        Raises :class:`PathRefused` when it lies too deep; with ``force``
        ``OSError`` for what still cannot be entered.
        """
        try:
            fd = self._enter(self.fd, name)
        except OSError as why:
            if self._force and why.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            return False
        identity = _identity(fd)
        if identity[0] != self.levels[0].identity[0]:
            os.close(fd)
            return False
        if len(self.levels) > self._deepest:
            os.close(fd)
            raise PathRefused(f"folders lie more than {self._deepest} deep in each other: {shown(self.path())[:200]}…")
        os.close(self.fd)
        self.fd = fd
        self.levels.append(_Level(name, identity))
        return True

    def up(self) -> bool:
        """Back to the folder above; false when there is none, or it is not there any more, and then further up."""
        self.levels.pop()
        found = True
        while self.levels:
            with contextlib.suppress(OSError):
                fd = self._above(found)
                if _identity(fd) == self.levels[-1].identity:
                    os.close(self.fd)
                    self.fd = fd
                    return found
                os.close(fd)
            # Moved or removed meanwhile, so what was still to do in it is not at its place either.
            if found:
                found = False
                continue
            self.levels.pop()
        return False

    def unlink(self, name: str, how: Callable[..., None]) -> int:
        """Remove one thing in the folder it is in, which is given back to its owner if need be; 0 when it is gone."""
        try:
            return _unlink(self.fd, name, how)
        except PermissionError:
            if len(self.levels) == 1:
                raise
        os.fchmod(self.fd, stat.S_IMODE(os.fstat(self.fd).st_mode) | 0o700)
        return _unlink(self.fd, name, how)

    def _above(self, by_dots: bool) -> int:
        """The folder above by ``..``, or by its names from the top. Raises ``OSError``."""
        if by_dots:
            return os.open("..", _FOLDER, dir_fd=self.fd)
        fd = self._read(self._root)
        for level in self.levels[1:]:
            try:
                below = os.open(level.name, _FOLDER, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
        return fd

    def _enter(self, folder: int, name: str) -> int:
        """Open a folder by its name; with ``force`` one of the worker's own user is given back to its owner first."""
        try:
            return os.open(name, _FOLDER, dir_fd=folder)
        except PermissionError:
            if not self._force:
                raise
        handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            return self._read(handle)
        finally:
            os.close(handle)

    def _read(self, handle: int) -> int:
        """Open again, to be read, the folder that ``handle`` is; not what has its name by now."""
        this = f"/proc/self/fd/{handle}"
        flags = _FOLDER & ~os.O_NOFOLLOW
        try:
            return os.open(this, flags)
        except PermissionError:
            if not self._force:
                raise
        os.chmod(this, stat.S_IMODE(os.fstat(handle).st_mode) | 0o700)
        return os.open(this, flags)


def _identity(fd: int) -> tuple[int, int]:
    info = os.fstat(fd)
    return info.st_dev, info.st_ino
