"""``ghcoord task submit``: one task, or a batch from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.errors import UsageError
from ghcoord.faces import views
from ghcoord.faces.cli import taskoptions as given
from ghcoord.faces.cli.batch import progress_bar, read_batch
from ghcoord.faces.cli.common import duration, parse_object, parse_pairs
from ghcoord.faces.cli.context import open_hub, surrounding_trace
from ghcoord.faces.cli.hints import say_unserved
from ghcoord.faces.cli.output import note, respond, say
from ghcoord.faces.cli.taskwait import await_all, exit_unless_succeeded, report_end

if TYPE_CHECKING:
    from ghcoord.hub import Hub

PATIENCE = 300.0
"""Seconds that ``--wait`` waits unless told otherwise."""


def submit(
    tool: Annotated[str | None, typer.Argument(metavar="TOOL", help="What to run: echo, run.python, shell …")] = None,
    arg: given.Arg = None,
    args_json: given.ArgsJson = None,
    type_: given.Type = None,
    priority: given.Priority = None,
    retries: given.Retries = None,
    timeout: given.Timeout = None,
    backoff: given.Backoff = None,
    backoff_cap: given.BackoffCap = None,
    not_before: Annotated[
        str | None,
        typer.Option("--not-before", "--delay", metavar="TIME", help="Not before a time, or for so long: 5m."),
    ] = None,
    after: Annotated[
        list[str] | None,
        typer.Option("--after", metavar="ID", help="Only when this task has ended; several."),
    ] = None,
    if_failed: Annotated[
        str | None,
        typer.Option(
            "--if-failed", metavar="WHAT", help="When one of --after fails: cancel (default), run, or wait for a retry."
        ),
    ] = None,
    key: given.Key = None,
    concurrency: given.Concurrency = None,
    rate: given.Rate = None,
    unique: given.Unique = False,
    unique_key: given.UniqueKey = None,
    unique_for: given.UniqueFor = None,
    unique_states: given.UniqueStates = None,
    min_cores: given.MinCores = None,
    min_memory: given.MinMemory = None,
    require: given.Require = None,
    worker: given.Worker = None,
    prefer: given.Prefer = None,
    prefer_for: given.PreferFor = None,
    sandbox: given.Sandbox = None,
    session: given.Session = None,
    trace: given.Trace = None,
    estimate: given.Estimate = None,
    meta: given.Meta = None,
    id_: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="The task's id; submitting the same again changes nothing."),
    ] = None,
    batch: Annotated[
        str | None, typer.Option("--batch", metavar="FILE", help="Submit one task a line; '-' reads standard input.")
    ] = None,
    batch_id: Annotated[
        str | None,
        typer.Option("--batch-id", metavar="ID", help="Ids follow from this: repeating queues only what is missing."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; exits 8 when a task failed.")] = False,
    wait_timeout: Annotated[
        float | None, duration("--wait-timeout", help="Longest --wait; exits 9; default 5m.")
    ] = None,
) -> None:
    """Queue a task and print its id, or many with --batch.

    A line of a batch is a JSON object with tool, args, id and any option of
    this command by its name, as in not_before or unique_key; options given
    here hold for lines that do not say otherwise. All lines are checked before
    the first task is queued.

    A --unique task that is there already is not queued again: its id is
    printed, and "duplicate" is true with --json. A --key has one limit, that
    of its latest task.

    Example:
      ghcoord task submit echo --arg message=hello --priority 5
      ghcoord task submit run.python -a 'code=import sys; print(sys.argv)' -a 'args:=["a"]'
      ghcoord task submit run.python --args-json '{"code": "print(6*7)"}' --wait
      ghcoord task submit echo -a message=hi --unique --key api --rate 10/1m
      printf '{"tool": "echo", "args": {"message": "%s"}}\\n' a b | ghcoord task submit --batch -
    """
    if wait_timeout is not None and not wait:
        raise UsageError("--wait-timeout goes with --wait")
    patience = PATIENCE if wait_timeout is None else wait_timeout
    options = given.given(
        type=type_,
        priority=priority,
        retries=retries,
        timeout=timeout,
        backoff=backoff,
        backoff_cap=backoff_cap,
        not_before=not_before,
        after=after,
        if_failed=if_failed,
        key=key,
        concurrency=concurrency,
        rate=rate,
        unique=unique,
        unique_key=unique_key,
        unique_for=unique_for,
        unique_states=unique_states,
        min_cores=min_cores,
        min_memory=min_memory,
        require=require,
        worker=worker,
        prefer=prefer,
        prefer_for=prefer_for,
        sandbox=sandbox,
        session=session,
        trace=surrounding_trace() if trace is None else trace,
        estimated_duration=estimate,
        metadata=parse_pairs(meta, "--meta") or None,
    )
    if batch is not None:
        if tool is not None or arg or args_json is not None or id_ is not None:
            raise UsageError("--batch takes tools, arguments and ids from the file: leave them out")
        _submit_batch(batch, options, batch_id, patience if wait else None)
        return
    if tool is None:
        raise UsageError("name the tool, as in 'ghcoord task submit echo', or give --batch FILE")
    if batch_id is not None:
        raise UsageError("--batch-id goes with --batch; one task takes --id")
    args = {**(parse_object(args_json, "--args-json") if args_json is not None else {}), **parse_pairs(arg, "--arg")}
    with open_hub() as hub:
        _submit_one(hub, tool, args, id_, options, patience if wait else None)


def _submit_one(
    hub: Hub, tool: str, args: dict[str, Any], task_id: str | None, options: dict[str, Any], patience: float | None
) -> None:
    from ghcoord.hub import Submission

    offered = hub.tasks.offer(Submission(tool, args, id=task_id, **given.meaning(options)))
    task = offered.task
    if patience is not None:
        report_end(await_all(hub, [task], patience)[0])
        return
    respond({**views.task_view(task), "duplicate": not offered.created}, lambda: say(task.id))
    if not offered.created:
        note(f"task {task.id} is there already: it is {task.state}")
    say_unserved(hub, [task])


def _submit_batch(file: str, options: dict[str, Any], batch_id: str | None, patience: float | None) -> None:
    submissions = read_batch(file, options)
    with open_hub() as hub:
        with progress_bar(len(submissions)) as progress:
            offered = hub.tasks.offer_many(submissions, batch=batch_id, on_progress=progress)
        made = [one.task for one in offered]
        duplicates = sum(not one.created for one in offered)
        report: dict[str, Any] = {
            "submitted": len(made),
            "duplicates": duplicates,
            "batch_id": batch_id,
            "ids": [task.id for task in made],
        }
        if patience is None:
            named = f" as batch {batch_id}" if batch_id is not None else ""
            there = f", {duplicates} of them there already" if duplicates else ""
            look = (
                f"'ghcoord task list{f' --batch-id {batch_id}' if named else ''}' shows them, --json prints their ids"
            )
            respond(report, lambda: say(f"{len(made)} tasks submitted{named}{there}: {look}"))
            say_unserved(hub, made)
            return
        ended = await_all(hub, made, patience)
    states = {state: sum(task.state == state for task in ended) for state in ("succeeded", "dead", "cancelled")}
    respond({**report, **states}, lambda: say(", ".join(f"{count} {state}" for state, count in states.items())))
    exit_unless_succeeded(ended)
