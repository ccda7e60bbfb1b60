"""``ghcoord schedule``: tasks submitted again and again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.errors import NotFound
from ghcoord.faces import views
from ghcoord.faces.cli import taskoptions as given
from ghcoord.faces.cli.common import confirm, duration, group, number, parse_object, parse_pairs, verb
from ghcoord.faces.cli.context import open_hub
from ghcoord.faces.cli.output import fields, note, respond, say, table, to_json
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from ghcoord.hub import Hub
    from ghcoord.model.schedule import Schedule

app = group("Submit tasks again and again, at given times.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@verb(app, "add")
def add(
    name: Name,
    cron: Annotated[
        str, typer.Argument(metavar="CRON", help="'0 3 * * *' (minute hour day month weekday), @daily, 'every 15m'.")
    ],
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="What to run: echo, run.python, shell …")],
    arg: given.Arg = None,
    args_json: given.ArgsJson = None,
    timezone: Annotated[
        str, typer.Option("--timezone", "--tz", metavar="ZONE", help="Of the times, as in Europe/Berlin.")
    ] = "UTC",
    missed: Annotated[
        str,
        typer.Option(
            "--missed", metavar="WHAT", help="Fires that nobody was there for: latest (one for all), skip, all."
        ),
    ] = "latest",
    grace: Annotated[
        float | None, duration("--grace", help="A fire that is later than this was missed; default 2m.")
    ] = None,
    no_overlap: Annotated[
        bool, typer.Option("--no-overlap", help="Leave a fire out while the task of the last one has not ended.")
    ] = False,
    paused: Annotated[bool, typer.Option("--paused", help="Do not fire until resumed.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also when there is one of that name that differs.")
    ] = False,
    type_: given.Type = None,
    priority: given.Priority = None,
    retries: given.Retries = None,
    timeout: given.Timeout = None,
    backoff: given.Backoff = None,
    backoff_cap: given.BackoffCap = None,
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
    estimate: given.Estimate = None,
    meta: given.Meta = None,
) -> None:
    """Submit a task at given times, each time once however many workers there are.

    Workers fire schedules: while none is alive nothing is submitted. Adding the
    same again changes nothing; another one of that name needs --replace, else
    exits 4.

    Example:
      ghcoord schedule add nightly '0 3 * * *' echo --arg message=hello --timezone Europe/Berlin
      ghcoord schedule add poll 'every 15m' echo --no-overlap --timeout 10m
    """
    options = given.meaning(
        given.given(
            type=type_,
            priority=priority,
            retries=retries,
            timeout=timeout,
            backoff=backoff,
            backoff_cap=backoff_cap,
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
            estimated_duration=estimate,
            metadata=parse_pairs(meta, "--meta") or None,
        )
    )
    args = {**(parse_object(args_json, "--args-json") if args_json is not None else {}), **parse_pairs(arg, "--arg")}
    times: dict[str, Any] = {"timezone": timezone, "missed": missed, "overlap": not no_overlap, "paused": paused}
    if grace is not None:
        times["grace"] = grace
    with open_hub() as hub:
        made = hub.schedules.put(name, cron, tool, args, replace=replace, **times, **options)
        respond(views.schedule_view(made), lambda: say(f"{made.name}: {_next_words(made)}"))


def _next_words(schedule: Schedule) -> str:
    if schedule.paused:
        return "paused"
    return f"next at {views.iso(schedule.next_fire)}" if schedule.next_fire is not None else "never again"


@verb(app, "list")
def list_() -> None:
    """List the schedules.

    Example:
      ghcoord schedule list
    """
    with open_hub() as hub:
        found = hub.schedules.list()
    respond(
        [views.schedule_view(one) for one in found],
        lambda: table(
            ("NAME", "CRON", "TOOL", "NEXT", "LAST TASK"),
            [(one.name, one.cron, one.template.tool, _next_cell(one), one.last_task) for one in found],
            keep=("NAME",),
            empty="no schedules",
        ),
    )


def _next_cell(schedule: Schedule) -> str:
    if schedule.paused:
        return "paused"
    return f"{schedule.next_fire:%Y-%m-%d %H:%M:%SZ}" if schedule.next_fire is not None else "never"


@verb(app, "show")
def show(name: Name) -> None:
    """Show a schedule. Exits 3 when there is none of that name.

    Example:
      ghcoord schedule show nightly
    """
    with open_hub() as hub:
        schedule = _need(hub, name)
    respond(views.schedule_view(schedule), lambda: _show(schedule))


def _need(hub: Hub, name: str) -> Schedule:
    schedule = hub.schedules.get(name)
    if schedule is None:
        raise NotFound(f"there is no schedule {name[:140]!r}")
    return schedule


def _show(schedule: Schedule) -> None:
    template = schedule.template
    fields(
        [
            ("schedule", schedule.name),
            ("times", f"{schedule.cron} ({schedule.timezone})"),
            ("tool", template.tool),
            ("args", to_json(template.args, None)),
            ("options", to_json(template.options, None) if template.options else None),
            ("next", _next_words(schedule).removeprefix("next at ")),
            ("last", views.iso_or_none(schedule.last_fire)),
            ("last task", schedule.last_task),
            ("fires", schedule.fires),
            ("missed", f"{schedule.missed}, when over {format_duration(schedule.grace)} late"),
            ("overlap", None if schedule.overlap else "a fire is left out while the last task has not ended"),
            ("created", f"{views.iso(schedule.created_at)} by {schedule.created_by}"),
        ]
    )


@verb(app, "next")
def next_(
    name: Name,
    count: Annotated[int, number("--count", "-n", least=1, most=1000, help="How many times to show.")] = 5,
) -> None:
    """Show the next times at which a schedule is due, also a paused one.

    Example:
      ghcoord schedule next nightly -n 3
    """
    with open_hub() as hub:
        zone = _need(hub, name).timetable().zone
        found = hub.schedules.next(name, count)
    respond([views.iso(at) for at in found], lambda: _say_times(found, zone))


def _say_times(found: Sequence[datetime], zone: tzinfo) -> None:
    for at in found:
        say(f"{at.astimezone(zone):%a %Y-%m-%d %H:%M:%S %Z}")


@verb(app, "pause")
def pause(name: Name) -> None:
    """Fire no more until resumed.

    Example:
      ghcoord schedule pause nightly
    """
    with open_hub() as hub:
        schedule = hub.schedules.pause(name)
    respond(views.schedule_view(schedule), lambda: say(f"{name} paused"))


@verb(app, "resume")
def resume(name: Name) -> None:
    """Fire again from the next due time on; what was due in between is not made up for.

    Example:
      ghcoord schedule resume nightly
    """
    with open_hub() as hub:
        schedule = hub.schedules.resume(name)
    respond(views.schedule_view(schedule), lambda: say(f"{name}: {_next_words(schedule)}"))


@verb(app, "remove")
def remove(name: Name, yes: Yes = False) -> None:
    """Take a schedule away; its tasks stay. Asks on a terminal.

    Example:
      ghcoord schedule remove nightly --yes
    """
    with open_hub() as hub:
        schedule = _need(hub, name)
        confirm(f"Remove the schedule {name!r} ({schedule.cron}, {schedule.template.tool})?", yes)
        schedule = hub.schedules.remove(name)
    respond(views.schedule_view(schedule), lambda: say(f"{name} removed"))


@verb(app, "run")
def run(name: Name) -> None:
    """Submit a schedule's task at once, besides its times, and print the task's id.

    Also while it is paused. Where tasks must not overlap, the one that is there
    is printed, and "duplicate" is true with --json.

    Example:
      ghcoord schedule run nightly
    """
    with open_hub() as hub:
        offered = hub.schedules.run_now(name)
    task = offered.task
    respond({**views.task_view(task), "duplicate": not offered.created}, lambda: say(task.id))
    if not offered.created:
        note(f"task {task.id} is there already: it is {task.state}")
