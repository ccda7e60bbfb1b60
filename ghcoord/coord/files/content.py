"""Contents by their SHA-256 in the space ``files``: put once, in chunks, and verified whenever they are read.

A folder of that space is an owner's: contents are shared within it and go with
it.  One of at most :data:`CHUNK` bytes is a file.  A larger one is a folder of
chunks with a small file that says that all are there, which comes last; until
then a note below ``uploads`` tells that it was begun.  So what was interrupted
is never taken for whole, is gone on with by whoever puts it next, and is found
by :meth:`Contents.clean`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from ghcoord.coord import layout
from ghcoord.coord.context import Context
from ghcoord.coord.files.sending import Sender, Stream
from ghcoord.coord.files.whole import CHUNK, Whole
from ghcoord.coord.layout import FILES
from ghcoord.errors import Corrupt, NotFound, UsageError
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.tx import Tx

__all__ = ["CHUNK", "Contents"]

PAGE = 2000
"""Files that one commit removes at most."""

NEAR = 200
"""Paths that are fetched together where reading costs requests."""

LEFT_AFTER = 24 * 3600.0
"""Seconds after its last commit that an interrupted upload is kept for whoever goes on with it."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_FOLDER = re.compile(r"[a-z0-9_%!-][a-z0-9._%!-]*(/[a-z0-9_%!-][a-z0-9._%!-]*){0,7}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_%!-][A-Za-z0-9._%!-]*(/[A-Za-z0-9_%!-][A-Za-z0-9._%!-]*){0,3}", re.ASCII)

Item = tuple[str, Stream | bytes]
"""The SHA-256 of a content in hexadecimal, and the content: bytes, or a stream at its beginning."""


