"""Going through folders that a stranger may change meanwhile, and removing them.

No link is followed and no more than two descriptors are held, however deep the
folders lie: each folder is opened anew from the root.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ghcoord.errors import PathRefused, UsageError
from ghcoord.execution.files.entries import Entry, entry_of
from ghcoord.execution.files.opening import Opener, open_beneath
from ghcoord.execution.files.paths import PRIVATE_PREFIX, shown

MAX_DEPTH = 4000
"""Folders within each other that are gone through; opening one at that depth takes 0.2 ms."""

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)
"""It is no longer the folder that was listed."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_NOFOLLOW

_PASSES = 10
"""How often a folder is emptied again that fills while it is removed."""


@dataclass(frozen=True, slots=True)
class _Node:
    """A folder on the way. Its path is put together when needed: a list of all paths could fill the memory."""

    above: _Node | None
    name: str
    depth: int

    def path(self) -> str:
        parts, node = [], self
        while node.above is not None:
            parts.append(node.name)
            node = node.above
        return "/".join(reversed(parts)) or "."


def open_folder(opener: Opener, root: int, path: str, *, force: bool = False) -> int:
    """A descriptor to list the folder ``path`` by; no link is followed.

    With ``force`` a folder of the worker's own user that forbids it is given
    back to its owner (``u+rwx``).  Root needs no permission.
    """
    try:
        return open_beneath(opener, root, path, _FOLDER, links=False)
    except PermissionError:
        if not force:
            raise
    if path == ".":
        os.chmod(f"/proc/self/fd/{root}", 0o700)
    else:
        fd = open_beneath(opener, root, path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, links=False)
        try:
            # The descriptor itself, not what lies at the path by now; fchmod refuses O_PATH.
            os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(os.fstat(fd).st_mode) | 0o700)
        finally:
            os.close(fd)
    return open_beneath(opener, root, path, _FOLDER, links=False)


def scan(folder: int, above: str) -> Iterator[tuple[str, Entry, os.stat_result]]:
    """The names in an open folder and what they are, in the order that the system has them."""
    with os.scandir(folder) as found:
        for each in found:
            try:
                info = each.stat(follow_symlinks=False)
                target = os.readlink(each.name, dir_fd=folder) if stat.S_ISLNK(info.st_mode) else ""
            except OSError:
                continue
            path = each.name if above == "." else f"{above}/{each.name}"
            yield each.name, entry_of(path, info, target), info


def walk(
    opener: Opener, root: int, *, skip: Collection[str] = (), force: bool = False
) -> Iterator[tuple[Entry, os.stat_result]]:
    """Everything below ``root``, a folder before what it holds, in no order else.

    Without ``force`` the content of a folder that cannot be read is left out.
    Names in ``skip`` are left out with all below them, and so are our own
    temporary files.  Raises :class:`PathRefused` beyond :data:`MAX_DEPTH`.
    """
    top = _Node(None, "", 0)
    pending = [top]
    while pending:
        node = pending.pop()
        above = node.path()
        try:
            folder = open_folder(opener, root, above, force=force)
        except OSError as why:
            if node is top or (why.errno not in _GONE and force):
                raise
            continue
        try:
            for name, entry, info in scan(folder, above):
                if name in skip or (name.startswith(PRIVATE_PREFIX) and entry.kind == "file"):
                    continue
                yield entry, info
                if entry.kind == "folder":
                    pending.append(_deeper(node, name))
        finally:
            os.close(folder)


def _deeper(node: _Node, name: str) -> _Node:
    if node.depth >= MAX_DEPTH:
        raise PathRefused(f"folders lie more than {MAX_DEPTH} deep in each other: {shown(node.path())[:200]}…")
    return _Node(node, name, node.depth + 1)


def remove(opener: Opener, root: int, name: str) -> int:
    """Remove the folder ``name`` and all below it; how many things that were.

    Raises :class:`PathRefused` beyond :data:`MAX_DEPTH` (what lies higher may
    be gone then), :class:`UsageError` when a task keeps filling it.
    """
    removed = 0
    pending = [(_Node(_Node(None, "", 0), name, 0), 0)]
    while pending:
        node, passes = pending[-1]
        where = node.path()
        folders = []
        with contextlib.suppress(OSError):
            folder = open_folder(opener, root, where, force=True)
            try:
                for inner, entry, _ in scan(folder, where):
                    if entry.kind == "folder":
                        folders.append(inner)
                    else:
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(inner, dir_fd=folder)
                            removed += 1
            finally:
                os.close(folder)
        if folders and passes < _PASSES:
            pending[-1] = (node, passes + 1)
            pending += [(_deeper(node, inner), 0) for inner in folders]
            continue
        code = _remove_one(opener, root, where)
        if code == errno.ENOTEMPTY and passes < _PASSES:
            pending[-1] = (node, passes + 1)
        elif code in (0, errno.ENOENT):
            removed += code == 0
            pending.pop()
        elif code == errno.ENOTEMPTY:
            raise UsageError(f"files keep appearing in {shown(where)}: end what writes there first")
        else:
            raise OSError(code, os.strerror(code), where)
    return removed


def _remove_one(opener: Opener, root: int, path: str) -> int:
    """Remove one empty folder, or what has taken its place; the error's number."""
    parent, _, name = path.rpartition("/")
    try:
        folder = open_beneath(opener, root, parent or ".", os.O_PATH | os.O_DIRECTORY, links=False)
    except OSError as why:
        return errno.ENOENT if why.errno in _GONE else why.errno or errno.EIO
    try:
        try:
            os.rmdir(name, dir_fd=folder)
        except NotADirectoryError:
            os.unlink(name, dir_fd=folder)
    except OSError as why:
        return why.errno or errno.EIO
    finally:
        os.close(folder)
    return 0
