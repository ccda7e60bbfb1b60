"""Hubs in memory, and on disk where that could make a difference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ghcoord.hub import Hub
from tests.coord.world import World


@pytest.fixture
def world() -> Iterator[World]:
    """A hub in memory."""
    made = World()
    yield made
    made.close()


@pytest.fixture(params=["memory", "local"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A hub in memory, and again one in a repository."""
    made = World(tmp_path / "hub.git" if request.param == "local" else None)
    yield made
    made.close()


@pytest.fixture
def hub(world: World) -> Hub:
    """The hub in memory, opened by ``me``."""
    return world.open()
