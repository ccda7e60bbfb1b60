"""The checkpoints that the hub holds: read, compared, written to archives and taken from them, removed.

Which checkpoints a session has is said by its record in ``fleet``, which a
worker changes under its epoch.  A manifest in ``files`` that no record names is
one that was never finished or was refused, and goes with :meth:`prune`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import BinaryIO

from ghcoord.coord import layout
from ghcoord.coord.context import SESSION_TABLE
from ghcoord.coord.files.content import Contents, remove_content
from ghcoord.coord.layout import FILES, FLEET
from ghcoord.coord.sessions import records
from ghcoord.coord.sessions.archive import Archive, Open, tar_of, write_archive
from ghcoord.coord.sessions.differences import Diff, compare
from ghcoord.coord.sessions.manifests import (
    NO_QUOTA,
    ContentRef,
    FileEntry,
    Manifest,
    check_checkpoint_id,
    decode_manifest,
    encode_manifest,
    is_digest,
    new_checkpoint_id,
)
from ghcoord.coord.sessions.placements import Placements
from ghcoord.errors import Conflict, Corrupt, NotFound, Unavailable, UsageError
from ghcoord.model.codec import stamp
from ghcoord.model.limits import DEFAULT_LIMITS, Limits
from ghcoord.model.session import Checkpoint, Session
from ghcoord.store.tx import Tx

TRIES = 3
"""How often a publication starts again because contents that it relied on were removed meanwhile."""

AHEAD = 100
"""Contents that are brought together at most, and their bytes."""

AHEAD_BYTES = 1 << 20

PAGE = 1000
"""Contents that one commit removes at most."""

MAX_LISTED = 20_000
"""Characters of the packages, and of the changed paths, that a session's record has for each checkpoint."""

MAX_MODIFIED = 100

MAX_HELD = 50
"""Checkpoints that a session may have when one is imported; its worker keeps fewer."""

_DIGEST = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


