"""The in-memory driver keeps the contracts."""

from __future__ import annotations

import time

import pytest

from ghcoord.store.inmemory import MemoryStore
from ghcoord.testing.contract import HubUnderTest, StoreContract
from ghcoord.testing.far import FarStore, SingleSpaceStore
from ghcoord.testing.transact_contract import TransactContract


class TestMemoryStore(StoreContract, TransactContract):
    """Both contracts; its handles are one object, as a memory hub lives in one process."""

    @pytest.fixture
    def hub(self) -> HubUnderTest:
        store = MemoryStore(time.time)
        return HubUnderTest(open=lambda: store, delete_space=lambda space: store._heads.pop(space))


@pytest.mark.parametrize("kind", [FarStore, SingleSpaceStore])
class TestFarStore(StoreContract, TransactContract):
    """The contracts hold with the capabilities of network drivers: heads known beforehand, nothing only compared."""

    @pytest.fixture
    def hub(self, kind: type[FarStore], monkeypatch: pytest.MonkeyPatch) -> HubUnderTest:
        monkeypatch.setattr("ghcoord.store.transact.REMOTE_WAIT", 0.02)
        store = kind(time.time)
        return HubUnderTest(open=lambda: store, delete_space=lambda space: store._heads.pop(space))
