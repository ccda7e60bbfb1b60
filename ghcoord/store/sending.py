"""Sending one commit until its outcome is certain.

After a lost reply the operation ids in the commits' trailers decide: found
means won, a newer head without them means lost, and until one of the two is
known only the identical request is sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ghcoord.clock import Runtime
from ghcoord.errors import Conflict, GhcoordError, HeadRegressed, OutcomeUnknown, Throttled
from ghcoord.store.base import ChangeSet, Oid, Operation, Store
from ghcoord.store.heads import find_operation

RESEND_LIMIT = 1800.0
"""Seconds after which an unanswered request is not sent again: history may be squashed after an hour."""

REFUSALS = 5
"""Pauses that a server asked for, one after another, after which its next refusal is believed."""

LAGGING = 4
"""Readings in a row that show older heads than those seen, after which they are no lag any more.

Over a network that takes 12 seconds; users report 10.
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One conditional commit. ``floor`` is the highest revision among the expected heads."""

    expected: Mapping[str, Oid | None]
    changes: Mapping[str, ChangeSet]
    op: Operation
    floor: int


class Sender:
    """Sends requests to ``store``.

    ``heads`` reads the heads; ``check`` raises ``HeadRegressed`` where one of
    the named spaces went back.  ``base_wait`` is the first wait in seconds
    before something is tried again.
    """

    def __init__(
        self,
        store: Store,
        runtime: Runtime,
        heads: Callable[[], dict[str, Oid]],
        check: Callable[[Mapping[str, Oid], Iterable[str]], None],
        base_wait: float,
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._heads = heads
        self._check = check
        self._base_wait = base_wait

    def send(self, request: Request, deadline: float) -> Mapping[str, Oid] | None:
        """Send until the outcome is certain: the new heads when it won, ``None`` when it lost.

        The new heads are empty where the win was found out by looking.
        ``deadline`` is by the runtime's monotonic clock.  Raises ``Throttled``
        where the store has a budget to wait by, and nothing was done.
        """
        runtime = self._runtime
        give_up = min(max(deadline, runtime.monotonic()), runtime.monotonic() + RESEND_LIMIT)
        wait = self._base_wait
        unsure = False
        while True:
            try:
                return self._store.commit(request.expected, request.changes, request.op)
            except Conflict:
                try:
                    verdict = self._look(request, after_conflict=True, deadline=give_up)
                except HeadRegressed as error:
                    if unsure:
                        raise _unresolved(request, error) from error
                    raise
                if verdict is None:
                    raise OutcomeUnknown(
                        "the hub reports a conflict but shows no newer state; look before repeating"
                    ) from None
                return {} if verdict else None
            except OutcomeUnknown as error:
                unsure = True
                verdict = self._look(request, after_conflict=False, deadline=give_up)
                if verdict is not None:
                    return {} if verdict else None
                if runtime.monotonic() >= give_up:
                    raise OutcomeUnknown(f"{error}; look before repeating (operation {request.op.ids[0]})") from error
            except Throttled as error:
                late = runtime.monotonic() + error.until - runtime.now() > give_up
                if unsure and late:
                    raise _unresolved(request, error) from error
                if late or (self._store.budget is not None and not unsure):
                    raise
                runtime.sleep(max(0.0, error.until - runtime.now()))
            except GhcoordError as error:
                if unsure:
                    raise _unresolved(request, error) from error
                raise
            runtime.sleep(runtime.uniform(0, wait))
            wait = min(wait * 2, 30.0)

    def _look(self, request: Request, *, after_conflict: bool, deadline: float) -> bool | None:
        """Look for the operation: ``True`` it landed, ``False`` it cannot land any more, ``None`` unknown.

        It is ruled out only by a newer head whose history lacks it.  After a
        conflict a newer head of a space that is merely compared rules it out
        too.  Reads that fail or lag behind prove nothing; after a conflict they are waited for.
        Raises ``HeadRegressed`` when the history went back or vanished, for longer than reads lag.
        """
        expected = request.expected
        wait = self._base_wait
        regressed = 0
        while True:
            try:
                heads = self._heads()
                self._check(heads, expected)
                moved = [space for space in expected if heads.get(space) != expected[space]]
                for space in moved:
                    if space in request.changes:
                        return self._landed(request, space, heads.get(space))
                if moved and after_conflict:
                    return False
                regressed = 0
            except HeadRegressed:
                regressed += 1
                if after_conflict and regressed > LAGGING:
                    raise
            except GhcoordError:
                regressed = 0
            if not after_conflict or self._runtime.monotonic() >= deadline:
                return None
            self._runtime.sleep(wait if regressed else self._runtime.uniform(0, wait))
            wait = min(wait * 2, 5.0)

    def _landed(self, request: Request, space: str, head: Oid | None) -> bool:
        """Whether the operation is in the history of ``space`` at ``head``."""
        if head is None:
            raise HeadRegressed(f"the space {space!r} vanished during a commit: run 'ghcoord doctor'")
        ops = frozenset(request.op.ids)
        return find_operation(self._store, head, ops, until=request.expected[space], above=request.floor)


def _unresolved(request: Request, cause: Exception) -> OutcomeUnknown:
    return OutcomeUnknown(f"no answer, and then: {cause}; look before repeating (operation {request.op.ids[0]})")
