"""Seeded faults of every kind under a mixed workload: nothing is lost, nothing applied twice, no two holders write.

The fourth line of the network drivers' acceptance.
"""

from __future__ import annotations

import os
import shutil
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ghcoord.bootstrap import open_hub
from ghcoord.clock import SystemRuntime
from ghcoord.config import BudgetSettings, Settings
from ghcoord.errors import GhcoordError
from ghcoord.store.open import Surroundings, open_store
from ghcoord.store.sending import Sender
from ghcoord.testing.history import Outcome, Violation
from ghcoord.testing.simulation import SimulationFailure
from ghcoord.twin.faults import KINDS, FaultKind
from ghcoord.twin.server import Twin
from tests.acceptance.mixed import Told, counter, owner, submitter, worker
from tests.acceptance.seeded import MODES, Sent, Workload, World, enter, recording
from tests.acceptance.verdict import Branches, applied_in, violations
from tests.simulation.test_transact_sim import NeverLooks
from tests.store.remote.hubs import ENVIRONMENT

SEEDS = 200
PART = 50
"""Seeds of one slow test, so that several processes share them."""

QUICK = 3
SOCKET_SEEDS = 4
"""Runs with the remote driver, on real time."""

PUSH_RATES: Mapping[FaultKind, float] = {
    "late": 0.15,
    "reply_lost": 0.03,
    "request_lost": 0.03,
    "delay": 0.03,
    "status": 0.04,
    "reset": 0.03,
    "truncated": 0.03,
    "stale": 0.02,
}
"""How likely each fault is for a request of git."""

TRACE = 40
"""Lines of the trace in a failure."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: repositories are many small files, and nothing here is to last."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with TemporaryDirectory(prefix="ghcoord-", dir=memory, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def simulate(
    seed: int, folder: Path, sender: type[Sender] = Sender, figures: Counter[str] | None = None, *, faults: bool = True
) -> World:
    """One run, judged; the seed is in what it raises. ``figures`` are added to."""
    where = folder / f"run{seed}"
    where.mkdir()
    told = Told()
    world = World(seed, where, list(MODES)[seed % len(MODES)], faults)
    for name in ("a", "b"):
        world.process(name, owner(told, 2))
    for name in ("c", "d"):
        world.process(name, counter(told, 3))
    world.process("submitter", submitter)
    for name in ("w1", "w2"):
        world.process(name, worker(told))
    try:
        world.run(sender)
        if found := violations(world, told):
            trace = "\n".join(world.simulation.trace[-TRACE:])
            raise Violation(f"seed {seed} ({world.mode}): " + "; ".join(found) + f"\n{trace}")
        if figures is not None:
            count(figures, world, told)
    finally:
        shutil.rmtree(where)
    return world


def count(figures: Counter[str], world: World, told: Told) -> None:
    """Add what happened in a run."""
    branches = Branches(Path(world.repository.folder), world.prefix)
    late = world.twin.watched.late.values()
    landed = {call for space in told.raw for call in applied_in(branches, space)}
    figures.update(
        {
            "runs": 1,
            "requests": len(world.twin.log),
            "commits": sum(len(line) for line in branches.of.values()),
            "calls": len(told.calls),
            "calls done": sum(call.outcome is Outcome.DONE for call in told.calls),
            "calls in doubt": sum(call.outcome is Outcome.IN_DOUBT for call in told.calls),
            "fenced writes": len(told.fenced.of(Outcome.DONE)),
            "holders refused": told.refused,
            "crashes": world.simulation.crashes,
            "late and looked for": sum(one.looked for one in late),
            "late, looked for, took effect": sum(one.looked and bool(one.took_effect) for one in late),
            "late, looked for, refused": sum(one.looked and one.took_effect is False for one in late),
            "given up, not seen, there in the end": len(landed & set(told.unseen)),
            **{f"fault {kind}": times for kind, times in world.met.items()},
        }
    )


def check_figures(figures: Counter[str]) -> None:
    """Every kind of fault was met, and most of the work was done nevertheless, or nothing was tested."""
    print(", ".join(f"{what}: {figures[what]}" for what in sorted(figures)))
    assert [] == [kind for kind in KINDS if not figures[f"fault {kind}"]]
    assert figures["calls done"] > figures["calls"] * 0.7
    for what in ("calls in doubt", "holders refused", "crashes", "late, looked for, took effect"):
        assert figures[what] > 0, what
    assert figures["late, looked for, refused"] > figures["runs"]


@pytest.mark.slow
def test_seeded_faults_break_nothing(place: Path) -> None:
    """Some seeds of the 200, in each of the three ways of writing."""
    figures: Counter[str] = Counter()
    for seed in range(QUICK):
        simulate(seed, place, figures=figures)
    assert figures["calls done"] > figures["calls"] * 0.7
    assert figures["late and looked for"] > QUICK


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, SEEDS, PART))
def test_seeded_faults_break_nothing_in_200_runs(first: int, place: Path) -> None:
    """All 200 seeds: whatever gets lost, comes late, lies or is refused, nothing is lost and nothing twice."""
    figures: Counter[str] = Counter()
    for seed in range(first, first + PART):
        simulate(seed, place, figures=figures)
    check_figures(figures)
    assert figures["given up, not seen, there in the end"] > 0, "callers gave up and looked before it landed"


def test_an_operation_id_that_is_not_looked_for_is_found(place: Path) -> None:
    """Planted: one of the same runs, without the client's check of the operation id, has a violation."""
    for seed in range(QUICK - 1, SEEDS):
        try:
            simulate(seed, place, NeverLooks)
        except (Violation, SimulationFailure) as found:
            print(str(found).partition("\n")[0])
            return
    pytest.fail(f"not found in {SEEDS} seeds")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_the_check_many_runs_go_wrong(place: Path) -> None:
    """Planted: of the first runs of the 200 a good part goes wrong: things are applied twice, callers misled."""
    wrong = []
    for seed in range(PART):
        try:
            simulate(seed, place, NeverLooks)
        except (Violation, SimulationFailure) as found:
            wrong.append(str(found).partition("\n")[0])
    print(f"{len(wrong)} of {PART} runs have violations", *wrong, sep="\n")
    assert len(wrong) > PART / 4
    assert [one for one in wrong if "more than once" in one], "an operation in history twice"
    assert [one for one in wrong if "was refused" in one], "a caller was told that it did not happen"


