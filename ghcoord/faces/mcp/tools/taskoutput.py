"""Tools for what a task left: its result, and what it printed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from ghcoord.faces.mcp.advice import for_agent
from ghcoord.faces.mcp.answer import Answer, Failure
from ghcoord.faces.mcp.call import Call
from ghcoord.faces.mcp.shown import MAX_DATA, MAX_PAGE, TextPage, bounded, cut, json_line, line, page_of, text
from ghcoord.faces.mcp.toolspec import Arguments, Returns, Toolset, tool
from ghcoord.faces.mcp.visible import need_task
from ghcoord.faces.views import result_view
from ghcoord.model.task import Task, TaskResult

MAX_OUTPUT = 16_000
"""Characters of a task's output in its result; task_logs has the rest."""

_SHOWN = ("stdout", "stderr", "exit_code")
"""Fields of a command's data that the text says in other places."""

MAX_OFFSET = 1 << 40
"""Characters: no output is as long."""


class Result(Arguments):
    """Of ``task_result``."""

    task_id: str = Field(min_length=1, max_length=128, description="The task's id, as task_submit gave it.")


class ResultOf(Returns):
    """What ``task_result`` returns."""

    id: str
    state: str
    ended: bool
    success: bool | None = Field(description="Whether its last try succeeded; null when none has ended.")
    output: str = Field(description="Standard output, or the tool's text; its end is cut when it is long.")
    error: str
    exit_code: int | None
    duration: float | None = Field(description="Seconds.")
    data: dict[str, Any] = Field(description="The tool's own fields; a registered function's value is in 'value'.")
    artifacts: list[str] = Field(description="Ids of files that it stored: see artifact_get.")
    truncated: bool = Field(description="Whether something was left out for its size: task_logs has all output.")
    log: str = Field(description="The resource with all that it printed.")


@tool(
    "task_result",
    title="Get a task's result",
    toolset=Toolset.TASKS,
    takes=Result,
    returns=ResultOf,
    read_only=True,
    idempotent=True,
)
def task_result(call: Call, args: Result) -> Answer:
    """Get what a task returned: success, output, error, exit code, data and the ids of its artifacts. It does not
    wait: call task_wait first. A task that failed, or was cancelled before it ran, makes this an error."""
    task = need_task(call, args.task_id)
    if task.result is None and not task.ended:
        raise Failure(
            f"the task {task.id} has no result yet: it is {task.state}",
            "Call task_wait with its id, then task_result again.",
            code="NO_RESULT",
            retryable=True,
        )
    data = _data(task)
    failed = task.ended and data["success"] is not True
    said = [f"Task {task.id} is {task.state}{_why(task)}"]
    if task.result is not None:
        said.append(f"{_ended(task.result)}{task.result.duration:.1f} s")
        said += [f"error: {text(data['error'])}"] if data["error"] else []
        said += [f"output:\n{text(data['output'])}"] if data["output"] else []
        errors = data["data"].get("stderr")
        said += [f"standard error:\n{text(errors)}"] if isinstance(errors, str) and errors else []
        rest = {key: one for key, one in data["data"].items() if key not in _SHOWN}
        said += [f"data: {json_line(rest, 4000)}"] if rest else []
        said += [f"artifacts: {line(', '.join(data['artifacts']))} (artifact_get)"] if data["artifacts"] else []
    if data["truncated"] or failed:
        said.append("Next: task_logs for all that it printed.")
    if not task.ended:
        said.append("Next: it is tried again; call task_wait.")
    return Answer("\n".join(said), data, failed=failed)


def _ended(result: TaskResult) -> str:
    """How its command ended; nothing of a tool that has none."""
    if result.exit_code is None:
        return "" if result.success else "it was ended, or did not begin; "
    return f"exit code {result.exit_code}, "


def _why(task: Task) -> str:
    return f": {line(task.cancel_reason)}" if task.cancel_reason else ""


def _data(task: Task) -> dict[str, Any]:
    head = {"id": task.id, "state": str(task.state), "ended": task.ended, "log": f"ghcoord://tasks/{task.id}/log"}
    if task.result is None:
        nothing: dict[str, Any] = {"success": None, "output": "", "error": "", "exit_code": None, "duration": None}
        return {**head, **nothing, "data": {}, "artifacts": [], "truncated": False}
    view = result_view(task.result)
    own = bounded(view["data"], MAX_DATA, MAX_OUTPUT)
    output, error = cut(view["output"], MAX_OUTPUT), cut(for_agent(view["error"]), MAX_OUTPUT)
    whole = (output, error, own) == (view["output"], for_agent(view["error"]), view["data"])
    shown = {name: view[name] for name in ("success", "exit_code", "duration")}
    return {
        **head,
        **shown,
        "output": output,
        "error": error,
        "data": own,
        "artifacts": [str(one)[:64] for one in view["artifacts"][:100]],
        "truncated": view["truncated"] or not whole,
    }


class Logs(Arguments):
    """Of ``task_logs``."""

    task_id: str = Field(min_length=1, max_length=128, description="The task's id, as task_submit gave it.")
    offset: int = Field(
        default=0,
        ge=-MAX_PAGE,
        le=MAX_OFFSET,
        description="Character to begin at; negative counts from the end: -2000 for the last 2000.",
    )
    limit: int = Field(default=8_000, ge=1, le=MAX_PAGE, description="Characters at most.")


class LogPage(Returns):
    """What ``task_logs`` returns."""

    id: str
    text: str
    offset: int = Field(description="Where this text begins.")
    next_offset: int | None = Field(description="For the next page; null when there is no more now.")
    missed: int = Field(description="Characters between the asked offset and this text that are not known yet.")
    ended: bool = Field(description="Whether the task has ended, so that this is all of its output.")


@tool(
    "task_logs",
    title="Read a task's output",
    toolset=Toolset.TASKS,
    takes=Logs,
    returns=LogPage,
    read_only=True,
    idempotent=True,
)
def task_logs(call: Call, args: Logs) -> Answer:
    """Read what a task printed, a page at a time; go on with offset = next_offset. Once it has ended all of it is
    there; while it runs only the end of what its worker last published. Use offset -2000 to see why one failed."""
    task = need_task(call, args.task_id)
    page = log_page(call, task, args.offset, args.limit)
    missed = max(0, page.start - args.offset) if args.offset >= 0 else 0
    shown = text(page.text)
    data = {
        "id": task.id,
        "text": shown,
        "offset": page.start,
        "next_offset": page.next_offset,
        "missed": missed,
        "ended": task.ended,
    }
    notes = [f"[{missed} characters before this are not known while it runs]"] if missed else []
    if page.next_offset is not None:
        ends = [f"[more: offset {page.next_offset}]"]
    else:
        ends = [] if task.ended else [f"[no more yet: the task is {task.state}]"]
    return Answer("\n".join([*notes, shown or "(no output)", *ends]), data)


def log_page(call: Call, task: Task, offset: int, limit: int) -> TextPage:
    """A part of the output of ``task``: all of it once it has ended, else of its published end."""
    if task.progress is not None and not task.ended:
        begins = max(0, task.progress.seen - len(task.progress.tail))
        inside = offset if offset < 0 else max(0, offset - begins)
        found = page_of([task.progress.tail], inside, limit)
        going = None if found.next_offset is None else found.next_offset + begins
        return TextPage(found.text, found.start + begins, going)
    pieces: Iterator[str] = call.hub.tasks.logs(task.id)
    return page_of(pieces, offset, limit)
