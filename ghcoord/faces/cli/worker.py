"""``ghcoord worker``: run workers and look after them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.errors import NoCapacity, NotFound, UsageError
from ghcoord.faces import views
from ghcoord.faces.cli.common import (
    check_each,
    confirm,
    duration,
    group,
    number,
    one_of,
    parse_labels,
    parse_pairs,
    verb,
)
from ghcoord.faces.cli.context import invocation, open_hub
from ghcoord.faces.cli.output import emit, emit_line, fields, respond, say, table, to_json
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from ghcoord.hub import Hub
    from ghcoord.model.worker import Worker

app = group("Run workers and look after them.")

Id = Annotated[str, typer.Argument(metavar="ID", help="The worker's id.")]
Label = Annotated[list[str] | None, typer.Option("--label", metavar="K=V", help="A label; several.")]

LEVELS = ("debug", "info", "warn", "error")
STATUSES = ("active", "busy", "draining", "offline")


@verb(app, "start")
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
            help="Where attempts get their directories.",
        ),
    ] = None,
    label: Label = None,
    unsafe_no_sandbox: Annotated[
        bool,
        typer.Option("--unsafe-no-sandbox", help="Run run.python and shell unprotected where no sandbox works."),
    ] = False,
    log_level: Annotated[
        str,
        typer.Option(
            "--log-level",
            metavar="LEVEL",
            parser=one_of(LEVELS),
            envvar="GHCOORD_LOG_LEVEL",
            show_envvar=True,
            help="debug, info, warn or error.",
        ),
    ] = "info",
) -> None:
    """Run tasks until told to stop.

    SIGTERM or Ctrl-C drains: what runs is finished, what has not started goes
    back, exit code 0. A second one stops what runs and gives it back, a third
    ends at once. Exits 5 when a newer worker took over the id.

    Example:
      ghcoord worker start --id w1 --slots 4
      ghcoord worker start --until-idle 5s --max-runtime 1h
    """
    from ghcoord.faces.cli.daemon import run_worker

    if id_ == "":
        raise UsageError("the worker id is empty: give at least one character")
    summary = run_worker(
        worker_id=id_,
        slots=slots,
        ttl=ttl,
        poll=poll,
        until_idle=until_idle,
        max_runtime=max_runtime,
        workspace=workspace,
        labels=parse_labels(label),
        unsafe_no_sandbox=unsafe_no_sandbox,
        log_level=log_level,
    )
    counted = ", ".join(f"{value} {key}" for key, value in summary.items() if key != "worker_id")
    respond(summary, lambda: say(f"worker {summary['worker_id']} has stopped: {counted}"))


@verb(app, "list")
def list_(
    status: Annotated[
        list[str] | None, typer.Option("--status", "-s", metavar="S", help=f"{', '.join(STATUSES)}; several.")
    ] = None,
    has_capacity: Annotated[bool, typer.Option("--has-capacity", help="Only those with a free slot.")] = False,
    task_type: Annotated[str | None, typer.Option("--task-type", metavar="T", help="Only those that serve it.")] = None,
    count: Annotated[bool, typer.Option("--count", help="Print only how many there are.")] = False,
    limit: Annotated[int | None, number("--limit", least=0, help="At most N.")] = None,
) -> None:
    """List workers. With --has-capacity exits 7 when no worker has any.

    Example:
      ghcoord worker list --status active --status busy
      ghcoord worker list --has-capacity --limit 1 --json
    """
    check_each(status, STATUSES, "--status")
    with open_hub() as hub:
        found = hub.workers.list(status or None, True if has_capacity else None, task_type)[:limit]
        seen = {worker.id: _ago(hub, worker) for worker in found}
    if count:
        respond({"count": len(found)}, lambda: say(len(found)))
        return
    if has_capacity and not found:
        raise NoCapacity("no worker has a free slot: start one with 'ghcoord worker start'")
    respond(
        [views.worker_view(worker) for worker in found],
        lambda: table(
            ("ID", "STATUS", "TASKS", "HEARTBEAT", "SANDBOX", "HOST"),
            [
                (
                    worker.id,
                    worker.status,
                    views.in_use(worker.capacity.active_tasks, worker.capacity.max_tasks),
                    seen[worker.id],
                    worker.sandbox.driver if worker.sandbox is not None else None,
                    worker.hostname,
                )
                for worker in found
            ],
            keep=("ID",),
            right=("TASKS", "HEARTBEAT"),
            empty="no workers",
        ),
    )


def _ago(hub: Hub, worker: Worker) -> str:
    return format_duration(max(0.0, (hub.now() - worker.last_heartbeat).total_seconds())) + " ago"


@verb(app, "show")
def show(worker_id: Id) -> None:
    """Show a worker: status, capacity, capabilities, health.

    Example:
      ghcoord worker show w1
    """
    with open_hub() as hub:
        worker = _need(hub, worker_id)
        respond(views.worker_view(worker), lambda: _show(hub, worker))


def _need(hub: Hub, worker_id: str) -> Worker:
    worker = hub.workers.get(worker_id)
    if worker is None:
        raise NotFound(f"there is no worker {worker_id!r}")
    return worker


def _show(hub: Hub, worker: Worker) -> None:
    can, health = worker.capabilities, worker.health
    fields(
        [
            ("worker", worker.id),
            ("status", worker.status + (", drain requested" if worker.drain_requested else "")),
            ("host", f"{worker.hostname} pid {worker.pid}"),
            ("tasks", _slots(worker.capacity.active_tasks, worker.capacity.max_tasks)),
            ("sessions", f"{worker.active_sessions} of {worker.max_sessions}"),
            ("heartbeat", f"{_ago(hub, worker)}, lease {format_duration(worker.ttl)}"),
            ("registered", views.iso(worker.registered_at)),
            ("machine", f"{can.cpu_cores} cores, {can.memory_mb} MiB"),
            ("tools", ", ".join(can.supported_task_types) or None),
            ("labels", ", ".join(f"{key}={value}" for key, value in can.labels.items()) or None),
            ("sandbox", f"{worker.sandbox.driver} ({worker.sandbox.tier})" if worker.sandbox is not None else "none"),
            ("health", None if health is None else f"{health.health_status}, load {health.cpu}, {health.memory} MiB"),
            ("metadata", to_json(worker.metadata, None) if worker.metadata else None),
        ]
    )


def _slots(tasks: int, slots: int) -> str:
    ahead = f", {tasks - slots} more leased ahead" if tasks > slots else ""
    return f"{min(tasks, slots)} of {slots} slots{ahead}"


@verb(app, "drain")
def drain(worker_id: Id) -> None:
    """Ask a worker to finish what it runs, take nothing new, and stop.

    Example:
      ghcoord worker drain w1
    """
    with open_hub() as hub:
        worker = hub.workers.drain(worker_id)
    respond(views.worker_view(worker), lambda: say(f"worker {worker.id} is draining"))


@verb(app, "reap")
def reap(
    worker_id: Annotated[str | None, typer.Argument(metavar="ID", help="Only this dead worker.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Name the stale workers; change nothing.")] = False,
    mark_only: Annotated[bool, typer.Option("--mark-only", help="Only set stale workers offline.")] = False,
    stale_after: Annotated[
        float | None, duration("--stale-after", help="Silence after which a worker is stale; default 5m for removal.")
    ] = None,
    every: Annotated[float | None, duration("--every", help="Do it again and again at this interval.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Take tasks and locks from dead workers, and remove those that are long gone.

    Every worker does so by itself; this is for a hub without one. On a terminal
    it asks first.

    Example:
      ghcoord worker reap --dry-run
      ghcoord worker reap --stale-after 10m --every 1m
    """
    if sum((worker_id is not None, dry_run, mark_only)) > 1:
        raise UsageError("give one of ID, --dry-run and --mark-only")
    if worker_id is not None and (stale_after is not None or every is not None):
        raise UsageError("ID goes without --stale-after and --every: a worker's own lease decides")
    if every is not None and every < 1:
        raise UsageError("--every takes at least 1s")
    with open_hub() as hub:
        if worker_id is not None:
            confirm(f"Take tasks and locks from worker {worker_id!r}?", yes, unattended=True)
            taken = hub.workers.recover(worker_id)
            report = {"worker": worker_id, "locks": taken.locks, "tasks": taken.tasks, "sessions": taken.sessions}
            respond(report, lambda: say(f"{worker_id}: {taken.tasks} tasks and {taken.locks} locks recovered"))
            return
        if not (dry_run or mark_only) and every is None and (stale := hub.workers.stale()):
            confirm(f"Recover {', '.join(stale)} and remove the long gone?", yes, unattended=True)
        while True:
            report, text = _pass(hub, dry_run, mark_only, stale_after)
            if every is None:
                respond(report, lambda text=text: say(text))  # type: ignore[misc]
                return
            at = views.iso(hub.now())
            if invocation().json:
                emit_line({"at": at, **report})
            else:
                print(f"{at} {text}", flush=True)
            hub.runtime.sleep(every)


