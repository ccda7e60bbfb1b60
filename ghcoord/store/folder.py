"""A look at a local hub's folder without opening the hub: who may write, what was left over, how it grew."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ghcoord.errors import Denied, Unavailable

LOCK_AGE = 10.0
"""Seconds after which a ``*.lock`` file is reported: git holds one for milliseconds."""

SAFE_AGE = 3600.0
"""Seconds after which a ``*.lock`` file may be removed without asking who made it."""

LEFT_AGE = 86400.0
"""Seconds after which an unfinished file was left by a killed program: no push takes a day."""

COLLECTED = "pack-gc-"
"""Begin of the names of the packs that gc wrote."""


class Stray(NamedTuple):
    """A file or folder that a killed program left: ``age`` in seconds, and whether it may be ``removable`` by now."""

    path: Path
    age: float
    what: str
    removable: bool


class FolderState(NamedTuple):
    """What was found: where this user may not write, what was left over, and bytes of packs by gc and of all others."""

    unwritable: list[Path]
    strays: list[Stray]
    collected: int
    grown: int


def look(git_dir: Path, now: float) -> FolderState:
    """Look at the repository at ``git_dir``; ``now`` in seconds since the epoch."""
    needed = (git_dir, git_dir / "objects", git_dir / "objects" / "pack", git_dir / "refs", git_dir / "ghcoord")
    unwritable = [folder for folder in needed if folder.exists() and not os.access(folder, os.W_OK)]
    collected = grown = 0
    for pack in (git_dir / "objects" / "pack").glob("pack-*.pack"):
        with contextlib.suppress(OSError):
            size = pack.stat().st_size
            collected += size if pack.name.startswith(COLLECTED) else 0
            grown += 0 if pack.name.startswith(COLLECTED) else size
    return FolderState(unwritable, sorted(_strays(git_dir, now)), collected, grown)


def _strays(git_dir: Path, now: float) -> Iterator[Stray]:
    own = {file.stat().st_ino for file in (git_dir / "ghcoord").glob("ref-*")}  # the next write removes these
    for file in [*git_dir.glob("*.lock"), *(git_dir / "refs").rglob("*.lock")]:
        with contextlib.suppress(OSError):
            state = file.stat()
            age = now - state.st_mtime
            if state.st_ino not in own and age > LOCK_AGE:
                # An editor may be open over the index for long.
                removable = age > SAFE_AGE and file.name != "index.lock"
                yield Stray(file, age, "a git command was killed", removable)
    objects = git_dir / "objects"
    unfinished = [*objects.glob("tmp_*"), *objects.glob("incoming-*"), *objects.glob("??/tmp_*")]
    unfinished += [*objects.glob("pack/tmp_*"), *objects.glob("pack/.tmp-*"), *objects.glob("pack/*.temp")]
    for file in unfinished:
        with contextlib.suppress(OSError):
            age = now - file.stat().st_mtime
            if age > LEFT_AGE:
                yield Stray(file, age, "a push or a git command was killed", True)
    work = git_dir / "ghcoord" / "collect"
    with contextlib.suppress(OSError):
        age = now - work.stat().st_mtime
        if not _running(git_dir):
            yield Stray(work, age, "a gc was killed", True)


def _running(git_dir: Path) -> bool:
    """Whether a gc is at work."""
    fd = os.open(git_dir / "ghcoord" / "collecting", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def remove(stray: Stray) -> None:
    """Remove what was left over; it may be gone by now. Raises ``Denied``."""
    try:
        if stray.path.is_dir():
            shutil.rmtree(stray.path)
        else:
            stray.path.unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except OSError as error:
        kind = Denied if isinstance(error, PermissionError) else Unavailable
        raise kind(f"cannot remove {stray.path}: {error.strerror or error}") from error
