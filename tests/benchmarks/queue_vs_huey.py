"""ghcoord's embedded queue against huey with SQLite, in one process, on one disk, in turns.

``python -m tests.benchmarks.queue_vs_huey`` prints the table of docs/benchmarks.md.
Figures of a machine mean little, so every one of ghcoord's stands beside huey's
of the same minute, and the ratio is the median of several turns.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import shutil
import sqlite3
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.profiling import Profile, profile_chain
from tests.benchmarks.systems import Ghcoord, HueyConsumer, HueyLoop, Measured, System, measure

WARM_UP = 100
"""Tasks before each run that are not counted."""


def one_run(make: Callable[[Path], System], tasks: int, batch: int, base: Path | None = None) -> Measured:
    """A fresh system in a folder of its own, warmed up, then measured.

    What imports and earlier runs left in memory is set aside before
    (``gc.freeze``), so that neither system pays for going through the other's.
    """
    folder = Path(tempfile.mkdtemp(prefix="ghcoord-bench-", dir=base))
    try:
        system = make(folder)
        try:
            measure(system, min(WARM_UP, tasks), min(batch, WARM_UP))
            gc.collect()
            gc.freeze()
            return measure(system, tasks, batch)
        finally:
            gc.unfreeze()
            system.close()
    finally:
        shutil.rmtree(folder)


class Comparison:
    """Runs in turns at one batch size."""

    def __init__(self, tasks: int, batch: int, turns: int, base: Path | None = None) -> None:
        self.batch = batch
        self.ours: list[Measured] = []
        self.theirs: list[Measured] = []
        self.how = ""
        for _ in range(turns):
            both = {kind: one_run(kind, tasks, batch, base) for kind in (HueyLoop, HueyConsumer)}
            fastest = max(both, key=lambda kind: both[kind].throughput)
            self.how = fastest.__name__.removeprefix("Huey").lower()
            self.theirs.append(both[fastest])
            self.ours.append(one_run(Ghcoord, tasks, batch, base))

    @property
    def ratios(self) -> list[float]:
        """ghcoord's throughput over huey's, turn by turn."""
        return [ours.throughput / theirs.throughput for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float:
        """The median turn's."""
        return statistics.median(self.ratios)

    def view(self) -> dict[str, object]:
        """Everything, for ``--json``."""
        commits = [one.commits / one.tasks for one in self.ours if one.commits is not None]
        return {
            "batch": self.batch,
            "ratio": round(self.ratio, 3),
            "ratios": [round(one, 3) for one in self.ratios],
            "huey": {"how": self.how, **_figures(self.theirs)},
            "ghcoord": {**_figures(self.ours), "commits_per_task": round(statistics.median(commits), 3)},
        }


def _figures(runs: Sequence[Measured]) -> dict[str, float]:
    batches = sorted(seconds for run in runs for seconds in run.batches)
    return {
        "tasks_per_second": round(statistics.median(run.throughput for run in runs), 1),
        **{f"p{share}_ms": round(percentile(batches, share) * 1000, 2) for share in (50, 95, 99)},
    }


def percentile(ordered: Sequence[float], share: int) -> float:
    """The value that ``share`` percent of ``ordered`` do not exceed."""
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)]


def compare(sizes: Sequence[tuple[int, int]], turns: int, base: Path | None = None) -> list[Comparison]:
    """A comparison for each (tasks, batch)."""
    return [Comparison(tasks, batch, turns, base) for tasks, batch in sizes]


def show(comparisons: Sequence[Comparison]) -> None:
    """The table: a batch's latency runs from its submission to its last result."""
    print(f"{'batch':>5}  {'system':<16}{'tasks/s':>9}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}  commits/task  ratio")
    for one in comparisons:
        view = one.view()
        for name, ratio in (("huey", ""), ("ghcoord", f"{one.ratio:.2f} x")):
            figures = view[name]
            assert isinstance(figures, dict)
            label = f"huey ({one.how})" if name == "huey" else name
            commits = figures.get("commits_per_task", "-")
            cells = "".join(f"{figures[f'p{share}_ms']:>9.1f}" for share in (50, 95, 99))
            speed = f"{figures['tasks_per_second']:>9,.0f}"
            print(f"{one.batch:>5}  {label:<16}{speed}{cells}  {commits!s:>12}  {ratio}".rstrip())


def surroundings(base: Path | None) -> str:
    """What the figures were taken with."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("huey", "pygit2", "pydantic"))
    return (
        f"{platform.platform()}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {packages}; "
        f"folder {base or tempfile.gettempdir()}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and exit 1 when batches of 100 are slower than huey's."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.queue_vs_huey", description=__doc__)
    parser.add_argument("--tasks", type=int, default=1000, help="tasks in a run at a batch of 100")
    parser.add_argument("--turns", type=int, default=5, help="runs of each system")
    parser.add_argument(
        "--folder", type=Path, help="where the databases are made: name a disk that keeps what it flushes"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--no-profile", action="store_true", help="leave out where the time goes")
    options = parser.parse_args(argv)
    comparisons = compare(
        [(options.tasks, 100), (options.tasks // 10, 10), (options.tasks // 10, 1)], options.turns, options.folder
    )
    profiles: list[Profile] = []
    if not options.no_profile:
        profiles = [profile_chain(tasks, batch, options.folder) for tasks, batch in ((options.tasks, 100), (100, 1))]
    if options.json:
        view = {
            "surroundings": surroundings(options.folder),
            "comparisons": [one.view() for one in comparisons],
            "profiles": [one.view() for one in profiles],
        }
        print(json.dumps(view, indent=2))
    else:
        print(surroundings(options.folder))
        show(comparisons)
        for one in profiles:
            one.show()
    return int(comparisons[0].ratio < 1.0)


if __name__ == "__main__":
    sys.exit(main())
