"""A hub with scalers and a made-up server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.scaling.fakes import Plant


@pytest.fixture
def plant() -> Iterator[Plant]:
    """A hub in memory, in manual time."""
    made = Plant()
    yield made
    made.close()
