"""What a caller may see and change of what is in the hub: tasks and artifacts of others' sessions do not exist for it.

Everything else in a hub is common to all who use it, as with the CLI.  Over a
server that several users share, each ends only what it submitted itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ghcoord.errors import Corrupt, InvalidName, NewerSchema
from ghcoord.faces.mcp.answer import Failure
from ghcoord.faces.mcp.shown import line

if TYPE_CHECKING:
    from ghcoord.faces.mcp.call import Call
    from ghcoord.faces.mcp.caller import Caller
    from ghcoord.model.artifact import Artifact
    from ghcoord.model.lock import Lock
    from ghcoord.model.task import Task

USER = "mcp_user"
WORKSPACE = "mcp_workspace"
CLIENT = "mcp_client"
"""Keys of the metadata of a task or lock that say who made it here; nobody can give them as an argument."""

RESERVED = "mcp_"
"""How metadata keys begin that this server alone writes."""

MAX_CLIENT = 100
"""Characters kept of what a client calls itself."""


def submitter(caller: Caller) -> dict[str, str]:
    """The metadata of what this caller submits."""
    marks = {USER: caller.user_id, WORKSPACE: caller.workspace_id}
    return {**marks, CLIENT: caller.client[:MAX_CLIENT]} if caller.client else marks


def is_own(caller: Caller, task: Task) -> bool:
    """Whether this caller submitted the task."""
    found = task.metadata.get(USER), task.metadata.get(WORKSPACE)
    return found == (caller.user_id, caller.workspace_id)


def holds(caller: Caller, lock: Lock) -> bool:
    """Whether the lock is the caller's: taken through this server, or through another one of the same user."""
    return lock.owner == caller.owner or holds_elsewhere(caller, lock)


def holds_elsewhere(caller: Caller, lock: Lock) -> bool:
    """Whether the same user took the lock in the same workspace, and with the same token, but through another server.

    The marks in its metadata are written by servers alone, so no other user of
    a server can claim it.  Another token is another agent, which it excludes.
    """
    marks = lock.metadata.get(USER), lock.metadata.get(WORKSPACE)
    user, slash, holder = lock.owner.rpartition("/")
    own = (user, slash, marks) == (caller.user_id, "/", (caller.user_id, caller.workspace_id))
    return own and lock.owner != caller.owner and _credential(holder) == _credential(caller.holder)


def _credential(holder: str) -> str:
    """The token's part of a holder's name; empty where there was none."""
    return holder.partition(".")[2]


def sees_task(call: Call, task: Task) -> bool:
    """Whether the task exists for the caller: it is of no session, of the caller's, or the caller submitted it."""
    return task.session is None or is_own(call.caller, task) or call.services.owners.owns(call.caller, task.session)


def find_task(call: Call, task_id: str) -> Task | None:
    """The task, if it exists for the caller. Raises ``Corrupt`` where its record is broken."""
    try:
        task = call.hub.tasks.get(task_id)
    except InvalidName:
        return None
    return task if task is not None and sees_task(call, task) else None


def need_task(call: Call, task_id: str) -> Task:
    """The task. Raises :class:`Failure`: the same for another user's and for none."""
    task = find_task(call, task_id)
    if task is None:
        raise Failure(
            f"there is no task {line(task_id, 128)!r}", "Call task_list for those that there are.", code="NOT_FOUND"
        )
    return task


def need_right(call: Call, task: Task) -> None:
    """Raise :class:`Failure` unless the caller may end the task."""
    caller = call.caller
    if caller.shared and not is_own(caller, task) and not _in_own_session(call, task):
        raise Failure(
            f"the task {task.id} was not submitted by you, and this server has several users",
            "Ask who submitted it (task_status says), or let it end.",
            code="DENIED",
        )


def _in_own_session(call: Call, task: Task) -> bool:
    return task.session is not None and call.services.owners.owns(call.caller, task.session)


def sees_artifact(call: Call, artifact: Artifact) -> bool:
    """Whether the artifact exists for the caller: it is of no session, of one of the caller's, or of its own task."""
    if artifact.session_id is not None and call.services.owners.owns(call.caller, artifact.session_id):
        return True
    if artifact.task_id is None:
        return artifact.session_id is None
    try:
        task = call.hub.tasks.get(artifact.task_id)
    except (Corrupt, NewerSchema, InvalidName):
        return False
    if task is None:
        return artifact.session_id is None
    return is_own(call.caller, task) or (artifact.session_id is None and sees_task(call, task))


def need_artifact(call: Call, artifact_id: str) -> Artifact:
    """The artifact. Raises :class:`Failure`: the same for another user's and for none."""
    try:
        artifact = call.hub.artifacts.get(artifact_id)
    except InvalidName:
        artifact = None
    if artifact is None or not sees_artifact(call, artifact):
        raise Failure(
            f"there is no artifact {line(artifact_id, 128)!r}",
            "Call artifact_list for those that there are.",
            code="NOT_FOUND",
        )
    return artifact
