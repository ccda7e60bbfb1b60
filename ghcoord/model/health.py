"""How well a worker is: what its machine says, and the verdict that follows from it by fixed rules."""

from __future__ import annotations

from typing import NamedTuple

from ghcoord.model.worker import Health

FAULTS_UNHEALTHY = 3
"""Faults of the machine in a row (sandbox, workspace, threads) that make a worker unhealthy; one degrades it."""

FAILURES_DEGRADED = 5
"""Failed tasks in a row that degrade a worker: each may be the task's own fault, so many hardly."""

LOAD_DEGRADED = 2.0
"""Load average a core above which a worker is degraded."""

DISK_UNHEALTHY = 64
"""Free MiB in the folder of the workspaces below which a worker is unhealthy."""

DISK_DEGRADED = 512
"""Free MiB below which it is degraded."""


class Vitals(NamedTuple):
    """What a machine says: load average of a minute, this process's memory and the free disk space in MiB.

    ``None`` for what it does not say.
    """

    load: float | None = None
    memory_mb: float | None = None
    free_mb: float | None = None


def assess(vitals: Vitals, *, cores: int, active_tasks: int, faults: int = 0, failures: int = 0) -> Health:
    """The health to publish. ``faults`` of the machine and ``failures`` of tasks are counted in a row.

    Unhealthy: three faults, or under 64 MiB free.  Degraded: a fault, five
    failures, a load over twice the cores, or under 512 MiB free.
    """
    unhealthy: list[str] = []
    degraded: list[str] = []
    if faults:
        (unhealthy if faults >= FAULTS_UNHEALTHY else degraded).append(f"{faults} faults of this machine in a row")
    if vitals.free_mb is not None and vitals.free_mb < DISK_DEGRADED:
        which = unhealthy if vitals.free_mb < DISK_UNHEALTHY else degraded
        which.append(f"{vitals.free_mb:.0f} MiB free for workspaces")
    if failures >= FAILURES_DEGRADED:
        degraded.append(f"{failures} tasks failed in a row")
    if vitals.load is not None and vitals.load > LOAD_DEGRADED * max(1, cores):
        degraded.append(f"load {vitals.load:.1f} on {cores} cores")
    return Health(
        cpu=vitals.load,
        memory=vitals.memory_mb,
        active_tasks=active_tasks,
        health_status="unhealthy" if unhealthy else "degraded" if degraded else "healthy",
        reason=", ".join(unhealthy + degraded)[:500],
    )
