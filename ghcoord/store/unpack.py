"""Reading a pack that a stranger made: every object is checked before anything counts on it.

Formats: gitformat-pack(5).  The pack must be complete in itself.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import zlib
from array import array
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ghcoord.errors import Corrupt, TooLarge
from ghcoord.store.base import Kind, Tell
from ghcoord.store.deltas import apply_delta, delta_size
from ghcoord.store.objects import object_id
from ghcoord.store.packfile import OFFSET_DELTA, TYPES, encode_index

MAX_OBJECT = 256 * 1024 * 1024
"""Bytes of the largest object that is taken; a hub's own commits have at most 64 MiB."""

MAX_HELD = 1024 * 1024 * 1024
"""Bytes of objects that are held at a time while differences are resolved."""

MAX_OBJECTS = 20_000_000
"""Objects that are taken: each needs about 200 bytes of memory."""

LEAST_ENTRY = 9
"""Bytes that the smallest entry of a pack takes."""

NAMED_DELTA = 7
_KINDS: dict[int, Kind] = {number: kind for kind, number in TYPES.items()}
_TRAILER = 20
_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A checked pack: its digest, the content of its index file, and what each object is, by raw id."""

    digest: bytes
    index: bytes
    kinds: dict[bytes, Kind]


def unpack(path: Path, tell: Tell) -> Unpacked:
    """Check the pack file at ``path``. Raises ``Corrupt`` for one that is damaged or incomplete, ``TooLarge``."""
    if path.stat().st_size < 12 + _TRAILER:
        raise Corrupt("it ends before its objects do")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Reader(data, tell).run()


class _Reader:
    """The pack in ``data``. Entries go by their number; of each only where it is and how large is kept."""

    def __init__(self, data: mmap.mmap, tell: Tell) -> None:
        self._data = data
        self._end = len(data) - _TRAILER
        self._tell = tell
        self._starts = array("Q")
        self._bodies = array("Q")
        self._sizes = array("Q")
        self._whole: list[tuple[int, Kind]] = []
        self._on_offset: defaultdict[int, list[int]] = defaultdict(list)
        self._on_name: defaultdict[bytes, list[int]] = defaultdict(list)
        self._kinds: dict[bytes, Kind] = {}
        self._held = 0

    def run(self) -> Unpacked:
        digest = self._check_sum()
        count = self._check_head()
        at = 12
        for _ in range(count):
            at = self._scan(at)
        if at != self._end:
            raise Corrupt("something stands behind its last object")
        oids = bytearray(20 * count)
        while self._whole:
            self._resolve(*self._whole.pop(), oids)
        if len(self._kinds) != count:
            raise Corrupt("it counts on objects that it does not hold")
        checks = array("L")
        for number, start in enumerate(self._starts):
            end = self._starts[number + 1] if number + 1 < count else self._end
            checks.append(zlib.crc32(self._data[start:end]))
        return Unpacked(digest, encode_index(oids, checks, self._starts, digest), self._kinds)

    def _check_sum(self) -> bytes:
        said = self._data[self._end :]
        digest = hashlib.sha1(usedforsecurity=False)
        for at in range(0, self._end, _CHUNK):
            digest.update(self._data[at : min(at + _CHUNK, self._end)])
        if digest.digest() != said:
            raise Corrupt("it is damaged or cut off: its checksum is another")
        return said

    def _check_head(self) -> int:
        magic, version, count = struct.unpack_from(">4sII", self._data)
        if magic != b"PACK" or version != 2:
            raise Corrupt("its objects are in a form that is not known")
        if count * LEAST_ENTRY > self._end:
            raise Corrupt("it says that it has more objects than it has room for")
        if count > MAX_OBJECTS:
            raise TooLarge(f"it has {count} objects: at most {MAX_OBJECTS} are taken")
        return int(count)

    def _byte(self, at: int) -> int:
        if at >= self._end:
            raise Corrupt("it ends in the middle of an object")
        return self._data[at]

    def _scan(self, start: int) -> int:
        """Note the entry at ``start``; returns where the next one begins."""
        at = start
        byte = self._byte(at)
        kind, size, shift = byte >> 4 & 7, byte & 15, 4
        while byte & 0x80:
            at += 1
            byte = self._byte(at)
            size |= (byte & 0x7F) << shift
            shift += 7
            if shift > 60:
                raise Corrupt("an object has an impossible size")
        at += 1
        if size > MAX_OBJECT:
            raise TooLarge(f"an object of {size} bytes: at most {MAX_OBJECT} are taken")
        number = len(self._starts)
        if kind == OFFSET_DELTA:
            at, back = self._distance(at)
            self._on_offset[start - back].append(number)
        elif kind == NAMED_DELTA:
            self._byte(at + 20)
            self._on_name[self._data[at : at + 20]].append(number)
            at += 20
        elif kind in _KINDS:
            self._whole.append((number, _KINDS[kind]))
        else:
            raise Corrupt("it holds tags or objects of a kind that is not known: a hub has none")
        self._starts.append(start)
        self._bodies.append(at)
        self._sizes.append(size)
        return at + self._length(at, size)

    def _distance(self, at: int) -> tuple[int, int]:
        byte = self._byte(at)
        back = byte & 0x7F
        while byte & 0x80:
            at += 1
            byte = self._byte(at)
            back = (back + 1) << 7 | byte & 0x7F
            if back > self._end:
                raise Corrupt("a difference has no base")
        return at + 1, back

    def _length(self, at: int, size: int) -> int:
        """Bytes that the compressed ``size`` bytes at ``at`` take."""
        stream = zlib.decompressobj()
        begin, left = at, size
        try:
            while not stream.eof:
                if at >= self._end:
                    raise Corrupt("it ends in the middle of an object")
                piece = self._data[at : min(at + 4096, self._end)]
                out = stream.decompress(piece, left + 1)
                left -= len(out)
                if left < 0:
                    raise Corrupt("an object is larger than it says")
                at += len(piece) - len(stream.unused_data) - len(stream.unconsumed_tail)
        except zlib.error:
            raise Corrupt("an object cannot be decompressed") from None
        if left:
            raise Corrupt("an object is smaller than it says")
        return at - begin

    def _inflate(self, number: int) -> bytes:
        out = bytearray()
        stream = zlib.decompressobj()
        at, step = self._bodies[number], max(4096, self._sizes[number] // 2)
        while not stream.eof:
            piece = self._data[at : min(at + step, self._end)]
            out += stream.decompress(piece)
            at += len(piece)
        return bytes(out)

    def _resolve(self, whole: int, kind: Kind, oids: bytearray) -> None:
        """Name a whole object and, one by one, all that are kept as differences from it."""
        todo: list[tuple[int, bytes | None]] = [(whole, None)]
        while todo:
            number, base = todo.pop()
            data = self._inflate(number)
            if base is not None:
                self._held -= len(base)
                if delta_size(data) > MAX_OBJECT:
                    raise TooLarge(f"an object of {delta_size(data)} bytes: at most {MAX_OBJECT} are taken")
                data = apply_delta(base, data)
            raw = bytes.fromhex(object_id(kind, data))
            if raw in self._kinds:
                raise Corrupt(f"it holds the object {raw.hex()} twice")
            self._kinds[raw] = kind
            oids[20 * number : 20 * number + 20] = raw
            self._tell("checking", len(self._kinds))
            below = self._on_offset.pop(self._starts[number], []) + self._on_name.pop(raw, [])
            self._held += len(data) * len(below)
            if self._held > MAX_HELD:
                raise TooLarge("its differences take more memory than is given to them")
            todo += [(one, data) for one in below]


def checked_file(source: Path, offset: int, target: Path) -> None:
    """Copy what stands in ``source`` from ``offset`` on to the new file ``target``, and flush it to disk."""
    with source.open("rb") as reading, target.open("xb") as writing:
        reading.seek(offset)
        while block := reading.read(_CHUNK):
            writing.write(block)
        writing.flush()
        os.fsync(writing.fileno())
