"""The scalers of a hub: each has one leader at a time, and one record in which every step is written before it is made.

The leader's lease lies in the record itself, so that who scales and what is
scaled change in one commit to one space, on every server.
"""

from __future__ import annotations

import builtins
from collections.abc import Collection, Mapping

from ghcoord.coord.care.rehearse import rehearse
from ghcoord.coord.context import SCALER_TABLE, WORKER_TABLE, Context, put_worker
from ghcoord.coord.layout import FLEET, scaler_path
from ghcoord.coord.queue import upkeep
from ghcoord.coord.scaling.autoscaler import Autoscaler, Step
from ghcoord.coord.scaling.claim import Claim, Look
from ghcoord.coord.scaling.decision import AT_ONCE, Answers, Decision, Policy, decide
from ghcoord.coord.scaling.records import Leader, Run, RunState, Scaler, sane, scaler_key
from ghcoord.coord.scaling.surroundings import offer_of, see
from ghcoord.coord.workers.workers import Workers
from ghcoord.errors import Corrupt, LeaseLost, NotFound, UsageError
from ghcoord.ids import check_id, new_op_id
from ghcoord.model.codec import stamp
from ghcoord.model.lease import RENEW_AT, Judge
from ghcoord.model.worker import WorkerStatus, worker_key
from ghcoord.store.dispatching import Accepted, Dispatcher
from ghcoord.store.tx import Tx

MAX_NAME = 100
"""Longest name of a scaler in characters: its workers' ids are the name and something random."""


class Scaling:
    """The scalers of a hub; :meth:`autoscaler` makes one of them act."""

    def __init__(self, context: Context, workers: Workers) -> None:
        self._context = context
        self._workers = workers

    def autoscaler(
        self,
        name: str,
        dispatcher: Dispatcher,
        policy: Policy,
        *,
        inputs: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        once: bool = False,
    ) -> Autoscaler:
        """A candidate for the lead of the scaler ``name``, to be run, stopped, or made to take one step.

        ``inputs`` go with every dispatch.  ``labels`` are what a run's worker
        offers: tasks that need others are not counted.  With ``once`` it gives
        the lead up after each step.  Raises ``UsageError`` for a policy that
        cannot be kept.
        """
        check_id(name, "scaler name")
        if len(name) > MAX_NAME:
            raise UsageError(f"the scaler name has {len(name)} characters: at most {MAX_NAME} are accepted")
        return Autoscaler(
            self._context, self, name, dispatcher, policy, inputs=inputs or {}, labels=labels or {}, once=once
        )

    # -- looking

    def get(self, name: str) -> Scaler | None:
        """The record of a scaler."""
        return SCALER_TABLE.find(self._context.snapshot(FLEET), check_id(name, "scaler name"))

    def peek(self, name: str) -> Scaler | None:
        """As :meth:`get`; ``None`` for a record that a person broke, which the next look sets aside."""
        try:
            return self.get(name)
        except Corrupt:
            return None

    def list(self) -> builtins.list[Scaler]:
        """All scalers, by name."""
        return sorted(SCALER_TABLE.scan(self._context.snapshot(FLEET)), key=lambda one: one.name)

    def new_ids(self, name: str) -> tuple[str, ...]:
        """Ids for workers to come, none of which was ever given: each is also the id of its dispatch."""
        randbits = self._context.runtime.randbits
        return tuple(f"{name}-{new_op_id(randbits)[:12]}" for _ in range(AT_ONCE))

    def judge(self, name: str) -> Judge:
        """Who is dead by the hub's clock or by what this process has observed, of workers and leaders."""
        context = self._context
        scaler = self.peek(name)
        leases = [(worker_key(one.id), one.lease) for one in self._workers.present().values() if one.alive]
        if scaler is not None and scaler.leader is not None:
            leases.append((scaler_key(name), scaler.leader.lease))
        context.observer.look(leases)
        seen, clock = context.observer.judge(), context.judge()
        return lambda key, lease, now: seen(key, lease, now) or clock(key, lease, now)

    # -- deciding

    def rehearse(self, name: str, policy: Policy, labels: Mapping[str, str]) -> Step:
        """What a step would do now, had the server nothing to tell and nobody else the lead; changes nothing."""
        policy.check()
        fresh, judge = self.new_ids(name), self.judge(name)

        def run(tx: Tx) -> Decision:
            return self._decide(tx, _load(tx, name), policy, labels, Answers(), fresh, judge)

        return Step(rehearse(self._context, (FLEET,), run))

    def look(
        self, name: str, place: str, policy: Policy, labels: Mapping[str, str], claim: Claim, answers: Answers
    ) -> Look:
        """Decide and write it down, in one commit, and only as the leader; none where nothing changes.

        What time brings to the queue is done as well: where no worker lives
        nobody else does it.
        """
        fresh, judge = self.new_ids(name) if claim.starts else (), self.judge(name)

        def run(tx: Tx) -> Look:
            before = sane(_load(tx, name), tx.now, self._margin)
            leader = before.leader
            mine = leader is not None and leader.id == claim.id and claim.token in (None, leader.token)
            if leader is not None and not mine and not judge(scaler_key(name), leader.lease, tx.now):
                return Look(None, leader)
            decision = self._decide(tx, before, policy, labels, answers, fresh, judge)
            after = decision.scaler.model_copy(update={"leader": _lead(tx, claim, leader if mine else None, decision)})
            if after != _load(tx, name):
                after = after.model_copy(update={"place": place[:300]})
                if after.leader is not None:
                    after = after.model_copy(update={"leader": _renewed(tx, after.leader, claim.ttl)})
                SCALER_TABLE.put(tx, FLEET, name, after)
            _tell(tx, name, before, decision)
            for worker in decision.drain:
                _drain(tx, worker)
            return Look(decision, after.leader, after.leader.token if after.leader is not None else None)

        return self._context.transact((FLEET,), run, near={FLEET: [scaler_path(name)]})

    def resolve(
        self,
        name: str,
        token: int,
        accepted: Mapping[str, Accepted],
        unsent: Collection[str],
        *,
        release: bool,
        ttl: float,
    ) -> None:
        """Write down what became of dispatches: those ``accepted``, by worker, and those certainly not sent.

        With ``release`` the lead is given up in the same commit, else renewed.
        Raises ``LeaseLost`` when another has it: who looks then finds out.
        """

        def run(tx: Tx) -> None:
            scaler = _own(tx, name, token)
            runs = [_resolved(run, accepted.get(run.worker), tx.now) for run in scaler.runs]
            kept = [run for run in runs if run.worker not in unsent or run.state is not RunState.INTENDED]
            for worker, told in accepted.items():
                tx.event(FLEET, "run accepted", scaler=name, worker=worker, run=told.run_id)
            assert scaler.leader is not None
            leader = None if release else _renewed(tx, scaler.leader, ttl)
            SCALER_TABLE.put(tx, FLEET, name, scaler.model_copy(update={"runs": tuple(kept), "leader": leader}))

        self._context.transact((FLEET,), run, near={FLEET: [scaler_path(name)]})

    def release(self, name: str, token: int) -> None:
        """Give the lead up, so that another may scale at once. Raises ``LeaseLost`` when it is another's."""

        def run(tx: Tx) -> None:
            SCALER_TABLE.put(tx, FLEET, name, _own(tx, name, token).model_copy(update={"leader": None}))

        self._context.transact((FLEET,), run)

    def forget(self, name: str) -> None:
        """Remove a scaler's record; its runs go on. Raises ``NotFound``."""
        check_id(name, "scaler name")

        def run(tx: Tx) -> None:
            if SCALER_TABLE.get(tx, FLEET, name) is None:
                raise NotFound(f"there is no scaler {name!r}")
            SCALER_TABLE.remove(tx, FLEET, name)
            tx.event(FLEET, "scaler removed", scaler=name)

        self._context.transact((FLEET,), run)

    def tend(self, judge: Judge) -> None:
        """Take from dead workers what they held: where no worker lives nobody else does it."""
        self._workers.tend()
        now = self._context.now()
        present = self._workers.present().values()
        if any(one.alive and judge(worker_key(one.id), one.lease, now) for one in present):
            self._workers.recover_dead(judge)
        self._workers.sweep()

    @property
    def _margin(self) -> float:
        return self._context.transactor.store.capabilities.clock_margin

    def _decide(
        self,
        tx: Tx,
        scaler: Scaler,
        policy: Policy,
        labels: Mapping[str, str],
        answers: Answers,
        fresh: tuple[str, ...],
        judge: Judge,
    ) -> Decision:
        upkeep.run(tx)
        runs = frozenset(run.worker for run in scaler.runs)
        seen = see(tx, runs, offer_of(labels), judge, policy.maximum * policy.per_run)
        return decide(scaler, seen, answers, policy, now=tx.now, margin=self._margin, fresh=fresh)


