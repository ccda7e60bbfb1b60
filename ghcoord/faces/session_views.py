"""Sessions and checkpoints as plain dictionaries, the same in JSON everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ghcoord.faces.views import View, iso, iso_or_none

if TYPE_CHECKING:
    from ghcoord.model.session import CallNote, Checkpoint, Session, Usage
    from ghcoord.model.tool import Tool


def session_view(session: Session) -> View:
    """A session as its record has it."""
    return {
        "id": session.id,
        "workspace_id": session.workspace_id,
        "user_id": session.user_id,
        "state": str(session.state),
        "worker_id": session.worker_id,
        "last_worker": session.last_worker,
        "created_at": iso(session.created_at),
        "created_by": session.created_by,
        "last_active": iso(session.last_active),
        "metadata": session.metadata,
        "env": sorted(session.env),
        "limits": session.limits.model_dump(exclude_none=True),
        "allow": list(session.allow),
        "sandbox": str(session.sandbox),
        "requirements": None if session.requirements is None else session.requirements.model_dump(mode="json"),
        "epoch": session.epoch,
        "restored_from": session.restored_from,
        "restored_at": iso_or_none(session.restored_at),
        "lost_because": session.lost_because,
        "checkpoints": len(session.checkpoints),
        "calls": session.calls,
        "active_tasks": session.active_tasks,
        "usage": usage_view(session.usage),
        "tasks": [call_view(one) for one in session.recent],
    }


def usage_view(usage: Usage) -> View:
    """MiB of memory and disk, seconds of CPU."""
    return {
        "memory_mb": usage.memory_mb,
        "cpu_seconds": usage.cpu_seconds,
        "disk_mb": usage.disk_mb,
        "processes": usage.processes,
    }


def call_view(call: CallNote) -> View:
    """A call that a session has lately ended."""
    return {
        "tool": call.tool,
        "task": call.task,
        "success": call.success,
        "at": iso(call.at),
        "duration": call.duration,
        "error": call.error,
    }


def checkpoint_view(checkpoint: Checkpoint, session_id: str) -> View:
    """A checkpoint of a session; ``size`` in bytes."""
    return {
        "id": checkpoint.id,
        "session_id": session_id,
        "name": checkpoint.name,
        "created_at": iso(checkpoint.created_at),
        "files": checkpoint.files,
        "size": checkpoint.size,
        "modified": list(checkpoint.modified),
        "packages": list(checkpoint.packages),
        "published": checkpoint.published,
        "worker": checkpoint.worker,
    }


def tool_view(tool: Tool) -> View:
    """A tool: what it is called, takes and returns."""
    schema: Any = dict(tool.arguments) if tool.arguments is not None else None
    return {
        "id": tool.name,
        "description": tool.description,
        "sandboxed": tool.sandboxed,
        "needs_session": tool.needs_session,
        "tier": str(tool.tier) if tool.sandboxed else "none",
        "arguments": schema,
        "returns": dict(tool.returns) if tool.returns is not None else None,
    }
