"""Checkpoints as a worker makes and restores them.

Saving goes in three steps, each of which may be the last: the local store, the
contents in the hub and their manifest, the session's record, which is changed
under the session's epoch.  Only the last one makes it a checkpoint; what the
others left behind goes with a later one.
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ghcoord.coord.sessions.archive import tar_of, write_archive
from ghcoord.coord.sessions.checkpoints import describe, named_in
from ghcoord.coord.sessions.differences import Diff, compare
from ghcoord.coord.sessions.manifests import (
    MAX_MANIFEST_NAME,
    NO_QUOTA,
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
from ghcoord.execution.checkpoints.place import MAX_JOURNAL, RESTORING, Home, Restored, keep_journal, make_empty, swap
from ghcoord.execution.checkpoints.rebuild import rebuild
from ghcoord.execution.checkpoints.scan import Scan, scan
from ghcoord.execution.checkpoints.unpack import unpack
from ghcoord.execution.environment.lock import read_lock
from ghcoord.execution.environment.make import interpreter_of
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.execution.session.folder import write_whole
from ghcoord.execution.workspace import remove_tree
from ghcoord.ids import check_id
from ghcoord.model.codec import stamp
from ghcoord.model.limits import Limits
from ghcoord.model.session import MAX_CHECKPOINTS, Checkpoint, Session

if TYPE_CHECKING:
    from ghcoord.execution.tools.kit import Kit
    from ghcoord.hub import Hub


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
        self._tidy: set[str] = set()
        """Sessions of which the hub has nothing that an interrupted publication left, as far as is known."""

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
            made = describe(manifest, before=self._before(present), published=self._publish)
            try:
                if self._publish:
                    self._hub.sessions.publish(manifest, store.read)
                gone = self._hub.sessions.record_checkpoint(session.id, session.epoch, made, self._keep)
            except OutcomeUnknown:
                raise  # it may be one: it stays
            except GhcoordError as why:
                self._tidy.discard(session.id)
                store.remove_manifest(manifest.id)
                if isinstance(why, Corrupt):
                    store.verify()  # what is spoilt here is read from the workspace the next time
                raise
            if gone:
                self._forget(store, session.id, gone)
        return made

    def _saved(self, session: Session, home: Home, sandbox: Sandbox | None, store: LocalStore, name: str) -> Manifest:
        """Steps that this machine alone takes: a manifest in the local store, with all its contents."""
        runtime = self._hub.runtime
        found = scan(home.workspace, home.files, store, home.limits, runtime.now())
        record = self._record(session, home, found, name, self._python(sandbox))
        record = record.model_copy(update={"journal": keep_journal(home, store)})
        data, listing, manifest = encode_manifest(Manifest(record, found.files, found.folders, found.links))
        try:  # what could not be restored is no checkpoint, whatever the tasks have made
            decode_manifest(data, "it", listing=lambda ref: listing or b"", limits=quota(home.limits))
        except Corrupt as why:
            raise UsageError(f"the workspace cannot be saved: {why.message}") from why
        if listing is not None and manifest.record.listing is not None:
            store.put(manifest.record.listing.sha256, listing)
        store.note_known(found.known)
        store.put_manifest(manifest.id, data)
        return manifest

    def _record(self, session: Session, home: Home, found: Scan, name: str, python: str) -> ManifestRecord:
        return ManifestRecord(
            id=new_checkpoint_id(self._hub.runtime.randbits),
            session=session.id,
            epoch=session.epoch,
            created_at=stamp(self._hub.runtime.now()),
            name=name,
            worker=session.worker_id or "",
            packages=read_lock(home.files),
            python=python,
            left_out=tuple(found.left_out),
            left_out_count=found.left_out_count,
            metadata=session.metadata,
            env=session.env,
            limits=session.limits,
            allow=session.allow,
            sandbox=session.sandbox,
        )

    def _python(self, sandbox: Sandbox | None) -> str:
        """The version of the interpreter that the packages were installed for."""
        if sandbox is None or sandbox.python is None:
            return ""
        try:
            return interpreter_of(sandbox, self._hub.runtime).version
        except SandboxError:
            return ""

    def _before(self, session: Session) -> Manifest | None:
        """The session's latest checkpoint, when it can be read."""
        if not session.checkpoints:
            return None
        try:
            return self._sources(session, session.checkpoints[-1].id).manifest(NO_QUOTA)
        except GhcoordError:
            return None

    def _decode(self, data: bytes, store: LocalStore, checkpoint_id: str, limits: Limits | None = None) -> Manifest:
        where = f"{store.folder}: checkpoint {checkpoint_id}"
        manifest = decode_manifest(
            data, where, listing=lambda ref: b"".join(store.read(ref.sha256)), limits=limits or NO_QUOTA
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
                if session_id not in self._tidy:
                    self._hub.sessions.prune(session_id)
                    self._tidy.add(session_id)
        except GhcoordError:
            return

    def _needed(self, store: LocalStore) -> set[str]:
        manifests = [store.manifest(checkpoint_id) or b"" for checkpoint_id in store.ids()]
        return set().union(*(named_in(data, lambda digest: b"".join(store.read(digest))) for data in manifests))

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
                make_empty(fresh, kit.sandbox)
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
        missing = swap(home, fresh, lambda: rebuild(manifest.record.packages, session, home, kit))
        home.journal_path.unlink(missing_ok=True)
        if journal is not None:
            write_whole(home.journal_path, journal)
        return Restored(checkpoint_id, len(manifest.files), manifest.size, missing)

    def _sources(self, session: Session, checkpoint_id: str) -> Sources:
        found = session.checkpoint(check_checkpoint_id(checkpoint_id))
        owner = session.id if found is None else found.origin or session.id
        return Sources(owner, checkpoint_id, self.store(owner), self._hub, self._decode)

    # -- comparing, writing, removing

    def diff(self, session: Session, home: Home, a: str, b: str | None = None, *, text: bool = False) -> Diff:
        """What leads from checkpoint ``a`` to ``b``, or to the workspace as it is; ``text`` compares lines."""
        first = self._sources(session, a)
        one = first.manifest(NO_QUOTA)
        if b is not None:
            second = self._sources(session, b)
            other = second.manifest(NO_QUOTA)
            if not text:
                return compare(one, other)
            return compare(one, other, read_a=first.file, read_b=second.file)
        found = scan(home.workspace, home.files, Hashing(self.store(session.id)), home.limits, self._hub.runtime.now())
        present = self._hub.sessions.get(session.id) or session
        record = self._record(present, home, found, "", one.record.python)
        now = Manifest(record, found.files, found.folders, found.links)
        if not text:
            return compare(one, now, workspace=True)

        def read(path: str, entry: FileEntry) -> bytes:
            return home.files.read(path, 0, entry.size)[0]

        return compare(one, now, read_a=first.file, read_b=read, workspace=True)

    def export(self, session: Session, checkpoint_id: str, target: BinaryIO, form: str = "tar.zst") -> None:
        """Write the checkpoint as ``tar.zst`` or ``tar.gz``, its manifest first."""
        sources = self._sources(session, checkpoint_id)
        manifest = sources.manifest(NO_QUOTA)
        write_archive(tar_of(manifest, sources.read, with_manifest=True), target, form)

    def delete(self, session_id: str, checkpoint_id: str) -> None:
        """Remove a checkpoint, here and in the hub. Raises ``NotFound``."""
        self._hub.sessions.delete_checkpoint(session_id, check_checkpoint_id(checkpoint_id))
        store = self.store(session_id)
        with self._lock(session_id), store.held():
            store.remove_manifest(checkpoint_id)
            store.keep_only(self._needed(store))

    def sessions(self) -> list[str]:
        """Sessions of which anything is kept here."""
        try:
            return sorted(each.name for each in self._folder.iterdir() if each.is_dir())
        except OSError:
            return []

    def forget(self, session_id: str) -> None:
        """Remove everything that is kept here of a session that is no more."""
        store = self.store(session_id)
        if store.folder.exists():
            with self._lock(session_id), store.held():
                shutil.rmtree(store.folder, ignore_errors=True)
        with self._mutex:
            self._locks.pop(session_id, None)
            self._tidy.discard(session_id)


def _journal_of(manifest: Manifest, sources: Sources) -> bytes | None:
    ref = manifest.record.journal
    if ref is None:
        return None
    if ref.size > MAX_JOURNAL:
        raise Corrupt(f"the checkpoint {manifest.id} has a journal of {ref.size} bytes, at most {MAX_JOURNAL} are read")
    return b"".join(sources.read(ref.sha256))
