"""What an artifact is made of: bytes, a file or a stream, read once for its digest and again to be stored."""

from __future__ import annotations

import hashlib
import io
import mimetypes
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from ghcoord.coord.files.sending import Stream
from ghcoord.errors import NotFound, TooLarge, UsageError

PIECE = 1024 * 1024
"""Bytes that are read at once."""

IN_MEMORY = 8 * 1024 * 1024
"""Bytes of a stream that are kept in memory; what is longer waits in a temporary file."""

DEFAULT_TYPE = "application/octet-stream"


class Readable(Stream, Protocol):
    """What gives bytes, and begins again when asked to."""

    def seek(self, offset: int, /) -> int: ...


class Source(NamedTuple):
    """A content at its beginning, its SHA-256 and its size in bytes."""

    stream: Readable
    sha256: str
    size: int


class Told:
    """A stream whose reader's progress is told."""

    def __init__(self, stream: Readable, tell: Callable[[int], None]) -> None:
        self._stream = stream
        self._tell = tell
        self._done = 0

    @classmethod
    def of(cls, source: Source, tell: Callable[[int], None]) -> Source:
        """``source`` with ``tell`` hearing how many bytes were read."""
        return source._replace(stream=cls(source.stream, tell))

    def read(self, size: int = -1, /) -> bytes:
        piece = self._stream.read(size)
        self._done += len(piece)
        self._tell(self._done)
        return piece

    def seek(self, offset: int, /) -> int:
        self._done = offset
        return self._stream.seek(offset)


class Checked:
    """A stream that tells afterwards whether it gave the content that was measured before."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._seen = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        piece = self._source.stream.read(size)
        self._seen.update(piece)
        return piece

    def check(self) -> None:
        """Raise ``UsageError`` where it gave something else."""
        if self._seen.hexdigest() != self._source.sha256:
            raise UsageError("the file changed while it was being stored: put it again")


@contextmanager
def opened(source: Stream | bytes | Path, most: int) -> Iterator[Source]:
    """The content of ``source``, of at most ``most`` bytes.

    Raises ``TooLarge`` as soon as that is known, ``UsageError`` for what is no
    file or cannot be read, ``NotFound`` for a file that is not there.
    """
    if isinstance(source, bytes):
        _check_size(len(source), most)
        yield Source(io.BytesIO(source), hashlib.sha256(source).hexdigest(), len(source))
    elif isinstance(source, Path):
        with _open_file(source) as file:
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode):
                _check_size(found.st_size, most)
                sha256, size = _measured(file, None, most)
                file.seek(0)
                yield Source(file, sha256, size)
            else:
                with _spooled(file, most) as made:
                    yield made
    else:
        with _spooled(source, most) as made:
            yield made


def _open_file(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise NotFound(f"there is no file {str(path)!r}") from None
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error.strerror or error}") from None


@contextmanager
def _spooled(stream: Stream, most: int) -> Iterator[Source]:
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as kept:
        sha256, size = _measured(stream, kept.write, most)
        kept.seek(0)
        yield Source(kept, sha256, size)


def _measured(stream: Stream, keep: Callable[[bytes], object] | None, most: int) -> tuple[str, int]:
    """The SHA-256 and the size of all that ``stream`` gives, which ``keep`` gets."""
    seen, size = hashlib.sha256(), 0
    while piece := stream.read(PIECE):
        size += len(piece)
        _check_size(size, most)
        seen.update(piece)
        if keep is not None:
            keep(piece)
    return seen.hexdigest(), size


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise TooLarge(
            f"the artifact has {size:,} bytes or more: at most {most:,} are taken, raise artifacts.max_mb to allow it",
            code="QUOTA_EXCEEDED",
        )


def type_of(name: str) -> str:
    """The content type that the end of ``name`` tells of."""
    kind, encoding = mimetypes.guess_type(name, strict=False)
    if encoding is not None:
        return {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}.get(
            encoding, DEFAULT_TYPE
        )
    return kind or DEFAULT_TYPE
