"""How much a sandbox keeps apart, from nothing to everything, and which one a task gets unless it says so."""

from __future__ import annotations

from enum import StrEnum

from ghcoord.errors import UsageError


class Tier(StrEnum):
    """``full``: files, network, processes, IPC and users apart from the host's. ``partial``: files, network, kernel
    interfaces; other processes may be seen. ``none``: nothing.
    """

    NONE = "none"
    PARTIAL = "partial"
    FULL = "full"

    @property
    def rank(self) -> int:
        """0 for ``none`` to 2 for ``full``."""
        return _RANKS[self]


_RANKS = {Tier.NONE: 0, Tier.PARTIAL: 1, Tier.FULL: 2}


def check_tier(text: str) -> Tier:
    """``text`` as a tier; raises :class:`UsageError`."""
    try:
        return Tier(text)
    except ValueError:
        raise UsageError(f"{str(text)[:40]!r} is no sandbox tier: one of full, partial, none") from None


def rank_of(text: str) -> int:
    """The rank of a tier that a record names; of what is no tier, the lowest."""
    try:
        return Tier(text).rank
    except ValueError:
        return 0
