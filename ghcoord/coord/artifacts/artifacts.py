"""Artifacts of a hub: put, found, read and removed."""

from __future__ import annotations

import builtins
import contextlib
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from ghcoord.config import ArtifactSettings
from ghcoord.coord import layout
from ghcoord.coord.artifacts import records
from ghcoord.coord.artifacts.holders import Directory, Holder
from ghcoord.coord.artifacts.records import HUB
from ghcoord.coord.artifacts.s3 import S3
from ghcoord.coord.artifacts.sources import Checked, Source, Told, opened, type_of
from ghcoord.coord.context import ARTIFACT_TABLE, Context
from ghcoord.coord.files.content import Contents, verified
from ghcoord.coord.files.sending import Stream
from ghcoord.coord.layout import ARTIFACTS_OF_SESSION, ARTIFACTS_OF_TASK, FILES, STORED
from ghcoord.errors import Conflict, Corrupt, GhcoordError, NewerSchema, NotFound, OutcomeUnknown, UsageError
from ghcoord.ids import check_id, check_name, new_artifact_id
from ghcoord.model.artifact import Artifact
from ghcoord.model.codec import stamp
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.tx import Tx

MB = 1024 * 1024

MAX_RETENTION = 100 * 365 * 86400.0
"""Longest retention in seconds."""

PAGE = 200
"""Artifacts that one commit of a cleaning removes at most."""

TRIES = 5
"""How often a content is put again that somebody's removal of the same one got in the way of."""

