"""Objects kept in memory by id: they never change, so only room limits how long."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sized
from typing import Generic, TypeVar

from ghcoord.store.base import Oid

T = TypeVar("T")


class Recent(Generic[T]):
    """The most recently used objects, up to ``limit`` bytes. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[Oid, tuple[T, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, oid: Oid, load: Callable[[Oid], T], size: Callable[[T], int]) -> T:
        """The object ``oid``, from ``load`` when it is not there."""
        with self._lock:
            found = self._kept.get(oid)
            if found is not None:
                self._kept.move_to_end(oid)
                return found[0]
        value = load(oid)
        self.put(oid, value, size(value))
        return value

    def peek(self, oid: Oid) -> T | None:
        """The object ``oid`` if it is there."""
        with self._lock:
            found = self._kept.get(oid)
            if found is None:
                return None
            self._kept.move_to_end(oid)
            return found[0]

    def put(self, oid: Oid, value: T, weight: int) -> None:
        """Keep ``value``, of ``weight`` bytes, unless that would drive out most of the others."""
        with self._lock:
            if oid not in self._kept and weight <= self._limit // 8:
                self._kept[oid] = (value, weight)
                self._size += weight
                while self._size > self._limit:
                    _, (_, dropped) = self._kept.popitem(last=False)
                    self._size -= dropped


def tree_size(entries: Sized) -> int:
    """About how many bytes the entries of a tree take in memory."""
    return 200 + 250 * len(entries)
