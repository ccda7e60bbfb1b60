"""The remote driver over git's protocol between processes of one machine: both contracts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ghcoord.testing.contract import HubUnderTest, StoreContract
from ghcoord.testing.transact_contract import TransactContract
from tests.store.remote.hubs import make_bare, under_test


class TestFileProtocol(StoreContract, TransactContract):
    """Both contracts."""

    @pytest.fixture
    def hub(self, tmp_path: Path) -> HubUnderTest:
        path = make_bare(tmp_path / "hub.git")
        return under_test(path, f"git+file://{path}", tmp_path / "cache")
