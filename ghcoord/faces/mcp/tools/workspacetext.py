"""What a call in a session printed, as text for a model, and short enough for an answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ghcoord.model.task import TaskResult

MOST = 24 * 1024
"""Characters of output in one answer, and of each stream in its data; the rest is kept elsewhere."""

MOST_JSON = 40 * 1024
"""Bytes of one text or page as JSON."""

MOST_HEARD = 8 * 1024 * 1024
"""Characters of output that are kept while a call runs."""

STREAMS = ("stdout", "stderr")


class Heard:
    """What a running call has printed, both streams as they came. Told from any thread."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._size = 0
        self._mutex = threading.Lock()

    def add(self, text: str) -> None:
        """More of it; beyond :data:`MOST_HEARD` nothing is kept."""
        with self._mutex:
            if self._size < MOST_HEARD:
                self._parts.append(text)
                self._size += len(text)

    def text(self) -> str:
        """All that was heard."""
        with self._mutex:
            return "".join(self._parts)


def printed(result: TaskResult) -> str:
    """Standard output, then errors and how it ended, where there is something to say of them."""
    out, err = (str(result.data.get(name, "")) for name in STREAMS)
    if "stdout" not in result.data:
        out = result.output
    parts = [out.rstrip("\n")] if out else []
    if err:
        parts.append(f"[stderr]\n{err.rstrip(chr(10))}")
    if result.exit_code:
        parts.append(f"[exit code {result.exit_code}]")
    told = result.exit_code and result.error == f"exit code {result.exit_code}"
    if result.error and not told and result.error not in err:
        parts.append(f"[error] {result.error}")
    return "\n".join(parts) or "[it printed nothing]"


def fitting(text: str, most: int) -> str:
    """``text`` in at most about ``most`` bytes of JSON: its beginning, and its end, where errors stand."""
    room = most
    while True:
        head = room // 3
        short = text if len(text) <= room else f"{text[:head]}\n[… cut …]\n{text[len(text) - (room - head) :]}"
        if room <= 64 or len(json.dumps(short, ensure_ascii=False).encode(errors="replace")) <= most + 64:
            return short
        room //= 2


def shortened(data: Mapping[str, Any]) -> dict[str, Any]:
    """A command's fields with streams that fit an answer."""
    return {
        name: fitting(value, MOST) if name in STREAMS and isinstance(value, str) else value
        for name, value in data.items()
    }


def fitting_entries(entries: Sequence[Any]) -> int:
    """How many of these, at least one if there is any, fit an answer."""
    left = MOST_JSON
    for at, one in enumerate(entries):
        left -= len(json.dumps(one, ensure_ascii=False).encode(errors="replace")) + 2
        if left < 0:
            return max(1, at)
    return len(entries)


def detail(entry: Mapping[str, Any]) -> str:
    """One line of a list with details."""
    target = f" -> {entry['target']}" if entry.get("target") else ""
    return f"{entry['kind']} {entry['mode']} {entry['size']:>9} {entry['path']}{target}"
