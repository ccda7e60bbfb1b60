"""``transact``: the one primitive, and the only retry loop in the code base.

read → pure function → conditional commit → on conflict, run the function again
on the newer state.  Transactions queued in one process over the same spaces
leave as one commit (group commit); no result or exception leaves before that
commit is durable.

After a lost reply the operation ids in the commits' trailers decide: found
means won, a newer head without them means lost, and until one of the two is
known only the identical request is sent again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from ghcoord.clock import Runtime
from ghcoord.errors import (
    Conflict,
    Corrupt,
    Denied,
    HeadRegressed,
    OutcomeUnknown,
    StoreError,
    Throttled,
    TooLarge,
    Unavailable,
    Unsupported,
)
from ghcoord.ids import new_op_id
from ghcoord.store.base import ROOT_RECORD, ChangeSet, Oid, Operation, Store
from ghcoord.store.heads import HeadGuard, Mark, find_operation, revision_of
from ghcoord.store.listeners import Listeners
from ghcoord.store.message import REVISION_LIMIT, EventLine, cap_events, summarise
from ghcoord.store.pending import Pending, Riders
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.takeover import SCHEMA, Adopter, Migrator, take_over
from ghcoord.store.tx import Overlay, SpaceView, Tx

T = TypeVar("T")

MAX_BATCH = 1000
"""Transactions in one commit at most."""

RESEND_LIMIT = 1800.0
"""Seconds after which an unanswered request is not sent again: history may be squashed after an hour."""


@dataclass(slots=True)
class _Plan:
    """What a batch would do on one set of snapshots."""

    expected: dict[str, Oid | None]
    floor: int
    changes: dict[str, dict[str, bytes | None]] = field(default_factory=dict)
    op: Operation | None = None
    results: list[tuple[Any, Exception | None]] = field(default_factory=list)


class Transactor:
    """Runs transactions against one store. Thread-safe.

    ``actor`` is the author of the commits; ``adopt`` is called for what people
    committed by hand, ``migrate`` for what an older version wrote; ``marks`` are the heads an earlier process saw.
    :attr:`moved` tells of its commits, and of nobody else's.
    """

    def __init__(
        self,
        store: Store,
        runtime: Runtime,
        *,
        actor: str = "ghcoord",
        adopt: Adopter | None = None,
        migrate: Migrator | None = None,
        marks: Mapping[str, Mark] | None = None,
    ) -> None:
        self.store = store
        self.runtime = runtime
        self.actor = actor
        self.guard = HeadGuard(store, marks)
        self.moved = Listeners()
        self.commits = 0
        self._adopt = adopt
        self._migrate = migrate
        self._mutex = threading.Lock()
        self._guard_mutex = threading.Lock()
        self._queue: list[Pending[Any]] = []
        self._riders = Riders()
        self._leading = False
        self._base_wait = 0.02 if store.capabilities.requests_per_commit == 0 else 1.0

    def transact(self, spaces: Iterable[str], run: Callable[[Tx], T], *, timeout: float = 30.0) -> T:
        """Run ``run`` in a transaction over ``spaces`` and return its result once it is durable.

        ``run`` may be called several times and must be pure.  An exception from
        it changes nothing and is raised here.  ``timeout`` is in seconds.
        Raises ``Unavailable`` when the commit could not be made in that time
        and ``OutcomeUnknown`` when it could not be found out whether it was.
        """
        runtime = self.runtime
        touched = frozenset(spaces)
        if not touched:
            raise Unsupported("a transaction needs at least one space")
        own: Pending[T] = Pending(
            spaces=touched,
            run=run,
            op=new_op_id(runtime.randbits),
            deadline=runtime.monotonic() + timeout,
            wake=runtime.event(),
        )
        try:
            with self._mutex:
                self._queue.append(own)
                own.lead, self._leading = not self._leading, True
            if not own.lead:
                own.wake.wait()
            if not own.done:
                self._lead(own)
        finally:
            try:
                self._leave(own)
            except BaseException:
                self._leave(own)  # interrupted on the way in
                raise
        if own.error is not None:
            raise own.error
        return cast(T, own.value)

    def ride(self, spaces: Iterable[str], run: Callable[[Tx], T]) -> Callable[[], T | None]:
        """Run ``run``, as :meth:`transact` does, at the end of the next batch over exactly ``spaces``.

        It causes no commit of its own.  The function returned must be called:
        it ends the ride and gives the result, or ``None`` when no batch came by.
        """
        runtime = self.runtime
        return self._riders.add(Pending(frozenset(spaces), run, new_op_id(runtime.randbits), 0.0, runtime.event()))

    def view(self, *spaces: str) -> dict[str, Snapshot]:
        """Snapshots of ``spaces`` as of one moment, for reading only."""
        heads = self.store.heads()
        return {space: Snapshot(self.store, space, heads.get(space)) for space in spaces}

    def adopt_heads(self) -> dict[str, Mark]:
        """Take the hub as it is now for true, after a regression that a person has looked at."""
        with self._guard_mutex:
            self.guard.marks.clear()
            heads = self.store.heads()
            self.guard.check(heads, heads)
            return dict(self.guard.marks)

    # -- group commit

    def _leave(self, own: Pending[Any]) -> None:
        """Done or interrupted, at whatever point: out of the queue, and the lead, if ``own`` has it, to the next."""
        with self._mutex:
            self._queue = [p for p in self._queue if p is not own]
            if not own.lead:
                return
            heir = self._queue[0] if self._queue else None
            if heir is not None:
                heir.lead = True
            self._leading = heir is not None
            own.lead = False
        if heir is not None:
            heir.wake.set()

    def _lead(self, own: Pending[Any]) -> None:
        """Run batches until ``own`` is done."""
        while not own.done:
            batch: list[Pending[Any]] = []
            try:
                with self._mutex:
                    spaces = self._queue[0].spaces
                    batch = [p for p in self._queue if p.spaces == spaces][:MAX_BATCH]
                    taken = set(map(id, batch))
                    self._queue = [p for p in self._queue if id(p) not in taken]
                self._riders.board(spaces, batch)
                self._run(batch)
            except BaseException as error:
                # Interrupted in the middle: the others must not wait for ever.
                lost = OutcomeUnknown("the process was interrupted while committing; look before repeating")
                for pending in batch:
                    if not pending.done:
                        self._finish(pending, None, error if pending is own else lost)
                if not batch or not isinstance(error, Exception):
                    raise

    def _finish(self, pending: Pending[Any], value: Any, error: BaseException | None) -> None:
        pending.value, pending.error, pending.done = value, error, True
        pending.wake.set()

    def _run(self, batch: list[Pending[Any]]) -> None:
        """Commit ``batch`` or give each of its members the reason why not."""
        try:
            plan = self._until_committed(batch)
        except (TooLarge, Denied) as error:
            if len(batch) == 1:
                self._finish(batch[0], None, error)
                return
            half = len(batch) // 2
            self._run(batch[:half])
            self._run(batch[half:])
            return
        except Exception as error:
            for pending in batch:
                self._finish(pending, None, error)
            return
        for pending, (value, raised) in zip(batch, plan.results, strict=True):
            self._finish(pending, value, raised)

    # -- one batch

    def _until_committed(self, batch: list[Pending[Any]]) -> _Plan:
        deadline = max(pending.deadline for pending in batch)
        losses = 0
        while True:
            plan = self._plan(batch, self._snapshots(batch[0].spaces, deadline))
            if plan.op is None:
                return plan
            if self._send(plan, deadline):
                return plan
            losses += 1
            if self.runtime.monotonic() >= deadline:
                raise Unavailable(f"others were faster {losses} times in a row: try again later")
            # Who keeps losing waits less than a newcomer, so that nobody starves.
            self.runtime.sleep(self.runtime.uniform(0, self._base_wait / losses))

    def _snapshots(self, spaces: Iterable[str], deadline: float) -> dict[str, Snapshot]:
        """Guarded snapshots; a lagging read is tried again before it counts as a regression."""
        for attempt in range(4):
            heads = self.store.heads()
            try:
                with self._guard_mutex:
                    self.guard.check(heads, spaces)
                break
            except HeadRegressed:
                if attempt == 3 or self.runtime.monotonic() >= deadline:
                    raise
                self.runtime.sleep(self._base_wait * 2**attempt)
        return {space: Snapshot(self.store, space, heads.get(space)) for space in spaces}

    def _plan(self, batch: list[Pending[Any]], snapshots: Mapping[str, Snapshot]) -> _Plan:
        store = self.store
        floor = max(revision_of(store, space, snapshot.head) for space, snapshot in snapshots.items())
        now = store.server_time()
        if max(floor, int(now * 1000)) + 1 + len(snapshots) + len(batch) >= REVISION_LIMIT:
            raise Corrupt(
                f"the revision {floor} of {', '.join(sorted(snapshots))} leaves no room for another: a commit "
                "there was forged. Set its branch back to the commit before, then run 'ghcoord doctor --adopt'"
            )
        plan = _Plan({space: snapshot.head for space, snapshot in snapshots.items()}, floor)
        overlays = {space: Overlay() for space in snapshots}
        events: dict[str, list[EventLine]] = {space: [] for space in snapshots}
        revision = floor
        ops: list[str] = []

        def attempt(run: Callable[[Tx], Any], op: str) -> Any:
            nonlocal revision
            views = {space: SpaceView(snapshots[space], overlays[space]) for space in snapshots}
            tentative = max(revision + 1, int(now * 1000))
            value = run(Tx(views, now=now, revision=tentative))
            if any(view.own.files or view.events for view in views.values()):
                revision = tentative
                ops.append(op)
                for space, view in views.items():
                    view.keep()
                    events[space].extend(view.events)
            return value

        for snapshot in snapshots.values():
            for first in take_over(snapshot, self._adopt, self._migrate):
                attempt(first, new_op_id(self.runtime.randbits))
        for pending in batch:
            try:
                plan.results.append((attempt(pending.run, pending.op), None))
            except Exception as error:
                plan.results.append((None, error))
        if not ops:
            return plan
        for space, overlay in overlays.items():
            if overlay.files or events[space]:
                root = {"revision": revision, "schema": SCHEMA, "space": space}
                overlay.put(ROOT_RECORD, (json.dumps(root, indent=2, sort_keys=True) + "\n").encode())
                plan.changes[space] = overlay.files
        plan.op = Operation(
            ids=tuple(ops),
            revision=revision,
            time=int(now),
            actor=self.actor,
            summaries={space: summarise(events[space], len(ops)) for space in plan.changes},
            events={space: cap_events(events[space]) for space in plan.changes},
        )
        return plan

    # -- one commit

    def _send(self, plan: _Plan, deadline: float) -> bool:
        """Send until the outcome is certain: ``True`` won, ``False`` lost."""
        assert plan.op is not None
        runtime = self.runtime
        changes = cast("Mapping[str, ChangeSet]", plan.changes)
        give_up = min(max(deadline, runtime.monotonic()), runtime.monotonic() + RESEND_LIMIT)
        wait = self._base_wait
        unsure = False
        while True:
            try:
                made = self.store.commit(plan.expected, changes, plan.op)
            except Conflict:
                verdict = self._look(plan, after_conflict=True, deadline=give_up)
                if verdict is None:
                    raise OutcomeUnknown(
                        "the hub reports a conflict but shows no newer state; look before repeating"
                    ) from None
                return verdict
            except OutcomeUnknown as error:
                unsure = True
                verdict = self._look(plan, after_conflict=False, deadline=give_up)
                if verdict is not None:
                    return verdict
                if runtime.monotonic() >= give_up:
                    raise OutcomeUnknown(f"{error}; look before repeating (operation {plan.op.ids[0]})") from error
            except Throttled as error:
                if runtime.monotonic() + error.until - runtime.now() > give_up:
                    if unsure:
                        raise self._unresolved(plan, error) from error
                    raise
                runtime.sleep(max(0.0, error.until - runtime.now()))
            except (Unavailable, TooLarge, Denied) as error:
                if unsure:
                    raise self._unresolved(plan, error) from error
                raise
            else:
                self.commits += 1
                with self._guard_mutex:
                    for space, head in made.items():
                        self.guard.note(space, plan.op.revision, head)
                self.moved.tell(made)
                return True
            runtime.sleep(runtime.uniform(0, wait))
            wait = min(wait * 2, 30.0)

    def _unresolved(self, plan: _Plan, cause: Exception) -> OutcomeUnknown:
        assert plan.op is not None
        return OutcomeUnknown(f"no answer, and then: {cause}; look before repeating (operation {plan.op.ids[0]})")

    def _look(self, plan: _Plan, *, after_conflict: bool, deadline: float) -> bool | None:
        """Look for the operation: ``True`` it landed, ``False`` it cannot land any more, ``None`` unknown.

        It is ruled out only by a newer head whose history lacks it.  After a
        conflict a newer head of a space that is merely compared rules it out
        too.  Reads that fail or lag behind prove nothing; after a conflict they are waited for.
        """
        wait = self._base_wait
        while True:
            try:
                heads = self.store.heads()
                with self._guard_mutex:
                    self.guard.check(heads, plan.expected)
                moved = [space for space in plan.expected if heads.get(space) != plan.expected[space]]
                for space in moved:
                    if space in plan.changes:
                        return self._landed(plan, space, heads.get(space))
                if moved and after_conflict:
                    return False
            except StoreError:
                moved = []
            if not after_conflict or self.runtime.monotonic() >= deadline:
                return None
            self.runtime.sleep(self.runtime.uniform(0, wait))
            wait = min(wait * 2, 5.0)

    def _landed(self, plan: _Plan, space: str, head: Oid | None) -> bool:
        """Whether the plan's operation is in the history of ``space`` at ``head``."""
        assert plan.op is not None
        if head is None:
            raise HeadRegressed(f"the space {space!r} vanished during a commit: run 'ghcoord doctor'")
        return find_operation(self.store, head, frozenset(plan.op.ids), until=plan.expected[space], above=plan.floor)
