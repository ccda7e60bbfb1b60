"""Which tasks a command means: the filters that listing and changing many share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from ghcoord.errors import UsageError
from ghcoord.faces.cli.common import check_each, duration, parse_pairs
from ghcoord.faces.cli.moments import parse_when

if TYPE_CHECKING:
    from ghcoord.hub import Hub, TaskQuery

STATES = ("scheduled", "blocked", "queued", "leased", "failed", "succeeded", "dead", "cancelled")

States = Annotated[
    list[str] | None,
    typer.Option("--state", "-s", metavar="S", help=f"{', '.join(STATES)}; several."),
]
Tool = Annotated[str | None, typer.Option("--tool", metavar="T", help="Only tasks of this tool.")]
Type = Annotated[str | None, typer.Option("--type", metavar="T", help="Only tasks of this type.")]
Worker = Annotated[
    str | None, typer.Option("--worker", metavar="ID", help="Only tasks that this worker runs, is to run, or ran.")
]
Key = Annotated[str | None, typer.Option("--key", metavar="K", help="Only tasks with this key.")]
Schedule = Annotated[str | None, typer.Option("--schedule", metavar="NAME", help="Only tasks of this schedule.")]
Batch = Annotated[str | None, typer.Option("--batch-id", metavar="ID", help="Only tasks of this batch.")]
By = Annotated[str | None, typer.Option("--by", metavar="WHO", help="Only tasks that this one submitted.")]
Meta = Annotated[list[str] | None, typer.Option("--meta", metavar="K=V", help="Only tasks with this metadata.")]
OlderThan = Annotated[float | None, duration("--older-than", help="Only tasks submitted at least so long ago.")]
EndedBefore = Annotated[
    str | None, typer.Option("--ended-before", metavar="TIME", help="Only tasks that ended before, or 2d ago.")
]


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters as they were given."""

    states: list[str] | None = None
    tool: str | None = None
    type: str | None = None
    worker: str | None = None
    key: str | None = None
    schedule: str | None = None
    batch: str | None = None
    by: str | None = None
    meta: list[str] | None = None
    older_than: float | None = None
    ended_before: str | None = None

    @property
    def given(self) -> bool:
        """Whether there is any."""
        return self != Filters()

    def query(self, hub: Hub) -> TaskQuery:
        """The query that they make; raises ``UsageError``."""
        from ghcoord.hub import TaskQuery

        check_each(self.states, STATES, "--state")
        return TaskQuery(
            states=tuple(self.states or ()),
            tool=self.tool,
            type=self.type,
            worker=self.worker,
            key=self.key,
            schedule=self.schedule,
            batch=self.batch,
            submitted_by=self.by,
            metadata=parse_pairs(self.meta, "--meta"),
            older_than=self.older_than,
            ended_before=None if self.ended_before is None else _moment(self.ended_before, hub.now()),
        )


def _moment(text: str, now: datetime) -> datetime:
    found = parse_when(text, now, "--ended-before")
    if isinstance(found, datetime):
        return found
    if isinstance(found, int):
        return datetime(1970, 1, 1, tzinfo=now.tzinfo) + timedelta(milliseconds=found)
    raise UsageError("--ended-before takes a time, or 2d for two days ago")
