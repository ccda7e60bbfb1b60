"""What workers do with the sessions that they have: park them, take them back, save them. Fenced by the epoch."""

from __future__ import annotations

from collections.abc import Mapping

from ghcoord.coord.context import Context, put_worker
from ghcoord.coord.layout import FLEET
from ghcoord.coord.sessions import placing, records
from ghcoord.coord.workers.recovery import need_worker
from ghcoord.errors import LeaseLost, UsageError
from ghcoord.model import session as model
from ghcoord.model import worker as workers
from ghcoord.model.session import MAX_CHECKPOINTS, Checkpoint, Session, SessionState
from ghcoord.store.tx import Tx


class Placements:
    """The part of a hub's sessions that their workers use."""

    _context: Context

    def park(self, worker_id: str, epochs: Mapping[str, int]) -> dict[str, SessionState]:
        """Leave sessions that ``worker_id`` has under these epochs for another worker; returns what they are then.

        Those with a checkpoint in the hub are ``parked``, those never opened
        ``new``.  Others are ``lost`` until the worker takes them back
        (:meth:`reattach`).  Sessions that it does not have under that epoch are
        left alone and not returned.
        """

        def run(tx: Tx) -> dict[str, SessionState]:
            left: dict[str, SessionState] = {}
            for session_id, epoch in sorted(epochs.items()):
                session = records.get(tx, session_id)
                if session is None or session.worker_id != worker_id or session.epoch != epoch:
                    continue
                why = f"its worker {worker_id} stopped, and no checkpoint of it is in the hub"
                left[session_id] = records.displace(tx, session, why).state
            worker = records.worker_of(tx, worker_id)
            if worker is not None and left:
                put_worker(tx, records.without(worker, left))
            return left

        return self._context.transact((FLEET,), run)

    def reattach(self, worker_id: str, token: int, epochs: Mapping[str, int]) -> dict[str, int]:
        """The sessions whose files under these epochs still count, which the worker has from now on, and their epochs.

        Those that it has, and those that it had last, that nobody has had or
        started anew since, and for which it has room.  Raises ``NotFound``, and
        ``WorkerReplaced`` when ``token`` is not its registration.
        """

        def run(tx: Tx) -> dict[str, int]:
            worker = workers.current(need_worker(tx, worker_id), worker_id, token)
            kept: dict[str, int] = {}
            room = worker.session_room
            back: list[str] = []
            for session_id, epoch in sorted(epochs.items()):
                session = records.get(tx, session_id)
                if session is None or session.epoch != epoch:
                    continue
                if session.worker_id == worker_id:
                    kept[session_id] = epoch
                elif room > len(back) and _may_return(session, worker):
                    records.put(tx, model.taken_back(session, worker_id))
                    tx.event(FLEET, "session taken back", session=session_id, worker=worker_id, epoch=epoch)
                    back.append(session_id)
                    kept[session_id] = epoch
            if back:
                records.add_to(tx, worker, back)
            return kept

        return self._context.transact((FLEET,), run)

    def record_checkpoint(
        self, session_id: str, epoch: int, checkpoint: Checkpoint, keep: int = MAX_CHECKPOINTS
    ) -> list[str]:
        """Note a checkpoint that a worker has made, of which the last ``keep`` stay; ids of those dropped.

        Raises ``LeaseLost`` when the session is no longer that worker's under
        ``epoch``, ``NotFound`` when it was destroyed, ``TooLarge`` when its record has no room.
        """
        if keep < 1:
            raise UsageError(f"{keep} checkpoints cannot be kept: give 1 or more")

        def run(tx: Tx) -> list[str]:
            session = records.need(tx, session_id)
            if session.worker_id is None or session.epoch != epoch:
                raise LeaseLost(
                    f"the session {session_id} is no longer the one that the checkpoint was made of: "
                    f"its epoch is {session.epoch}, not {epoch}"
                )
            made = checkpoint.model_copy(update={"epoch": epoch})
            after, dropped = model.with_checkpoint(session, made, keep)
            if after != session:
                records.put(tx, after)
                tx.event(
                    FLEET,
                    "session saved",
                    session=session_id,
                    checkpoint=made.id,
                    worker=session.worker_id,
                    files=made.files,
                    size=made.size,
                )
            return dropped

        return self._context.transact((FLEET,), run)

    def forget_checkpoint(self, session_id: str, checkpoint_id: str) -> Checkpoint:
        """Take a checkpoint out of the session's record and return it; its content is the caller's to remove.

        Raises ``NotFound``, and ``UsageError`` for the last one of a session that has no other files.
        """

        def run(tx: Tx) -> Checkpoint:
            session = records.need(tx, session_id)
            found = session.checkpoint(checkpoint_id)
            if found is None:
                raise records.no_checkpoint(session, checkpoint_id)
            after = model.without_checkpoint(session, checkpoint_id)
            if session.state is not SessionState.ACTIVE and not after.checkpoints:
                raise UsageError(
                    f"the session {session_id} has no other files than the checkpoint {checkpoint_id}: "
                    f"destroy the session with 'ghcoord session destroy {session_id}'"
                )
            records.put(tx, after)
            tx.event(FLEET, "checkpoint deleted", session=session_id, checkpoint=checkpoint_id, by=self._context.actor)
            return found

        return self._context.transact((FLEET,), run)


def _may_return(session: Session, worker: workers.Worker) -> bool:
    free = session.worker_id is None and session.last_worker == worker.id
    return free and placing.fits_still(worker.tier, session)
