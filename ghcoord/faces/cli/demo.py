"""``ghcoord demo``: a newcomer sees what a hub is, in half a minute and with real processes."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.errors import UsageError
from ghcoord.faces.cli.context import environment, invocation, variable
from ghcoord.faces.cli.output import clean, console, emit, note, say
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from rich.live import Live

    from ghcoord.faces.demo_report import Claim, Facts
    from ghcoord.hub import Hub

HISTORY = 6
"""Commits of the hub's own log that are shown."""

VIEW_HEIGHT = 16
"""Lines of the live view at most; what has happened scrolls by above it."""

NEXT = """\
Next:
  ghcoord init ./hub.git && export GHCOORD_HUB=./hub.git
  ghcoord worker start --slots 2 &
  ghcoord task submit run.python --arg code='print(6 * 7)' --wait
  ghcoord status --watch"""


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the hub and the logs, and print where they are.")] = False,
) -> None:
    """See it work: two workers, tasks, priorities, a retry, a crash and its recovery, a fenced lock.

    Makes a temporary hub, starts real processes on it, kills one of them, and
    checks what became of everything. Takes about 15 seconds and leaves nothing
    behind. Exits 1 when something that it claims did not happen.

    Example:
      ghcoord demo
      ghcoord demo --keep
    """
    from ghcoord.faces.demo_processes import remove
    from ghcoord.faces.demo_report import claims

    if invocation().hub is not None:
        raise UsageError("the demo makes a hub of its own: leave --hub out")
    with _ended_by_signals():
        folder = Path(tempfile.mkdtemp(prefix="ghcoord-demo-")).resolve()
        try:
            facts = _play(folder)
        finally:
            if not keep:
                remove(folder)
    judged = claims(facts)
    kept = str(folder) if keep else None
    if invocation().json:
        emit(_view(facts, judged, kept))
    else:
        _tell(facts, judged, kept)
    if not all(claim.ok for claim in judged):
        raise typer.Exit(1)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does: with everything cleaned up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _play(folder: Path) -> Facts:
    from ghcoord.bootstrap import create
    from ghcoord.config import Settings
    from ghcoord.execution.sandbox.open import probe
    from ghcoord.faces.demo_processes import Processes
    from ghcoord.faces.demo_story import POLL, Story

    # A root worker's tasks run as another user, who must be able to pass through.
    folder.chmod(0o711)
    for name in ("work", "tmp", "state"):
        (folder / name).mkdir(mode=0o711)
        (folder / name).chmod(0o711)
    url = str(folder / "hub.git")
    hub, _ = create(url, Settings(poll=POLL), actor="demo", state=folder / "state")
    with hub, Processes(folder, url, _environment(folder)) as processes, _stage(hub) as stage:
        stage.say(f"a hub is a bare Git repository: {url}")
        sandbox = probe(hub.runtime)
        if not sandbox.ok:
            stage.say(f"no sandbox here ({sandbox.reason}): the demo runs its own tasks without one")
        elif sandbox.tier != "full":
            stage.say(f"a {sandbox.tier} sandbox here ({sandbox.reason}): enough for the demo's own tasks")
        return Story(hub, processes, stage, sandbox).play()


def _environment(folder: Path) -> dict[str, str]:
    """For the children: this very ghcoord, and nothing written outside ``folder``."""
    package = str(Path(__file__).resolve().parents[3])
    path = variable("PYTHONPATH")
    return environment(
        PYTHONPATH=f"{package}:{path}" if path else package,
        TMPDIR=str(folder / "tmp"),
        XDG_STATE_HOME=str(folder / "state"),
        GHCOORD_LOG_LEVEL="info",
    )


# -- showing it


class _Lines:
    """Where there is no terminal: a line for each thing that happens; with ``--json`` on standard error."""

    def say(self, text: str) -> None:
        if invocation().json:
            note(text)
        else:
            say(f"• {text}")
            sys.stdout.flush()

    def show(self) -> None:
        """Nothing: the lines say enough."""


