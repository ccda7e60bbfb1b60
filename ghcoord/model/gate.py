"""Gates: how many tasks of a key run, when they started, and how many more may start now."""

from __future__ import annotations

import math

from pydantic import Field

from ghcoord.model.codec import Count, Moment, Record, ms_of, stamp
from ghcoord.model.task import MAX_CONCURRENCY, MAX_PERIOD, MAX_RATE, Limit

UNLIMITED = 1_000_000
"""What counts as no limit: more than any worker leases at a time."""


class Gate(Record):
    """What is known of one key.

    The limits are those of the latest submission.  ``running`` counts the
    leased tasks; ``starts`` are those within the window, oldest first.
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

    def room(self, now: float) -> int:
        """How many more tasks may start at the hub's time ``now`` (seconds)."""
        free = UNLIMITED if self.concurrency is None else max(0, self.concurrency - self.running)
        if self.rate is None:
            return free
        begin = ms_of(now) - self.window
        recent = sum(1 for start in self.starts if ms_of(start.timestamp()) > begin)
        return min(free, max(0, self.rate - recent))

    def next_room(self) -> float | None:
        """When the rate lets another task start, in seconds; ``None`` when it is not what is in the way."""
        if self.rate is None or len(self.starts) < self.rate:
            return None
        return (ms_of(sorted(self.starts)[-self.rate].timestamp()) + self.window) / 1000

    def ends_at(self) -> float | None:
        """When the last start has left the window, in seconds."""
        return (ms_of(max(self.starts).timestamp()) + self.window) / 1000 if self.starts else None


def limited(gate: Gate, limit: Limit) -> Gate:
    """``gate`` under the limits of a new submission. A window that gets longer knows only what was kept."""
    return gate.model_copy(update={"concurrency": limit.concurrency, "rate": limit.rate, "period": limit.period})


def moved(gate: Gate, *, stopped: int, started: int, now: float) -> Gate:
    """``gate`` after so many of its tasks stopped and started at the hub's time ``now`` (seconds).

    A start never counts as before the one before it: the clocks of two machines differ.
    """
    starts = gate.starts
    if started and gate.rate is not None:
        at = stamp(now)
        starts = (*starts, *[max(at, *starts)] * started) if starts else (at,) * started
    return gate.model_copy(update={"running": max(0, gate.running + started - stopped), "starts": starts})


def pruned(gate: Gate, now: float) -> Gate:
    """``gate`` with only the starts that still count at the hub's time ``now`` (seconds)."""
    if gate.rate is None:
        return gate if not gate.starts else gate.model_copy(update={"starts": ()})
    begin = ms_of(now) - gate.window
    kept = tuple(start for start in gate.starts if ms_of(start.timestamp()) > begin)[-MAX_RATE:]
    return gate if kept == gate.starts else gate.model_copy(update={"starts": kept})
