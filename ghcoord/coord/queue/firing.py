"""Schedules: tasks made at their times."""

from __future__ import annotations

from ghcoord.store.tx import Tx


def fire_due(tx: Tx) -> int:
    """Make the tasks of the schedules that are due; returns how many."""
    return 0


def next_fire(tx: Tx) -> float | None:
    """When the next schedule fires, in seconds since the epoch."""
    return None
