"""Sessions made and ended: created, destroyed, cleaned up, started again from a checkpoint."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ghcoord.coord import layout
from ghcoord.coord.care.rehearse import rehearse
from ghcoord.coord.context import SESSION_TABLE, Context
from ghcoord.coord.layout import FILES, FLEET
from ghcoord.coord.queue import gates
from ghcoord.coord.sessions import placing, records, settings
from ghcoord.coord.tasks.calls import gate_key
from ghcoord.coord.tasks.submission import requirements_of
from ghcoord.errors import InvalidName, NoCapacity, NotFound, OutcomeUnknown, Throttled, Unavailable, UsageError
from ghcoord.ids import check_id, decode_component, new_task_id
from ghcoord.model.codec import stamp
from ghcoord.model.lease import Judge
from ghcoord.model.limits import Limits
from ghcoord.model.requirements import Requirements
from ghcoord.model.session import Checkpoint, Session, SessionState
from ghcoord.model.tier import check_tier
from ghcoord.model.worker import worker_key
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.tx import Tx
from ghcoord.units import MAX_DURATION

STALE_AFTER = 1800.0
"""Seconds without use after which :meth:`Creating.clean` removes a session (reference: co:186)."""

PAGE = 500
"""Calls that one commit cancels, and sessions that one commit removes, at most."""


class Creating(ABC):
    """The part of a hub's sessions that makes and ends them."""

    _context: Context

    @abstractmethod
    def drop_all(self, session_id: str) -> None:
        """Remove every content of a session that is no more."""

    def create(
        self,
        session_id: str | None = None,
        *,
        user_id: str | None = None,
        workspace_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        sandbox: str = "full",
        requirements: Requirements | Mapping[str, Any] | None = None,
        allow: Sequence[str] = (),
        worker: str | None = None,
        checkpoint: tuple[str, str] | None = None,
    ) -> Session:
        """Make a session on a worker that has room, the one with the fewest, or on ``worker``.

        The workspace is made at the first call.  ``env`` are variables of every
        command, ``limits`` of each command and the whole session.  ``sandbox``
        and ``requirements`` are the least that the worker must offer;
        ``allow`` are hosts that may be reached besides the package index.
        ``checkpoint`` is (session, id): it starts from that one's files.

        Raises ``UsageError`` for an id that is taken, ``NoCapacity`` saying why
        no worker can have it, ``NotFound`` for a ``worker`` or ``checkpoint``
        that is not there.
        """
        tier = check_tier(sandbox)
        made = Session(
            id=check_id(session_id, "session id") if session_id is not None else self._new_id(),
            user_id=settings.who_of(user_id, "user id"),
            workspace_id=settings.who_of(workspace_id, "workspace id"),
            metadata=settings.metadata_of(metadata or {}),
            env=settings.env_of(env or {}),
            limits=settings.limits_of(limits),
            sandbox=tier,
            requirements=None if requirements is None else _without_tier(requirements_of(requirements), tier),
            allow=settings.hosts_of(allow),
            created_at=stamp(0),
            created_by=self._context.actor,
            last_active=stamp(0),
            epoch=1,
        )
        judge = self._context.judge()
        return self._context.transact((FLEET,), lambda tx: _create(tx, made, judge, worker, checkpoint))

    def _new_id(self) -> str:
        return "s" + new_task_id(self._context.runtime.randbits)[1:]

    def restore(
        self, session_id: str, checkpoint: str | None = None, *, new_id: str | None = None, worker: str | None = None
    ) -> Session:
        """Let a session start again from ``checkpoint``, the newest unless given; what it has now is given up.

        It stays where it is, or goes to ``worker``; when no worker has room it
        waits for one.  With ``new_id`` another session is made of the
        checkpoint, with the same settings, and this one is left alone.

        Raises ``NotFound``, ``UsageError`` while calls run or for a checkpoint
        that only another worker has, and ``NoCapacity`` for a ``worker`` that
        cannot have it, or when ``new_id`` finds none.
        """
        judge = self._context.judge()
        if new_id is not None:
            return self._copy(session_id, checkpoint, check_id(new_id, "session id"), worker, judge)
        return self._context.transact((FLEET,), lambda tx: _restore(tx, session_id, checkpoint, worker, judge))

    def _copy(self, session_id: str, checkpoint: str | None, new_id: str, worker: str | None, judge: Judge) -> Session:
        actor = self._context.actor

        def run(tx: Tx) -> Session:
            source = records.need(tx, session_id)
            start = _start(source, checkpoint)
            kept = {"user_id", "workspace_id", "metadata", "env", "limits", "allow", "sandbox", "requirements"}
            same: dict[str, Any] = {name: getattr(source, name) for name in kept}
            made = Session(id=new_id, created_by=actor, created_at=stamp(0), last_active=stamp(0), epoch=1, **same)
            return _create(tx, made, judge, worker, (session_id, start.id))

        return self._context.transact((FLEET,), run)

    def destroy(self, session_id: str) -> None:
        """Remove a session: its worker drops the files, calls that wait are cancelled, running ones asked to end.

        Raises ``NotFound``.
        """
        actor = self._context.actor
        reason = f"its session was destroyed by {actor}"

        def run(tx: Tx) -> bool:
            session = records.need(tx, session_id)
            if records.end_calls(tx, session_id, reason, PAGE):
                return True
            records.take_from(tx, session)
            records.destroy(tx, session, actor, reason)
            return False

        owners = self._owners(session_id)
        while self._context.transact((FLEET,), run):
            continue
        self._drop_contents(owners)

    def stale(self, max_age: float = STALE_AFTER) -> list[str]:
        """Ids of the sessions that :meth:`clean` would remove now, those first that nobody has used for longest."""
        is_stale = self._staleness(max_age)
        snapshot = self._context.snapshot(FLEET)
        oldest = sorted(SESSION_TABLE.scan(snapshot), key=lambda one: (one.last_active, one.id))
        return rehearse(self._context, (FLEET,), lambda tx: [one.id for one in oldest if is_stale(tx, one)])

    def clean(self, max_age: float = STALE_AFTER, *, only: Collection[str] | None = None) -> int:
        """Remove sessions that nobody has used for ``max_age`` seconds and that have no call; returns how many.

        Goes by the hub's clock with a margin; of what a living worker has by
        what it last told.  ``only`` names those that may go, if not all.  What
        ``files`` still has of sessions that are gone goes as well.
        """
        is_stale = self._staleness(max_age)
        context = self._context
        removed = 0
        owners: set[str] = set()
        while True:
            ids = [one.id for one in SESSION_TABLE.scan(context.snapshot(FLEET)) if only is None or one.id in only]

            def run(tx: Tx, ids: list[str] = ids) -> tuple[list[Session], bool]:
                gone: list[Session] = []
                for session_id in ids:
                    session = records.get(tx, session_id)
                    if session is None or not is_stale(tx, session):
                        continue
                    if len(gone) >= PAGE:
                        return gone, True
                    records.take_from(tx, session)
                    records.destroy(tx, session, context.actor, "its session was cleaned up")
                    gone.append(session)
                return gone, False

            gone, more = context.transact((FLEET,), run)
            removed += len(gone)
            owners.update(one.id for one in gone)
            owners.update(saved.origin for one in gone for saved in one.checkpoints if saved.origin)
            if not more:
                owners |= self._orphaned()
                if owners:
                    self._drop_contents(owners)
                return removed

    def _staleness(self, max_age: float) -> Callable[[Tx, Session], bool]:
        if not 0 <= max_age <= MAX_DURATION:
            raise UsageError(f"an age of {max_age:g} s is out of range: give 0 or more")
        margin, judge = self._context.transactor.store.capabilities.clock_margin, self._context.judge()
        return lambda tx, session: _is_stale(tx, session, max_age, margin, judge)

    # -- what the space files has of them

    def _owners(self, session_id: str) -> set[str]:
        """The sessions whose contents this one's checkpoints need, itself among them."""
        session = records.find(self._context.snapshot(FLEET), session_id)
        copied = () if session is None else (one.origin for one in session.checkpoints if one.origin)
        return {session_id, *copied}

    def _orphaned(self) -> set[str]:
        """Sessions that are gone, of which ``files`` still has checkpoints; none while a broken record is set aside."""
        views = self._context.transactor.view(FILES, FLEET)  # as of one moment
        files, fleet = views[FILES], views[FLEET]
        if fleet.entry(f"{layout.BROKEN}/{layout.SESSIONS}") is not None:
            return set()
        top = layout.CHECKPOINTS
        fans = (f"{top}/{first}/{second}" for first in files.entries(top) for second in files.entries(f"{top}/{first}"))
        names = (decode_component(name) for fan in fans for name in files.entries(fan))
        return {name for name in names if name is not None and not _has_record(fleet, name)}

    def _drop_contents(self, owners: Collection[str]) -> None:
        """Remove the checkpoints of sessions that are gone and that no other one was made of.

        Where the hub cannot be written to now, or the record of a session that
        may need them cannot be read, they stay: :meth:`clean` removes them later.
        """
        left = records.every(self._context.snapshot(FLEET))
        if left is None:
            return
        needed = {one.id for one in left} | {saved.origin for one in left for saved in one.checkpoints}
        with contextlib.suppress(Unavailable, OutcomeUnknown, Throttled):
            for owner in sorted(set(owners) - needed):
                self.drop_all(owner)


