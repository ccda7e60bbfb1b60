"""Where sessions were when this server last had an answer from them, and what to say when they are elsewhere."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from ghcoord.faces.views import iso
from ghcoord.model.session import Checkpoint, Session, SessionState

MAX_KNOWN = 10_000
"""Sessions that are remembered; the one that was not used for longest is forgotten first."""

MAX_NAMED = 8
"""Calls that a notice names."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which files a session had: ``born`` tells it from a later one of its id, ``epoch`` is that of its placement."""

    born: int | None
    epoch: int
    worker: str | None
    used: bool = False
    """Whether a call of this server was answered from these files."""


class Places:
    """What one server knows of the places of sessions. May be shared between threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Place] = OrderedDict()
        self._mutex = threading.Lock()

    def know(self, session: Session) -> None:
        """Take the session's present place for known: the caller was told, or knows nothing of an earlier one."""
        self._put(session.id, _place_of(session))

    def know_first(self, session: Session) -> None:
        """The same, unless an earlier place is known."""
        with self._mutex:
            known = session.id in self._known
        if not known:
            self.know(session)

    def is_at(self, session_id: str, epoch: int | None) -> bool:
        """Whether that placement is the known one, and a call was answered from it."""
        with self._mutex:
            place = self._known.get(session_id)
            return place is not None and place.used and place.epoch == epoch

    def forget(self, session_id: str) -> None:
        """The session is gone."""
        with self._mutex:
            self._known.pop(session_id, None)

    def answered(self, session: Session, task_id: str = "") -> tuple[str, ...]:
        """A call, ``task_id``, was answered; sentences to tell the caller when the session's files are others."""
        after = _place_of(session, used=True)
        before = self._put(session.id, after)
        if before is None or (before.born, before.epoch) == (after.born, after.epoch):
            return ()
        if before.born != after.born:
            return (
                f"The session {session.id} is another one than before: the earlier one was removed, "
                "and nothing that was in it is here",
            )
        return _moved(session, before, task_id)

    def _put(self, session_id: str, place: Place) -> Place | None:
        with self._mutex:
            before = self._known.pop(session_id, None)
            self._known[session_id] = place
            while len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return before


def _place_of(session: Session, *, used: bool = False) -> Place:
    return Place(session.born, session.epoch, session.worker_id, used)


def _moved(session: Session, before: Place, task_id: str) -> tuple[str, ...]:
    """What became of the files of a session that was placed anew."""
    how = f" on the worker {session.worker_id}" if session.worker_id not in (None, before.worker) else ""
    opened = session.state is SessionState.ACTIVE
    start = session.restored_from if opened else session.restore_from
    if start is None:
        if not before.used:
            return ()
        return (
            f"The session {session.id} started anew{how} with an empty workspace: "
            "no file and no package of its earlier calls is there",
        )
    checkpoint = session.checkpoint(start)
    text = f"The session {session.id} continues{how} from its checkpoint {_named(start, checkpoint)}"
    text += "; anything written or installed after that is lost"
    if checkpoint is not None and (later := _calls_since(session, checkpoint, task_id)):
        text += f" (known calls since then: {later})"
    return (f"{text}. Look at the files before you go on",)


def _named(checkpoint_id: str, checkpoint: Checkpoint | None) -> str:
    if checkpoint is None:
        return checkpoint_id
    name = f" {checkpoint.name!r}" if checkpoint.name else ""
    return f"{checkpoint_id}{name} of {iso(checkpoint.created_at)}"


def _calls_since(session: Session, checkpoint: Checkpoint, task_id: str) -> str:
    """The tools called between the checkpoint and its restoration, as the hub has heard of them."""
    until = session.restored_at
    names = [
        one.tool
        for one in session.recent
        if one.at > checkpoint.created_at
        and (not task_id or one.task != task_id)
        and not one.tool.startswith("session.")
        and (until is None or one.at <= until)
    ]
    return ", ".join(names[-MAX_NAMED:])
