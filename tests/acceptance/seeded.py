"""Simulated processes on a twin of GitHub: which of them runs, and what fails, follows from a seed.

Every request is a point before and after which another process may come, or
this one die.  No sockets: PyGithub talks to the twin within this process.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Protocol

from ghcoord.bootstrap import open_hub
from ghcoord.clock import Runtime
from ghcoord.config import BudgetSettings, GithubSettings, Settings
from ghcoord.errors import GhcoordError
from ghcoord.hub import Hub
from ghcoord.store.base import Oid, Store
from ghcoord.store.github.create import create_on_github
from ghcoord.store.open import Surroundings, github_api, open_store
from ghcoord.store.sending import Request, Sender
from ghcoord.store.transact import Transactor
from ghcoord.testing.simulation import FaultRates, SimRuntime, SimStore, Simulation
from ghcoord.twin.app import Dispatcher
from ghcoord.twin.faults import Fault, FaultKind, Faults
from ghcoord.twin.inprocess import in_process
from ghcoord.twin.log import Kind
from ghcoord.twin.messages import Incoming
from ghcoord.twin.repository import Repository
from ghcoord.twin.rest import Reply
from ghcoord.twin.server import Twin

MODES: Mapping[str, tuple[str, str]] = {
    "branch": ("refs/heads/ghcoord/", "auto"),
    "custom": ("refs/ghcoord/", "auto"),
    "rest": ("refs/heads/ghcoord/", "rest"),
}
"""Prefix and ``github.write`` of the three ways of writing."""

RATES: Mapping[FaultKind, float] = {
    "late": 0.06,
    "reply_lost": 0.02,
    "request_lost": 0.015,
    "delay": 0.02,
    "status": 0.03,
    "reset": 0.015,
    "truncated": 0.015,
    "stale": 0.01,
    "absent_after_create": 0.01,
    "conflict": 0.03,
    "opaque": 0.03,
    "secondary": 0.003,
    "primary": 0.002,
}
"""How likely each kind is for a request that can meet it."""

LATE_MOVES = 0.05
"""Besides: how likely a request that moves branches is late, for of those that make objects nobody would see it."""

SECONDS = 4.0
"""Most seconds by which something is late, slow or old, and for which a limit refuses."""

CRASH = FaultRates(0, 0, 0, 0, 0, 0, 0, 0, crash=0.002)
"""Of the simulation's own faults only the death of a process, before and after a request."""

_here = threading.local()


def enter(process: str, store: Store | None = None) -> None:
    """This thread is ``process`` from now on."""
    _here.process, _here.store = process, store


class Late:
    """A request whose sender heard nothing, and that takes effect, or would, later."""

    def __init__(self, process: str, time: float) -> None:
        self.process = process
        self.time = time
        self.looked = False
        """Whether its sender read refs since."""
        self.gave_up = False
        """Whether its sender's caller was told that the outcome is unknown."""
        self.took_effect: bool | None = None
        """``None`` until it arrives."""


class WatchedFaults(Faults):
    """Remembers the late requests, by the request; more of those that move branches are late."""

    def __init__(self, chance: Random, late_moves: float) -> None:
        super().__init__()
        self.late: dict[int, Late] = {}
        self._kept: list[Incoming] = []
        self._chance = chance
        self._late_moves = late_moves

    def choose(self, incoming: Incoming, kind: Kind, resource: str, now: float) -> Fault | None:
        moves = kind == "write" and (resource == "graphql" or "/git/refs" in incoming.path)
        if moves and self._chance.random() < self._late_moves:
            seconds = self._chance.uniform(0, SECONDS)
            self.add("late", match=lambda one: one is incoming, seconds=seconds)
        return super().choose(incoming, kind, resource, now)

    def postpone(self, incoming: Incoming, fault: Fault, now: float) -> None:
        self._kept.append(incoming)  # so that its id stays its own
        self.late[id(incoming)] = Late(_here.process, now)
        super().postpone(incoming, fault, now)


class WatchedDispatcher(Dispatcher):
    """Sees what late requests do."""

    def land(self, late: Incoming) -> None:
        before = self._landings()
        super().land(late)
        assert isinstance(self.faults, WatchedFaults)
        self.faults.late[id(late)].took_effect = self._landings() > before

    def _landings(self) -> int:
        return sum(len(one.landings) for one in self.hosting.repositories.values())


