"""The limits that the kernel does not keep: looked at again and again while a command runs.

:mod:`ghcoord.execution.process` asks a launch's :class:`Watch` whenever it is due, in the thread that serves the
command.  Where memory and processes have a cgroup, the kernel keeps them and
only its verdict is read here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ghcoord.errors import SandboxError
from ghcoord.execution.sandbox.cgroup import Groups
from ghcoord.execution.sandbox.filling import Filling
from ghcoord.execution.sandbox.tree import Process, read_process, read_tree, unshared_memory
from ghcoord.model.limits import Limits
from ghcoord.model.session import Usage

Verdict = Literal["", "memory", "cpu", "processes", "workspace"]
"""The limit that was passed; empty for none."""

INTERVAL = 0.02
"""Seconds between two looks when a limit is near."""

SLOWEST = 0.1
"""Seconds at most between two looks."""

FASTEST_BYTES = 10e9
"""Bytes a second that a command could take at most: with this much room left for each second, looks are rarer."""

INODE_BYTES = 1024
"""What an empty file in memory costs the kernel, about."""

_PRECISE_LOOKS = 2
"""What ends while it is looked at passes its part of shared pages to the others: it would count twice."""

MIB = 1024 * 1024


class Watch:
    """Watches one command. Used by one thread."""

    due: float = 0.0
    """The moment of the next look, in the monotonic seconds that :meth:`look` is given."""

    def __init__(
        self,
        limits: Limits,
        workspace: Path,
        *,
        groups: Groups | None = None,
        apart: int = 0,
        memory_folders: Sequence[str] = (),
    ) -> None:
        """``groups`` is where the command gets a cgroup; ``apart`` processes of the tree are the sandbox's own.

        ``memory_folders`` are paths inside, each a file system in memory whose
        content counts as the command's memory.  Raises :class:`SandboxError`.
        """
        self._limits = limits
        self._apart = apart
        self._folders = list(memory_folders)
        self._folder_fds: dict[int, int] = {}
        self._root: int | None = None
        self._cpu_of: dict[tuple[int, int], float] = {}
        self._cpu_seen = 0.0
        self._cpu = 0.0
        self._peak_memory = 0
        self._peak_processes = 0
        self._group = groups.make(limits, apart=apart) if groups is not None else None
        self._filling: Filling | None = None
        if limits.workspace_mb is not None:
            try:
                self._filling = Filling(workspace, limits.workspace_mb * MIB)
            except SandboxError:
                self.close()
                raise

    def follow(self, root: int) -> None:
        """Watch the tree below the process ``root``, itself included, which has not started the command yet.

        Puts it into the cgroup, if there is one.  Raises :class:`SandboxError`.
        """
        if self._group is not None:
            self._group.add(root)
        if self._filling is not None:
            self._filling.begin()
        self._root = root

    def look(self, now: float) -> Verdict:
        """Which limit the command has passed, if any."""
        self.due = now + INTERVAL
        if self._root is None:
            return ""
        tree = read_tree(self._root)
        room = self._look_at(tree)
        if isinstance(room, str):
            return room
        if self._filling is not None and self._filling.look(now, [each.pid for each in tree[self._apart :]]):
            return "workspace"
        self.due = now + min(max(room / FASTEST_BYTES, INTERVAL), SLOWEST)
        return ""

    def sample(self) -> None:
        """Take the time that was used so far, shortly before nobody can tell it any more."""
        if self._root is not None:
            self._add_cpu(read_tree(self._root))

    def finished(self, cpu_seconds: float) -> Verdict:
        """The limit for which the kernel ended the command, if it did; ``cpu_seconds`` is what it used in all."""
        self._cpu = max(self._cpu, cpu_seconds)
        if self._group is None:
            return self._cpu_verdict()
        self._cpu = max(self._cpu, self._group.cpu_seconds())
        self._peak_memory = max(self._peak_memory, self._group.peak_memory())
        self._peak_processes = max(self._peak_processes, self._group.peak_processes() - self._apart)
        return "memory" if self._group.out_of_memory() else self._cpu_verdict()

    def usage(self) -> Usage:
        """What the command has used, as far as was seen: the most memory and processes at a time, and all CPU time."""
        return Usage(
            memory_mb=round(self._peak_memory / MIB, 3) if self._peak_memory else None,
            cpu_seconds=round(self._cpu, 3),
            disk_mb=None if self._filling is None or self._filling.size is None else self._filling.size / MIB,
            processes=self._peak_processes or None,
        )

    def close(self) -> None:
        """Let go of what is held open, and of the cgroup with all that is in it."""
        for fd in self._folder_fds.values():
            os.close(fd)
        if self._filling is not None:
            self._filling.close()
        if self._group is not None:
            self._group.close()

    # -- one look

    def _look_at(self, tree: list[Process]) -> Verdict | float:
        """The limit passed, or the bytes of memory that are left."""
        limits = self._limits
        self._add_cpu(tree)
        if verdict := self._cpu_verdict():
            return verdict
        count = sum(each.threads for each in tree) - self._apart
        self._peak_processes = max(self._peak_processes, count)
        if self._group is not None:
            return "memory" if self._group.out_of_memory() else float("inf")
        if limits.processes is not None and count > limits.processes:
            return "processes"
        return self._look_at_memory(tree)

    def _cpu_verdict(self) -> Verdict:
        return "cpu" if self._limits.cpu_seconds is not None and self._cpu > self._limits.cpu_seconds else ""

    def _add_cpu(self, tree: list[Process]) -> None:
        """Two sums, each of which a command could keep low, and not both.

        Times of ended processes pass to the parent that waits for them; those
        of a process that nobody waits for are known as far as they were seen.
        """
        if self._group is not None:
            self._cpu = max(self._cpu, self._group.cpu_seconds())
            return
        for each in tree:
            key = (each.pid, each.started)
            self._cpu_seen += max(each.own_cpu - self._cpu_of.get(key, 0.0), 0.0)
            self._cpu_of[key] = each.own_cpu
        self._cpu = max(self._cpu, self._cpu_seen, sum(each.own_cpu + each.reaped_cpu for each in tree))

    def _look_at_memory(self, tree: list[Process]) -> Verdict | float:
        files = self._in_memory_files(tree)
        used = files + sum(each.resident for each in tree)
        limit = float("inf") if self._limits.memory_mb is None else self._limits.memory_mb * MIB
        for _ in range(_PRECISE_LOOKS):
            if used > limit:
                used = self._in_memory_files(tree) + sum(self._memory_of(each) for each in tree)
        self._peak_memory = max(self._peak_memory, used)
        return "memory" if used > limit else limit - used

    def _memory_of(self, process: Process) -> int:
        """Its part, when several share pages; all that is resident where that cannot be read."""
        exact = unshared_memory(process.pid, lambda device: device in self._folder_fds)
        if exact is None:
            now = read_process(process.pid)
            return 0 if now is None else now.resident
        return exact

    def _in_memory_files(self, tree: list[Process]) -> int:
        if self._folders:
            self._open_folders(tree)
        total = 0
        for fd in self._folder_fds.values():
            info = os.fstatvfs(fd)
            total += (info.f_blocks - info.f_bfree) * info.f_frsize + (info.f_files - info.f_ffree) * INODE_BYTES
        return total

    def _open_folders(self, tree: list[Process]) -> None:
        """Through a process of the command: the sandbox's own show their files to nobody."""
        for each in tree[self._apart :]:
            for folder in tuple(self._folders):
                with contextlib.suppress(OSError):
                    fd = os.open(f"/proc/{each.pid}/root{folder}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                    device = os.fstat(fd).st_dev
                    if device in self._folder_fds or device == os.stat(folder).st_dev:
                        os.close(fd)
                        continue
                    self._folder_fds[device] = fd
                    self._folders.remove(folder)
            if not self._folders:
                return
