"""What a call in a session printed, as text for a model, and short enough for an answer."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ghcoord.faces.mcp.present import MAX_TEXT, shorten
from ghcoord.model.task import TaskResult

MOST = MAX_TEXT - 1024
"""Bytes of output in the text of one answer, with room for what is said of it; the rest is kept elsewhere."""

MOST_STREAMS = 80 * 1024
"""Bytes that both streams may have together in its data as JSON."""

MOST_ERROR = 4 * 1024
"""Bytes of the error in its data: most of it is in the streams as well."""

MOST_JSON = 40 * 1024
"""Bytes of one text or page as JSON."""

MOST_HEARD = 8 * 1024 * 1024
"""Characters of output that are kept while a call runs."""

STREAMS = ("stdout", "stderr")

_SAME = 1000
"""Characters at its beginning and its end by which what was heard is known as what a command printed."""

_DOTTED = re.compile(r"(?<![\w./-])(fs|run|pkg|test|artifact)\.(read|write|list|python|install|run|put)\b(?![./])")
_TOOLS = {"fs.read", "fs.write", "fs.list", "run.python", "pkg.install", "test.run", "artifact.put"}
_NO_MODULE = re.compile(r"No module named '?([\w.]{1,100})")


class Heard:
    """What a running call has printed, both streams as they came. Told from any thread."""

    def __init__(self) -> None:
        self._parts: list[tuple[str, str]] = []
        self._size = 0
        self._mutex = threading.Lock()

    def add(self, stream: str, text: str) -> None:
        """More of it; beyond :data:`MOST_HEARD` nothing is kept."""
        with self._mutex:
            if self._size < MOST_HEARD:
                self._parts.append((stream, text))
                self._size += len(text)

    def text(self) -> str:
        """All that was heard."""
        with self._mutex:
            return "".join(text for _, text in self._parts)

    def whole(self, data: Mapping[str, Any]) -> dict[str, str]:
        """The streams of ``data`` of which more was heard than it has, from their beginnings to their ends."""
        found = {}
        with self._mutex:
            for name in STREAMS:
                kept = data.get(name)
                heard = "".join(text for stream, text in self._parts if stream == name)
                if isinstance(kept, str) and kept and len(heard) > len(kept) and _agree(heard, kept):
                    found[name] = heard
        return found


def _agree(heard: str, kept: str) -> bool:
    return heard.startswith(kept[:_SAME]) and heard.endswith(kept[-_SAME:])


def plain_names(text: str) -> str:
    """``text`` with the names of tools as they are listed: workers call them by the dotted ones."""
    return _DOTTED.sub(lambda found: found[0].replace(".", "_") if found[0] in _TOOLS else found[0], text)


def printed(result: TaskResult, data: Mapping[str, Any]) -> str:
    """Standard output, then errors and how it ended, where there is something to say of them.

    ``data`` are its fields, of whose streams more may be known than the result has.
    """
    out, err = (str(data.get(name, "")) for name in STREAMS)
    if "stdout" not in data:
        out = result.output
    parts = [out.rstrip("\n")] if out else []
    if err:
        parts.append(f"[stderr]\n{err.rstrip(chr(10))}")
    if result.exit_code:
        parts.append(f"[exit code {result.exit_code}]")
    told = result.exit_code and result.error == f"exit code {result.exit_code}"
    if result.error and not told and result.error not in err:
        parts.append(f"[error] {plain_names(result.error)}")
    return "\n".join(parts) or "[it printed nothing]"


def missing(result: TaskResult) -> str:
    """The module that a call failed for want of; empty when it did not, or when it is told what to do."""
    if result.success or "pkg.install" in result.error:
        return ""
    said = [str(result.data.get(name, "")) for name in ("stderr", "stdout")]
    found = next((hit for text in (*said, result.error) if (hit := _NO_MODULE.search(text))), None)
    return "" if found is None else found[1]


def size(text: str) -> int:
    """Bytes of ``text``."""
    return len(text.encode(errors="replace"))


def _json_size(text: str) -> int:
    return size(json.dumps(text, ensure_ascii=False))


def fitting(text: str, most: int) -> str:
    """``text`` in at most about ``most`` bytes of JSON: its beginning, and its end, where errors stand."""
    room = most
    while True:
        short = shorten(text, room)
        takes = _json_size(short)
        if takes <= most or room <= 64:
            return short
        room = min(room * most // takes, room - 16)


def shortened(data: Mapping[str, Any]) -> dict[str, Any]:
    """A command's fields with streams that fit an answer; what one does not need of the room the other has."""
    takes = {name: _json_size(data[name]) for name in STREAMS if isinstance(data.get(name), str)}
    if sum(takes.values()) <= MOST_STREAMS:
        return dict(data)
    rooms = {
        name: max(MOST_STREAMS // 2, MOST_STREAMS - sum(size for other, size in takes.items() if other != name))
        for name in takes
    }
    return {name: fitting(value, rooms[name]) if name in rooms else value for name, value in data.items()}


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
