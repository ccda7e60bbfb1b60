"""``ghcoord worker``: run workers and look after them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from ghcoord.errors import NoCapacity, NotFound, UsageError
from ghcoord.faces import views
from ghcoord.faces.cli.common import (
    check_each,
    duration,
    group,
    number,
    one_of,
    parse_labels,
    parse_pairs,
    verb,
)
from ghcoord.faces.cli.context import open_hub
from ghcoord.faces.cli.output import respond, say
from ghcoord.faces.cli.workershow import show_worker, show_workers
from ghcoord.faces.cli.workerstart import start
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from ghcoord.hub import Hub
    from ghcoord.model.worker import Worker

app = group("Run workers and look after them.")

Id = Annotated[str, typer.Argument(metavar="ID", help="The worker's id.")]
Label = Annotated[list[str] | None, typer.Option("--label", metavar="K[=V]", help="A label; several.")]
Type = Annotated[list[str] | None, typer.Option("--type", metavar="T", help="A task type that it serves; several.")]

STATUSES = ("active", "busy", "draining", "offline")
VERDICTS = ("healthy", "degraded", "unhealthy")


verb(app, "start")(start)


@verb(app, "list")
def list_(
    status: Annotated[
        list[str] | None, typer.Option("--status", "-s", metavar="S", help=f"{', '.join(STATUSES)}; several.")
    ] = None,
    has_capacity: Annotated[bool, typer.Option("--has-capacity", help="Only those with a free task slot.")] = False,
    has_sessions: Annotated[
        bool, typer.Option("--has-sessions", help="Only those with room for another session.")
    ] = False,
    task_type: Annotated[str | None, typer.Option("--task-type", metavar="T", help="Only those that serve it.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="K[=V]", help="Only those with this label; several.")
    ] = None,
    min_cores: Annotated[int, number("--min-cores", least=0, help="Cores at least.", show_default=False)] = 0,
    min_memory: Annotated[
        int, number("--min-memory", least=0, metavar="MIB", help="Memory at least.", show_default=False)
    ] = 0,
    count: Annotated[bool, typer.Option("--count", help="Print only how many there are.")] = False,
    limit: Annotated[int | None, number("--limit", least=0, help="At most N.")] = None,
) -> None:
    """List workers that meet all that is given.

    Task slots and sessions are two capacities: --has-capacity goes by slots,
    --has-sessions by sessions. With either of them exits 7 when no worker has
    any.

    Example:
      ghcoord worker list --status active --status busy
      ghcoord worker list --has-capacity --label zone=eu --limit 1 --json
    """
    check_each(status, STATUSES, "--status")
    with open_hub() as hub:
        found = hub.workers.list(
            status or None,
            True if has_capacity else None,
            task_type,
            has_sessions=True if has_sessions else None,
            labels=_wanted(label),
            min_cpu_cores=min_cores,
            min_memory_mb=min_memory,
            limit=limit,
        )
        now = hub.now()
    if count:
        respond({"count": len(found)}, lambda: say(len(found)))
        return
    if not found and (has_capacity or has_sessions):
        what = "a free task slot" if has_capacity else "room for another session"
        raise NoCapacity(f"no such worker has {what}: start one with 'ghcoord worker start'")
    respond([views.worker_view(worker, hub.clock_margin) for worker in found], lambda: show_workers(found, now))


def _wanted(label: list[str] | None) -> dict[str, str | None]:
    """Labels to look for; a bare one with any value."""
    return {key: None if key in (label or ()) else value for key, value in parse_labels(label).items()}


@verb(app, "show")
def show(worker_id: Id) -> None:
    """Show a worker: status, capacity, capabilities, health.

    Example:
      ghcoord worker show w1
    """
    with open_hub() as hub:
        worker = _need(hub, worker_id)
        now = hub.now()
    respond(views.worker_view(worker, hub.clock_margin), lambda: show_worker(worker, now, hub.clock_margin))


def _need(hub: Hub, worker_id: str) -> Worker:
    worker = hub.workers.get(worker_id)
    if worker is None:
        raise NotFound(f"there is no worker {worker_id!r}")
    return worker


@verb(app, "drain")
def drain(worker_id: Id) -> None:
    """Ask a worker to finish what it runs, take nothing new, and stop.

    Example:
      ghcoord worker drain w1
    """
    with open_hub() as hub:
        worker = hub.workers.drain(worker_id)
    respond(views.worker_view(worker, hub.clock_margin), lambda: say(f"worker {worker.id} is draining"))


@verb(app, "reap")
def reap(
    worker_id: Annotated[str | None, typer.Argument(metavar="ID", help="Only this dead worker.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")] = False,
    mark_only: Annotated[bool, typer.Option("--mark-only", help="Only set stale workers offline.")] = False,
    stale_after: Annotated[
        float | None, duration("--stale-after", help="Silence after which a worker is removed; default 5m.")
    ] = None,
    every: Annotated[float | None, duration("--every", help="Do it again and again at this interval.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Take tasks and locks from dead workers, and remove those that are long gone.

    Every worker does so by itself; this is for a hub without one. On a terminal
    it says what would happen and asks first. With --every it goes on, without
    asking, until interrupted. With --mark-only, --stale-after is the silence
    after which a worker counts as stale.

    Example:
      ghcoord worker reap --dry-run
      ghcoord worker reap --stale-after 10m --every 1m
    """
    from ghcoord.faces.cli import reap as reaping

    if worker_id is not None and mark_only:
        raise UsageError("give one of ID and --mark-only")
    if worker_id is not None and (stale_after is not None or every is not None):
        raise UsageError("ID goes without --stale-after and --every: a worker's own lease decides")
    if every is not None and (dry_run or mark_only):
        raise UsageError("--every goes without --dry-run and --mark-only")
    if worker_id is not None:
        reaping.reap_one(worker_id, dry_run=dry_run, yes=yes)
    elif mark_only:
        reaping.mark_stale(stale_after, dry_run=dry_run, yes=yes)
    elif every is not None:
        reaping.reap_again_and_again(every, stale_after)
    else:
        reaping.reap_all(stale_after, dry_run=dry_run, yes=yes)


