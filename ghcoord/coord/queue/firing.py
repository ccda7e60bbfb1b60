"""Schedules: tasks made at their times, each due time exactly once.

A schedule's task and its next due time are written in one transaction, and the
task's id follows from schedule and due time.  So it does not matter how many
workers look, whose clock is ahead, or which of them dies.
"""

from __future__ import annotations

from datetime import datetime

from ghcoord.coord.context import SCHEDULE_TABLE
from ghcoord.coord.layout import FIRING, FLEET
from ghcoord.coord.queue import counts, lookup, records, timers, uniqueness
from ghcoord.coord.tasks.submission import OPEN, Submission, build
from ghcoord.errors import Corrupt, GhcoordError, InvalidName, NewerSchema, UsageError
from ghcoord.model import schedule as model
from ghcoord.model.schedule import Schedule
from ghcoord.model.task import Task, Unique
from ghcoord.store.tx import Tx

SCHEDULES_AT_ONCE = 100
"""Schedules that one transaction fires at most."""

TASKS_AT_ONCE = 200
"""Tasks that it makes at most; what is left is due at once."""

BYTES_AT_ONCE = 4 * 1024 * 1024
"""Bytes of arguments of these tasks, but for the last."""

SCHEDULED_FOR = "scheduled_for"
"""Key of a fired task's metadata with its due time."""

TRY_AGAIN = 300.0
"""Seconds until a schedule is looked at again that could not be read."""


def get(tx: Tx, name: str) -> Schedule | None:
    """The schedule, or ``None`` when there is none or a person broke its record."""
    try:
        return SCHEDULE_TABLE.get(tx, FLEET, name)
    except (Corrupt, NewerSchema, InvalidName):
        return None


def put(tx: Tx, old: Schedule | None, new: Schedule) -> None:
    """Write a schedule, with its timer."""
    SCHEDULE_TABLE.put(tx, FLEET, new.name, new)
    move(tx, old, new)


def move(tx: Tx, old: Schedule | None, new: Schedule | None) -> None:
    """Bring the timer from one state of a schedule to the next; ``None`` where there is none."""
    before, after = (one.next_fire if one is not None else None for one in (old, new))
    if before == after:
        return
    if old is not None and before is not None:
        timers.remove(tx, FIRING, before.timestamp(), old.name)
    if new is not None and after is not None:
        timers.add(tx, FIRING, after.timestamp(), new.name)


def next_fire(tx: Tx) -> float | None:
    """When the next schedule fires, in seconds since the epoch."""
    return timers.next(tx, FIRING)


def fire_due(tx: Tx) -> int:
    """Make the tasks of the schedules that are due; returns how many."""
    made = 0
    room = BYTES_AT_ONCE
    for at, name in timers.due(tx, FIRING, SCHEDULES_AT_ONCE):
        schedule = get(tx, name)
        if schedule is None or schedule.next_fire is None or abs(schedule.next_fire.timestamp() - at) >= 0.001:
            _forget(tx, at, name)
            continue
        if made >= TASKS_AT_ONCE or room <= 0:
            break
        fired = _fire(tx, schedule, TASKS_AT_ONCE - made)
        made += len(fired)
        room -= sum(records.size_of(tx, task) for task in fired)
    return made


def _forget(tx: Tx, at: float, name: str) -> None:
    """Drop the timer of a schedule that is gone; look later at one that only cannot be read here."""
    timers.remove(tx, FIRING, at, name)
    try:
        there = get(tx, name) is None and tx.read(FLEET, SCHEDULE_TABLE.path(name)) is not None
    except InvalidName:
        return
    if there:
        timers.add(tx, FIRING, tx.now + TRY_AGAIN, name)
        tx.event(FLEET, "schedule cannot be read", schedule=name)


