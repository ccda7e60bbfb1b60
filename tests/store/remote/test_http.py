"""The remote driver over HTTP, with the real ``git http-backend`` and a password: both contracts, requests, faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ghcoord.testing.contract import HubUnderTest, StoreContract
from ghcoord.testing.transact_contract import TransactContract
from tests.store.remote.httpd import GitServer, helper, served
from tests.store.remote.hubs import make_bare, open_remote, under_test


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    """A server with one empty repository, hub.git, that may be pushed to."""
    make_bare(tmp_path / "srv" / "hub.git", "http.receivepack=true")
    with served(tmp_path / "srv") as server:
        yield server


@pytest.fixture
def hub(server: GitServer, tmp_path: Path) -> HubUnderTest:
    return under_test(
        server.root / "hub.git", f"{server.url}/hub.git", tmp_path / "cache", environment=helper()
    )


@pytest.mark.slow
class TestHttp(StoreContract, TransactContract):
    """Both contracts."""


def test_requests(server: GitServer, hub: HubUnderTest) -> None:
    """An idle poll is two requests, one that brings something three, a commit two; the first 401 comes on top."""
    one, two = hub.open(), hub.open()
    hub.put(one, "fleet", {"a": b"1"})

    def counted() -> list[str]:
        seen = [f"{method} {status}" for method, _, status in server.log]
        server.log.clear()
        return seen

    counted()
    two.heads()
    assert ["GET 401", "GET 200", "POST 200", "POST 200"] == counted()
    two.heads()
    assert ["GET 401", "GET 200", "POST 200"] == counted()
    one.commit({"locks": None}, {"locks": {"a": b"1"}}, hub.op())
    assert ["GET 401", "GET 200", "POST 200"] == counted()
