"""Calls of sessions that could not be made, in the words of an agent: what is lost, what has not run, what to call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ghcoord.errors import GhcoordError, LeaseLost, NoCapacity, NotFound, OutcomeUnknown, SessionLost, WaitTimeout
from ghcoord.faces.mcp.answer import Failure
from ghcoord.faces.mcp.call import Call
from ghcoord.faces.mcp.owners import no_session

FREE_ONE = "Call session_list and session_destroy for one that is no longer needed, or try again later."
WEAKER = (
    "Tell the user: run 'apt-get install bubblewrap' on the worker's machine and start it again; where the worker is "
    "'ghcoord mcp' itself, its option --sandbox landlock accepts the weaker sandbox."
)
LOOK_FIRST = "It may have run: look at the files with fs_list and fs_read before you call it again."


@contextmanager
def telling(call: Call, session_id: str) -> Iterator[None]:
    """Turn what goes wrong with a session of the caller's into :class:`Failure`; other errors pass."""
    try:
        yield
    except SessionLost as error:
        raise _lost(call, session_id, error) from None
    except NotFound as error:
        if "checkpoint" not in error.message:
            raise no_session(session_id) from None
        step = "Call session_status for its checkpoints; session_checkpoint makes one."
        raise _failure(error, step) from None
    except NoCapacity as error:
        step = "Wait until one of its calls has ended." if "its limit" in error.message else FREE_ONE
        raise _failure(error, step) from None
    except (LeaseLost, OutcomeUnknown, WaitTimeout) as error:
        raise _failure(error, LOOK_FIRST) from None


def unplaced(error: NoCapacity) -> tuple[str, str]:
    """What an agent is told of a session that no worker takes: why, and what to do. Another such worker is no help."""
    if "sandbox tier" not in error.message:
        return error.message, FREE_ONE
    return error.message.partition("; start another with ")[0], WEAKER


def _lost(call: Call, session_id: str, error: SessionLost) -> Failure:
    session = call.hub.sessions.get(session_id, touch=False)
    why = session.lost_because if session is not None and session.lost_because else error.message
    gone = f"the session {session_id} is lost with all its files, packages and processes: {why}"
    if session is not None and session.checkpoints:
        last = session.checkpoints[-1]
        step = f"Call session_restore: it has the checkpoint {last.id}, if its worker {last.worker} comes back."
        step = "Call session_restore with it." if last.published else step
        return Failure(f"{gone}; its checkpoint {last.id} is left", step, code=error.code)
    return Failure(f"{gone}; it has no checkpoint", "Call session_create and begin anew.", code=error.code)


def _failure(error: GhcoordError, step: str) -> Failure:
    return Failure(error.message, step, code=error.code, retryable=error.retryable)
