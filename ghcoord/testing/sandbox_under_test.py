"""What the contract of the sandbox port works with: a sandbox with folders to run in, and looks at this machine."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ghcoord.clock import Runtime, SystemRuntime
from ghcoord.execution import process
from ghcoord.execution.process import Completed
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.model.tier import rank_of

PROMPT = 10.0
"""Seconds within which whatever is stopped must be over on a busy machine."""


@dataclass
class SandboxUnderTest:
    """A sandbox, and an empty folder that every user of the machine may enter."""

    sandbox: Sandbox
    base: Path
    runtime: Runtime = field(default_factory=SystemRuntime)
    known: frozenset[str] = frozenset()
    """Variables besides the usual ones that a command gets, as an image may have some."""
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def confines(self) -> bool:
        """Whether files and the network are kept apart."""
        return rank_of(self.sandbox.tier) >= rank_of("partial")

    @property
    def is_full(self) -> bool:
        """Whether processes are kept apart as well."""
        return rank_of(self.sandbox.tier) >= rank_of("full")

    def workspace(self) -> Path:
        """A new, empty one."""
        folder = self.base / f"workspace-{next(self._numbers)}"
        folder.mkdir()
        return folder

    def marker(self) -> str:
        """A number of seconds for ``sleep`` that no other process of this machine has among its arguments."""
        return f"300.{self.runtime.randbits(60)}"

    def run(self, argv: Sequence[str], *, workspace: Path | None = None, **options: Any) -> Completed:
        """Run a command to its end, in a workspace of its own unless one is given."""
        options.setdefault("timeout", 60.0)
        options.setdefault("grace", 0.1)
        return process.run(self.sandbox, argv, workspace=workspace or self.workspace(), runtime=self.runtime, **options)

    def sh(self, script: str, *args: str, **options: Any) -> Completed:
        """Run a script of the shell; ``args`` are ``$1`` and so on."""
        return self.run(["/bin/sh", "-c", script, "sh", *args], **options)

    def python(self, code: str, *args: str, **options: Any) -> Completed:
        """Run Python code with the sandbox's interpreter."""
        assert self.sandbox.python is not None, "the sandbox has no Python"
        return self.run([self.sandbox.python, "-I", "-S", "-c", code, *args], **options)


def survivors(marker: str) -> list[int]:
    """The processes of this machine with ``marker`` among their arguments."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if marker.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def open_descriptors() -> dict[int, str]:
    """Those of this process, with what they are open on."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    return found


def command_lines() -> bytes:
    """Of every process of this machine."""
    lines = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                lines.append((folder / "cmdline").read_bytes())
            except OSError:
                continue
    return b"\n".join(lines)
