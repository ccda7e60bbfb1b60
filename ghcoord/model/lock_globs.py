"""Patterns of paths, and whether two of them have a path in common.

``*`` stands for any characters of one segment, ``?`` for one character,
``[abc]``, ``[a-z]`` and ``[!abc]`` for one of a set; ``**`` as a whole segment
for any number of segments, also none: ``src/**`` takes in ``src`` itself.
Upper and lower case differ.  A character that has a meaning is written in
brackets: ``[[]``, ``[*]``.

The test runs one pattern as an automaton over all places of the other at once,
kept as the bits of a number, so it takes a few operations a character whatever
the patterns are.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from ghcoord.errors import InvalidName, UsageError
from ghcoord.ids import check_name

MAX_SET = 64
"""Most characters or ranges within one pair of brackets."""


class Chars(NamedTuple):
    """A set of characters other than ``/``: those within ``ranges``, or with ``others`` all the rest."""

    ranges: tuple[tuple[str, str], ...]
    others: bool = False

    def has(self, char: str) -> bool:
        return any(low <= char <= high for low, high in self.ranges) is not self.others

    def meets(self, other: Chars) -> bool:
        """Whether some character is in both."""
        if self.others and other.others:
            return True  # the sets left out are small, and characters are many
        if self.others:
            return other.meets(self)
        # A range that meets a set meets it at its own ends or next to an end of the other's.
        return any(self.has(char) and other.has(char) for char in {*_corners(self), *_corners(other)})


def _corners(chars: Chars) -> list[str]:
    """Characters of which one is in the intersection with any other set that is not empty."""
    found = []
    for low, high in chars.ranges:
        found += [low, high]
        if ord(low) > 0:
            found.append(chr(ord(low) - 1))
        if ord(high) < 0x10FFFF:
            found.append(chr(ord(high) + 1))
    return [char for char in found if char != "/"]


ANY = Chars((), True)


class _Mark(NamedTuple):
    """What a pattern has besides characters."""

    name: str


STAR, SLASH, DEEP, WITHIN = _Mark("*"), _Mark("/"), _Mark("**"), _Mark("within **")
"""Any characters of a segment; the end of a segment; whole segments; the place amid a segment that ``**`` covers."""

Token = Chars | _Mark


def check_pattern(text: str) -> str:
    """``text`` as a pattern, NFC-normalised; raises ``InvalidName`` naming what is wrong with it."""
    pattern = unicodedata.normalize("NFC", text)
    shown = ascii(pattern[:40])
    if pattern.startswith("/"):
        raise InvalidName(f"the pattern {shown} is absolute: give it from the top of the shared tree")
    if "\\" in pattern:
        raise InvalidName(f"the pattern {shown} has a backslash: part with '/', write '[*]' for a plain '*'")
    if pattern.endswith("/"):
        raise InvalidName(f"the pattern {shown} ends with '/': write {pattern[:36] + '**'!a} for all below it")
    if "{" in pattern.replace("[{]", ""):
        raise InvalidName(f"the pattern {shown} has a '{{': give several patterns, or write '[{{]' for a plain one")
    check_name(pattern, "pattern")
    _tokens(pattern)
    return pattern


@lru_cache(maxsize=4096)
def _tokens(pattern: str) -> tuple[Token, ...]:
    """Its tokens, each segment ended by ``SLASH``; raises ``InvalidName``."""
    found: list[Token] = []
    for segment in pattern.split("/"):
        if segment == "**":
            if found[-2:] != [DEEP, WITHIN]:
                found += [DEEP, WITHIN]
        else:
            found += [*_segment(segment, pattern), SLASH]
    return tuple(found)


def _segment(text: str, pattern: str) -> list[Token]:
    found: list[Token] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char == "*":
            if text[at + 1 : at + 2] == "*":
                raise InvalidName(f"the pattern {pattern[:40]!a} has '**' within a name: it stands between '/' only")
            found.append(STAR)
        elif char == "?":
            found.append(ANY)
        elif char == "[":
            end = text.find("]", at + 3 if text[at + 1 : at + 2] == "!" else at + 2)
            if end < 0:
                raise InvalidName(f"the pattern {pattern[:40]!a} has a '[' without ']': write '[[]' for a plain one")
            found.append(_set(text[at + 1 : end], pattern))
            at = end
        else:
            found.append(Chars(((char, char),)))
        at += 1
    return found


def _set(text: str, pattern: str) -> Chars:
    others = text.startswith("!")
    rest = text[1:] if others else text
    ranges = []
    at = 0
    while at < len(rest):
        low = high = rest[at]
        if rest[at + 1 : at + 2] == "-" and at + 2 < len(rest):
            high = rest[at + 2]
            at += 2
        if high < low:
            raise InvalidName(f"the pattern {pattern[:40]!a} has the range {low}-{high}, which is empty: turn it round")
        ranges.append((low, high))
        at += 1
    if len(ranges) > MAX_SET:
        raise InvalidName(f"the pattern {pattern[:40]!a} has a set of {len(ranges)}: at most {MAX_SET} are accepted")
    return Chars(tuple(ranges), others)


class _Automaton:
    """A pattern whose places are bits; ``run`` moves a set of them along another pattern's tokens."""

    def __init__(self, tokens: tuple[Token, ...]) -> None:
        self._tokens = tokens
        self._end = 1 << len(tokens)
        self._meeting: dict[Chars, int] = {}
        self._stars = self._where(STAR)
        self._slashes = self._where(SLASH)
        self._deep = self._where(DEEP)
        self._within = self._where(WITHIN)
        self._chars = sum(1 << at for at, token in enumerate(tokens) if isinstance(token, Chars))
        self._starts = 1 | self._deep | (self._slashes << 1) | (self._within << 1)

    def _where(self, mark: _Mark) -> int:
        return sum(1 << at for at, token in enumerate(self._tokens) if token == mark)

    def _closed(self, places: int) -> int:
        """With those that are reached without any character: past ``**`` first, which a star may follow."""
        places |= (places & self._deep) << 2
        return places | ((places & self._stars) << 1)

    def _of(self, chars: Chars) -> int:
        """Places whose set meets ``chars``."""
        found = self._meeting.get(chars)
        if found is None:
            found = sum(
                1 << at for at, token in enumerate(self._tokens) if isinstance(token, Chars) and token.meets(chars)
            )
            self._meeting[chars] = found
        return found

    def meets(self, tokens: tuple[Token, ...]) -> bool:
        """Whether some path fits this pattern and ``tokens``."""
        places = self._closed(1)
        for token in tokens:
            if isinstance(token, Chars):
                moved = ((places & self._of(token)) << 1) | (places & (self._stars | self._within))
                places = self._closed(moved | ((places & self._deep) << 1))
            elif token == SLASH:
                places = self._closed(((places & self._slashes) << 1) | ((places & self._within) >> 1))
            elif token == STAR:
                # A carry runs through each row of places that any character of a segment passes.
                row = self._chars | self._stars | self._deep
                places |= ((places & row) + row) ^ row
            elif token == DEEP:
                places = self._closed(self._starts & -(places & -places))
            if not places:
                return False
        return bool(places & self._end)


@lru_cache(maxsize=1024)
def _automaton(pattern: str) -> _Automaton:
    return _Automaton(_tokens(pattern))


def overlap(one: str, other: str) -> bool:
    """Whether some path fits both patterns, which are as :func:`check_pattern` returned them."""
    if one == other:
        return True
    first, second = _tokens(one), _tokens(other)
    for mine, theirs in zip(first, second, strict=False):
        if isinstance(mine, _Mark) or isinstance(theirs, _Mark):
            if mine == theirs == SLASH:
                continue
            break
        if not mine.meets(theirs):
            return False
    return _automaton(one).meets(second)


def check_patterns(texts: Iterable[str], most: int) -> tuple[str, ...]:
    """``texts`` as patterns, sorted, each once; raises ``UsageError`` unless there are 1 to ``most``."""
    if isinstance(texts, str):
        raise UsageError(f"give a list of patterns: [{texts[:40]!r}]")
    found = tuple(sorted({check_pattern(text) for text in texts}))
    if not 1 <= len(found) <= most:
        raise UsageError(f"{len(found)} patterns are out of range: give 1 to {most}")
    return found