def _pass(hub: Hub, dry_run: bool, mark_only: bool, stale_after: float | None) -> tuple[dict[str, Any], str]:
    if dry_run or mark_only:
        ids = hub.workers.stale(stale_after) if dry_run else hub.workers.mark_stale(stale_after)
        what = "stale" if dry_run else "set offline"
        named = f": {', '.join(ids)}" if ids else ""
        return {"stale" if dry_run else "marked": ids}, f"{len(ids)} workers {what}{named}"
    stale = hub.workers.stale()
    removed = hub.workers.reap(stale_after)
    return {"recovered": stale, "removed": removed}, f"{len(stale)} workers recovered, {removed} removed"


@verb(app, "register")
def register(
    worker_id: Id,
    slots: Annotated[int | None, number("--slots", help="Task slots; default 1.")] = None,
    max_sessions: Annotated[int, number("--max-sessions", help="Sessions at most.")] = 5,
    label: Label = None,
    meta: Annotated[list[str] | None, typer.Option("--meta", metavar="K=V", help="Metadata; k:=json.")] = None,
    ttl: Annotated[
        float, duration("--ttl", help="Alive this long without a heartbeat; default 1m30s.", show_default=False)
    ] = 90.0,
) -> None:
    """Register a worker that is a program of your own; 'worker start' registers itself.

    Prints how often to send a heartbeat. A second registration of an id
    replaces the first.

    Example:
      ghcoord worker register builder-1 --slots 2 --label zone=eu
    """
    from ghcoord.hub import Capabilities

    labels, metadata = parse_labels(label), parse_pairs(meta, "--meta")
    with open_hub() as hub:
        machine = hub.machine()
        answer = hub.workers.register(
            worker_id,
            capacity=slots,
            capabilities=Capabilities(cpu_cores=machine.cpu_cores, memory_mb=machine.memory_mb, labels=labels),
            max_sessions=max_sessions,
            metadata=metadata,
            ttl=ttl,
        )
    every = format_duration(answer.heartbeat_interval_seconds)
    respond(answer._asdict(), lambda: say(f"{answer.message}, send a heartbeat every {every}"))