class Contents:
    """The contents in the space ``files``, which is made by the first one. May be shared between threads.

    ``chunk``: bytes of the chunks that it writes.
    """

    def __init__(self, context: Context, *, chunk: int = CHUNK) -> None:
        self._context = context
        self._chunk = chunk

    # -- writing

    def put(
        self,
        folder: str,
        items: Iterable[Item],
        *,
        extra: Mapping[str, bytes] = {},
        drop: Collection[str] = (),
        also: Callable[[Tx], None] | None = None,
    ) -> None:
        """Store ``items``, those that are there already without reading them.

        ``extra`` are small named files, ``drop`` names of such files and digests
        of contents that go; both happen in the last commit, and so does what
        ``also`` writes: once all contents are there.  No more of a large content
        than fits into one commit is in memory.  Raises ``UsageError`` for an
        item that has another digest, ``TooLarge`` for one of more than 12 GB, and
        ``Conflict`` when a content that was there already went meanwhile: put
        all of it again.
        """
        _check_folder(folder)
        named = {_check_name(name): data for name, data in extra.items()}
        gone = [one for one in drop if one not in named]
        sender = Sender(self._context, folder, self._chunk)
        snapshot = self._context.snapshot(FILES)
        if isinstance(items, Sequence):
            self._near(snapshot, [layout.data_path(folder, _check_digest(digest)) for digest, _ in items])
        needed: set[str] = set()
        for digest, content in items:
            if _check_digest(digest) in needed:
                continue
            needed.add(digest)
            if is_there(snapshot, folder, digest):
                sender.rely_on(digest)
            else:
                sender.add(digest, content)

        def last(tx: Tx) -> None:
            for name in gone:
                _remove(tx, folder, name)
            if also is not None:
                also(tx)

        sender.finish({f"{folder}/{name}": data for name, data in named.items()}, last if gone or also else None)

    def drop(self, folder: str, digests: Collection[str] | None = None) -> int:
        """Remove the contents ``digests``, or all of ``folder``; returns how many contents were there."""
        _check_folder(folder)
        snapshot = self._context.snapshot(FILES)
        if digests is None:
            found = list(self.digests(folder))
            paths = (path for path, _ in snapshot.walk(folder))
        else:
            found = [one for one in dict.fromkeys(digests) if _entry_is_there(snapshot, folder, _check_digest(one))]
            paths = (path for one in found for path in _paths_of(snapshot, folder, one))
        while page := list(islice(paths, PAGE)):

            def run(tx: Tx, page: list[str] = page) -> None:
                for path in page:
                    tx.delete(FILES, path)

            self._context.transact((FILES,), run, timeout=120.0)
        return len(found)

    def clean(self, folder: str, *, older_than: float = LEFT_AFTER) -> int:
        """Remove what uploads left half way whose last commit is ``older_than`` seconds ago; returns how many."""
        _check_folder(folder)
        snapshot = self._context.snapshot(FILES)
        now, left = self._context.now(), []
        for path, _ in snapshot.walk(f"{folder}/{layout.UPLOADS}"):
            digest = path.rpartition("/")[2].removesuffix(".json")
            if _DIGEST.fullmatch(digest) and Whole.begun_at(snapshot.read(path)) <= now - older_than:
                left.append(digest)

        def run(tx: Tx, digest: str) -> bool:
            note = layout.upload_path(folder, digest)
            if Whole.begun_at(tx.read(FILES, note)) > tx.now - older_than:
                return False  # somebody goes on with it
            if layout.WHOLE not in tx.names(FILES, layout.data_path(folder, digest)):
                _remove(tx, folder, digest)
            tx.delete(FILES, note)
            return True

        return sum(self._context.transact((FILES,), lambda tx, one=one: run(tx, one)) for one in left)  # type: ignore[misc]

    # -- reading

    def has(self, folder: str, digests: Collection[str]) -> set[str]:
        """Those of ``digests`` whose contents are there, whole."""
        paths = [layout.data_path(_check_folder(folder), _check_digest(one)) for one in digests]
        snapshot = self._context.snapshot(FILES)
        self._near(snapshot, paths)
        return {one for one in digests if is_there(snapshot, folder, one)}

    def digests(self, folder: str) -> Iterator[str]:
        """The contents that are there, whole or in part."""
        top = f"{_check_folder(folder)}/{layout.DATA}"
        snapshot = self._context.snapshot(FILES)
        for first in snapshot.entries(top):
            for second in snapshot.entries(f"{top}/{first}"):
                yield from filter(_DIGEST.fullmatch, snapshot.entries(f"{top}/{first}/{second}"))

    def read(self, folder: str, digest: str) -> Iterator[bytes]:
        """The content of ``digest`` in pieces of at most :data:`CHUNK` bytes.

        The last piece comes only when all of them are what the digest says.
        Raises ``NotFound`` at once, and ``Corrupt`` for anything else than the
        content, wherever that shows: keep nothing of what came before.
        """
        snapshot = self._context.snapshot(FILES)
        path = layout.data_path(_check_folder(folder), _check_digest(digest))
        self._near(snapshot, [path])
        entry = snapshot.entry(path)
        if entry is not None and entry.is_file:
            return verified(iter([snapshot.store.blob(entry.oid)]), digest, f"{FILES}:{path}")
        if entry is None or not entry.is_tree:
            raise NotFound(f"the hub has no content {digest} in {folder}")
        whole = Whole.read(snapshot.read(layout.whole_path(folder, digest)), digest)
        return verified(_chunks(snapshot, folder, digest, whole), digest, f"{FILES}:{path}")

    def read_file(self, folder: str, name: str) -> bytes | None:
        """A file that ``extra`` put there; ``None`` where there is none."""
        return self._context.snapshot(FILES).read(f"{_check_folder(folder)}/{_check_name(name)}")

    def names(self, folder: str) -> list[str]:
        """The files that ``extra`` put there, sorted."""
        snapshot = self._context.snapshot(FILES)
        found: list[str] = []
        for name, entry in snapshot.entries(_check_folder(folder)).items():
            if entry.is_file:
                found.append(name)
            elif entry.is_tree and name not in (layout.DATA, layout.UPLOADS):
                found += (path.removeprefix(f"{folder}/") for path, _ in snapshot.walk(f"{folder}/{name}"))
        return sorted(found)

    def _near(self, snapshot: Snapshot, paths: Iterable[str]) -> None:
        if not self._context.transactor.store.capabilities.far_objects:
            return
        above = iter(dict.fromkeys(path.rpartition("/")[0] for path in paths))
        while some := list(islice(above, NEAR)):
            snapshot.near(some)


