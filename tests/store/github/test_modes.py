"""The github driver with each uncertain fact about GitHub the other way round: no promise may depend on one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import Conflict, OutcomeUnknown, StoreError, Unavailable
from ghcoord.store.base import Oid
from ghcoord.store.github.driver import GithubStore
from ghcoord.store.transact import Transactor
from ghcoord.testing.contract import HubUnderTest, StoreContract, in_threads
from ghcoord.testing.transact_contract import TransactContract, increment, value_of
from ghcoord.twin.switches import FLIPS, Switches, flipped
from tests.store.github.twins import MODES, TwinHub, twin_hub

WAYS = ["branch", "custom", "rest"]
LAGS = ["read_lag", "created_ref_404"]
"""Reads that trail: what the contracts read at once cannot be there yet, so these have tests of their own."""

ONE_WAY = {
    **dict.fromkeys(["stale_data_type", "stale_data_message", "stale_names_actual"], "branch"),
    **dict.fromkeys(["empty_commits", "absent_file_deletion_is_error", "pushes_count", "retry_after"], "branch"),
    **dict.fromkeys(["update_refs_opaque", "noop_update_compares", "ref_null_outside_heads"], "custom"),
    **dict.fromkeys(["stale_ref_message", "prefix_message", "exists_message"], "rest"),
}
"""The switches that only one way of writing meets, or none: then one is enough."""


def _cases() -> Iterator[tuple[str, str]]:
    for name in FLIPS:
        unused = name.startswith("contents_") or "secondary" in name or name.endswith("_count")
        for mode in WAYS:
            if name not in LAGS and mode == ONE_WAY.get(name, WAYS[0] if unused else mode):
                yield name, mode


CASES = list(_cases())


@pytest.mark.slow
@pytest.mark.parametrize(("flip", "mode"), CASES)
class TestFlipped(StoreContract, TransactContract):
    """Both contracts."""

    @pytest.fixture
    def hub(self, tmp_path: Path, mode: str, flip: str) -> HubUnderTest:
        self.flip = flip
        return twin_hub(tmp_path, mode, switches=dict(flipped())[flip]).under_test()

    def test_trailers(self, hub: HubUnderTest) -> None:
        """A server that sets dates itself cannot keep ours; who acted, the operations and the revision are there."""
        if self.flip == "commit_dates_free":
            store = hub.open()
            head = store.commit({"fleet": None}, {"fleet": {"a": b"1"}}, replace(hub.op(), actor="host:42"))["fleet"]
            assert "host:42" == hub.open().commit_info(head).author
        else:
            super().test_trailers(hub)


def lagging(folder: Path, mode: str, lag: str, seconds: float) -> TwinHub:
    """A hub whose reads trail."""
    switches = Switches(read_lag=seconds) if lag == "read_lag" else Switches(created_ref_404=seconds)
    return twin_hub(folder, mode, switches=switches)


@pytest.mark.slow
@pytest.mark.parametrize("lag", LAGS)
@pytest.mark.parametrize("mode", MODES)
def test_increments_with_reads_that_trail(tmp_path: Path, mode: str, lag: str) -> None:
    """Two handles that read old answers count exactly, each value once; only later than otherwise."""
    hub = lagging(tmp_path, mode, lag, 0.7)
    seen: list[int] = []

    def work() -> None:
        transactor = Transactor(hub.open(), SystemRuntime())
        for _ in range(5):
            seen.append(transactor.transact(["fleet"], increment, timeout=60))

    in_threads(work, work)
    assert list(range(1, 11)) == sorted(seen)
    hub.twin.switches = Switches()
    assert 10 == value_of(hub.open())


@pytest.mark.parametrize("lag", LAGS)
@pytest.mark.parametrize("mode", WAYS)
def test_what_is_said_with_reads_that_trail(tmp_path: Path, mode: str, lag: str) -> None:
    """Whatever the driver sees, a commit that it reports as made is made, one that it reports as lost is not."""
    hub = lagging(tmp_path, mode, lag, 30.0)
    one, two = hub.open(), hub.open()
    heads: dict[GithubStore, Oid | None] = {one: None, two: None}
    for number in range(12):
        store = (one, two)[number % 3 % 2]
        op = replace(hub.under_test().op(), ids=(f"op{number}",), revision=number + 1)
        before = hub.head("fleet")
        try:
            heads[store] = store.commit({"fleet": heads[store]}, {"fleet": {"n": b"%d" % number}}, op)["fleet"]
            assert heads[store] == hub.head("fleet")
        except (Conflict, Unavailable):
            assert before == hub.head("fleet")
        except OutcomeUnknown:
            assert before != heads[store], "a commit on the true head has a certain outcome"
        with suppress(StoreError):
            heads[store] = store.heads().get("fleet")


def test_every_switch_is_tried() -> None:
    """Each uncertain fact that the twin knows is flipped here, or is about time and has its own tests."""
    assert set(FLIPS) == {name for name, _ in CASES} | set(LAGS)
