"""The queue of a lock: whose turn it is, and when the next may step over one who is silent."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from ghcoord.model.codec import stamp
from ghcoord.model.lease import by_server_clock
from ghcoord.model.lock import Ask, Grant, LockRecord, Mode, Waiter
from ghcoord.model.lock import grant as make_grant
from ghcoord.model.lock_queue import offers, restamped
from ghcoord.model.lock_steps import Step, acquire, release, sweep

NOW = 1_700_000_000.0
ALONE, READ, PERMIT = Mode.EXCLUSIVE, Mode.SHARED, Mode.PERMIT


def grant(mode: Mode = ALONE, token: int = 5) -> Grant:
    return make_grant(Ask("a", 30.0, mode), now=NOW, revision=token)


def waiter(name: str, mode: Mode = ALONE, **changes: Any) -> Waiter:
    times = {"since": stamp(NOW - 9), "deadline": stamp(NOW + 1000)}
    return Waiter(**{"id": name, "owner": name, "mode": mode, "poll": 1.0, **times, **changes})


def queue(*waiters: Waiter, grants: tuple[Grant, ...] = (), permits: int = 1) -> LockRecord:
    return restamped(LockRecord(name="x", permits=permits, grants=grants, waiters=waiters), NOW)


def after(record: LockRecord, newcomer: Mode | None = None) -> list[float]:
    """When each may take the lock, in seconds from now."""
    return [round(at - NOW, 6) for at in offers(record, NOW, newcomer)]


def test_a_free_lock_is_the_heads_for_two_polls_each() -> None:
    """Position p may take it after 2·p poll intervals, a newcomer after all of them; each by its own interval."""
    assert [0, 2, 4, 6] == after(queue(waiter("a"), waiter("b"), waiter("c")), ALONE)
    assert [0, 10, 11] == after(queue(waiter("a", poll=5.0), waiter("b", poll=0.5)), ALONE)
    assert [-inf] == after(queue(), ALONE)


def test_a_held_lock_is_nobodys() -> None:
    """While somebody holds it there is no offer, however long the queue."""
    assert [inf, inf, inf] == after(queue(waiter("a"), waiter("b"), grants=(grant(),)), ALONE)


def test_permits_are_offered_to_as_many_as_there_are() -> None:
    """Two of three permits free: two waiters at once, the third when one of them stays silent."""
    three = [waiter(name, PERMIT) for name in "abcd"]
    assert [0, 0, 2, 2, 4] == after(queue(*three, grants=(grant(PERMIT),), permits=3), PERMIT)
    assert [-inf] == after(queue(grants=(grant(PERMIT),), permits=3), PERMIT)


def test_readers_come_together_but_not_past_a_writer() -> None:
    """Neighbouring readers are offered the lock at once; one behind a writer waits for it, whoever reads now."""
    mixed = [waiter("r1", READ), waiter("r2", READ), waiter("w"), waiter("r3", READ)]
    assert [0, 0, 2, 4, 4] == after(queue(*mixed), READ)
    assert [inf, inf] == after(queue(waiter("w"), waiter("r", READ), grants=(grant(READ),)))
    assert [0, inf, inf] == after(queue(waiter("r", READ), waiter("w"), waiter("s", READ), grants=(grant(READ),)))


def test_an_offer_keeps_its_time() -> None:
    """What happens elsewhere in the queue does not begin it anew; an offer that ends is forgotten."""
    three = [waiter(name, PERMIT) for name in "abc"]
    first = queue(*three, grants=(grant(PERMIT), grant(PERMIT, 6)), permits=3)
    assert [True, False, False] == [one.offered_at is not None for one in first.waiters]
    later = restamped(first.model_copy(update={"grants": first.grants[:1]}), NOW + 5)
    assert [stamp(NOW), stamp(NOW + 5), None] == [one.offered_at for one in later.waiters]
    full = restamped(first.model_copy(update={"grants": (*first.grants, grant(PERMIT, 7))}), NOW + 6)
    assert [None] * 3 == [one.offered_at for one in full.waiters]


def test_a_time_from_the_future_blocks_nobody() -> None:
    """A clock that was set back, or a person, left it: the head may go, and the next commit sets it right."""
    record = LockRecord(name="x", waiters=(waiter("a", offered_at=stamp(NOW + 9999)), waiter("b")))
    assert [0, 2] == after(record)
    assert stamp(NOW) == restamped(record, NOW).waiters[0].offered_at
    without = LockRecord(name="x", waiters=(waiter("a"), waiter("b")))
    assert [-9, -7] == after(without), "without a time it counts from when it came"


def take(record: LockRecord, name: str | None, at: float, mode: Mode = ALONE) -> Step | None:
    own = next((one for one in record.waiters if one.id == name), None)
    ask = Ask(name or "new", 30.0, mode, record.permits)
    return acquire(record, "x", ask, by_server_clock(0.0), now=NOW + at, revision=99, waiter=own)


@pytest.mark.parametrize(
    ("who", "at", "taken", "passed"),
    [
        ("a", 0.0, True, []),
        ("b", 1.99, False, []),
        ("b", 2.0, True, ["a"]),
        ("c", 3.99, False, []),
        ("c", 4.0, True, ["a", "b"]),
        (None, 5.99, False, []),
        (None, 6.0, True, ["a", "b", "c"]),
        ("a", 60.0, True, []),
    ],
)
def test_only_the_silent_are_stepped_over(who: str | None, at: float, taken: bool, passed: list[str]) -> None:
    """The one whose turn it is gets the lock, and those it stepped over lose their place; the others keep theirs."""
    record = queue(waiter("a"), waiter("b"), waiter("c"))
    step = take(record, who, at)
    assert taken is (step is not None and step.new)
    if step is not None:
        assert passed == [one.id for _, one in step.gone]
        rest = [one.id for one in record.waiters if one.id not in (*passed, who)]
        assert rest == [one.id for one in step.record.waiters]
        assert [None] * len(rest) == [one.offered_at for one in step.record.waiters]


def test_a_lease_that_is_over_makes_an_offer_not_a_gap() -> None:
    """The second in line may end a dead holder's lease, but the first has its two polls before it may take the lock."""
    record = queue(waiter("a"), waiter("b"), grants=(grant(),))
    swept = take(record, "b", 31.0)
    assert swept is not None
    assert (False, ["lock expired"], [stamp(NOW + 31), None]) == (
        swept.new,
        [kind for kind, _ in swept.ended],
        [one.offered_at for one in swept.record.waiters],
    )
    first = take(record, "a", 31.0)
    assert first is not None
    assert first.new
    assert None is take(record, "b", 29.0)


