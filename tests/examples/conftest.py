"""An empty hub for each example, and a way to start it as a user does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import ghcoord.bootstrap as bootstrap
from ghcoord.hub import Hub
from tests.docs.pages import ROOT
from tests.docs.runner import environment

EXAMPLES = ROOT / "examples"

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """An empty hub."""
    opened, _ = bootstrap.create(tmp_path / "hub.git")
    with opened:
        yield opened


@pytest.fixture
def start(hub: Hub, tmp_path: Path) -> Iterator[Start]:
    """Start an example with ``GHCOORD_HUB`` set and ``ghcoord`` on the path; what still runs is killed in the end."""
    with ExitStack() as stack:

        def run(name: str, *args: object, **variables: str) -> subprocess.Popen[str]:
            program = EXAMPLES / name
            first = [sys.executable, "-W", "error", program] if program.suffix == ".py" else [program]
            process = subprocess.Popen(
                [str(part) for part in (*first, *args)],
                cwd=tmp_path,
                env={**environment(tmp_path), "GHCOORD_HUB": hub.url, **variables},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(_end, process)
            return process

        yield run


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=10)


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """What an example printed once it has ended; it must end with ``code``, and without errors if that is 0."""
    output, errors = process.communicate(timeout=100)
    assert code == process.returncode, output + errors
    assert "" == errors or code, errors
    return output + errors
