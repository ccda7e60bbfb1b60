"""Artifacts: files that outlive the task or session that made them."""

from __future__ import annotations

from pydantic import Field

from ghcoord.model.codec import Moment, Number, Record


class Artifact(Record):
    """A stored file. ``size`` is in bytes; ``id`` names it for ever, ``name`` is what its maker called it.

    ``where`` says who holds the content: ``hub``, ``directory`` or ``s3``.
    """

    id: str = Field(min_length=1, max_length=64)
    name: str = Field(min_length=1, max_length=256)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: Number
    content_type: str = Field(default="application/octet-stream", max_length=200)
    created_at: Moment
    created_by: str = ""
    session_id: str | None = None
    task_id: str | None = None
    where: str = "hub"
    expires_at: Moment | None = None
