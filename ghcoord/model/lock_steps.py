"""What can happen to a lock: taken, entered again, renewed, let go, waited for, given up.

Each step is a pure function of the record and the hub's time, and says what it
changed; :mod:`ghcoord.coord.locks.records` writes that down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ghcoord.errors import LeaseLost, LockError, NotFound, NotOwner, UsageError
from ghcoord.model import lock as model
from ghcoord.model.codec import stamp
from ghcoord.model.lease import Judge
from ghcoord.model.lock import MAX_WAITERS, Ask, Grant, LockRecord, Mode, Waiter, lock_key
from ghcoord.model.lock_queue import offers, place_of, restamped, silent


@dataclass(frozen=True, slots=True)
class Step:
    """What a step leads to.

    ``grant`` is the one that it was about, as it is now; ``new`` says that it
    was just made.  ``ended`` and ``gone`` go with the kind of event that tells of them.
    """

    record: LockRecord
    grant: Grant | None = None
    new: bool = False
    queued: Waiter | None = None
    ended: tuple[tuple[str, Grant], ...] = ()
    gone: tuple[tuple[str, Waiter], ...] = ()


def sweep(record: LockRecord, judge: Judge, now: float) -> Step:
    """Without the grants that ``judge`` calls expired and the waiters whose time is over; then others get offers."""
    expired = {g.token for g in record.grants if judge(lock_key(record.name, g.token), g.lease, now)}
    return _ended(record, lambda grant: grant.token in expired, "lock expired", now)


def _ended(record: LockRecord, which: Callable[[Grant], bool], kind: str, now: float) -> Step:
    """Without the grants that ``which`` is true of and the waiters whose time is over."""
    ended = [grant for grant in record.grants if which(grant)]
    late = [waiter for waiter in record.waiters if waiter.deadline.timestamp() < now]
    if not ended and not late:
        return Step(record)
    return Step(
        restamped(_without(record, [grant.token for grant in ended], [waiter.id for waiter in late]), now),
        ended=tuple((kind, grant) for grant in ended),
        gone=tuple(("lock wait over", waiter) for waiter in late),
    )


def _without(record: LockRecord, tokens: Iterable[int], waiters: Iterable[str]) -> LockRecord:
    tokens, waiters = set(tokens), set(waiters)
    return record.model_copy(
        update={
            "grants": tuple(grant for grant in record.grants if grant.token not in tokens),
            "waiters": tuple(waiter for waiter in record.waiters if waiter.id not in waiters),
        }
    )


def acquire(
    present: LockRecord | None,
    name: str,
    ask: Ask,
    judge: Judge,
    *,
    now: float,
    revision: int,
    waiter: Waiter | None = None,
) -> Step | None:
    """Take the lock, or with ``waiter`` stand in the queue for it; ``None`` when nothing is to be changed.

    Who stands in the queue takes it when it is offered, past those who stayed
    silent; who does not, only when nobody else is still to choose.  Raises
    ``UsageError`` when the lock is in use with another number of permits.
    """
    before = present if present is not None else LockRecord(name=name)
    swept = sweep(before, judge, now)
    record = swept.record
    if record.unused:
        record = record.model_copy(update={"permits": ask.permits})
    elif record.permits != ask.permits:
        raise UsageError(
            f"the lock {name!r} is in use with {_permits(record.permits)}, not {_permits(ask.permits)}: "
            "all must name the same number"
        )
    place = place_of(record, waiter.id) if waiter is not None else None
    times = offers(record, now, ask.mode if place is None else None)
    at = len(record.waiters) if place is None else place
    if times[at] <= now:
        made = model.grant(ask, now=now, revision=revision, waiter=waiter.id if waiter is not None else None)
        passed = silent(record, times, now, at)
        own = {record.waiters[place].id} if place is not None else set()
        rest = _without(record, (), passed | own)
        return replace(
            swept,
            record=restamped(rest.model_copy(update={"grants": (*rest.grants, made), "latest": made.token}), now),
            grant=made,
            new=True,
            gone=(*swept.gone, *(("lock waiter passed over", w) for w in record.waiters if w.id in passed)),
        )
    if waiter is not None and place is None:
        if len(record.waiters) >= MAX_WAITERS:
            raise LockError(f"{MAX_WAITERS} wait for the lock {name!r} already: try again later", code="LOCK_CROWDED")
        return replace(
            swept,
            record=restamped(record.model_copy(update={"waiters": (*record.waiters, waiter)}), now),
            queued=waiter,
        )
    # Who only asks leaves the tidying to those who get in: writes are scarce.
    tidy = restamped(record, now)
    return replace(swept, record=tidy) if waiter is not None and tidy != before else None


def _permits(number: int) -> str:
    return f"{number} permits" if number > 1 else "one holder at a time"


def enter(
    present: LockRecord | None, name: str, owner: str, token: int, ttl: float | None, *, now: float, revision: int
) -> Step:
    """The holder comes in once more, under the same token; its lease begins anew and never gets shorter.

    Raises ``LeaseLost`` or ``NotOwner``.
    """
    grant = holder(present.grants if present is not None else (), name, owner, token)
    return _replaced(present, entered(grant, ttl, now=now, revision=revision))


def entered(grant: Grant, ttl: float | None, *, now: float, revision: int) -> Grant:
    """``grant`` once more, its lease begun anew and at least as long as it was."""
    again = renewed(grant, max(grant.ttl, ttl or 0.0), now=now, revision=revision)
    return again.model_copy(update={"depth": grant.depth + 1})


def stepped_out(grant: Grant) -> Grant:
    """``grant`` once less."""
    return grant.model_copy(update={"depth": grant.depth - 1})


def renewed(grant: Grant, ttl: float | None, *, now: float, revision: int) -> Grant:
    """``grant`` with its lease begun anew."""
    return grant.model_copy(
        update={"renewed_at": stamp(now), "renewal": revision, "ttl": grant.ttl if ttl is None else ttl}
    )


def renew(
    present: LockRecord | None,
    name: str,
    owner: str,
    token: int | None,
    ttl: float | None,
    *,
    now: float,
    revision: int,
) -> Step:
    """The lease of a grant begun anew.

    An expired lease that nobody has taken over may still be renewed: the grant is the same.
    Raises ``NotFound``, ``NotOwner`` or ``LeaseLost``.
    """
    grant = holder(present.grants if present is not None else (), name, owner, token)
    return _replaced(present, renewed(grant, ttl, now=now, revision=revision))


def _replaced(present: LockRecord | None, grant: Grant) -> Step:
    assert present is not None
    grants = tuple(grant if one.token == grant.token else one for one in present.grants)
    return Step(present.model_copy(update={"grants": grants}), grant=grant)


def release(present: LockRecord | None, name: str, owner: str, token: int | None, *, whole: bool, now: float) -> Step:
    """The holder goes out once; at the last time, or with ``whole``, the grant ends.

    ``whole`` without a token ends all grants of the owner.  Raises ``NotFound``, ``NotOwner`` or ``LeaseLost``.
    """
    grants = present.grants if present is not None else ()
    if whole and token is None and any(grant.owner == owner for grant in grants):
        return end(present, lambda grant: grant.owner == owner, "lock released", now=now)
    grant = holder(grants, name, owner, token)
    if grant.depth > 1 and not whole:
        return _replaced(present, stepped_out(grant))
    return end(present, lambda one: one.token == grant.token, "lock released", now=now)


def end(present: LockRecord | None, which: Callable[[Grant], bool], kind: str, *, now: float) -> Step:
    """Without the grants that ``which`` is true of; ``kind`` is the event."""
    assert present is not None
    return _ended(present, which, kind, now)


def leave(present: LockRecord | None, waiter_id: str, *, now: float) -> Step | None:
    """A waiter goes, with the grant that it may have got and was never told of; ``None`` if there is neither."""
    if present is None:
        return None
    step = _ended(present, lambda grant: grant.waiter == waiter_id, "lock released", now)
    place = place_of(step.record, waiter_id)
    if place is None:
        return step if step.ended else None
    own = ("lock wait ended", step.record.waiters[place])
    return replace(step, record=restamped(_without(step.record, (), {waiter_id}), now), gone=(*step.gone, own))


def holder(grants: Iterable[Grant], name: str, owner: str, token: int | None) -> Grant:
    """The grant that ``owner`` holds, under ``token`` if it is given, else the reason why not."""
    held = list(grants)
    what = f"the lock {name!r}"
    if not held:
        if token is not None:
            raise LeaseLost(f"{what} is no longer held under token {token}: acquire it again")
        raise NotFound(f"{what} is not held by anyone")
    if token is not None:
        found = [grant for grant in held if grant.token == token]
        if not found:
            raise LeaseLost(f"{what} is now held under {_tokens(held)}, not {token}: acquire it again")
    else:
        found = [grant for grant in held if grant.owner == owner]
    if not found or found[0].owner != owner:
        whose = (found or held)[0].owner
        raise NotOwner(f"{what} is held by {whose!r}, not by {owner!r}")
    if len(found) > 1:
        raise UsageError(f"{owner!r} holds {what} {len(found)} times, under {_tokens(found)}: name the token")
    return found[0]


def _tokens(grants: list[Grant]) -> str:
    shown = ", ".join(str(grant.token) for grant in grants[:5])
    more = f" and {len(grants) - 5} more" if len(grants) > 5 else ""
    return f"token {shown}{more}" if len(grants) == 1 else f"the tokens {shown}{more}"


def check_entry(*, fair: bool, shared: bool, permits: int | None, wait: float, token: int | None, extra: bool) -> Mode:
    """The mode that was asked for; raises ``UsageError`` for what does not go together.

    ``extra`` says whether metadata was given.
    """
    if token is not None and (fair or shared or permits is not None or wait > 0 or extra):
        raise UsageError("with a token the lock is entered again as it is held: give nothing else but a ttl")
    if permits is not None and not 1 <= permits <= model.MAX_PERMITS:
        raise UsageError(f"{permits} permits are out of range: give 1 to {model.MAX_PERMITS:,}")
    if shared and permits is not None and permits > 1:
        raise UsageError("a lock is either shared or has permits: leave one of the two out")
    if fair and wait <= 0:
        raise UsageError("fair is about the order of those who wait: say how long to wait, too")
    if shared:
        return Mode.SHARED
    return Mode.PERMIT if permits is not None and permits > 1 else Mode.EXCLUSIVE
