"""GitHub's limits: counted, told in headers, and enforced. Off unless asked for."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from ghcoord.twin.auth import Token
from ghcoord.twin.switches import Switches

Resource = Literal["core", "graphql", "git"]

HOUR = 3600.0
MINUTE = 60.0
FREE = "/rate_limit"
"""The endpoint that costs nothing of the primary limit and stays open beyond it."""

READ_POINTS = 1
WRITE_POINTS = 5


@dataclass(frozen=True, slots=True)
class TwinLimits:
    """The limits of one account; ``None`` is none. Numbers of :meth:`published` are from docs.github.com.

    ``rest_per_hour`` and ``graphql_per_hour`` (points) are the primary ones,
    ``actions_per_hour`` that of a ``GITHUB_TOKEN`` in its repository,
    ``anonymous_per_hour`` without a token. The rest is secondary:
    ``rest_points`` a minute and endpoint, ``graphql_points`` a minute,
    ``content_per_minute`` and ``_per_hour`` content-creating requests,
    ``pushes_per_minute`` to one repository, ``concurrent`` requests.
    ``retry_after`` seconds pass after a secondary refusal.
    """

    rest_per_hour: int | None = None
    graphql_per_hour: int | None = None
    actions_per_hour: int | None = None
    anonymous_per_hour: int | None = None
    rest_points: int | None = None
    graphql_points: int | None = None
    content_per_minute: int | None = None
    content_per_hour: int | None = None
    pushes_per_minute: int | None = None
    concurrent: int | None = None
    retry_after: float = 60.0

    @classmethod
    def published(cls) -> TwinLimits:
        """What the documentation states; six pushes a minute are recommended there, and here enforced."""
        return cls(5000, 5000, 1000, 60, 900, 2000, 80, 500, 6, 100)


@dataclass
class Window:
    """A primary limit's fixed hour, which starts with its first request."""

    limit: int
    used: int = 0
    reset: float = 0.0

    def roll(self, now: float) -> None:
        """Begin a new hour once the old one is over."""
        if now >= self.reset:
            self.used, self.reset = 0, now + HOUR

    def told(self) -> dict[str, int]:
        """As ``/rate_limit`` tells it."""
        left = max(0, self.limit - self.used)
        return {"limit": self.limit, "remaining": left, "used": min(self.used, self.limit), "reset": int(self.reset)}


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request asks of the limits. ``endpoint`` is its path's template, ``repository`` that of a push."""

    token: Token | None
    resource: Resource
    endpoint: str
    write: bool
    content: bool
    now: float
    repository: str = ""

    @property
    def account(self) -> str:
        """Who shares these limits."""
        if self.token is None:
            return ""
        if self.token.kind == "actions":
            return f"{self.token.login} {min(self.token.repositories or ['*'])}"
        return self.token.login

    @property
    def points(self) -> int:
        """Of the secondary limits."""
        return WRITE_POINTS if self.write else READ_POINTS


@dataclass(frozen=True, slots=True)
class Over:
    """A refusal: by which limit, until when, and whether the caller should have known."""

    kind: Literal["primary", "secondary"]
    limit: str
    until: float
    violation: bool = False


@dataclass
class Account:
    """All counts of one account."""

    windows: dict[str, Window] = field(default_factory=dict)
    spent: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)
    running: int = 0
    blocked: dict[str, Over] = field(default_factory=dict)


