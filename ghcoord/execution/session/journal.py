"""The calls of a session that were made with a key, and how they ended: the same call again gets the first result.

One line of JSON a call, oldest first.  Only where each result lies is held in
memory.  A line that is broken (the machine stopped while it was written) is
passed over.  The file belongs to the worker and goes into checkpoints, so that
a restored session remembers too.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ghcoord.errors import UsageError
from ghcoord.execution.session.folder import write_whole
from ghcoord.model.task import TaskResult

MOST_CALLS = 1000
"""Calls that are remembered, the last ones."""

MOST_BYTES = 64 * 1024 * 1024
"""Bytes of results that are remembered; fewer calls when they are large."""

MAX_KEY = 256
"""Characters of a key."""

TASK = "task:"
"""Begin of the names of calls that came through the hub: with a key, so that the task's id follows from it."""

MOST_HEARD = 100
"""Calls that came through the hub which are remembered: only until it has their results."""

HEARD_BYTES = 4 * 1024 * 1024
"""Bytes of their results, the last one apart: checkpoints take the journal with them."""

MAX_LINE = 2 * 1024 * 1024
"""Bytes of one call: more than a record of a result takes."""


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: str
    sequence: int | None
    offset: int
    length: int


def call_name(key: str | None, sequence: int | None) -> str | None:
    """What names a call in its session, from what its caller gave; ``None`` without either. Raises ``UsageError``."""
    if key is not None and sequence is not None:
        raise UsageError("give key or sequence, not both")
    if key is not None:
        if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY or not key.isprintable():
            raise UsageError(f"the key must be a text of 1 to {MAX_KEY} printable characters")
        return f"key:{key}"
    if sequence is not None:
        if isinstance(sequence, bool) or not isinstance(sequence, int) or not 0 <= sequence < 2**63:
            raise UsageError("the sequence number must be a whole number from 0")
        return f"sequence:{sequence}"
    return None


def content_of(tool: str, args: dict[str, Any]) -> str:
    """A digest of what is called."""
    text = json.dumps([tool, args], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


class Journal:
    """The journal in the file ``path``, which need not exist. Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._through_hub: dict[str, int] = {}
        """Of the entries those that begin with :data:`TASK`, and their bytes."""
        self._oldest = -1
        """The highest sequence number that was forgotten."""
        self._size = 0
        self._live = 0
        self._load()

    def find(self, name: str, digest: str) -> TaskResult | None:
        """The result of the call that was named so before.

        Raises ``UsageError`` when that was another call, or when the name is a
        sequence number from before those that are remembered.
        """
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                kind, _, number = name.partition(":")
                if kind == "sequence" and int(number) <= self._oldest:
                    raise UsageError(
                        f"the sequence number {number} is older than the last {MOST_CALLS} calls that are "
                        f"remembered: go on with one above {max(self._oldest, self._newest())}"
                    )
                return None
            if entry.digest != digest:
                raise UsageError(f"another call was made with the {name.replace(':', ' ', 1)}: take a new one")
            line = self._read(entry)
        said = _parse(line)
        return None if said is None else TaskResult.model_validate(said["result"])

    def note(self, name: str, digest: str, result: TaskResult) -> None:
        """Remember how the call ended. Raises ``OSError``."""
        sequence = int(name.partition(":")[2]) if name.startswith("sequence:") else None
        entry = {"name": name, "digest": digest, "result": result.model_dump(mode="json", exclude_defaults=True)}
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                size = os.fstat(fd).st_size
                if size != self._size:  # a line that was not finished: the next one starts on its own
                    size += os.write(fd, b"\n")
                view = memoryview(line)
                while view:
                    view = view[os.write(fd, view) :]
                os.fdatasync(fd)
            finally:
                os.close(fd)
            self._add(name, _Entry(digest, sequence, size, len(line)))
            self._size = size + len(line)
            if self._size > 2 * self._live + 256 * 1024:
                self._compact()

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)

    # -- under the lock

    def _newest(self) -> int:
        return max((one.sequence for one in self._entries.values() if one.sequence is not None), default=-1)

    def _add(self, name: str, entry: _Entry) -> None:
        before = self._entries.pop(name, None)
        self._live += entry.length - (before.length if before is not None else 0)
        self._entries[name] = entry
        if name.startswith(TASK):
            self._through_hub.pop(name, None)
            self._through_hub[name] = entry.length
            while len(self._through_hub) > 1 and (
                len(self._through_hub) > MOST_HEARD or sum(self._through_hub.values()) > HEARD_BYTES
            ):
                first = next(iter(self._through_hub))
                self._live -= self._through_hub.pop(first)
                del self._entries[first]
        while len(self._entries) > MOST_CALLS or (self._live > MOST_BYTES and len(self._entries) > 1):
            first = next(iter(self._entries))
            gone = self._entries.pop(first)
            self._through_hub.pop(first, None)
            self._live -= gone.length
            if gone.sequence is not None:
                self._oldest = max(self._oldest, gone.sequence)

    def _read(self, entry: _Entry) -> bytes:
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return os.pread(fd, entry.length, entry.offset)
        finally:
            os.close(fd)

    def _compact(self) -> None:
        """Write only what is remembered, and up to which number calls were forgotten."""
        head = json.dumps({"forgotten": self._oldest}).encode() + b"\n"
        lines = [head, *(self._read(one) for one in self._entries.values())]
        write_whole(self._path, b"".join(lines))
        offset = len(head)
        for (name, one), line in zip(list(self._entries.items()), lines[1:], strict=True):
            self._entries[name] = _Entry(one.digest, one.sequence, offset, len(line))
            offset += len(line)
        self._size = offset

    def _load(self) -> None:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return
        offset, line = 0, b"\n"
        with os.fdopen(fd, "rb") as file:
            while piece := file.readline(MAX_LINE):
                line = piece
                self._take(_parse(line), offset, len(line))
                offset += len(line)
        self._size = offset if line.endswith(b"\n") else -1

    def _take(self, said: dict[str, Any] | None, offset: int, length: int) -> None:
        if said is None:
            return
        if "forgotten" in said:
            if isinstance(said["forgotten"], int):
                self._oldest = max(self._oldest, said["forgotten"])
            return
        kind, _, number = said["name"].partition(":")
        sequence = int(number) if kind == "sequence" and number.isdecimal() else None
        self._add(said["name"], _Entry(said["digest"], sequence, offset, length))


def _parse(line: bytes) -> dict[str, Any] | None:
    """A line of the journal; ``None`` for what is none."""
    try:
        said = json.loads(line)
        if not isinstance(said, dict):
            return None
        if "forgotten" not in said:
            TaskResult.model_validate(said["result"])
            name, digest = said["name"], said["digest"]
            if not isinstance(digest, str) or not name.startswith(("key:", "sequence:", TASK)):
                return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError):
        return None
    return said
