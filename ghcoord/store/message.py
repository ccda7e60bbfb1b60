"""The commit message: a line for people, events as JSON lines, trailers for machines.

Trailers are what resolves a lost reply: each commit names the operations it
holds and its revision.  They stand in the last paragraph; an event line starts
with ``- {``, so no content can pass for a trailer.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass

from ghcoord.store.base import Operation

REVISION_LIMIT = 2**53
"""Revisions stay below this: what every JSON reader keeps exact. None at or above it is believed or written."""

MAX_EVENTS = 500
"""Event lines in one commit at most; the rest is counted."""

_SUBJECTS = ("task", "lock", "worker", "key")
SKIP_CI = "[skip ci]"
_OP = "Ghcoord-Op: "
_REVISION = "Ghcoord-Revision: "
_ACTOR = "Ghcoord-Actor: "
_EVENT = "- "
_NUMBER = re.compile(r"[0-9]{1,16}")
_TRAILER = re.compile(r"[A-Za-z][A-Za-z0-9-]*: ")


EventLine = tuple[str, str]
"""Something that happened: its kind, and all of it as one JSON line."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a commit's trailers say."""

    ops: frozenset[str]
    revision: int


def format_message(space: str, op: Operation, *, with_actor: bool = False) -> str:
    """The message of the commit that ``op`` makes in ``space``.

    ``with_actor`` names who acts in a trailer, for servers that choose the author themselves.
    """
    subject = f"{space}: {op.summaries.get(space) or 'update'}"
    if len(subject) > 100:
        subject = subject[:97] + "..."
    parts = [f"{subject} {SKIP_CI}"]
    events = op.events.get(space)
    if events:
        parts.append("\n".join(_EVENT + line for line in events))
    actor = [_ACTOR + _one_line(op.actor)] if with_actor else []
    parts.append("\n".join([*(_OP + i for i in op.ids), f"{_REVISION}{op.revision}", *actor]))
    return "\n\n".join(parts) + "\n"


def read_stamp(message: str) -> Stamp | None:
    """The trailers of a commit's message; ``None`` where they are not ghcoord's.

    A person's commit may carry a copied message: :func:`ghcoord.store.heads.stamp_of` tells.
    """
    last = message.rstrip().rpartition("\n\n")[2].splitlines()
    if not last or not all(_TRAILER.match(line) for line in last):
        return None
    ops = frozenset(line[len(_OP) :] for line in last if line.startswith(_OP))
    revisions = [line[len(_REVISION) :] for line in last if line.startswith(_REVISION)]
    if not ops or len(revisions) != 1 or not _NUMBER.fullmatch(revisions[0]):
        return None
    revision = int(revisions[0])
    return Stamp(ops, revision) if revision < REVISION_LIMIT else None


def _one_line(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:80].strip() or "ghcoord"


def read_actor(message: str) -> str | None:
    """Who acted, where :func:`format_message` was told to say it."""
    last = message.rstrip().rpartition("\n\n")[2].splitlines()
    return next((line[len(_ACTOR) :] for line in last if line.startswith(_ACTOR)), None)


def read_events(message: str) -> list[str]:
    """The JSON event lines of a message, oldest first."""
    return [line[len(_EVENT) :] for line in message.splitlines() if line.startswith(_EVENT + "{")]


def read_summary(message: str) -> str:
    """The line for people, without the CI mark."""
    return message.partition("\n")[0].removesuffix(SKIP_CI).rstrip()


def summarise(events: list[EventLine], operations: int) -> str:
    """``task leased ×3, task succeeded``: what a commit did, for ``git log --oneline``."""
    kinds = Counter(kind for kind, _ in events)
    if not kinds:
        return "update" if operations == 1 else f"{operations} updates"
    if len(events) == 1:
        kind, line = events[0]
        only = json.loads(line)
        subject = next((only[name] for name in _SUBJECTS if only.get(name)), "")
        return f"{kind} {subject}".strip()
    return ", ".join(kind if count == 1 else f"{kind} ×{count}" for kind, count in kinds.items())


def cap_events(events: list[EventLine]) -> tuple[str, ...]:
    """At most ``MAX_EVENTS`` lines, with the number of those left out."""
    lines = tuple(line for _, line in events[:MAX_EVENTS])
    if len(events) <= MAX_EVENTS:
        return lines
    return (*lines, json.dumps({"kind": "events left out", "count": len(events) - MAX_EVENTS}))
