"""Locks: what their transitions accept and refuse, and what an older record looks like."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ghcoord.errors import GhcoordError, LeaseLost, LockError, NotFound, NotOwner, UsageError
from ghcoord.model import lock as locks
from ghcoord.model import lock_steps as steps
from ghcoord.model.codec import decode, stamp
from ghcoord.model.lease import Lease, by_server_clock, never
from ghcoord.model.lock import MAX_WAITERS, Ask, Grant, LockRecord, Mode, Waiter
from ghcoord.model.lock_stats import IDLE_AFTER, LockStats, counted, with_holders

NOW = 1_700_000_000.0
ASK = Ask("a", 30.0, metadata={"why": "test"})


def grant(**changes: Any) -> Grant:
    return locks.grant(ASK, now=NOW, revision=5).model_copy(update=changes)


def held(*grants: Grant, permits: int = 1) -> LockRecord:
    return LockRecord(name="x", permits=permits, grants=grants or (grant(),))


def waiter(name: str, **changes: Any) -> Waiter:
    times = {"since": stamp(NOW), "deadline": stamp(NOW + 100)}
    return Waiter(**{"id": name, "owner": name, "poll": 1.0, **times, **changes})


def test_a_grant_takes_its_token_from_the_revision() -> None:
    """Token and renewal are the revision of the transaction, and the lease runs from now."""
    made = held().locks()[0]
    assert ("x", "a", 5, 5, {"why": "test"}) == (made.name, made.owner, made.token, made.renewal, made.metadata)
    assert (stamp(NOW), stamp(NOW + 30)) == (made.acquired_at, made.expires_at)
    assert Lease("a", 5, 5, 30.0, stamp(NOW)) == made.lease == grant().lease
    assert (Mode.EXCLUSIVE, 1, 1, ()) == (made.mode, made.permits, made.depth, made.paths)


def renew(record: LockRecord | None, owner: str, token: int | None, ttl: float | None = None) -> Grant:
    made = steps.renew(record, "x", owner, token, ttl, now=NOW + 10, revision=9).grant
    assert made is not None
    return made


def test_a_renewal_keeps_the_token() -> None:
    """Renewing moves the end and the renewal, nothing else; a new ttl counts from now."""
    renewed = renew(held(), "a", 5)
    assert (5, 9, stamp(NOW), stamp(NOW + 40)) == (
        renewed.token,
        renewed.renewal,
        renewed.acquired_at,
        renewed.lease.expires_at,
    )
    assert stamp(NOW + 110) == renew(held(), "a", None, 100.0).lease.expires_at


TWO = held(grant(mode=Mode.PERMIT), grant(owner="b", token=7, mode=Mode.PERMIT), permits=2)
SAME = held(grant(mode=Mode.SHARED), grant(token=7, mode=Mode.SHARED))


@pytest.mark.parametrize(
    ("record", "owner", "token", "error", "why"),
    [
        (None, "a", None, NotFound, "is not held by anyone"),
        (LockRecord(name="x"), "a", None, NotFound, "is not held by anyone"),
        (None, "a", 5, LeaseLost, "no longer held under token 5: acquire it again"),
        (held(), "b", None, NotOwner, "is held by 'a', not by 'b'"),
        (held(), "b", 5, NotOwner, "is held by 'a', not by 'b'"),
        (held(), "a", 4, LeaseLost, "now held under token 5, not 4"),
        (held(grant(owner="b", token=8)), "a", 5, LeaseLost, "now held under token 8, not 5"),
        (TWO, "a", 6, LeaseLost, "now held under the tokens 5, 7, not 6"),
        (TWO, "a", 7, NotOwner, "is held by 'b', not by 'a'"),
        (TWO, "c", None, NotOwner, "is held by 'a', not by 'c'"),
        (SAME, "a", None, UsageError, "'a' holds the lock 'x' 2 times, under the tokens 5, 7: name the token"),
    ],
)
def test_only_the_holder_renews_and_releases(
    record: LockRecord | None, owner: str, token: int | None, error: type[GhcoordError], why: str
) -> None:
    """Who held a lock and lost it is told so, also when another owner has it now; a stranger is told whose it is."""
    with pytest.raises(error, match=why):
        renew(record, owner, token)
    with pytest.raises(error, match=why):
        steps.release(record, "x", owner, token, whole=False, now=NOW)


@pytest.mark.parametrize("token", [None, 5])
def test_the_holder_releases_with_or_without_its_token(token: int | None) -> None:
    """The token is optional; a matching one is accepted; of several grants just that one ends."""
    step = steps.release(held(), "x", "a", token, whole=False, now=NOW)
    assert ((("lock released", grant()),), True) == (step.ended, step.record.unused)
    left = steps.release(TWO, "x", "a", token, whole=False, now=NOW).record
    assert [7] == [one.token for one in left.grants]


def test_the_holder_enters_and_leaves_by_token() -> None:
    """Each entry is one more release; the token stays, the lease begins anew and is never cut; no stranger enters."""
    step = steps.enter(held(), "x", "a", 5, 10.0, now=NOW + 20, revision=9)
    assert step.grant is not None
    assert (5, 2, 9, stamp(NOW + 50)) == (
        step.grant.token,
        step.grant.depth,
        step.grant.renewal,
        step.grant.lease.expires_at,
    )
    once = steps.release(step.record, "x", "a", 5, whole=False, now=NOW)
    assert once.grant is not None
    assert (1, ()) == (once.grant.depth, once.ended)
    assert steps.release(once.record, "x", "a", 5, whole=False, now=NOW).record.unused
    assert steps.release(step.record, "x", "a", 5, whole=True, now=NOW).record.unused
    assert steps.release(SAME, "x", "a", None, whole=True, now=NOW).record.unused
    for owner, token, error in (("b", 5, NotOwner), ("a", 4, LeaseLost)):
        with pytest.raises(error):
            steps.enter(held(), "x", owner, token, None, now=NOW, revision=9)
    with pytest.raises(LeaseLost):
        steps.enter(None, "x", "a", 5, None, now=NOW, revision=9)


def acquire(record: LockRecord | None, ask: Ask = ASK, at: float = 0.0, **more: Any) -> steps.Step | None:
    return steps.acquire(record, "x", ask, by_server_clock(0.0), now=NOW + at, revision=99, **more)


@pytest.mark.parametrize(
    ("present", "mode", "room"),
    [
        ([], Mode.EXCLUSIVE, True),
        ([Mode.EXCLUSIVE], Mode.EXCLUSIVE, False),
        ([Mode.EXCLUSIVE], Mode.SHARED, False),
        ([Mode.SHARED], Mode.EXCLUSIVE, False),
        ([Mode.SHARED, Mode.SHARED], Mode.SHARED, True),
    ],
)
def test_readers_share_and_nobody_else(present: list[Mode], mode: Mode, room: bool) -> None:
    """Room for one more is there only among readers."""
    record = LockRecord(name="x", grants=tuple(grant(token=n + 1, mode=one) for n, one in enumerate(present)))
    assert room is (acquire(record, replace(ASK, mode=mode)) is not None)


def test_permits_are_counted_and_all_name_the_same_number() -> None:
    """As many as there are permits get in; another number is refused while it is in use, not afterwards."""
    ask = Ask("c", 30.0, Mode.PERMIT, 3)
    with pytest.raises(UsageError, match="in use with 2 permits, not 3 permits: all must name the same number"):
        acquire(TWO, ask)
    with pytest.raises(UsageError, match="in use with 2 permits, not one holder at a time"):
        acquire(TWO)
    with pytest.raises(UsageError, match="in use with one holder at a time, not 3 permits"):
        acquire(held(), ask)
    assert None is acquire(TWO, replace(ask, permits=2))
    first = acquire(TWO, ask, at=31)
    assert first is not None
    assert (3, ["lock expired"] * 2, [99]) == (
        first.record.permits,
        [kind for kind, _ in first.ended],
        [one.token for one in first.record.grants],
    )
    assert 99 == first.record.latest


def test_a_queue_is_bounded() -> None:
    """Beyond so many waiters the next is refused, and told why."""
    full = held().model_copy(update={"waiters": tuple(waiter(f"w{n}") for n in range(MAX_WAITERS))})
    with pytest.raises(LockError, match="1000 wait for the lock 'x' already") as caught:
        acquire(full, waiter=waiter("late"))
    assert "LOCK_CROWDED" == caught.value.code


def test_who_leaves_takes_a_grant_with_it_that_it_was_never_told_of() -> None:
    """The queue entry goes, or the grant that a lost reply had made; of strangers nothing."""
    queued = held().model_copy(update={"waiters": (waiter("w"), waiter("v"))})
    step = steps.leave(queued, "w", now=NOW)
    assert step is not None
    assert (["v"], ["w"], 1) == (
        [one.id for one in step.record.waiters],
        [one.id for _, one in step.gone],
        len(step.record.grants),
    )
    told = steps.leave(held(grant(waiter="w")), "w", now=NOW)
    assert told is not None
    assert told.record.unused
    assert None is steps.leave(queued, "u", now=NOW)
    assert None is steps.leave(None, "w", now=NOW)


FLAT = {
    "format": 1,
    "name": "x",
    "owner": "a",
    "token": 5,
    "ttl": 30.0,
    "acquired_at": "2023-11-14T22:13:20Z",
    "renewed_at": "2023-11-14T22:13:20Z",
    "renewal": 5,
    "metadata": {"why": "test"},
    "note": "by a person",
}


def test_a_record_of_the_first_version_is_read() -> None:
    """One flat grant a file, as it was written before there were several; a person's keys stay."""
    record = decode(LockRecord, json.dumps(FLAT).encode(), "p")
    assert (held().locks(), 5) == (record.locks(), record.latest)
    assert {"note": "by a person"} == record.model_extra
    assert None is steps.acquire(record, "x", Ask("b", 1.0), never, now=NOW, revision=9)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"fair": True}, "how long to wait"),
        ({"shared": True, "permits": 2}, "either shared or has permits"),
        ({"permits": 0}, "out of range: give 1 to 1,000"),
        ({"permits": 1001}, "out of range"),
        ({"token": 5, "shared": True}, "nothing else but a ttl"),
        ({"token": 5, "wait": 1.0}, "nothing else but a ttl"),
        ({"token": 5, "extra": True}, "nothing else but a ttl"),
    ],
)
def test_what_does_not_go_together_is_refused(how: dict[str, Any], why: str) -> None:
    """Each pair of options that could only be ignored is an error that says so."""
    usual = {"fair": False, "shared": False, "permits": None, "wait": 0.0, "token": None, "extra": False}
    with pytest.raises(UsageError, match=why):
        steps.check_entry(**{**usual, **how})


def test_figures_add_up() -> None:
    """Ended grants are counted with their times, waiters who left too; present holders are shown with them."""
    one = counted(None, "x", [(grant(waited=2.5), False)], 0, now=NOW + 10)
    two = counted(one, "x", [(grant(owner="b"), True)], 3, now=NOW + 100)
    shown = with_holders(two, held(grant(owner="c", waited=4.0)))
    assert shown is not None
    assert (3, 2, 1, 3, "c") == (shown.acquisitions, shown.contended, shown.expired, shown.left, shown.last_owner)
    assert (40.0, 30.0, 6.5, 4.0) == (shown.held_total, shown.held_max, shown.waited_total, shown.waited_max)
    assert [False, True] == [two.idle(NOW + 100 + IDLE_AFTER + at) for at in (0.0, 0.1)]
    assert None is with_holders(None, LockRecord(name="x"))
    assert isinstance(with_holders(None, held()), LockStats)
