"""What is said about locks: who holds them, why one was not granted, what a command means to do with which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ghcoord.errors import GhcoordError, LockHeld, NotFound, UsageError, WaitTimeout
from ghcoord.faces import views
from ghcoord.faces.cli.context import invocation
from ghcoord.faces.cli.output import fields, note, table, to_json
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from ghcoord.coord.locks.keepalive import HeldLock
    from ghcoord.hub import Hub
    from ghcoord.model.lock import Lock, Waiter


class _Refused(GhcoordError):
    """A lock that was not to be had, with who holds it."""

    def __init__(self, message: str, holder: views.View | None, left: float | None) -> None:
        super().__init__(message)
        self.holder = holder
        self.left = left

    def details(self) -> dict[str, Any]:
        return {**super().details(), "retryable": True, "holder": self.holder, "seconds_left": self.left}


class _Held(_Refused, LockHeld):
    default_code = "LOCK_HELD"


class _StillHeld(_Refused, WaitTimeout):
    default_code = "WAIT_TIMEOUT"


@dataclass(frozen=True, slots=True)
class Target:
    """The lock that a command is about: one with a name, or one on ``paths``."""

    name: str
    paths: tuple[str, ...] = ()

    @classmethod
    def given(cls, name: str | None, paths: Sequence[str] | None) -> Target:
        """From NAME or ``--paths``; raises ``UsageError`` unless it is exactly one of them."""
        if (name is None) is (not paths):
            raise UsageError("name the lock, or give --paths: one of the two")
        patterns = tuple(sorted(set(paths or ())))
        return cls(name) if name is not None else cls(" ".join(patterns), patterns)

    @property
    def what(self) -> str:
        """How messages call it."""
        return f"the {'path ' if self.paths else ''}lock {self.name!r}"

    def holders(self, hub: Hub) -> list[Lock]:
        """The grants in the way, oldest first, also those whose lease is over and nobody has taken yet."""
        if self.paths:
            return hub.locks.paths.overlapping(self.paths, include_expired=True)
        return hub.locks.holders(self.name, include_expired=True)

    def waiters(self, hub: Hub) -> list[Waiter]:
        """Who stands in its queue."""
        return [] if self.paths else hub.locks.waiters(self.name)

    def acquire(self, hub: Hub, owner: str, **how: Any) -> Lock | None:
        if not self.paths:
            return hub.locks.acquire(self.name, owner, **how)
        return hub.locks.paths.acquire(self.paths, owner, **self._for_paths(how))

    def hold(self, hub: Hub, owner: str, on_lost: Callable[[], None], **how: Any) -> HeldLock:
        if not self.paths:
            return hub.locks.hold(self.name, owner, on_lost=on_lost, **how)
        return hub.locks.paths.hold(self.paths, owner, on_lost=on_lost, **self._for_paths(how))

    def renew(self, hub: Hub, owner: str, token: int | None, ttl: float | None) -> Lock:
        if not self.paths:
            return hub.locks.renew(self.name, owner, token, ttl=ttl)
        return hub.locks.paths.renew(self.paths, owner, token, ttl=ttl)

    def release(self, hub: Hub, owner: str, token: int | None, whole: bool) -> Lock | None:
        if not self.paths:
            return hub.locks.release(self.name, owner, token, whole=whole)
        return hub.locks.paths.release(self.paths, owner, token, whole=whole)

    def force_unlock(self, hub: Hub, token: int | None) -> list[Lock]:
        if not self.paths:
            return hub.locks.force_unlock(self.name, token)
        return hub.locks.paths.force_unlock(self.paths, token)

    @staticmethod
    def _for_paths(how: dict[str, Any]) -> dict[str, Any]:
        """``how`` without what only locks with a name have; raises ``UsageError`` if it was asked for."""
        if how.pop("fair", False) or how.pop("permits", None) is not None:
            raise UsageError(
                "--paths goes with --shared, but has neither a queue nor permits: leave --fair and --permits out"
            )
        if how.pop("guards", ()):
            raise UsageError("a path lock has no --for: its token fences no namespace")
        return how


def refusal(hub: Hub, target: Target, owner: str, wait: float) -> GhcoordError:
    """Why ``target`` was not granted: who holds it and how much longer. Exit code 4, after a ``wait`` 9."""
    kind = _StillHeld if wait > 0 else _Held
    after = f" after waiting {format_duration(wait)}" if wait > 0 else ""
    holders, waiting = target.holders(hub), len(target.waiters(hub))
    if not holders:
        if waiting:
            told = f"{target.what} is free{after}, but {waiting} in its queue come first: wait there with --fair --wait"
            return kind(told, None, None)
        return kind(f"{target.what} was held{after} and is free now: try again", None, 0.0)
    holder = min(holders, key=lambda lock: lock.expires_at)
    left = seconds_left(hub, holder)
    if left <= 0:
        rest = format_duration(max(0.1, left + hub.clock_margin))
        when = f"its lease is over and it can be taken in {rest}"
    else:
        when = f"{format_duration(left)} left"
    own = holder.owner == owner
    where = f"on {holder.name!r}" if target.paths and holder.name != target.name else ""
    parts = (where, f"token {holder.token}" if own else "", _place(holder))
    about = ", ".join(part for part in parts if part)
    who = f"{holder.owner!r}{' already' if own else ''}{f' ({about})' if about else ''}"
    more = f" and {len(holders) - 1} more" if len(holders) > 1 else ""
    queue = f", and {waiting} wait in its queue" if waiting else ""
    message = f"{target.what} is held by {who}{more}{after}: {when}{queue}"
    return kind(message, views.lock_view(holder), round(max(0.0, left), 3))


def say_waiting(hub: Hub, target: Target) -> None:
    """Say on standard error whom a wait for ``target`` is for; nothing when it is free, or with ``--json``."""
    holders = [] if invocation().json else target.holders(hub)
    if not holders:
        return
    holder = min(holders, key=lambda lock: lock.expires_at)
    if (rest := seconds_left(hub, holder) + hub.clock_margin) <= 0:
        return
    who = f"{holder.owner!r}{f' ({place})' if (place := _place(holder)) else ''}"
    waiting = len(target.waiters(hub))
    queue = f", {waiting} in its queue" if waiting else ""
    name = repr(target.name)
    note(f"waiting for {name}, held by {who}, free in at most {format_duration(max(0.1, rest))} unless renewed{queue}")


def _place(lock: Lock) -> str:
    """Which process took it: ``pid 7 on host``, as far as the grant says."""
    pid, host = (lock.metadata.get(key) for key in ("pid", "hostname"))
    return " on ".join(part for part in (f"pid {pid}" if pid else "", str(host) if host else "") if part)


def seconds_left(hub: Hub, lock: Lock) -> float:
    """Until the end of the lease, negative afterwards."""
    return (lock.expires_at - hub.now()).total_seconds()


def left_text(hub: Hub, lock: Lock) -> str:
    left = seconds_left(hub, lock)
    return f"{format_duration(left)} left" if left > 0 else "expired"


def mode_text(lock: Lock) -> str:
    """``exclusive``, ``shared``, ``1 of 3``; with ``paths`` for a path lock."""
    mode = f"1 of {lock.permits}" if lock.permits > 1 else str(lock.mode)
    return f"paths, {mode}" if lock.paths else mode


def show_lock(hub: Hub, lock: Lock) -> None:
    """Print one grant."""
    fields(
        [
            ("paths" if lock.paths else "lock", lock.name),
            ("owner", lock.owner),
            ("token", lock.token),
            ("mode", None if str(lock.mode) == "exclusive" else mode_text(lock)),
            ("depth", lock.depth if lock.depth > 1 else None),
            ("acquired", views.iso(lock.acquired_at)),
            ("expires", f"{views.iso(lock.expires_at)} ({left_text(hub, lock)})"),
            ("metadata", to_json(lock.metadata, None) if lock.metadata else None),
        ]
    )


def show_waiters(hub: Hub, waiters: Sequence[Waiter]) -> None:
    """Print a queue, the first in line first; nothing when it is empty."""
    if not waiters:
        return
    now = hub.now()
    print()
    table(
        ("PLACE", "WAITING", "MODE", "FOR", "AT MOST"),
        [
            (
                place,
                one.owner,
                str(one.mode),
                format_duration(max(0.0, (now - one.since).total_seconds())),
                format_duration(max(0.0, (one.deadline - now).total_seconds())),
            )
            for place, one in enumerate(waiters, 1)
        ],
        right=("PLACE", "FOR", "AT MOST"),
    )


def show_table(hub: Hub, locks: Sequence[Lock], empty: str = "no locks") -> None:
    """Print grants, a row each."""
    table(
        ("NAME", "OWNER", "MODE", "TOKEN", "LEASE"),
        [(lock.name, lock.owner, mode_text(lock), lock.token, left_text(hub, lock)) for lock in locks],
        keep=("NAME", "TOKEN"),
        right=("TOKEN", "LEASE"),
        empty=empty,
    )


def counted(locks: Sequence[Lock]) -> str:
    """How many grants, and the first ones: ``3 locks (a by 'x', b by 'y', …)``."""
    shown = [f"{lock.name} by {lock.owner!r}" for lock in locks[:3]] + (["…"] if len(locks) > 3 else [])
    return f"{len(locks)} lock{'s' if len(locks) > 1 else ''} ({', '.join(shown)})"


def need_holders(found: Sequence[Lock], target: Target) -> Sequence[Lock]:
    """``found`` if there are any; raises ``NotFound``."""
    if not found:
        raise NotFound(f"{target.what} is free")
    return found
