"""Locks with names against a model in plain Python: any order of commands, on both stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from ghcoord.coord.locks.waiting import Pursuit
from ghcoord.errors import FenceRefused, LeaseLost, NotFound, NotOwner, UsageError
from ghcoord.model.lock import Lock
from tests.coord.test_machines import MARGIN, Machine, on_disk, run

POLL = 1.0
"""Poll interval of both stores, in seconds."""

NO_ROUND_NUMBER = 0.003
"""Seconds that each pause takes more, so that no time is exactly the end of anything (within a hundred pauses)."""

OWNERS = st.sampled_from(["a", "b", "c"])
PERMITS = {"x": 1, "s": 2}
"""A lock, held alone or shared, and a semaphore."""

NAMES = st.sampled_from(sorted(PERMITS))
TTLS = st.sampled_from([2.0, 20.0, 300.0])


@dataclass
class Held:
    owner: str
    token: int
    mode: str
    ttl: float
    since: float
    depth: int = 1
    patterns: frozenset[str] = frozenset()


@dataclass(eq=False)
class Waiting:
    """One in the queue, and the command that waits there."""

    owner: str
    mode: str
    pursuit: Pursuit
    until: float
    """When its wait ends."""
    deadline: float = 0.0
    offered: float | None = None
    came: int = 0
    noticed: bool = False
    """Whether it saw an expired lease at its last look."""


@dataclass
class Name:
    """The model of one lock: who holds it and who waits, first come first."""

    permits: int
    grants: list[Held] = field(default_factory=list)
    queue: list[Waiting] = field(default_factory=list)

    def room(self, mode: str, inside: list[str]) -> bool:
        if self.permits > 1:
            return len(inside) < self.permits
        return not inside or (mode == "shared" and set(inside) == {"shared"})

    def offer(self, now: float) -> None:
        """Whoever finds room counting all before it is offered the lock, from now on if it was not."""
        inside = [held.mode for held in self.grants]
        open_ = True
        for one in self.queue:
            open_ = open_ and self.room(one.mode, inside)
            inside.append(one.mode)
            one.offered = (now if one.offered is None else one.offered) if open_ else None

    def turns(self, newcomer: str = "") -> list[float]:
        """When each waiter may take it: the first time at which there is room beside those who have not been silent."""
        times: list[tuple[str, float]] = []
        asking = [(one.mode, one.offered) for one in self.queue] + ([(newcomer, None)] if newcomer else [])
        at = -inf
        for mode, offered in asking:
            tries = sorted({at, *(begin + 2 * POLL for _, begin in times)})
            if offered is not None:
                tries = sorted({max(at, offered), *tries})
            for moment in tries:
                inside = [held.mode for held in self.grants]
                inside += [other for other, begin in times if begin <= moment < begin + 2 * POLL]
                if moment >= (at if offered is None else max(at, offered)) and self.room(mode, inside):
                    at = moment
                    break
            else:
                at = inf
            times.append((mode, at))
        return [begin for _, begin in times]

    def drop_late(self, now: float) -> int:
        late = [one for one in self.queue if one.deadline < now]
        self.queue = [one for one in self.queue if one not in late]
        if late:
            self.offer(now)
        return len(late)

    def seen(self, now: float, over: Callable[[Held], bool]) -> Name:
        """As it would be without what is over: a copy, since looking changes nothing."""
        grants = [held for held in self.grants if not over(held)]
        view = Name(self.permits, grants, [replace(one) for one in self.queue if one.deadline >= now])
        if (len(view.grants), len(view.queue)) != (len(self.grants), len(self.queue)):
            view.offer(now)
        return view

    def place(self, wanted: Waiting) -> int | None:
        return next((at for at, one in enumerate(self.queue) if one.pursuit is wanted.pursuit), None)


def found(grants: list[Held], owner: str, token: int | None) -> Held | type[Exception]:
    """The grant that is meant, or the error."""
    if not grants:
        return NotFound if token is None else LeaseLost
    if token is not None:
        (held,) = [one for one in grants if one.token == token] or [None]
        if held is None:
            return LeaseLost
        return held if held.owner == owner else NotOwner
    own = [one for one in grants if one.owner == owner]
    if len(own) > 1:
        return UsageError
    return own[0] if own else NotOwner


class LockMachine(Machine):
    """Three owners, two locks with queues; everybody knows the tokens that were given lately."""

    def __init__(self) -> None:
        super().__init__()
        self.names = {name: Name(permits) for name, permits in PERMITS.items()}
        self.waits: dict[str, list[Waiting]] = {name: [] for name in PERMITS}
        self.given: list[int] = [1]
        self.written: dict[str, int] = {}
        self.highest = 0
        self.taken = dict.fromkeys(PERMITS, 0)
        self.left = dict.fromkeys(PERMITS, 0)

    @initialize(name=NAMES, holder=OWNERS, waiting=st.lists(st.tuples(OWNERS, st.booleans()), min_size=1, max_size=4))
    def crowd(self, name: str, holder: str, waiting: list[tuple[str, bool]]) -> None:
        """It begins with a holder and a queue."""
        self.acquire(name, holder, 20.0, shared=False)
        for owner, shared in waiting:
            self.begin(name, owner, shared, 300.0)

    def over(self, held: Held) -> bool:
        return self.now > held.since + held.ttl + MARGIN[self.where]

    def how(self, name: str, shared: bool) -> tuple[str, dict[str, Any]]:
        """The mode's name, and the arguments that ask for it."""
        if PERMITS[name] > 1:
            return "permit", {"permits": PERMITS[name]}
        return ("shared", {"shared": True}) if shared else ("exclusive", {})

    def sweep(self, name: str) -> None:
        lock = self.names[name]
        gone = [held for held in lock.grants if self.over(held)]
        lock.grants = [held for held in lock.grants if held not in gone]
        if gone:
            lock.offer(self.now)
        self.left[name] += lock.drop_late(self.now)

    def granted(self, lock: Lock, mode: str, ttl: float) -> Held:
        assert lock.token > self.highest, "tokens strictly increase"
        self.highest = lock.token
        self.given.append(lock.token)
        assert mode == lock.mode
        return Held(lock.owner, lock.token, mode, ttl, self.now)

    def take(self, name: str, at: int, got: Lock, mode: str, ttl: float) -> None:
        """Place ``at`` of the queue, or who comes after it, is in: past all who were silent."""
        lock = self.names[name]
        times = lock.turns()
        silent = [one for one, begin in zip(lock.queue[:at], times, strict=False) if begin + 2 * POLL <= self.now]
        self.left[name] += len(silent)
        own = lock.queue[at : at + 1]
        lock.queue = [one for one in lock.queue if one not in silent and one not in own]
        lock.grants.append(self.granted(got, mode, ttl))
        self.taken[name] += 1
        lock.offer(self.now)

    # -- asking

    @rule(name=NAMES, owner=OWNERS, ttl=TTLS, shared=st.booleans())
    def acquire(self, name: str, owner: str, ttl: float, shared: bool) -> None:
        """Whoever does not queue gets in only where nobody else may still choose."""
        mode, how = self.how(name, shared)
        got = self.hubs[owner].locks.acquire(name, ttl=ttl, **how)
        free = self.names[name].seen(self.now, self.over).turns(mode)[-1] <= self.now
        assert free is (got is not None)
        if got is None:
            return
        self.sweep(name)
        self.take(name, len(self.names[name].queue), got, mode, ttl)

    @rule(name=NAMES, owner=OWNERS, shared=st.booleans(), wait=st.sampled_from([6.0, 300.0]))
    def begin(self, name: str, owner: str, shared: bool, wait: float) -> None:
        """A command begins to wait in the queue."""
        mode, how = self.how(name, shared)
        pursuit = self.hubs[owner].locks.pursuit(name, ttl=20.0, wait=wait, fair=True, **how)
        self.ask(name, Waiting(owner, mode, pursuit, self.now + wait))

    @precondition(lambda self: any(self.waits.values()))
    @rule(data=st.data())
    def look(self, data: Any) -> None:
        """One that waits looks again."""
        name, one = self.pick(data)
        view = self.names[name].seen(self.now, lambda held: False)
        place = view.place(one)
        if place is not None and view.turns()[place] > self.now:
            over = any(map(self.over, view.grants))
            act = over and (place == 0 or one.noticed)
            one.noticed = over
            if not act:
                assert None is one.pursuit.step()
                return
        self.ask(name, one)

    def ask(self, name: str, one: Waiting) -> None:
        """A step that commits: in, into the queue, or only the dead out of the way."""
        lock = self.names[name]
        self.sweep(name)
        placed = one in lock.queue
        at = lock.queue.index(one) if placed else len(lock.queue)
        turn = lock.turns("" if placed else one.mode)[at]
        got = one.pursuit.step()
        assert (turn <= self.now) is (got is not None), "first come, first served, past the silent only"
        if one not in self.waits[name]:
            self.waits[name].append(one)
        if got is not None:
            self.take(name, at, got.lock, one.mode, 20.0)
            self.waits[name].remove(one)
        elif not placed:
            one.deadline = self.now + max(0.0, one.until - self.now) + 2 * POLL + MARGIN[self.where]
            one.offered = None
            lock.queue.append(one)
            lock.offer(self.now)

    def pick(self, data: Any) -> tuple[str, Waiting]:
        name = data.draw(st.sampled_from([name for name, waits in self.waits.items() if waits]))
        return name, data.draw(st.sampled_from(self.waits[name]))

    @precondition(lambda self: any(self.waits.values()))
    @rule(data=st.data())
    def give_up(self, data: Any) -> None:
        name, one = self.pick(data)
        one.pursuit.leave()
        lock = self.names[name]
        if one in lock.queue:
            self.left[name] += lock.drop_late(self.now) if one.deadline >= self.now else 0
            if one in lock.queue and one.deadline >= self.now:
                lock.queue.remove(one)
                self.left[name] += 1
                lock.offer(self.now)
        self.waits[name].remove(one)

    @precondition(lambda self: any(self.waits.values()))
    @rule(data=st.data())
    def die(self, data: Any) -> None:
        """Killed while it waits: its entry stays, and nobody looks for it any more."""
        name, one = self.pick(data)
        self.waits[name].remove(one)

    # -- holding

    def token_of(self, data: Any) -> int | None:
        return data.draw(st.sampled_from([None, *self.given[-6:]]))  # type: ignore[no-any-return]

    @rule(name=NAMES, owner=OWNERS, data=st.data())
    def renew(self, name: str, owner: str, data: Any) -> None:
        token = self.token_of(data)
        held = found(self.names[name].grants, owner, token)
        if not isinstance(held, Held):
            with pytest.raises(held):
                self.hubs[owner].locks.renew(name, owner, token)
            return
        assert held.token == self.hubs[owner].locks.renew(name, owner, token).token
        held.since = self.now

    @rule(name=NAMES, owner=OWNERS, ttl=st.none() | TTLS, data=st.data())
    def enter(self, name: str, owner: str, ttl: float | None, data: Any) -> None:
        """The holder comes in again under its token; nobody else does."""
        token = self.token_of(data) or 1
        held = found(self.names[name].grants, owner, token)
        if not isinstance(held, Held):
            with pytest.raises(held):
                self.hubs[owner].locks.acquire(name, owner, token=token, ttl=ttl)
            return
        again = self.hubs[owner].locks.acquire(name, owner, token=token, ttl=ttl)
        held.depth, held.since, held.ttl = held.depth + 1, self.now, max(held.ttl, ttl or 0.0)
        assert again is not None
        assert (held.token, held.depth) == (again.token, again.depth)

    @rule(name=NAMES, owner=OWNERS, whole=st.booleans(), data=st.data())
    def release(self, name: str, owner: str, whole: bool, data: Any) -> None:
        token = self.token_of(data)
        lock = self.names[name]
        held = found(lock.grants, owner, token)
        if held is UsageError and whole:
            ended = [one for one in lock.grants if one.owner == owner]
        elif not isinstance(held, Held):
            with pytest.raises(held):
                self.hubs[owner].locks.release(name, owner, token, whole=whole)
            return
        elif held.depth > 1 and not whole:
            held.depth -= 1
            left = self.hubs[owner].locks.release(name, owner, token)
            assert left is not None
            assert held.depth == left.depth
            return
        else:
            ended = [held]
        assert None is self.hubs[owner].locks.release(name, owner, token, whole=whole)
        self.end(name, ended)

    def end(self, name: str, ended: list[Held]) -> None:
        lock = self.names[name]
        lock.grants = [held for held in lock.grants if held not in ended]
        if ended:
            self.left[name] += lock.drop_late(self.now)
            lock.offer(self.now)

    @rule(name=NAMES, owner=OWNERS, data=st.data())
    def write(self, name: str, owner: str, data: Any) -> None:
        """A fenced write succeeds exactly with a present grant's token, of several holders with each."""
        token = self.token_of(data)
        if token is None:
            return
        if token in [held.token for held in self.names[name].grants]:
            self.hubs[owner].memory.set(name, token, fence=(name, token))
            self.written[name] = token
        else:
            with pytest.raises(FenceRefused):
                self.hubs[owner].memory.set(name, "wrong", fence=(name, token))

    @rule(name=NAMES, by=OWNERS, data=st.data())
    def force(self, name: str, by: str, data: Any) -> None:
        token = self.token_of(data)
        ended = [held for held in self.names[name].grants if token in (None, held.token)]
        if not ended:
            with pytest.raises(NotFound):
                self.hubs[by].locks.force_unlock(name, token)
            return
        assert [one.token for one in ended] == [one.token for one in self.hubs[by].locks.force_unlock(name, token)]
        self.end(name, ended)

    # -- everything

    @rule(by=OWNERS)
    def clean(self, by: str) -> None:
        expired = {name: [held for held in lock.grants if self.over(held)] for name, lock in self.names.items()}
        assert sum(map(len, expired.values())) == self.hubs[by].locks.clean()
        for name, ended in expired.items():
            self.end(name, ended)
            self.left[name] += self.names[name].drop_late(self.now)

    @rule(owner=OWNERS, by=OWNERS)
    def release_all(self, owner: str, by: str) -> None:
        own = {name: [held for held in lock.grants if held.owner == owner] for name, lock in self.names.items()}
        assert sum(map(len, own.values())) == self.hubs[by].locks.release_all(owner)
        for name, ended in own.items():
            self.end(name, ended)

    @rule(seconds=st.sampled_from([0.1, 0.4, 1.0, 2.0, 3.0, 10.0]))
    def pause(self, seconds: float) -> None:
        self.world.runtime.advance(seconds + NO_ROUND_NUMBER)

    @invariant()
    def the_records_are_the_model(self) -> None:
        hub = self.hubs["a"]
        for name, lock in self.names.items():
            assert [(held.owner, held.token, held.mode, held.ttl, held.depth) for held in lock.grants] == [
                (one.owner, one.token, one.mode, one.ttl, one.depth) for one in hub.locks.holders(name, True)
            ]
            assert [(one.owner, one.mode) for one in lock.queue if one.deadline >= self.now] == [
                (one.owner, one.mode) for one in hub.locks.waiters(name)
            ]
            alive = any(self.now < held.since + held.ttl - 0.001 for held in lock.grants)
            if alive or not lock.grants:
                assert alive is self.hubs["b"].locks.is_locked(name)
            stats = hub.locks.stats(name)
            assert (self.taken[name], self.left[name]) == ((stats.acquisitions, stats.left) if stats else (0, 0))
            assert self.written.get(name) == self.hubs["c"].memory.get(name)

    @invariant()
    def nobody_is_in_anothers_way(self) -> None:
        for name, permits in PERMITS.items():
            modes = [one.mode for one in self.hubs["b"].locks.holders(name, include_expired=True)]
            assert len(modes) <= permits or set(modes) == {"shared"}


def test_locks_follow_the_model() -> None:
    """Any order of commands of three owners: room, order, tokens, fences and figures are those of the model."""
    run(LockMachine, 20, 30)


def test_the_same_on_disk() -> None:
    """The local store behaves as the one in memory."""
    run(on_disk(LockMachine), 2, 12)


@pytest.mark.slow
@pytest.mark.parametrize("machine", [LockMachine, on_disk(LockMachine)])
def test_far_more_of_it(machine: type[Machine]) -> None:
    """As above, longer."""
    run(machine, 100 if machine.where == "memory" else 10, 60)
