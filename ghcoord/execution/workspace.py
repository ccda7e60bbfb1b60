"""Private directories for tasks, and the removal of those that a killed worker left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

from ghcoord.errors import Denied, GhcoordError
from ghcoord.execution.files import tree
from ghcoord.execution.sandbox.base import Identity, prepare_workspace
from ghcoord.ids import check_id

DEEPEST = 1_000_000
"""Folders within each other that are removed: more than a task can make before it is stopped."""

_UNFINISHED = "new-"
_KEPT = ".kept"


class Workspaces:
    """One directory an attempt, below one of this object's own in ``base``.

    The default base is ``<tmp>/ghcoord-<uid>``.  Base and own directory may be
    passed through but not listed by others (0711), because a root worker's
    tasks run as another user; the attempt's own directory is 0700.  The own
    directory is held by an flock: what nobody holds was left by a worker that
    was killed, also one of another container, and is removed.
    """

    def __init__(self, base: Path | None = None) -> None:
        self._base = base or default_base()
        try:
            self._base.mkdir(mode=0o711, parents=True, exist_ok=True)
            if self._base.is_symlink() or self._base.stat().st_uid != os.getuid():
                raise Denied(f"{self._base} belongs to someone else: name another folder with --workspace")
            if base is None:
                self._base.chmod(0o711)
            self._sweep()
            # Held before it gets its name, so that no other worker's sweep takes it for left behind.
            unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._base))
            unfinished.chmod(0o711)
            self._held = os.open(unfinished, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._held, fcntl.LOCK_EX)
            self._own = unfinished.with_name(f"{os.getpid()}-{unfinished.name.removeprefix(_UNFINISHED)}")
            unfinished.rename(self._own)
        except OSError as error:
            raise Denied(f"cannot use {self._base} for workspaces: {error.strerror or error}") from error

    @property
    def folder(self) -> Path:
        """Where the directories lie."""
        return self._base

    def make(self, task_id: str, attempt: int) -> Path:
        """A new empty directory for an attempt. Raises ``OSError``."""
        self._own.mkdir(mode=0o711, parents=True, exist_ok=True)  # some systems clean their folder for temporary files
        path = self._own / f"{task_id}-{attempt}"
        if path.exists():
            self.remove(path)
        path.mkdir(mode=0o700)
        return path

    def keep(self, path: Path, name: str, identity: Identity | None) -> Path:
        """The folder ``name`` beside an attempt's directory, private to ``identity``. Raises ``OSError``."""
        return keep_folder(path.with_name(path.name + _KEPT), name, identity)

    def remove(self, path: Path) -> None:
        """Remove an attempt's directory and what was kept beside it, whatever the task made of it; never raises."""
        remove_tree(path)
        kept = path.with_name(path.name + _KEPT)
        if os.path.lexists(kept):
            remove_tree(kept)

    def close(self) -> None:
        """Remove everything of this object."""
        remove_tree(self._own)
        os.close(self._held)

    def _sweep(self) -> None:
        for folder in self._base.iterdir():
            if folder.is_symlink() or not folder.name.partition("-")[0].isdigit():
                continue
            with contextlib.suppress(OSError):
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove_tree(folder)
                finally:
                    os.close(fd)


def default_base() -> Path:
    """Where workspaces and sessions lie unless ``--workspace`` says otherwise."""
    return Path(tempfile.gettempdir()) / f"ghcoord-{os.getuid()}"


def keep_folder(above: Path, name: str, identity: Identity | None) -> Path:
    """The folder ``name`` in ``above``, made when it is not there, private to ``identity``. Raises ``OSError``."""
    path = above / check_id(name, "name of a kept folder")
    if not path.is_dir():
        above.mkdir(mode=0o711, exist_ok=True)
        above.chmod(0o711)  # whatever the umask
        path.mkdir(mode=0o700, exist_ok=True)
        prepare_workspace(path, identity)
    return path


def remove_tree(path: Path) -> None:
    """Remove a folder, whatever a task made of it; never raises.

    Processes of the task may still be at work in it: nothing is followed or
    changed by its name.  ``chmod -R`` would do both, and :func:`shutil.rmtree`
    waits for ever at a FIFO that takes the place of a folder.
    """
    with contextlib.suppress(OSError, GhcoordError):
        above = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            tree.remove(above, path.name, deepest=DEEPEST)
        finally:
            os.close(above)
