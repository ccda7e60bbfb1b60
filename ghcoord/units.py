"""Durations as people write them, ``90``, ``90s``, ``5m``, ``1h30m``, and sizes as they read them."""

from __future__ import annotations

import math
import re

from ghcoord.errors import UsageError

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
MAX_DURATION = 10 * 365 * 86400.0
"""Longest duration accepted, in seconds (ten years): keeps every stamp a valid date."""


def parse_duration(text: str | float) -> float:
    """Seconds in ``text``.

    Accepts a bare number of seconds or numbers with the units ms, s, m, h, d,
    largest first by habit but in any order.  Raises :class:`UsageError`.
    """
    if isinstance(text, int | float):
        seconds = float(text)
    else:
        stripped = text.strip().lower()
        if re.fullmatch(r"\d+(\.\d+)?", stripped, re.ASCII):
            seconds = float(stripped)
        else:
            parts = _PART.findall(stripped)
            if not parts or "".join(number + unit for number, unit in parts) != stripped:
                shown = text if len(text) <= 40 else text[:37] + "..."
                raise UsageError(f"bad duration {shown!r}: write 90, 90s, 5m or 1h30m")
            seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not math.isfinite(seconds) or seconds < 0 or seconds > MAX_DURATION:
        raise UsageError(f"duration out of range: between 0 and {MAX_DURATION:.0f} seconds")
    return seconds


def format_duration(seconds: float) -> str:
    """A short form for people: ``0.4s``, ``12s``, ``4m10s``, ``2h05m``, ``3d04h``."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 10 and seconds != int(seconds):
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    hours = whole % 86400 // 3600
    return f"{whole // 86400}d{hours:02d}h" if hours else f"{whole // 86400}d"


def format_size(size: float) -> str:
    """Bytes for people: ``512 B``, ``3.4 KiB``, ``120 MiB``."""
    units = iter(("B", "KiB", "MiB", "GiB"))
    unit = next(units)
    while size >= 1024 and unit != "GiB":
        size /= 1024
        unit = next(units)
    return f"{size:.1f} {unit}" if unit != "B" and size < 100 else f"{size:.0f} {unit}"
