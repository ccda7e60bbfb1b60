"""The record of a scaler: who scales, and each run that was asked for.

A run is written down before it is asked for, under the id that its worker is
going to have.  So whatever happens on the way, one can look whether it is there.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from ghcoord.model.codec import Moment, Number, Record, Token, stamp
from ghcoord.model.lease import Lease

MAX_RUNS = 2000
"""Runs that a record holds: those of an hour at the most that one may start in it, and the late ones of a day."""

MAX_LEASE = 3600.0
"""Longest lease of a scaler in seconds; a longer one in a record is a person's mistake."""

MAX_TEXT = 300
"""Characters of a URL or a reason that are kept."""


class RunState(StrEnum):
    """``intended``: written down, and maybe asked for. ``accepted``: the server took it. ``cancelling``: it did not
    start in time. ``started``: its worker was seen. ``ended``: nothing of it is left. ``lost``: given up, and may
    still come.
    """

    INTENDED = "intended"
    ACCEPTED = "accepted"
    CANCELLING = "cancelling"
    STARTED = "started"
    ENDED = "ended"
    LOST = "lost"


PENDING = frozenset({RunState.INTENDED, RunState.ACCEPTED, RunState.CANCELLING})
"""States of runs whose worker may be about to appear."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class Run(_Part):
    """One run. ``worker`` is the id of its worker; ``since`` is when its state began.

    ``worked``: its worker was seen with a task.  ``failed``: it came to nothing.
    """

    worker: str = Field(min_length=1, max_length=128)
    state: RunState = RunState.INTENDED
    intended_at: Moment
    since: Moment
    run_id: Number | None = None
    url: str = Field(default="", max_length=MAX_TEXT)
    worked: bool = False
    failed: bool = False
    why: str = Field(default="", max_length=MAX_TEXT)

    def to(self, state: RunState, now: float, why: str = "", *, failed: bool = False) -> Run:
        """The run in another state from ``now`` (seconds) on; itself where it is in that state."""
        if state is self.state:
            return self
        changes = {"state": state, "since": stamp(now), "why": why[:MAX_TEXT], "failed": failed}
        return self.model_copy(update=changes)


class Leader(_Part):
    """Who scales, under a lease: as of a lock, ``token`` tells one time of leading from another."""

    id: str = Field(min_length=1, max_length=300)
    token: Token
    renewal: Token
    ttl: float = Field(gt=0, le=MAX_LEASE)
    renewed_at: Moment

    @property
    def lease(self) -> Lease:
        return Lease(self.id, self.token, self.renewal, self.ttl, self.renewed_at)


class Scaler(Record):
    """All that is known of one scaler. ``place`` is the workflow and where it is, for people.

    ``surplus_since``: since when there are idle workers that nobody needs.
    """

    name: str = Field(min_length=1, max_length=128)
    place: str = Field(default="", max_length=MAX_TEXT)
    minimum: Number = 0
    maximum: Number = 0
    leader: Leader | None = None
    surplus_since: Moment | None = None
    runs: tuple[Run, ...] = Field(default=(), max_length=MAX_RUNS)


def scaler_key(name: str) -> str:
    """What observers call the lease of a scaler's leader."""
    return f"scaler:{name}"


def sane(scaler: Scaler, now: float, margin: float) -> Scaler:
    """``scaler`` as time can have made it: no moment lies ahead of ``now`` by more than clocks differ, each run once.

    A stamp in the far future, which a person or a wrong clock wrote, would else
    hold everything up until then.
    """
    latest = stamp(now + margin)

    def past(moment: datetime) -> datetime:
        return moment if moment <= latest else stamp(now)

    runs = {
        run.worker: run.model_copy(update={"intended_at": past(run.intended_at), "since": past(run.since)})
        if max(run.intended_at, run.since) > latest
        else run
        for run in scaler.runs
    }
    changes: dict[str, object] = {}
    if tuple(runs.values()) != scaler.runs:
        changes["runs"] = tuple(runs.values())
    if scaler.leader is not None and scaler.leader.renewed_at > latest:
        changes["leader"] = scaler.leader.model_copy(update={"renewed_at": stamp(now)})
    if scaler.surplus_since is not None and scaler.surplus_since > latest:
        changes["surplus_since"] = stamp(now)
    return scaler.model_copy(update=changes) if changes else scaler
