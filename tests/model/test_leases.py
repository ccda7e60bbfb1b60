"""Locks, workers and memory: what their transitions accept and refuse."""

from __future__ import annotations

from typing import Any

import pytest

from ghcoord.errors import FenceRefused, RevisionMismatch, UsageError, WorkerReplaced
from ghcoord.model import lock as locks
from ghcoord.model import memory
from ghcoord.model import worker as workers
from ghcoord.model.codec import stamp
from ghcoord.model.lease import GIVE_UP_AT, MAX_TTL, MIN_TTL, RENEW_AT, Lease, by_server_clock, check_ttl, never
from ghcoord.model.lock import Ask, Grant, LockRecord
from ghcoord.model.memory import Fence, MemoryEntry
from ghcoord.model.worker import Capacity, Worker, WorkerStatus

NOW = 1_700_000_000.0


def grant(**changes: Any) -> Grant:
    return locks.grant(Ask("a", 30.0), now=NOW, revision=5).model_copy(update=changes)


def held(*grants: Grant, latest: int = 5) -> LockRecord:
    return LockRecord(name="x", grants=grants or (grant(),), latest=latest)


def test_the_server_clock_judges_after_ttl_and_margin() -> None:
    """A lease is over only beyond ttl + margin; a judge without a clock never says so."""
    expired = by_server_clock(2.0)
    assert [False, False, True] == [expired("k", grant().lease, NOW + at) for at in (29.9, 32.0, 32.001)]
    assert not never("k", grant().lease, NOW + 1e9)


def test_an_owner_gives_up_before_others_may_take_over() -> None:
    """The ratios leave room: renew, give up, and only then the end of the ttl."""
    assert 0 < RENEW_AT < GIVE_UP_AT < 1
    assert GIVE_UP_AT - RENEW_AT >= RENEW_AT, "two tries between the first renewal and giving up"


@pytest.mark.parametrize("ttl", [0, -1, MIN_TTL - 0.01, MAX_TTL + 1, float("nan"), float("inf")])
def test_a_ttl_out_of_range_is_refused(ttl: float) -> None:
    """Too short, too long and no number at all."""
    with pytest.raises(UsageError, match="out of range"):
        check_ttl(ttl)
    assert MIN_TTL == check_ttl(MIN_TTL)
    assert MAX_TTL == check_ttl(MAX_TTL)


def worker(**changes: Any) -> Worker:
    return Worker(
        **{
            "id": "w",
            "token": 5,
            "registered_at": stamp(NOW),
            "last_heartbeat": stamp(NOW),
            "renewal": 5,
            "ttl": 15.0,
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("present", "why", "code"),
    [
        (None, "no longer registered", "WORKER_REPLACED"),
        (worker(token=6), "a newer registration", workers.REPLACED),
        (worker(status=WorkerStatus.OFFLINE), "declared offline", "WORKER_REPLACED"),
        (worker(token=6, status=WorkerStatus.OFFLINE), "a newer registration", workers.REPLACED),
    ],
)
def test_a_registration_knows_when_it_is_over(present: Worker | None, why: str, code: str) -> None:
    """Gone, replaced and offline are told apart: only a replaced process must stop for good."""
    with pytest.raises(WorkerReplaced, match=why) as caught:
        workers.current(present, "w", 5)
    assert ("w", code) == (caught.value.worker_id, caught.value.code)


@pytest.mark.parametrize("status", [s for s in WorkerStatus if s is not WorkerStatus.OFFLINE])
def test_a_present_registration_is_current(status: WorkerStatus) -> None:
    """Every status besides offline is alive."""
    one = worker(status=status)
    assert one is workers.current(one, "w", 5)


def test_a_heartbeat_renews() -> None:
    """Time and renewal move, the token stays, other fields only as asked."""
    beat = workers.heartbeat(worker(), now=NOW + 9, revision=11, active_sessions=2)
    assert (stamp(NOW + 9), 11, 5, 2) == (beat.last_heartbeat, beat.renewal, beat.token, beat.active_sessions)
    assert Lease("w", 5, 11, 15.0, stamp(NOW + 9)) == beat.lease


def test_free_slots_are_never_negative() -> None:
    """More running than allowed, after a reduction, leaves none free."""
    assert [3, 0, 0] == [Capacity(max_tasks=4, active_tasks=n).available_slots for n in (1, 4, 9)]


def entry(**changes: Any) -> MemoryEntry:
    return MemoryEntry(**{"key": "k", "value": 1, "revision": 7, "updated_at": stamp(NOW), **changes})


@pytest.mark.parametrize(("present", "expected"), [(entry(), None), (entry(), 7), (None, None), (None, 0)])
def test_a_matching_revision_passes(present: MemoryEntry | None, expected: int | None) -> None:
    """No condition, the present revision, or zero for what is not set."""
    memory.check_revision(present, "k", expected)


@pytest.mark.parametrize(
    ("present", "expected", "why"),
    [
        (entry(), 6, "'k' is at revision 7, not at revision 6"),
        (entry(), 0, "'k' is at revision 7, not unset"),
        (None, 7, "'k' is not set, not at revision 7"),
    ],
)
def test_another_revision_is_a_mismatch(present: MemoryEntry | None, expected: int, why: str) -> None:
    """The error has both numbers, for the caller's next try."""
    with pytest.raises(RevisionMismatch, match=why) as caught:
        memory.check_revision(present, "k", expected)
    assert (expected, 7 if present else 0) == (caught.value.expected, caught.value.actual)


def test_a_ttl_ends_a_value() -> None:
    """At the end of its ttl, not before; without one, never."""
    assert [False, True] == [entry(ttl=10.0).expired(NOW + at) for at in (9.999, 10.0)]
    assert (None, False) == (entry().expires_at, entry().expired(NOW * 2))


BOTH = held(grant(), grant(owner="b", token=9), latest=9)
"""Two permits, or two readers."""


@pytest.mark.parametrize(
    ("lock", "seen", "token", "why"),
    [
        (None, None, 5, "is not held"),
        (LockRecord(name="x"), None, 5, "is not held"),
        (held(), None, 4, "held by 'a' under token 5, not 4"),
        (held(), None, 6, "under token 5, not 6"),
        (held(), Fence(lock="x", token=6), 5, "higher token 6"),
        (BOTH, None, 6, "held by 'a' under token 5, 'b' under token 9, not 6"),
        (BOTH, Fence(lock="x", token=10), 9, "higher token 10"),
    ],
)
def test_a_fence_refuses(lock: LockRecord | None, seen: Fence | None, token: int, why: str) -> None:
    """Only a present grant's exact token passes, and none once a later state of the lock was seen."""
    with pytest.raises(FenceRefused, match=why):
        memory.check_fence(lock, seen, "x", token)


@pytest.mark.parametrize("seen", [None, Fence(lock="x", token=5), Fence(lock="x", token=4)])
def test_a_fence_lets_the_holder_write(seen: Fence | None) -> None:
    """The holder passes, for the first time and again."""
    memory.check_fence(held(), seen, "x", 5)


@pytest.mark.parametrize("token", [5, 9])
def test_a_fence_lets_every_holder_of_several_write(token: int) -> None:
    """Also the one with the older token, after the other has written, even after the other has let go."""
    memory.check_fence(BOTH, Fence(lock="x", token=9), "x", token)
    memory.check_fence(held(latest=9), Fence(lock="x", token=9), "x", 5)
