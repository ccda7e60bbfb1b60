"""The github driver: both contracts over the twin, in each way of writing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ghcoord.testing.contract import HubUnderTest, StoreContract
from ghcoord.testing.transact_contract import TransactContract
from tests.store.github.twins import MODES, twin_hub


@pytest.mark.parametrize("mode", MODES)
class TestGithubStore(StoreContract, TransactContract):
    """Both contracts."""

    @pytest.fixture
    def hub(self, tmp_path: Path, mode: str) -> HubUnderTest:
        return twin_hub(tmp_path, mode).under_test()
