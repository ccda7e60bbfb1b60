"""The contract catches each driver that is wrong on purpose, in the test that is meant for it."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable

import pytest

from ghcoord.store.inmemory import MemoryStore
from ghcoord.testing.broken import LostUpdateStore, PartialCommitStore, ReplyLostAsFailureStore, SameIdWinsStore
from ghcoord.testing.contract import HubUnderTest, StoreContract
from ghcoord.testing.transact_contract import TransactContract


class Contract(StoreContract, TransactContract):
    """Both contracts, to be run by hand; the name keeps pytest from collecting it."""


def failures(make: Callable[[Callable[[], float]], MemoryStore], names: list[str]) -> dict[str, str]:
    """Which of the contract's tests fail for a driver, and why."""
    failed = {}
    for name in names:
        store = make(time.time)
        hub = HubUnderTest(
            open=lambda store=store: store,  # type: ignore[misc]
            delete_space=lambda space, store=store: store._heads.pop(space),  # type: ignore[misc]
        )
        try:
            getattr(Contract(), name)(hub)
        except (Exception, pytest.fail.Exception) as error:
            failed[name] = repr(error)
    return failed


PORT_TESTS = [name for name, _ in inspect.getmembers(StoreContract, inspect.isfunction) if name.startswith("test_")]


def test_a_right_driver_passes() -> None:
    """Run the same way, the real in-memory driver fails no test of the port's contract."""
    assert {} == failures(MemoryStore, PORT_TESTS)


@pytest.mark.parametrize(
    ("driver", "caught_by"),
    [
        (LostUpdateStore, {"test_stale_expectation_changes_nothing", "test_one_winner_a_head"}),
        (PartialCommitStore, {"test_several_spaces_or_nothing", "test_compared_spaces_are_checked"}),
        (SameIdWinsStore, {"test_same_content_in_the_same_second_has_one_winner", "test_trailers"}),
        (ReplyLostAsFailureStore, {"test_a_failure_left_nothing"}),
    ],
)
def test_a_broken_driver_fails(driver: type[MemoryStore], caught_by: set[str]) -> None:
    """Lost update, partial commit, equal ids as a win, lost reply as failure: each fails where it should."""
    found = failures(driver, PORT_TESTS)
    assert caught_by <= set(found), found


def test_equal_ids_as_a_win_fails_for_that_reason() -> None:
    """The driver that accepts equal object ids lets both writers of the same content win."""
    [why] = failures(SameIdWinsStore, ["test_same_content_in_the_same_second_has_one_winner"]).values()
    assert "1 == 2" in why


def test_a_lost_update_is_seen_in_transactions() -> None:
    """Without comparing, increments through ``transact`` are lost."""
    runs = [failures(LostUpdateStore, ["test_increments_are_exact"]) for _ in range(5)]
    assert any(runs)
