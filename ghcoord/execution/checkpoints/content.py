"""Where a checkpoint's contents come from when it is restored, and where they go when a workspace is only compared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from ghcoord.coord.sessions.archive import Open
from ghcoord.coord.sessions.manifests import FileEntry, Manifest
from ghcoord.errors import Corrupt, NewerSchema, NotFound
from ghcoord.execution.checkpoints.localstore import PIECE, LocalStore
from ghcoord.model.limits import Limits

if TYPE_CHECKING:
    from ghcoord.hub import Hub

Decode = Callable[[bytes, LocalStore, str, Limits], Manifest]


class Sources:
    """One checkpoint's manifest and contents: from the local store, else from the hub, verified either way."""

    def __init__(self, owner: str, checkpoint_id: str, store: LocalStore, hub: Hub, decode: Decode) -> None:
        self._owner = owner
        self._id = checkpoint_id
        self._store = store
        self._hub = hub
        self._decode = decode
        self._far: Open = lambda digest: hub.sessions.read_content(owner, digest)
        self._local = True
        self._used_local = False

    def manifest(self, limits: Limits) -> Manifest:
        """The checked manifest. Raises ``NotFound`` and ``Corrupt``."""
        data = self._store.manifest(self._id) if self._local else None
        if data is not None:
            self._used_local = True
            try:
                found = self._decode(data, self._store, self._id, limits)
                if found.record.session == self._owner:
                    return self._known(found)
            except (Corrupt, NotFound, NewerSchema):
                pass
        return self._known(self._hub.sessions.manifest_of(self._owner, self._id, limits))

    def _known(self, manifest: Manifest) -> Manifest:
        self._far = self._hub.sessions.reader(manifest, lambda digest: self._local and self._store.has(digest))
        return manifest

    def read(self, digest: str) -> Iterator[bytes]:
        """A content, verified by the time its last piece comes. Raises ``NotFound`` and ``Corrupt``."""
        if self._local:
            try:
                pieces = self._store.read(digest)
                self._used_local = True
                return pieces
            except NotFound:
                pass
        try:
            return self._far(digest)
        except NotFound as why:
            raise Corrupt(f"the checkpoint {self._id} lacks a content: {why.message}") from why

    def file(self, path: str, entry: FileEntry) -> bytes:
        """A file's content."""
        return b"".join(self.read(entry.sha256))

    def distrust(self) -> bool:
        """Take nothing from the local store any more; whether that makes a difference."""
        different = self._local and self._used_local
        self._local = False
        return different


class Hashing:
    """A :class:`~ghcoord.execution.checkpoints.scan.Keeper` that keeps nothing."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store

    def known(self) -> dict[str, tuple[int, ...]]:
        """What the last checkpoint knew."""
        return self._store.known()

    def has(self, digest: str) -> bool:
        """Nothing needs to be read for its content."""
        return True

    def add(self, source: BinaryIO, size: int) -> tuple[str, int]:
        """The sha256 of at most ``size`` bytes, and how many there were."""
        seen, left = hashlib.sha256(), size
        while left and (data := source.read(min(PIECE, left))):
            seen.update(data)
            left -= len(data)
        return seen.hexdigest(), size - left
