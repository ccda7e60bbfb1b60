"""Parts of stored files, as text or as bytes, of any size and none of them held whole in memory when it is large."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ghcoord.faces.mcp.call import Call
    from ghcoord.model.artifact import Artifact

MAX_VERIFIED = 4 * 1024 * 1024
"""Bytes up to which a file is read whole, and so compared with its digest, before a part of it is given out."""


def part_of(call: Call, artifact: Artifact, offset: int, limit: int) -> bytes:
    """``limit`` bytes of the content from ``offset`` on. Raises ``Corrupt``, ``NotFound``."""
    pieces = call.hub.artifacts.open(artifact.id)
    if artifact.size <= MAX_VERIFIED:
        return b"".join(pieces)[offset : offset + limit]
    found = bytearray()
    at = 0
    for piece in pieces:
        if at + len(piece) > offset:
            found += piece[max(0, offset - at) :]
        at += len(piece)
        if len(found) >= limit:
            break
    return bytes(found[:limit])


def as_text(data: bytes, last: bool) -> tuple[str, int] | None:
    """``data`` as UTF-8 text and how many of its bytes that is; ``None`` for what is no text.

    A character may be cut at the end unless this is the ``last`` part.
    """
    if b"\x00" in data:
        return None
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    try:
        text = decoder.decode(data, final=last)
    except UnicodeDecodeError:
        return None
    return text, len(data) - len(decoder.getstate()[0])
