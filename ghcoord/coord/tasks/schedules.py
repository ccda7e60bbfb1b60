"""Schedules as their owners see them: put, looked at, paused, removed, run at once."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any, TypedDict, Unpack

from ghcoord.coord.context import SCHEDULE_TABLE, Context
from ghcoord.coord.layout import FLEET
from ghcoord.coord.queue import firing
from ghcoord.coord.tasks.submission import Submission, options_of, plain
from ghcoord.coord.tasks.submit import Offered
from ghcoord.errors import IllegalTransition, InvalidName, NotFound, UsageError
from ghcoord.ids import check_id
from ghcoord.model import schedule as model
from ghcoord.model.codec import stamp
from ghcoord.model.cron import parse
from ghcoord.model.requirements import Requirements
from ghcoord.model.schedule import GRACE, MAX_GRACE, MAX_NAME, Missed, Schedule, Template
from ghcoord.store.tx import Tx

MOST_UPCOMING = 1000
"""Due times that ``next`` tells at most."""


class TaskOptions(TypedDict, total=False):
    """What a schedule may say of its tasks; see :class:`~ghcoord.coord.tasks.submission.Submission`."""

    type: str | None
    priority: int
    retries: int
    backoff: float
    backoff_cap: float
    timeout: float | None
    estimated_duration: float | None
    requirements: Requirements | Mapping[str, Any] | None
    metadata: Mapping[str, Any]
    key: str | None
    concurrency: int | None
    rate: tuple[int, float] | None
    unique: bool
    unique_key: str | None
    unique_for: float | None
    unique_states: Collection[str] | None
    worker: str | None
    prefer: str | None
    prefer_for: float
    sandbox: str | None


class Schedules:
    """The schedules of a hub. Living workers fire them: with none alive nothing is submitted."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def put(
        self,
        name: str,
        cron: str,
        tool: str,
        args: Mapping[str, Any] | None = None,
        *,
        timezone: str = "UTC",
        missed: str = "latest",
        grace: float = GRACE,
        overlap: bool = True,
        paused: bool = False,
        replace: bool = True,
        **options: Unpack[TaskOptions],
    ) -> Schedule:
        """Submit ``tool`` with ``args`` at the times of ``cron``: five fields, ``@daily``, or ``every 15m``.

        A fire that is more than ``grace`` seconds late was missed: ``missed``
        says what becomes of those, ``latest`` one for all, ``skip`` none,
        ``all`` each.  Without ``overlap`` a fire is left out while the task of
        an earlier one has not ended.  ``options`` are those of a submission.

        A schedule of that name is replaced; with the same times it goes on
        where it was.  Raises ``UsageError`` naming what is wrong, and, without
        ``replace``, ``IllegalTransition`` where there is another of that name.
        """
        _check_name(name)
        template = _template(tool, args or {}, options, overlap)
        if missed not in tuple(Missed):
            raise UsageError(f"missed {missed!r} is unknown: one of {', '.join(Missed)}")
        if isinstance(grace, bool) or not isinstance(grace, int | float) or not 0 <= grace <= MAX_GRACE:
            raise UsageError(f"a grace of {grace!r} s is out of range: give 0 to {MAX_GRACE:.0f}")
        parse(cron, timezone, stamp(self._context.now()).replace(microsecond=0))
        actor = self._context.actor

        def run(tx: Tx) -> Schedule:
            old = firing.get(tx, name)
            goes_on = old is not None and (old.cron, old.timezone) == (cron, timezone)
            anchor = old.anchor if old is not None and goes_on else stamp(tx.now).replace(microsecond=0)
            fresh = Schedule(
                name=name,
                cron=cron,
                timezone=timezone,
                missed=Missed(missed),
                grace=grace,
                overlap=overlap,
                paused=paused,
                template=template,
                anchor=anchor,
                created_at=stamp(tx.now) if old is None else old.created_at,
                created_by=actor if old is None else old.created_by,
                last_fire=None if old is None else old.last_fire,
                last_task=None if old is None else old.last_task,
                fires=0 if old is None else old.fires,
            )
            kept = old is not None and goes_on and not old.paused and not paused
            due = old.next_fire if old is not None and kept else model.following(fresh, tx.now)
            fresh = fresh.model_copy(update={"next_fire": due})
            if old is not None and fresh != old and not replace:
                raise IllegalTransition(f"there is another schedule {name!r} ({old.cron}): replace or remove it")
            return self._put(tx, old, fresh, "schedule set")

        return self._context.transact((FLEET,), run)

    def get(self, name: str) -> Schedule | None:
        """The schedule called ``name``."""
        return SCHEDULE_TABLE.find(self._context.snapshot(FLEET), name)

    def list(self) -> builtins.list[Schedule]:
        """All schedules by name."""
        return sorted(SCHEDULE_TABLE.scan(self._context.snapshot(FLEET)), key=lambda schedule: schedule.name)

    def next(self, name: str, count: int = 1) -> builtins.list[datetime]:
        """The next ``count`` times at which it is due, also of a paused schedule. Raises ``NotFound``."""
        if not 0 < count <= MOST_UPCOMING:
            raise UsageError(f"{count} times are out of range: give 1 to {MOST_UPCOMING}")
        return model.upcoming(self._need(name), self._context.now(), count)

    def pause(self, name: str) -> Schedule:
        """Fire no more until resumed. Raises ``NotFound``."""
        return self._change(name, "schedule paused", lambda one, now: {"paused": True, "next_fire": None})

    def resume(self, name: str) -> Schedule:
        """Fire again, from the next due time on; what was due in between is not made up for. Raises ``NotFound``."""

        def resumed(one: Schedule, now: float) -> dict[str, Any]:
            active = one.model_copy(update={"paused": False})
            return {"paused": False, "next_fire": one.next_fire if not one.paused else model.following(active, now)}

        return self._change(name, "schedule resumed", resumed)

    def remove(self, name: str) -> Schedule:
        """Take a schedule away; its tasks stay. Returns what it was. Raises ``NotFound``."""

        def run(tx: Tx) -> Schedule:
            old = _need(tx, name)
            SCHEDULE_TABLE.remove(tx, FLEET, name)
            firing.move(tx, old, None)
            tx.event(FLEET, "schedule removed", schedule=name, by=self._context.actor)
            return old

        return self._context.transact((FLEET,), run)

    def run_now(self, name: str) -> Offered:
        """Submit its task at once, besides its times, also while it is paused.

        Where tasks must not overlap, or are unique, the one that is there is
        returned.  Raises ``NotFound``.
        """
        actor = self._context.actor

        def run(tx: Tx) -> Offered:
            schedule = _need(tx, name)
            task, other = firing.submit(tx, schedule, None, None, actor)
            if task is None:
                assert other is not None
                return Offered(other, False)
            SCHEDULE_TABLE.put(tx, FLEET, name, schedule.model_copy(update={"last_task": task.id}))
            return Offered(task, True)

        return self._context.transact((FLEET,), run)

    def _change(self, name: str, kind: str, change: Callable[[Schedule, float], dict[str, Any]]) -> Schedule:
        def run(tx: Tx) -> Schedule:
            old = _need(tx, name)
            return self._put(tx, old, old.model_copy(update=change(old, tx.now)), kind)

        return self._context.transact((FLEET,), run)

    def _put(self, tx: Tx, old: Schedule | None, new: Schedule, kind: str) -> Schedule:
        if new != old:
            firing.put(tx, old, new)
            tx.event(FLEET, kind, schedule=new.name, cron=new.cron, by=self._context.actor)
        return new

    def _need(self, name: str) -> Schedule:
        found = self.get(name)
        if found is None:
            raise NotFound(f"there is no schedule {name!r}")
        return found


def _need(tx: Tx, name: str) -> Schedule:
    found = SCHEDULE_TABLE.get(tx, FLEET, name)
    if found is None:
        raise NotFound(f"there is no schedule {name!r}")
    return found


def _check_name(name: str) -> None:
    check_id(name, "schedule name")
    if len(name) > MAX_NAME:
        raise InvalidName(f"the schedule name has {len(name)} characters: at most {MAX_NAME} are accepted")


def _template(tool: str, args: Mapping[str, Any], options: Mapping[str, Any], overlap: bool) -> Template:
    known = {one.name for one in fields(Submission)} - {
        "tool",
        "args",
        "id",
        "after",
        "if_failed",
        "not_before",
        "session",
        "trace",
    }
    for name in options:
        if name not in known:
            raise UsageError(f"{name!r} is no option of a schedule's tasks: one of {', '.join(sorted(known))}")
    one = Submission(tool, args, **options)
    one.check()
    if one.is_unique and not overlap:
        raise UsageError("tasks that must not overlap have a unique key already: give overlap=False or unique")
    return Template(tool=tool, args=plain(args), options=plain(dict(options_of(one))))
