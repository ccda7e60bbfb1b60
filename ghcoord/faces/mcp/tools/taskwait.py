"""The tool that waits for tasks, a bounded while at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from ghcoord.errors import WaitTimeout
from ghcoord.faces.mcp.advice import for_agent
from ghcoord.faces.mcp.answer import Answer
from ghcoord.faces.mcp.call import MAX_WAIT, Call
from ghcoord.faces.mcp.rows import TaskRow, progress_line, task_line, task_row
from ghcoord.faces.mcp.shown import line, rows
from ghcoord.faces.mcp.toolspec import Arguments, Returns, Toolset, tool
from ghcoord.faces.mcp.visible import find_task, need_task
from ghcoord.faces.mcp.waits import Stop
from ghcoord.model.task import ENDED, State, Task

MAX_WAITED = 50
"""Tasks that one call waits for."""

MAX_EXPLAINED = 3
"""Tasks of which a wait that was in vain says why no worker takes them."""

LOOK = 1.0
"""Seconds after which a wait tells of progress and looks whether the client has given it up."""

_Id = Annotated[str, Field(min_length=1, max_length=128)]


class Wait(Arguments):
    """Of ``task_wait``."""

    ids: tuple[_Id, ...] = Field(min_length=1, max_length=MAX_WAITED, description="The tasks to wait for.")
    wait_s: float = Field(default=30.0, ge=0, le=MAX_WAIT, description="Seconds to wait at most, up to 45.")
    any: bool = Field(default=False, description="Return as soon as one of them has ended, not all.")


class Waited(Returns):
    """What ``task_wait`` returns."""

    done: bool = Field(description="Whether all (with any: one of them) have ended. If not, call it again.")
    tasks: list[TaskRow] = Field(description="All of them as they are now.")
    not_ended: list[str] = Field(description="Ids of those that go on.")


@tool(
    "task_wait",
    title="Wait for tasks",
    toolset=Toolset.TASKS,
    takes=Wait,
    returns=Waited,
    read_only=True,
    idempotent=True,
)
def task_wait(call: Call, args: Wait) -> Answer:
    """Wait up to 45 seconds for tasks to end, and return how they stand. If done is false nothing is wrong: call it
    again with the same ids. A task that failed makes this an error; task_result and task_logs say why it did."""
    ids = list(dict.fromkeys(args.ids))
    for task_id in ids:
        need_task(call, task_id)
    end = call.wait_until(args.wait_s)
    stop = Stop(call, lambda: f"waiting for {len(ids)} tasks")
    while not _ended(call, ids, args.any, end) and not stop.is_set():
        left = end - call.services.runtime.monotonic()
        if left <= 0:
            break
        _tell(call, ids, stop)
    found = [find_task(call, task_id) for task_id in ids]
    tasks = [task for task in found if task is not None]
    going = [task.id for task in tasks if not task.ended]
    done = len(going) < len(tasks) if args.any else not going
    data = [task_row(task) for task in tasks]
    failed = any(task.ended and task.state is not State.SUCCEEDED for task in tasks)
    return Answer(
        rows([task_line(row) for row in data], "The tasks are gone.", _next_step(call, tasks, going, done)),
        {"done": done, "tasks": data, "not_ended": going},
        failed=failed and done,
    )


def _ended(call: Call, ids: Sequence[str], first: bool, end: float) -> bool:
    """Whether they have ended, after at most :data:`LOOK` seconds or at ``end``."""
    left = max(0.0, end - call.services.runtime.monotonic())
    try:
        call.hub.tasks.wait_many(ids, min(LOOK, left), any=first)
    except WaitTimeout:
        return False
    return True


def _tell(call: Call, ids: Sequence[str], stop: Stop) -> None:
    """Progress of the one that is waited for, as its worker last published it; else a sign of life."""
    task = find_task(call, ids[0]) if len(ids) == 1 else None
    if task is not None and task.progress is not None and not task.ended:
        said = task_row(task)["progress"]
        call.progress(task.progress.fraction, progress_line(said) or f"task {task.id} runs")
    else:
        stop.beat(call.services.runtime.monotonic())


def _next_step(call: Call, tasks: Sequence[Task], going: Sequence[str], done: bool) -> str:
    if done:
        failed = any(task.state in ENDED - {State.SUCCEEDED} for task in tasks)
        return f"Next: task_result for what they returned{', task_logs for why one failed' if failed else ''}."
    looked_at = [task for task in tasks if task.id in going][:MAX_EXPLAINED]
    waits = {why: task.id for task in looked_at if (why := line(for_agent(call.hub.tasks.why_waits(task)), 300))}
    stuck = "".join(f" {task_id} waits: {why}." for why, task_id in waits.items())
    return f"Not ended yet.{stuck} Next: call task_wait again with the same ids, or task_cancel."
