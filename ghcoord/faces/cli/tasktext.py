"""Tasks as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ghcoord.faces import views
from ghcoord.faces.cli.output import clean, clean_text, fields, table, to_json
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from ghcoord.model.task import Task


def show_table(tasks: Sequence[Task]) -> None:
    """A line a task."""
    table(
        ("ID", "TOOL", "STATE", "PRI", "TRY", "WORKER", "RESULT"),
        [(task.id, task.tool, task.state, task.priority, task.attempt, task.worker, in_short(task)) for task in tasks],
        keep=("ID",),
        right=("PRI", "TRY"),
        empty="no tasks",
    )


def in_short(task: Task) -> str:
    """What there is to say of a task: its result, its progress, or what it waits for."""
    if task.state == "cancelled":
        return task.cancel_reason or "-"
    if task.state == "blocked" and task.dependencies is not None:
        return f"after {', '.join(task.dependencies.waiting_for)}"
    if task.state == "scheduled" and task.due_at is not None:
        return f"due {views.iso(task.due_at)}"
    if task.result is not None:
        return (task.result.output.strip() if task.result.success else task.result.error) or "-"
    if task.progress is not None:
        percent = f"{task.progress.fraction:.0%} " if task.progress.fraction is not None else ""
        return (percent + task.progress.message).strip() or "-"
    return "-"


def show_task(task: Task, why: str = "") -> None:
    """All about a task: its options, attempts and result; ``why`` it waits."""
    result = task.result
    fields(
        [
            ("task", task.id),
            ("tool", task.tool),
            ("type", task.type if task.type not in ("", task.tool) else None),
            ("args", to_json(task.args, None)),
            ("state", _state(task)),
            ("waits", why or None),
            ("priority", task.priority),
            ("attempts", _attempts(task)),
            ("worker", task.worker),
            ("meant for", _assigned(task)),
            ("session", task.session),
            ("needs", _needs(task)),
            ("created", f"{views.iso(task.created_at)} by {task.submitted_by}"),
            ("schedule", task.schedule),
            ("batch", task.batch),
            ("trace", task.trace or None),
            ("not before", views.iso_or_none(task.not_before)),
            ("due", views.iso_or_none(task.due_at)),
            ("after", _after(task)),
            ("limit", _limit(task)),
            ("unique", _unique(task)),
            ("ended", views.iso_or_none(task.ended_at)),
            ("estimate", None if task.estimated_duration is None else format_duration(task.estimated_duration)),
            ("timeout", None if task.timeout is None else format_duration(task.timeout)),
            ("progress", short if task.lease is not None and (short := in_short(task)) != "-" else None),
            ("reason", task.cancel_reason or None),
            ("metadata", to_json(task.metadata, None) if task.metadata else None),
            ("error", result.error if result is not None and result.error not in ("", "cancelled") else None),
            ("exit code", result.exit_code if result is not None else None),
            ("duration", format_duration(result.duration) if result is not None else None),
        ]
    )
    for one in task.history:
        why = f": {one.error}" if one.error not in ("", one.outcome) else ""
        print(clean(f"  try {one.attempt} on {one.worker}: {one.outcome}{why}"))
    if result is not None and result.output:
        print(clean_text(result.output.rstrip("\n")))


def _state(task: Task) -> str:
    asked = task.cancel_requested and not task.ended
    return f"{task.state}, its worker is asked to cancel it" if asked else str(task.state)


def _attempts(task: Task) -> str:
    """``2, 1 failed of 3 allowed, 1 lost with its worker``."""
    if not task.attempt:
        return f"none yet, {task.max_failures} allowed" if not task.ended else "none"
    parts = [str(task.attempt), f"{task.failures} failed of {task.max_failures} allowed"]
    return ", ".join([*parts, *([f"{task.lost} lost with their lease"] if task.lost else [])])


def _assigned(task: Task) -> str | None:
    meant = task.assigned
    if meant is None or task.ended:
        return None
    if meant.pinned:
        return f"{meant.worker} only"
    return meant.worker if meant.until is None else f"{meant.worker} until {views.iso(meant.until)}"


def _needs(task: Task) -> str | None:
    need = task.need
    parts = [f"{need.cpu_cores} cores"] if need.cpu_cores else []
    parts += [f"{need.memory_mb} MiB"] if need.memory_mb else []
    parts += [f"a {need.tier} sandbox"] if need.tier != "none" else []
    return ", ".join([*parts, *need.capabilities]) or None


def _after(task: Task) -> str | None:
    waits = task.dependencies
    if waits is None:
        return None
    left = f", waits for {', '.join(waits.waiting_for)}" if waits.waiting_for else ""
    return f"{', '.join(waits.after)} (if one fails: {waits.if_failed}){left}"


def _limit(task: Task) -> str | None:
    return None if task.limit is None else f"{task.limit.key}: {', '.join(_limits(task))}"


def _limits(task: Task) -> Iterator[str]:
    limit = task.limit
    if limit is not None and limit.concurrency is not None:
        yield f"{limit.concurrency} at a time"
    if limit is not None and limit.rate is not None and limit.period is not None:
        yield f"{limit.rate} in {format_duration(limit.period)}"


def _unique(task: Task) -> str | None:
    terms = task.unique
    if terms is None:
        return None
    period = "" if terms.period is None else f" for {format_duration(terms.period)}"
    return f"while {', '.join(terms.states)}{period}"