class _Screen:
    """On a terminal: what happens scrolls by above the status view."""

    def __init__(self, hub: Hub, live: Live) -> None:
        self._hub = hub
        self._live = live
        self._heads: dict[str, str] = {}
        self._view: dict[str, Any] = {}

    def say(self, text: str) -> None:
        from rich.text import Text

        self._live.console.print(Text("• ", style="green").append(clean(text), style="default"))
        self.show()

    def show(self) -> None:
        from ghcoord.faces.dashboard import Dashboard
        from ghcoord.faces.overview import as_of, gather

        heads = self._hub.heads()
        if heads != self._heads:
            self._heads, self._view = heads, gather(self._hub)
        height = min(VIEW_HEIGHT, self._live.console.height - 2)
        self._live.update(Dashboard(as_of(self._view, self._hub.now()), height=height), refresh=True)


@contextmanager
def _stage(hub: Hub) -> Iterator[_Lines | _Screen]:
    from ghcoord.faces.live import can_redraw

    screen = console()
    if invocation().json or not can_redraw(screen):
        yield _Lines()
        return
    from rich.live import Live

    with Live(console=screen, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False) as live:
        yield _Screen(hub, live)


# -- the summary


def _view(facts: Facts, judged: list[Claim], kept: str | None) -> dict[str, Any]:
    return {
        "ok": all(claim.ok for claim in judged),
        "claims": [{"claim": claim.text, "ok": claim.ok, "detail": claim.detail} for claim in judged],
        "tasks": facts.submitted,
        "succeeded": sum(task.state == "succeeded" for task in facts.tasks),
        "attempts": facts.attempts,
        "lost": facts.lost,
        "retried": facts.retried,
        "given_back": facts.returned,
        "killed": {
            "worker": facts.victim,
            "held": list(facts.held),
            "recovered_after": _rounded(facts.recovered_after),
        },
        "tokens": list(facts.tokens),
        "commits": facts.commits,
        "seconds": round(facts.seconds, 3),
        "history": facts.history[:HISTORY],
        "folder": kept,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _tell(facts: Facts, judged: list[Claim], kept: str | None) -> None:
    from rich.text import Text

    from ghcoord.faces.demo_tasks import is_long

    screen = console()
    print()
    for claim in judged:
        line = Text("✓ " if claim.ok else "✗ ", style="green" if claim.ok else "bold red")
        line.append(clean(claim.text), style="default" if claim.ok else "bold red")
        if not claim.ok and claim.detail:
            line.append(clean(f" — not so: {claim.detail}"), style="default")
        screen.print(line, soft_wrap=True)
    tasks = max(1, facts.submitted)
    parts = [f"{facts.lost} leases lost in the crash", f"{facts.retried} failure retried"]
    if facts.returned:
        parts.append(f"{facts.returned} given back unstarted")
    say("")
    say(f"{facts.attempts} attempts for {facts.submitted} tasks: {', '.join(parts)}")
    say(f"{facts.commits} commits, {facts.commits / tasks:.1f} a task, in {format_duration(round(facts.seconds, 1))}")
    found = [(task, task.result.output) for task in facts.tasks if is_long(task.id) and task.result is not None]
    for task, output in found[-1:]:
        say(f"{task.id} on {task.worker}: {output.strip()}")
    print("\nThe hub's own history is the audit trail (git log --oneline ghcoord/fleet):")
    for commit in facts.history[:HISTORY]:
        say(f"  {commit}")
    print()
    if kept is not None:
        say(f"The hub is in {kept}/hub.git: ghcoord status -H {kept}/hub.git")
    if all(claim.ok for claim in judged):
        print(NEXT)
    else:
        print(
            "Something did not happen as it should: 'ghcoord demo --keep' leaves the logs, see also 'ghcoord doctor'."
        )
