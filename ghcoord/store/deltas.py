"""Differences between objects in git's delta format, as gitformat-pack(5) has it."""

from __future__ import annotations

import re

from ghcoord.errors import Corrupt

_LINE = re.compile(rb"[0-7]+ [^\0]+\0.{20}", re.DOTALL)


def tree_delta(before: bytes, after: bytes) -> bytes | None:
    """How to make the tree ``after`` from the tree ``before``, copying whole entries; ``None`` where that fails."""
    places: dict[bytes, int] = {}
    at = 0
    for line in _LINE.findall(before):
        places[line] = at
        at += len(line)
    out = [_varint(len(before)), _varint(len(after))]
    fresh: list[bytes] = []
    start = end = 0  # what is to be copied next
    for line in _LINE.findall(after):
        place = places.get(line)
        if place is not None and place == end and end > start:
            end += len(line)
            continue
        out += _copies(start, end)
        start = end = 0
        if place is None:
            fresh.append(line)
            continue
        out += _inserts(b"".join(fresh))
        fresh.clear()
        start, end = place, place + len(line)
    out += _copies(start, end)
    out += _inserts(b"".join(fresh))
    delta = b"".join(out)
    # Whoever keeps this drops the tree itself, so nothing is taken on trust.
    return delta if apply_delta(before, delta) == after else None


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(0x80 | (value & 0x7F))
        value >>= 7
    out.append(value)
    return bytes(out)


def _copies(start: int, end: int) -> list[bytes]:
    """Instructions that copy ``start`` to ``end`` of the base, at most 64 KiB each."""
    found = []
    while start < end:
        size = min(end - start, 0xFFFF)
        code, arguments = 0x80, bytearray()
        for bit, value in enumerate((start, start >> 8, start >> 16, start >> 24, size, size >> 8)):
            if value & 0xFF:
                code |= 1 << bit
                arguments.append(value & 0xFF)
        found.append(bytes([code]) + bytes(arguments))
        start += size
    return found


def _inserts(data: bytes) -> list[bytes]:
    """Instructions that insert ``data``, at most 127 bytes each."""
    return [bytes([len(data[at : at + 127])]) + data[at : at + 127] for at in range(0, len(data), 127)]


def apply_delta(base: bytes, delta: bytes) -> bytes:
    """The object that ``delta`` makes of ``base``; raises ``Corrupt`` for a delta that is wrong in any way."""
    try:
        size, at = _size(delta, 0)
        wanted, at = _size(delta, at)
        if size != len(base):
            raise Corrupt("a difference has another base than it says")
        out = bytearray()
        while at < len(delta):
            code = delta[at]
            at += 1
            if code & 0x80:
                start, length, at = _copy_of(delta, code, at)
                if start + length > len(base):
                    raise Corrupt("a difference copies from beyond its base")
                out += base[start : start + length]
            elif code:
                out += delta[at : at + code]
                at += code
            else:
                raise Corrupt("a difference has an unknown instruction")
            if len(out) > wanted:
                break
    except IndexError:
        raise Corrupt("a difference ends in the middle") from None
    if len(out) != wanted or at != len(delta):
        raise Corrupt("a difference makes another size than it says")
    return bytes(out)


def delta_size(delta: bytes) -> int:
    """The size of the object that ``delta`` says it makes; raises ``Corrupt``."""
    try:
        return _size(delta, _size(delta, 0)[1])[0]
    except IndexError:
        raise Corrupt("a difference ends in the middle") from None


def _size(delta: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = delta[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at
        if shift > 63:
            raise Corrupt("a difference has an impossible size")


def _copy_of(delta: bytes, code: int, at: int) -> tuple[int, int, int]:
    values = [0, 0]
    for bit in range(7):
        if code & 1 << bit:
            which, shift = (0, bit) if bit < 4 else (1, bit - 4)
            values[which] |= delta[at] << 8 * shift
            at += 1
    return values[0], values[1] or 0x10000, at
