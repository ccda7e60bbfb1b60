"""The facade: everything a program, the CLI or an agent does with a hub goes through here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from ghcoord.clock import Runtime
from ghcoord.config import Settings
from ghcoord.coord import layout
from ghcoord.coord.artifacts.artifacts import Artifacts
from ghcoord.coord.audit import events, history
from ghcoord.coord.audit.audit import Audit
from ghcoord.coord.audit.events import Commit
from ghcoord.coord.care import adopt, care, hubrecord
from ghcoord.coord.care.care import GcReport, unheard
from ghcoord.coord.care.repair import Repair, repair
from ghcoord.coord.care.settings import HubSettings
from ghcoord.coord.context import Context
from ghcoord.coord.files.content import Contents
from ghcoord.coord.locks.leader import Elections
from ghcoord.coord.locks.locks import Locks
from ghcoord.coord.locks.waiting import Retries
from ghcoord.coord.memory.memory import CheckKey, Cursor, DeleteKey, Memory, SetKey
from ghcoord.coord.observer import Observer
from ghcoord.coord.scaling.decision import Policy as ScalingPolicy
from ghcoord.coord.scaling.scaling import Scaling
from ghcoord.coord.sessions.differences import Diff
from ghcoord.coord.sessions.sessions import Sessions
from ghcoord.coord.tasks.logs import FullLogs
from ghcoord.coord.tasks.schedules import Schedules
from ghcoord.coord.tasks.tasks import Submission, TaskQuery, Tasks
from ghcoord.coord.workers.balance import Balance
from ghcoord.coord.workers.tick import Beat, Reply, beat, beat_along
from ghcoord.coord.workers.workers import Machine, Workers
from ghcoord.errors import GhcoordError, HeadRegressed
from ghcoord.model.codec import stamp
from ghcoord.model.event import AuditEntry
from ghcoord.model.health import Vitals
from ghcoord.model.tool import ToolRegistry
from ghcoord.model.worker import Capabilities, Health
from ghcoord.store.base import Tell
from ghcoord.store.budget.base import Pace, Report
from ghcoord.store.bundle import Written
from ghcoord.store.heads import Mark, revision_of
from ghcoord.store.pinned import PinnedStore
from ghcoord.store.transact import Transactor

__all__ = [
    "AuditEntry",
    "Capabilities",
    "CheckKey",
    "Cursor",
    "DeleteKey",
    "Diff",
    "Health",
    "Hub",
    "ScalingPolicy",
    "SetKey",
    "Submission",
    "TaskQuery",
]


class Hub:
    """An open hub. Every object reached from it may be shared between threads.

    ``locks``, ``workers``, ``tasks``, ``sessions``, ``schedules``, ``balance``, ``memory``, ``artifacts``, ``audit``,
    ``scaling``, ``config`` and ``tools`` are its parts.
    Close it, or use it as a context manager.
    """

    def __init__(
        self,
        transactor: Transactor,
        runtime: Runtime,
        settings: Settings,
        record: Mapping[str, Any],
        *,
        actor: str,
        observer: Observer,
        machine: Callable[[], Machine],
        vitals: Callable[[Path], Vitals],
        on_close: Callable[[Mapping[str, Mark]], None] | None = None,
    ) -> None:
        poll = settings.poll or transactor.store.capabilities.poll_interval
        self._context = Context(transactor, runtime, observer, actor, poll)
        self._record = dict(record)
        self._on_close = on_close
        self.settings = settings
        self.runtime = runtime
        self.observer = observer
        self.machine = machine
        self.vitals = vitals
        self.config = HubSettings(self._context)
        self.locks = Locks(
            self._context,
            ttl=settings.locks.ttl,
            identity=lambda: {"hostname": machine().hostname, "pid": machine().pid},
            retries=Retries(settings.locks.retry_attempts, settings.locks.retry_delay),
        )
        self.leader = Elections(self._context, self.locks)
        self.workers = Workers(self._context, machine=machine)
        self.contents = Contents(self._context)
        self.artifacts = Artifacts(self._context, self.contents, settings.artifacts)
        self.tasks = Tasks(self._context, FullLogs(self.artifacts))
        self.balance = Balance(self._context)
        self.schedules = Schedules(self._context)
        self.memory = Memory(self._context)
        self.sessions = Sessions(self._context, self.contents)
        self.scaling = Scaling(self._context, self.workers)
        self.audit = Audit(self._context)
        self.tools = ToolRegistry()

    @property
    def id(self) -> str:
        """The hub's id, made by ``init``."""
        return str(self._record["id"])

    @property
    def created(self) -> bool:
        """Whether opening it made it."""
        return bool(self._record.get("created", False))

    @property
    def migrated_from(self) -> int | None:
        """The schema that the hub had until it was opened now; ``None`` when it was not migrated."""
        return self._record.get("migrated_from")

    @property
    def url(self) -> str:
        """Where the hub is, without secrets."""
        return self._context.transactor.store.url

    @property
    def actor(self) -> str:
        """Who acts through this object, as it appears in events and commits."""
        return self._context.actor

    @property
    def poll_interval(self) -> float:
        """Seconds between polls."""
        return self._context.poll_interval

    @property
    def clock_margin(self) -> float:
        """Seconds added to a ttl before anybody takes over."""
        return self._context.transactor.store.capabilities.clock_margin

    @property
    def requests_per_commit(self) -> int:
        """Requests to a network that a commit of one space takes; 0 for a hub on this machine."""
        return self._context.transactor.store.capabilities.requests_per_commit

    @property
    def commits(self) -> int:
        """Commits that this object has made."""
        return self._context.transactor.commits

    @property
    def account(self) -> str | None:
        """``host/login`` whose limits at the hub's server this process uses; ``None`` where there are none."""
        budget = self._context.transactor.store.budget
        return None if budget is None else budget.account

    def pace(self) -> Pace | None:
        """How fast one worker may go within the limits of the hub's server; ``None`` where there are none."""
        budget = self._context.transactor.store.budget
        return None if budget is None else budget.pace()

    def share(self, workers: int, *, here: bool = True) -> None:
        """Say that so many live workers use :attr:`account`; one of them is ``here``, or this process only looks on."""
        budget = self._context.transactor.store.budget
        if budget is not None:
            budget.share(workers, here=here)

    def budget(self) -> Report | None:
        """What is used and left of the limits of the hub's server, and how fast its workers may go; ``None`` without.

        Counts the workers that share :attr:`account`.
        """
        budget = self._context.transactor.store.budget
        if budget is None:
            return None
        alive = self.workers.list()
        budget.share(sum(one.alive and one.account == budget.account for one in alive), here=False)
        return budget.report()

    def write_ready_in(self) -> float:
        """Seconds until the server's limits allow a commit; 0 when they do, or where there are none."""
        budget = self._context.transactor.store.budget
        return 0.0 if budget is None else budget.write_ready_in()

    @property
    def commit_bytes(self) -> int:
        """Bytes of records that one commit takes."""
        return self._context.transactor.store.capabilities.max_commit_bytes

    def worker_ttl(self, given: float | None = None) -> float:
        """Seconds that a worker daemon counts as alive: ``given``, else this process's settings, else the hub's."""
        own = self.settings.worker.ttl if given is None else given
        return self._context.config().worker_ttl if own is None else own

    def now(self) -> datetime:
        """The hub's time."""
        return stamp(self._context.now())

    def heads(self) -> dict[str, str]:
        """The commit that each space is at: a change of it is a change of the space."""
        return self._context.transactor.known.read()

    def revision(self, space: str = layout.FLEET) -> int:
        """The revision of a space; 0 when it does not exist."""
        store = self._context.transactor.store
        return revision_of(store, space, store.heads().get(space))

    def events(self, limit: int = 20, *, task: str | None = None) -> list[events.Event]:
        """What happened lately, newest first; of one ``task`` if given."""
        return events.recent(self._context, limit, task=task)

    def log(self, space: str = layout.FLEET) -> Iterator[Commit]:
        """The commits of a space, newest first: what ``git log`` shows of its branch."""
        return events.log(self._context, space)

    # -- the past

    def at(self, when: history.When) -> Hub:
        """The hub as it was at ``when``: an aware datetime, a revision, or the id of a commit.

        Each space stands at its newest commit at or before then, and the clock
        stands still.  Everything can be read as ever, and nothing written:
        that raises ``Unsupported``.  Closing it leaves this hub open; it can be
        used for as long as this one.  Raises ``NotFound`` naming the earliest
        moment there is, ``UsageError`` for one in the future.
        """
        store = self._context.transactor.store
        past = history.find(store, when)
        transactor = Transactor(PinnedStore(store, past.heads, past.at), self.runtime, actor=self.actor)
        return Hub(
            transactor,
            self.runtime,
            self.settings,
            hubrecord.open_existing(transactor, self.url),
            actor=self.actor,
            observer=Observer(self.runtime, margin=self.clock_margin),
            machine=self.machine,
            vitals=self.vitals,
        )

    def revisions(self) -> dict[str, int]:
        """The revision of every space."""
        store = self._context.transactor.store
        return {space: revision_of(store, space, head) for space, head in sorted(store.heads().items())}

    def on_commit(self, tell: Callable[[], None], space: str = layout.FLEET) -> Callable[[], None]:
        """Call ``tell`` after each commit that this object makes to ``space``; returns what ends that.

        It is called in the thread that committed and must be quick: it sets an
        event.  Commits of others show by polling only.
        """
        return self._context.transactor.moved.add(space, tell)

    def newest(self, space: str = layout.FLEET) -> tuple[int, str] | None:
        """The highest revision of ``space`` that this object has seen, and its commit. Asks nobody."""
        mark = self._context.transactor.guard.marks.get(space)
        return None if mark is None else (mark.revision, mark.head)

    def beat(self, request: Beat, timeout: float = 30.0) -> Reply:
        """One tick of a worker daemon."""
        touched = self.sessions.touched()
        return beat(self._context, replace(request, touched=touched) if touched else request, timeout)

    def beat_along(self, request: Beat) -> Callable[[], Reply | None]:
        """A tick that goes along with the next commit that this object makes to the fleet, and makes none itself.

        So a worker leases what is submitted in its own process in the very
        commit that submits it.  The function returned must be called: it ends
        the wait and gives the reply, or ``None`` when no commit came by.
        """
        return beat_along(self._context, request)

    # -- care

    def broken(self) -> list[dict[str, Any]]:
        """Records that people broke: where they lie now, why, and whether the version before was restored."""
        heads = self.heads()
        found: list[dict[str, Any]] = []
        for space, snapshot in self._context.transactor.view(*sorted(heads)).items():
            found += [{**one, "state": "in place"} for one in adopt.broken_records(snapshot)]
            found += [{"state": "set aside", **one, "space": space} for one in adopt.set_aside(snapshot)]
        return found

    def repair(self, *, dry_run: bool = False) -> list[Repair]:
        """Put right what can be: broken records set aside, indexes that disagree with the records made anew,
        tasks and locks of workers that are gone recovered. With ``dry_run`` only what that would be.
        """
        return repair(self._context, self.workers, dry_run=dry_run)

    def gc(self, retention: float | None = None, *, dry_run: bool = False, tell: Tell = unheard) -> GcReport:
        """Let history older than ``retention`` seconds go, and everything that only it needed. Safe beside writers.

        The default is the hub's setting ``retention.history``; the last minute
        always stays, on a server the last hour.  Heads, revisions and tokens
        are untouched; on a server history is written again, and heads move.
        ``tell`` hears how far it is.  Raises ``Unsupported`` where the hub shares its
        repository, ``Unavailable`` while another gc runs.
        """
        return care.gc(self._context, retention, dry_run, tell)

    def export(self, file: str | Path, *, history: bool = True, tell: Tell = unheard) -> Written:
        """Write the whole hub into a git bundle at ``file``, which ``ghcoord import`` and ``git clone`` read.

        What was at ``file`` is replaced once the new one is complete.  Without
        ``history`` it holds the present state alone; of a hub whose history
        was collected, that and what is left.  Raises ``Denied``,
        ``Unavailable`` for a file that cannot be written.
        """
        return care.export(self._context, Path(file), self.settings.prefix, history, tell)

    def check_history(self) -> str | None:
        """Why writes are stopped, or ``None`` when every space goes on from what was seen."""
        guard = self._context.transactor.guard
        try:
            guard.check(self.heads(), [*guard.marks])
        except HeadRegressed as stopped:
            return stopped.message
        return None

    def adopt_history(self) -> dict[str, int]:
        """Take the hub as it is now for true, after a person has looked at it; revisions by space."""
        return {space: mark.revision for space, mark in self._context.transactor.adopt_heads().items()}

    def close(self) -> None:
        """Write what is recorded for the audit log, keep what was observed, and release the store.

        Raises why audit entries could not be written; everything is released nevertheless.
        """
        try:
            self.audit.close()
        finally:
            self.observer.close()
            if self._on_close is not None:
                self._on_close(self._context.transactor.guard.marks)
            self._context.transactor.store.close()

    def __enter__(self) -> Hub:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except GhcoordError:
            if error is None:
                raise
