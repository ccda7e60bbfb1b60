"""``ghcoord worker start``: what a worker can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ghcoord.errors import UsageError
from ghcoord.faces.cli.common import duration, number, parse_labels, parse_pairs
from ghcoord.faces.cli.output import respond, say
from ghcoord.faces.cli.workeroptions import AtMost, LogLevel, NoCommands, Sandbox, UnsafeNoSandbox


def start(
    id_: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", envvar="GHCOORD_WORKER_ID", show_envvar=True, help="Default: host, suffix."),
    ] = None,
    slots: Annotated[int | None, number("--slots", least=1, most=10_000, help="Tasks at a time; default 1.")] = None,
    until_idle: Annotated[float | None, duration("--until-idle", help="End after this long without work.")] = None,
    max_runtime: Annotated[float | None, duration("--max-runtime", help="Begin to drain after this time.")] = None,
    ttl: Annotated[
        float | None, duration("--ttl", help="Alive this long without renewing its lease; default 15s.")
    ] = None,
    poll: Annotated[float | None, duration("--poll", help="Between looks at an idle hub; default 1s.")] = None,
    workspace: Annotated[
        Path | None,
        typer.Option(
            "--workspace",
            metavar="DIR",
            envvar="GHCOORD_BASE_WORKSPACE",
            show_envvar=True,
            help="Where attempts and sessions get their directories.",
        ),
    ] = None,
    max_sessions: Annotated[
        int | None,
        number(
            "--max-sessions",
            least=1,
            most=10_000,
            help="Sessions at a time; default 5.",
            envvar="GHCOORD_MAX_SESSIONS",
            show_envvar=True,
        ),
    ] = None,
    checkpoint_dir: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint-dir",
            metavar="DIR",
            envvar="GHCOORD_CHECKPOINT_DIR",
            show_envvar=True,
            help="Where checkpoints are kept; default below --workspace.",
        ),
    ] = None,
    max_checkpoints: Annotated[
        int | None,
        number(
            "--max-checkpoints",
            least=1,
            most=1000,
            help="Checkpoints kept of a session; default 10.",
            envvar="GHCOORD_MAX_CHECKPOINTS",
            show_envvar=True,
        ),
    ] = None,
    no_publish: Annotated[
        bool, typer.Option("--no-publish", help="Keep checkpoints here only: no other worker can restore them.")
    ] = False,
    limit: AtMost = None,
    type_: Annotated[
        list[str] | None, typer.Option("--type", metavar="T", help="A task type it serves besides its tools; several.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="K[=V]", help="A label; several.")] = None,
    sandbox: Sandbox = None,
    unsafe_no_sandbox: UnsafeNoSandbox = False,
    no_commands: NoCommands = False,
    log_level: LogLevel = "info",
) -> None:
    """Run tasks until told to stop.

    SIGTERM or Ctrl-C drains: what runs is finished, what has not started goes
    back, exit code 0. A second one stops what runs and gives it back, a third
    ends at once. Exits 5 when a newer worker took over the id. --poll is at
    most a sixth of --ttl.

    Commands run in a sandbox. Where none works it does not start and says what
    to do; --no-commands starts it without the tools that run commands.

    Before it ends its sessions are saved and left for other workers.

    Example:
      ghcoord worker start --id w1 --slots 4 --type build --label gpu
      ghcoord worker start --max-sessions 20 --limit memory_mb=1024
      ghcoord worker start --until-idle 5s --max-runtime 1h
    """
    from ghcoord.faces.cli.daemon import run_worker

    if id_ == "":
        raise UsageError("the worker id is empty: give at least one character")
    if no_commands and (unsafe_no_sandbox or sandbox is not None):
        raise UsageError("--no-commands goes without --sandbox and --unsafe-no-sandbox: it runs nothing")
    summary = run_worker(
        worker_id=id_,
        slots=slots,
        ttl=ttl,
        poll=poll,
        until_idle=until_idle,
        max_runtime=max_runtime,
        workspace=workspace,
        types=type_ or (),
        labels=parse_labels(label),
        max_sessions=max_sessions,
        checkpoint_dir=checkpoint_dir,
        max_checkpoints=max_checkpoints,
        publish=not no_publish,
        limits=parse_pairs(limit, "--limit"),
        sandbox=sandbox,
        unsafe_no_sandbox=unsafe_no_sandbox,
        commands=not no_commands,
        log_level=log_level,
    )
    counted = ", ".join(f"{value} {key}" for key, value in summary.items() if key != "worker_id")
    respond(summary, lambda: say(f"worker {summary['worker_id']} has stopped: {counted}"))
