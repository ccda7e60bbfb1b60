"""What lies in a workspace, and which of it a pattern means."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from ghcoord.errors import UsageError

Kind = Literal["file", "folder", "link", "other"]

MAX_PATTERN = 250
"""Characters of the longest pattern."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in a workspace, as it was when it was looked at; nothing is followed.

    ``path`` is relative, with surrogates for bytes that are not UTF-8 (see
    :func:`ghcoord.execution.files.paths.shown`).  ``size`` is in bytes, ``mode``
    the permission bits, ``target`` a link's text, ``links`` the number of names
    that a file has.  ``other`` is a FIFO, a socket or a device.
    """

    path: str
    kind: Kind
    size: int = 0
    mode: int = 0
    mtime_ns: int = 0
    target: str = ""
    links: int = 1


def entry_of(path: str, info: os.stat_result, target: str = "") -> Entry:
    """The entry of what ``info`` describes."""
    mode = stat.S_IMODE(info.st_mode)
    return Entry(path, kind_of(info.st_mode), info.st_size, mode, info.st_mtime_ns, target, info.st_nlink)


def kind_of(mode: int) -> Kind:
    """The kind that ``st_mode`` tells."""
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "other"


class Pattern:
    """A shell pattern: ``*``, ``?``, ``[a-z]``, ``[!a-z]`` within a name, ``**`` for any number of folders.

    Without a ``/`` it is compared with the name, wherever that lies; with one,
    with the whole path.  Time grows with length of pattern times length of
    path, whatever they are.  Raises :class:`UsageError`.
    """

    def __init__(self, text: str) -> None:
        if not text or len(text) > MAX_PATTERN:
            raise UsageError(f"a pattern has 1 to {MAX_PATTERN} characters, this one has {len(text)}")
        parts = [part for part in text.split("/") if part]
        if "/" not in text:
            parts = ["**", text]
        self._parts = [None if part == "**" else _tokens(part) for part in parts]

    def matches(self, path: str) -> bool:
        """Whether ``path`` is meant."""
        return _wild(path.split("/"), self._parts, _name_matches)


_Token = Callable[[str], bool] | None
"""What one character must be; ``None`` stands for any number of them."""


def _tokens(part: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while at < len(part):
        end = part.find("]", at + 2 + (part[at + 1 : at + 2] == "!")) if part[at] == "[" else -1
        if end > 0:
            found.append(_class(part[at + 1 : end]))
            at = end
        elif part[at] == "*":
            if not found or found[-1] is not None:
                found.append(None)
        elif part[at] == "?":
            found.append(lambda char: True)
        else:
            found.append(part[at].__eq__)
        at += 1
    return found


def _class(inner: str) -> Callable[[str], bool]:
    wanted = not inner.startswith("!")
    inner = inner.removeprefix("!")
    ranges: list[tuple[str, str]] = []
    at = 0
    while at < len(inner):
        if inner[at + 1 : at + 2] == "-" and at + 2 < len(inner):
            ranges.append((inner[at], inner[at + 2]))
            at += 3
        else:
            ranges.append((inner[at], inner[at]))
            at += 1
    return lambda char: any(low <= char <= high for low, high in ranges) is wanted


def _name_matches(name: str, tokens: Sequence[_Token]) -> bool:
    return _wild(name, tokens, lambda char, accepts: accepts(char))


def _wild(items: Sequence[str], pattern: Sequence[_T | None], one: Callable[[str, _T], bool]) -> bool:
    """Whether ``pattern`` covers ``items``, its ``None`` standing for any number of them.

    Only the last ``None`` is ever tried again, which is enough.
    """
    at = wanted = 0
    again: tuple[int, int] | None = None
    while at < len(items):
        part = pattern[wanted] if wanted < len(pattern) else None
        if part is not None and one(items[at], part):
            at, wanted = at + 1, wanted + 1
        elif part is None and wanted < len(pattern):
            again = (at, wanted)
            wanted += 1
        elif again is not None:
            again = (again[0] + 1, again[1])
            at, wanted = again[0], again[1] + 1
        else:
            return False
    return all(part is None for part in pattern[wanted:])
