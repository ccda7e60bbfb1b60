"""W3C trace context: the ``traceparent`` that ties a call to the task, the worker and the command that it leads to.

The format is that of https://www.w3.org/TR/trace-context/: version, trace id,
id of the caller's span, flags, as in
``00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01``.  Whoever records
no span of its own passes on what it got.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from ghcoord.errors import UsageError

EXAMPLE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?", re.ASCII)
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_MAX = 256
_KNOWN_FLAGS = 0b11  # sampled, and random (level 2)
_SAMPLED = 1


class TraceParent(NamedTuple):
    """A traceparent in parts: 32 and 16 hexadecimal digits, and a byte of flags."""

    trace_id: str
    span_id: str
    flags: int

    @property
    def sampled(self) -> bool:
        """Whether the caller records its spans."""
        return bool(self.flags & _SAMPLED)

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


def parse(value: object) -> TraceParent | None:
    """``value`` in parts; ``None`` for anything that is no valid traceparent. Later versions are read as this one."""
    if not isinstance(value, str) or len(value) > _MAX:
        return None
    match = _PARENT.fullmatch(value)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more is not None) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return TraceParent(trace_id, span_id, int(flags, 16) & _KNOWN_FLAGS)


def valid(value: object) -> str:
    """``value`` as a traceparent, ``""`` for what is none: a bad one in a record or a request is as good as none."""
    found = parse(value)
    return "" if found is None else str(found)


def checked(value: object) -> str:
    """A traceparent that somebody gives, or ``""`` for none. Raises ``UsageError``."""
    if value == "":
        return ""
    found = parse(value)
    if found is None:
        raise UsageError(f"the trace {str(value)[:64]!r} is no W3C traceparent: write it as in {EXAMPLE}")
    return str(found)


def new_trace(randbits: Callable[[int], int]) -> str:
    """The traceparent of a trace that begins here."""
    return str(TraceParent(f"{randbits(128) or 1:032x}", f"{randbits(64) or 1:016x}", _SAMPLED))


def continued(value: object, randbits: Callable[[int], int]) -> str:
    """The caller's traceparent; that of a new trace when it gave none that is valid."""
    return valid(value) or new_trace(randbits)


def trace_id_of(value: object) -> str:
    """The trace's id, ``""`` for what is no traceparent."""
    found = parse(value)
    return "" if found is None else found.trace_id
