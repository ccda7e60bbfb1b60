"""A store as it was: the heads of a moment in the past, over the objects that are there."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ghcoord.errors import Unsupported
from ghcoord.store.base import ChangeSet, Collected, Oid, Operation, Store, Tell
from ghcoord.store.wrappers import WrappedStore

READ_ONLY = "the hub in the past is read only"


class PinnedStore(WrappedStore):
    """``inner`` with the given ``heads`` and its clock standing at ``time``, seconds since the epoch.

    Nothing can be committed.  Closing it leaves ``inner`` open: it belongs to the hub of the present.
    """

    def __init__(self, inner: Store, heads: Mapping[str, Oid], time: float) -> None:
        super().__init__(inner)
        self._heads = dict(heads)
        self._time = time

    def heads(self) -> dict[str, Oid]:
        return dict(self._heads)

    def commit(
        self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
    ) -> dict[str, Oid]:
        raise Unsupported(READ_ONLY)

    def collect(self, cut: Collection[Oid], *, dry_run: bool, tell: Tell) -> Collected:
        raise Unsupported(READ_ONLY)

    def server_time(self) -> float:
        return self._time

    def close(self) -> None:
        """Keep ``inner`` open."""
