"""A session's folder on its worker, and the folder of all sessions of one worker.

::

    <base>/sessions/<hub>/<worker>/          held by an flock while the worker runs; 0711
        <session>/                           0711, the worker's
            session.json                     the marker: whose files these are; the worker's
            journal.jsonl                    calls with a key and their results; the worker's
            workspace/                       0700, the tasks'
            keep/<name>/                     0700, the tasks', shown to a command only when mounted
        .gone/                               what waits to be removed

The marker is written last, so that a folder without one was never finished.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ghcoord.errors import Denied, GhcoordError
from ghcoord.execution.files.beneath import Files
from ghcoord.execution.sandbox.base import Identity, prepare_workspace
from ghcoord.execution.workspace import keep_folder, remove_tree
from ghcoord.ids import check_id
from ghcoord.model.limits import Limits
from ghcoord.model.session import Session

MARKER = "session.json"
JOURNAL = "journal.jsonl"
WORKSPACE = "workspace"
KEEP = "keep"
GONE = ".gone"

MAX_MARKER = 64 * 1024
"""Bytes of a marker that is still read."""


@dataclass(frozen=True, slots=True)
class Marker:
    """Whose files a folder holds: the session's id and its placement."""

    id: str
    epoch: int


class SessionFolder:
    """The files of one session, opened by its worker. Safe to share between threads.

    ``identity`` is whom they belong to; ``None`` for the worker's own user.
    """

    def __init__(
        self, session: Session, root: Path, identity: Identity | None = None, limits: Limits | None = None
    ) -> None:
        self.session = session
        self.root = root
        self.identity = identity
        self.limits = session.limits if limits is None else limits
        self._files: Files | None = None
        self._lock = threading.Lock()

    @property
    def epoch(self) -> int:
        """The placement that these files belong to."""
        return self.session.epoch

    @property
    def workspace(self) -> Path:
        """What a command sees as its working directory. Everything in it is hostile."""
        return self.root / WORKSPACE

    @property
    def journal_path(self) -> Path:
        """Where the calls with a key are noted."""
        return self.root / JOURNAL

    @property
    def files(self) -> Files:
        """The workspace's files, reached without following a link out of it."""
        with self._lock:
            if self._files is None:
                self._files = Files(self.workspace, self.identity, limits=self.limits)
            return self._files

    def keep(self, name: str) -> Path:
        """A private folder beside the workspace, made when it is first asked for. Raises ``OSError``."""
        return keep_folder(self.root / KEEP, name, self.identity)

    def make(self) -> None:
        """Make the empty workspace. Raises ``OSError`` and ``SandboxError``."""
        self.root.mkdir(mode=0o711)
        self.root.chmod(0o711)
        self.workspace.mkdir(mode=0o700)
        prepare_workspace(self.workspace, self.identity)

    def mark(self) -> None:
        """Say that the folder is complete and whose it is. Raises ``OSError``."""
        write_marker(self.root, Marker(self.session.id, self.session.epoch))

    def close(self) -> None:
        """Let go of what is open; the files stay."""
        with self._lock:
            if self._files is not None:
                self._files.close()
                self._files = None


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file of the worker's own at once, durably. Raises ``OSError``."""
    new = path.with_name(path.name + ".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fdatasync(fd)
    finally:
        os.close(fd)
    new.rename(path)


def write_marker(root: Path, marker: Marker) -> None:
    """Say whose files the folder ``root`` holds. Raises ``OSError``."""
    write_whole(root / MARKER, json.dumps(asdict(marker)).encode())


def read_marker(root: Path) -> Marker | None:
    """What the folder's marker says; ``None`` without a valid one, or where there is no workspace."""
    try:
        fd = os.open(root / MARKER, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.getuid() or info.st_size > MAX_MARKER:
            return None
        said = json.loads(os.read(fd, MAX_MARKER))
        marker = Marker(said["id"], said["epoch"])
        if marker.id != root.name or not isinstance(marker.epoch, int):
            return None
        return marker if stat.S_ISDIR(os.lstat(root / WORKSPACE).st_mode) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    finally:
        os.close(fd)


class SessionsHome:
    """The folder of one worker's sessions, held by an flock: nobody else touches what is in it.

    ``base`` is as for :class:`ghcoord.execution.workspace.Workspaces`; ``hub_id`` keeps hubs on one machine apart.
    """

    def __init__(self, base: Path, hub_id: str, worker_id: str) -> None:
        self._all = base / "sessions" / hub_folder(hub_id)
        self.worker_id = check_id(worker_id, "worker id")
        self.folder = self._all / worker_id
        self._held: int | None = None
        self._count = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> bool:
        """Whether this object holds the folder."""
        return self._held is not None

    def hold(self) -> bool:
        """Take the folder; whether it is held now. ``False`` while another process has it. Raises ``Denied``."""
        if self._held is not None:
            return True
        for last in (False, False, False, False, True):
            try:
                for folder in (self._all.parent, self._all, self.folder):
                    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
                    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                        raise Denied(f"{folder} belongs to someone else: name another folder with --workspace")
                    folder.chmod(0o711)  # whatever the umask
                self._held = _lock_folder(self.folder)
                break
            except FileNotFoundError:  # who had it before has just removed it, empty
                if last:
                    raise Denied(f"{self.folder} is removed again and again by someone else") from None
            except OSError as error:
                raise Denied(f"cannot use {self.folder} for sessions: {error.strerror or error}") from error
        if self._held is not None:
            self.empty_gone()
        return self._held is not None

    def root(self, session_id: str) -> Path:
        """Where the session's files are, or would be."""
        return self.folder / check_id(session_id, "session id")

    def found(self) -> dict[str, Marker]:
        """What is there, by session; folders that were never finished are not."""
        markers = {}
        for name in _names(self.folder):
            if (marker := read_marker(self.folder / name)) is not None:
                markers[marker.id] = marker
        return markers

    def found_one(self, session_id: str) -> Marker | None:
        """The marker of one session's folder."""
        return read_marker(self.root(session_id))

    def unfinished(self) -> list[str]:
        """Names of folders without a valid marker."""
        return [name for name in _names(self.folder) if read_marker(self.folder / name) is None]

    def set_aside(self, session_id: str) -> Path | None:
        """Take the session's folder out of the way, at once; what to remove, or ``None`` when there was none.

        Raises ``OSError``.
        """
        root = self.root(session_id)
        if not os.path.lexists(root):
            return None
        gone = self.folder / GONE
        gone.mkdir(mode=0o700, exist_ok=True)
        with self._lock:
            self._count += 1
            target = gone / f"{os.getpid()}-{self._count}"
        root.rename(target)
        return target

    def empty_gone(self) -> None:
        """Remove what was set aside and left by a worker that ended before it was removed; never raises."""
        if os.path.lexists(self.folder / GONE):
            remove_tree(self.folder / GONE)

    def close(self) -> None:
        """Let go of the folder; remove it when nothing is in it."""
        if self._held is None:
            return
        with contextlib.suppress(OSError):
            if not [name for name in os.listdir(self.folder) if name != GONE]:
                self.empty_gone()
                for folder in (self.folder, self._all, self._all.parent):
                    folder.rmdir()
        os.close(self._held)
        self._held = None

    def sweep_others(self, belongs: Callable[[str, str, int], bool]) -> int:
        """Remove what workers that are gone have left; the number of sessions removed.

        ``belongs`` is asked (worker id, session id, epoch) and says whether a
        session may still come back for its files; what it raises ends the
        sweep.  A folder that a process holds is left alone.
        """
        removed = 0
        for worker_id in _names(self._all):
            if worker_id == self.worker_id:
                continue
            folder = self._all / worker_id
            held = None
            try:
                held = _lock_folder(folder)
                if held is None or os.fstat(held).st_uid != os.getuid():
                    continue
                for name in list(_names(folder)):
                    marker = read_marker(folder / name)
                    if marker is None or not belongs(worker_id, marker.id, marker.epoch):
                        remove_tree(folder / name)
                        removed += 1
                if os.path.lexists(folder / GONE):
                    remove_tree(folder / GONE)
                with contextlib.suppress(OSError):
                    folder.rmdir()
            except GhcoordError:
                raise
            except OSError:
                continue
            finally:
                if held is not None:
                    os.close(held)
        return removed


def hub_folder(hub_id: str) -> str:
    """What stands for a hub in paths: short, since sockets lie below."""
    return "".join(c for c in hub_id.lower() if c.isascii() and c.isalnum())[:10] or "hub"


def _names(folder: Path) -> Iterator[str]:
    """Names of the folders in ``folder`` that are ours to judge: no links, nothing hidden."""
    try:
        with os.scandir(folder) as entries:
            found = [each.name for each in entries if each.is_dir(follow_symlinks=False)]
    except OSError:
        return
    yield from sorted(name for name in found if not name.startswith("."))


def _lock_folder(folder: Path) -> int | None:
    """A descriptor that holds the folder; ``None`` when another process does. Raises ``OSError``."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_ino != os.lstat(folder).st_ino:  # removed, and made anew, while it was being locked
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        os.close(fd)
        raise
    return fd
