"""Tasks that are calls of a session: what the session gives them, and which options they do not take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ghcoord.errors import UsageError
from ghcoord.model.limits import DEFAULT_LIMITS
from ghcoord.model.requirements import Requirements
from ghcoord.model.session import Session
from ghcoord.model.task import Limit, Task

if TYPE_CHECKING:
    from ghcoord.coord.tasks.submission import Submission

GATE = "session/"
"""Begin of the keys whose limits are those of sessions."""

_OF_SESSION = {
    "worker": "the session's worker runs it",
    "prefer": "the session's worker runs it",
    "key": "the session's own limit of active tasks counts",
    "requirements": "what it needs of a worker is the session's",
    "sandbox": "what it needs of a worker is the session's",
}


def gate_key(session_id: str) -> str:
    """The key of the gate that a session's calls pass."""
    return f"{GATE}{session_id}"


def check_options(one: Submission) -> None:
    """Raises ``UsageError`` for options that a call of a session does not take."""
    for name, why in _OF_SESSION.items():
        if getattr(one, name) is not None:
            raise UsageError(f"a call of a session takes no {name}: {why}")


def bound(task: Task, session: Session) -> Task:
    """The new ``task`` as a call of ``session``: with its limits, and with what it needs."""
    own, most = task.timeout, session.limits.timeout
    given = [seconds for seconds in (own, most) if seconds is not None]
    return task.model_copy(
        update={
            "session": session.id,
            "timeout": min(given) if given else None,
            "limit": Limit(
                key=gate_key(session.id),
                concurrency=session.limits.active_tasks or DEFAULT_LIMITS.active_tasks,
            ),
            "requirements": Requirements(sandbox=session.sandbox),
        }
    )
