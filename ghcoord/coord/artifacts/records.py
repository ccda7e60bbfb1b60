"""Artifacts' records and what follows from them: all changes to both, for transactions over ``files``.

An index tells which artifacts have a content, so that it goes with the last of
them; which are of a task or a session; and when one's time is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ghcoord.coord import layout
from ghcoord.coord.context import ARTIFACT_TABLE
from ghcoord.coord.files.content import contents_in, remove_content
from ghcoord.coord.layout import ARTIFACTS_DUE, ARTIFACTS_OF_SESSION, ARTIFACTS_OF_TASK, FILES, MARKER, STORED
from ghcoord.errors import Corrupt, NewerSchema
from ghcoord.model.artifact import Artifact
from ghcoord.store.tx import Tx

HUB = "hub"
"""``where`` of an artifact whose content the hub holds."""

LEVELS = 4
"""Directories of the index of times that stand for the time."""


def index_paths(artifact: Artifact) -> Iterator[str]:
    """The index files of ``artifact``."""
    if artifact.where == HUB:
        yield layout.artifact_marker(layout.artifact_refs(artifact.sha256), artifact.id)
    if artifact.task_id is not None:
        yield layout.artifact_marker(layout.artifacts_of(ARTIFACTS_OF_TASK, artifact.task_id), artifact.id)
    if artifact.session_id is not None:
        yield layout.artifact_marker(layout.artifacts_of(ARTIFACTS_OF_SESSION, artifact.session_id), artifact.id)
    if artifact.expires_at is not None:
        yield layout.due_path(ARTIFACTS_DUE, artifact.expires_at.timestamp(), artifact.id)


def add(tx: Tx, artifact: Artifact) -> None:
    """Record ``artifact``, whose content is there."""
    ARTIFACT_TABLE.put(tx, FILES, artifact.id, artifact)
    for path in index_paths(artifact):
        tx.write(FILES, path, MARKER)
    tx.event(
        FILES,
        "artifact stored",
        artifact=artifact.id,
        name=artifact.name,
        size=artifact.size,
        sha256=artifact.sha256,
        session=artifact.session_id,
        task=artifact.task_id,
        by=artifact.created_by,
    )


def find(tx: Tx, artifact_id: str) -> Artifact | None:
    """The record, if it can be read."""
    try:
        return ARTIFACT_TABLE.get(tx, FILES, artifact_id)
    except (Corrupt, NewerSchema):
        return None


def remove(tx: Tx, artifact_id: str, by: str, kind: str = "artifact deleted") -> bool:
    """Take an artifact away, with its content if no other has it; ``False`` where there is none."""
    path = layout.artifact_path(artifact_id)
    if tx.read(FILES, path) is None:
        return False
    artifact = find(tx, artifact_id)
    tx.delete(FILES, path)
    if artifact is not None:
        for marker in index_paths(artifact):
            tx.delete(FILES, marker)
        refs = layout.artifact_refs(artifact.sha256)
        if artifact.where == HUB and next(tx.walk(FILES, refs), None) is None:
            remove_content(tx, STORED, artifact.sha256)
    named = artifact.name if artifact is not None else None
    tx.event(FILES, kind, artifact=artifact_id, name=named, by=by)
    return True


def due(names: Callable[[str], Iterable[str]], now: float) -> Iterator[str]:
    """Ids of artifacts whose time is over, those first whose time was over first; ``names`` lists a directory."""
    for blocks in _blocks(names, (), now):
        top = "/".join((ARTIFACTS_DUE, *blocks))
        for fan in sorted(names(top)):
            yield from sorted(names(f"{top}/{fan}"))


def _blocks(names: Callable[[str], Iterable[str]], above: tuple[str, ...], now: float) -> Iterator[tuple[str, ...]]:
    for name in sorted(names("/".join((ARTIFACTS_DUE, *above)))):
        begins = layout.due_at(*above, name)
        if begins is None or begins > now:
            continue
        if len(above) + 1 == LEVELS:
            yield (*above, name)
        else:
            yield from _blocks(names, (*above, name), now)


def rebuild(tx: Tx) -> None:
    """Make the index anew from the records, and drop contents that no readable record has. Reads every record."""
    known = list(ARTIFACT_TABLE.all(tx, FILES))
    wanted = {path for artifact in known for path in index_paths(artifact)}
    for folder in layout.ARTIFACT_INDEX:
        for path in list(tx.walk(FILES, folder)):
            if path not in wanted:
                tx.delete(FILES, path)
    for path in sorted(wanted):
        tx.write(FILES, path, MARKER)
    needed = {artifact.sha256 for artifact in known if artifact.where == HUB}
    for digest in contents_in(tx, STORED):
        if digest not in needed and tx.read(FILES, layout.upload_path(STORED, digest)) is None:
            remove_content(tx, STORED, digest)
