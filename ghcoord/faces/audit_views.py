"""The audit log as plain dictionaries: what :mod:`ghcoord.faces.views` is for the records."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ghcoord.faces.views import View, iso

if TYPE_CHECKING:
    from ghcoord.coord.audit.blame import Blame, Origin
    from ghcoord.coord.audit.calls import Purge
    from ghcoord.coord.audit.query import AuditEvent


def iso_seconds(seconds: float) -> str:
    """As :func:`iso`, for seconds since the epoch."""
    return iso(datetime.fromtimestamp(seconds, UTC))


def audit_view(event: AuditEvent) -> View:
    """An entry of the audit log; ``commit`` and ``revision`` are those of the commit that holds it."""
    return {
        "at": iso(event.at),
        "space": event.space,
        "namespace": event.namespace,
        "kind": event.kind,
        "by": event.by,
        "author": event.author,
        "revision": event.revision,
        "commit": event.commit,
        "fields": event.fields,
    }


def origin_view(origin: Origin) -> View:
    """The commit that something comes from; without ``commit`` it was removed, and ``at`` is the latest it can be."""
    return {
        "at": iso(origin.at),
        "by": origin.by,
        "kind": origin.kind,
        "summary": origin.summary,
        "revision": origin.revision,
        "commit": origin.commit,
    }


def blame_view(blame: Blame) -> View:
    """Who gave each field of a record its value; ``removed`` for one that is gone."""
    return {
        "kind": blame.noun,
        "name": blame.name,
        "space": blame.space,
        "path": blame.path,
        "removed": None if blame.removed is None else origin_view(blame.removed),
        "fields": [{"field": line.field, "value": line.value, **origin_view(line.origin)} for line in blame.lines],
    }


def purge_view(purge: Purge) -> View:
    """What a purge of audit entries removed, or would remove; ``first`` are the oldest of them."""
    return {
        "entries": purge.entries,
        "files": purge.files,
        "before": iso(purge.before),
        "first": [{"at": iso_seconds(call.at), "kind": call.kind, "fields": call.fields} for call in purge.first],
    }
