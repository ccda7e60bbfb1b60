"""The two small files beside a large content: that it was begun, and that it is whole."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import pydantic_core

from ghcoord.coord.layout import chunk_name
from ghcoord.errors import Corrupt
from ghcoord.model.codec import to_json

CHUNK = 4 * 1024 * 1024
"""Bytes of a chunk: far below the 100 MB that GitHub takes of an object, and a request's worth (facts/github.md)."""

MAX_CHUNKS = 3000
"""Chunks of one content at most: as many entries as GitHub recommends for a directory."""

MAX_SIZE = CHUNK * MAX_CHUNKS
"""Bytes of one content at most."""


@dataclass(frozen=True, slots=True)
class Whole:
    """Of a large content: its ``size``, and that of all its chunks but the last, in bytes."""

    size: int
    chunk: int = CHUNK

    @property
    def chunks(self) -> int:
        return -(-self.size // self.chunk)

    def length(self, number: int) -> int:
        """The bytes of the chunk ``number``, counted from 0."""
        return min(self.chunk, self.size - number * self.chunk)

    def encode(self) -> bytes:
        return to_json({"format": 1, "size": self.size, "chunk": self.chunk}).encode()

    @classmethod
    def read(cls, data: bytes | None, digest: str) -> Whole:
        """What the file beside the chunks says; raises ``Corrupt`` for one that cannot be."""
        if data is None:
            raise Corrupt(f"the content {digest} is not whole: its upload was interrupted, put it again")
        size, chunk = _number(data, "size"), _number(data, "chunk")
        if not (isinstance(size, int) and isinstance(chunk, int) and 0 < chunk <= CHUNK and chunk < size <= MAX_SIZE):
            raise Corrupt(f"the file that describes the content {digest} is broken")
        found = cls(size, chunk)
        if found.chunks > MAX_CHUNKS:
            raise Corrupt(f"the content {digest} has {found.chunks} chunks: at most {MAX_CHUNKS} are read")
        return found

    @classmethod
    def is_there(cls, data: bytes | None, names: Container[str], digest: str) -> bool:
        """Whether the file says ``data`` and the folder, with these ``names``, has all the chunks that this means."""
        try:
            found = cls.read(data, digest)
        except Corrupt:
            return False
        return all(chunk_name(number) in names for number in range(found.chunks))

    @staticmethod
    def begun(now: float) -> bytes:
        """The note that a content is on its way."""
        return to_json({"format": 1, "at": round(now, 3)}).encode()

    @staticmethod
    def begun_at(data: bytes | None) -> float:
        """When such a note was written, in seconds since the epoch; 0 for one that cannot be read."""
        return (_number(data, "at") if data is not None else None) or 0.0


def _number(data: bytes, key: str) -> float | None:
    try:
        value = pydantic_core.from_json(data[:10_000], allow_inf_nan=False)
    except (ValueError, RecursionError):
        return None
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, int | float) and not isinstance(found, bool) else None
