"""What a candidate brings to a look, and what it gets."""

from __future__ import annotations

from dataclasses import dataclass

from ghcoord.coord.scaling.decision import Decision
from ghcoord.coord.scaling.records import Leader


@dataclass(frozen=True, slots=True)
class Claim:
    """Who wants to scale. ``id`` is no other's; ``token`` is that of its lease, if it knows one; ``ttl`` in seconds.

    One that does not ``keep`` the lead takes it only to start runs; with ``starts`` off it starts none now.
    """

    id: str
    ttl: float
    token: int | None = None
    keep: bool = True
    starts: bool = True


@dataclass(frozen=True, slots=True)
class Look:
    """What a look led to: the decision, written down; or who leads instead. ``token`` is that of the own lease."""

    decision: Decision | None
    leader: Leader | None = None
    token: int | None = None
