"""gc on GitHub: the history that stays is written again, commit by commit, and ``updateRefs`` moves all heads at once.

What to write is decided by :mod:`ghcoord.store.rewrite`.  Each commit written
again is a request that counts as content, so this serves hubs with little
history inside their retention; git does any of them with one push.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from ghcoord.clock import Runtime
from ghcoord.errors import Conflict, GhcoordError, NotFound, OutcomeUnknown, Unavailable, Unsupported
from ghcoord.ids import new_op_id
from ghcoord.store.base import ROOT_RECORD, Collected, CommitInfo, Oid, Store, Tell
from ghcoord.store.github.api import Api, GraphQLRefused, Repo
from ghcoord.store.github.refs_writer import ObjectWriter, RefsMover
from ghcoord.store.github.url import git_url
from ghcoord.store.github.writing import Draft, draft, keep, settle
from ghcoord.store.rewrite import ATTEMPTS, Plan, SpacePlan, Step, plan_rewrite, write_again

if TYPE_CHECKING:
    from ghcoord.store.github.objects import Objects
    from ghcoord.store.github.polling import Heads

MOST_WRITES = 50
"""Commits that one collection writes at most: a tenth of the 500 an hour that GitHub allows."""

ACTOR = "ghcoord gc"

LATER = "GitHub removes unreachable objects at a time of its own"


def with_git(repo: Repo) -> str:
    """The way that always works, as a command."""
    return f"'ghcoord gc --hub {git_url(repo)}' does it over git, with one push"


class Rewriting:
    """One collection."""

    def __init__(
        self,
        store: Store,
        api: Api,
        runtime: Runtime,
        prefix: str,
        objects: Objects,
        heads: Heads,
        writer: ObjectWriter,
        mover: RefsMover,
    ) -> None:
        self._store = store
        self._api = api
        self._runtime = runtime
        self._prefix = prefix
        self._objects = objects
        self._heads = heads
        self._writer = writer
        self._mover = mover

    def run(self, cut: Collection[Oid], *, dry_run: bool, tell: Tell) -> Collected:
        """Let history end at the commits ``cut``; see :meth:`Store.collect`.

        Raises ``Unsupported`` for more than ``MOST_WRITES`` commits to write,
        ``Unavailable`` where writers were first every time.
        """
        op_id = new_op_id(self._runtime.randbits)
        for _ in range(ATTEMPTS):
            self._heads.expect_change()
            heads = self._heads.read()
            plan = plan_rewrite(self._store, heads, cut, op_id, ACTOR, count=False)
            self._check(plan)
            report = Collected(plan.kept, self._gone(plan), 0, 0, 0, _postponed(plan))
            if dry_run or not plan.spaces:
                return report
            try:
                self._move(plan, tell)
            except Conflict:
                continue
            return report
        raise Unavailable(f"others were faster {ATTEMPTS} times in a row: try again when less is going on")

    def _check(self, plan: Plan) -> None:
        writes = sum(len(one.steps) + 1 for one in plan.spaces)
        if writes > MOST_WRITES:
            raise Unsupported(
                f"{writes} commits would have to be written again, over the API that is {MOST_WRITES} at most: "
                + with_git(self._api.repo)
            )

    def _gone(self, plan: Plan) -> int:
        """How many commits go, as the server counts them."""
        if not plan.spaces:
            return 0
        repo = self._api.repo
        names = [f"$i{number}: GitObjectID!" for number in range(len(plan.spaces))]
        counts = [
            f"c{number}: object(oid: $i{number}) {{ ... on Commit {{ history(first: 1) {{ totalCount }} }} }}"
            for number in range(len(plan.spaces))
        ]
        query = (
            f"query Count($owner: String!, $name: String!, {', '.join(names)}) {{ "
            f"repository(owner: $owner, name: $name) {{ {' '.join(counts)} }} }}"
        )
        ids = {f"i{number}": one.head for number, one in enumerate(plan.spaces)}
        try:
            found = self._api.graphql(query, {"owner": repo.owner, "name": repo.name, **ids}).get("repository")
        except GraphQLRefused as error:
            raise Unavailable(f"{repo.host} does not count the commits: {error}") from error
        return sum(_total(found, number) - len(one.steps) for number, one in enumerate(plan.spaces))

    def _move(self, plan: Plan, tell: Tell) -> None:
        tops: list[tuple[Draft, CommitInfo]] = []
        done = 0
        for one in plan.spaces:

            def write(step: Step, parents: tuple[Oid, ...]) -> Oid:
                nonlocal done
                old = step.old
                info = self._writer.commit(old.tree, parents, old.author, old.time, old.message)
                self._objects.add_commit(info)
                done += 1
                tell("writing commits", done)
                return info.oid

            tops.append(self._top(plan, one, write_again(one, write)[one.head]))
        ours = {each.space: info.oid for each, info in tops}
        refs: dict[str, tuple[Oid | None, Oid]] = {each.ref: (each.parent, info.oid) for each, info in tops}
        try:
            self._mover.move(refs, force=True)
        except (GraphQLRefused, NotFound, OutcomeUnknown) as error:
            self._look(error, [each for each, _ in tops], ours)
        for each, info in tops:
            keep(self._objects, each, info)
        self._heads.note(ours, plan.expected)

    def _top(self, plan: Plan, one: SpacePlan, below: Oid) -> tuple[Draft, CommitInfo]:
        """The commit on top: as the old head, with a higher revision."""
        changes = {one.space: {ROOT_RECORD: one.root}}
        [made] = draft(self._objects, self._prefix, {one.space: one.head}, changes, plan.op, with_actor=True)
        self._writer.make_tree(made)
        info = self._writer.commit(made.tree, (below,), plan.op.actor, plan.op.time, made.message)
        return made, info

    def _look(self, failure: Exception, drafts: list[Draft], ours: Mapping[str, Oid]) -> None:
        """Return where all moved, raise ``Conflict`` where a writer was first."""
        self._heads.expect_change()
        try:
            heads = self._heads.read()
        except GhcoordError as error:
            raise OutcomeUnknown(f"{failure}; and then: {error}") from failure
        settle(self._objects, heads, drafts, ours, refused=not isinstance(failure, OutcomeUnknown))


def _total(found: Any, number: int) -> int:
    try:
        return int(found[f"c{number}"]["history"]["totalCount"])
    except (TypeError, KeyError, ValueError):
        return 0


def _postponed(plan: Plan) -> str:
    if plan.left:
        return f"what people committed by hand in {', '.join(plan.left)} is not taken in yet"
    return LATER if plan.spaces else ""
