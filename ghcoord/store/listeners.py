"""Who in this process wants to know at once that a commit was made, and need not wait for its next poll."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

Tell = Callable[[], None]


class Listeners:
    """Functions to call after a commit, by the space that it moved. Thread-safe.

    They are called in the thread that committed, before its result is handed
    out: one that does more than set an event delays the next commit.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._by_space: dict[str, tuple[Tell, ...]] = {}

    def add(self, space: str, tell: Tell) -> Callable[[], None]:
        """Call ``tell`` after each commit to ``space``, until the function returned here is called."""
        with self._mutex:
            self._by_space[space] = (*self._by_space.get(space, ()), tell)

        def remove() -> None:
            with self._mutex:
                left = tuple(one for one in self._by_space.get(space, ()) if one is not tell)
                if left:
                    self._by_space[space] = left
                else:
                    self._by_space.pop(space, None)

        return remove

    def tell(self, spaces: Iterable[str]) -> None:
        """Say that ``spaces`` have moved."""
        for space in spaces:
            for one in self._by_space.get(space, ()):
                one()
