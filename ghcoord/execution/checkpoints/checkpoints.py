"""Checkpoints as a worker makes and restores them.

Saving goes in three steps, each of which may be the last: the local store, the
contents in the hub and their manifest, the session's record, which is changed
under the session's epoch.  Only the last one makes it a checkpoint; what the
others left behind goes with a later one.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from ghcoord.coord.sessions.archive import tar_of, write_archive
from ghcoord.coord.sessions.checkpoints import describe
from ghcoord.coord.sessions.differences import Diff, compare
from ghcoord.coord.sessions.manifests import (
    MAX_MANIFEST_NAME,
    ContentRef,
    FileEntry,
    Manifest,
    ManifestRecord,
    check_checkpoint_id,
    decode_manifest,
    encode_manifest,
    new_checkpoint_id,
    quota,
)
from ghcoord.errors import Corrupt, GhcoordError, LeaseLost, OutcomeUnknown, SandboxError, UsageError
from ghcoord.execution.checkpoints.content import Hashing, Sources
from ghcoord.execution.checkpoints.localstore import LocalStore
from ghcoord.execution.checkpoints.rebuild import rebuild
from ghcoord.execution.checkpoints.scan import Scan, scan
from ghcoord.execution.checkpoints.unpack import unpack
from ghcoord.execution.environment.lock import read_lock
from ghcoord.execution.files.beneath import Files
from ghcoord.execution.sandbox.base import Sandbox, prepare_workspace
from ghcoord.execution.session.folder import write_whole
from ghcoord.execution.workspace import remove_tree
from ghcoord.ids import check_id
from ghcoord.model.codec import stamp
from ghcoord.model.limits import Limits
from ghcoord.model.session import MAX_CHECKPOINTS, Checkpoint, Session

if TYPE_CHECKING:
    from ghcoord.execution.tools.kit import Kit
    from ghcoord.hub import Hub

RESTORING = "restoring"
"""Folder beside a workspace in which a checkpoint is unpacked."""

REPLACED = "replaced"
"""What a workspace is called from when the restored one takes its place until it is removed."""

MAX_JOURNAL = 128 * 1024 * 1024
"""Bytes of a journal that a checkpoint takes: its end, when it is longer."""


class Home(Protocol):
    """A session's folder on this worker: :class:`ghcoord.execution.session.folder.SessionFolder`."""

    @property
    def root(self) -> Path: ...

    @property
    def workspace(self) -> Path: ...

    @property
    def journal_path(self) -> Path: ...

    @property
    def files(self) -> Files: ...

    @property
    def limits(self) -> Limits: ...

    def keep(self, name: str) -> Path: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restoration brought back. ``missing`` are packages of the lock that no index has for this Python."""

    checkpoint_id: str
    files: int
    size: int
    missing: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """What whoever uses the session must know; empty when all is there."""
        if not self.missing:
            return ""
        named = ", ".join(self.missing[:10]) + (f" and {len(self.missing) - 10} more" if len(self.missing) > 10 else "")
        return f"the checkpoint's files are there, but no index has {named}: install them in another way"


class Checkpoints:
    """The checkpoints of the sessions of one worker. May be shared between threads.

    ``folder`` is the worker's own and this hub's; nothing of it is ever shown to a task.
    ``keep`` is how many a session has at most.  Without ``publish`` the hub
    knows of them, but only this worker can restore them.
    """

    def __init__(self, folder: Path, hub: Hub, *, keep: int = MAX_CHECKPOINTS, publish: bool = True) -> None:
        if keep < 1:
            raise UsageError("a session keeps at least one checkpoint: give --max-checkpoints 1 or more")
        self._folder = folder
        self._hub = hub
        self._keep = keep
        self._publish = publish
        self._mutex = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    def _lock(self, session_id: str) -> threading.Lock:
        with self._mutex:
            return self._locks.setdefault(session_id, threading.Lock())

    def store(self, session_id: str) -> LocalStore:
        """The local store of a session, which need not exist."""
        return LocalStore(self._folder / check_id(session_id, "session id"), self._hub.runtime)

    # -- saving

    def save(self, session: Session, home: Home, sandbox: Sandbox | None, *, name: str = "") -> Checkpoint:
        """Save the session's files as they are, its settings, its lock and its journal.

        ``session`` is the record as the worker that has it knows it.  Raises
        ``LeaseLost`` when another worker has the session by now: nothing was
        saved then.  Raises ``UsageError`` beyond ``limits.archive_files`` and
        ``archive_mb``.
        """
        if len(name) > MAX_MANIFEST_NAME:
            raise UsageError(f"the name of a checkpoint has at most {MAX_MANIFEST_NAME} characters, not {len(name)}")
        present = self._hub.sessions.get(session.id)
        if present is None or present.epoch != session.epoch:
            raise LeaseLost(f"session {session.id} is not this worker's any more: no checkpoint was made")
        store = self.store(session.id)
        with self._lock(session.id), store.held():
            manifest = self._saved(present, home, sandbox, store, name)
            before = self._before(present, store)
            made = describe(manifest, before=before, published=self._publish)
            try:
                if self._publish:
                    self._hub.sessions.publish(manifest, store.read)
                gone = self._hub.sessions.record_checkpoint(session.id, session.epoch, made, self._keep)
            except OutcomeUnknown:
                raise  # it may be one: it stays
            except GhcoordError:
                store.remove_manifest(manifest.id)
                raise
            if gone:
                self._forget(store, session.id, gone)
        return made

    def _saved(self, session: Session, home: Home, sandbox: Sandbox | None, store: LocalStore, name: str) -> Manifest:
        """Steps that this machine alone takes: a manifest in the local store, with all its contents."""
        runtime = self._hub.runtime
        found = scan(home.workspace, home.files, store, home.limits, runtime.now())
        record = self._record(session, home, found, name).model_copy(update={"journal": _keep_journal(home, store)})
        data, listing, manifest = encode_manifest(Manifest(record, found.files, found.folders, found.links))
        if listing is not None and manifest.record.listing is not None:
            store.put(manifest.record.listing.sha256, listing)
        store.note_known(found.known)
        store.put_manifest(manifest.id, data)
        return manifest

    def _record(self, session: Session, home: Home, found: Scan, name: str) -> ManifestRecord:
        return ManifestRecord(
            id=new_checkpoint_id(self._hub.runtime.randbits),
            session=session.id,
            epoch=session.epoch,
            created_at=stamp(self._hub.runtime.now()),
            name=name,
            worker=session.worker_id or "",
            packages=read_lock(home.files),
            left_out=tuple(found.left_out),
            left_out_count=found.left_out_count,
            metadata=session.metadata,
            env=session.env,
            limits=session.limits,
            allow=session.allow,
            sandbox=session.sandbox,
        )

    def _before(self, session: Session, store: LocalStore) -> Manifest | None:
        """The session's latest checkpoint, when it is here."""
        for one in reversed(session.checkpoints[-1:]):
            data = store.manifest(one.id)
            if data is not None:
                try:
                    return self._decode(data, store, one.id)
                except GhcoordError:
                    return None
        return None

    def _decode(self, data: bytes, store: LocalStore, checkpoint_id: str, limits: Limits | None = None) -> Manifest:
        where = f"{store.folder}: checkpoint {checkpoint_id}"
        manifest = decode_manifest(
            data, where, listing=lambda ref: b"".join(store.read(ref.sha256)), limits=limits or Limits()
        )
        if manifest.id != checkpoint_id:
            raise Corrupt(f"{where} is the manifest of another checkpoint: {manifest.id}")
        return manifest

    def _forget(self, store: LocalStore, session_id: str, gone: list[str]) -> None:
        """Remove what is no longer a checkpoint, here and in the hub. It is tried again with a later one."""
        try:
            kept = {one.id for one in self._hub.sessions.checkpoints(session_id)}
            for checkpoint_id in [*gone, *(each for each in store.ids() if each not in kept)]:
                store.remove_manifest(checkpoint_id)
            store.keep_only(self._needed(store))
            if self._publish:
                self._hub.sessions.prune(session_id, gone=gone)
        except GhcoordError:
            return

    def _needed(self, store: LocalStore) -> set[str]:
        needed: set[str] = set()
        for checkpoint_id in store.ids():
            data = store.manifest(checkpoint_id)
            if data is not None:
                needed |= self._decode(data, store, checkpoint_id).contents().keys()
        return needed

    # -- restoring

    def restore(self, session: Session, checkpoint_id: str, home: Home, kit: Kit) -> Restored:
        """Put the checkpoint's files in the place of the session's workspace, and rebuild its environment.

        Nothing of it is seen before all of it is there.  Raises ``NotFound`` and
        ``Corrupt`` when it cannot be restored, ``SandboxError`` when it cannot
        be restored now or by this worker: then the workspace is as it was.
        """
        if kit.sandbox is None:
            raise SandboxError("a checkpoint is unpacked in a sandbox, and the worker has none")
        sources = self._sources(session, checkpoint_id)
        while True:
            manifest = sources.manifest(quota(home.limits))
            fresh = home.root / RESTORING
            try:
                _make_empty(fresh, kit.sandbox)
                stream = tar_of(manifest, sources.read, with_manifest=False)
                unpack(stream, fresh, kit.sandbox, kit.runtime, limits=home.limits)
                journal = _journal_of(manifest, sources)
                break
            except Corrupt:
                remove_tree(fresh)
                if not sources.distrust():
                    raise
            except OSError as why:
                remove_tree(fresh)
                raise SandboxError(f"the checkpoint {checkpoint_id} was not restored: {why.strerror or why}") from why
            except BaseException:
                remove_tree(fresh)
                raise
        missing = self._swap(home, fresh, lambda: rebuild(manifest.record.packages, session, home, kit))
        home.journal_path.unlink(missing_ok=True)
        if journal is not None:
            write_whole(home.journal_path, journal)
        return Restored(checkpoint_id, len(manifest.files), manifest.size, missing)

    def _swap(self, home: Home, fresh: Path, then: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
        """Have ``fresh`` be the workspace if ``then``, which needs it in its place, does not raise."""
        replaced = home.root / REPLACED
        if replaced.exists():
            remove_tree(replaced)
        home.close()
        home.workspace.rename(replaced)
        try:
            fresh.rename(home.workspace)
            missing = then()
        except BaseException:
            home.close()
            if home.workspace.exists():
                remove_tree(home.workspace)
            replaced.rename(home.workspace)
            raise
        remove_tree(replaced)
        return missing

    def _sources(self, session: Session, checkpoint_id: str) -> Sources:
        found = session.checkpoint(check_checkpoint_id(checkpoint_id))
        owner = session.id if found is None else found.origin or session.id
        return Sources(owner, checkpoint_id, self.store(owner), self._hub, self._decode)

    # -- comparing, writing, removing

    def diff(self, session: Session, home: Home, a: str, b: str | None = None, *, text: bool = False) -> Diff:
        """What leads from checkpoint ``a`` to ``b``, or to the workspace as it is; ``text`` compares lines."""
        first = self._sources(session, a)
        one = first.manifest(Limits())
        if b is not None:
            second = self._sources(session, b)
            other = second.manifest(Limits())
            if not text:
                return compare(one, other)
            return compare(one, other, read_a=first.file, read_b=second.file)
        found = scan(home.workspace, home.files, Hashing(self.store(session.id)), home.limits, self._hub.runtime.now())
        present = self._hub.sessions.get(session.id) or session
        record = self._record(present, home, found, "")
        now = Manifest(record, found.files, found.folders, found.links)
        if not text:
            return compare(one, now, workspace=True)

        def read(path: str, entry: FileEntry) -> bytes:
            return home.files.read(path, 0, entry.size)[0]

        return compare(one, now, read_a=first.file, read_b=read, workspace=True)

    def export(self, session: Session, checkpoint_id: str, target: BinaryIO, form: str = "tar.zst") -> None:
        """Write the checkpoint as ``tar.zst`` or ``tar.gz``, its manifest first."""
        sources = self._sources(session, checkpoint_id)
        manifest = sources.manifest(Limits())
        write_archive(tar_of(manifest, sources.read, with_manifest=True), target, form)

    def delete(self, session_id: str, checkpoint_id: str) -> None:
        """Remove a checkpoint, here and in the hub. Raises ``NotFound``."""
        self._hub.sessions.delete_checkpoint(session_id, check_checkpoint_id(checkpoint_id))
        store = self.store(session_id)
        with self._lock(session_id), store.held():
            store.remove_manifest(checkpoint_id)
            store.keep_only(self._needed(store))

    def forget(self, session_id: str) -> None:
        """Remove everything that is kept here of a session that is no more."""
        store = self.store(session_id)
        if store.folder.exists():
            with self._lock(session_id), store.held():
                shutil.rmtree(store.folder, ignore_errors=True)


def _make_empty(folder: Path, sandbox: Sandbox) -> None:
    if folder.exists() or folder.is_symlink():
        remove_tree(folder)
    folder.mkdir(mode=0o700)
    prepare_workspace(folder, sandbox.identity)


def _keep_journal(home: Home, store: LocalStore) -> ContentRef | None:
    try:
        with open(home.journal_path, "rb") as file:
            size = file.seek(0, 2)
            if not size:
                return None
            file.seek(max(0, size - MAX_JOURNAL))
            digest, size = store.add(file, min(size, MAX_JOURNAL))
    except FileNotFoundError:
        return None
    return ContentRef(sha256=digest, size=size)


def _journal_of(manifest: Manifest, sources: Sources) -> bytes | None:
    ref = manifest.record.journal
    if ref is None:
        return None
    if ref.size > MAX_JOURNAL:
        raise Corrupt(f"the checkpoint {manifest.id} has a journal of {ref.size} bytes, at most {MAX_JOURNAL} are read")
    return b"".join(sources.read(ref.sha256))
