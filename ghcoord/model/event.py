"""Audit entries: what a program says about the tools that it called on somebody's behalf."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ghcoord.model.codec import Moment
from ghcoord.model.task import TaskResult


class AuditEntry(BaseModel):
    """One tool call, as it begins or with its result.

    ``timestamp`` defaults to the time at which the entry is given to the hub.
    ``arguments`` and ``result`` may hold secrets and be of any size: what is
    kept of them is redacted and cut.  ``error_msg`` says why a call failed,
    ``client`` names the program that the user called it with.
    """

    model_config = ConfigDict(frozen=True)

    timestamp: Moment | None = None
    session_id: str = ""
    user_id: str = ""
    tool_name: str = Field(min_length=1)
    arguments: dict[str, Any] = Field(default_factory=dict)
    result: TaskResult | None = None
    error_msg: str = ""
    trace_id: str = ""
    workspace_id: str = ""
    client: str = ""
