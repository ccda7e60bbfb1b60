"""Drivers that are wrong on purpose: each breaks one promise of the port.

They prove that the contract and the simulation catch what they are for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from ghcoord.errors import Conflict, Unavailable
from ghcoord.store.base import ChangeSet, Oid, Operation
from ghcoord.store.inmemory import MemoryStore


class LostUpdateStore(MemoryStore):
    """Does not compare: writes on top of whatever is there, after a moment in which others decide on the same state."""

    def commit(
        self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
    ) -> dict[str, Oid]:
        time.sleep(0.001)
        while True:
            heads = self.heads()
            try:
                return super().commit({space: heads.get(space) for space in expected}, changes, op)
            except Conflict:
                continue


class PartialCommitStore(MemoryStore):
    """Commits one space after the other, so that a conflict in the second leaves the first changed."""

    def commit(
        self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
    ) -> dict[str, Oid]:
        made: dict[str, Oid] = {}
        for space in sorted(expected):
            below = {space: changes[space]} if space in changes else {}
            made.update(super().commit({space: expected[space]}, below, op))
        return made


class SameIdWinsStore(MemoryStore):
    """Writes no operation ids and takes "the ref is at the commit I built" for its own success."""

    def commit(
        self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
    ) -> dict[str, Oid]:
        anonymous = replace(op, ids=(), revision=0)
        try:
            return super().commit(expected, changes, anonymous)
        except Conflict:
            mine = self._would_make(expected, changes, anonymous)
            heads = self.heads()
            if mine and all(heads.get(space) == oid for space, oid in mine.items()):
                return mine
            raise

    def _would_make(
        self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
    ) -> dict[str, Oid]:
        scratch = MemoryStore(self._now)
        scratch._objects = dict(self._objects)
        scratch._heads = {space: head for space, head in expected.items() if head is not None}
        return scratch.commit(expected, changes, op)


class ReplyLostAsFailureStore(MemoryStore):
    """Loses every third reply after the effect and reports a failure, in turn ``Unavailable`` and ``Conflict``."""

    def __init__(self, now: Callable[[], float], url: str = "memory:") -> None:
        super().__init__(now, url)
        self._count = 0
        self._count_lock = threading.Lock()

    def commit(
        self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
    ) -> dict[str, Oid]:
        made = super().commit(expected, changes, op)
        with self._count_lock:
            self._count += 1
            count = self._count
        if count % 6 == 3:
            raise Unavailable("no answer in time")
        if count % 6 == 0:
            raise Conflict("somebody was first")
        return made
