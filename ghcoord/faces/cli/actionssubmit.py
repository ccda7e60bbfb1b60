"""``ghcoord actions submit``: tasks of a workflow."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.errors import GhcoordError, UsageError, WaitTimeout
from ghcoord.faces import views
from ghcoord.faces.cli.actionshub import enter_job, failures_shown, hub_of, open_log
from ghcoord.faces.cli.common import duration, parse_object
from ghcoord.faces.cli.output import note, respond

if TYPE_CHECKING:
    from ghcoord.faces.actions.commands import JobLog
    from ghcoord.faces.actions.environment import JobEnvironment
    from ghcoord.hub import Hub, Submission
    from ghcoord.model.task import Task

MAX_OUTPUT = 256 * 1024
"""Characters of an output; GitHub takes 1 MB of all outputs of a job."""


def submit(
    tool: Annotated[str | None, typer.Argument(metavar="[TOOL]", help="What to run: echo, run.python, shell …")] = None,
    args_json: Annotated[
        str | None, typer.Option("--args-json", metavar="JSON", help="Its arguments as one JSON object.")
    ] = None,
    options: Annotated[
        str | None,
        typer.Option("--options", metavar="JSON", help="Any option of 'task submit' by its name, as a JSON object."),
    ] = None,
    batch: Annotated[
        str | None, typer.Option("--batch", metavar="FILE", help="Instead: one task a line, as for 'task submit'.")
    ] = None,
    batch_id: Annotated[
        str | None,
        typer.Option("--batch-id", metavar="ID", help="Ids follow from this: repeating queues only what is missing."),
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="End once the tasks are queued.")] = False,
    wait_timeout: Annotated[
        float, duration("--wait-timeout", help="How long to wait for their ends; default 1h.", show_default=False)
    ] = 3600.0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave tasks alone when the job is cancelled; else they are cancelled too.")
    ] = False,
    allow_failure: Annotated[
        bool, typer.Option("--allow-failure", help="Exit 0 also when a task did not succeed.")
    ] = False,
) -> None:
    """Submit tasks in a job and wait for them: the action 'submit'.

    Sets the outputs task-id, state, success, exit-code, output, error and task
    (all of it, as JSON) of one task, and of a batch task-ids, submitted,
    succeeded, failed and cancelled. Writes a summary and an annotation for each
    task that did not succeed. Exits 8 then, and 9 after --wait-timeout. The hub
    is that of the job's repository unless one is named.

    Example:
      ghcoord actions submit echo --args-json '{"message": "hello"}' --no-wait
      ghcoord actions submit run.python --args-json '{"code": "print(6*7)"}' \\
        --options '{"retries": 2}'
    """
    job = enter_job()
    log = open_log()
    with failures_shown(log):
        submissions = _submissions(job, tool, args_json, options, batch, batch_id)
        with hub_of(job) as hub:
            tasks = _offer(hub, submissions, batch_id, one=batch is None)
            if not no_wait:
                with _cancelled_with_the_job(hub, tasks, keep=keep):
                    tasks = _await(hub, job, tasks, wait_timeout, one=batch is None)
        failed = _tell(job, log, tasks, one=batch is None, waited=not no_wait)
    respond(_view(tasks), lambda: None)
    if failed and not allow_failure:
        raise typer.Exit(8)


def _submissions(
    job: JobEnvironment,
    tool: str | None,
    args_json: str | None,
    options: str | None,
    batch: str | None,
    batch_id: str | None,
) -> list[Submission]:
    """What to submit, checked. Raises ``UsageError``."""
    from ghcoord.faces.cli.batch import parse_lines, read_batch

    asked = {} if options is None else parse_object(options, "--options")
    usual: dict[str, Any] = {} if job.run_url is None else {"metadata": {"run": job.run_url}}
    if batch is not None:
        if tool is not None or args_json is not None or options is not None:
            raise UsageError("a batch takes tools, arguments and options from its file: leave them out")
        return read_batch(batch, usual)
    if tool is None:
        raise UsageError("name the tool, as in 'ghcoord actions submit echo', or give --batch FILE")
    if batch_id is not None:
        raise UsageError("--batch-id goes with --batch; one task takes an id among its --options")
    if {"tool", "args"} & set(asked):
        raise UsageError("tool and arguments do not go among the --options")
    line = {**asked, "tool": tool, "args": {} if args_json is None else parse_object(args_json, "--args-json")}
    return list(parse_lines(io.StringIO(json.dumps(line)), "--options", usual))


def _offer(hub: Hub, submissions: Sequence[Submission], batch_id: str | None, *, one: bool) -> list[Task]:
    from ghcoord.faces.cli.hints import say_unserved

    offered = hub.tasks.offer_many(submissions, batch=batch_id)
    tasks = [each.task for each in offered]
    there = sum(not each.created for each in offered)
    if one:
        note(f"task {tasks[0].id} {'is there already' if there else 'submitted'}")
    else:
        note(f"{len(tasks)} tasks submitted{f', {there} of them there already' if there else ''}")
    say_unserved(hub, tasks)
    return tasks


def _await(hub: Hub, job: JobEnvironment, tasks: list[Task], timeout: float, *, one: bool) -> list[Task]:
    from ghcoord.faces.cli.taskwait import await_all

    try:
        return await_all(hub, tasks, timeout)
    except WaitTimeout:
        _write(job, [hub.tasks.get(task.id) or task for task in tasks], one=one)
        raise


@contextmanager
def _cancelled_with_the_job(hub: Hub, tasks: Sequence[Task], *, keep: bool) -> Iterator[None]:
    """Cancel the tasks when the runner cancels the job, which interrupts this process."""
    from ghcoord.hub import TaskQuery

    def interrupt(number: int, frame: object) -> None:
        # Only the first: the second comes while the tasks are cancelled.
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        if not keep:
            note("the job was cancelled: so are its tasks")
            with suppress(GhcoordError):
                mine = TaskQuery(ids=[task.id for task in tasks])
                hub.tasks.cancel_many(mine, "the job that submitted it was cancelled")
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(job: JobEnvironment, log: JobLog, tasks: list[Task], *, one: bool, waited: bool) -> int:
    """Log, annotations, summary and outputs; how many did not succeed."""
    from ghcoord.faces.actions.submitreport import parts, tell_ends
    from ghcoord.faces.actions.summary import Summary

    failed = tell_ends(log, tasks) if waited else 0
    Summary(job.summary).write(parts(tasks))
    _write(job, tasks, one=one)
    return failed


def _write(job: JobEnvironment, tasks: list[Task], *, one: bool) -> None:
    """The outputs of the step."""
    from ghcoord.clock import SystemRuntime
    from ghcoord.faces.actions.environment import write_outputs
    from ghcoord.faces.actions.submitreport import outputs_of_batch, outputs_of_one
    from ghcoord.faces.cli.output import to_json

    values = outputs_of_one(tasks[0], to_json(views.task_view(tasks[0]), None)) if one else outputs_of_batch(tasks)
    for name, value in values.items():
        if isinstance(value, str) and len(value) > MAX_OUTPUT:
            note(f"the output {name} would have {len(value)} characters and is left empty: see the task itself")
            values[name] = ""
    write_outputs(job.output, values, SystemRuntime().randbits)


def _view(tasks: Sequence[Task]) -> dict[str, Any]:
    states = [str(task.state) for task in tasks]
    return {
        "submitted": len(tasks),
        "ids": [task.id for task in tasks],
        "succeeded": states.count("succeeded"),
        "failed": states.count("dead"),
        "cancelled": states.count("cancelled"),
    }
