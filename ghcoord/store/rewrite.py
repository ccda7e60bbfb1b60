"""Collecting history on a server, where only writing it again lets the old one go: what is to be written.

Each space whose history is to be shorter becomes new commits: the oldest that
stays has no parents any more, those above it are as they were (tree, author,
time, message, so that operation ids and revisions are found as before), and one
on top has a higher revision, so that nobody takes the new head for an old
state.  All heads are compared when it is committed: a writer that was first
makes the collection start again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from ghcoord.errors import Corrupt, NewerSchema
from ghcoord.store.base import CommitInfo, Oid, Operation, Store
from ghcoord.store.heads import recorded_schema, revision_of, stamp_of
from ghcoord.store.message import REVISION_LIMIT
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.takeover import SCHEMA

EVENT = "history collected"
ATTEMPTS = 5
"""Times that a collection starts again because a writer was first."""

_KEPT_HEADERS = (b"tree ", b"author ", b"committer ", b"encoding ")


@dataclass(frozen=True, slots=True)
class Step:
    """A commit to write again; ``parents`` are those of its old parents that are written again too."""

    old: CommitInfo
    parents: tuple[Oid, ...]


@dataclass(frozen=True, slots=True)
class SpacePlan:
    """One space: ``steps`` in the order of writing, the last being the old ``head``; then ``root`` goes on top.

    ``root`` is the content of the root record of the commit on top, the only
    file that differs from the old head's.
    """

    space: str
    head: Oid
    steps: tuple[Step, ...]
    root: bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """What a collection writes: ``op`` stands in the commits on top.

    ``cut`` counts the commits that go, where that was asked for.  ``left``
    names the spaces left for the next time: a person's commit there is not
    adopted yet, and the next transaction does that.
    """

    spaces: tuple[SpacePlan, ...]
    op: Operation
    cut: int
    kept: int
    left: tuple[str, ...]

    @property
    def expected(self) -> dict[str, Oid]:
        """The heads to compare."""
        return {one.space: one.head for one in self.spaces}


def plan_rewrite(
    store: Store, heads: Mapping[str, Oid], cut: Collection[Oid], op_id: str, actor: str, *, count: bool = True
) -> Plan:
    """What lets history end at the commits ``cut`` in every space of ``heads``.

    A space in which nothing lies below them is left alone.  ``count`` reads
    all of the old history to tell how many commits go.  Raises ``NewerSchema``
    for a space that a newer ghcoord writes, ``Corrupt`` for a forged revision.
    """
    now = store.server_time()
    revision = max([int(now * 1000), *(revision_of(store, space, head) + 1 for space, head in heads.items())])
    if revision >= REVISION_LIMIT:
        raise Corrupt("a forged revision leaves no room for another: 'ghcoord doctor' names the space")
    ends = frozenset(cut)
    spaces: list[SpacePlan] = []
    left: list[str] = []
    events: dict[str, tuple[str, ...]] = {}
    gone = kept = 0
    for space, head in sorted(heads.items()):
        steps, below = _steps(store, head, ends)
        kept += len(steps)
        if not below:
            continue
        if stamp_of(store, store.commit_info(head)) is None:
            left.append(space)
            continue
        fewer = _count(store, below, {step.old.oid for step in steps}) if count else None
        gone += fewer or 0
        known = {"commits": fewer} if count else {}
        event = {"at": round(now, 3), "kind": EVENT, "by": actor, "space": space, **known}
        events[space] = (json.dumps(event, ensure_ascii=True),)
        spaces.append(SpacePlan(space, head, tuple(steps), _root(store, space, head, revision)))
        kept += 1
    summaries = {one.space: EVENT for one in spaces}
    op = Operation((op_id,), revision, int(now), actor, summaries, events)
    return Plan(tuple(spaces), op, gone, kept, tuple(left))


def _steps(store: Store, head: Oid, ends: Collection[Oid]) -> tuple[list[Step], list[Oid]]:
    """The commits that stay, parents first, and the parents that are left out."""
    infos: dict[Oid, CommitInfo] = {}
    order: list[Oid] = []
    todo = [(head, False)]
    while todo:
        oid, done = todo.pop()
        if done:
            order.append(oid)
        elif oid not in infos:
            try:
                info = infos[oid] = store.commit_info(oid)
            except Corrupt:
                if oid == head:
                    raise
                continue  # history was cut here before
            todo.append((oid, True))
            if oid not in ends:
                todo += [(parent, False) for parent in reversed(info.parents) if parent not in infos]
    steps = [Step(infos[oid], tuple(p for p in infos[oid].parents if p in infos and oid not in ends)) for oid in order]
    return steps, [p for oid in order if oid in ends for p in infos[oid].parents if p not in infos]


def _count(store: Store, below: Sequence[Oid], kept: Collection[Oid]) -> int:
    seen = {oid for oid in below if oid not in kept}
    todo = list(seen)
    while todo:
        try:
            parents = store.commit_info(todo.pop()).parents
        except Corrupt:
            continue  # cut off in this copy before
        new = {oid for oid in parents if oid not in seen and oid not in kept}
        seen |= new
        todo += new
    return len(seen)


def _root(store: Store, space: str, head: Oid, revision: int) -> bytes:
    snapshot = Snapshot(store, space, head)
    schema = recorded_schema(snapshot)
    if schema is not None and schema > SCHEMA:
        raise NewerSchema(
            f"the space {space!r} has schema {schema} by now, this ghcoord knows {SCHEMA}: upgrade ghcoord"
        )
    root = {"revision": revision, "schema": SCHEMA if schema is None else schema, "space": space}
    return (json.dumps(root, indent=2, sort_keys=True) + "\n").encode()


def rewritten(data: bytes, parents: Sequence[Oid]) -> bytes:
    """The commit object ``data`` with other parents. Signatures go: they sign the old ones."""
    head, blank, message = data.partition(b"\n\n")
    kept = [line for line in head.split(b"\n") if line.startswith(_KEPT_HEADERS)]
    lines = [*kept[:1], *(b"parent " + oid.encode() for oid in parents), *kept[1:]]
    return b"\n".join(lines) + (blank or b"\n\n") + message


def write_again(plan: SpacePlan, write: Callable[[Step, tuple[Oid, ...]], Oid]) -> dict[Oid, Oid]:
    """Write the steps of ``plan`` through ``write``, which gets the new parents; new ids by old ones."""
    made: dict[Oid, Oid] = {}
    for step in plan.steps:
        made[step.old.oid] = write(step, tuple(made[parent] for parent in step.parents))
    return made
