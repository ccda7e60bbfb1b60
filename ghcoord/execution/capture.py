"""What is kept of a command's output."""

from __future__ import annotations

import codecs

_CHUNK = 65536


class Capture:
    """Keeps the first and the last half of ``cap`` bytes, however many come.

    Text that is not UTF-8 is replaced, and a cut never splits a character.
    """

    def __init__(self, cap: int) -> None:
        self._half = cap // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        self._total += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * self._half + _CHUNK:
            del self._tail[: len(self._tail) - self._half]

    @property
    def truncated(self) -> bool:
        """Whether some bytes were left out."""
        return self._total > 2 * self._half

    def text(self) -> str:
        """What was kept, with a line that says how much was left out between."""
        if not self.truncated:
            return (self._head + self._tail).decode(errors="replace")
        tail = self._tail[len(self._tail) - self._half :]
        start = 0
        while start < min(3, len(tail)) and tail[start] & 0xC0 == 0x80:
            start += 1
        head = codecs.getincrementaldecoder("utf-8")("replace").decode(bytes(self._head))
        left_out = self._total - len(self._head) - len(tail)
        return f"{head}\n[{left_out} bytes left out]\n{tail[start:].decode(errors='replace')}"
