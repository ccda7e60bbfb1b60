"""How ``schema1.bundle`` was made: run with the ghcoord of commit 42d2fbb, the last that wrote schema 1.

::

    git archive 42d2fbb | tar x -C /tmp/old && cd /tmp/old
    python .../make_schema1.py schema1.bundle
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ghcoord.bootstrap import open_hub
from ghcoord.config import Settings
from ghcoord.coord.memory.memory import FencedBy
from ghcoord.coord.tasks.tasks import Submission
from ghcoord.coord.workers.tick import Beat, Finished
from ghcoord.model.task import TaskResult
from ghcoord.store.local import LocalStore, create_repository
from ghcoord.testing.clock import ManualRuntime


def main(target: Path) -> None:
    folder = Path(tempfile.mkdtemp()) / "hub.git"
    create_repository(folder, "refs/heads/ghcoord/fleet")
    runtime = ManualRuntime()
    store = LocalStore(folder, runtime)
    with open_hub(store, runtime, Settings(), actor="old", state=folder.parent / "state", make=True) as hub:
        token = hub.workers.register("w1", capacity=4, ttl=60.0).token

        def beat(**more: Any) -> Any:
            return hub.beat(Beat("w1", token, tools=("build",), **more))

        def lease() -> Any:
            return beat(want=1).leased[0]

        def end(task: Any, result: TaskResult) -> None:
            beat(finished=(Finished(task.id, task.lease.token, result),))

        hub.tasks.submit("build", {"n": 1}, id="ends-well")
        end(lease(), TaskResult(success=True, output="fine", data={"answer": 42}))
        hub.tasks.submit("build", {"n": 2}, id="is-dead", retries=0)
        end(lease(), TaskResult(success=False, error="boom"))
        hub.tasks.submit("build", {"n": 3}, id="backs-off", retries=5, backoff=300)
        end(lease(), TaskResult(success=False, error="try again"))
        hub.tasks.submit("build", {"n": 4}, id="is-leased", metadata={"kept": True})
        lease()
        hub.tasks.submit_many([Submission("build", {"n": n}, id=f"waits-{n}", priority=n % 3) for n in range(20)])
        hub.tasks.submit("other", {}, id="is-cancelled")
        hub.tasks.cancel("is-cancelled", "not needed")
        lock = hub.locks.acquire("deploy", "ci-7", ttl=3600, metadata={"run": 7})
        hub.locks.acquire("Über/straße", "w1", ttl=60)
        hub.memory.set("plain", {"a": [1, 2, None]})
        hub.memory.set("Upper/Case", "x", namespace="Team A")
        hub.memory.set("short-lived", 1, ttl=50)
        hub.memory.set("guarded", "v1", fence=FencedBy("deploy", lock.token if lock is not None else 0))
        hub.memory.set("gone", 1)
        hub.memory.delete("gone")
    subprocess.run(["git", "bundle", "create", "-q", str(target), "--all"], cwd=folder, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
