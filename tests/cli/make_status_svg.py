"""Capture ``docs/images/status.svg``, the picture in the README: ``python -m tests.cli.make_status_svg``.

``ghcoord status --watch`` runs on a terminal of 80×24, on a real hub.  Its clock
is moved by hand and then stands still, so that each run shows the same.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from unittest.mock import patch

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

from ghcoord import bootstrap
from ghcoord.bootstrap import open_hub
from ghcoord.config import Settings
from ghcoord.coord.workers.tick import Beat, Finished
from ghcoord.coord.workers.workers import Machine
from ghcoord.hub import Hub, Submission
from ghcoord.model.codec import stamp
from ghcoord.model.task import TaskResult
from ghcoord.model.worker import Capabilities, SandboxInfo
from ghcoord.store.local import create_repository
from ghcoord.store.open import open_store
from ghcoord.testing.clock import ManualRuntime
from tests.cli.terminal import Terminal

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "status.svg"
WIDTH, HEIGHT = 80, 24
TOOLS = ("echo", "run.python", "shell")


class _Worker:
    """A worker as the hub sees it."""

    def __init__(self, hub: Hub, name: str, slots: int, *, sandbox: bool = True, ttl: float = 15.0) -> None:
        self.hub, self.name = hub, name
        info = SandboxInfo(driver="bwrap", tier="full") if sandbox else SandboxInfo()
        can = Capabilities(cpu_cores=slots, supported_task_types=TOOLS)
        self.token = hub.workers.register(name, capacity=slots, capabilities=can, ttl=ttl, sandbox=info).token

    def beat(self, want: int = 0, finish: int = 0, fail: int = 0) -> None:
        """One tick: report some of what it holds, take some more."""
        held = sorted(
            (task for task in self.hub.tasks.list("leased") if task.worker == self.name), key=lambda task: task.sequence
        )
        results = []
        for number, task in enumerate(held[: finish + fail]):
            good = number < finish
            result = TaskResult(
                success=good, error="" if good else "exit code 1", completed_at=stamp(self.hub.runtime.now())
            )
            assert task.lease is not None
            results.append(Finished(task.id, task.lease.token, result))
        self.hub.beat(Beat(self.name, self.token, tools=TOOLS, want=want, renew=True, finished=results))


def _work(hub: Hub, runtime: ManualRuntime) -> None:
    runtime.advance(60)
    one, two, three = _Worker(hub, "build-1", 4), _Worker(hub, "build-2", 4), _Worker(hub, "laptop", 2, sandbox=False)
    hub.tasks.submit_many(
        [
            Submission("run.python", {"n": n}, retries=n % 2, backoff=600, id=f"shard-{n:03}", sandbox="none")
            for n in range(120)
        ]
    )
    for worker, finish, fail in ((one, 40, 1), (two, 24, 2), (three, 8, 1)):
        worker.beat(want=finish + fail)
        worker.beat(finish=finish, fail=fail)
    runtime.advance(20)
    hub.locks.acquire("deploy", "ci-7", ttl=300)
    runtime.advance(97)
    hub.locks.acquire("release notes", "agent-writer", ttl=60)
    runtime.advance(4)
    one.beat(want=3)
    two.beat(want=4)
    three.beat(want=2)
    hub.workers.drain("laptop")
    runtime.advance(2)
    three.beat(finish=1)
    hub.tasks.cancel("shard-119", "not needed")
    runtime.advance(1)
    one.beat(finish=1, want=1)
    runtime.advance(2)
    hub.tasks.submit("shell", {"command": "make"}, priority=9, id="hotfix", sandbox="none")
    runtime.advance(1)
    two.beat(finish=1, want=1)
    runtime.advance(1)


@contextmanager
def _hub_at_work() -> Iterator[tuple[Path, float]]:
    """The folder of a hub in which there is something to see, and the time at which to look."""
    runtime = ManualRuntime()
    machines = iter(Machine("build-host", 4000 + number, 4, 8192) for number in range(99))
    with tempfile.TemporaryDirectory() as name, patch.object(bootstrap, "detect_machine", lambda: next(machines)):
        path = Path(name) / "hub.git"
        create_repository(path, Settings().prefix + "fleet")
        store = open_store(str(path), runtime, Settings())
        with open_hub(store, runtime, Settings(), actor="ann@desk", state=Path(name), make=True) as hub:
            _work(hub, runtime)
        yield path, runtime.now()


_STANDING_STILL = """
import sys
from ghcoord.clock import SystemRuntime
from ghcoord.hub import Hub
SystemRuntime.now = lambda runtime: {now}
Hub.url = property(lambda hub: "/srv/ghcoord/hub.git")
from ghcoord.__main__ import main
sys.exit(main(["status", "--watch", "--hub", {path!r}]))
"""
"""The real command, its clock stopped, its hub under the name that it has in the picture."""


def capture() -> pyte.Screen:
    """The terminal's screen once ``ghcoord status --watch`` has drawn itself on it."""
    screen = pyte.Screen(WIDTH, HEIGHT)
    stream = pyte.Stream(screen)
    with _hub_at_work() as (path, now):
        script = _STANDING_STILL.format(now=now, path=str(path))
        state = {"TZ": "UTC", "XDG_STATE_HOME": str(path.parent)}
        with Terminal(argv=[sys.executable, "-c", script], columns=WIDTH, rows=HEIGHT, extra=state) as terminal:
            terminal.wait_for("Recovery")
            terminal.read(0.5)
            stream.feed(terminal.seen)
    return screen


_NAMES = {"brown": "yellow", "brightbrown": "bright_yellow", "default": None}


def draw() -> Console:
    """A console that has recorded the screen."""
    screen = capture()
    console = Console(
        record=True, width=WIDTH, height=HEIGHT, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    for row in range(HEIGHT):
        line = Text()
        cells = [screen.buffer[row][column] for column in range(WIDTH)]
        for (front, back, bold), run in groupby(cells, lambda cell: (cell.fg, cell.bg, cell.bold)):
            style = Style(color=_color(front), bgcolor=_color(back), bold=bold)
            line.append("".join(cell.data for cell in run), style)
        console.print(line, no_wrap=True, overflow="crop", end="\n")
    return console


def _color(name: str) -> str | None:
    if name in _NAMES:
        return _NAMES[name]
    plain = name.startswith("bright")
    known = name in ("black", "red", "green", "blue", "magenta", "cyan", "white")
    return f"bright_{name.removeprefix('bright')}" if plain else name if known else f"#{name}"


if __name__ == "__main__":
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(draw().export_svg(title="ghcoord status --watch", unique_id="status") + "\n")
    print(PICTURE)
