"""``ghcoord balance``: which worker, which task, how the load lies, and evening it out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ghcoord.errors import NoCapacity, NotFound
from ghcoord.faces import views
from ghcoord.faces.cli.common import confirm, group, verb
from ghcoord.faces.cli.context import open_hub
from ghcoord.faces.cli.output import note, respond, say, table

if TYPE_CHECKING:
    from ghcoord.coord.workers.balance import RebalanceResult
    from ghcoord.model.placement import LoadDistribution

app = group("Place tasks on workers and even out the load.")

SHOWN = 10
"""Moves that are named before it is asked."""


@verb(app, "next")
def next_(worker_id: Annotated[str, typer.Argument(metavar="WORKER", help="The worker's id.")]) -> None:
    """Show the task that a worker would get first. Changes nothing.

    Exits 3 when there is no such worker, and when no queued task suits it.

    Example:
      ghcoord balance next w1
    """
    with open_hub() as hub:
        task = hub.balance.get_next_task(worker_id)
    if task is None:
        raise NotFound(f"there is no task for worker {worker_id!r}: none suits, or it takes none now")
    found = task
    respond(views.task_view(found), lambda: say(f"{found.id} ({found.need.type}, priority {found.priority})"))


@verb(app, "select")
def select(
    task_id: Annotated[str, typer.Argument(metavar="TASK", help="The task's id.")],
    assign: Annotated[bool, typer.Option("--assign", help="Place the task there: it waits for that worker.")] = False,
) -> None:
    """Show the worker that the strategy would give a task to.

    Exits 7 when no active worker with a free slot suits.

    Example:
      ghcoord balance select t0123456789ab --assign
    """
    with open_hub() as hub:
        if assign:
            placed = hub.balance.assign(task_id)
            worker = hub.workers.get(placed.worker or "")
        else:
            worker = hub.balance.select_worker(task_id)
    if worker is None:
        raise NoCapacity(f"no active worker with a free slot suits task {task_id!r}: see 'ghcoord worker list'")
    chosen = worker
    said = f"task {task_id} waits for {chosen.id}" if assign else chosen.id
    respond(views.worker_view(chosen, hub.clock_margin), lambda: say(said))


@verb(app, "show")
def show() -> None:
    """Show how the load lies on the workers that take tasks.

    It is imbalanced when the most and the least used worker differ by more than
    30 percentage points. WAITING are queued tasks placed on that worker.

    Example:
      ghcoord balance show
    """
    with open_hub() as hub:
        found = hub.balance.distribution()
    respond(views.distribution_view(found), lambda: _show(found))


def _show(found: LoadDistribution) -> None:
    table(
        ("WORKER", "TASKS", "WAITING", "USED"),
        [
            (one.worker_id, views.in_use(one.active_tasks, one.capacity), one.assigned, f"{one.utilization_percent:g}%")
            for one in found.worker_loads
        ],
        keep=("WORKER",),
        right=("TASKS", "WAITING", "USED"),
        empty="no workers that take tasks",
    )
    if found.worker_loads:
        say(f"{found.utilized_capacity} of {found.total_capacity} slots used ({found.utilization_percent:g}%)")
        word = "imbalanced" if found.imbalanced else "balanced"
        say(f"{word}: the most and the least used worker differ by {found.spread:g} points")


@verb(app, "strategy")
def strategy(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The strategy to use from now on.")] = None,
) -> None:
    """Show or set the strategy, for all users of the hub.

    round_robin goes from worker to worker; least_loaded takes the one with the
    smallest share of its slots in use; capacity_based gives in proportion to
    free slots; affinity prefers who lately ran the task's type; adaptive goes
    by affinity while less than half of the slots are used, then by load,
    health and failed attempts.

    Example:
      ghcoord balance strategy affinity
    """
    with open_hub() as hub:
        if name is not None:
            hub.balance.set_strategy(name)
        present = hub.balance.strategy()
    respond({"strategy": present}, lambda: say(present))


@verb(app, "rebalance")
def rebalance(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be moved; move nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Move placed tasks that have not started to workers with room.

    Takes from workers with more tasks than slots, and from those that drain or
    are unhealthy. What 'task submit --worker' pinned stays. Shows what would be
    moved and asks first.

    Example:
      ghcoord balance rebalance --dry-run
    """
    with open_hub() as hub:
        result = hub.balance.rebalance(dry_run=True)
        if not dry_run and result.moves:
            if not yes:
                _preview(result)
            confirm(f"Move {result.tasks_moved} tasks?", yes)
            result = hub.balance.rebalance()
    word = "would be moved" if dry_run else "moved"
    respond(views.rebalance_view(result), lambda: _report(result, word))


def _preview(result: RebalanceResult) -> None:
    note(f"{result.tasks_moved} tasks to move:")
    for move in result.moves[:SHOWN]:
        note(f"  {move.task_id}: from {move.from_worker} to {move.to_worker or 'any worker'}")
    if len(result.moves) > SHOWN:
        note(f"  … {len(result.moves) - SHOWN} more")


def _report(result: RebalanceResult, word: str) -> None:
    if result.moves:
        table(
            ("TASK", "FROM", "TO"),
            [(move.task_id, move.from_worker, move.to_worker or "any worker") for move in result.moves],
            keep=("TASK",),
        )
    used = f"{result.before_utilization:g}% of slots used"
    if result.moves:
        used += f", then {result.after_utilization:g}%"
    say(f"{result.tasks_moved} tasks {word}: {used}")