def is_there(snapshot: Snapshot, folder: str, digest: str) -> bool:
    """Whether the content of ``digest`` is there, whole."""
    entry = snapshot.entry(layout.data_path(folder, digest))
    if entry is None or entry.is_file:
        return entry is not None
    names = snapshot.entries(layout.data_path(folder, digest))
    return layout.WHOLE in names and Whole.is_there(snapshot.read(layout.whole_path(folder, digest)), names, digest)


def _entry_is_there(snapshot: Snapshot, folder: str, digest: str) -> bool:
    return snapshot.entry(layout.data_path(folder, digest)) is not None


def _paths_of(snapshot: Snapshot, folder: str, digest: str) -> Iterator[str]:
    path = layout.data_path(folder, digest)
    entry = snapshot.entry(path)
    if entry is not None and not entry.is_tree:
        yield path
    yield from (below for below, _ in snapshot.walk(path))
    yield layout.upload_path(folder, digest)


def _remove(tx: Tx, folder: str, name: str) -> None:
    """Take away a content by its digest, or a file by its name."""
    if not _DIGEST.fullmatch(name):
        tx.delete(FILES, f"{folder}/{_check_name(name)}")
        return
    remove_content(tx, folder, name)


def contents_in(tx: Tx, folder: str) -> Iterator[str]:
    """The digests whose contents ``folder`` has, whole or in part."""
    top = f"{folder}/{layout.DATA}"
    for first in tx.names(FILES, top):
        for second in tx.names(FILES, f"{top}/{first}"):
            yield from filter(_DIGEST.fullmatch, tx.names(FILES, f"{top}/{first}/{second}"))


def remove_content(tx: Tx, folder: str, digest: str) -> None:
    """Take away the content of ``digest``, whole or not."""
    path = layout.data_path(folder, digest)
    for below in [path, *tx.walk(FILES, path), layout.upload_path(folder, digest)]:
        tx.delete(FILES, below)


def _chunks(snapshot: Snapshot, folder: str, digest: str, whole: Whole) -> Iterator[bytes]:
    entries = snapshot.entries(layout.data_path(folder, digest))
    for number in range(whole.chunks):
        path = layout.chunk_path(folder, digest, number)
        entry = entries.get(layout.chunk_name(number))
        if entry is None or not entry.is_file:
            raise Corrupt(f"{FILES}:{path} is missing: chunk {number + 1} of {whole.chunks}")
        data = snapshot.store.blob(entry.oid)
        if len(data) != whole.length(number):
            raise Corrupt(f"{FILES}:{path} has {len(data)} bytes instead of {whole.length(number)}")
        yield data


def verified(pieces: Iterable[bytes], digest: str, where: str) -> Iterator[bytes]:
    """``pieces``, the last only after all were found to be what ``digest`` says."""
    seen = hashlib.sha256()
    held: bytes | None = None
    for piece in pieces:
        if held is not None:
            yield held
        held = piece
        seen.update(piece)
    if seen.hexdigest() != digest:
        raise Corrupt(f"{where} has other content than its name says: {seen.hexdigest()}")
    if held is not None:
        yield held


def _check_digest(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise UsageError(f"{digest[:80]!r} is no SHA-256: give 64 hexadecimal digits in lower case")
    return digest


def _check_folder(folder: str) -> str:
    if not _FOLDER.fullmatch(folder) or ".." in folder:
        raise UsageError(f"{folder[:80]!r} is no folder of contents: use ids encoded as path components")
    return folder


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name) or ".." in name or name.split("/")[0] in (layout.DATA, layout.UPLOADS):
        raise UsageError(f"{name[:80]!r} is no name of a file beside contents")
    return name