class Limiter:
    """Counts and refuses. Thread-safe; time is what the demands say."""

    def __init__(self, limits: TwinLimits | None, switches: Switches) -> None:
        self.limits = limits
        self.switches = switches
        self.violations: list[tuple[float, str, str]] = []
        """Requests sent while refused: when, by whom, under which limit."""
        self.refusals: list[tuple[float, str, Over]] = []
        self._accounts: dict[str, Account] = {}
        self._lock = threading.Lock()

    def enter(self, demand: Demand) -> Over | None:
        """Count a request that came in; what refuses it, if anything. Each one let in must :meth:`leave`."""
        if self.limits is None:
            return None
        with self._lock:
            account = self._accounts.setdefault(demand.account, Account())
            over = self._blocked(account, demand) or self._primary(account, demand) or self._secondary(account, demand)
            if over is None:
                account.running += 1
                return None
            self.refusals.append((demand.now, demand.account, over))
            if over.violation:
                self.violations.append((demand.now, demand.account, over.limit))
            account.blocked[demand.resource if over.kind == "primary" else ""] = over
            return over

    def leave(self, demand: Demand, *, cost: int, succeeded: bool) -> None:
        """The request is answered: charge ``cost`` to the primary limit; a failed write may not count as content."""
        if self.limits is None:
            return
        with self._lock:
            account = self._accounts[demand.account]
            account.running -= 1
            window = self._window(account, demand, demand.resource)
            if window is not None:
                window.used += cost
            if demand.content and not succeeded and not self.switches.failed_writes_count:
                for name in ("content/min", "content/h"):
                    spent = account.spent.get(name)
                    if spent:
                        spent.pop()

    def refuse(self, demand: Demand, kind: Literal["primary", "secondary"], seconds: float) -> Over:
        """Refuse from now on as if a limit were reached: a fault."""
        with self._lock:
            account = self._accounts.setdefault(demand.account, Account())
            over = Over(kind, "fault", demand.now + seconds)
            account.blocked[demand.resource if kind == "primary" else ""] = over
            return over

    def still_refused(self, demand: Demand) -> Over | None:
        """A refusal by a fault that holds on where limits are off."""
        with self._lock:
            account = self._accounts.get(demand.account)
            over = self._blocked(account, demand) if account is not None else None
            if over is not None:
                self.violations.append((demand.now, demand.account, over.limit))
            return over

    def rates(self, token: Token | None, now: float) -> dict[str, dict[str, Any]]:
        """The primary limits of the token's account, by resource; empty where there are none."""
        if self.limits is None:
            return {}
        with self._lock:
            told = {}
            for resource in ("core", "graphql"):
                demand = Demand(token, resource, "", False, False, now)
                account = self._accounts.setdefault(demand.account, Account())
                window = self._window(account, demand, resource)
                if window is not None:
                    told[resource] = window.told()
            return told

    def _blocked(self, account: Account, demand: Demand) -> Over | None:
        for key in ("", demand.resource):
            over = account.blocked.get(key)
            if over is not None and over.kind == "primary" and demand.endpoint == FREE:
                continue
            if over is not None and demand.now < over.until:
                return Over(over.kind, over.limit, over.until, violation=True)
            account.blocked.pop(key, None)
        return None

    def _window(self, account: Account, demand: Demand, resource: str) -> Window | None:
        limits = self.limits
        if limits is None or resource == "git":
            return None
        limit = limits.rest_per_hour if resource == "core" else limits.graphql_per_hour
        if demand.token is None:
            limit = limits.anonymous_per_hour
        elif demand.token.kind == "actions":
            limit = limits.actions_per_hour
        if limit is None:
            return None
        window = account.windows.setdefault(resource, Window(limit))
        window.roll(demand.now)
        return window

    def _primary(self, account: Account, demand: Demand) -> Over | None:
        window = self._window(account, demand, demand.resource)
        if window is None or window.used < window.limit or demand.endpoint == FREE:
            return None
        return Over("primary", demand.resource, window.reset)

    def _secondary(self, account: Account, demand: Demand) -> Over | None:
        limits = self.limits
        assert limits is not None
        counts: list[tuple[str, int, int | None, float]] = []
        if demand.resource == "core":
            counts.append((f"rest points {demand.endpoint}", demand.points, limits.rest_points, MINUTE))
        elif demand.resource == "graphql":
            counts.append(("graphql points", demand.points, limits.graphql_points, MINUTE))
        elif demand.write:
            counts.append((f"pushes {demand.repository}", 1, limits.pushes_per_minute, MINUTE))
        if demand.content:
            counts.append(("content/min", 1, limits.content_per_minute, MINUTE))
            counts.append(("content/h", 1, limits.content_per_hour, HOUR))
        over = None
        for name, amount, limit, span in counts:
            spent = account.spent.setdefault(name, deque())
            while spent and spent[0][0] <= demand.now - span:
                spent.popleft()
            spent.append((demand.now, amount))
            if limit is not None and sum(each for _, each in spent) > limit and over is None:
                over = Over("secondary", name, demand.now + limits.retry_after)
        if limits.concurrent is not None and account.running >= limits.concurrent:
            over = over or Over("secondary", "concurrent", demand.now + limits.retry_after)
        return over
