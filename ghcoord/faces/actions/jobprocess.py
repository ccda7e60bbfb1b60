"""Processes of a job, told apart from others that get the same number later. Linux only; elsewhere nothing is known."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

RUNNER = "Runner.Worker"
"""The program of GitHub's runner that runs one job and ends with it."""

MAX_DEPTH = 64
"""Ancestors looked at: more are a loop of numbers that were given anew meanwhile."""


class Process(NamedTuple):
    """A process: its number, and when it started, in clock ticks since the boot."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether it runs still; a process that ended and was not waited for does not."""
        return find(self.pid) == self


class _Stat(NamedTuple):
    name: str
    state: str
    parent: int
    started: int


def _stat(pid: int) -> _Stat | None:
    """What ``/proc`` says; ``None`` of a process that is not there."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    head, _, rest = text.rpartition(")")  # a program's name may hold any character
    fields = rest.split()
    return _Stat(head.partition("(")[2], fields[0], int(fields[1]), int(fields[19]))


def find(pid: int) -> Process | None:
    """The process with that number; ``None`` when there is none or it has ended."""
    stat = _stat(pid)
    return None if stat is None or stat.state in "ZX" else Process(pid, stat.started)


def ancestor(name: str = RUNNER) -> Process | None:
    """The nearest process called ``name`` above this one; ``None`` where there is none, as in a container."""
    pid = os.getppid()
    for _ in range(MAX_DEPTH):
        stat = _stat(pid)
        if stat is None:
            return None
        if stat.name == name:
            return Process(pid, stat.started)
        pid = stat.parent
    return None
