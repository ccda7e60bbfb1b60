"""Artifacts: files that outlive the task or session that made them."""

from __future__ import annotations

import re

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
    session_id: str | None = Field(default=None, min_length=1, max_length=128)
    task_id: str | None = Field(default=None, min_length=1, max_length=128)
    where: str = Field(default="hub", max_length=20)
    expires_at: Moment | None = None

    @property
    def file_name(self) -> str:
        """A name for a file with its content, safe whatever its maker called it."""
        return plain_name(self.name)


LOG_NAME = "log"
"""Name of the artifact with all of a task's output."""

LOG_TYPE = "text/plain; charset=utf-8"
"""Content type of such an artifact."""

_UNFIT = re.compile(r"[^\w.,+@=-]+")
_LONGEST = 120


def plain_name(name: str) -> str:
    """A file's name that leads nowhere and hides nothing, made of an artifact's name or of a path."""
    last = _UNFIT.sub("_", name.replace("\\", "/").rstrip("/").rpartition("/")[2]).lstrip(".-")
    return last.encode()[-_LONGEST:].decode(errors="ignore").lstrip(".-") or "artifact"
