"""Path locks: claims on parts of a tree of files, by patterns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import Field, field_validator

from ghcoord.errors import InvalidName
from ghcoord.model import lock as model
from ghcoord.model.codec import Record
from ghcoord.model.lock import Ask, Grant, Lock, Mode, lock_of
from ghcoord.model.lock_globs import check_pattern, overlap

MAX_PATTERNS = 16
"""Most patterns of one path lock."""

MAX_CLAIMS = 500
"""Most path locks of a hub at a time."""

MAX_HELD_PATTERNS = 1000
"""Most patterns of all path locks together: who takes one compares its own with each of them (0.2 s at most in
practice, 5 s with 16 patterns of the worst shapes against 1,000 such).
"""


class PathClaim(Record):
    """A held path lock: its patterns and its only grant."""

    patterns: tuple[str, ...] = Field(min_length=1, max_length=MAX_PATTERNS)
    grant: Grant

    @field_validator("patterns")
    @classmethod
    def _readable(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(check_pattern(pattern) for pattern in patterns)
        except InvalidName as error:
            raise ValueError(error.message) from None

    @property
    def token(self) -> int:
        """Names the record: each grant has one of its own."""
        return self.grant.token

    @property
    def name(self) -> str:
        """What it is called where locks have names."""
        return name_of(self.patterns)

    def lock(self) -> Lock:
        """It as callers see it."""
        return lock_of(self.grant, self.name, paths=self.patterns)


def name_of(patterns: Iterable[str]) -> str:
    """What a path lock with ``patterns`` is called in messages and lists."""
    return " ".join(patterns)


def overlapping(some: Sequence[str], others: Sequence[str]) -> bool:
    """Whether some path fits one of the patterns ``some`` and one of ``others``."""
    return any(overlap(one, other) for one in some for other in others)


def meets(claim: PathClaim, patterns: Sequence[str]) -> bool:
    """Whether some path fits a pattern of ``claim`` and one of ``patterns``."""
    return overlapping(patterns, claim.patterns)


def in_the_way(claims: Iterable[PathClaim], patterns: Sequence[str], mode: Mode) -> list[PathClaim]:
    """Those of ``claims`` beside which ``patterns`` cannot be held as ``mode``: readers bear readers."""
    return [
        claim
        for claim in claims
        if not (mode is Mode.SHARED and claim.grant.mode is Mode.SHARED) and meets(claim, patterns)
    ]


def claim(patterns: tuple[str, ...], ask: Ask, *, now: float, revision: int) -> PathClaim:
    """A new path lock."""
    return PathClaim(patterns=patterns, grant=model.grant(ask, now=now, revision=revision))
