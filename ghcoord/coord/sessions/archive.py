"""Checkpoints as files that people can keep: ``.tar.zst`` and ``.tar.gz``, the manifest being the first member.

Reading one unpacks nothing: a stranger's archive becomes contents by their
sha256 and a manifest that was checked against them, and only a session's
opening unpacks those, inside its sandbox.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import BinaryIO

from ghcoord.coord.sessions.manifests import MAX_LISTING, ContentRef, Manifest, decode_manifest, encode_manifest, quota
from ghcoord.coord.sessions.tarstream import END, FILE, FOLDER, LINK, Member, Refused, Tar, header, padding
from ghcoord.errors import Corrupt, GhcoordError, UsageError
from ghcoord.model.codec import MAX_RECORD
from ghcoord.model.limits import DEFAULT_LIMITS, Limits

FORMS = ("tar.zst", "tar.gz")

MANIFEST = ".ghcoord-checkpoint.json"
LISTING = ".ghcoord-checkpoint-files.json"
JOURNAL = ".ghcoord-checkpoint-journal.jsonl"

PIECE = 1 << 20
LEVEL = 3
"""zstd's level for archives, which travel; gzip's is 6."""

MAX_WINDOW = 1 << 27
"""Bytes that unpacking a zstd stream may hold: what the program ``zstd`` takes without being told more."""

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"

Open = Callable[[str], Iterator[bytes]]
"""Gives a content by its digest in pieces, verified by the time the last one comes."""


def tar_of(manifest: Manifest, content: Open, *, with_manifest: bool) -> Iterator[bytes]:
    """The checkpoint as a tar stream: folders, files, then links. What ``content`` raises comes through.

    Raises ``Corrupt`` for a content of another size than the manifest says.
    """
    if with_manifest:
        record, listing, _ = encode_manifest(manifest)
        yield from _small(MANIFEST, record)
        if listing is not None:
            yield from _small(LISTING, listing)
        journal = manifest.record.journal
        if journal is not None:
            yield header(Member(JOURNAL, FILE, 0o600, 0, journal.size))
            yield from _whole(content(journal.sha256), journal.size, journal.sha256)
    for path in sorted(manifest.folders):
        folder = manifest.folders[path]
        yield header(Member(path, FOLDER, folder.mode, folder.mtime_us))
    for path in sorted(manifest.files):
        entry = manifest.files[path]
        yield header(Member(path, FILE, entry.mode, entry.mtime_us, entry.size))
        yield from _whole(content(entry.sha256), entry.size, entry.sha256)
    for path in sorted(manifest.links):
        yield header(Member(path, LINK, 0o777, 0, target=manifest.links[path]))
    yield END


def _small(name: str, data: bytes) -> Iterator[bytes]:
    yield header(Member(name, FILE, 0o600, 0, len(data)))
    yield data + padding(len(data))


def _whole(pieces: Iterator[bytes], size: int, digest: str) -> Iterator[bytes]:
    left = size
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            break
        yield piece
    if left:
        raise Corrupt(f"the content {digest} has not the {size} bytes that its manifest says")
    yield padding(size)


# -- writing


def write_archive(pieces: Iterator[bytes], target: BinaryIO, form: str) -> None:
    """Write a tar stream, packed as ``form`` says. Raises ``UsageError`` for another form, or without zstandard."""
    packer = _packer(form)
    for piece in pieces:
        target.write(packer[0](piece))
    target.write(packer[1]())


def _packer(form: str) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    if form == "tar.gz":
        gzip = zlib.compressobj(6, wbits=31)
        return gzip.compress, gzip.flush
    if form == "tar.zst":
        zstd = _zstandard().ZstdCompressor(level=LEVEL).compressobj()
        return zstd.compress, zstd.flush
    raise UsageError(f"{form[:40]!r} is no form of an archive: use {' or '.join(FORMS)}")


def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ImportError:
        raise UsageError("tar.zst needs zstandard: pip install 'ghcoord[worker]', or use tar.gz") from None
    return zstandard


# -- reading


class Archive:
    """A checkpoint in an archive that a stranger may have made. Read it once: :meth:`manifest`, then :meth:`contents`.

    Nothing is taken from ``source`` beyond what ``limits`` allow.  Raises
    ``Corrupt`` saying what is wrong with it.
    """

    def __init__(self, source: BinaryIO, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = quota(limits)
        size = ((self._limits.archive_mb or 0) << 20) + MAX_LISTING + 2 * MAX_RECORD
        self._tar = Tar(_Unpacked(source).read, (self._limits.archive_files or 0) + 3, size)
        self._manifest: Manifest | None = None
        self._next: Member | None = None
        self.listing: bytes | None = None

    def manifest(self) -> Manifest:
        """The checked manifest, which may be the work of a stranger all the same."""
        with _told():
            first = self._tar.next()
            if first is None or first.path != MANIFEST or first.kind != FILE:
                raise Corrupt(f"the archive is no checkpoint: its first member is not {MANIFEST}")
            data = self._content(first, MAX_RECORD)
            self._next = self._tar.next()
            if self._next is not None and self._next.path == LISTING:
                self.listing = self._content(self._next, MAX_LISTING)
                self._next = self._tar.next()
        self._manifest = decode_manifest(data, "the archive's manifest", listing=self._listing, limits=self._limits)
        return self._manifest

    def _listing(self, ref: ContentRef) -> bytes:
        if self.listing is None or len(self.listing) != ref.size:
            raise Corrupt("the archive lacks the listing that its manifest speaks of")
        return self.listing

    def contents(self) -> Iterator[tuple[str, int, BinaryIO]]:
        """Every file's sha256 as the manifest has it, its bytes, and a stream of them, to be read before the next.

        That the content *is* what the digest says is for the reader to find
        out.  What the manifest does not speak of, or speaks of otherwise, is
        refused, and so is an archive that lacks something.
        """
        manifest = self._manifest
        assert manifest is not None
        files, folders, links = dict(manifest.files), set(manifest.folders), dict(manifest.links)
        journal = manifest.record.journal
        with _told():
            member = self._next
            while member is not None:
                if member.path == JOURNAL and journal is not None and member.size == journal.size:
                    yield journal.sha256, journal.size, _Member(self._tar)  # type: ignore[misc]
                    journal = None
                elif member.kind == FILE and member.path in files and files[member.path].size == member.size:
                    yield files.pop(member.path).sha256, member.size, _Member(self._tar)  # type: ignore[misc]
                elif member.kind == FOLDER and member.path in folders:
                    folders.remove(member.path)
                elif member.kind == LINK and links.get(member.path) == member.target:
                    del links[member.path]
                else:
                    raise Corrupt(f"the archive's manifest does not have the {member.kind} {member.path[:80]!a}")
                member = self._tar.next()
        missing = [*sorted(files), *sorted(folders), *sorted(links), *([JOURNAL] if journal is not None else [])]
        if missing:
            raise Corrupt(f"the archive lacks {missing[0][:80]!a}, which its manifest has")

    def _content(self, member: Member, most: int) -> bytes:
        if member.size > most:
            raise Corrupt(f"the archive's {member.path} has {member.size} bytes, at most {most} are read")
        data = b""
        while piece := self._tar.read(PIECE):
            data += piece
        return data


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except Refused as why:
        raise Corrupt(f"the archive is refused: {why}") from None
    except GhcoordError:
        raise
    except zlib.error as why:
        raise Corrupt(f"the archive is damaged: {why}") from None


class _Member:
    """The present member's content as a stream."""

    def __init__(self, tar: Tar) -> None:
        self._tar = tar

    def read(self, size: int = -1) -> bytes:
        if size >= 0:
            return self._tar.read(size)
        return b"".join(iter(lambda: self._tar.read(PIECE), b""))


