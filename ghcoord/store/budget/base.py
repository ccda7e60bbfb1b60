"""What the rest of ghcoord knows of a server's limits: how fast it may go, how much is used, and waiting for a turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Kind = Literal["poll", "read", "write", "push"]
"""A request: a poll that may answer "not changed", a reading, one that makes content, a push of git's."""

OnWait = Callable[[float, str], None]
"""Told before a wait: until when, in seconds since the epoch, and why, in words for people."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast one worker, or one lease's owner, may go. All in seconds.

    ``write_every`` lies between two commits of one worker, ``poll_every``
    between two looks, ``lease_ttl`` is the shortest ttl whose renewals (at a
    third of it) fit.  ``workers`` of the same account share the limits.
    ``stretched`` says in words what is slower than usual, and why.
    """

    write_every: float
    poll_every: float
    lease_ttl: float
    workers: int = 1
    stretched: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """One limit: ``used`` of ``limit`` in the ``window`` of seconds.

    ``resets_at`` is when it is whole again, in seconds since the epoch;
    ``planned`` is what ghcoord allows itself of it.  ``source``: told by the
    server, or counted by this machine's processes.
    """

    name: str
    used: int
    limit: int
    planned: int
    window: float
    resets_at: float | None
    source: Literal["server", "counted"]


@dataclass(frozen=True, slots=True)
class Report:
    """All there is to say about an account's limits.

    ``forecast`` are writes an hour at the present rate; ``blocked_until`` is
    when the server allows requests again, ``why`` it does not now.
    """

    account: str
    usage: tuple[Usage, ...]
    pace: Pace
    forecast: float
    blocked_until: float | None = None
    why: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


class Budget(Protocol):
    """The limits of one account at one host. Thread-safe; its counts are shared by the machine's processes."""

    @property
    def account(self) -> str:
        """``host/login``, as workers publish it, so that they know who shares with them."""
        ...

    def admit(self, kind: Kind) -> None:
        """Wait until a request of that kind may leave, and count it.

        Raises ``Throttled`` instead of waiting longer than the patience that was set.
        """
        ...

    def note(self, status: int, headers: Mapping[str, str], *, resource: str = "core") -> None:
        """Learn from an answer: limits left, retry-after. ``headers`` have lower-case names."""
        ...

    def block(self, until: float, why: str) -> None:
        """No request leaves before ``until``, seconds since the epoch: the server said so."""
        ...

    def write_ready_in(self) -> float:
        """Seconds until a write may leave; 0 when it may at once."""
        ...

    def await_write(self) -> None:
        """Wait, as :meth:`admit` does for a write, until one may leave, without counting one.

        So that what is written is decided after the wait, not before.
        """
        ...

    def share(self, workers: int, *, here: bool = True) -> None:
        """So many workers that are alive use the same account; one of them is ``here``, or this only looks on."""
        ...

    def pace(self) -> Pace:
        """How fast to go now."""
        ...

    def report(self) -> Report:
        """What is used, left and to come."""
        ...
