"""What the built-in tools are made with: one kit a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ghcoord.clock import Runtime
from ghcoord.execution.environment.settings import PackageSettings
from ghcoord.execution.process import GRACE, OUTPUT_CAP
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.model.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from ghcoord.coord.artifacts.artifacts import Artifacts


@dataclass(frozen=True)
class Kit:
    """A worker's means.

    Without a ``sandbox`` there are only tools that start nothing; without
    ``artifacts`` none that keep files in the hub.  ``grace`` is in seconds
    between SIGTERM and SIGKILL, ``output_cap`` in bytes a stream; ``limits`` is
    the worker's ceiling, which a call's own limits are under already.
    """

    sandbox: Sandbox | None
    runtime: Runtime
    grace: float = GRACE
    output_cap: int = OUTPUT_CAP
    limits: Limits = DEFAULT_LIMITS
    packages: PackageSettings = field(default_factory=PackageSettings)
    artifacts: Artifacts | None = None
    ends: list[Callable[[], None]] = field(default_factory=list)
    """What the worker calls at its end: tools that keep something running add to it."""