class SessionCheckpoints(Placements):
    """The part of a hub's sessions that has to do with what their checkpoints hold."""

    _contents: Contents

    # -- reading

    def _session(self, session_id: str) -> Session:
        session = SESSION_TABLE.find(self._context.snapshot(FLEET), session_id)
        if session is None:
            raise records.no_such(session_id)
        return session

    def _owner(self, session_id: str, checkpoint_id: str) -> str:
        """Whose contents the checkpoint's are; raises ``NotFound`` when the hub does not have it."""
        found = self._session(session_id).checkpoint(check_checkpoint_id(checkpoint_id))
        if found is None:
            raise NotFound(f"session {session_id} has no checkpoint {checkpoint_id}: see 'session checkpoint --list'")
        if not found.published:
            raise NotFound(f"checkpoint {checkpoint_id} is on the worker {found.worker} only, it was not published")
        return found.origin or session_id

    def read_manifest(self, session_id: str, checkpoint_id: str) -> Manifest:
        """The checked manifest. Raises ``NotFound``, and ``Corrupt`` for one that cannot be restored."""
        return self.manifest_of(self._owner(session_id, checkpoint_id), checkpoint_id)

    def manifest_of(self, owner: str, checkpoint_id: str, limits: Limits = NO_QUOTA) -> Manifest:
        """As :meth:`read_manifest`, of the session that the contents belong to, whatever its record says."""
        folder, name = layout.checkpoints_folder(owner), layout.manifest_name(check_checkpoint_id(checkpoint_id))
        data = self._contents.read_file(folder, name)
        if data is None:
            raise NotFound(f"the hub has no checkpoint {checkpoint_id} of session {owner}")
        where = f"{FILES}:{folder}/{name}"
        manifest = decode_manifest(data, where, listing=lambda ref: self._listing(owner, ref), limits=limits)
        if manifest.id != checkpoint_id or manifest.record.session != owner:
            raise Corrupt(f"{where} is the manifest of another checkpoint: {manifest.record.session}/{manifest.id}")
        return manifest

    def _listing(self, owner: str, ref: ContentRef) -> bytes:
        return b"".join(self._contents.read(layout.checkpoints_folder(owner), ref.sha256))

    def read_content(self, owner: str, digest: str) -> Iterator[bytes]:
        """A content of a session's checkpoints, verified. Raises ``NotFound`` and ``Corrupt``."""
        return self._contents.read(layout.checkpoints_folder(owner), digest)

    def reader(self, manifest: Manifest, has: Callable[[str], bool] = lambda digest: False) -> Open:
        """Reads the contents of a checkpoint, best in the order of its paths.

        Where asking costs requests, small ones come many at a time, without
        those that the caller ``has``.
        """
        owner, store = manifest.record.session, self._context.transactor.store
        if not store.capabilities.far_objects:
            return lambda digest: self.read_content(owner, digest)
        sizes = {each.sha256: each.size for _, each in sorted(manifest.files.items())}
        left = [digest for digest, size in sizes.items() if size <= AHEAD_BYTES and not has(digest)][::-1]
        folder, brought = layout.checkpoints_folder(owner), set[str]()

        def read(digest: str) -> Iterator[bytes]:
            if digest in sizes and digest not in brought:
                room = AHEAD_BYTES
                some: list[str] = []
                while left and len(some) < AHEAD and (room := room - sizes[left[-1]]) >= 0:
                    some.append(left.pop())
                brought.update(some)
                self._context.snapshot(FILES).near([layout.data_path(folder, each) for each in some])
            return self.read_content(owner, digest)

        return read

    def compared(self, session_id: str, a: str, b: str, *, text: bool = False) -> Diff:
        """What leads from checkpoint ``a`` to ``b``, without any worker; ``text`` compares the lines of small files.

        Raises ``NotFound`` for one that was not published.
        """
        first, second = self.read_manifest(session_id, a), self.read_manifest(session_id, b)
        if not text:
            return compare(first, second)
        return compare(first, second, read_a=self._reader(first), read_b=self._reader(second))

    def _reader(self, manifest: Manifest) -> Callable[[str, FileEntry], bytes]:
        return lambda path, entry: b"".join(self.read_content(manifest.record.session, entry.sha256))

    # -- writing

    def publish(self, manifest: Manifest, content: Open) -> None:
        """Store a checkpoint's contents as far as the hub has not got them, and its manifest after them.

        The session's record does not speak of it yet.  ``content`` gives what
        is missing.  Doing it again does no harm.  Raises ``Unavailable`` when
        somebody keeps removing contents.
        """
        data, listing, manifest = encode_manifest(manifest)
        ref = manifest.record.listing
        folder = layout.checkpoints_folder(manifest.record.session)
        for attempt in range(TRIES):
            items = [
                (digest, _bytes_of(listing) if ref is not None and digest == ref.sha256 else _stream(content, digest))
                for digest in sorted(manifest.contents())
            ]
            try:
                self._contents.put(folder, items, extra={layout.manifest_name(manifest.id): data})
                return
            except Conflict as why:
                if attempt == TRIES - 1:
                    raise Unavailable(f"the checkpoint could not be stored: {why.message}") from why

    def delete_checkpoint(self, session_id: str, checkpoint_id: str) -> None:
        """Remove a checkpoint. Raises ``NotFound``, and ``UsageError`` where it is all that is left of the files."""

        self.forget_checkpoint(session_id, checkpoint_id)
        self.prune(session_id, gone=[checkpoint_id])

    def prune(self, session_id: str, *, gone: Collection[str] = ()) -> int:
        """Remove what no checkpoint of the session, or copied from it, needs any more; returns how many contents.

        Manifests go that are named in ``gone``, and those that a worker left
        which no longer has the session.  Contents go that no manifest names:
        with ``gone`` those that these manifests named, without it all others,
        too, which interrupted uploads left.  It is decided where it is written,
        so that a manifest that comes at the same moment keeps what it needs.
        Nothing goes while a session's record cannot be read.
        """
        session = self._session(session_id)
        kept = {one.id for one in session.checkpoints if not one.origin}
        others = records.every(self._context.snapshot(FLEET))
        if others is None:
            return 0
        kept |= {one.id for other in others for one in other.checkpoints if one.origin == session_id}
        folder = layout.checkpoints_folder(session_id)
        top = f"{folder}/{layout.MANIFESTS}"
        unwanted = set(gone) - kept

        def run(tx: Tx) -> int:
            needed: set[str] = set()
            dropped: set[str] = set()
            for name in tx.names(FILES, top):
                data = tx.read(FILES, f"{top}/{name}")
                if data is None:
                    continue
                checkpoint_id = name.removesuffix(".json")
                if checkpoint_id in unwanted or (checkpoint_id not in kept and _epoch_of(data) < session.epoch):
                    dropped |= _named(tx, folder, data)
                    tx.delete(FILES, f"{top}/{name}")
                else:
                    needed |= _named(tx, folder, data)
            found = [each for each in (sorted(dropped) if gone else _digests(tx, folder)) if each not in needed]
            for digest in found[:PAGE]:
                remove_content(tx, folder, digest)
            return min(len(found), PAGE)

        removed = self._context.transact((FILES,), run, timeout=120.0)
        if removed < PAGE:
            return removed
        return removed + self.prune(session_id)  # the manifests are gone, and with them what they named

    def drop_all(self, session_id: str) -> None:
        """Remove everything of a session that is no more."""
        self._contents.drop(layout.checkpoints_folder(session_id))

    # -- archives

    def export_checkpoint(self, session_id: str, checkpoint_id: str, target: BinaryIO, form: str = "tar.zst") -> None:
        """Write a checkpoint to ``target`` as ``tar.zst`` or ``tar.gz``.

        The manifest is the first member; what follows are the files, which any
        ``tar`` unpacks.  What was written is of no use when this raises.
        """
        manifest = self.read_manifest(session_id, checkpoint_id)
        write_archive(tar_of(manifest, self.reader(manifest), with_manifest=True), target, form)

    def import_checkpoint(
        self, session_id: str, source: BinaryIO, *, name: str = "", limits: Limits = DEFAULT_LIMITS
    ) -> Checkpoint:
        """Give a session the checkpoint that an archive holds; ``restore`` goes back to it.

        The archive may be a stranger's: it is checked against its manifest,
        and unpacked only by the session's worker, in the sandbox.  The settings
        in it are kept with the checkpoint and given to nobody.  Raises
        ``Corrupt`` for one that is refused.
        """
        session = self._session(session_id)
        _check_held(session)
        archive = Archive(source, limits)
        found = archive.manifest()
        record = found.record.model_copy(
            update={
                "id": new_checkpoint_id(self._context.runtime.randbits),
                "session": session_id,
                "epoch": session.epoch,
                "created_at": stamp(self._context.now()),
                "name": name or found.record.name,
                "worker": "",
            }
        )
        data, listing, manifest = encode_manifest(Manifest(record, found.files, found.folders, found.links))

        def items() -> Iterator[tuple[str, BinaryIO | bytes]]:
            if manifest.record.listing is not None and listing is not None:
                yield manifest.record.listing.sha256, listing
            for digest, _, stream in archive.contents():
                yield digest, stream

        folder = layout.checkpoints_folder(session_id)
        try:
            self._contents.put(folder, items(), extra={layout.manifest_name(manifest.id): data})
        except UsageError as why:
            raise Corrupt(f"the archive is not what its manifest says: {why.message}") from None
        made = describe(manifest, before=None, published=True)

        def run(tx: Tx) -> None:
            present = records.need(tx, session_id)
            _check_held(present)
            if present.epoch != record.epoch:  # what it needs may have been taken for a leftover
                raise Unavailable(f"the session {session_id} moved while the archive was stored: import it again")
            records.put(tx, present.model_copy(update={"checkpoints": (*present.checkpoints, made)}))
            tx.event(FLEET, "checkpoint imported", session=session_id, checkpoint=made.id)

        try:
            self._context.transact((FLEET,), run, near={FLEET: [layout.session_path(session_id)]})
        except (UsageError, Unavailable):
            self.prune(session_id, gone=[made.id])
            raise
        return made


