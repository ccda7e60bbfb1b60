"""The governor of one account's limits: it counts, makes requests wait for their turn, and tells why."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path

from ghcoord.clock import Runtime
from ghcoord.config import BudgetSettings
from ghcoord.errors import Throttled
from ghcoord.store.budget.base import Kind, OnWait, Pace, Report
from ghcoord.store.budget.ledger import LARGEST_NUMBER, LONGEST_BLOCK, Ledger, Primary, State
from ghcoord.store.budget.limits import HOUR, MINUTE, Limits, is_githubs
from ghcoord.store.budget.plan import POLL_PER_WORKER, Load, most, plan
from ghcoord.store.budget.statement import statement
from ghcoord.units import format_duration

DEFAULTS = BudgetSettings()

QUIET = 1.5
"""Seconds of a wait that nobody is told of: the gap between two writes."""

SLICE = 5.0
"""Seconds to wait at a time: then the counts are looked at again, as another process may have been told more."""

TELL_AGAIN = 5.0
"""Seconds by which a wait must have grown to be told of again."""

LONGEST_RETRY = 900.0
"""Seconds up to which the wait after a refusal that names no time doubles."""

WORKER_LIFE = 900.0
"""Seconds after which a process that told of its workers, and then sent nothing, is not counted any more."""

POINTS: Mapping[Kind, int] = {"poll": 1, "read": 1, "write": 5, "push": 0}
"""What each kind of request counts of the points a minute."""

PRIMARY: Mapping[Kind, tuple[str, ...]] = {
    "poll": ("core",),
    "read": ("core", "graphql"),
    "write": ("core", "graphql"),
    "push": (),
}
"""The server's counts that must not be used up for a kind of request: polls are REST, the others are either."""


