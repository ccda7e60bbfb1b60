"""gc of a hub on a remote: its history is written again, shorter, and pushed with every head compared."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from ghcoord.errors import Conflict, Unavailable
from ghcoord.store.base import ROOT_RECORD, Collected, Oid, RawObject, Store, Tell
from ghcoord.store.message import format_message
from ghcoord.store.objects import TreeEditor, encode_commit
from ghcoord.store.reach import Reach
from ghcoord.store.remote.mirror import Mirror
from ghcoord.store.remote.upkeep import Upkeep
from ghcoord.store.rewrite import ATTEMPTS, Plan, Step, plan_rewrite, rewritten, write_again

PATIENCE = 10.0
"""Seconds that pruning waits for those who use the copy."""

ACTOR = "ghcoord gc"

Move = Callable[[Mapping[str, tuple[Oid | None, Oid]], Mapping[Oid, RawObject]], None]


class Collecting:
    """One run: history of ``store`` is to end at the commits ``cut``."""

    def __init__(
        self, store: Store, upkeep: Upkeep, mirror: Mirror, cut: Collection[Oid], op_id: str, tell: Tell
    ) -> None:
        self._store = store
        self._upkeep = upkeep
        self._mirror = mirror
        self._cut = frozenset(cut)
        self._op_id = op_id
        self._tell = tell

    def preview(self) -> Collected:
        """What the run would do."""
        heads = self._store.heads()
        plan = self._plan(heads)
        before, _ = self._measure(heads.values())
        after, kept = self._measure(heads.values(), self._cut)
        return Collected(plan.kept, plan.cut, kept, before, after, self._postponed(plan))

    def run(self, move: Move) -> Collected:
        """Collect; raises ``Unavailable`` where writers are first again and again."""
        for _ in range(ATTEMPTS):
            heads = self._store.heads()
            plan = self._plan(heads)
            before, _ = self._measure(heads.values())
            if plan.spaces:
                editor, made = self._write(plan)
                try:
                    move({one.space: (one.head, made[one.space]) for one in plan.spaces}, editor.objects)
                except Conflict:
                    continue
                heads = {**heads, **made}
            return self._finish(plan, heads, before)
        raise Unavailable(f"writers were faster {ATTEMPTS} times: run gc again when there is less to do")

    def _plan(self, heads: Mapping[str, Oid]) -> Plan:
        self._tell("planning", 0)
        return plan_rewrite(self._store, heads, self._cut, self._op_id, ACTOR)

    def _write(self, plan: Plan) -> tuple[TreeEditor, dict[str, Oid]]:
        """The new commits, in an editor, and the new heads."""
        store = self._store
        editor = TreeEditor(store.tree)

        def write(step: Step, parents: tuple[Oid, ...]) -> Oid:
            return editor.add("commit", rewritten(store.raw(step.old.oid)[1], parents))

        made: dict[str, Oid] = {}
        for one in plan.spaces:
            self._tell(f"writing {one.space}", len(one.steps))
            below = write_again(one, write)[one.head]
            tree = editor.apply(one.steps[-1].old.tree, {ROOT_RECORD: one.root})
            message = format_message(one.space, plan.op)
            made[one.space] = editor.add("commit", encode_commit(tree, (below,), plan.op.actor, plan.op.time, message))
        return editor, made

    def _finish(self, plan: Plan, heads: Mapping[str, Oid], before: int) -> Collected:
        self._tell("removing", 0)
        postponed = self._postponed(plan)
        try:
            self._upkeep.prune(timeout=PATIENCE)
        except Unavailable as error:
            postponed = postponed or error.message
        after, kept = self._measure(heads.values())
        return Collected(plan.kept, plan.cut, kept, before, after, postponed)

    def _measure(self, heads: Collection[Oid], cut: Collection[Oid] = ()) -> tuple[int, int]:
        """Bytes and number of the objects that ``heads`` need."""
        reach = Reach(self._store.raw, self._mirror.shallow().union(cut))
        oids = [found.oid for found in reach.walk(heads)]
        return self._upkeep.bytes_of(oids) if oids else 0, len(oids)

    def _postponed(self, plan: Plan) -> str:
        return f"people's commits in {', '.join(plan.left)} are not adopted yet" if plan.left else ""