def describe(manifest: Manifest, *, before: Manifest | None, published: bool) -> Checkpoint:
    """What a session's record says of a checkpoint; ``before`` is the one made before it, as far as known."""
    record = manifest.record
    modified: list[str] = []
    if before is not None:
        paths = manifest.files.keys() | before.files.keys()
        modified = sorted(path for path in paths if _digest_of(manifest, path) != _digest_of(before, path))
    return Checkpoint(
        id=record.id,
        created_at=record.created_at,
        name=record.name,
        files=len(manifest.files),
        size=manifest.size,
        modified=_cut(modified[:MAX_MODIFIED]),
        packages=_cut(record.packages),
        published=published,
        epoch=record.epoch,
        worker=record.worker,
    )


def _check_held(session: Session) -> None:
    if len(session.checkpoints) >= MAX_HELD:
        raise UsageError(f"session {session.id} has {MAX_HELD} checkpoints: delete some")


def _digest_of(manifest: Manifest, path: str) -> str | None:
    entry = manifest.files.get(path)
    return None if entry is None else entry.sha256


def _cut(texts: Collection[str]) -> tuple[str, ...]:
    """The first of ``texts``, as far as a session's record has room for them."""
    room, kept = MAX_LISTED, []
    for text in texts:
        room -= len(text.encode())
        if room < 0:
            break
        kept.append(text)
    return tuple(kept)