@verb(app, "register")
def register(
    worker_id: Id,
    slots: Annotated[int | None, number("--slots", help="Task slots; default 1.")] = None,
    max_sessions: Annotated[int, number("--max-sessions", help="Sessions at most.")] = 5,
    type_: Type = None,
    label: Label = None,
    cores: Annotated[int | None, number("--cores", least=0, help="Its cores; default those of this machine.")] = None,
    memory: Annotated[
        int | None, number("--memory", least=0, metavar="MIB", help="Its memory; default that of this machine.")
    ] = None,
    meta: Annotated[list[str] | None, typer.Option("--meta", metavar="K=V", help="Metadata; k:=json.")] = None,
    ttl: Annotated[
        float, duration("--ttl", help="Alive this long without a heartbeat; default 1m30s.", show_default=False)
    ] = 90.0,
) -> None:
    """Register a worker that is a program of your own; 'worker start' registers itself.

    Prints how often to send a heartbeat: every third of --ttl. A second
    registration of an id replaces the first.

    Example:
      ghcoord worker register builder-1 --slots 2 --type build --label zone=eu
    """
    from ghcoord.hub import Capabilities

    labels, metadata = parse_labels(label), parse_pairs(meta, "--meta")
    can = {"supported_task_types": type_ or (), "labels": labels, "cpu_cores": cores, "memory_mb": memory}
    with open_hub() as hub:
        answer = hub.workers.register(
            worker_id,
            capacity=slots,
            capabilities=Capabilities.model_validate({key: value for key, value in can.items() if value is not None}),
            max_sessions=max_sessions,
            metadata=metadata,
            ttl=ttl,
        )
    every = format_duration(answer.heartbeat_interval_seconds)
    respond(answer._asdict(), lambda: say(f"{answer.message}, send a heartbeat every {every}"))


@verb(app, "heartbeat")
def heartbeat(
    worker_id: Id,
    active_sessions: Annotated[
        int | None, number("--active-sessions", least=0, help="Sessions that it has now.")
    ] = None,
    session: Annotated[
        list[str] | None, typer.Option("--session", metavar="S", help="A session that it has; several.")
    ] = None,
    health: Annotated[
        str | None,
        typer.Option("--health", metavar="VERDICT", parser=one_of(VERDICTS), help=f"One of {', '.join(VERDICTS)}."),
    ] = None,
    cpu: Annotated[float | None, typer.Option("--cpu", metavar="LOAD", help="Its load average.")] = None,
    memory: Annotated[float | None, typer.Option("--memory", metavar="MIB", help="The memory that it uses.")] = None,
    active_tasks: Annotated[int | None, number("--active-tasks", least=0, help="Tasks that it runs now.")] = None,
) -> None:
    """Say that a registered worker is alive, and how it is.

    Example:
      ghcoord worker heartbeat builder-1 --health degraded --cpu 7.5
    """
    from ghcoord.hub import Health

    said = {"cpu": cpu, "memory": memory, "active_tasks": active_tasks, "health_status": health}
    given = {name: value for name, value in said.items() if value is not None}
    if any(isinstance(value, float) and not math.isfinite(value) for value in given.values()):
        raise UsageError("--cpu and --memory take numbers")
    with open_hub() as hub:
        answer = hub.workers.heartbeat(
            worker_id,
            active_sessions=active_sessions,
            session_ids=session or (),
            health=Health.model_validate(given) if given else None,
        )
    reply = {**answer._asdict(), "unknown_session_ids": list(answer.unknown_session_ids)}
    respond(reply, lambda: _say_unknown(answer.message, answer.unknown_session_ids))


def _say_unknown(message: str, sessions: tuple[str, ...]) -> None:
    say(message)
    if sessions:
        say(f"unknown sessions: {', '.join(sessions)}")


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
    respond(views.worker_view(worker, hub.clock_margin), lambda: say(f"worker {worker.id} is {worker.status}"))


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
    respond(reply, lambda: _say_unknown(answer.message, answer.unknown_session_ids))
