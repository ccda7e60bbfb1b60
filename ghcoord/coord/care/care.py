"""Looking after a hub: how far back its history goes, and a copy of it as a file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ghcoord.coord.context import Context
from ghcoord.coord.layout import FLEET, META
from ghcoord.errors import Corrupt, Unsupported, UsageError
from ghcoord.model.codec import sane, stamp
from ghcoord.store.base import CommitInfo, Oid, Store, Tell
from ghcoord.store.bundle import Written, write_bundle
from ghcoord.store.heads import AHEAD, stamp_of
from ghcoord.store.message import Stamp, read_stamp
from ghcoord.store.tx import Tx

FLOOR = 60.0
"""Seconds of history that every gc leaves: who sent a commit and got no answer looks for it there."""

FLOOR_REMOTE = 3600.0
"""The same where commits travel over a network and may be sent again for half an hour."""


@dataclass(frozen=True, slots=True)
class GcReport:
    """What a gc did, or with ``dry_run`` would do.

    ``retention`` in seconds; ``since`` has the moment that each space's history
    now goes back to; sizes are bytes of all objects.  ``postponed`` says why
    what is no longer needed was left for the next time.
    """

    dry_run: bool
    retention: float
    since: dict[str, datetime]
    commits: int
    commits_cut: int
    objects: int
    bytes_before: int
    bytes_after: int
    postponed: str


def unheard(what: str, count: int) -> None:
    """Nobody wants to hear how far it is."""


def gc(context: Context, retention: float | None, dry_run: bool, tell: Tell) -> GcReport:
    """Let history older than ``retention`` seconds go, and everything that only it needed.

    Raises ``Unsupported`` where that is not offered, ``Unavailable`` while another one runs.
    """
    store = context.transactor.store
    kept = context.config().retention_history if retention is None else retention
    if kept < 0:
        raise UsageError("a retention cannot be negative")
    floor = FLOOR_REMOTE + store.capabilities.clock_margin if store.capabilities.remote else FLOOR
    kept = max(kept, floor)
    limit = context.now() - kept
    cut: set[Oid] = set()
    since: dict[str, datetime] = {}
    for space, head in sorted(store.heads().items()):
        tell(f"reading {space}", 0)
        ends, oldest = _history(store, head, limit, context.now())
        cut |= ends
        since[space] = sane(stamp(oldest))
    done = store.collect(cut, dry_run=dry_run, tell=tell)
    report = GcReport(
        dry_run,
        kept,
        since,
        done.commits,
        done.commits_cut,
        done.objects,
        done.bytes_before,
        done.bytes_after,
        done.postponed,
    )
    # Where history is written again, the commits on top of it say so themselves.
    if not dry_run and store.capabilities.keeps_objects:
        _note(context, report)
    return report


def _note(context: Context, report: GcReport) -> None:
    def run(tx: Tx) -> None:
        tx.event(
            META,
            "history collected",
            by=context.actor,
            retention=report.retention,
            commits=report.commits_cut,
            bytes_before=report.bytes_before,
            bytes_after=report.bytes_after,
        )

    if report.commits_cut or report.bytes_after < report.bytes_before // 2:
        context.transact((META,), run)


def export(context: Context, file: Path, prefix: str, history: bool, tell: Tell) -> Written:
    """Write the hub as it is now into a git bundle at ``file``, replacing what is there.

    Without ``history`` each space comes with its last commit by ghcoord and
    what people committed since.
    """
    store = context.transactor.store
    if not store.capabilities.keeps_objects:
        raise Unsupported("this hub keeps its objects elsewhere, and export is not offered there")
    for last in (False, True):
        heads = store.heads()
        ends = [] if history else [_history(store, head, math.inf, context.now())[0] for head in heads.values()]
        try:
            return write_bundle(store, file, prefix, heads, set().union(*ends), FLEET, tell)
        except Corrupt:
            if last:
                raise  # the first time a gc may have taken away what was just to be read
    raise AssertionError("unreachable")


def _history(store: Store, head: Oid, limit: float, now: float) -> tuple[set[Oid], float]:
    """The commits at which a space's history is to end, and the time of the oldest that stays.

    They are the nearest ones, on each way back, that ghcoord made before
    ``limit``.  Never one of a person's: such commits are judged by what lies
    below them, and must find it.
    """
    ends: set[Oid] = set()
    oldest = now
    for info, own in _stamped(store, head, ends):
        if own is not None:
            made = _made_at(info, own, now)
            oldest = min(oldest, max(0.0, made))
            if made < limit and stamp_of(store, info) is not None:
                ends.add(info.oid)
    return ends, oldest


def _stamped(store: Store, head: Oid, ends: set[Oid]) -> Iterator[tuple[CommitInfo, Stamp | None]]:
    """Commits from ``head`` on, not beyond those in ``ends``, each with what its trailers claim."""
    seen = {head}
    todo = [head]
    while todo:
        try:
            info = store.commit_info(todo.pop())
        except Corrupt:
            continue  # history was cut here before
        yield info, read_stamp(info.message)
        if info.oid not in ends:
            todo += [parent for parent in info.parents if parent not in seen]
            seen.update(info.parents)


def _made_at(info: CommitInfo, own: Stamp, now: float) -> float:
    """When a commit was made: its revision is that time or later, unless a person made it up."""
    claimed = own.revision / 1000
    return max(float(info.time), claimed) if claimed <= now + AHEAD else float(info.time)
