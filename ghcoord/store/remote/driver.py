"""The remote driver: a hub in any Git repository, through a copy on this machine and the ``git`` program.

Objects are built and read here; ``git`` carries them, so that ssh agents,
credential helpers and proxies work.  A push moves all its refs or none, each
compared with the head that it goes on from.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ghcoord.clock import Runtime
from ghcoord.errors import (
    Conflict,
    Corrupt,
    GhcoordError,
    OutcomeUnknown,
    StoreError,
    Throttled,
    Unavailable,
    Unsupported,
)
from ghcoord.ids import new_op_id
from ghcoord.store.assemble import build_commits, check_size
from ghcoord.store.base import (
    Capabilities,
    ChangeSet,
    Collected,
    CommitInfo,
    Entry,
    Oid,
    Operation,
    RawObject,
    Tell,
)
from ghcoord.store.budget.base import Budget
from ghcoord.store.objects import TreeEditor
from ghcoord.store.odb import Objects
from ghcoord.store.remote.answers import Busy, Damaged, Fate, Pushed
from ghcoord.store.remote.collect import Collecting
from ghcoord.store.remote.mirror import Mirror
from ghcoord.store.remote.session import Session
from ghcoord.store.remote.upkeep import Upkeep
from ghcoord.store.remote.url import parse_remote_url

T = TypeVar("T")

POLL = 5.0
POLL_FILE = 1.0
"""Seconds between polls that suit a server of somebody else's, and a folder of ours."""

MARGIN = 5.0
"""Seconds by which two readings of a server's clock may differ: a Date has no fractions, and calls take their time."""

ABSENT = 1000
"""Objects known to be missing that are remembered."""


