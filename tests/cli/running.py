"""The real command line, in this process or as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Run:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The error's line; fails unless there is exactly one, and no output."""
        assert "" == self.out
        assert 1 == len(self.err.splitlines()), self.err
        assert self.err.startswith("error: ")
        assert "Traceback" not in self.err
        return self.err.removeprefix("error: ").strip()


Cli = Callable[..., Run]
Later = Callable[[float], None]


def command(*args: object) -> list[str]:
    """The command line of a process of its own."""
    return [sys.executable, "-m", "ghcoord", *map(str, args)]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment in which a child finds ghcoord."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **(extra or {})}


def spawn(*args: object, stdin: str = "", argv: Sequence[str] | None = None) -> Run:
    """Run the command line as a process of its own."""
    done = subprocess.run(
        argv or command(*args), input=stdin, capture_output=True, text=True, timeout=60, env=environment(), check=False
    )
    return Run(done.returncode, done.stdout, done.stderr)
