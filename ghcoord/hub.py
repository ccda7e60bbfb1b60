"""The facade: everything a program, the CLI or an agent does with a hub goes through here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any

from ghcoord.clock import Runtime
from ghcoord.config import Settings
from ghcoord.coord import adopt, events, layout
from ghcoord.coord.context import Context
from ghcoord.coord.events import Commit
from ghcoord.coord.locks import Locks
from ghcoord.coord.memory import Memory
from ghcoord.coord.observer import Observer
from ghcoord.coord.tasks import Submission, Tasks
from ghcoord.coord.tick import Beat, Reply, beat
from ghcoord.coord.workers import Machine, Workers
from ghcoord.errors import HeadRegressed
from ghcoord.model.codec import stamp
from ghcoord.model.tool import ToolRegistry
from ghcoord.model.worker import Capabilities
from ghcoord.store.heads import Mark, revision_of
from ghcoord.store.transact import Transactor

__all__ = ["Capabilities", "Hub", "Submission"]


class Hub:
    """An open hub. Every object reached from it may be shared between threads.

    ``locks``, ``workers``, ``tasks``, ``memory`` and ``tools`` are its parts.
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
        self.locks = Locks(
            self._context,
            ttl=settings.locks.ttl,
            identity=lambda: {"hostname": machine().hostname, "pid": machine().pid},
        )
        self.workers = Workers(self._context, machine=machine)
        self.tasks = Tasks(self._context)
        self.memory = Memory(self._context)
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
    def commits(self) -> int:
        """Commits that this object has made."""
        return self._context.transactor.commits

    def now(self) -> datetime:
        """The hub's time."""
        return stamp(self._context.now())

    def heads(self) -> dict[str, str]:
        """The commit that each space is at: a change of it is a change of the space."""
        return self._context.transactor.store.heads()

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

    def beat(self, request: Beat, timeout: float = 30.0) -> Reply:
        """One tick of a worker daemon."""
        return beat(self._context, request, timeout)

    # -- care

    def broken(self) -> list[dict[str, Any]]:
        """Records that people broke: where they lie now, why, and whether the version before was restored."""
        heads = self.heads()
        found: list[dict[str, Any]] = []
        for space, snapshot in self._context.transactor.view(*sorted(heads)).items():
            found += [{**one, "state": "in place"} for one in adopt.broken_records(snapshot)]
            found += [{"state": "set aside", **one, "space": space} for one in adopt.set_aside(snapshot)]
        return found

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
        """Keep what was observed and release the store."""
        self.observer.close()
        if self._on_close is not None:
            self._on_close(self._context.transactor.guard.marks)
        self._context.transactor.store.close()

    def __enter__(self) -> Hub:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