def _load(tx: Tx, name: str) -> Scaler:
    return SCALER_TABLE.get(tx, FLEET, name) or Scaler(name=name)


def _own(tx: Tx, name: str, token: int) -> Scaler:
    scaler = _load(tx, name)
    if scaler.leader is None or scaler.leader.token != token:
        raise LeaseLost(f"another scales {name!r} by now: token {token} no longer leads")
    return scaler


def _lead(tx: Tx, claim: Claim, mine: Leader | None, decision: Decision) -> Leader | None:
    """The lead after a look: kept, taken anew, or left to others. It is renewed where something is written anyway."""
    if not claim.keep and not decision.start:
        return None
    if mine is None:
        at = stamp(tx.now)
        return Leader(id=claim.id, token=tx.revision, renewal=tx.revision, ttl=claim.ttl, renewed_at=at)
    due = tx.now - mine.renewed_at.timestamp() >= mine.ttl * RENEW_AT or mine.ttl != claim.ttl
    return _renewed(tx, mine, claim.ttl) if due or decision.start else mine


def _renewed(tx: Tx, leader: Leader, ttl: float) -> Leader:
    return leader.model_copy(update={"renewal": tx.revision, "renewed_at": stamp(tx.now), "ttl": ttl})


def _resolved(run: Run, told: Accepted | None, now: float) -> Run:
    if told is None or run.state is not RunState.INTENDED:
        return run
    return run.to(RunState.ACCEPTED, now).model_copy(update={"run_id": told.run_id, "url": told.url[:300]})


def _tell(tx: Tx, name: str, before: Scaler, decision: Decision) -> None:
    """Record what happened to runs, as events."""
    known = {run.worker: run.state for run in before.runs}
    for run in decision.scaler.runs:
        if run.worker in decision.start or known.get(run.worker) not in (None, run.state):
            reason = run.why or None
            tx.event(FLEET, f"run {run.state}", scaler=name, worker=run.worker, run=run.run_id, reason=reason)


def _drain(tx: Tx, worker_id: str) -> None:
    worker = WORKER_TABLE.get(tx, FLEET, worker_id)
    if worker is not None and worker.alive:
        put_worker(tx, worker.model_copy(update={"status": WorkerStatus.DRAINING, "drain_requested": True}))
        tx.event(FLEET, "worker draining", worker=worker_id, reason="nothing for it to do")
