"""Transactions that wait for their batch: those that start one, and those that only go along."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ghcoord.clock import Event
from ghcoord.store.tx import Tx

T = TypeVar("T")


@dataclass(slots=True)
class Pending(Generic[T]):
    """A transaction of one caller. ``wake`` is set when it is done, or has to lead the next batch."""

    spaces: frozenset[str]
    run: Callable[[Tx], T]
    op: str
    deadline: float
    wake: Event
    near: Mapping[str, Collection[str]] = field(default_factory=dict)
    done: bool = False
    lead: bool = False
    value: T | None = None
    error: BaseException | None = None


class Riders:
    """Transactions that start no batch and go along with the next one over the same spaces. Thread-safe."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: list[Pending[Any]] = []

    def add(self, rider: Pending[T]) -> Callable[[], T | None]:
        """Let ``rider`` wait; the function returned ends that, as :meth:`Transactor.ride` says."""
        with self._mutex:
            self._waiting.append(rider)

        def end() -> T | None:
            with self._mutex:
                present = len(self._waiting)
                self._waiting = [one for one in self._waiting if one is not rider]
                if len(self._waiting) < present and not rider.done:
                    return None
            rider.wake.wait()
            if rider.error is not None:
                raise rider.error
            return rider.value

        return end

    def board(self, spaces: frozenset[str], batch: list[Pending[Any]]) -> None:
        """Add those over ``spaces`` to ``batch``, in which an interruption finds them; they wait no more."""
        with self._mutex:
            batch += [one for one in self._waiting if one.spaces == spaces]
            self._waiting = [one for one in self._waiting if one.spaces != spaces]
