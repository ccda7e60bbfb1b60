"""Names that stand for moments and numbers: what is due together, and what was made together, lies together."""

from __future__ import annotations

import re

from ghcoord.ids import fan_out
from ghcoord.model.codec import ms_of

_NUMBERED = re.compile(r"t(0|[1-9][0-9]{0,10})", re.ASCII)


def numbered(name: str) -> int | None:
    """The number in an id such as ``t1042``, which ghcoord makes; ``None`` for every other name."""
    return int(name[1:]) if _NUMBERED.fullmatch(name) else None


def spread(name: str) -> str:
    """One of 256 folders for ``name``: neighbours by number share theirs, other names are evenly spread."""
    number = numbered(name)
    return fan_out(name)[0] if number is None else f"{number >> 10 & 255:02x}"


def due_path(folder: str, at: float, name: str) -> str:
    """``folder/aaaaa/bbb/ccc/ddd/ff/name``: 2³⁰, 2²⁰, 2¹⁰ and 1 ms, and a fan-out for what is due together."""
    ms = ms_of(at)
    blocks = f"{ms >> 30:05x}/{ms >> 20 & 1023:03x}/{ms >> 10 & 1023:03x}/{ms & 1023:03x}"
    return f"{folder}/{blocks}/{spread(name)}/{name}"


def due_at(*blocks: str) -> float | None:
    """The second at which a folder of due things begins, from the one to four levels of its path.

    ``None`` for names that are not ours.
    """
    try:
        return sum(int(block, 16) << shift for block, shift in zip(blocks, (30, 20, 10, 0), strict=False)) / 1000
    except ValueError:
        return None


def expiry_second(block: str, part: str = "0", second: str = "0") -> int | None:
    """The second at which a folder of ``expiry`` begins; ``None`` for names that are not ours."""
    try:
        return (int(block, 16) << 20) + (int(part, 16) << 10) + int(second, 16)
    except ValueError:
        return None
