"""What a sandbox promises, and what its drivers share.

A sandbox turns a command into a :class:`Launch`: what to start, how to end all
of it, and how to tell a sandbox that could not be set up (:class:`SandboxError`)
from a command that failed.  :mod:`ghcoord.execution.process` runs launches.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ghcoord.errors import SandboxError, UsageError
from ghcoord.execution.sandbox.job import Job, LimitSupport, Mount
from ghcoord.execution.sandbox.watch import Watch

MAX_STRING = 128 * 1024 - 1
"""Bytes of the longest single argument or ``NAME=value`` that Linux passes to a program (MAX_ARG_STRLEN)."""

MAX_STRINGS = 1_000_000
"""Bytes of all arguments and variables together; Linux takes a quarter of the stack limit, 2 MiB by default."""

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
LANG = "C.UTF-8"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_MOUNT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Identity:
    """A user and group of the host that tasks run as."""

    uid: int
    gid: int


TASK_IDENTITY = Identity(65533, 65533)
"""Whom a root worker's tasks become.

Nobody's: systemd's table of ids (UIDS-GIDS.md) lists 65520 to 65533 as unused,
yet inside the 65,536 ids of a container.  ``nobody`` (65534) would share its
processes and files with other services.
"""


class Launch(ABC):
    """One command about to run, or running, in a sandbox. Used by one thread, once."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path | None = None
    pass_fds: tuple[int, ...]
    """Ends that the child inherits; ours are closed once it has started."""
    identity: Identity | None = None
    """The user that the first process becomes before it starts; ``None`` for ours."""
    status_fd: int
    """The sandbox reports here; what arrives goes to :meth:`feed`."""
    tells_cpu: bool = False
    """Whether the first process waits for all others, so that its end tells the time that all have used."""
    watch: Watch | None = None
    """What keeps the job's limits that the kernel does not; ``None`` when there is nothing to watch."""

    def started(self, process: subprocess.Popen[bytes]) -> None:
        """Called once ``process`` runs, before anything else."""
        return

    @abstractmethod
    def feed(self, data: bytes, process: subprocess.Popen[bytes]) -> None:
        """Take what came on ``status_fd`` of the started process."""

    @abstractmethod
    def terminate(self, process: subprocess.Popen[bytes]) -> None:
        """Ask every process of the tree to end (SIGTERM)."""

    @abstractmethod
    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """End every process of the tree (SIGKILL). Has no effect after the end."""

    @abstractmethod
    def gone(self, timeout: float) -> bool:
        """Whether no process of the tree is left, waiting at most ``timeout`` seconds."""

    @abstractmethod
    def exit_code(self, returncode: int, stderr: str) -> int:
        """The command's exit code, 128 + n when signal n ended it.

        ``returncode`` is that of the started process, ``stderr`` what was
        written there.  Raises :class:`SandboxError` when the command was never
        started.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of everything that is still open."""


class Sandbox(Protocol):
    """A way to run commands. Safe to share between threads."""

    @property
    def name(self) -> str:
        """``bwrap``, ``landlock``, ``container`` or ``none``."""
        ...

    @property
    def tier(self) -> str:
        """A :class:`ghcoord.model.tier.Tier`: how much is kept apart from the host's."""
        ...

    @property
    def limits(self) -> LimitSupport:
        """How each limit of a job is kept here. Found once."""
        ...

    @property
    def identity(self) -> Identity | None:
        """The user of the host that tasks run as; ``None`` for the worker's own."""
        ...

    @property
    def python(self) -> str | None:
        """The interpreter for ``run.python``, as seen inside; ``None`` when none can be reached."""
        ...

    def inside(self, workspace: Path) -> str:
        """The workspace's path as the command sees it."""
        ...

    def where(self, workspace: Path, mount: Mount) -> str:
        """The path at which a command of ``workspace`` finds ``mount``."""
        ...

    def command(self, job: Job) -> Launch:
        """``job`` ready to run in its workspace, which it may write and nothing else may enter.

        The workspace is made private (mode 0700) and given to :attr:`identity`;
        a mount's source is shown as it is, so its own mode must let
        :attr:`identity` in.  Nothing of the worker's environment reaches the
        command.  Raises :class:`UsageError` for arguments or variables that
        cannot be passed, :class:`SandboxError` when the sandbox cannot be made.
        """
        ...


