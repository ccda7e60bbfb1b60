"""``ghcoord autoscale``: start workers on GitHub Actions as the queue grows."""

from __future__ import annotations

import re
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.errors import UsageError
from ghcoord.faces.cli.common import duration, number, parse_labels, parse_pairs
from ghcoord.faces.cli.context import hub_url, invocation, open_hub, say_wait, settings
from ghcoord.faces.cli.output import emit_line, note, respond, say

if TYPE_CHECKING:
    from ghcoord.coord.scaling.autoscaler import Autoscaler, Step
    from ghcoord.coord.scaling.decision import Policy
    from ghcoord.hub import Hub
    from ghcoord.store.dispatching import Dispatcher

DEFAULT_EVERY = 30.0
SHORTEST_EVERY = 1.0


def _budget(text: Any) -> int:
    found = re.fullmatch(r"\s*([0-9]{1,6})\s*(?:/\s*h)?\s*", str(text), re.ASCII)
    if found is None:
        raise typer.BadParameter(f"{str(text)[:40]!r} is no budget: write it like 60/h")
    return int(found[1])


def autoscale(
    workflow: Annotated[
        str, typer.Option("--workflow", metavar="FILE", help="The workflow whose runs are workers.")
    ] = "worker.yml",
    ref: Annotated[str, typer.Option("--ref", metavar="REF", help="The branch or tag that it is run from.")] = "main",
    repository: Annotated[
        str | None,
        typer.Option("--repository", metavar="URL", help="Where it is, github:OWNER/REPO; default the hub's."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The scaler's name; default the workflow's.")
    ] = None,
    minimum: Annotated[int, number("--min", least=0, most=500, help="Runs at least.")] = 0,
    maximum: Annotated[int, number("--max", least=1, most=500, help="Runs at most.")] = 5,
    per_run: Annotated[int, number("--per-run", least=1, most=100_000, help="Open tasks for each run.")] = 5,
    cool_down: Annotated[
        float, duration("--cool-down", help="Between two changes; default 1m.", show_default=False)
    ] = 60.0,
    start_timeout: Annotated[
        float,
        duration("--start-timeout", help="Cancel a run without a worker by then; default 10m.", show_default=False),
    ] = 600.0,
    budget: Annotated[
        int, typer.Option("--budget", metavar="N/h", parser=_budget, help="Dispatches an hour at most.")
    ] = 60,
    every: Annotated[float | None, duration("--every", help="Between two looks; default 30s.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Look once, as from cron, and end.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Look at the workflow too, and say what would be done.")
    ] = False,
    input_: Annotated[
        list[str] | None, typer.Option("--input", metavar="K=V", help="An input for each run; several.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="K[=V]", help="A label of its workers; tasks that need others do not count."),
    ] = None,
) -> None:
    """Start workers on GitHub Actions as the queue grows, and let idle ones end.

    Looks at the queue and dispatches a run of the workflow for every --per-run
    open tasks, never more than --max at a time: live workers and runs that may
    still bring one are counted. Of several scalers of a name one works, the
    others stand by. Each dispatch is written down before it is sent; one whose
    answer was lost is looked up before anything is sent again. Runs that come
    to nothing double the cool-down. The token needs actions: write.

    Ends on Ctrl-C or SIGTERM; the runs go on.

    Example:
      ghcoord autoscale --max 10 --per-run 20 --input slots=4
      ghcoord autoscale --once --max 3 --budget 20/h
      ghcoord autoscale --dry-run
    """
    from ghcoord.bootstrap import workflow_dispatcher
    from ghcoord.hub import ScalingPolicy

    if once and every is not None:
        raise UsageError("give one of --once and --every: a single look has no next one")
    if every is not None and every < SHORTEST_EVERY:
        raise UsageError("--every takes at least 1s")
    policy = ScalingPolicy(minimum, maximum, per_run, cool_down, start_timeout, budget).check()
    inputs = {key: _plain(value) for key, value in parse_pairs(input_, "--input").items()}
    if "worker-id" in inputs:
        raise UsageError("--input worker-id is the scaler's own: leave it out")
    known = name or _name_of(workflow)
    labels = parse_labels(label)
    with open_hub() as hub:
        place = hub_url() if repository is None else repository
        with closing(workflow_dispatcher(place, settings(), workflow, ref, say_wait)) as dispatcher:
            if dry_run:
                dispatcher.check()
                _rehearse(hub, known, dispatcher.place, policy, labels)
                return
            scaler = hub.scaling.autoscaler(known, dispatcher, policy, inputs=inputs, labels=labels, once=once)
            shown = _Shown(known, dispatcher, policy)
            if once:
                shown.once(scaler.step())
            else:
                _go_on(hub, scaler, shown, DEFAULT_EVERY if every is None else every)


def _plain(value: Any) -> str:
    """An input as workflows take it: a text."""
    return value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def _name_of(workflow: str) -> str:
    return re.sub(r"\.ya?ml$", "", workflow.rpartition("/")[2])


def _rehearse(hub: Hub, name: str, place: str, policy: Policy, labels: dict[str, str]) -> None:
    from ghcoord.faces.autoscale_views import step_text, step_view

    view = step_view(name, place, policy, hub.scaling.rehearse(name, policy, labels), dry_run=True)
    respond(view, lambda: say(step_text(view)))


def _go_on(hub: Hub, scaler: Autoscaler, shown: _Shown, every: float) -> None:
    from ghcoord.faces.cli.daemon import on_signals

    if not invocation().json:
        shown.introduce()
    with on_signals(hub.runtime, scaler.stop, scaler.stop):
        scaler.run(every, shown.tell, lambda text: note(f"warning: {text}"))


class _Shown:
    """Steps on standard output: with ``--json`` a line each, else a line where something is new."""

    def __init__(self, name: str, dispatcher: Dispatcher, policy: Policy) -> None:
        self._name = name
        self._dispatcher = dispatcher
        self._policy = policy
        self._last = ""

    def introduce(self) -> None:
        """What is scaled, and within what."""
        from ghcoord.faces.autoscale_views import policy_text

        note(f"scaling {self._dispatcher.place}: {policy_text(self._policy)}")

    def tell(self, step: Step) -> None:
        """One step of many."""
        from ghcoord.faces.autoscale_views import step_text, step_view

        view = step_view(self._name, self._dispatcher.place, self._policy, step)
        if invocation().json:
            emit_line(view)
            return
        text = step_text(view)
        if text != self._last:
            print_line(text)
        self._last = text
        if step.problem:
            note(f"warning: {step.problem}")

    def once(self, step: Step) -> None:
        """The only one. Exits 7 when dispatches that were wanted were not accepted."""
        from ghcoord.faces.autoscale_views import step_text, step_view

        view = step_view(self._name, self._dispatcher.place, self._policy, step)
        respond(view, lambda: say(step_text(view)))
        if step.problem:
            note(f"warning: {step.problem}")
        if any(one["state"] != "accepted" for one in view["dispatched"]):
            raise typer.Exit(7)


def print_line(text: str) -> None:
    """A line at once: others follow much later."""
    from ghcoord.faces.cli.output import clean

    print(clean(text), flush=True)
