"""What a job tells of the tasks that it submitted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ghcoord.faces.actions.annotations import Annotations
from ghcoord.faces.actions.commands import JobLog
from ghcoord.faces.actions.summary import code, table
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from ghcoord.model.task import Task

QUOTED = 50
"""Tasks whose output is repeated in the log, at most."""


def tell_ends(log: JobLog, tasks: Sequence[Task]) -> int:
    """Log what tasks said and annotate those that did not succeed; how many those are."""
    annotations = Annotations(log)
    failed = 0
    for number, task in enumerate(tasks):
        output = "" if task.result is None else task.result.output
        if number < QUOTED:
            with log.group(f"task {task.id} ({task.tool}) {task.state}"):
                said = [output.removesuffix("\n")] if output else []
                if why := why_not(task):
                    said.append(f"error: {why}")
                if said:
                    log.quote("\n".join(said))
        if task.state != "succeeded":
            failed += 1
            annotations.add("error", f"task {task.id} ({task.tool}) is {task.state}", why_not(task) or "see its log")
    annotations.close()
    return failed


def why_not(task: Task) -> str:
    """Why it did not succeed, as far as it says."""
    if task.state == "cancelled":
        return task.cancel_reason
    return "" if task.result is None else task.result.error


def outputs_of_one(task: Task, view: str) -> dict[str, object]:
    """The outputs of a step that submitted one; ``view`` is all of it as JSON."""
    result = task.result
    return {
        "task-id": task.id,
        "state": str(task.state),
        "success": task.state == "succeeded",
        "exit-code": None if result is None else result.exit_code,
        "output": None if result is None else result.output,
        "error": why_not(task),
        "task": view,
    }


def outputs_of_batch(tasks: Sequence[Task]) -> dict[str, object]:
    """The outputs of a step that submitted many."""
    states = Counter(str(task.state) for task in tasks)
    return {
        "task-ids": json.dumps([task.id for task in tasks]),
        "success": states["succeeded"] == len(tasks),
        "submitted": len(tasks),
        "succeeded": states["succeeded"],
        "failed": states["dead"],
        "cancelled": states["cancelled"],
    }


def parts(tasks: Sequence[Task]) -> Iterator[str]:
    """The summary in pieces, what did not succeed first."""
    states = Counter(str(task.state) for task in tasks)
    yield "### Tasks\n\n"
    yield f"{'; '.join(f'{count} {state}' for state, count in sorted(states.items())) or 'none'}\n"
    ordered = sorted(tasks, key=lambda task: task.state == "succeeded")
    yield from table(
        ("task", "tool", "state", "attempt", "worker", "took", "error"),
        (
            (
                code(task.id),
                code(task.tool),
                str(task.state),
                str(task.attempt or ""),
                code(task.worker or ""),
                "" if task.result is None else format_duration(task.result.duration),
                code(why_not(task)),
            )
            for task in ordered
        ),
    )
