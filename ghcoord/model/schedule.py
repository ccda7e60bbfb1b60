"""Schedules: the record, and what is fired when somebody looks at it."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ghcoord.errors import UsageError
from ghcoord.model.codec import Count, Moment, Record, stamp
from ghcoord.model.cron import Timetable, parse

GRACE = 120.0
"""Seconds after which a fire counts as missed: more than the clocks of two machines differ."""

MAX_GRACE = 86400.0

MOST_CAUGHT_UP = 500
"""Missed fires that are made up for at most, the newest ones."""

MAX_NAME = 100
"""Longest name in characters: the ids of its tasks are the name, a dot and the time."""


class Missed(StrEnum):
    """What becomes of fires that nobody was there for.

    ``latest``: one for all of them, unless another one is just due; ``skip``: none; ``all``: each.
    """

    LATEST = "latest"
    SKIP = "skip"
    ALL = "all"


class Template(BaseModel):
    """What each fire submits: the options of a submission by their names, as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tool: str = Field(min_length=1)
    args: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)


class Schedule(Record):
    """Submits a task again and again.

    ``cron`` is evaluated in ``timezone``; ``every`` intervals count from
    ``anchor``.  ``next_fire`` is the next due time, ``None`` while paused.
    ``last_fire`` is the due time last fired, ``last_task`` its task.  A fire
    that is more than ``grace`` seconds late is missed.
    """

    name: str = Field(min_length=1, max_length=MAX_NAME)
    cron: str
    timezone: str = "UTC"
    missed: Missed = Missed.LATEST
    grace: float = Field(default=GRACE, ge=0, le=MAX_GRACE)
    overlap: bool = True
    paused: bool = False
    template: Template
    anchor: Moment
    created_at: Moment
    created_by: str = ""
    next_fire: Moment | None = None
    last_fire: Moment | None = None
    last_task: str | None = None
    fires: Count = 0

    @model_validator(mode="after")
    def _readable(self) -> Schedule:
        try:
            self.timetable()
        except UsageError as error:
            raise ValueError(error.message) from None
        return self

    def timetable(self) -> Timetable:
        """When it is due; raises ``UsageError``."""
        return parse(self.cron, self.timezone, self.anchor)


class Plan(NamedTuple):
    """What is to be done now: the due times to ``fire``, in order, how many to leave out, and what comes next.

    ``left_out`` is at least so many where ``more`` says so.
    """

    fire: list[datetime]
    left_out: int = 0
    more: bool = False
    next_fire: datetime | None = None


def plan(schedule: Schedule, now: float, page: int) -> Plan:
    """What a look at ``schedule`` at the hub's time ``now`` (seconds) fires, at most ``page`` times.

    What is late by no more than the grace is fired, each time of it: it was not
    missed.  Of what was missed, the policy decides.
    """
    present = stamp(now)
    if schedule.paused or schedule.next_fire is None:
        return Plan([])
    if schedule.next_fire > present:
        return Plan([], next_fire=schedule.next_fire)
    table = schedule.timetable()
    due = table.newest(schedule.next_fire - timedelta(milliseconds=1), present, MOST_CAUGHT_UP + 1)
    more = len(due) > MOST_CAUGHT_UP
    in_time = [at for at in due if (present - at).total_seconds() <= schedule.grace]
    if schedule.missed is Missed.ALL:
        fire = due[-MOST_CAUGHT_UP:]
    elif schedule.missed is Missed.LATEST:
        fire = (in_time or due[-1:])[-MOST_CAUGHT_UP:]
    else:
        fire = in_time[-MOST_CAUGHT_UP:]
    following = fire[page] if len(fire) > page else next(table.after(present), None)
    return Plan(fire[:page], len(due) - len(fire), more, following)


def upcoming(schedule: Schedule, now: float, count: int) -> list[datetime]:
    """The next ``count`` due times after ``now`` (seconds), also of a paused schedule."""
    return list(islice(schedule.timetable().after(stamp(now)), count))


def following(schedule: Schedule, now: float) -> datetime | None:
    """The first due time after ``now`` (seconds); ``None`` for a paused schedule, and where the calendar ends."""
    return None if schedule.paused else next(schedule.timetable().after(stamp(now)), None)


def task_id(schedule: str, due: datetime) -> str:
    """The id of the task that ``schedule`` fires for the due time ``due``: each due time has one."""
    return f"{schedule}.{due:%Y%m%dT%H%M%SZ}"
