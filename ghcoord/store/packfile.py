"""Packs of any size, written as their objects come: for gc and export, where a commit's pack is made in memory.

Successive versions of a directory differ in few entries, so a tree is kept as
its difference from the one found before it at the same path.  Formats:
gitformat-pack(5), version 2 of both files.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from array import array
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

from ghcoord.store.base import Kind
from ghcoord.store.deltas import tree_delta
from ghcoord.store.reach import Found

TYPES: dict[Kind, int] = {"commit": 1, "tree": 2, "blob": 3}
OFFSET_DELTA = 6
WORTH_A_DELTA = 160
"""Bytes of a tree below which a difference would save nothing: two or three entries."""
MAX_CHAIN = 32
"""Differences in a row until a tree is kept whole again: what reading an old version costs."""
BASES = 64 * 1024 * 1024
"""Bytes of trees that are remembered to build differences on."""
LEVEL = 6
"""How hard zlib tries: what stays for long may cost more to write than a commit does."""
BUFFER = 1024 * 1024


class PackWriter:
    """One pack being written to ``path``. Use :meth:`add`, then :meth:`finish`; :meth:`close` gives up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = path.open("wb", buffering=BUFFER)
        self._file.write(_header(0))
        self._at = 12
        self._oids = bytearray()
        self._checks = array("L")
        self._offsets = array("Q")
        self._bases: OrderedDict[bytes, tuple[int, bytes, int]] = OrderedDict()
        self._bases_bytes = 0

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, found: Found, data: bytes) -> None:
        """Append the object ``found`` with its content."""
        entry = self._difference(found, data) if found.kind == "tree" and len(data) >= WORTH_A_DELTA else None
        if entry is None:
            entry = _sized(TYPES[found.kind], len(data)) + zlib.compress(data, LEVEL)
        self._oids += bytes.fromhex(found.oid)
        self._checks.append(zlib.crc32(entry))
        self._offsets.append(self._at)
        self._file.write(entry)
        self._at += len(entry)

    def _difference(self, found: Found, data: bytes) -> bytes | None:
        """The entry as a difference from the tree last seen at its path, where that is shorter."""
        base = self._bases.pop(found.path, None)
        entry, chain = None, 0
        if base is not None:
            self._bases_bytes -= len(base[1]) + len(found.path)
            offset, before, length = base
            delta = tree_delta(before, data) if length < MAX_CHAIN else None
            if delta is not None and len(delta) < len(data) // 2:
                entry = _sized(OFFSET_DELTA, len(delta)) + _distance(self._at - offset) + zlib.compress(delta, LEVEL)
                chain = length + 1
        self._bases[found.path] = (self._at, data, chain)
        self._bases_bytes += len(data) + len(found.path)  # a path may be longer than what lies there
        while self._bases_bytes > BASES:
            path, (_, dropped, _) = self._bases.popitem(last=False)
            self._bases_bytes -= len(dropped) + len(path)
        return entry

    def new_root(self) -> None:
        """What follows belongs to another space: its paths are not those of before."""
        self._bases.clear()
        self._bases_bytes = 0

    def finish(self) -> str:
        """Complete the pack and flush it to disk; returns the digest that names it."""
        self._file.seek(0)
        self._file.write(_header(len(self)))
        self._file.flush()
        self._file.close()
        digest = hashlib.sha1(usedforsecurity=False)
        with self.path.open("rb+") as file:
            while block := file.read(BUFFER):
                digest.update(block)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        self._digest = digest.digest()
        return digest.hexdigest()

    def index(self) -> bytes:
        """The content of the finished pack's index file."""
        return encode_index(self._oids, self._checks, self._offsets, self._digest)

    def close(self) -> None:
        """Release the file, finished or not."""
        self._file.close()


def _header(count: int) -> bytes:
    return b"PACK" + struct.pack(">II", 2, count)


def _sized(kind: int, size: int) -> bytes:
    """The head of an entry: its type and size as a varint."""
    first = (kind << 4) | (size & 15)
    size >>= 4
    head = bytearray()
    while size:
        head.append(first | 0x80)
        first = size & 0x7F
        size >>= 7
    head.append(first)
    return bytes(head)


def _distance(back: int) -> bytes:
    """How far before an entry its base begins, as such entries say it."""
    out = bytearray([back & 0x7F])
    while back := back >> 7:
        back -= 1
        out.append(0x80 | (back & 0x7F))
    return bytes(reversed(out))


def encode_index(oids: bytes | bytearray, checks: array[int], offsets: array[int], digest: bytes) -> bytes:
    """An index file: raw ids, checksums and offsets of a pack's entries in any order, and the pack's digest."""
    count = len(offsets)
    order = sorted(range(count), key=lambda i: oids[i * 20 : i * 20 + 20])
    fan = [0] * 256
    for i in range(count):
        fan[oids[i * 20]] += 1
    total = 0
    for i, here in enumerate(fan):
        total += here
        fan[i] = total
    far = [offsets[i] for i in order if offsets[i] >= 1 << 31]
    near = []
    beyond = 0
    for i in order:
        if offsets[i] < 1 << 31:
            near.append(offsets[i])
        else:
            near.append(1 << 31 | beyond)
            beyond += 1
    body = b"".join(
        [
            b"\377tOc" + struct.pack(">I", 2),
            struct.pack(">256I", *fan),
            b"".join(bytes(oids[i * 20 : i * 20 + 20]) for i in order),
            struct.pack(f">{count}I", *(checks[i] for i in order)),
            struct.pack(f">{count}I", *near),
            struct.pack(f">{len(far)}Q", *far),
            digest,
        ]
    )
    return body + hashlib.sha1(body, usedforsecurity=False).digest()
