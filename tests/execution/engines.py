"""A fake container engine in a folder, for the tests of the container driver."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from ghcoord.execution.sandbox.base import current_identity
from ghcoord.execution.sandbox.container import ContainerSandbox, ContainerSettings
from ghcoord.execution.sandbox.seccomp import Policy, filter_bytes

IMAGE = "image:1"


@dataclass
class Engine:
    """The engine's program, and the folder that says how it behaves and what was asked of it."""

    program: Path
    state: Path

    @property
    def settings(self) -> ContainerSettings:
        return ContainerSettings(IMAGE, engine=str(self.program))

    def sandbox(self) -> ContainerSandbox:
        return ContainerSandbox(self.program, self.settings, current_identity(), "/usr/bin/python3")

    def calls(self, command: str) -> list[list[str]]:
        """The arguments of each call of ``command`` until now."""
        lines = (self.state / "calls").read_text().splitlines() if (self.state / "calls").exists() else []
        return [call for call in map(json.loads, lines) if call[0] == command]

    def containers(self) -> list[str]:
        """Those that are there, running or not."""
        return [each.stem for each in (self.state / "containers").glob("*.json")]


def make_engine(folder: Path) -> Engine:
    """In ``folder``, which is empty."""
    state = folder / "state"
    (state / "containers").mkdir(parents=True)
    (state / "filter").write_bytes(filter_bytes(Policy()))
    program = folder / "docker"
    script = Path(__file__).with_name("fake_engine.py")
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {script} {state} "$@"\n')
    program.chmod(0o755)
    return Engine(program, state)
