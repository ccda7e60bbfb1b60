"""The three ways to workers against their contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ghcoord.hub import Hub
from ghcoord.testing.worker_client_contract import ClientUnderTest, WorkerClientContract
from tests.mcp.benches import fake_bench, local_bench, open_hub, remote_bench


class TestFake(WorkerClientContract):
    """The one that runs nothing."""

    @pytest.fixture
    def bench(self, hub: Hub) -> ClientUnderTest:
        return fake_bench(hub)


@pytest.mark.slow
class TestLocal(WorkerClientContract):
    """This process's own worker."""

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[ClientUnderTest]:
        with open_hub(tmp_path) as hub, local_bench(hub, tmp_path) as made:
            yield made


@pytest.mark.slow
class TestRemote(WorkerClientContract):
    """The hub's workers."""

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[ClientUnderTest]:
        with open_hub(tmp_path) as hub, remote_bench(hub, tmp_path) as made:
            yield made
