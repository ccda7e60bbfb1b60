"""The processes below one, and what they use, read from ``/proc`` in a few system calls each.

Works from outside a pid namespace: what is born in one stays below its first
process.  A list of children that changes while it is read may miss one; the
next look sees it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from ghcoord.execution.sandbox.launcher import descendants

_TICKS = os.sysconf("SC_CLK_TCK")
_CHILDREN = "/proc/{pid}/task/{task}/children"
_MOST_MAPPINGS = 2 * 1024 * 1024  # bytes of text, 2,000 mappings
_SHORT = 2048  # the kernel fills about a page with whole lines: fewer bytes are the last ones
_PAGE = os.sysconf("SC_PAGESIZE")


@dataclass(frozen=True, slots=True)
class Process:
    """One process as its ``stat`` shows it."""

    pid: int
    started: int
    """Ticks since the boot: with ``pid`` it names one process for ever."""
    own_cpu: float
    """Seconds."""
    reaped_cpu: float
    """Seconds of its children that have ended and were waited for."""
    threads: int
    resident: int
    """Bytes, those that it shares with others included."""


def read_process(pid: int) -> Process | None:
    """``None`` when there is no such process."""
    data = _read(f"/proc/{pid}/stat")
    # The name before it is in parentheses and may contain anything.
    fields = data.rpartition(b")")[2].split()
    if len(fields) < 22:
        return None
    own, reaped = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return Process(
        pid, int(fields[19]), own / _TICKS, reaped / _TICKS, max(int(fields[17]), 1), int(fields[21]) * _PAGE
    )


def read_tree(root: int) -> list[Process]:
    """``root``, first, and the processes below it."""
    if not os.path.exists(_CHILDREN.format(pid=os.getpid(), task=os.getpid())):
        everyone = [read_process(pid) for pid in (root, *descendants(root))]
        return [each for each in everyone if each is not None]
    found: list[Process] = []
    queue = [root]
    seen = {root}
    while queue:
        process = read_process(queue.pop())
        if process is None:
            continue
        found.append(process)
        for child in children_of(process.pid, process.threads):
            if child not in seen:
                seen.add(child)
                queue.append(child)
    return found


def children_of(pid: int, threads: int = 1) -> list[int]:
    """The children of all of its threads, on a kernel with ``CONFIG_PROC_CHILDREN``."""
    tasks = [str(pid)]
    if threads > 1:
        try:
            tasks = os.listdir(f"/proc/{pid}/task")
        except OSError:
            return []
    return [int(child) for task in tasks for child in _read(_CHILDREN.format(pid=pid, task=task)).split()]


def unshared_memory(process: int, is_counted: Callable[[int], bool]) -> int | None:
    """Bytes of memory that ``process`` has to itself or its part of what it shares; ``None`` when it may not be read.

    Pages of ordinary files are left out, as are those of files on a device for
    which ``is_counted`` is true, because they are counted elsewhere.
    """
    data = _read(f"/proc/{process}/smaps_rollup")
    parts = dict(line.split(b":", 1) for line in data.splitlines()[1:] if b":" in line)
    try:
        anonymous, shared = _kib(parts[b"Pss_Anon"]), _kib(parts[b"Pss_Shmem"])
    except (KeyError, ValueError):
        return None
    return anonymous + shared - (_mapped_of(process, is_counted) if shared else 0)


def _mapped_of(process: int, is_counted: Callable[[int], bool]) -> int:
    """Nothing for a process with more mappings than any honest one, so that looking at it stays cheap."""
    text = _read(f"/proc/{process}/smaps", most=_MOST_MAPPINGS)
    if len(text) >= _MOST_MAPPINGS:
        return 0
    total, counted = 0, False
    for line in text.splitlines():
        name, _, rest = line.partition(b":")
        if b" " in name:
            major, _, minor = line.split()[3].partition(b":")
            counted = is_counted(os.makedev(int(major, 16), int(minor, 16)))
        elif counted and name == b"Pss":
            total += _kib(rest)
    return total


def _kib(text: bytes) -> int:
    return int(text.split()[0]) * 1024


def _read(path: str, most: int = 1024 * 1024) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    parts, size = [], 0
    try:
        while size < most and (part := os.read(fd, 65536)):
            parts.append(part)
            size += len(part)
            if len(part) < _SHORT:
                break
    except OSError:
        pass
    finally:
        os.close(fd)
    return b"".join(parts)