class Governor:
    """The :class:`ghcoord.store.budget.base.Budget` of one account, ``host/login``.

    ``file`` is shared by the processes of this machine; without one, or where
    it cannot be written, this object's own requests count.  A server that is
    not GitHub's own and tells of no limits has none, until it refuses
    something: so it is with GitHub Enterprise Server, unless ``settings`` have
    it otherwise.  They also say
    how long to wait for a limit, and what to plan for.  ``on_wait`` hears of
    each wait that is longer than :data:`QUIET`.  One worker uses one governor:
    each of them that was told of workers (:meth:`share`) counts as one here.
    """

    def __init__(
        self,
        account: str,
        runtime: Runtime,
        limits: Limits,
        *,
        file: Path | None = None,
        settings: BudgetSettings = DEFAULTS,
        on_wait: OnWait | None = None,
    ) -> None:
        self._account = account
        self._runtime = runtime
        self._published = limits
        self._limits = limits
        self._settings = settings
        self._on_wait = on_wait
        self._ledger = Ledger(runtime, file)
        self._id = f"{os.getpid()}-{runtime.randbits(32):08x}"
        self._shared = 0
        self._elsewhere = 0
        self._answer = threading.local()

    @property
    def account(self) -> str:
        return self._account

    @property
    def limits(self) -> Limits:
        """The limits that are kept."""
        return self._limits

    def rename(self, account: str) -> None:
        """The account turned out to be ``account``: what was counted is added to its counts."""
        if account != self._account:
            self._ledger.move(account)
            self._account = account

    # -- waiting for a turn

    def admit(self, kind: Kind) -> None:
        self._wait(kind, take=True)

    def await_write(self) -> None:
        self._wait(self._write_kind, take=False)

    def write_ready_in(self) -> float:
        with self._ledger.open() as state:
            now = self._runtime.monotonic()
            return max(0.0, self._turn(state, self._write_kind, now)[0] - now)

    @property
    def _write_kind(self) -> Kind:
        """What a commit is here: where only pushes are limited, it is one."""
        limits = self._limits
        return "push" if limits.writes_per_hour is None and limits.pushes_per_minute is not None else "write"

    def _wait(self, kind: Kind, *, take: bool) -> None:
        runtime = self._runtime
        began = runtime.monotonic()
        told = None
        while True:
            with self._ledger.open() as state:
                now = runtime.monotonic()
                self._touch(state, now)
                until, why = self._turn(state, kind, now)
                if until <= now:
                    if take:
                        self._count(state, kind, now)
                    return
            if until - now > QUIET:
                if until - began > self._settings.patience:
                    raise Throttled(
                        f"{why}, for another {format_duration(math.ceil(until - now))}: "
                        f"try again then, or set budget.patience to wait for it",
                        self._epoch(until),
                    )
                if self._on_wait is not None and (told is None or until > told + TELL_AGAIN):
                    told = until
                    self._on_wait(self._epoch(until), why)
            runtime.sleep(min(max(until - now, 0.001), SLICE))

    def _turn(self, state: State, kind: Kind, now: float) -> tuple[float, str]:
        """From when on such a request may leave, by the boot clock, and what it waits for."""
        return max(self._hurdles(state, kind, now), default=(now, ""), key=lambda found: found[0])

    def _hurdles(self, state: State, kind: Kind, now: float) -> Iterator[tuple[float, str]]:
        limits, host = self._limits, self._host
        if state.blocked_until > now:
            yield state.blocked_until, state.why
        for name in PRIMARY[kind]:
            one = state.primary.get(name)
            if one is not None and one.left <= self._spare(state, one):
                yield one.resets, f"the {one.limit:,} {_what(name)} an hour that {host} allows are used up"
        if limits.points_per_minute is not None and POINTS[kind]:
            free = _points_free(state.points, most(limits.points_per_minute) - POINTS[kind])
            if free > now:
                yield free, f"{host} allows {limits.points_per_minute} points of requests a minute"
        if kind == "write":
            if state.writes and limits.write_gap:
                yield state.writes[-1] + limits.write_gap, f"{host} allows a write a second"
            for limit, window, words in (
                (limits.writes_per_minute, MINUTE, "a minute"),
                (limits.writes_per_hour, HOUR, "an hour"),
            ):
                if limit is not None and (free := _window_free(state.writes, most(limit), window)) > now:
                    yield free, f"the {limit} writes {words} that {host} allows are used up"
        if kind == "push" and limits.pushes_per_minute is not None:
            free = _window_free(state.pushes, most(limits.pushes_per_minute), MINUTE)
            if free > now:
                yield free, f"{host} allows {limits.pushes_per_minute} pushes a minute"

    def _spare(self, state: State, one: Primary) -> int:
        """What is left to the others that may send at this very moment."""
        return min(self._workers(state)[0] - 1, one.limit // 20)

    def _count(self, state: State, kind: Kind, now: float) -> None:
        """Count a request, as far as a limit asks for it."""
        moment = math.ceil(now * 1000) / 1000
        if kind == "write" and self._limits.writes_per_hour is not None:
            state.writes.append(moment)
        if kind == "push" and self._limits.pushes_per_minute is not None:
            state.pushes.append(moment)
        if POINTS[kind] and self._limits.points_per_minute is not None:
            state.points[int(now)] = state.points.get(int(now), 0) + POINTS[kind]

    # -- learning

    def note(self, status: int, headers: Mapping[str, str], *, resource: str = "core") -> None:
        now = self._runtime.monotonic()
        told = _primary(headers, now, self._runtime.now())
        after = _retry_after(headers)
        self._answer.timed = after is not None or (told is not None and told.left <= 0)
        refused = status == 429 and not self._answer.timed
        self._reconsider(status, "x-ratelimit-limit" in headers)
        if told is None and after is None and not refused:
            return
        with self._ledger.open() as state:
            if told is not None:
                state.learn(headers.get("x-ratelimit-resource") or resource, told)
            if after is not None:
                _block(state, now, now + after, f"{self._host} asked for a pause of {format_duration(after)}")
            elif refused:
                self._pause(state, now, f"{self._host} refused a request")

    def _reconsider(self, status: int, told: bool) -> None:
        """Keep the published limits where the server has any."""
        if told or status in (403, 429):
            self._limits = self._published
        elif self._settings.limits == "auto" and 200 <= status < 400 and not is_githubs(self._host):
            self._limits = Limits.none()

    def block(self, until: float, why: str) -> None:
        now = self._runtime.monotonic()
        self._limits = self._published
        with self._ledger.open() as state:
            wait = until - self._runtime.now()
            if wait >= self._limits.min_retry - 1 and not getattr(self._answer, "timed", True):
                self._pause(state, now, why)  # the server named no time: the caller took the shortest
            _block(state, now, now + wait, why)

    def _pause(self, state: State, now: float, why: str) -> None:
        """Block for a minute; for longer each time within an hour."""
        before = len(state.refusals) - (1 if state.blocked_until > now and state.refusals else 0)
        _block(state, now, now + min(self._limits.min_retry * 2 ** min(before, 10), LONGEST_RETRY), why)

    @property
    def _host(self) -> str:
        return self._account.partition("/")[0].removeprefix("git:")

    # -- the pace

    def share(self, workers: int, *, here: bool = True) -> None:
        if not here:
            self._elsewhere = workers
            return
        self._shared = workers
        with self._ledger.open() as state:
            now = self._runtime.monotonic()
            if workers > 0:
                self._touch(state, now, anew=True)
            else:
                state.workers.pop(self._id, None)

    def _touch(self, state: State, now: float, *, anew: bool = False) -> None:
        """Keep this process counted; the file is not changed for every request."""
        if self._shared > 0:
            known = state.workers.get(self._id, (0, 0.0))
            life = max(WORKER_LIFE, 3 * POLL_PER_WORKER * self._shared)
            if (anew and known[0] != self._shared) or known[1] < now + life - MINUTE:
                state.workers[self._id] = (self._shared, now + life)

    def _workers(self, state: State) -> tuple[int, int]:
        """How many workers share the account, and how many of them are here."""
        here = max(1, len(state.workers))
        return max(here, self._shared, self._elsewhere, *(told for told, _ in state.workers.values())), here

    def pace(self) -> Pace:
        with self._ledger.open() as state:
            return self._pace(state, self._runtime.monotonic())

    def _pace(self, state: State, now: float) -> Pace:
        workers, here = self._workers(state)
        used = len(state.pushes if self._write_kind == "push" else state.writes)
        left = tuple((one.left, one.resets - now) for name, one in state.primary.items() if name in PRIMARY["write"])
        return plan(self._limits, Load(workers, here, used, len(state.refusals), left), self._settings.writes_per_hour)

    def report(self) -> Report:
        with self._ledger.open() as state:
            now = self._runtime.monotonic()
            return statement(
                self._account,
                self._limits,
                state,
                self._pace(state, now),
                now=now,
                wall=self._runtime.now(),
                wanted=self._settings.writes_per_hour,
            )

    def _epoch(self, moment: float) -> float:
        return self._runtime.now() + moment - self._runtime.monotonic()


def _block(state: State, now: float, until: float, why: str) -> None:
    """Nothing leaves before ``until``, a day at most. What comes while it is blocked is the same refusal."""
    until = min(until, now + LONGEST_BLOCK - 1.0)  # the ledger drops what is longer
    if until <= now:
        return
    if state.blocked_until <= now:
        state.refusals.append(math.ceil(now * 1000) / 1000)
    if until > state.blocked_until - 1.0:
        state.why = why  # the later of two for the same answer knows more
    state.blocked_until = max(state.blocked_until, until)


def _window_free(times: list[float], limit: int, window: float) -> float:
    """When one more fits beside ``times`` into any ``window``."""
    return times[len(times) - limit] + window if len(times) >= limit else -math.inf


def _points_free(points: Mapping[int, int], room: int) -> float:
    """When at most ``room`` points of the last minute count."""
    left = sum(points.values())
    for second in sorted(points):
        if left <= room:
            break
        left -= points[second]
        if left <= room:
            return second + 1 + MINUTE
    return -math.inf


def _primary(headers: Mapping[str, str], now: float, wall: float) -> Primary | None:
    """The server's count in an answer; its clock is the answer's ``date``, which is rounded down."""
    try:
        limit, left = int(headers["x-ratelimit-limit"]), int(headers["x-ratelimit-remaining"])
        reset = int(headers["x-ratelimit-reset"])
        date = parsedate_to_datetime(headers["date"]).timestamp() if "date" in headers else wall
        wait = min(reset, LARGEST_NUMBER) - date + 1.0
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    if limit <= 0 or wait <= 0:
        return None
    return Primary(min(limit, LARGEST_NUMBER), min(max(0, left), LARGEST_NUMBER), now + min(wait, HOUR + MINUTE))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asked to wait, which it may name as a date."""
    text = headers.get("retry-after", "").strip()
    try:
        if text.isascii() and text.isdigit():
            return float(min(int(text[:9]), 86_400))
        wait = parsedate_to_datetime(text) - parsedate_to_datetime(headers["date"])
        return min(max(0.0, wait.total_seconds() + 1.0), 86_400.0)
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def _what(resource: str) -> str:
    return "GraphQL points" if resource == "graphql" else "requests"
