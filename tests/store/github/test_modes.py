"""The github driver with each uncertain fact about GitHub the other way round: no promise may depend on one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ghcoord.testing.contract import HubUnderTest, StoreContract
from ghcoord.testing.transact_contract import TransactContract
from ghcoord.twin.switches import FLIPS, flipped
from tests.store.github.twins import twin_hub

SWITCHES = dict(flipped())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["branch", "custom", "rest"])
@pytest.mark.parametrize("flip", FLIPS)
class TestFlipped(StoreContract, TransactContract):
    """Both contracts."""

    @pytest.fixture
    def hub(self, tmp_path: Path, mode: str, flip: str) -> HubUnderTest:
        return twin_hub(tmp_path, mode, switches=SWITCHES[flip]).under_test()