@verb(app, "heartbeat")
def heartbeat(worker_id: Id) -> None:
    """Say that a registered worker is alive.

    Example:
      ghcoord worker heartbeat builder-1
    """
    with open_hub() as hub:
        answer = hub.workers.heartbeat(worker_id)
    reply = {**answer._asdict(), "unknown_session_ids": list(answer.unknown_session_ids)}
    respond(reply, lambda: say(answer.message))


@verb(app, "status")
def status(
    worker_id: Id,
    status: Annotated[str, typer.Argument(metavar="STATUS", help=f"One of {', '.join(STATUSES)}.")],
) -> None:
    """Set a worker's status.

    Example:
      ghcoord worker status builder-1 busy
    """
    with open_hub() as hub:
        worker = hub.workers.set_status(worker_id, status)
    respond(views.worker_view(worker), lambda: say(f"worker {worker.id} is {worker.status}"))


@verb(app, "deregister")
def deregister(
    worker_id: Id,
    session: Annotated[
        list[str] | None, typer.Option("--session", metavar="S", help="A session that it had; several.")
    ] = None,
) -> None:
    """Remove a worker; tasks that it holds go back to the queue.

    Example:
      ghcoord worker deregister builder-1
    """
    with open_hub() as hub:
        answer = hub.workers.deregister(worker_id, session or ())
    reply = {**answer._asdict(), "unknown_session_ids": list(answer.unknown_session_ids)}
    if invocation().json:
        emit(reply)
        return
    say(answer.message)
    if answer.unknown_session_ids:
        say(f"unknown sessions: {', '.join(answer.unknown_session_ids)}")
