"""``ghcoord bench``: how quick a hub is, and what a task costs it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.errors import NoHub, UsageError
from ghcoord.faces.cli.common import confirm, number, one_of
from ghcoord.faces.cli.context import invocation, open_hub
from ghcoord.faces.cli.output import note, respond, say, table

if TYPE_CHECKING:
    from ghcoord.faces.bench import Meter, Plan
    from ghcoord.hub import Hub

ROUNDS, QUICK_ROUNDS = 50, 5
SESSIONS, QUICK_SESSIONS = 40, 4
DRIVERS = ("auto", "bwrap", "landlock")
TASKS, QUICK_TASKS = 500, 100
MAX_TASKS = 100_000
MAX_BATCH = 500


WHAT = ("hub", "session")


def bench(
    what: Annotated[
        str, typer.Argument(metavar="[hub|session]", parser=one_of(WHAT), help="What to measure; default: the hub.")
    ] = "hub",
    tasks: Annotated[
        int | None,
        number(
            "--tasks",
            help=f"Tasks of each batch size at most; default: {TASKS}, with --quick {QUICK_TASKS}.",
            least=1,
            most=MAX_TASKS,
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        number(
            "--batch", help="Submit so many at once; may be repeated. Default: 1, 10 and 100.", least=1, most=MAX_BATCH
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few rounds: a rough picture with few commits.")] = False,
    temporary: Annotated[
        bool, typer.Option("--temporary", help="Measure a new hub on this machine, and remove it.")
    ] = False,
    sandbox: Annotated[
        str | None,
        typer.Option(
            "--sandbox", metavar="DRIVER", parser=one_of(DRIVERS), help="For a session: bwrap, landlock or auto."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Measure the hub: latency, throughput, commits and requests a task; or what a session costs.

    Says first how many commits it makes at most. It uses a namespace, a lock and
    a tool of its own, for which it runs a worker in this process, and removes
    them at the end; the hub's history keeps its commits. Asks before it measures
    a hub that has workers or tasks, or where commits are requests to a network.

    'bench session' measures sessions on this machine, in a hub, a worker and a
    package index of its own: creation, calls, checkpoints, against the aims.

    Example:
      ghcoord bench --temporary
      ghcoord bench session --quick
      ghcoord bench --quick --hub ./hub.git
      ghcoord bench --tasks 200 --batch 1 --batch 50 --json
    """
    if what == "session":
        if tasks is not None or batch or temporary or invocation().hub is not None:
            raise UsageError("'bench session' measures in a hub of its own: it takes --quick and --sandbox only")
        _bench_session(QUICK_SESSIONS if quick else SESSIONS, sandbox or "auto")
        return
    if sandbox is not None:
        raise UsageError("--sandbox goes with 'bench session'")
    from ghcoord.faces.bench import SIZES, Bench, Meter, Plan, view
    from ghcoord.faces.cli.batch import progress_bar

    plan = Plan(
        rounds=QUICK_ROUNDS if quick else ROUNDS,
        tasks=tasks or (QUICK_TASKS if quick else TASKS),
        sizes=tuple(sorted(set(batch))) if batch else SIZES,
    )
    meter = Meter()
    with _hub(temporary, meter) as hub:
        _ask(hub, plan, yes)
        with progress_bar(plan.steps, "measuring") as done:
            report = Bench(hub, meter, plan, done).run()
        found = view(hub, plan, report)
    respond(found, lambda: _show(found))


@contextmanager
def _hub(temporary: bool, meter: Meter) -> Iterator[Hub]:
    """The hub that was named, or one that is gone afterwards."""
    if not temporary:
        try:
            with open_hub(trace=meter) as hub:
                yield hub
        except NoHub as error:
            raise NoHub(f"{error.message}; --temporary measures a new one on this machine") from None
        return
    if invocation().hub is not None:
        raise UsageError("--temporary makes a hub of its own: leave --hub out")
    with _own_hub(meter) as (hub, _):
        yield hub


@contextmanager
def _own_hub(meter: Meter | None = None) -> Iterator[tuple[Hub, Path]]:
    """A new hub in a folder that is gone afterwards."""
    from ghcoord.bootstrap import create
    from ghcoord.config import Settings

    with tempfile.TemporaryDirectory(prefix="ghcoord-bench-") as made:
        folder = Path(made)
        folder.chmod(0o711)  # a root worker's tasks are another user's
        hub, _ = create(folder / "hub.git", Settings(), state=folder / "state", trace=meter)
        with hub:
            yield hub, folder


def _bench_session(rounds: int, sandbox: str) -> None:
    from ghcoord.faces.bench_session import STEPS, SessionBench, view
    from ghcoord.faces.cli.batch import progress_bar

    with _own_hub() as (hub, folder), progress_bar(STEPS, "measuring") as done:
        figures = SessionBench(hub, folder / "workspaces", sandbox, rounds, done).run()
    found = view(figures, rounds)
    respond(found, lambda: _show_session(found))


def _show_session(found: dict[str, Any]) -> None:
    table(
        ["operation", "median ms", "worst ms", "at most", "times"],
        [
            [one["operation"], _number(one["median_ms"]), _number(one["worst_ms"]), one["aim_ms"], one["times"]]
            for one in found["operations"]
        ],
        keep=["operation"],
        right=["median ms", "worst ms", "at most", "times"],
    )
    print()
    say(
        f"run.python costs {found['run_python_ratio']} × a bare interpreter start ({found['bare_interpreter_ms']} ms); "
        f"sandbox {found['sandbox']}"
    )
    say(f"a new session takes {found['session_disk_mb']} MiB of disk")


def _ask(hub: Hub, plan: Plan, yes: bool) -> None:
    """Say what it takes, and ask where somebody may be disturbed."""
    takes = f"makes at most {plan.commits} commits in {hub.url}"
    workers, tasks = len(hub.workers.list()), sum(hub.tasks.counts().values())
    if workers or tasks:
        confirm(f"The hub has {workers} workers and {tasks} tasks. The bench {takes}. Go on?", yes)
    elif hub.requests_per_commit:
        confirm(f"The bench {takes}, of {hub.requests_per_commit} requests each. Go on?", yes)
    note(f"the bench {takes}")


def _show(found: dict[str, Any]) -> None:
    table(
        ["operation", "p50 ms", "p95 ms", "p99 ms", "times"],
        [
            [one["operation"], *(_number(one[f"p{share}_ms"]) for share in (50, 95, 99)), one["times"]]
            for one in found["latency"]
        ],
        keep=["operation"],
        right=["p50 ms", "p95 ms", "p99 ms", "times"],
    )
    print()
    table(
        ["batch", "tasks/s", "commits/task", "requests/task", "store calls/task"],
        [
            [
                one["batch"],
                f"{one['tasks_per_second']:,.0f}",
                f"{one['commits_per_task']:.2f}",
                f"{one['requests_per_task']:.2f}",
                f"{one['store_calls_per_task']:.1f}",
            ]
            for one in found["throughput"]
        ],
        right=["batch", "tasks/s", "commits/task", "requests/task", "store calls/task"],
        empty="no commits were left for tasks",
    )
    print()
    say(f"{found['commits']} commits of at most {found['commit_limit']}, in {found['seconds']:.1f} s")
    if not found["complete"]:
        say("the commits ran out: what is shown is of fewer rounds")


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"
