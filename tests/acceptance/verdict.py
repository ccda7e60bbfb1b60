"""What a bare repository's own history says of a run: read with pygit2, by nothing of the drivers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pygit2

from ghcoord.clock import SystemRuntime
from ghcoord.coord.context import TASK_TABLE
from ghcoord.coord.layout import FLEET, LOCKS, key_path
from ghcoord.model.task import State
from ghcoord.store.local import LocalStore
from ghcoord.store.snapshot import Snapshot
from ghcoord.testing.history import Outcome, Violation, check_increasing
from tests.acceptance.mixed import CALLS, COUNTS, TASKS, Told
from tests.acceptance.seeded import Run, Sent
from tests.coord.world import check_queue

MEMORY = "memory/global"


@dataclass(frozen=True, slots=True)
class Made:
    """A commit of a branch: its trailers and events as the message has them, and the files it changed."""

    oid: str
    parent: str | None
    ops: tuple[str, ...]
    revision: int
    events: tuple[dict[str, Any], ...]
    changed: dict[str, bytes | None]


class Branches:
    """All branches of a hub, oldest commit first. Raises ``Violation`` where one is no straight line."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.git = pygit2.Repository(str(folder))
        self.of: dict[str, list[Made]] = {}
        for name in self.git.references:
            if name.startswith(prefix):
                space = name.removeprefix(prefix)
                head = self.git.references[name].peel(pygit2.Commit)
                self.of[space] = list(self._line(space, head))[::-1]

    def _line(self, space: str, commit: pygit2.Commit) -> Iterator[Made]:
        while True:
            if len(commit.parents) > 1:
                raise Violation(f"{space}: {commit.id} has {len(commit.parents)} parents")
            yield self._made(commit)
            if not commit.parents:
                return
            commit = commit.parents[0]

    def _made(self, commit: pygit2.Commit) -> Made:
        lines = commit.message.splitlines()
        ops = tuple(line.removeprefix("Ghcoord-Op: ") for line in lines if line.startswith("Ghcoord-Op: "))
        revisions = [line.partition(": ")[2] for line in lines if line.startswith("Ghcoord-Revision: ")]
        if not ops or len(revisions) != 1:
            raise Violation(f"{commit.id} has the operations {ops} and the revisions {revisions}")
        events = tuple(json.loads(line[2:]) for line in lines if line.startswith("- {"))
        tree = commit.tree
        if commit.parents:
            deltas = commit.parents[0].tree.diff_to_tree(tree).deltas
            paths = {delta.new_file.path for delta in deltas}
        else:
            paths = {each.new_file.path for each in tree.diff_to_tree(swap=True).deltas}
        parent = str(commit.parents[0].id) if commit.parents else None
        changed = {path: self._at(tree, path) for path in paths}
        return Made(str(commit.id), parent, ops, int(revisions[0]), events, changed)

    def _at(self, tree: pygit2.Tree, path: str) -> bytes | None:
        try:
            found = tree[path]
        except KeyError:
            return None
        return found.data if isinstance(found, pygit2.Blob) else None

    def last(self, space: str, path: str) -> bytes | None:
        """What is at ``path`` in the end."""
        return next((made.changed[path] for made in reversed(self.of.get(space, [])) if path in made.changed), None)


def violations(world: Run, told: Told) -> list[str]:
    """What is wrong, by each of the checks."""
    found = []
    try:
        branches = Branches(Path(world.repository.folder), world.prefix)
    except Violation as violation:
        return [str(violation)]
    checks: list[Callable[[], None]] = [
        lambda: check_lines(world, branches),
        lambda: check_once(branches),
        lambda: check_sent(world.sent, branches),
        lambda: check_counters(told, branches),
        lambda: check_memory(told, branches),
        lambda: check_fences(world, told, branches),
        lambda: check_tasks(world, told, branches),
    ]
    for check in checks:
        try:
            check()
        except Violation as violation:
            found.append(str(violation))
    return found


def check_lines(world: Run, branches: Branches) -> None:
    """Revisions rise along each branch, heads moved from each commit to a child of it, and none was ever lost."""
    for space, line in branches.of.items():
        check_increasing([made.revision for made in line], f"revisions of {space}")
    steps: dict[str, list[str]] = {}
    for landing in world.repository.landings:
        for move in landing.moves:
            if not move.ref.startswith(world.prefix) or move.before == move.after:
                continue
            space = move.ref.removeprefix(world.prefix)
            heads = steps.setdefault(space, [])
            if move.before != (heads[-1] if heads else None) or move.after is None:
                raise Violation(f"{space} went from {move.before} to {move.after}, and was at {heads[-1:]}")
            heads.append(move.after)
    lines = {space: [made.oid for made in line] for space, line in branches.of.items()}
    if lines != steps:
        space = next(space for space in {*lines, *steps} if lines.get(space) != steps.get(space))
        raise Violation(f"{space} was at {steps.get(space)}, and its history is {lines.get(space)}")


def check_once(branches: Branches) -> None:
    """No operation is in a branch more than once."""
    for space, line in branches.of.items():
        made = Counter(op for one in line for op in one.ops)
        twice = [op for op, times in made.items() if times > 1]
        if twice:
            raise Violation(f"the operations {twice} are in {space} more than once")


