"""``ghcoord actions worker``: a runner as a worker."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.errors import UsageError
from ghcoord.faces.cli.actionshub import enter_job, failures_shown, hub_of, open_log
from ghcoord.faces.cli.common import duration, number, one_of, parse_labels, parse_pairs
from ghcoord.faces.cli.output import note, respond
from ghcoord.faces.cli.workeroptions import LEVELS, AtMost, NoCommands
from ghcoord.faces.cli.workeroptions import SANDBOXES as EVERY
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from ghcoord.faces.actions.commands import JobLog
    from ghcoord.faces.actions.environment import JobEnvironment
    from ghcoord.hub import Hub

SANDBOXES = tuple(one for one in EVERY if one != "none")
"""On a runner nothing runs unprotected."""

HOSTED_LIMIT = 6 * 3600.0
"""Seconds after which GitHub ends a job on a hosted runner, and the default of ``timeout-minutes``."""

SETUP_PART, SETUP_MOST = 10, 180.0
"""Of a job's time one part in so many, at most so many seconds, went by before this step or goes to what follows."""

DRAIN_PART, DRAIN_MOST = 6, 300.0
"""And for tasks to end in, unless told otherwise."""


def worker(
    id_: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Its id; default: the run's number, a suffix.")
    ] = None,
    slots: Annotated[int | None, number("--slots", least=1, most=10_000, help="Tasks at a time; default 1.")] = None,
    until_idle: Annotated[
        float, duration("--until-idle", help="End after this long without work; default 30s.", show_default=False)
    ] = 30.0,
    job_limit: Annotated[
        float,
        duration("--job-limit", help="The job's timeout-minutes; default 6h, as GitHub has it.", show_default=False),
    ] = HOSTED_LIMIT,
    max_runtime: Annotated[
        float | None, duration("--max-runtime", help="Begin to drain after this time; default: by --job-limit.")
    ] = None,
    drain: Annotated[
        float | None,
        duration("--drain", help="Then tasks may run on for so long; default 5m, at most a sixth of --job-limit."),
    ] = None,
    types: Annotated[
        list[str] | None, typer.Option("--type", metavar="T", help="A task type it serves besides its tools; several.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="K[=V]", help="A label besides os, arch and runner; several."),
    ] = None,
    max_sessions: Annotated[
        int | None, number("--max-sessions", least=1, most=10_000, help="Sessions at a time; default 5.")
    ] = None,
    limit: AtMost = None,
    sandbox: Annotated[
        str | None,
        typer.Option(
            "--sandbox",
            metavar="DRIVER",
            parser=one_of(SANDBOXES),
            help="auto, bwrap, landlock or container; default auto: bwrap, else landlock.",
        ),
    ] = None,
    no_commands: NoCommands = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not repeat in the log what tasks say.")] = False,
    fail_on_failure: Annotated[
        bool, typer.Option("--fail-on-failure", help="Exit 8 when a task failed for good.")
    ] = False,
    workspace: Annotated[
        Path | None, typer.Option("--workspace", metavar="DIR", help="Where attempts and sessions get their folders.")
    ] = None,
    ttl: Annotated[
        float | None, duration("--ttl", help="Alive this long without renewing its lease; default as set.")
    ] = None,
    poll: Annotated[float | None, duration("--poll", help="Between looks at an idle hub; default as set.")] = None,
    log_level: Annotated[
        str,
        typer.Option("--log-level", metavar="LEVEL", parser=one_of(LEVELS), help="debug, info, warn or error."),
    ] = "info",
) -> None:
    """Run tasks in a job of GitHub Actions: the action 'worker'.

    Ends when the queue is empty, or in good time before the job's limit: then
    nothing new is taken, what runs may end within --drain, is stopped and
    goes back to the queue, and sessions are saved. The same at once when the
    job is cancelled. The hub is that of the job's repository unless one is
    named, and is made when there is none.

    Writes the summary of the job, annotations for tasks that failed, and the
    outputs worker-id, succeeded, failed, retried, cancelled, refused, returned
    and commits. What tasks say cannot give commands to the runner, and the
    runner's variables and files are hidden from them. Commands run in a
    sandbox, or the worker does not start.

    Example:
      ghcoord actions worker --until-idle 1m --slots 4 --job-limit 60m
    """
    if no_commands and sandbox is not None:
        raise UsageError("--no-commands goes without --sandbox: it runs nothing")
    drain, max_runtime = _times(job_limit, max_runtime, drain)
    given = {
        "slots": slots,
        "ttl": ttl,
        "poll": poll,
        "until_idle": until_idle,
        "workspace": workspace,
        "types": types or (),
        "max_sessions": max_sessions,
        "limits": parse_pairs(limit, "--limit"),
        "sandbox": sandbox,
        "commands": not no_commands,
    }
    labels = parse_labels(label)
    job = enter_job()
    log = open_log()
    with failures_shown(log), hub_of(job) as hub:
        given |= {"worker_id": _id(hub, job, id_), "labels": {**job.labels(), **labels}}
        report, failed = _run(hub, job, log, given, (max_runtime, drain), quote=not quiet, threshold=log_level)
    respond(report, lambda: None)
    if failed and fail_on_failure:
        raise typer.Exit(8)


def _times(job_limit: float, max_runtime: float | None, drain: float | None) -> tuple[float, float]:
    """How long tasks may run on, and when to begin to drain. Raises ``UsageError`` when that is too late."""
    setup = min(SETUP_MOST, job_limit / SETUP_PART)
    if drain is None:
        drain = min(DRAIN_MOST, job_limit / DRAIN_PART)
    left = job_limit - setup - drain
    if left <= 0 or (max_runtime is not None and max_runtime > left):
        raise UsageError(
            f"a job of {format_duration(job_limit)} leaves {format_duration(max(0.0, left))} to take tasks in, beside "
            f"{format_duration(round(drain))} of --drain: shorten --max-runtime or --drain, or lengthen --job-limit "
            "and the job's timeout-minutes"
        )
    return drain, left if max_runtime is None else max_runtime


def _id(hub: Hub, job: JobEnvironment, given: str | None) -> str | None:
    from ghcoord.ids import new_suffix

    if given == "":
        raise UsageError("the worker id is empty: give at least one character")
    return given if given is not None else job.worker_id(new_suffix(hub.runtime.randbits))


def _run(
    hub: Hub,
    job: JobEnvironment,
    log: JobLog,
    given: dict[str, Any],
    times: tuple[float, float],
    *,
    quote: bool,
    threshold: str,
) -> tuple[dict[str, Any], int]:
    """Work, tell of it, and return what it was and how many tasks failed."""
    from ghcoord.faces.actions.environment import write_outputs
    from ghcoord.faces.actions.runnerworker import RunnerWorker
    from ghcoord.faces.actions.summary import Summary
    from ghcoord.faces.cli.daemon import make_worker, on_signals

    max_runtime, drain = times
    summary = Summary(job.summary)
    worker = RunnerWorker(hub.runtime, log, summary, max_runtime=max_runtime, drain=drain, warn=note)
    daemon = make_worker(hub, log=worker.log_lines(hub.now, threshold), **given)
    worker.take(daemon, quote=quote)
    with on_signals(hub.runtime, worker.job_cancelled, daemon.cancel):
        done = worker.run()
    counts = worker.outputs()
    write_outputs(job.output, counts, hub.runtime.randbits)
    return {**asdict(done), **{key.replace("-", "_"): value for key, value in counts.items()}}, worker.report.failed