_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,80}/[A-Za-z0-9!#$&^_.+-]{1,80}(?:\s*;[ -~]{1,100})?", re.ASCII)


def _unheard(done: int) -> None:
    """Nobody listens."""


class Artifacts:
    """The artifacts of a hub. Records lie in the hub; ``settings`` say who holds the contents of new ones."""

    def __init__(self, context: Context, contents: Contents, settings: ArtifactSettings) -> None:
        self._context = context
        self._contents = contents
        self._settings = settings
        self._s3: S3 | None = None

    # -- writing

    def put(
        self,
        name: str,
        source: Stream | bytes | Path,
        *,
        content_type: str | None = None,
        session_id: str | None = None,
        task_id: str | None = None,
        retention: float | None = None,
        tell: Callable[[int], None] = _unheard,
    ) -> Artifact:
        """Store ``source`` under ``name`` and return its record, once the content is durable.

        A stream is read from where it stands.  ``content_type`` defaults to what
        the name's end tells.  ``retention`` is in seconds, 0 for ever; ``None``
        as the settings say.  The same content in several artifacts of the hub is
        kept once.  ``tell`` hears how many bytes are stored.  Raises ``TooLarge``
        for more than the settings allow.
        """
        name = check_name(name, "artifact name")
        kind = content_type or type_of(name)
        if not _TYPE.fullmatch(kind):
            raise UsageError(f"{kind[:80]!r} is no content type: give one such as text/plain")
        for owner, what in ((session_id, "session id"), (task_id, "task id")):
            if owner is not None:
                check_id(owner, what)
        seconds = self._retention(retention)
        holder = self._holder(self._settings.where)
        artifact_id = new_artifact_id(self._context.runtime.randbits)
        made: builtins.list[Artifact] = []

        def record(tx: Tx, source: Source) -> None:
            artifact = Artifact(
                id=artifact_id,
                name=name,
                sha256=source.sha256,
                size=source.size,
                content_type=kind,
                created_at=stamp(tx.now),
                created_by=self._context.actor,
                session_id=session_id,
                task_id=task_id,
                where=self._settings.where,
                expires_at=None if seconds is None else stamp(tx.now + seconds),
            )
            records.add(tx, artifact)
            made[:] = [artifact]

        with opened(source, self._settings.max_mb * MB) as measured:
            content = Told.of(measured, tell)
            if holder is None:
                self._put_in_hub(content, lambda tx: record(tx, content))
            else:
                self._put_outside(holder, artifact_id, content, lambda tx: record(tx, content))
        return made[0]

    def _put_in_hub(self, content: Source, also: Callable[[Tx], None]) -> None:
        for attempt in range(TRIES):
            try:
                self._contents.put(STORED, [(content.sha256, content.stream)], also=also)
                return
            except Conflict:  # the last artifact with this content was deleted just now
                if attempt == TRIES - 1:
                    raise
                content.stream.seek(0)

    def _put_outside(self, holder: Holder, artifact_id: str, content: Source, also: Callable[[Tx], None]) -> None:
        checked = Checked(content)
        holder.put(artifact_id, checked)
        try:
            checked.check()
            self._context.transact((FILES,), also)
        except OutcomeUnknown:
            raise  # the record may be there
        except GhcoordError:
            with contextlib.suppress(GhcoordError):
                holder.delete(artifact_id)
            raise

    def _retention(self, given: float | None) -> float | None:
        seconds = self._settings.retention if given is None else given
        if seconds is not None and not 0 <= seconds <= MAX_RETENTION:
            raise UsageError(f"a retention of {seconds:g} s is out of range: 0 keeps it for ever, at most 100 years")
        return seconds or None

    def at_most(self, seconds: float) -> float:
        """The retention to give to what needs to be kept so long at most: the settings may say less."""
        return min(seconds, self._settings.retention or seconds)

    def delete(self, artifact_id: str) -> bool:
        """Remove an artifact, and its content if no other has it; ``False`` where there is none."""
        check_id(artifact_id, "artifact id")
        self._release(artifact_id)
        return self._context.transact((FILES,), lambda tx: records.remove(tx, artifact_id, self._context.actor))

    def _release(self, artifact_id: str) -> None:
        """Remove what a holder outside the hub has of it: before the record, so that a failure can be repeated."""
        try:
            artifact = self.get(artifact_id)
        except (Corrupt, NewerSchema):
            return
        holder = self._holder(artifact.where) if artifact is not None else None
        if holder is not None:
            holder.delete(artifact_id)

    def clean(self) -> int:
        """Remove the artifacts whose time is over, and what interrupted uploads left; returns how many artifacts.

        Costs nothing where there is nothing to remove.  What cannot be removed,
        as its holder refuses, stays; that is raised when all others are gone.
        """
        snapshot = self._context.snapshot(FILES)
        if snapshot.head is None:
            return 0
        ids = [one for one in records.due(snapshot.entries, self._context.now()) if _is_id(one)]
        removed, refused = 0, None
        rest = iter(ids)
        while page := builtins.list(islice(rest, PAGE)):
            for one in builtins.list(page):
                try:
                    self._release(one)
                except GhcoordError as error:
                    refused = refused or error
                    page.remove(one)
            removed += self._context.transact((FILES,), lambda tx, page=page: self._expire(tx, page))  # type: ignore[misc]
        self._contents.clean(STORED)
        if refused is not None:
            raise refused
        return removed

    def _expire(self, tx: Tx, ids: builtins.list[str]) -> int:
        removed = 0
        for one in ids:
            artifact = records.find(tx, one)
            if artifact is not None and artifact.expires_at is not None and artifact.expires_at.timestamp() <= tx.now:
                removed += records.remove(tx, one, self._context.actor, "artifact expired")
        return removed

    # -- reading

    def get(self, artifact_id: str) -> Artifact | None:
        """The record; raises ``Corrupt`` when a person broke it."""
        return ARTIFACT_TABLE.find(self._context.snapshot(FILES), check_id(artifact_id, "artifact id"))

    def open(self, artifact_id: str) -> Iterator[bytes]:
        """The content in pieces; the last comes only when all of them are what was stored.

        Raises ``NotFound`` at once, ``Corrupt`` where that shows: keep nothing then.
        """
        artifact = self.get(artifact_id)
        if artifact is None:
            raise NotFound(f"there is no artifact {artifact_id!r}")
        holder = self._holder(artifact.where)
        if holder is None:
            pieces = self._contents.read(STORED, artifact.sha256)
        else:
            pieces = verified(holder.read(artifact_id), artifact.sha256, f"artifact {artifact_id}")
        return _sized(pieces, artifact)

    def list(
        self, session_id: str | None = None, task_id: str | None = None, name: str | None = None
    ) -> builtins.list[Artifact]:
        """The artifacts of a session, of a task, with this name, or all; newest first."""
        snapshot = self._context.snapshot(FILES)
        if task_id is not None:
            found = self._of(snapshot, ARTIFACTS_OF_TASK, check_id(task_id, "task id"))
        elif session_id is not None:
            found = self._of(snapshot, ARTIFACTS_OF_SESSION, check_id(session_id, "session id"))
        else:
            found = ARTIFACT_TABLE.scan(snapshot)
        fitting = [
            one
            for one in found
            if (name is None or one.name == name)
            and (session_id is None or one.session_id == session_id)
            and (task_id is None or one.task_id == task_id)
        ]
        return sorted(fitting, key=lambda one: (one.created_at, one.id), reverse=True)

    def _of(self, snapshot: Snapshot, folder: str, owner: str) -> Iterator[Artifact]:
        ids = [path.rpartition("/")[2] for path, _ in snapshot.walk(layout.artifacts_of(folder, owner))]
        ids = [one for one in ids if _is_id(one)]
        snapshot.near([ARTIFACT_TABLE.path(one) for one in ids])
        for one in ids:
            try:
                artifact = ARTIFACT_TABLE.find(snapshot, one)
            except (Corrupt, NewerSchema):
                continue
            if artifact is not None:
                yield artifact

    # -- who holds it

    def _holder(self, where: str) -> Holder | None:
        """Who holds contents of that kind; ``None`` is the hub. Raises ``UsageError`` where it is not configured."""
        settings = self._settings
        if where == HUB:
            return None
        if where == "directory":
            if settings.directory is None:
                raise UsageError("artifacts lie in a directory: name it as artifacts.directory in ghcoord.toml")
            return Directory(Path(settings.directory).expanduser())
        if where == "s3":
            if settings.bucket is None:
                raise UsageError("artifacts lie in a bucket: name it as artifacts.bucket in ghcoord.toml")
            if self._s3 is None:
                self._s3 = S3(settings, self._context.runtime)
            return self._s3
        raise UsageError(f"artifacts in {where!r} are not known to this ghcoord: hub, directory and s3 are")


def _sized(pieces: Iterator[bytes], artifact: Artifact) -> Iterator[bytes]:
    """``pieces``, which must be as many bytes as the record says."""
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > artifact.size:
            break
        yield piece
    if size != artifact.size:
        raise Corrupt(f"the artifact {artifact.id} does not have the {artifact.size} bytes that its record says")


def _is_id(text: str) -> bool:
    try:
        return bool(check_id(text, "artifact id"))
    except UsageError:
        return False
