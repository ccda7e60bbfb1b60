"""A store in memory that behaves as one behind a network: asking costs, heads are read one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ghcoord.errors import Unsupported
from ghcoord.store.base import ChangeSet, Oid, Operation
from ghcoord.store.inmemory import MemoryStore


class FarStore(MemoryStore):
    """``MemoryStore`` with the capabilities of the network drivers; ``multi_space`` as given."""

    def __init__(self, now: Callable[[], float], url: str = "memory:", *, multi_space: bool = True) -> None:
        super().__init__(now, url)
        self.capabilities = replace(
            self.capabilities,
            multi_space=multi_space,
            compare_only=False,
            atomic_heads=False,
            requests_per_commit=1,
            far_objects=True,
        )

    def commit(
        self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
    ) -> dict[str, Oid]:
        if set(expected) != set(changes):
            raise Unsupported("a space that is only compared")
        if len(expected) > 1 and not self.capabilities.multi_space:
            raise Unsupported("several spaces at once")
        return super().commit(expected, changes, op)


class SingleSpaceStore(FarStore):
    """As :class:`FarStore`, with one space to a commit."""

    def __init__(self, now: Callable[[], float], url: str = "memory:") -> None:
        super().__init__(now, url, multi_space=False)
