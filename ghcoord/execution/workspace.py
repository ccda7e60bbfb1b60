"""Private directories for tasks, and the removal of those that a killed worker left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from ghcoord.errors import Denied

_UNFINISHED = "new-"


class Workspaces:
    """One directory an attempt, below one of this object's own in ``base``.

    The default base is ``<tmp>/ghcoord-<uid>``.  Base and own directory may be
    passed through but not listed by others (0711), because a root worker's
    tasks run as another user; the attempt's own directory is 0700.  The own
    directory is held by an flock: what nobody holds was left by a worker that
    was killed, also one of another container, and is removed.
    """

    def __init__(self, base: Path | None = None) -> None:
        self._base = base or Path(tempfile.gettempdir()) / f"ghcoord-{os.getuid()}"
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

    def remove(self, path: Path) -> None:
        """Remove an attempt's directory, whatever the task made of it; never raises."""
        with contextlib.suppress(OSError, RecursionError):
            shutil.rmtree(path)
        if os.path.lexists(path):
            # Too deep for a recursion, too long for a path, or closed to its owner: the system's tools cope.
            for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
                with contextlib.suppress(OSError):
                    subprocess.run(
                        [*command, "--", str(path)],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        check=False,
                    )

    def close(self) -> None:
        """Remove everything of this object."""
        self.remove(self._own)
        os.close(self._held)

    def _sweep(self) -> None:
        for folder in self._base.iterdir():
            if folder.is_symlink() or not folder.name.partition("-")[0].isdigit():
                continue
            with contextlib.suppress(OSError):
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self.remove(folder)
                finally:
                    os.close(fd)
