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
from collections import Counter
from collections.abc import Collection, Mapping
from itertools import accumulate, pairwise
from pathlib import Path

from ghcoord.store.base import Oid, RawObject

_TYPES = {"commit": 1, "tree": 2, "blob": 3}
_OURS = re.compile(r"pack-g(\d)-[0-9a-f]{40}\.idx")
_OUR_PACK = re.compile(r"pack-g\d-[0-9a-f]{40}\.pack")
_OUR_MARK = re.compile(r"pack-g\d-[0-9a-f]{40}\.keep")
FAN_IN = 16
"""Packs of one tier before they are merged."""
MAX_TIER = 3
"""Packs of this tier are left alone: one holds 4,096 commits, and merging more would hold the lock too long."""
MAX_MERGED = 8 * 1024 * 1024
"""Bytes beyond which a pack is left alone: sixteen of them are merged in memory, and offsets end at 2 GiB."""

SMALL = 16 * 1024
"""Bytes up to which an object is compressed with a small window."""


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
    return bytes(head) + _compress(data)


def _compress(data: bytes) -> bytes:
    """A zlib stream. For what is small the window is too: making a full one takes longer than the compression."""
    if len(data) > SMALL:
        return zlib.compress(data, 1)
    stream = zlib.compressobj(1, zlib.DEFLATED, 12, 5)
    return stream.compress(data) + stream.flush()


def _assemble(entries: Mapping[Oid, bytes]) -> tuple[bytes, bytes, str]:
    """The pack, its index and its name's digest, from compressed entries by object id."""
    count = len(entries)
    body = b"".join([b"PACK", struct.pack(">II", 2, count), *entries.values()])
    digest = hashlib.sha1(body, usedforsecurity=False).digest()
    starts = accumulate(map(len, entries.values()), initial=12)
    offsets = dict(zip(entries, starts, strict=False))  # the last start is the end
    ordered = sorted(entries)
    names = "".join(ordered)
    raw_names = bytes.fromhex(names)
    counts = [0] * 256
    for first in raw_names[::20]:
        counts[first] += 1
    index = b"".join(
        [
            b"\377tOc" + struct.pack(">I", 2),
            struct.pack(">256I", *accumulate(counts)),
            raw_names,
            struct.pack(f">{count}I", *[zlib.crc32(entries[oid]) for oid in ordered]),
            struct.pack(f">{count}I", *[offsets[oid] for oid in ordered]),
            digest,
        ]
    )
    index += hashlib.sha1(index, usedforsecurity=False).digest()
    name = hashlib.sha1(names.encode() + digest, usedforsecurity=False).hexdigest()
    return body + digest, index, name


def _store(folder: Path, entries: Mapping[Oid, bytes], tier: int) -> Path:
    """Write a pack and its index durably, the index last: git finds packs by their index.

    While incomplete they have names that no git command takes for its own leftovers.  A ``.keep`` file stands
    beside the pack until its index is there: ``git repack`` notes the packs that it will delete by their names,
    then takes over what their indexes list, and would delete one that had none yet.
    """
    pack, index, digest = _assemble(entries)
    stem = f"pack-g{tier}-{digest}"
    mark = folder / f"{stem}.keep"
    mark.touch(0o444)
    for suffix, data in ((".pack", pack), (".idx", index)):
        temporary = folder / f"ghcoord-{stem}{suffix}.tmp"
        write_durably(temporary, data)
        os.rename(temporary, folder / (stem + suffix))
    mark.unlink()
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
    names = raw[names_at : names_at + count * 20].hex()
    offsets = struct.unpack_from(f">{count}I", raw, names_at + count * 24)
    following = dict(pairwise(sorted([*offsets, len(pack) - 20])))
    return {names[at * 40 : at * 40 + 40]: pack[offset : following[offset]] for at, offset in enumerate(offsets)}


def consolidate(folder: Path) -> None:
    """Merge full tiers. The caller holds the lock under which objects and refs are written.

    The merged pack is on disk before the first of its sources disappears.
    """
    names = set(os.listdir(folder))
    present = Counter(name[: len("pack-g0")] for name in names if name.endswith(".idx"))
    if any(present[f"pack-g{tier}"] >= FAN_IN for tier in range(MAX_TIER)):
        _merge(folder, names)
    _sweep(folder, names)


def _merge(folder: Path, names: Collection[str]) -> None:
    tiers: dict[int, list[Path]] = {}
    for match in filter(None, map(_OURS.fullmatch, names)):
        tiers.setdefault(int(match[1]), []).append(folder / match[0])
    for tier in range(MAX_TIER):
        indexes = tiers.get(tier, [])
        if len(indexes) < FAN_IN:
            continue
        small = [index for index in indexes if index.with_suffix(".pack").stat().st_size <= MAX_MERGED]
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


def _sweep(folder: Path, names: Collection[str]) -> None:
    """Remove what killed writers left: temporary files, marks, and packs that never got their index."""
    for name in names:
        unfinished = name.endswith(".pack") and f"{name[:-5]}.idx" not in names and _OUR_PACK.fullmatch(name)
        if unfinished or name.startswith("ghcoord-pack-g") or _OUR_MARK.fullmatch(name):
            with contextlib.suppress(FileNotFoundError):
                (folder / name).unlink()