def test_without_faults_everything_succeeds(place: Path) -> None:
    """Where only the order is left to chance, no call is in doubt and nothing is refused but what came second."""
    figures: Counter[str] = Counter()
    world = simulate(0, place, figures=figures, faults=False)
    assert 0 == figures["calls in doubt"] == figures["crashes"] == sum(world.met.values())
    assert {"won", "lost"} >= {one.outcome for one in world.sent}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_history(place: Path) -> None:
    """Two runs of one seed have the same trace and end at the same commits."""
    worlds = [simulate(1, place) for _ in range(2)]
    traces = [world.simulation.trace for world in worlds]
    assert traces[0] == traces[1]
    landings = [[landing.moves for landing in world.repository.landings] for world in worlds]
    assert landings[0] == landings[1]


class Sockets:
    """A run with sockets, threads and real time: each process has its own copy of the hub and pushes with git."""

    prefix = "refs/heads/ghcoord/"
    guarded = False
    pace = 0.05

    def __init__(self, seed: int, folder: Path, twin: Twin) -> None:
        self.sent: list[Sent] = []
        self.repository = twin.repository("me", "hub", empty=False)
        self._folder = folder
        self._url = f"{twin.url}/me/hub.git"
        self._environment = {**ENVIRONMENT, "GH_TOKEN": twin.user("me"), "GHCOORD_GITHUB_API": f"{twin.url}/api/v3"}
        twin.faults.seed(seed, PUSH_RATES, seconds=1.5)
        self._failed: list[str] = []

    def gave_up(self) -> None: ...

    def run(self, processes: Mapping[str, Workload]) -> None:
        """Run all of them to their end."""
        with recording(self.sent, Sender):
            threads = [SystemRuntime().spawn(partial(self._one, *each), each[0]) for each in processes.items()]
            for thread in threads:
                thread.join()
        assert [] == self._failed

    def _one(self, name: str, work: Workload) -> None:
        enter(name)
        runtime = SystemRuntime()
        around = Surroundings(environment=self._environment, cache=self._folder / name)
        settings = Settings(budget=BudgetSettings(limits="none"))
        try:
            while True:
                store = open_store(self._url, runtime, settings, around)
                try:
                    hub = open_hub(store, runtime, settings, actor=name, state=self._folder / "none", make=True)
                    break
                except GhcoordError:
                    runtime.sleep(0.2)
            work(self, runtime, hub)
        except BaseException:
            self._failed.append(f"{name}: {traceback.format_exc()}")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_seeded_faults_break_nothing_over_git_push(tmp_path: Path) -> None:
    """The same work with the remote driver over the twin's smart HTTP, pushes lost, late, refused and unanswered."""
    met: Counter[str] = Counter()
    done = calls = 0
    for seed in range(SOCKET_SEEDS):
        folder = tmp_path / f"run{seed}"
        with Twin(folder / "twin") as twin:
            told, run = Told(), Sockets(seed, folder, twin)
            work = {"a": owner(told, 2), "b": owner(told, 2), "c": counter(told, 3), "d": counter(told, 3)}
            run.run({**work, "submitter": submitter, "w1": worker(told), "w2": worker(told)})
            twin.faults.clear()
            twin.settle()
            assert [] == violations(run, told), f"seed {seed}"
        met.update(kind for _, kind, _ in twin.faults.met)
        calls += len(told.calls)
        done += sum(call.outcome is Outcome.DONE for call in told.calls)
    print(f"{calls} calls, {done} done, {dict(met)}")
    assert set(PUSH_RATES) == set(met)
    assert done > calls * 0.5
