"""Artifacts as plain dictionaries with stable keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ghcoord.faces.views import View, iso, iso_or_none

if TYPE_CHECKING:
    from ghcoord.model.artifact import Artifact


def artifact_view(artifact: Artifact) -> View:
    """A stored file; ``where`` says who holds its content, ``size`` is in bytes."""
    return {
        "id": artifact.id,
        "name": artifact.name,
        "size": artifact.size,
        "sha256": artifact.sha256,
        "content_type": artifact.content_type,
        "created_at": iso(artifact.created_at),
        "created_by": artifact.created_by,
        "session_id": artifact.session_id,
        "task_id": artifact.task_id,
        "where": artifact.where,
        "expires_at": iso_or_none(artifact.expires_at),
    }
