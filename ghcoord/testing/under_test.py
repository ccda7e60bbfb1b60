"""What the contracts of the storage port work with: a hub under test, and races in threads."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from ghcoord.errors import Unsupported
from ghcoord.store.base import ChangeSet, Oid, Operation, Store
from ghcoord.store.snapshot import Snapshot

EPOCH = 1_700_000_000
"""The second in which the contract's commits are made: one for all, so that only content tells them apart."""

SWITCH_INTERVAL = 1e-5
"""Seconds between thread switches in races: short, so that a missing comparison is met."""


@dataclass
class HubUnderTest:
    """One fresh, empty hub.

    ``open`` makes a new handle on it, independent of the others where the
    driver can; ``delete_space`` removes a space behind the driver's back, as a
    person does with a branch; ``check`` raises when the stored data is damaged,
    and ``listing`` gives the paths and object ids of a commit as an independent
    program reads them, ``None`` where there is none.
    """

    open: Callable[[], Store]
    delete_space: Callable[[str], None]
    check: Callable[[], None] = lambda: None
    listing: Callable[[Oid], dict[str, Oid] | None] = lambda head: None
    _ids: itertools.count[int] = field(default_factory=itertools.count)

    def op(self, revision: int = 1) -> Operation:
        """An operation with an id of its own."""
        return Operation(ids=(f"op{next(self._ids):06d}",), revision=revision, time=EPOCH)

    def put(self, store: Store, space: str, changes: ChangeSet, revision: int = 1) -> Oid:
        """Commit ``changes`` on the present head of ``space``."""
        head = store.heads().get(space)
        return store.commit({space: head}, {space: changes}, self.op(revision))[space]


def content(store: Store, head: Oid | None, path: str = "") -> dict[str, bytes]:
    """Every file of a commit below ``path`` with its content."""
    return {name: store.blob(entry.oid) for name, entry in Snapshot(store, "", head).walk(path)}


def refuses_several(hub: HubUnderTest, store: Store) -> bool:
    """Whether the driver commits to one space at a time; then it says so and changes nothing."""
    if store.capabilities.multi_space:
        return False
    heads = store.heads()
    expected: dict[str, Oid | None] = {name: heads.get(name) for name in ("one", "two")}
    with pytest.raises(Unsupported):
        store.commit(expected, {name: {"a": b"1"} for name in expected}, hub.op())
    assert heads == store.heads()
    return True


def in_threads(*runs: Callable[[], None]) -> None:
    """Run all at the same time; the first exception is raised again."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(runs))

    def body(run: Callable[[], None]) -> None:
        try:
            start.wait(10)
            run()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(run,), daemon=True) for run in runs]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert [] == [thread.name for thread in threads if thread.is_alive()], "threads hang"
    if errors:
        raise errors[0]
