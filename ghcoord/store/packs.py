"""Git packs written by hand: one durable file a commit, merged in tiers as they pile up.

A pack of whole (undeltified) objects needs two fsyncs however many objects a
commit has, where loose objects need one each and one for each directory.
Sixteen packs of a tier are merged into one of the next by copying their
compressed entries, so the cost stays logarithmic and readers see few packs.
Formats: gitformat-pack(5), version 2 of both files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
import zlib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from ghcoord.store.base import Oid
from ghcoord.store.objects import RawObject

_TYPES = {"commit": 1, "tree": 2, "blob": 3}
_OURS = re.compile(r"pack-g(\d)-[0-9a-f]{40}\.idx")
FAN_IN = 16
"""Packs of one tier before they are merged."""
MAX_TIER = 3
"""Packs of this tier are left alone: one holds 4,096 commits, and merging more would hold the lock too long."""
MAX_MERGED = 8 * 1024 * 1024
"""Bytes beyond which a pack is left alone: sixteen of them are merged in memory, and offsets end at 2 GiB."""


def fsync_dir(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: Path, data: bytes, mode: int = 0o444) -> None:
    """Write a new file and flush it to disk; the name itself still needs :func:`fsync_dir`."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _entry(kind: str, data: bytes) -> bytes:
    """One pack entry: type and size as a varint, then the compressed content."""
    size = len(data)
    first = (_TYPES[kind] << 4) | (size & 15)
    size >>= 4
    head = bytearray()
    while size:
        head.append(first | 0x80)
        first = size & 0x7F
        size >>= 7
    head.append(first)
    return bytes(head) + zlib.compress(data, 1)


def _assemble(entries: Mapping[Oid, bytes]) -> tuple[bytes, bytes, str]:
    """The pack, its index and its name's digest, from compressed entries by object id."""
    parts = [b"PACK" + struct.pack(">II", 2, len(entries))]
    at = 12
    offsets: dict[Oid, int] = {}
    for oid, entry in entries.items():
        offsets[oid] = at
        parts.append(entry)
        at += len(entry)
    body = b"".join(parts)
    digest = hashlib.sha1(body, usedforsecurity=False).digest()
    ordered = sorted(entries)
    counts = [0] * 256
    for oid in ordered:
        counts[int(oid[:2], 16)] += 1
    total, fan = 0, []
    for count in counts:
        total += count
        fan.append(total)
    index = b"".join(
        [
            b"\377tOc" + struct.pack(">I", 2),
            struct.pack(">256I", *fan),
            b"".join(bytes.fromhex(oid) for oid in ordered),
            b"".join(struct.pack(">I", zlib.crc32(entries[oid])) for oid in ordered),
            b"".join(struct.pack(">I", offsets[oid]) for oid in ordered),
            digest,
        ]
    )
    index += hashlib.sha1(index, usedforsecurity=False).digest()
    name = hashlib.sha1("".join(ordered).encode() + digest, usedforsecurity=False).hexdigest()
    return body + digest, index, name


def _store(folder: Path, entries: Mapping[Oid, bytes], tier: int) -> Path:
    """Write a pack and its index durably, the index last: git finds packs by their index.

    While incomplete they have names that no git command takes for its own leftovers.
    """
    pack, index, digest = _assemble(entries)
    stem = f"pack-g{tier}-{digest}"
    for suffix, data in ((".pack", pack), (".idx", index)):
        temporary = folder / f"ghcoord-{stem}{suffix}.tmp"
        write_durably(temporary, data)
        os.rename(temporary, folder / (stem + suffix))
    fsync_dir(folder)
    return folder / f"{stem}.idx"


def write_pack(folder: Path, objects: Mapping[Oid, RawObject]) -> None:
    """Store ``objects`` as one pack in ``folder`` (``objects/pack``), on disk when this returns."""
    _store(folder, {oid: _entry(kind, data) for oid, (kind, data) in objects.items()}, 0)


def _read_entries(index: Path) -> dict[Oid, bytes]:
    """The compressed entries of one of our packs (whole objects only, so they can be copied)."""
    raw = index.read_bytes()
    pack = index.with_suffix(".pack").read_bytes()
    count = struct.unpack_from(">I", raw, 8 + 255 * 4)[0]
    names_at = 8 + 1024
    offsets_at = names_at + count * 24
    offsets = struct.unpack_from(f">{count}I", raw, offsets_at)
    ends = sorted([*offsets, len(pack) - 20])
    following = dict(pairwise(ends))
    entries: dict[Oid, bytes] = {}
    for at, offset in enumerate(offsets):
        oid = raw[names_at + at * 20 : names_at + at * 20 + 20].hex()
        entries[oid] = pack[offset : following[offset]]
    return entries


def consolidate(folder: Path) -> None:
    """Merge full tiers. The caller holds the lock under which objects and refs are written.

    The merged pack is on disk before the first of its sources disappears.
    """
    tiers: dict[int, list[Path]] = {}
    with os.scandir(folder) as found:
        for item in found:
            match = _OURS.fullmatch(item.name)
            if match:
                tiers.setdefault(int(match[1]), []).append(Path(item.path))
    for tier in sorted(tiers):
        if tier >= MAX_TIER or len(tiers[tier]) < FAN_IN:
            continue
        small = [index for index in tiers[tier] if index.with_suffix(".pack").stat().st_size <= MAX_MERGED]
        if len(small) < FAN_IN:
            continue
        entries: dict[Oid, bytes] = {}
        for index in small:
            entries.update(_read_entries(index))
        merged = _store(folder, entries, tier + 1)
        for index in small:
            if index != merged:
                index.unlink()
                index.with_suffix(".pack").unlink()
        tiers.setdefault(tier + 1, []).append(merged)
    _sweep(folder)


def _sweep(folder: Path) -> None:
    """Remove what killed writers left: temporary files, and packs that never got their index."""
    for leftover in folder.glob("ghcoord-pack-g*"):
        leftover.unlink()
    for pack in folder.glob("pack-g?-*.pack"):
        if not pack.with_suffix(".idx").exists():
            with contextlib.suppress(FileNotFoundError):
                pack.unlink()