def _fire(tx: Tx, schedule: Schedule, page: int) -> list[Task]:
    """Make the tasks that are due of one schedule, and set its next due time."""
    plan = model.plan(schedule, tx.now, page)
    if plan.left_out:
        tx.event(FLEET, "schedule missed fires", schedule=schedule.name, fires=plan.left_out, more=plan.more or None)
    made = [task for due in plan.fire if (task := _make(tx, schedule, due)) is not None]
    changes = {
        "next_fire": plan.next_fire,
        "last_fire": plan.fire[-1] if plan.fire else schedule.last_fire,
        "last_task": made[-1].id if made else schedule.last_task,
        "fires": schedule.fires + len(made),
    }
    put(tx, schedule, schedule.model_copy(update=changes))
    return made


def _make(tx: Tx, schedule: Schedule, due: datetime) -> Task | None:
    """The task for one due time; ``None``, with an event that says why, when it cannot be."""
    task_id = model.task_id(schedule.name, due)
    try:
        if lookup.is_there(tx, task_id):
            tx.event(FLEET, "schedule fire skipped", schedule=schedule.name, task=task_id, reason="the task is there")
            return None
        task, other = submit(tx, schedule, task_id, due, f"schedule {schedule.name}")
    except GhcoordError as error:
        tx.event(FLEET, "schedule cannot fire", schedule=schedule.name, task=task_id, reason=error.message[:300])
        return None
    if other is not None:
        reason = f"task {other.id} is {other.state}"
        tx.event(FLEET, "schedule fire skipped", schedule=schedule.name, task=task_id, reason=reason)
    return task


def submit(
    tx: Tx, schedule: Schedule, wanted: str | None, due: datetime | None, actor: str
) -> tuple[Task | None, Task | None]:
    """Queue a task of ``schedule``, or return as the second one the other beside which it must not stand.

    Without an id it gets the next free one.  Raises ``GhcoordError`` for what no submission may say.
    """
    one = submission_of(schedule)
    terms = one.unique_terms() if schedule.overlap else alone(schedule.name)
    other = uniqueness.find(tx, terms) if terms is not None else None
    if other is not None:
        return None, other
    sequence = counts.read(tx).sequence
    task_id = wanted or f"t{sequence}"
    while wanted is None and lookup.is_there(tx, task_id):
        sequence += 1
        task_id = f"t{sequence}"
    task = build(one, task_id, sequence, now=tx.now, actor=actor, schedule=schedule.name)
    stamped = {} if due is None else {SCHEDULED_FOR: f"{due:%Y-%m-%dT%H:%M:%SZ}"}
    task = task.model_copy(update={"unique": terms, "metadata": {**task.metadata, **stamped}})
    counts.check_classes(tx, [task])
    (task,) = records.add(tx, [task])
    kind = "task submitted" if due is None else "schedule fired"
    tx.event(FLEET, kind, schedule=schedule.name, task=task.id, tool=task.tool, key=records.key_of(task), by=actor)
    return task, None


def submission_of(schedule: Schedule) -> Submission:
    """What a schedule submits, checked; raises ``UsageError`` for options that people made up."""
    template = schedule.template
    fields = Submission.__dataclass_fields__
    known = {name: value for name, value in template.options.items() if name in fields and value is not None}
    one = Submission(template.tool, template.args, **known)
    try:
        one.check()
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"the options of the schedule {schedule.name!r} cannot be read: {error}") from None
    if one.session is not None:
        raise UsageError(f"the schedule {schedule.name!r} names a session: a schedule makes tasks of their own only")
    return one


def alone(name: str) -> Unique:
    """The unique key of a schedule whose tasks must not overlap."""
    return Unique(digest=uniqueness.digest_of("schedule", name), states=OPEN)


def rebuild(tx: Tx) -> None:
    """Make the timers anew from the schedules; those that people wrote get their next due time."""
    for path in list(tx.walk(FLEET, FIRING)):
        tx.delete(FLEET, path)
    for schedule in list(SCHEDULE_TABLE.all(tx, FLEET)):
        due = schedule.next_fire if schedule.next_fire is not None else model.following(schedule, tx.now)
        put(tx, None, schedule.model_copy(update={"next_fire": None if schedule.paused else due}))