def current_identity() -> Identity | None:
    """Whom tasks become: :data:`TASK_IDENTITY` under root, otherwise ``None`` (the worker's own user)."""
    return TASK_IDENTITY if os.geteuid() == 0 else None


def check_strings(argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Raises :class:`UsageError` for what Linux cannot pass to a program."""
    if not argv:
        raise UsageError("the command is empty")
    for name, value in env.items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise UsageError(f"bad environment variable {name!r}: use letters, digits and '_'")
        if not isinstance(value, str):
            raise UsageError(f"the environment variable {name} is not a string")
    total = 0
    for what, text in [("argument", each) for each in argv] + [("variable", f"{k}={v}") for k, v in env.items()]:
        if not isinstance(text, str):
            raise UsageError(f"the {what} {text!r} is not a string")
        if "\0" in text:
            raise UsageError(f"an {what} contains a NUL character")
        try:
            size = len(text.encode()) + 1
        except UnicodeEncodeError:
            raise UsageError(f"an {what} is not valid UTF-8") from None
        if size > MAX_STRING:
            raise UsageError(f"an {what} has {size} bytes, Linux passes {MAX_STRING}: put it in a file or on stdin")
        total += size
    if total > MAX_STRINGS:
        raise UsageError(f"arguments and environment have {total} bytes, at most {MAX_STRINGS} are passed: use stdin")


def check_mounts(mounts: Sequence[Mount]) -> None:
    """Raises :class:`UsageError` unless each name is one plain path component and is there once."""
    names = [each.name for each in mounts]
    for name in names:
        if not _MOUNT_NAME.fullmatch(name):
            raise UsageError(f"bad name of a mount: {name!r}: use letters, digits, '-', '_' and '.'")
    if len(set(names)) < len(names):
        raise UsageError(f"two mounts have the same name: {', '.join(sorted(names))}")


def prepare_workspace(workspace: Path, identity: Identity | None) -> None:
    """Make the directory private and ``identity``'s. Raises :class:`SandboxError`."""
    try:
        fd = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as why:
        raise SandboxError(f"the workspace {workspace} cannot be used: {why.strerror}") from None
    try:
        os.fchmod(fd, 0o700)
        if identity is not None:
            os.fchown(fd, identity.uid, identity.gid)
    except OSError as why:
        raise SandboxError(f"the workspace {workspace} cannot be given to its task: {why.strerror}") from None
    finally:
        os.close(fd)


def reachable(path: Path, identity: Identity | None) -> bool:
    """Whether ``identity`` may enter every directory above ``path``.

    Judged by mode bits; an access list that grants more is not seen.  Always
    true for ``None``.
    """
    if identity is None:
        return True
    for directory in path.resolve().parents:
        try:
            info = directory.stat()
        except OSError:
            return False
        if info.st_uid == identity.uid:
            may = info.st_mode & 0o100
        elif info.st_gid == identity.gid:
            may = info.st_mode & 0o010
        else:
            may = info.st_mode & 0o001
        if not may:
            return False
    return True


def worker_python() -> Path | None:
    """The interpreter that the worker's own is made from, outside any virtual environment.

    ``None`` for one whose tree holds the home of the worker's user, with its
    keys and tokens: a sandbox shows the whole tree, as it does with ``/usr``.
    """
    prefix = Path(sys.base_prefix)
    path = prefix / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    shown = path.is_relative_to("/usr") or not _home().is_relative_to(prefix.resolve())
    return path if shown and path.exists() else None


def _home() -> Path:
    """That of the worker's user; where none is known, the root of everything, which only ``/`` holds."""
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir).resolve()
    except KeyError:
        return Path("/")


def system_python() -> Path | None:
    """The distribution's interpreter."""
    path = Path("/usr/bin/python3")
    return path if path.exists() else None


def data_fd(content: bytes) -> int:
    """A descriptor from which ``content`` is read once. Held in memory; nothing is written to disk."""
    fd = os.memfd_create("ghcoord", os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        os.close(fd)
        raise
    return fd


@contextlib.contextmanager
def closing_on_error(fds: list[int]) -> Iterator[None]:
    """Close all of ``fds`` when the block raises; what cannot be opened becomes a :class:`SandboxError`."""
    try:
        yield
    except BaseException as why:
        for fd in fds:
            os.close(fd)
        if isinstance(why, OSError):
            raise SandboxError(f"the sandbox could not be prepared: {why}") from why
        raise