def _has_record(fleet: Snapshot, session_id: str) -> bool:
    try:
        return fleet.entry(layout.session_path(session_id)) is not None
    except InvalidName:
        return True  # a person's folder


def _is_stale(tx: Tx, session: Session, max_age: float, margin: float, judge: Judge) -> bool:
    """Whether nobody has used the session for so long, as far as its worker would have told."""
    until = tx.now - margin
    worker = records.worker_of(tx, session.worker_id) if session.worker_id is not None else None
    living = worker is not None and worker.alive and not judge(worker_key(worker.id), worker.lease, tx.now)
    if worker is not None and living and session.state is SessionState.ACTIVE:
        until = min(until, worker.last_heartbeat.timestamp())
    if until - session.last_active.timestamp() < max_age or (living and session.active_tasks):
        return False
    return not records.has_calls(tx, session.id)


def _without_tier(given: Requirements, tier: str) -> Requirements:
    if given.sandbox is not None and given.sandbox != tier:
        raise UsageError(f"the session's sandbox is {tier}, not {given.sandbox}: name the tier once, with sandbox")
    return given.model_copy(update={"sandbox": None})


def _create(tx: Tx, blank: Session, judge: Judge, only: str | None, checkpoint: tuple[str, str] | None) -> Session:
    if tx.read(FLEET, SESSION_TABLE.path(blank.id)) is not None:
        raise UsageError(f"a session with the id {blank.id!r} is there already: choose another id")
    at = stamp(tx.now)
    made = blank.model_copy(update={"created_at": at, "last_active": at, "born": tx.revision, "epoch": tx.revision})
    if checkpoint is not None:
        source, start = records.need(tx, checkpoint[0]), checkpoint[1]
        copied = _start(source, start)
        if not copied.published:
            raise UsageError(f"only the worker {copied.worker!r} has the checkpoint {copied.id}: publish one first")
        mine = copied.model_copy(update={"origin": copied.origin or source.id})
        made = made.model_copy(
            update={"state": SessionState.PARKED, "checkpoints": (mine,), "restore_from": mine.id},
        )
    worker = placing.choose(tx, made, judge, only=only)
    tx.event(FLEET, "session created", session=made.id, user=made.user_id or None, by=made.created_by)
    return records.place(tx, made, worker)


