"""What a task needs and a worker offers, and whether the two fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from ghcoord.model.codec import Number


class Requirements(BaseModel):
    """The least that a worker must have: cores, memory in MiB, and capabilities.

    A capability is met by a label of the worker (``gpu``, or ``os=linux`` for a
    label with that value) or by a task type that it serves.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    min_cpu_cores: Number = 0
    min_memory_mb: Number = 0
    required_capabilities: tuple[str, ...] = Field(default=(), max_length=20)


class Offer(NamedTuple):
    """What a worker offers: the types and tools it serves, its cores, its memory in MiB, its labels."""

    types: Collection[str]
    tools: Collection[str]
    cpu_cores: int
    memory_mb: int
    labels: Mapping[str, str]


class Need(NamedTuple):
    """What a task needs of a worker. Tasks of equal need wait in one line."""

    type: str
    tool: str
    cpu_cores: int = 0
    memory_mb: int = 0
    capabilities: tuple[str, ...] = ()

    @classmethod
    def of(cls, type: str, tool: str, requirements: Requirements | None) -> Need:
        """The need of a task; an empty ``type`` stands for the tool's name."""
        if requirements is None:
            return cls(type or tool, tool)
        capabilities = tuple(sorted(set(requirements.required_capabilities)))
        return cls(type or tool, tool, requirements.min_cpu_cores, requirements.min_memory_mb, capabilities)

    def met_by(self, offer: Offer) -> bool:
        """Whether a worker that offers this can run the task."""
        return self.tool in offer.tools and (self.type == self.tool or self.type in offer.types) and self.fits(offer)

    def fits(self, offer: Offer) -> bool:
        """Whether the worker is large enough and has the capabilities, whatever tools and types it serves."""
        return (
            self.cpu_cores <= offer.cpu_cores
            and self.memory_mb <= offer.memory_mb
            and all(_has(offer, capability) for capability in self.capabilities)
        )


def _has(offer: Offer, capability: str) -> bool:
    label, equals, value = capability.partition("=")
    if equals:
        return offer.labels.get(label) == value
    return capability in offer.labels or capability in offer.types or capability in offer.tools
