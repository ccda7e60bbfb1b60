"""Draw ``docs/images/status.svg``, the picture in the README: ``python -m tests.cli.make_status_svg``.

The hub is a real one, its clock is moved by hand, so that each run draws the same.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from pathlib import Path

from rich.console import Console

from ghcoord.bootstrap import open_hub
from ghcoord.config import Settings
from ghcoord.coord.tick import Beat, Finished
from ghcoord.faces.dashboard import Dashboard
from ghcoord.faces.overview import gather
from ghcoord.faces.views import View
from ghcoord.hub import Hub, Submission
from ghcoord.model.codec import stamp
from ghcoord.model.task import TaskResult
from ghcoord.model.worker import Capabilities, SandboxInfo
from ghcoord.store.local import create_repository
from ghcoord.store.open import open_store
from ghcoord.testing.clock import ManualRuntime

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "status.svg"
WIDTH, HEIGHT = 96, 30
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
        [Submission("run.python", {"n": n}, retries=n % 2, backoff=600, id=f"shard-{n:03}") for n in range(120)]
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
    hub.tasks.submit("shell", {"command": "make"}, priority=9, id="hotfix")
    runtime.advance(1)
    two.beat(finish=1, want=1)
    runtime.advance(1)


def view() -> View:
    """What there is to see in a hub at work. Its path in the picture is not that of the temporary folder."""
    runtime = ManualRuntime()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "hub.git"
        create_repository(path, Settings().prefix + "fleet")
        store = open_store(str(path), runtime, Settings().prefix)
        with open_hub(store, runtime, Settings(), actor="ann@desk", state=Path(name), make=True) as hub:
            _work(hub, runtime)
            found = gather(hub)
    found["hub"]["url"] = "/srv/ghcoord/hub.git"
    for number, worker in enumerate(found["workers"]):
        worker.update(pid=4000 + number, hostname="build-host")
    return found


def draw() -> Console:
    """A console that has recorded the picture."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    try:
        console = Console(
            record=True, width=WIDTH, height=HEIGHT, file=io.StringIO(), force_terminal=True, color_system="truecolor"
        )
        console.print(Dashboard(view(), height=HEIGHT))
    finally:
        os.environ.pop("TZ")
        if before is not None:
            os.environ["TZ"] = before
        time.tzset()
    return console


if __name__ == "__main__":
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(draw().export_svg(title="ghcoord status --watch", unique_id="status") + "\n")
    print(PICTURE)
