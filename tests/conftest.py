"""What all tests share."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite(
    "ghcoord.testing.contract",
    "ghcoord.testing.under_test",
    "ghcoord.testing.rewrite_contract",
    "ghcoord.testing.transact_contract",
    "ghcoord.testing.sandbox_contract",
    "ghcoord.testing.sandbox_walls",
    "ghcoord.testing.worker_client_contract",
)


@pytest.fixture(autouse=True, scope="session")
def _state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What processes remember of hubs between runs does not land in the developer's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.delenv("GHCOORD_HUB", raising=False)
        yield


@pytest.fixture(autouse=True)
def _twins_are_as_github_describes_it(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test asks of a twin in this process suits GitHub's official schemas, where these are at hand."""
    if "ghcoord.twin.server" not in sys.modules:
        yield
        return
    from tests.twin.watch import watched

    with watched(monkeypatch):
        yield