class RemoteStore:
    """Spaces as refs below ``prefix`` of the repository at ``url``, copied below ``cache``.

    Nothing is asked before the first call that needs it.  ``environment`` is
    what git gets of ours; ``timeout`` in seconds ends a call of git.  Raises
    ``UsageError`` for a URL that is refused.
    """

    def __init__(
        self,
        url: str,
        runtime: Runtime,
        prefix: str,
        *,
        cache: Path,
        budget: Budget | None,
        environment: Mapping[str, str],
        timeout: float = 60.0,
    ) -> None:
        remote = parse_remote_url(url)
        near = remote.scheme == "file"
        self._remote = remote
        self._runtime = runtime
        self._capabilities = Capabilities(
            compare_only=False,
            server_time=remote.scheme != "ssh",
            clock_margin=2.0 if near else MARGIN,
            poll_interval=POLL_FILE if near else POLL,
            requests_per_commit=2,
            keeps_objects=False,
            atomic_heads=False,
        )
        self._budget = budget
        self._mirror = Mirror(cache, f"{remote.git_url} {prefix}", runtime)
        self._session = Session(remote, self._mirror, runtime, prefix, budget, environment, timeout)
        self._mutex = threading.Lock()
        self._objects_made: Objects | None = None
        self._absent: set[Oid] = set()
        self._upkeep = Upkeep(self._mirror, self._session)

    @property
    def capabilities(self) -> Capabilities:
        """``multi_space`` and ``server_time`` go once the server turns out not to offer them."""
        if self._capabilities.multi_space and not self._session.atomic:
            self._capabilities = replace(self._capabilities, multi_space=False)
        return self._capabilities

    @property
    def url(self) -> str:
        return self._remote.url

    @property
    def budget(self) -> Budget | None:
        return self._budget

    @property
    def _objects(self) -> Objects:
        with self._mutex:
            if self._objects_made is None:
                self._objects_made = Objects(self._mirror.open, str(self._mirror.git_dir))
            return self._objects_made

    # -- reading

    def heads(self) -> dict[str, Oid]:
        heads = self._session.heads()
        self._upkeep.tick()
        return heads

    def near(self, head: Oid, paths: Collection[str]) -> None:
        """A head comes with all its objects; one that this machine has lost is fetched."""
        if not self._objects.has(head):
            self._bring(head)

    def commit_info(self, oid: Oid) -> CommitInfo:
        return self._read(oid, self._objects.commit_info)

    def tree(self, oid: Oid) -> Mapping[str, Entry]:
        return self._read(oid, self._objects.tree)

    def blob(self, oid: Oid) -> bytes:
        return self._read(oid, self._objects.blob)

    def raw(self, oid: Oid) -> RawObject:
        return self._read(oid, self._objects.raw)

    def _read(self, oid: Oid, read: Callable[[Oid], T]) -> T:
        try:
            return read(oid)
        except Corrupt:
            if self._objects.has(oid) or not self._bring(oid):
                raise
        return read(oid)

    def _bring(self, oid: Oid) -> bool:
        """Fetch an object that the copy lacks, making it anew where it is damaged; whether it is there now."""
        with self._mutex:
            if oid in self._absent:
                return False
        self.heads()
        self._objects.reopen()
        if not self._objects.has(oid) and not self._session.intact():
            self._mirror.remake()
            self.heads()
            self._objects.reopen()
        if self._objects.has(oid):
            return True
        with self._mutex:
            if len(self._absent) >= ABSENT:
                self._absent.clear()
            self._absent.add(oid)
        return False

    # -- writing

    def commit(
        self,
        expected: Mapping[str, Oid | None],
        changes: Mapping[str, ChangeSet],
        op: Operation,
    ) -> dict[str, Oid]:
        check_size(changes, self.capabilities)
        if set(expected) != set(changes):
            raise Unsupported("a push compares only what it changes")
        if len(expected) > 1 and not self.capabilities.multi_space:
            raise self._one_at_a_time()
        for space, head in expected.items():
            if head is not None and not self._objects.has(head) and not self._bring(head):
                raise Conflict(f"{space} is not at {head}: no such commit")
        editor = TreeEditor(self.tree)
        made = build_commits(editor, self.commit_info, expected, changes, op)
        self.move({space: (expected[space], oid) for space, oid in made.items()}, editor.objects)
        self._objects.keep(editor)
        return made

    def move(self, moves: Mapping[str, tuple[Oid | None, Oid]], objects: Mapping[Oid, RawObject]) -> None:
        """Store ``objects`` and move heads from the first id to the second, all or none; raises as ``commit`` does."""
        self._session.admit("push")
        with self._mirror.shared():
            self._mirror.write(objects)
            pushed = self._session.push(moves, sum(len(data) for _, data in objects.values()))
        if pushed.fate is not Fate.WON:
            self._settle(moves, pushed)
        with self._mutex:
            self._absent.difference_update(objects)
        with contextlib.suppress(StoreError):  # it is done, and this only spares git some work
            with self._mirror.shared():
                self._mirror.record({space: new for space, (_, new) in moves.items()}, all_of_them=False)
            self._upkeep.tick()

    def _settle(self, moves: Mapping[str, tuple[Oid | None, Oid]], pushed: Pushed) -> None:
        """Find out what became of a push that was not clearly won; returns when it was."""
        done_nothing = pushed.fate is Fate.NOT_DONE
        if pushed.fate is Fate.ENDED:
            raise OutcomeUnknown(f"no answer to a push: {pushed.reason}")
        if isinstance(pushed.error, Damaged):
            self._mirror.remake()
        if done_nothing and not self._session.atomic and len(moves) > 1:
            raise self._one_at_a_time()
        if done_nothing and pushed.error is not None:
            raise self._final(pushed)
        try:
            heads = self.heads()
        except GhcoordError as error:
            if done_nothing:
                raise
            raise OutcomeUnknown(f"no clear answer to a push ({pushed.reason}), and then: {error}") from error
        if all(heads.get(space) == new for space, (_, new) in moves.items()):
            return
        for space, (old, _) in moves.items():
            if heads.get(space) != old:
                raise Conflict(f"{space} is at {heads.get(space)}, not at {old}")
        if done_nothing:
            raise Unavailable(f"{self._remote.host} did not take a push: {pushed.reason}")
        raise OutcomeUnknown(f"no clear answer to a push: {pushed.reason}")

    def _final(self, pushed: Pushed) -> Exception:
        error = pushed.error
        if isinstance(error, Busy):
            return Throttled(str(error), self._runtime.now() + 60.0)
        if isinstance(error, Damaged):
            return Unavailable(f"the copy of the hub was damaged, and is made anew: {error}")
        assert error is not None
        return error

    def _one_at_a_time(self) -> Unsupported:
        return Unsupported(
            f"{self._remote.host} cannot move several refs as one (no atomic push), and nothing weaker is done: "
            "choose a server that can"
        )

    def collect(self, cut: Collection[Oid], *, dry_run: bool, tell: Tell) -> Collected:
        """See the port; here history is written again, so heads move, and what is counted is the copy's."""
        run = Collecting(self, self._upkeep, self._mirror, cut, new_op_id(self._runtime.randbits), tell)
        done = run.preview() if dry_run else run.run(self.move)
        self._objects.reopen()
        return done

    def server_time(self) -> float:
        if self._remote.scheme in ("file", "ssh"):
            return self._runtime.now()
        told = self._session.clock.now()
        if told is None and self._capabilities.server_time:
            self.heads()
            told = self._session.clock.now()
            if told is None:
                self._capabilities = replace(self._capabilities, server_time=False)
        return self._runtime.now() if told is None else told

    def close(self) -> None:
        with self._mutex:
            if self._objects_made is not None:
                self._objects_made.close()
                self._objects_made = None
