"""A twin on a clock moved by hand, with ``me`` and an empty or begun ``me/hub``."""

from __future__ import annotations

from pathlib import Path

import pytest

from ghcoord.testing.clock import ManualRuntime
from ghcoord.twin.server import Twin
from tests.twin.asking import Asking


@pytest.fixture
def runtime() -> ManualRuntime:
    return ManualRuntime()


@pytest.fixture
def twin(tmp_path: Path, runtime: ManualRuntime) -> Twin:
    """Without limits, not listening."""
    return Twin(tmp_path / "twin", runtime=runtime)


@pytest.fixture
def me(twin: Twin) -> Asking:
    """The owner of ``me/hub``, which has one commit."""
    token = twin.user("me")
    twin.repository("me", "hub", empty=False)
    return Asking(twin, token)
