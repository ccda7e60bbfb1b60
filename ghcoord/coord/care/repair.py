"""Putting right what people, or a writer of another version, left behind: shown first, then done.

One function finds and mends.  Rehearsed, with its changes dropped, it is the
plan; in a transaction it is the repair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ghcoord.coord.artifacts.records import rebuild as rebuild_artifacts
from ghcoord.coord.care import adopt
from ghcoord.coord.care.rehearse import rehearse
from ghcoord.coord.care.settings import mended
from ghcoord.coord.context import Context
from ghcoord.coord.layout import (
    ARTIFACTS,
    FILES,
    FLEET,
    INDEX,
    KEYS,
    LOCKS,
    META,
    SCHEDULES,
    SESSIONS,
    SETTINGS_RECORD,
    TASKS,
    namespace_of,
)
from ghcoord.coord.locks.records import clean
from ghcoord.coord.memory import index as memory_index
from ghcoord.coord.queue.rebuild import rebuild
from ghcoord.coord.workers.recovery import Recovery
from ghcoord.model.lease import Judge
from ghcoord.store.base import ROOT_RECORD
from ghcoord.store.heads import parse_revision
from ghcoord.store.tx import Tx

SHOWN = 3
"""Paths that a repair names of those that it changes."""


@dataclass(frozen=True, slots=True)
class Repair:
    """One thing put right, or to be put right: ``what`` is done and ``why``.

    ``check`` is ``records``, ``index``, ``settings``, ``root``, ``locks`` or ``workers``.
    """

    check: str
    space: str
    what: str
    why: str


def repair(context: Context, recovery: Recovery, *, dry_run: bool) -> list[Repair]:
    """Mend every space and recover from workers that are gone; with ``dry_run`` only say what that would do."""
    judge = context.judge()
    done: list[Repair] = []
    for space in sorted(context.transactor.store.heads()):
        run = partial(_mend, space=space, judge=judge)
        done += rehearse(context, (space,), run) if dry_run else context.transact((space,), run, timeout=300.0)
    reaped = recovery.preview_reap() if dry_run else recovery.reap_now()
    for worker, taken in reaped.recovered.items():
        what = f"{taken.tasks} tasks and {taken.locks} locks taken from {worker!r}"
        done.append(Repair("workers", FLEET, what, "its lease is over"))
    for worker in reaped.removed:
        done.append(Repair("workers", FLEET, f"the record of {worker!r} removed", "it has been silent for long"))
    return done


def _mend(tx: Tx, *, space: str, judge: Judge) -> list[Repair]:
    found: list[Repair] = []
    for path, reason in adopt.clear_broken(tx, space):
        found.append(Repair("records", space, f"{path} set aside in broken/", reason))
    if space == FLEET:
        found += _anew(tx, space, "the queue's index and counts", (TASKS, SESSIONS, SCHEDULES), rebuild)
    elif namespace_of(space) is not None:
        found += _anew(tx, space, "the index and counts of the keys", (KEYS,), partial(_keys_anew, space=space))
    elif space == FILES:
        found += _anew(tx, space, "the index of the artifacts", (ARTIFACTS,), rebuild_artifacts)
    elif space == LOCKS:
        expired = clean(tx, judge)
        if expired:
            found.append(Repair("locks", space, f"{expired} locks removed", "their leases are over"))
    elif space == META:
        found += _settings(tx)
    if parse_revision(tx.read(space, ROOT_RECORD) or b"") == 0:
        found.append(Repair("root", space, f"{ROOT_RECORD} written anew", "it cannot be read"))
    for one in found:
        tx.event(space, "repaired", what=one.what, reason=one.why[:300])
    return found


def _keys_anew(tx: Tx, *, space: str) -> None:
    memory_index.rebuild(tx, space)


def _anew(tx: Tx, space: str, name: str, folders: tuple[str, ...], make: Callable[[Tx], None]) -> list[Repair]:
    """Make what follows from the records in ``folders`` anew; what that changes was wrong."""
    if not any(tx.names(space, folder) for folder in (*folders, INDEX)):
        return []  # nothing was ever there
    before = tx.changed(space)
    make(tx)
    wrong = sorted(tx.changed(space) - before)
    if not wrong:
        return []
    named = ", ".join(wrong[:SHOWN]) + (" …" if len(wrong) > SHOWN else "")
    return [Repair("index", space, f"{name} made anew", f"{len(wrong)} files do not agree with the records: {named}")]


def _settings(tx: Tx) -> list[Repair]:
    raw = tx.read(META, SETTINGS_RECORD)
    data, problems = mended(raw)
    if not problems:
        return []
    tx.write(META, SETTINGS_RECORD, data)
    return [Repair("settings", META, f"{SETTINGS_RECORD} written without what cannot be used", "; ".join(problems))]
