"""Contents on their way into the hub: gathered into commits of bounded size, a large one chunk by chunk."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from ghcoord.coord import layout
from ghcoord.coord.context import Context
from ghcoord.coord.files.whole import MAX_CHUNKS, Whole
from ghcoord.coord.layout import FILES
from ghcoord.errors import Conflict, TooLarge, UsageError
from ghcoord.store.objects import object_id
from ghcoord.store.tx import Tx

MAX_FILES = 1000
"""Files in one commit at most: what GitHub takes entries of in one request (refs_writer.MAX_ENTRIES)."""

SHARE = 4
"""A commit takes this part of what a store accepts: others are batched with it, and it travels as one request."""

TIMEOUT = 300.0
"""Seconds for one commit of contents."""


class Stream(Protocol):
    """What gives bytes: at most ``size``, none at the end."""

    def read(self, size: int = -1, /) -> bytes: ...


class Sender:
    """One put: :meth:`add` commits whenever a commit is full, :meth:`finish` the rest."""

    def __init__(self, context: Context, folder: str, chunk: int) -> None:
        self._context = context
        self._folder = folder
        self._room = max(1, context.transactor.store.capabilities.max_commit_bytes // SHARE)
        self._chunk = min(chunk, self._room)
        self._files: dict[str, bytes] = {}
        self._bytes = 0
        self._finished: list[tuple[str, Whole]] = []
        self._begun: set[str] = set()
        self._relied: set[str] = set()

    def rely_on(self, digest: str) -> None:
        """The content is there already: the last commit makes sure that it still is."""
        self._relied.add(digest)

    def add(self, digest: str, content: Stream | bytes) -> None:
        """Store one content. Raises ``UsageError`` when it has another digest."""
        stream: Stream = io.BytesIO(content) if isinstance(content, bytes) else content
        first = _read(stream, self._chunk)
        following = _read(stream, self._chunk) if len(first) == self._chunk else b""
        if not following:
            _check(hashlib.sha256(first).hexdigest(), digest)
            self._take(layout.data_path(self._folder, digest), first)
            self._relied.add(digest)
            return
        self._add_chunks(digest, first, following, stream)

    def _add_chunks(self, digest: str, first: bytes, second: bytes, stream: Stream) -> None:
        seen, size, number = hashlib.sha256(), 0, 0
        there = self._context.snapshot(FILES).entries(layout.data_path(self._folder, digest))
        self._begun.add(digest)
        chunk, following = first, second
        while chunk:
            if number == MAX_CHUNKS:
                most = MAX_CHUNKS * self._chunk
                raise TooLarge(f"a content of more than {most:,} bytes: the hub takes no larger one")
            seen.update(chunk)
            size += len(chunk)
            path = layout.chunk_path(self._folder, digest, number)
            entry = there.get(layout.chunk_name(number))
            if entry is None or entry.oid != object_id("blob", chunk):
                self._take(path, chunk)
            number += 1
            chunk, following = following, _read(stream, self._chunk) if following else b""
        _check(seen.hexdigest(), digest)
        self._finished.append((digest, Whole(size, self._chunk)))

    def _take(self, path: str, data: bytes) -> None:
        if self._files and (self._bytes + len(data) > self._room or len(self._files) >= MAX_FILES):
            self._flush()
        self._files[path] = data
        self._bytes += len(data)

    def _flush(self) -> None:
        """Commit what was gathered, and that more of it comes."""
        files, self._files, self._bytes = self._files, {}, 0
        finished = {digest for digest, _ in self._finished}
        run = partial(_write, files=files, folder=self._folder, whole=self._finished, begun=self._begun - finished)
        self._context.transact((FILES,), run, timeout=TIMEOUT)
        self._begun -= finished
        self._finished = []

    def finish(self, extra: Mapping[str, bytes], also: Callable[[Tx], None] | None) -> None:
        """Commit the rest with ``extra``; ``also`` writes in the same commit. Nothing to write: no commit."""
        for path, data in extra.items():
            self._take(path, data)
        if not (self._files or self._finished or also is not None):
            return
        files, whole, folder, relied = self._files, self._finished, self._folder, sorted(self._relied)

        def run(tx: Tx) -> None:
            _write(tx, files=files, folder=folder, whole=whole, begun=set())
            for digest in relied:
                _check_there(tx, folder, digest)
            if also is not None:
                also(tx)

        self._context.transact((FILES,), run, timeout=TIMEOUT)


def _write(tx: Tx, *, files: Mapping[str, bytes], folder: str, whole: list[tuple[str, Whole]], begun: set[str]) -> None:
    for path, data in files.items():
        tx.write(FILES, path, data)
    for digest in begun:
        tx.write(FILES, layout.upload_path(folder, digest), Whole.begun(tx.now))
    for digest, record in whole:
        names = set(tx.names(FILES, layout.data_path(folder, digest)))
        if any(layout.chunk_name(number) not in names for number in range(record.chunks)):
            raise Conflict(f"the content {digest} was removed while it was being stored: put it again")
        tx.write(FILES, layout.whole_path(folder, digest), record.encode())
        tx.delete(FILES, layout.upload_path(folder, digest))


def _check_there(tx: Tx, folder: str, digest: str) -> None:
    path = layout.data_path(folder, digest)
    above, _, name = path.rpartition("/")
    inside = tx.names(FILES, path)
    record = tx.read(FILES, layout.whole_path(folder, digest)) if inside else None
    if name not in tx.names(FILES, above) or (inside and not Whole.is_there(record, set(inside), digest)):
        raise Conflict(f"the content {digest} was removed while others were being stored: put all of it again")


def _read(stream: Stream, size: int) -> bytes:
    """The next ``size`` bytes, fewer only where the stream ends."""
    data = stream.read(size)
    while data and len(data) < size and (more := stream.read(size - len(data))):
        data += more
    return data


def _check(found: str, digest: str) -> None:
    if found != digest:
        raise UsageError(f"the content has the SHA-256 {found} instead of {digest}: it changed while it was read")
