"""The github driver: both contracts over the twin, in each way of writing, and on demand over GitHub itself.

``GHCOORD_LIVE_HUB=github:OWNER/REPOSITORY`` with a token runs them there, on
refs of their own that are deleted afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.config import Settings
from ghcoord.errors import StoreError
from ghcoord.store.open import Surroundings, github_api
from ghcoord.testing.contract import HubUnderTest, StoreContract
from ghcoord.testing.rewrite_contract import RewriteContract
from ghcoord.testing.transact_contract import TransactContract
from tests.store.github.twins import MODES, Unbudgeted, twin_hub


@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=pytest.mark.slow) if mode != "branch" else mode for mode in MODES]
)
class TestGithubStore(StoreContract, TransactContract):
    """Both contracts."""

    @pytest.fixture
    def hub(self, tmp_path: Path, mode: str) -> HubUnderTest:
        return twin_hub(tmp_path, mode).under_test()


LIVE = os.environ.get("GHCOORD_LIVE_HUB", "")


def live_hub(folder: Path, mode: str) -> Iterator[HubUnderTest]:
    """A hub on refs of its own in the repository that ``GHCOORD_LIVE_HUB`` names."""
    usual, write = MODES[mode]
    prefix = f"{usual.removesuffix('/')}-live-{uuid4().hex[:12]}/"
    runtime = SystemRuntime()
    around = Surroundings(environment=os.environ, state=folder)

    def open_() -> Unbudgeted:
        return Unbudgeted(github_api(LIVE, runtime, Settings(), around), runtime, prefix, write=write)

    def delete(space: str) -> None:
        api = github_api(LIVE, runtime, Settings(), around)
        path = f"{api.repo.path}/git/refs/{(prefix + space).removeprefix('refs/')}"
        api.rest("DELETE", path, kind="write", expect=(404, 422))

    yield HubUnderTest(open=open_, delete_space=delete)
    with suppress(StoreError):
        for space in open_().heads():
            delete(space)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not LIVE, reason="GHCOORD_LIVE_HUB names no repository to run this in")
@pytest.mark.parametrize("mode", ["branch", "custom", "rest"])
class TestLive(StoreContract, TransactContract):
    """Both contracts at the real thing. Slow: its limits are kept."""

    @pytest.fixture
    def hub(self, tmp_path: Path, mode: str) -> Iterator[HubUnderTest]:
        yield from live_hub(tmp_path, mode)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not LIVE, reason="GHCOORD_LIVE_HUB names no repository to run this in")
@pytest.mark.parametrize("mode", ["branch", "custom"])
class TestLiveCollecting(RewriteContract):
    """Collecting at the real thing."""

    @pytest.fixture
    def hub(self, tmp_path: Path, mode: str) -> Iterator[HubUnderTest]:
        yield from live_hub(tmp_path, mode)
