"""``transact``: the one primitive, and the only retry loop in the code base.

read → pure function → conditional commit → on conflict, run the function again
on the newer state.  Transactions queued in one process over the same spaces
leave as one commit (group commit); no result or exception leaves before that
commit is durable.  :mod:`ghcoord.store.sending` makes sure of each outcome.

Where the hub is somebody else's server the first plan stands on the heads that
are known already, and a function whose result changes nothing is believed only
once these heads are confirmed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from ghcoord.clock import Runtime
from ghcoord.errors import Corrupt, Denied, HeadRegressed, OutcomeUnknown, Throttled, TooLarge, Unavailable, Unsupported
from ghcoord.ids import new_op_id
from ghcoord.store.base import ROOT_RECORD, Oid, Operation, Store
from ghcoord.store.heads import HeadGuard, Mark, revision_of
from ghcoord.store.known import FRESH, KnownHeads, unseen_now
from ghcoord.store.learned import LearnedReads
from ghcoord.store.listeners import Listeners
from ghcoord.store.message import REVISION_LIMIT, EventLine, cap_events, summarise
from ghcoord.store.pending import Pending, Riders
from ghcoord.store.sending import REFUSALS, Request, Sender
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.takeover import SCHEMA, Adopter, Migrator, take_over
from ghcoord.store.turns import Turns
from ghcoord.store.tx import Overlay, SpaceView, Tx

T = TypeVar("T")

MAX_BATCH = 1000
"""Transactions in one commit at most."""

REMOTE_WAIT = 1.0
"""Seconds of the first back-off where others are reached over a network."""

Near = Mapping[str, Collection[str]]
"""Paths by space that a transaction will read: on a network they come with one request."""


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

    sender: type[Sender] = Sender
    """What finds out whether a commit was made; tests plant broken ones to see them found."""

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
        self.known = KnownHeads(store, runtime)
        self.moved = Listeners()
        self.commits = 0
        self._adopt = adopt
        self._migrate = migrate
        self._mutex = threading.Lock()
        self._guard_mutex = threading.Lock()
        self._queue: list[Pending[Any]] = []
        self._riders = Riders()
        self._leading = False
        self._base_wait = REMOTE_WAIT if store.capabilities.remote else 0.02
        self._reads = LearnedReads()
        self._turns = Turns(runtime, self._base_wait, far=store.capabilities.remote)
        self._sender = self.sender(store, runtime, self.known.read, self._check, self._base_wait)

    def transact(
        self, spaces: Iterable[str], run: Callable[[Tx], T], *, timeout: float = 30.0, near: Near | None = None
    ) -> T:
        """Run ``run`` in a transaction over ``spaces`` and return its result once it is durable.

        ``run`` may be called several times and must be pure.  An exception from
        it changes nothing and is raised here.  ``timeout`` is in seconds; waiting
        for a server's limits does not count.  ``near`` names what ``run`` is going to read.
        Raises ``Unavailable`` when the commit could not be made in that time
        and ``OutcomeUnknown`` when it could not be found out whether it was.
        """
        runtime = self.runtime
        touched = frozenset(spaces)
        if not touched:
            raise Unsupported("a transaction needs at least one space")
        if len(touched) > 1 and not self.store.capabilities.multi_space:
            raise Unsupported(
                f"this hub's server commits to one space at a time, and this needs {' and '.join(sorted(touched))} "
                "at once: it works on GitHub's usual API and over 'git push'"
            )
        deadline = runtime.monotonic() + timeout
        own: Pending[T] = Pending(touched, run, new_op_id(runtime.randbits), deadline, runtime.event(), near or {})
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
        return self._pinned(self.known.read(), spaces)

    def recent_view(self, *spaces: str, age: float) -> dict[str, Snapshot]:
        """As :meth:`view`, as of at most ``age`` seconds ago where asking costs requests."""
        return self._pinned(self.known.recent(age), spaces)

    def _pinned(self, heads: Mapping[str, Oid], spaces: Iterable[str]) -> dict[str, Snapshot]:
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
            first, second = batch[: len(batch) // 2], batch[len(batch) // 2 :]
            try:
                self._run(first)
                self._run(second)
            finally:
                batch[:] = first + second  # with those that joined: an interruption finds them
            return
        except Exception as error:
            for pending in batch:
                self._finish(pending, None, unseen_now(error) if self.guard.marks else error)
            return
        for pending, (value, raised) in zip(batch, plan.results, strict=True):
            self._finish(pending, value, raised)

    # -- one batch

    def _until_committed(self, batch: list[Pending[Any]]) -> _Plan:
        deadline = max(pending.deadline for pending in batch)
        losses = refusals = 0
        known = True
        while True:
            snapshots, present = self._snapshots(batch, deadline, known=known)
            plan = self._plan(batch, snapshots)
            self._reads.learn(snapshots)
            known = plan.op is not None  # a loss is found out by reading the heads
            if plan.op is None:
                if self._confirmed(plan, present):
                    return plan
            elif waited := self._await_turn():
                self._join(batch)
                deadline = max(deadline + waited, *(pending.deadline for pending in batch))
                continue
            else:
                try:
                    if self._sent(plan, deadline):
                        return plan
                except Throttled:
                    refusals += 1
                    if refusals > REFUSALS or not (waited := self._await_turn()):
                        raise
                    deadline += waited  # and decide again: what was decided before the wait is old
                    continue
                losses += 1
                self._turns.lost(losses)
            if self.runtime.monotonic() >= deadline:
                raise Unavailable(f"others were faster {losses} times in a row: try again later")

    def _snapshots(
        self, batch: Sequence[Pending[Any]], deadline: float, *, known: bool
    ) -> tuple[dict[str, Snapshot], bool]:
        """Guarded snapshots, and whether they are present ones; a lagging read is tried again before it counts."""
        spaces = batch[0].spaces
        found = self.known.at_hand() if known else None
        attempt = 0
        while True:
            heads, age = found if found is not None else (self.known.read(), 0.0)
            snapshots = self._pinned(heads, spaces)
            self._bring(batch, snapshots)
            try:
                self._check(heads, spaces)
                return snapshots, age <= FRESH
            except HeadRegressed:
                self.known.forget()
                if found is None:
                    if attempt == 3 or self.runtime.monotonic() >= deadline:
                        raise
                    self.runtime.sleep(self._base_wait * 2**attempt)
                    attempt += 1
                found = None

    def _check(self, heads: Mapping[str, Oid], spaces: Iterable[str]) -> None:
        with self._guard_mutex:
            self.guard.check(heads, spaces)

    def _bring(self, batch: Iterable[Pending[Any]], snapshots: Mapping[str, Snapshot]) -> None:
        """Have what the batch is going to read fetched in as few requests as can be."""
        if not self.store.capabilities.far_objects:
            return
        for space, snapshot in snapshots.items():
            named = [path for pending in batch for path in pending.near.get(space, ())]
            snapshot.near([*dict.fromkeys([*named, *self._reads.of(snapshot)])])

    def _confirmed(self, plan: _Plan, present: bool) -> bool:
        """Whether what commits nothing was decided on heads that were all true at one moment, just now."""
        capabilities = self.store.capabilities
        if not capabilities.remote or (present and (capabilities.atomic_heads or len(plan.expected) == 1)):
            return True
        heads = self.known.read()
        self._check(heads, plan.expected)
        return all(heads.get(space) == head for space, head in plan.expected.items())

    def _await_turn(self) -> float:
        """Wait until other writers had their turn and the server's limits allow a write; the seconds that took."""
        began, budget = self.runtime.monotonic(), self.store.budget
        waited = self._turns.wait()
        if budget is not None and budget.write_ready_in() > 0:
            budget.await_write()
            waited = True
        return max(self.runtime.monotonic() - began, 1e-6) if waited else 0.0

    def _join(self, batch: list[Pending[Any]]) -> None:
        """Take along those that came to the queue meanwhile."""
        with self._mutex:
            more = [p for p in self._queue if p.spaces == batch[0].spaces][: max(0, MAX_BATCH - len(batch))]
            taken = set(map(id, more))
            self._queue = [p for p in self._queue if id(p) not in taken]
        batch += more
        self._riders.board(batch[0].spaces, batch)

    def _sent(self, plan: _Plan, deadline: float) -> bool:
        """Send ``plan``; whether it won."""
        assert plan.op is not None
        began = self.runtime.monotonic()
        made = self._sender.send(Request(plan.expected, plan.changes, plan.op, plan.floor), deadline)
        if made is None:
            return False
        self._turns.won(began)
        if made:
            self.commits += 1
            self.known.note(made)
            with self._guard_mutex:
                for space, head in made.items():
                    self.guard.note(space, plan.op.revision, head)
            self.moved.tell(made)
        return True

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
            if overlay.files or events[space] or not store.capabilities.compare_only:
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
