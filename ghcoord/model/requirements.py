"""What a task needs and a worker offers, and whether the two fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from ghcoord.model.codec import Number
from ghcoord.model.tier import Tier, rank_of

SANDBOXED = frozenset({"run.python", "shell", "exec", "pkg.install", "test.run", "python.prompt"})
"""Tools that start a process of the task's in the worker's sandbox: they need a full one unless the task says less."""


def default_tier(tool: str) -> Tier:
    """The least sandbox that a task of ``tool`` needs when its submitter says nothing."""
    return Tier.FULL if tool in SANDBOXED else Tier.NONE


class Requirements(BaseModel):
    """The least that a worker must have: cores, memory in MiB, capabilities, and the tier of its sandbox.

    A capability is met by a label of the worker (``gpu``, or ``os=linux`` for a
    label with that value) or by a task type that it serves.  Without ``sandbox``
    the tool decides: see :func:`default_tier`.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    min_cpu_cores: Number = 0
    min_memory_mb: Number = 0
    required_capabilities: tuple[str, ...] = Field(default=(), max_length=20)
    sandbox: Tier | None = None


class Offer(NamedTuple):
    """What a worker offers: the types and tools it serves, its cores, its memory in MiB, its labels, its sandbox."""

    types: Collection[str]
    tools: Collection[str]
    cpu_cores: int
    memory_mb: int
    labels: Mapping[str, str]
    sandbox: str = Tier.NONE


class Need(NamedTuple):
    """What a task needs of a worker. Tasks of equal need wait in one line.

    ``sandbox`` is the tier that its submitter named, ``None`` where the tool decides.
    """

    type: str
    tool: str
    cpu_cores: int = 0
    memory_mb: int = 0
    capabilities: tuple[str, ...] = ()
    sandbox: Tier | None = None

    @classmethod
    def of(cls, type: str, tool: str, requirements: Requirements | None) -> Need:
        """The need of a task; an empty ``type`` stands for the tool's name."""
        if requirements is None:
            return cls(type or tool, tool)
        capabilities = tuple(sorted(set(requirements.required_capabilities)))
        cores, memory = requirements.min_cpu_cores, requirements.min_memory_mb
        return cls(type or tool, tool, cores, memory, capabilities, requirements.sandbox)

    @property
    def tier(self) -> Tier:
        """The least sandbox that it needs."""
        return default_tier(self.tool) if self.sandbox is None else self.sandbox

    def met_by(self, offer: Offer) -> bool:
        """Whether a worker that offers this can run the task."""
        return self.tool in offer.tools and (self.type == self.tool or self.type in offer.types) and self.fits(offer)

    def fits(self, offer: Offer) -> bool:
        """Whether the worker is large enough and has capabilities and sandbox, whatever tools and types it serves."""
        return (
            self.cpu_cores <= offer.cpu_cores
            and self.memory_mb <= offer.memory_mb
            and self.tier.rank <= rank_of(offer.sandbox)
            and all(has_capability(offer, capability) for capability in self.capabilities)
        )


def has_capability(offer: Offer, capability: str) -> bool:
    """Whether a label, a type or a tool of the worker is this capability."""
    label, equals, value = capability.partition("=")
    if equals:
        return offer.labels.get(label) == value
    return capability in offer.labels or capability in offer.types or capability in offer.tools
