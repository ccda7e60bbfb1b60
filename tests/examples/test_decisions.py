"""``decisions.py``: the first answer holds, a change is told to those who follow, and the history names who."""

from __future__ import annotations

import subprocess

import pytest

from ghcoord.hub import Hub
from tests.examples.conftest import Start, ended

pytestmark = pytest.mark.slow


def test_decisions(hub: Hub, start: Start) -> None:
    """Of two answers to a question the first holds; who follows hears of it, of its change, and of nothing twice."""
    assert ended(start("decisions.py", "decide", "database", "sqlite", "one writer")).startswith("database: sqlite")
    follower = start("decisions.py", "follow")
    heard = follower.stdout
    assert heard is not None
    assert heard.readline().startswith("database: sqlite (one writer; ")
    refused = ended(start("decisions.py", "decide", "database", "postgres", "I like it"), code=1)
    assert "database: sqlite" in refused
    assert "that was decided already" in refused
    ended(start("decisions.py", "change", "database", "postgres", "two writers now"))
    assert heard.readline().startswith("database: postgres (two writers now; ")
    ended(start("decisions.py", "decide", "language", "python", "we know it"))
    assert heard.readline().startswith("language: python")
    assert 2 == len(ended(start("decisions.py", "list")).splitlines())
    follower.kill()


def test_change_of_what_was_changed(hub: Hub, start: Start) -> None:
    """At most one of several who change the same answer at once has seen what they replace."""
    assert "nothing was decided yet" in ended(start("decisions.py", "change", "license", "MIT", "short"), code=1)
    ended(start("decisions.py", "decide", "license", "MIT", "short"))
    several: list[subprocess.Popen[str]] = [
        start("decisions.py", "change", "license", f"license {number}", "better") for number in range(3)
    ]
    said = [one.communicate(timeout=60) for one in several]
    won = [one.returncode for one in several].count(0)
    versions = hub.memory.history("license", "decisions")
    assert 1 <= won == len(list(versions)) - 1, said
