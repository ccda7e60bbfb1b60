"""Gates: how many tasks of a key run, when they started, and how many more may start now.

The rate counts by the hub's clock, as records and events show it, in whole
milliseconds: in no period, wherever it begins, are there more starts than may
be.  Two readings of that clock may differ, so a start counts against those
shortly before and after it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right

from pydantic import Field

from ghcoord.model.codec import Count, Moment, Record, ms_of, stamp
from ghcoord.model.task import MAX_CONCURRENCY, MAX_PERIOD, MAX_RATE, Limit

UNLIMITED = 1_000_000
"""What counts as no limit: more than any worker leases at a time."""

CLOCK_MARGIN_MS = 2_000
"""Milliseconds by which the hub's clock may go back between two machines and every start is still remembered."""

MAX_STARTS = 2 * MAX_RATE
"""Starts that a gate remembers: those of a period, and of the margin as far as there is room."""


class Gate(Record):
    """What is known of one key.

    The limits are those of the latest submission.  ``running`` counts the
    leased tasks; ``starts`` are those that may still count, in order.
    ``exposed`` are the tasks that workers may take, as places in the index.
    ``reopens_at`` is when the window has moved on for those that wait,
    ``forget_at`` when somebody looks whether the record is still needed.
    """

    key: str = Field(min_length=1)
    concurrency: int | None = Field(default=None, ge=1, le=MAX_CONCURRENCY)
    rate: int | None = Field(default=None, ge=1, le=MAX_RATE)
    period: float | None = Field(default=None, gt=0, le=MAX_PERIOD)
    running: Count = 0
    starts: tuple[Moment, ...] = ()
    exposed: tuple[str, ...] = ()
    reopens_at: Moment | None = None
    forget_at: Moment | None = None

    @property
    def full(self) -> bool:
        """Whether as many of its tasks run as may."""
        return self.concurrency is not None and self.running >= self.concurrency

    @property
    def window(self) -> int:
        """The period in milliseconds, rounded up."""
        return math.ceil((self.period or 0.0) * 1000)

    def _times(self) -> list[int]:
        return sorted(ms_of(start.timestamp()) for start in self.starts)

    def _near(self, times: list[int], now: int) -> int:
        """How many of ``times`` are less than a period away from ``now``."""
        return bisect_left(times, now + self.window) - bisect_right(times, now - self.window)

    def room(self, now: float) -> int:
        """How many more tasks may start at the hub's time ``now`` (seconds)."""
        free = UNLIMITED if self.concurrency is None else max(0, self.concurrency - self.running)
        if self.rate is None:
            return free
        return min(free, max(0, self.rate - self._near(self._times(), ms_of(now))))

    def next_room(self, now: float) -> float | None:
        """When, after the hub's time ``now``, the rate lets another task start; in seconds, ``None`` without one."""
        if self.rate is None:
            return None
        times = self._times()
        moments = (time + self.window for time in times if time + self.window > ms_of(now))
        return next((at / 1000 for at in moments if self._near(times, at) < (self.rate or 0)), None)

    def ends_at(self) -> float | None:
        """When no start can count any more, in seconds."""
        return (self._times()[-1] + self.window + CLOCK_MARGIN_MS) / 1000 if self.starts else None


def limited(gate: Gate, limit: Limit) -> Gate:
    """``gate`` under the limits of a new submission. A window that gets longer knows only what was kept."""
    return gate.model_copy(update={"concurrency": limit.concurrency, "rate": limit.rate, "period": limit.period})


def moved(gate: Gate, *, stopped: int, started: int, now: float) -> Gate:
    """``gate`` after so many of its tasks stopped and started at the hub's time ``now`` (seconds)."""
    starts = gate.starts
    if started and gate.rate is not None:
        starts = tuple(sorted((*starts, *[stamp(now)] * started)))
    return gate.model_copy(update={"running": max(0, gate.running + started - stopped), "starts": starts})


def pruned(gate: Gate, now: float) -> Gate:
    """``gate`` with only the starts that may still count at the hub's time ``now`` (seconds), or shortly before it."""
    if gate.rate is None:
        return gate if not gate.starts else gate.model_copy(update={"starts": ()})
    begin = ms_of(now) - gate.window - CLOCK_MARGIN_MS
    kept = tuple(start for start in gate.starts if ms_of(start.timestamp()) > begin)[-MAX_STARTS:]
    return gate if kept == gate.starts else gate.model_copy(update={"starts": kept})