class SteppedTwin(Twin):
    """A twin that lets others run before and after each exchange."""

    def __init__(self, folder: Path, simulation: Simulation, late_moves: float) -> None:
        super().__init__(folder, runtime=SimRuntime(simulation, "server"))
        self.watched = WatchedFaults(simulation.random, late_moves)
        self.faults = self.watched
        self.dispatcher = WatchedDispatcher(self.hosting, self.runtime, self.limiter, self.faults, self.exchanges)

    def handle(self, incoming: Incoming) -> Reply:
        store: SimStore = _here.store
        what = incoming.path.removeprefix("/api/v3/repos/me/hub")
        store.point(f"{incoming.method} {what}")
        if "matching-refs" in incoming.path or b"refPrefix" in incoming.body:
            self.note(looked=True)
        try:
            reply = super().handle(incoming)
        finally:
            store.point("has its answer, or not")
        return reply

    def note(self, *, looked: bool = False, gave_up: bool = False) -> None:
        """What this process did since it sent what is late."""
        for late in self.watched.late.values():
            if late.process == _here.process and late.took_effect is None:
                late.looked = late.looked or looked
                late.gave_up = late.gave_up or gave_up


@dataclass(frozen=True, slots=True)
class Sent:
    """A commit that a client sent, and what it found out: won, lost, refused, or it never knew."""

    process: str
    ops: tuple[str, ...]
    parents: Mapping[str, Oid | None]
    """The commit in each space that it goes on from."""
    outcome: str


@contextmanager
def recording(sent: list[Sent], sender: type[Sender]) -> Iterator[None]:
    """Let all transactors have ``sender``, and note in ``sent`` what it finds out."""

    class Recording(sender):  # type: ignore[misc, valid-type]  # a class that is handed in
        def send(self, request: Request, deadline: float) -> Mapping[str, Oid] | None:
            outcome = "unknown"
            try:
                made: Mapping[str, Oid] | None = super().send(request, deadline)
                outcome = "lost" if made is None else "won"
                return made
            except GhcoordError as error:
                outcome = type(error).__name__
                raise
            finally:
                op = request.op
                parents = {space: request.expected[space] for space in request.changes}
                sent.append(Sent(_here.process, op.ids, parents, outcome))

    usual = Transactor.sender
    Transactor.sender = Recording
    try:
        yield
    finally:
        Transactor.sender = usual


class Run(Protocol):
    """What a workload and the checks need of a run."""

    prefix: str
    repository: Repository
    sent: list[Sent]
    guarded: bool
    """Whether locks are taken for the namespace that they protect."""
    pace: float
    """By what the times for which somebody does nothing are multiplied."""

    def gave_up(self) -> None:
        """The caller of this process was told that the outcome is unknown."""


Workload = Callable[[Run, Runtime, Hub], None]
"""What a process does with its hub."""


@dataclass
class World:
    """One run: processes on one twin, by one seed."""

    seed: int
    folder: Path
    mode: str
    faults: bool = True
    sent: list[Sent] = field(default_factory=list)
    pace: float = 1.0

    def __post_init__(self) -> None:
        self._made = False
        self.guarded = self.mode == "rest" or self.seed % 2 == 1  # where there is no other way, and elsewhere
        self.prefix, self.write = MODES[self.mode]
        self.simulation = Simulation(self.seed, CRASH if self.faults else FaultRates.none())
        self.twin = SteppedTwin(self.folder / "twin", self.simulation, LATE_MOVES if self.faults else 0.0)
        self.token = self.twin.user("me")
        self.repository = self.twin.repository("me", "hub")
        self.twin.faults.seed(self.seed, RATES if self.faults else {}, seconds=SECONDS)
        self.settings = Settings(
            prefix=self.prefix, github=GithubSettings(write=self.write), budget=BudgetSettings(patience=600.0)
        )

    def gave_up(self) -> None:
        """See :class:`Run`."""
        self.twin.note(gave_up=True)

    def process(self, name: str, run: Workload, *, restarts: int = 1) -> None:
        """Add a process with a hub of its own, as often as it takes to open it."""

        def body(runtime: SimRuntime, store: Store) -> None:
            enter(name, store)
            run(self, runtime, self.opened(runtime, name))

        self.simulation.process(name, body, restarts=restarts)

    def opened(self, runtime: SimRuntime, name: str) -> Hub:
        """The hub, made if need be."""
        url = f"github://{self.twin.place}/me/hub"
        around = Surroundings(
            environment={"GH_TOKEN": self.token}, cache=self.folder / name if self.seed % 5 == 0 else None
        )
        while True:
            try:
                if not self._made:
                    create_on_github(github_api(url, runtime, self.settings, around), self.prefix, create=False)
                    self._made = True
                store = open_store(url, runtime, self.settings, around)
                return open_hub(store, runtime, self.settings, actor=name, state=self.folder / "none", make=True)
            except GhcoordError as error:
                self.simulation.scheduler.note(f"{name}: cannot open: {type(error).__name__}")
                runtime.sleep(1.0)

    def run(self, sender: type[Sender] = Sender) -> None:
        """Run all processes to their end, with ``sender`` in their transactors, and let land what is late."""
        with recording(self.sent, sender), in_process(self.twin):
            self.simulation.run(60_000)
        self.twin.settle()

    @property
    def met(self) -> Counter[str]:
        """How often each kind of fault happened."""
        return Counter(kind for _, kind, _ in self.twin.faults.met)