def _stream(content: Open, digest: str) -> BinaryIO:
    return _Lazy(lambda: content(digest))  # type: ignore[return-value]


def _bytes_of(data: bytes | None) -> bytes:
    assert data is not None
    return data


class _Lazy:
    """A stream that is opened when it is first read."""

    def __init__(self, start: Callable[[], Iterator[bytes]]) -> None:
        self._start = start
        self._pieces: Iterator[bytes] | None = None
        self._held = b""

    def read(self, size: int = -1) -> bytes:
        if self._pieces is None:
            self._pieces = self._start()
        if size < 0:
            return self._held + b"".join(self._pieces)
        if not self._held:
            self._held = next(self._pieces, b"")
        data, self._held = self._held[:size], self._held[size:]
        return data


def named_in(data: bytes, listing: Callable[[str], bytes]) -> set[str]:
    """Every content that a manifest may mean, also one of a newer version: what looks like a digest counts."""
    found = {each.decode() for each in _DIGEST.findall(data)}
    try:
        digest = json.loads(data)["listing"]["sha256"] if b'"listing"' in data else ""
    except (ValueError, KeyError, TypeError, RecursionError):
        return found
    if not isinstance(digest, str) or not is_digest(digest):
        return found
    return found | {each.decode() for each in _DIGEST.findall(listing(digest))}


# -- inside a transaction


def _epoch_of(data: bytes) -> float:
    """The epoch that a manifest was made under; beyond all for one that cannot be read, which is left alone."""
    try:
        epoch = json.loads(data)["epoch"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return float("inf")
    return epoch if isinstance(epoch, int) else float("inf")


def _named(tx: Tx, folder: str, data: bytes) -> set[str]:
    """What a manifest in the hub may mean; see :func:`named_in`."""

    def listing(digest: str) -> bytes:
        path = layout.data_path(folder, digest)
        whole = tx.read(FILES, path)
        if whole is None:
            names = [name for name in tx.names(FILES, path) if name != layout.WHOLE]
            whole = b"".join(tx.read(FILES, f"{path}/{name}") or b"" for name in names)
        return whole

    return named_in(data, listing)


def _digests(tx: Tx, folder: str) -> Iterator[str]:
    top = f"{folder}/{layout.DATA}"
    for first in tx.names(FILES, top):
        for second in tx.names(FILES, f"{top}/{first}"):
            yield from filter(is_digest, tx.names(FILES, f"{top}/{first}/{second}"))
