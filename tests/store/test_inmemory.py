"""The in-memory driver keeps the contracts."""

from __future__ import annotations

import time

import pytest

from ghcoord.store.inmemory import MemoryStore
from ghcoord.testing.contract import HubUnderTest, StoreContract
from ghcoord.testing.transact_contract import TransactContract


class TestMemoryStore(StoreContract, TransactContract):
    """Both contracts; its handles are one object, as a memory hub lives in one process."""

    @pytest.fixture
    def hub(self) -> HubUnderTest:
        store = MemoryStore(time.time)
        return HubUnderTest(open=lambda: store, delete_space=lambda space: store._heads.pop(space))
