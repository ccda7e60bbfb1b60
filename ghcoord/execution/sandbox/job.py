"""What is to run in a sandbox, and what the sandbox can hold it to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ghcoord.model.limits import Limits

Support = Literal["hard", "soft", "none"]
"""``hard``: the kernel enforces it. ``soft``: watched, and ended soon after. ``none``: not enforced here."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A file, folder or socket of the host that a command sees besides its workspace.

    ``name`` is one path component, unique among a job's mounts;
    :meth:`Sandbox.where` says at which path the command finds it.
    """

    source: Path
    name: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """A command for a sandbox. ``argv[0]`` is a path inside; ``workspace`` is where it starts and what it may write.

    ``env`` is added to PATH, HOME, LANG and TMPDIR.  ``limits`` other than
    ``timeout`` and ``output_kb``, which :mod:`ghcoord.execution.process` keeps,
    are the sandbox's to enforce.
    """

    argv: Sequence[str]
    workspace: Path
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    mounts: tuple[Mount, ...] = ()


@dataclass(frozen=True, slots=True)
class LimitSupport:
    """How each limit is kept, and by what: ``cgroup`` or ``rlimit and watching``."""

    memory: Support = "none"
    processes: Support = "none"
    cpu: Support = "none"
    file_size: Support = "none"
    workspace: Support = "none"
    by: str = ""

    def summary(self) -> dict[str, str]:
        """As a worker's record shows it."""
        parts = {name: getattr(self, name) for name in ("memory", "processes", "cpu", "file_size", "workspace")}
        return {**parts, "by": self.by}