class _Unpacked:
    """What a packed stream unpacks to, a bounded piece at a time."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        start = source.read(4)
        self._held = b""
        if start[:2] == _GZIP:
            self._gzip = zlib.decompressobj(wbits=31)
            self._rest = start
            self._more = self._inflate
        elif start == _ZSTD:
            codec = _zstandard()
            self._error = codec.ZstdError
            self._zstd = codec.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(_Again(start, source))
            self._more = self._expand
        else:
            raise Corrupt("the archive is neither .tar.zst nor .tar.gz: it starts otherwise")

    def read(self, size: int) -> bytes:
        if not self._held:
            self._held = self._more()
        data, self._held = self._held[:size], self._held[size:]
        return data

    def _inflate(self) -> bytes:
        while not self._gzip.eof:
            if not self._rest:
                self._rest = self._source.read(64 * 1024)
                if not self._rest:
                    return self._gzip.flush()
            data = self._gzip.decompress(self._rest, PIECE)
            self._rest = self._gzip.unconsumed_tail
            if data:
                return data
        return b""

    def _expand(self) -> bytes:
        try:
            return bytes(self._zstd.read(PIECE))
        except self._error as why:
            raise Corrupt(f"the archive is damaged: {why}") from None


class _Again:
    """A stream with what was read of it already put back."""

    def __init__(self, start: bytes, source: BinaryIO) -> None:
        self._start = start
        self._source = source

    def read(self, size: int = -1) -> bytes:
        if self._start:
            data, self._start = self._start, b""
            return data
        return self._source.read(size)
