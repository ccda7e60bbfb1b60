"""What the tests of worker daemons share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ghcoord.bootstrap as bootstrap
from ghcoord.execution.worker import Summary, WorkerDaemon
from ghcoord.hub import Hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """An empty hub on disk."""
    opened, _ = bootstrap.create(tmp_path / "hub.git")
    with opened:
        yield opened


@pytest.fixture
def work(hub: Hub, tmp_path: Path) -> Callable[..., Summary]:
    """Run a daemon in this process until the hub is idle; its summary."""

    def run(**options: Any) -> Summary:
        settings = {"poll": 0.05, "until_idle": 0.2, "ttl": 5.0, "workspace": tmp_path / "work", **options}
        return WorkerDaemon(hub, settings.pop("id", "w1"), **settings).run()

    return run