def _start(session: Session, checkpoint: str | None) -> Checkpoint:
    """The checkpoint to start from: the one named, else the newest that any worker can restore, else the newest."""
    if not session.checkpoints:
        raise NotFound(f"the session {session.id} has no checkpoint: make one with 'ghcoord session checkpoint'")
    if checkpoint is None:
        return session.published or session.checkpoints[-1]
    found = session.checkpoint(checkpoint)
    if found is None:
        raise records.no_checkpoint(session, checkpoint)
    return found


def _restore(tx: Tx, session_id: str, checkpoint: str | None, only: str | None, judge: Judge) -> Session:
    session = records.need(tx, session_id)
    start = _start(session, checkpoint)
    gate = gates.get(tx, gate_key(session_id))
    if gate is not None and gate.running:
        raise UsageError(f"{gate.running} calls of the session {session_id} are running: wait for them, or cancel them")
    if not start.published:
        if only is not None and only != start.worker:
            raise UsageError(
                f"only the worker {start.worker!r} has the checkpoint {start.id}: it cannot go to {only!r}"
            )
        only = start.worker
    before = session.worker_id
    records.take_from(tx, session)
    waits = {"worker_id": None, "state": SessionState.PARKED, "restore_from": start.id, "epoch": tx.revision}
    cleared = {"lost_because": "", "active_tasks": 0, "last_active": stamp(tx.now)}
    session = records.put(tx, session.model_copy(update={**waits, **cleared}))
    tx.event(FLEET, "session rolled back", session=session_id, checkpoint=start.id, before=before)
    if only is not None:
        return records.place(tx, session, placing.choose(tx, session, judge, only=only))
    try:
        worker = placing.choose(tx, session, judge, only=before)
    except (NoCapacity, NotFound):
        try:
            worker = placing.choose(tx, session, judge)
        except NoCapacity:
            return session
    return records.place(tx, session, worker)
