"""A cgroup for each command, where this worker was given a part of the cgroup v2 tree of its own.

Delegated means: the folder is the worker's user's own; under root, that systemd
marked it so (``Delegate=yes`` sets the attribute ``user.delegate``) or that it
is the root of a container's own cgroup namespace.  A cgroup that hands
controllers to others must hold no process itself, so the worker moves into one
of its own first; a folder that holds anybody else's process is left alone.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import threading
from pathlib import Path

from ghcoord.errors import SandboxError
from ghcoord.model.limits import Limits

OWN = "ghcoord-worker"
"""The cgroup that a worker moves itself to, below the one that it was given."""

CONTROLLERS = ("memory", "pids")
"""What has to be there; ``cpu`` is used for the sums of time, which every cgroup has."""

EMPTY_TIMEOUT = 1.0
"""Seconds to wait for the last process of a cgroup to have left it; killed ones need about 1 ms."""

_PREFIX = "ghcoord-task-"


class Group:
    """The cgroup of one command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, pid: int) -> None:
        """Put a process into it; its children are born there. Raises :class:`SandboxError`."""
        try:
            _write(self.folder / "cgroup.procs", str(pid))
        except ProcessLookupError:
            return
        except OSError as why:
            raise SandboxError(f"the command could not be put into its cgroup: {why.strerror}") from why

    def kill(self) -> None:
        """SIGKILL to every process of it (Linux 5.14)."""
        with contextlib.suppress(OSError):
            _write(self.folder / "cgroup.kill", "1")

    def out_of_memory(self) -> bool:
        """Whether the kernel has ended processes of it for want of memory."""
        return self._numbers("memory.events").get("oom_kill", 0) > 0

    def cpu_seconds(self) -> float:
        """What all processes that ever were in it have used."""
        return self._numbers("cpu.stat").get("usage_usec", 0) / 1e6

    def peak_memory(self) -> int:
        """Bytes; 0 where the kernel does not say (before Linux 5.19)."""
        return self._number("memory.peak")

    def peak_processes(self) -> int:
        """The most at a time; 0 where the kernel does not say (before Linux 6.1)."""
        return self._number("pids.peak")

    def close(self) -> None:
        """End what is in it and remove it; one that a stuck process keeps is removed by the next worker."""
        try:
            self.folder.rmdir()
        except OSError:
            self.kill()
            self._wait_until_empty()
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def _wait_until_empty(self) -> None:
        with contextlib.suppress(OSError), open(self.folder / "cgroup.events", "rb") as events:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            while b"populated 1" in events.read() and poll.poll(EMPTY_TIMEOUT * 1000):
                events.seek(0)

    def _numbers(self, name: str) -> dict[str, int]:
        found = {}
        with contextlib.suppress(OSError):
            for line in (self.folder / name).read_text().splitlines():
                key, _, value = line.partition(" ")
                if value.isdigit():
                    found[key] = int(value)
        return found

    def _number(self, name: str) -> int:
        try:
            return int((self.folder / name).read_text())
        except (OSError, ValueError):
            return 0


class Groups:
    """A folder of the cgroup tree in which cgroups for commands can be made. Safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count(1)

    def make(self, limits: Limits, *, apart: int = 0) -> Group:
        """A cgroup with the limits of memory and processes; ``apart`` more processes for the sandbox's own.

        Raises :class:`SandboxError`.
        """
        folder = self.folder / f"{_PREFIX}{os.getpid()}-{next(self._numbers)}"
        try:
            folder.mkdir()
        except OSError as why:
            raise SandboxError(f"no cgroup could be made below {self.folder}: {why.strerror}") from why
        try:
            if limits.memory_mb is not None:
                _write(folder / "memory.max", str(limits.memory_mb * 1024 * 1024))
                with contextlib.suppress(OSError):  # without swap the file is missing
                    _write(folder / "memory.swap.max", "0")
                _write(folder / "memory.oom.group", "1")
            if limits.processes is not None:
                _write(folder / "pids.max", str(limits.processes + apart))
        except OSError as why:
            folder.rmdir()
            raise SandboxError(f"the limits of the cgroup {folder} could not be set: {why.strerror}") from why
        return Group(folder)

    def sweep(self) -> None:
        """Remove the cgroups of workers that have died."""
        for folder in self.folder.glob(f"{_PREFIX}*-*"):
            pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
            if not Path("/proc", pid).exists():
                Group(folder).close()


_lock = threading.Lock()


def find_groups(root: Path = Path("/")) -> Groups | None:
    """Where this worker may make cgroups; ``None`` when it was given no part of the tree with what is needed.

    May move this process into a cgroup of its own, below the one it is in.
    ``root`` stands for the machine's root folder.
    """
    with _lock:
        own = _own_folder(root)
        if own is None:
            return None
        base = own.parent if own.name == OWN else own
        try:
            if not _is_delegated(base) or not _prepare(base, own):
                return None
        except OSError:
            return None
        groups = Groups(base)
        groups.sweep()
        return groups


def _own_folder(root: Path) -> Path | None:
    """This process's folder in the tree of cgroup v2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    if path is None or ".." in path:
        return None
    for line in mounts:
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            shown, place = before.split()[3:5]
            if path == shown or path.startswith(shown.rstrip("/") + "/"):
                return root / place.lstrip("/") / path[len(shown.rstrip("/")) :].lstrip("/")
    return None


def _is_delegated(base: Path) -> bool:
    if not (base / "cgroup.type").exists():  # the root of the machine's tree has none
        return False
    if os.geteuid() != 0:
        return base.stat().st_uid == os.geteuid() and os.access(base, os.W_OK)
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(base, name) == b"1":
                return True
    return not (base.parent / "cgroup.procs").exists()


def _prepare(base: Path, own: Path) -> bool:
    """Hand the controllers down; whether that worked. Raises :class:`OSError`."""
    if not set(CONTROLLERS) <= set((base / "cgroup.controllers").read_text().split()):
        return False
    if set(CONTROLLERS) <= set((base / "cgroup.subtree_control").read_text().split()):
        return True
    me = str(os.getpid())
    if own == base:
        if (base / "cgroup.procs").read_text().split() != [me]:
            return False
        (base / OWN).mkdir(exist_ok=True)
        _write(base / OWN / "cgroup.procs", me)
    try:
        _write(base / "cgroup.subtree_control", " ".join(f"+{each}" for each in CONTROLLERS))
    except OSError:
        if own == base:
            _write(base / "cgroup.procs", me)
            (base / OWN).rmdir()
        return False
    return True


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
