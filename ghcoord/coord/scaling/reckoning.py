"""What the server itself tells of a scaler's runs, whatever the record says: many may write to a hub.

A run counts as the scaler's by the worker's id in its title.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from ghcoord.coord.scaling.decision import HOUR, Policy
from ghcoord.store.dispatching import RemoteRun

LONGEST_RUN = 6 * HOUR
"""Seconds that a job runs at most on a hosted runner: older runs are over."""

SUFFIX = 12
"""Characters of chance in the id of a run's worker."""

_NAMES = re.compile(r"[A-Za-z0-9._-]+")


def names(run: RemoteRun, worker: str) -> bool:
    """Whether the run's title names ``worker``."""
    return worker in _NAMES.findall(run.title)


def is_own(scaler: str, worker: str) -> bool:
    """Whether ``worker`` is an id as the scaler of that name gives them."""
    return re.fullmatch(rf"{re.escape(scaler)}-[0-9a-z]{{{SUFFIX}}}", worker, re.ASCII) is not None


def room(
    scaler: str,
    listed: Iterable[RemoteRun],
    known: Collection[str],
    policy: Policy,
    *,
    counted: int,
    sent: int,
    now: float,
) -> tuple[int, str]:
    """How many more runs may be started, and why no more.

    ``listed`` are the server's runs; ``known`` the workers in the record, of
    which the decision took ``counted`` for live or to come; ``sent`` counts the
    dispatches of this process within the last hour; ``now`` in seconds since
    the epoch.  So a record from which somebody removes runs leads neither
    beyond the maximum nor beyond the budget.
    """
    own = {worker: run for run in listed for worker in _NAMES.findall(run.title) if is_own(scaler, worker)}
    left = policy.budget - max(sent, sum(now - run.created <= HOUR for run in own.values()))
    if left <= 0:
        return 0, f"the budget of {policy.budget} dispatches an hour is used up"
    strange = sum(not run.over for worker, run in own.items() if worker not in known)
    free = policy.maximum - counted - strange
    if free < left:
        return max(0, free), f"the maximum of {policy.maximum} is reached{_why(strange)}"
    return left, "the budget is reached"


def _why(strange: int) -> str:
    if not strange:
        return ""
    return f": the server has {strange} more that the record does not know, of a scaler of this name"