def test_late_waiters_are_swept_and_the_next_gets_the_offer() -> None:
    """One whose time is over is ignored from then on."""
    record = queue(waiter("a", deadline=stamp(NOW + 1)), waiter("b"))
    assert record == sweep(record, by_server_clock(0.0), NOW + 1).record
    step = sweep(record, by_server_clock(0.0), NOW + 1.1)
    assert (["b"], ["lock wait over"]) == ([one.id for one in step.record.waiters], [kind for kind, _ in step.gone])
    assert stamp(NOW + 1.1) == step.record.waiters[0].offered_at


def test_the_same_owner_stands_as_often_as_it_asks() -> None:
    """Two processes of one owner are two entries; one that is there already is not entered twice."""
    record = queue(waiter("p1", owner="me"), grants=(grant(),))
    second = acquire(
        record, "x", Ask("me", 30.0), by_server_clock(0.0), now=NOW, revision=99, waiter=waiter("p2", owner="me")
    )
    assert second is not None
    assert ["p1", "p2"] == [one.id for one in second.record.waiters]
    assert None is take(second.record, "p2", 1.0)


def test_a_release_makes_the_offer() -> None:
    """From the commit that frees the lock the head's time runs."""
    record = queue(waiter("a"), waiter("b"), grants=(grant(),))
    freed = release(record, "x", "a", 5, whole=False, now=NOW + 7).record
    assert [stamp(NOW + 7), None] == [one.offered_at for one in freed.waiters]
    assert [7, 9] == [round(at - NOW, 6) for at in offers(freed, NOW + 8)]
