"""The github driver: a hub in a repository on GitHub, through its API.

Three ways of writing, the cheapest first (:class:`Way`).  Which one serves is
found out by using it: a server without GraphQL, or without one of its
mutations, says so before it does anything.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path

from ghcoord.clock import Runtime
from ghcoord.config import WRITE_MODES
from ghcoord.errors import (
    Conflict,
    Corrupt,
    GhcoordError,
    NotFound,
    OutcomeUnknown,
    Unavailable,
    Unsupported,
    UsageError,
)
from ghcoord.store.assemble import check_size
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
from ghcoord.store.github.api import Api, GraphQLRefused
from ghcoord.store.github.branch_writer import BRANCHES, STALE, commit_on_branch, fits
from ghcoord.store.github.collect import Rewriting, with_git
from ghcoord.store.github.diskcache import DiskCache
from ghcoord.store.github.objects import Objects
from ghcoord.store.github.polling import GONE_AFTER, Heads
from ghcoord.store.github.refs_writer import ObjectWriter, RefsMover
from ghcoord.store.github.rest_writer import Refused, move_ref
from ghcoord.store.github.url import git_url
from ghcoord.store.github.writing import Draft, draft, keep, settle

CLOCK_MARGIN = 5.0
"""Seconds: ``Date`` has whole ones, and an answer takes some to arrive."""

POLL = 5.0
"""Seconds between polls that suit GitHub; the budget may stretch them."""

MOST_AT_ONCE = 20_000_000
"""Bytes of contents in one commit: a third more on the way, and about 40 MB are taken in one request [R]."""


class Way(enum.Enum):
    """How commits get there.

    ``BRANCH``: ``createCommitOnBranch`` where one space that exists is changed,
    otherwise as ``REFS``: trees, commits, ``updateRefs``.  ``REST``: trees, a
    commit, and the ref over REST, for one space at a time.
    """

    BRANCH = "branch"
    REFS = "refs"
    REST = "rest"


@cache
def capabilities(way: Way) -> Capabilities:
    """What the driver can do, writing in that way."""
    return Capabilities(
        multi_space=way is not Way.REST,
        compare_only=False,
        clock_margin=CLOCK_MARGIN,
        max_commit_bytes=MOST_AT_ONCE,
        poll_interval=POLL,
        requests_per_commit=1 if way is Way.BRANCH else 3,
        keeps_objects=False,
        atomic_heads=False,
        far_objects=True,
        keeps_author=way is not Way.BRANCH,
    )


class GithubStore:
    """Spaces as refs below ``prefix`` of a repository at GitHub. Thread-safe.

    ``write`` is ``auto``, ``refs`` or ``rest``, as in
    :class:`ghcoord.config.GithubSettings`; ``cache`` a folder for what never
    changes, shared by the machine's processes.
    """

    def __init__(
        self,
        api: Api,
        runtime: Runtime,
        prefix: str = "refs/heads/ghcoord/",
        *,
        write: str = "auto",
        cache: Path | None = None,
    ) -> None:
        if write not in WRITE_MODES:
            raise UsageError(f"github.write is one of {', '.join(WRITE_MODES)}, not {write!r}")
        self._api = api
        self._runtime = runtime
        self._prefix = prefix
        self._mutex = threading.Lock()
        self._way = Way.REST if write == "rest" else Way.REFS
        if write == "auto" and prefix.startswith(BRANCHES):
            self._way = Way.BRANCH
        disk = DiskCache(cache) if cache is not None else None
        self._objects = Objects(api, runtime, graphql=self._way is not Way.REST, disk=disk)
        self._heads = Heads(api, prefix, self._objects, graphql=self._way is not Way.REST)
        self._writer = ObjectWriter(api, self._objects, prefix)
        self._mover = RefsMover(api)

    @property
    def way(self) -> Way:
        """How commits are written now."""
        if self._way is not Way.REST and not self._objects.graphql:
            self._way = Way.REST  # reading found out
        return self._way

    @property
    def capabilities(self) -> Capabilities:
        return capabilities(self.way)

    @property
    def url(self) -> str:
        return self._api.repo.url

    @property
    def budget(self) -> Budget | None:
        return self._api.budget

    # -- reading

    def heads(self) -> dict[str, Oid]:
        return self._heads.read()

    def near(self, head: Oid, paths: Collection[str]) -> None:
        self._objects.near(head, paths)

    def commit_info(self, oid: Oid) -> CommitInfo:
        return self._objects.commit_info(oid)

    def tree(self, oid: Oid) -> Mapping[str, Entry]:
        return self._objects.tree(oid)

    def blob(self, oid: Oid) -> bytes:
        return self._objects.blob(oid)

    def raw(self, oid: Oid) -> RawObject:
        raise Unsupported(f"{self.url} keeps its objects to itself: read it with git, as https://… or ssh://…")

    def server_time(self) -> float:
        return self._api.server_time()

    # -- writing

    def commit(
        self,
        expected: Mapping[str, Oid | None],
        changes: Mapping[str, ChangeSet],
        op: Operation,
    ) -> dict[str, Oid]:
        check_size(changes, self.capabilities)
        self._check_offered(expected, changes)
        drafts = self._drafts(expected, changes, op)
        while True:
            way = self._way_of(drafts)
            try:
                made = self._send(way, drafts)
            except Unsupported:
                if way is Way.REST:
                    raise
                self._do_without(way)  # said before anything was done
                self._check_offered(expected, changes)
            else:
                self._heads.note(made, expected)
                return made

    def _check_offered(self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet]) -> None:
        compared = sorted(set(expected) - set(changes))
        if compared:
            raise Unsupported(f"{', '.join(compared)} would only be compared, and GitHub compares what it writes")
        if len(changes) > 1 and self.way is Way.REST:
            raise Unsupported(
                f"{' and '.join(sorted(changes))} at once need GitHub's GraphQL API (updateRefs): without it "
                f"one space is written at a time. The same hub over git does it: {git_url(self._api.repo)}"
            )

    def _drafts(
        self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
    ) -> list[Draft]:
        with_actor = not self.capabilities.keeps_author
        try:
            return draft(self._objects, self._prefix, expected, changes, op, with_actor=with_actor)
        except Corrupt:
            # What is not there any more may be a head that was collected since.
            self._heads.expect_change()
            heads = self._heads.read()
            for space, head in expected.items():
                if heads.get(space) != head:
                    raise Conflict(f"{space} is at {heads.get(space)}, not at {head}") from None
            raise

    def _way_of(self, drafts: list[Draft]) -> Way:
        way = self.way
        if way is Way.BRANCH and (len(drafts) > 1 or not fits(drafts[0])):
            return Way.REFS
        return way

    def _do_without(self, way: Way) -> None:
        """The server lacks what ``way`` needs: take the next from now on."""
        with self._mutex:
            if self._way is way or way is Way.REFS:
                self._way = Way.REFS if way is Way.BRANCH else Way.REST

    def _send(self, way: Way, drafts: list[Draft]) -> dict[str, Oid]:
        if way is Way.BRANCH:
            return self._on_branch(drafts[0])
        infos = {one.space: self._writer.write(one) for one in drafts}
        ours = {space: info.oid for space, info in infos.items()}
        one = drafts[0]

        def move() -> dict[str, Oid]:
            if way is Way.REST:
                move_ref(self._api, one.ref, one.parent, ours[one.space])
            else:
                self._mover.move({each.ref: (each.parent, ours[each.space]) for each in drafts})
            return ours

        made = self._settled(move, drafts, ours)
        for each in drafts:
            keep(self._objects, each, infos[each.space])
        return made

    def _on_branch(self, one: Draft) -> dict[str, Oid]:
        def send() -> dict[str, Oid]:
            info = commit_on_branch(self._api, one)
            keep(self._objects, one, info)
            return {one.space: info.oid}

        return self._settled(send, [one], {})

    def _settled(
        self, send: Callable[[], dict[str, Oid]], drafts: list[Draft], ours: Mapping[str, Oid]
    ) -> dict[str, Oid]:
        """Send once; where the answer does not tell what became of it, look."""
        try:
            return send()
        except GraphQLRefused as refused:
            if refused.types and set(refused.types) == {STALE}:
                self._heads.expect_change()
                raise Conflict("somebody else committed first") from None
            failure: Exception = refused
        except (NotFound, OutcomeUnknown, Refused) as error:
            failure = error
        return self._look(failure, drafts, ours)

    def _look(self, failure: Exception, drafts: list[Draft], ours: Mapping[str, Oid]) -> dict[str, Oid]:
        """What became of ``drafts``, by the heads as they are now."""
        refused = not isinstance(failure, OutcomeUnknown)
        self._heads.expect_change()
        for last in [False] * (GONE_AFTER - 1 if refused else 0) + [True]:
            try:
                heads = self._heads.read()
            except GhcoordError as error:
                if isinstance(failure, NotFound):
                    raise failure from None
                raise OutcomeUnknown(f"{_words(failure)}; and then: {error}") from failure
            try:
                return settle(self._objects, heads, drafts, ours, refused=refused)
            except OutcomeUnknown as error:
                # What was refused and seems to be as expected may be gone: one answer alone does not tell.
                if last:
                    raise self._unknown(failure, error) from failure
        raise AssertionError("unreachable")

    def _unknown(self, failure: Exception, looked: OutcomeUnknown) -> Exception:
        """What to say where looking did not help."""
        if isinstance(failure, NotFound):
            return failure
        if isinstance(failure, Refused) and failure.absent:
            return Unavailable(f"{self._api.repo.host} does not see the branch yet: try again")
        return OutcomeUnknown(f"{_words(failure)}: {looked}")

    # -- the rest

    def collect(self, cut: Collection[Oid], *, dry_run: bool, tell: Tell) -> Collected:
        if self.way is Way.REST:
            raise Unsupported(f"gc needs updateRefs of GitHub's GraphQL API; {with_git(self._api.repo)}")
        parts = (self._objects, self._heads, self._writer, self._mover)
        return Rewriting(self, self._api, self._runtime, self._prefix, *parts).run(cut, dry_run=dry_run, tell=tell)

    def close(self) -> None:
        self._api.close()


def _words(failure: Exception) -> str:
    return str(failure) or type(failure).__name__
