"""What goes wrong on demand, or by seed: lost, late, slow and false answers.

Every kind leaves the repository intact; only the client is kept in the dark.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from ghcoord.twin.log import Kind
from ghcoord.twin.messages import Incoming
from ghcoord.twin.repository import View, next_step

FaultKind = Literal[
    "reply_lost", "request_lost", "late", "delay", "status", "reset", "truncated", "stale",
    "absent_after_create", "conflict", "opaque", "secondary", "primary",
]  # fmt: skip
"""
- ``reply_lost``: done, but the connection closes without an answer; ``reset``: likewise, with a TCP reset.
- ``request_lost``: the connection closes before anything is done.
- ``late``: reset at once; takes effect ``seconds`` later, and not before ``requests`` more have come in.
- ``delay``: answered after ``seconds``.
- ``status``: answered with ``status`` (500, 502, 503), before or ``after`` the effect.
- ``truncated``: done, but the answer's body breaks off.
- ``stale``: from now on for ``seconds`` all reads show the refs as they are now.
- ``absent_after_create``: for ``seconds`` refs that are created from now on are not found by reads.
- ``conflict``: a write over REST is refused with 409 though nothing moved.
- ``opaque``: «Something went wrong while executing your query», before or ``after`` the effect.
- ``secondary``, ``primary``: refused by a limit for ``seconds``.
"""

KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
WRITES_ONLY = frozenset({"late", "conflict"})
ONLY_OVER: Mapping[FaultKind, str] = {"conflict": "core", "opaque": "graphql"}
"""Kinds that only one of the protocols knows."""

STATUSES = (500, 502, 503)
NEVER = ((0.0, 0), 0.0)
"""From when, in seconds and steps, and until when reads show the past."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong. ``after``: once the request has taken effect."""

    kind: FaultKind
    seconds: float = 0.0
    status: int = 502
    after: bool = False
    requests: int = 0


@dataclass
class _Planned:
    fault: Fault
    times: int
    on: Kind | None
    match: Callable[[Incoming], bool] | None


@dataclass
class _Late:
    incoming: Incoming
    due: float
    requests: int


@dataclass
class Faults:
    """Thread-safe. ``met`` lists what was done: when, which kind, to which method and path."""

    met: list[tuple[float, FaultKind, str]] = field(default_factory=list)
    _planned: list[_Planned] = field(default_factory=list)
    _late: list[_Late] = field(default_factory=list)
    _seed: int = 0
    _rates: Mapping[FaultKind, float] = field(default_factory=dict)
    _seconds: float = 0.0
    _drawn: int = 0
    _stale: tuple[tuple[float, int], float] = NEVER
    _unborn: tuple[tuple[float, int], float] = NEVER
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(
        self,
        kind: FaultKind,
        *,
        times: int = 1,
        on: Kind | None = None,
        match: Callable[[Incoming], bool] | None = None,
        seconds: float = 0.0,
        status: int = 502,
        after: bool = False,
        requests: int = 0,
    ) -> None:
        """Let it happen to the next ``times`` requests of kind ``on`` that ``match``."""
        with self._lock:
            self._planned.append(_Planned(Fault(kind, seconds, status, after, requests), times, on, match))

    def seed(self, seed: int, rates: Mapping[FaultKind, float], *, seconds: float = 2.0) -> None:
        """From now on let each kind happen with its probability; times are drawn below ``seconds``."""
        with self._lock:
            self._seed, self._rates, self._seconds, self._drawn = seed, dict(rates), seconds, 0

    def clear(self) -> None:
        """No more faults; what is late still lands."""
        with self._lock:
            self._planned.clear()
            self._rates = {}
            self._stale = self._unborn = NEVER

    def choose(self, incoming: Incoming, kind: Kind, resource: str, now: float) -> Fault | None:
        """What happens to that request, if anything."""
        with self._lock:
            for each in self._planned:
                over = ONLY_OVER.get(each.fault.kind, resource) == resource
                if over and each.on in (None, kind) and (each.match is None or each.match(incoming)):
                    each.times -= 1
                    if not each.times:
                        self._planned.remove(each)
                    return self._meet(each.fault, incoming, now)
            for name, rate in self._rates.items():
                fits = name not in WRITES_ONLY or kind in ("write", "push")
                fits = fits and ONLY_OVER.get(name, resource) == resource
                if self._uniform() < rate and fits:
                    drawn = Fault(
                        name,
                        seconds=self._uniform() * self._seconds,
                        status=STATUSES[int(self._uniform() * len(STATUSES))],
                        after=self._uniform() < 0.5,
                    )
                    return self._meet(drawn, incoming, now)
            return None

    def postpone(self, incoming: Incoming, fault: Fault, now: float) -> None:
        """Keep a late request for later."""
        with self._lock:
            self._late.append(_Late(incoming, now + fault.seconds, fault.requests))

    def due(self, now: float, *, all_of_them: bool = False) -> list[Incoming]:
        """The late requests that land before the one that came in now."""
        with self._lock:
            landing, waiting = [], []
            for each in self._late:
                if all_of_them or (now >= each.due and each.requests <= 0):
                    landing.append(each.incoming)
                else:
                    each.requests -= 1
                    waiting.append(each)
            self._late = waiting
            return landing

    def view(self, now: float) -> View:
        """What of the past reads show now."""
        with self._lock:
            since, until = self._stale
            born, hidden = self._unborn
            return View(since if now < until else None, born if now < hidden else None)

    def _meet(self, fault: Fault, incoming: Incoming, now: float) -> Fault:
        self.met.append((now, fault.kind, f"{incoming.method} {incoming.path}"))
        if fault.kind == "stale":
            self._stale = ((now, next_step()), now + fault.seconds)
        elif fault.kind == "absent_after_create":
            self._unborn = ((now, next_step()), now + fault.seconds)
        return fault

    def _uniform(self) -> float:
        self._drawn += 1
        digest = hashlib.sha256(f"{self._seed}:{self._drawn}".encode()).digest()
        return int.from_bytes(digest[:7], "big") / 2**56
