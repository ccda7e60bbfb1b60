"""Errors as an agent can use them: what went wrong, and what to do next in terms of tools."""

from __future__ import annotations

from ghcoord.errors import (
    Conflict,
    Corrupt,
    Denied,
    FenceRefused,
    GhcoordError,
    HeadRegressed,
    IllegalTransition,
    LeaseLost,
    LockHeld,
    NewerSchema,
    NoCapacity,
    NotFound,
    NotOwner,
    OutcomeUnknown,
    PathRefused,
    RevisionMismatch,
    SandboxError,
    SessionLost,
    Throttled,
    TooLarge,
    Unavailable,
    WaitTimeout,
)
from ghcoord.faces.mcp.advice import for_agent
from ghcoord.faces.mcp.answer import Failure

MAX_MESSAGE = 2000
"""Characters of a message; a longer one is cut."""

AGAIN = "Try the same call again in a moment."
FOR_THE_USER = "Tell the user: this needs a person."

_NEXT: tuple[tuple[type[GhcoordError], str], ...] = (
    (PathRefused, "Give a path relative to the workspace, such as src/main.py, without '..'."),
    (NotFound, "List what there is with the tool of the same noun that ends in _list, and check the id."),
    (SessionLost, "Call session_create for a new session, or session_restore if a checkpoint was made elsewhere."),
    (SandboxError, "Nothing was run. Call session_status; if it fails again, call session_create for a new session."),
    (NoCapacity, "End a session that is no longer needed (session_list, session_destroy), or try again later."),
    (FenceRefused, "You no longer hold the lock: stop, call lock_acquire, and look at the state before writing."),
    (LeaseLost, "What it protected may have changed: look at the state, and call lock_acquire or the tool again."),
    (NotOwner, "Only its owner may do that: call lock_list to see who that is."),
    (LockHeld, "Call lock_acquire with wait_s to wait for it."),
    (RevisionMismatch, "Read it again with memory_get, decide again, and repeat with its revision as if_revision."),
    (IllegalTransition, "Look at its state with task_status, and go on from there."),
    (WaitTimeout, "It goes on: call the same tool again to wait longer."),
    (Conflict, AGAIN),
    (OutcomeUnknown, "It may or may not have happened: look before you do it again."),
    (Unavailable, AGAIN),
    (TooLarge, "Send less at a time, or keep it as an artifact with artifact_put."),
    (Denied, FOR_THE_USER),
    (HeadRegressed, FOR_THE_USER),
    (NewerSchema, FOR_THE_USER),
    (Corrupt, FOR_THE_USER),
)
"""The first class that fits decides, so subclasses come first."""


def explain(error: BaseException, now: float) -> Failure:
    """What a caller is told of ``error``; ``now`` in seconds since the epoch, for errors that end at a given time."""
    if isinstance(error, Failure):
        told = for_agent(error.message), for_agent(error.next_step)
        return Failure(*told, code=error.code, retryable=error.retryable)
    if isinstance(error, Throttled):
        wait = max(1, round(error.until - now))
        return _failure(error, f"Try the same call again in {wait} s.")
    if isinstance(error, GhcoordError):
        return _failure(error, next((said for kind, said in _NEXT if isinstance(error, kind)), ""))
    text = _cut(str(error).strip())
    what = f"unexpected {type(error).__name__}" + (f": {text}" if text else "")
    return Failure(what, "This is a fault of the server: try another way, and tell the user.", code="UNEXPECTED")


def _failure(error: GhcoordError, next_step: str) -> Failure:
    return Failure(for_agent(_cut(error.message)), next_step, code=error.code, retryable=error.retryable)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + "…"
