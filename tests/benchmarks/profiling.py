"""Where the time of a task goes: its transactions, made one after the other in one thread, under cProfile.

Without the worker's threads, since a profile of several threads counts one's
waiting as the other's work.  The profiler slows down Python more than C, so
shares are to be read as such.
"""

from __future__ import annotations

import cProfile
import pstats
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ghcoord.bootstrap import create
from ghcoord.config import Settings
from ghcoord.coord.workers.tick import Beat, Finished
from ghcoord.hub import Hub, Submission
from ghcoord.model.codec import stamp
from ghcoord.model.task import TaskResult

CATEGORIES = (
    ("fsync", ("posix.fsync",)),
    ("other file calls", ("posix.", "io.", "fcntl.", "built-in method _io", "pathlib", "<frozen os>", "'write' of")),
    ("compression", ("zlib.", "zlib")),
    ("hashes", ("_hashlib", "HASH")),
    ("pydantic and JSON", ("pydantic", "json")),
    ("git objects, packs, refs", ("ghcoord/store/",)),
    ("records and transitions", ("ghcoord/model/", "ghcoord/ids.py")),
    ("coordination", ("ghcoord/coord/", "ghcoord/hub.py")),
)
"""What each function's own time counts as: the first of these that has a part of its file and name."""


@dataclass(frozen=True)
class Profile:
    """Seconds by category for ``tasks`` tasks in batches of ``batch``; ``seconds`` is the time without the profiler."""

    tasks: int
    batch: int
    seconds: float
    shares: dict[str, float]

    def view(self) -> dict[str, object]:
        """For ``--json``: shares of 1."""
        return {
            "batch": self.batch,
            "microseconds_per_task": round(self.seconds / self.tasks * 1e6),
            "shares": {name: round(share, 3) for name, share in self.shares.items()},
        }

    def show(self) -> None:
        """A line for each category, the largest first."""
        each = self.seconds / self.tasks * 1e6
        print(f"\nbatch {self.batch}: {each:,.0f} µs a task without worker and threads, of which")
        for name, share in sorted(self.shares.items(), key=lambda item: -item[1]):
            print(f"  {share:>6.1%}  {name}")


def profile_chain(tasks: int, batch: int, base: Path | None = None) -> Profile:
    """Submit, lease, finish and read ``tasks`` tasks twice: once for the time, once for the profile."""
    folder = Path(tempfile.mkdtemp(prefix="ghcoord-profile-", dir=base))
    try:
        hub, _ = create(folder / "hub.git", Settings(), state=folder / "state")
        with hub:
            token = hub.workers.register("bench", capacity=batch).token
            _chain(hub, token, min(tasks, 100), batch)
            began = time.perf_counter()
            _chain(hub, token, tasks, batch)
            seconds = time.perf_counter() - began
            profile = cProfile.Profile()
            profile.runcall(_chain, hub, token, tasks, batch)
    finally:
        shutil.rmtree(folder)
    return Profile(tasks, batch, seconds, _shares(profile))


def _chain(hub: Hub, token: int, tasks: int, batch: int) -> None:
    for first in range(0, tasks, batch):
        submitted = hub.tasks.submit_many(
            [Submission("add", {"a": number, "b": 1}) for number in range(first, min(first + batch, tasks))]
        )
        leased = hub.beat(Beat("bench", token, tools=("add",), want=batch)).leased
        assert len(submitted) == len(leased)
        finished = [
            Finished(
                task.id,
                task.lease.token if task.lease is not None else 0,
                TaskResult(success=True, data={"value": task.args["a"] + 1}, completed_at=stamp(time.time())),
            )
            for task in leased
        ]
        hub.beat(Beat("bench", token, tools=("add",), finished=finished))
        ended = hub.tasks.wait_many([task.id for task in submitted])
        assert {"succeeded"} == {task.state for task in ended.values()}


def _shares(profile: cProfile.Profile) -> dict[str, float]:
    own: dict[str, float] = {}
    for (file, _, name), (_, _, seconds, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        where = f"{file} {name}"
        category = next((label for label, parts in CATEGORIES if any(part in where for part in parts)), "other Python")
        own[category] = own.get(category, 0.0) + seconds
    total = sum(own.values())
    return {name: seconds / total for name, seconds in own.items()}
