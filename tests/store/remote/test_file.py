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


class TestFileProtocol(StoreContract):
    """The store's contract."""


@pytest.mark.slow
class TestTransact(TransactContract):
    """What ``transact`` promises on every driver."""


class TestFirst:
    """Of the contracts that take long, the tests that every change should meet."""

    test_increments_are_exact = TransactContract.test_increments_are_exact
    test_a_lost_reply_is_applied_once = TransactContract.test_a_lost_reply_is_applied_once
    test_what_stays_is_as_it_was = RewriteContract.test_what_stays_is_as_it_was
    test_those_who_had_it_open_go_on = RewriteContract.test_those_who_had_it_open_go_on
    test_a_reply_lost_before_a_collection = RewriteContract.test_a_reply_lost_before_a_collection


@pytest.mark.slow
class TestCollecting(RewriteContract):
    """The contract of collecting where history is written again."""
