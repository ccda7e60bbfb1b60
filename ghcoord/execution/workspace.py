"""Private directories for tasks, and the removal of those that a killed worker left."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from ghcoord.errors import Denied


class Workspaces:
    """One directory an attempt, below ``<base>/<pid>``.

    The default base is ``<tmp>/ghcoord-<uid>``.  Base and pid directory may be
    passed through but not listed by others (0711), because a root worker's
    tasks run as another user; the attempt's own directory is 0700.
    """

    def __init__(self, base: Path | None = None) -> None:
        self._base = base or Path(tempfile.gettempdir()) / f"ghcoord-{os.getuid()}"
        try:
            self._base.mkdir(mode=0o711, parents=True, exist_ok=True)
            state = self._base.lstat()
            if state.st_uid != os.getuid() or not self._base.is_dir() or self._base.is_symlink():
                raise Denied(f"{self._base} belongs to someone else: name another folder with --workspace")
            if base is None:
                self._base.chmod(0o711)
            self._sweep()
            self._own = self._base / str(os.getpid())
            self._own.mkdir(mode=0o711, exist_ok=True)
            self._own.chmod(0o711)
        except OSError as error:
            raise Denied(f"cannot use {self._base} for workspaces: {error.strerror or error}") from error

    def make(self, task_id: str, attempt: int) -> Path:
        """A new empty directory for an attempt."""
        path = self._own / f"{task_id}-{attempt}"
        if path.exists():
            _remove(path)
        path.mkdir(mode=0o700)
        return path

    def remove(self, path: Path) -> None:
        """Remove an attempt's directory; what cannot be removed is left to the next start."""
        _remove(path)

    def close(self) -> None:
        """Remove everything of this process."""
        _remove(self._own)

    def _sweep(self) -> None:
        for folder in self._base.iterdir():
            if folder.name.isdigit() and not Path("/proc", folder.name).exists() and not folder.is_symlink():
                _remove(folder)


def _remove(path: Path) -> None:
    """Remove a tree, also one whose directories a task has closed to their owner."""
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        for folder, names, _ in os.walk(path):
            for name in names:
                below = Path(folder, name)
                if not below.is_symlink():
                    with contextlib.suppress(OSError):
                        below.chmod(0o700)
        shutil.rmtree(path, ignore_errors=True)