def check_sent(sent: list[Sent], branches: Branches) -> None:
    """What a sender took for won is there, in all of its spaces, what it took for lost or refused is not."""
    found: dict[str, dict[str, str | None]] = {}
    for space, line in branches.of.items():
        for made in line:
            for op in made.ops:
                found.setdefault(op, {})[space] = made.parent
    asked: dict[str, list[Sent]] = {}
    for one in sent:
        for op in one.ops:
            asked.setdefault(op, []).append(one)
            if one.outcome == "won" and found.get(op) != one.parents:
                raise Violation(f"{one} was acknowledged, and there is {found.get(op)}")
    for op, parents in found.items():
        # The same operation may have been sent for several states, and again after a limit refused it.
        those = [one for one in asked.get(op, []) if one.parents == parents]
        if not those:
            raise Violation(f"nobody sent {op} to go on from {parents}: {asked.get(op)}")
        if all(one.outcome not in ("won", "unknown", "OutcomeUnknown") for one in those):
            raise Violation(f"{those} is there")


def check_counters(told: Told, branches: Branches) -> None:
    """Each increment was applied as often as its caller was told, in one commit; each counter is their number."""
    for space, history in told.raw.items():
        applied = applied_in(branches, space)
        history.check_applied_once(applied)
        history.check_counter(int(branches.last(space, COUNTS) or b"0"))
        for call in applied:
            if (times := int(branches.last(space, f"{CALLS}/{call}") or b"0")) != 1:
                raise Violation(f"{call} was applied {times} times")


def applied_in(branches: Branches, space: str) -> list[str]:
    """The increments that a space's commits hold."""
    prefix = f"{CALLS}/"
    return [
        path.removeprefix(prefix)
        for made in branches.of.get(space, [])
        for path in made.changed
        if path.startswith(prefix)
    ]


def check_memory(told: Told, branches: Branches) -> None:
    """Each change by compare-and-set happened once if its caller was told so, and the counter is their number."""
    keys = {key_path(call.id): call.id for call in told.sets.calls}
    told.sets.check_applied_once(
        [keys[path] for made in branches.of.get(MEMORY, []) for path in made.changed if path in keys]
    )
    last = branches.last(MEMORY, key_path(COUNTS))
    told.sets.check_counter(json.loads(last)["value"] if last is not None else 0)


def check_fences(world: Run, told: Told, branches: Branches) -> None:
    """Tokens rise from grant to grant, one holder at a time; no write of an older one comes after a newer one's."""
    holder: int | None = None
    granted: list[int] = []
    for event in (event for made in branches.of.get(LOCKS, []) for event in made.events):
        if event["kind"] == "lock acquired":
            if holder is not None:
                raise Violation(f"the token {event['token']} was granted while {holder} was held")
            holder = int(event["token"])
            granted.append(holder)
        elif event["kind"] in ("lock released", "lock expired", "lock unlocked"):
            if holder != event["token"]:
                raise Violation(f"{event['kind']} of the token {event['token']} while {holder} was held")
            holder = None
    check_increasing(granted, "fencing tokens")
    if not set(told.tokens) <= set(granted):
        raise Violation(f"the tokens {set(told.tokens) - set(granted)} were told and never granted")
    written = [
        (made.revision, json.loads(record)["value"])
        for made in branches.of.get(MEMORY, [])
        if (record := made.changed.get(key_path("fenced"))) is not None
    ]
    tokens = [value["token"] for _, value in written]
    if tokens != sorted(tokens):
        raise Violation(f"a write under an older token came after a newer one's: {tokens}")
    told.fenced.check_applied_once([value["call"] for _, value in written])
    if not world.guarded:
        for revision, value in written:
            # Both spaces were in the write's transaction, so its revision orders it among the grants.
            present = max((one for one in granted if one < revision), default=0)
            if present != value["token"]:
                raise Violation(f"the write {revision} carries {value['token']}, the grant of its time was {present}")
    by_call = {value["call"]: (revision, value["token"]) for revision, value in written}
    for call in told.fenced.of(Outcome.DONE):
        if by_call[call.id] != call.value:
            raise Violation(f"{call.id} was told {call.value} and is {by_call[call.id]}")


def check_tasks(world: Run, told: Told, branches: Branches) -> None:
    """Every task succeeded once, by a lease that it was given; the leases' tokens rise; the index fits the records."""
    store = LocalStore(Path(world.repository.folder), SystemRuntime(), world.prefix)
    try:
        snapshot = Snapshot(store, FLEET, store.heads().get(FLEET))
        tasks = {task.id: task for task in TASK_TABLE.scan(snapshot)}
        if sorted(TASKS) != sorted(tasks):
            raise Violation(f"tasks {sorted(tasks)}")
        try:
            check_queue(snapshot, tasks)
        except AssertionError as wrong:
            raise Violation(f"what follows from the records is not there: {wrong}") from wrong
    finally:
        store.close()
    for task in tasks.values():
        wins = [(one.worker, one.token) for one in task.history if one.outcome == "succeeded"]
        if task.state is not State.SUCCEEDED or len(wins) != 1:
            raise Violation(f"the task {task.id} is {task.state} with {len(wins)} successes")
        if told.succeeded.get(task.id, set()) - set(wins):
            raise Violation(f"the task {task.id}: {told.succeeded[task.id]} were accepted, {wins} counted")
        check_increasing([one.token for one in task.history], f"tokens of {task.id}")
    events = [event for made in branches.of[FLEET] for event in made.events]
    for kind in ("task submitted", "task succeeded"):
        found = sorted(event["task"] for event in events if event["kind"] == kind)
        if sorted(TASKS) != found:
            raise Violation(f"{kind}: {found}")
