"""The remote driver over git's protocol between processes of one machine: both contracts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ghcoord.testing.contract import HubUnderTest, StoreContract
from ghcoord.testing.rewrite_contract import RewriteContract
from ghcoord.testing.transact_contract import TransactContract
from tests.store.remote.hubs import make_bare, under_test


@pytest.fixture
def hub(tmp_path: Path) -> HubUnderTest:
    path = make_bare(tmp_path / "hub.git")
    return under_test(path, f"git+file://{path}", tmp_path / "cache")


@pytest.mark.slow
class TestFileProtocol(StoreContract):
    """The store's contract."""


@pytest.mark.slow
class TestTransact(TransactContract):
    """What ``transact`` promises on every driver."""


class TestFirst:
    """Of the contracts, which take long, the tests that every change should meet."""

    test_commits_are_direct_children = StoreContract.test_commits_are_direct_children
    test_stale_expectation_changes_nothing = StoreContract.test_stale_expectation_changes_nothing
    test_several_spaces_whole = StoreContract.test_several_spaces_whole
    test_a_lost_reply_is_applied_once = TransactContract.test_a_lost_reply_is_applied_once
    test_what_stays_is_as_it_was = RewriteContract.test_what_stays_is_as_it_was


@pytest.mark.slow
class TestCollecting(RewriteContract):
    """The contract of collecting where history is written again."""
