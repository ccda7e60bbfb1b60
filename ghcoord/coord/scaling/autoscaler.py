"""A scaler at work: look, ask what is not settled, write down, send, write down what became of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ghcoord.clock import Event
from ghcoord.coord.context import Context
from ghcoord.coord.scaling.claim import Claim
from ghcoord.coord.scaling.decision import HOUR, Answers, Decision, Policy, to_look_up
from ghcoord.coord.scaling.reckoning import LONGEST_RUN, is_own, names, room
from ghcoord.coord.scaling.records import Leader, Run, Scaler
from ghcoord.errors import GhcoordError, LeaseLost, NotFound, OutcomeUnknown, Throttled, Unavailable
from ghcoord.ids import new_op_id
from ghcoord.model.lease import GIVE_UP_AT
from ghcoord.store.dispatching import Accepted, Dispatcher, RemoteRun

if TYPE_CHECKING:
    from ghcoord.coord.scaling.scaling import Scaling

LEASE = 600.0
"""Seconds for which another scaler waits when a leading one falls silent; renewed at a third of it."""

LEASE_ONCE = 300.0
"""The same for one that looks only once."""

SENDING = 60.0
"""Seconds of the lease that must be left to send a dispatch: its longest timeout (30 s), and as much again."""

REST = 60.0
"""Seconds without dispatches after one that went wrong and may do better later."""

NO_TIME = "the server's limits allow no more dispatches now"

LOOK_BACK = 120.0
"""Seconds before a dispatch from which on its run is looked for: clocks differ."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one look did. ``leader`` is who scales instead, where another does; then there is no ``decision``.

    ``accepted`` are the dispatches that the server took, ``unknown`` those of
    which nobody knows yet, by worker.  ``problem`` says what kept it from more.
    """

    decision: Decision | None
    leader: Leader | None = None
    accepted: Mapping[str, Accepted] | None = None
    unknown: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = ()
    problem: str = ""


@dataclass(slots=True)
class _Sent:
    """What became of the dispatches of one step."""

    accepted: dict[str, Accepted]
    unknown: list[str]
    unsent: list[str]
    problem: str = ""
    fatal: GhcoordError | None = None


class Autoscaler:
    """One candidate for the lead of the scaler ``name``. Used by one thread; :meth:`stop` may come from another.

    ``inputs`` go with every dispatch; ``labels`` are what a run's worker offers.
    """

    def __init__(
        self,
        context: Context,
        scaling: Scaling,
        name: str,
        dispatcher: Dispatcher,
        policy: Policy,
        *,
        inputs: Mapping[str, str],
        labels: Mapping[str, str],
        once: bool,
    ) -> None:
        self._context = context
        self._scaling = scaling
        self._name = name
        self._dispatcher = dispatcher
        self._policy = policy.check()
        self._inputs = dict(inputs)
        self._labels = dict(labels)
        self._once = once
        self._id = f"{context.actor}:{new_op_id(context.runtime.randbits)}"
        self._token: int | None = None
        self._rests_until = 0.0
        self._dispatched: deque[float] = deque()
        self._ended: Event = context.runtime.event()

    def stop(self) -> None:
        """End :meth:`run` after the present step."""
        self._ended.set()

    def run(self, every: float, tell: Callable[[Step], None], warn: Callable[[str], None]) -> None:
        """A step every ``every`` seconds until :meth:`stop`; then the lead is given up.

        ``tell`` hears of each step.  What passes by itself (the hub or the
        server cannot be reached, or is busy) is told to ``warn``, and the next
        step is made; everything else is raised.
        """
        try:
            while not self._ended.is_set():
                try:
                    tell(self.step(lease=max(LEASE, 6 * every)))
                except (Throttled, Unavailable, OutcomeUnknown) as error:
                    warn(error.message)
                self._ended.wait(every)
        finally:
            self._release(warn)

    def _release(self, warn: Callable[[str], None]) -> None:
        if self._token is None:
            return
        try:
            self._scaling.release(self._name, self._token)
        except GhcoordError as error:
            warn(f"the lead was not given up: {error.message}")
        self._token = None

    def step(self, *, lease: float = LEASE_ONCE) -> Step:
        """One look, and what follows from it.

        Raises what the hub's store raises, and of dispatches what will not work
        later either (``Denied``, ``NotFound``, ``UsageError``), once it is
        written down that they were not sent.
        """
        runtime, scaling = self._context.runtime, self._scaling
        answers, problem = self._ask(scaling.peek(self._name))
        scaling.tend(scaling.judge(self._name))
        until = runtime.monotonic() + lease * GIVE_UP_AT - SENDING
        starts = self._may_start(until)
        claim = Claim(self._id, lease, self._token, keep=not self._once, starts=starts)
        look = scaling.look(self._name, self._dispatcher.place, self._policy, self._labels, claim, answers)
        self._token = look.token
        decision = look.decision
        problem = problem or ("" if starts else NO_TIME)
        if decision is None:
            return Step(None, look.leader, problem=problem)
        cancelled = self._cancel(decision.cancel, answers)
        if not decision.start:
            return Step(decision, accepted={}, cancelled=cancelled, problem=problem)
        assert look.token is not None
        sent = self._send(decision, until)
        try:
            scaling.resolve(self._name, look.token, sent.accepted, sent.unsent, release=self._once, ttl=lease)
            if self._once:
                self._token = None
        except LeaseLost as lost:
            self._token = None
            sent = replace(sent, problem=lost.message)
        if sent.fatal is not None:
            raise sent.fatal
        if sent.unknown or sent.unsent:
            self._rests_until = runtime.monotonic() + REST
        return Step(
            decision,
            accepted=sent.accepted,
            unknown=tuple(sent.unknown),
            cancelled=cancelled,
            problem=sent.problem or problem,
        )

    # -- the server

    def _ask(self, scaler: Scaler | None) -> tuple[Answers, str]:
        """What the server knows of the runs that are not settled; and why it could not be asked."""
        now = self._context.now()
        wanted = to_look_up(scaler, now) if scaler is not None else []
        if not wanted:
            return Answers(at=now), ""
        since = min(run.intended_at.timestamp() for run in wanted) - LOOK_BACK
        try:
            listed = self._dispatcher.runs(since)
        except GhcoordError as error:
            return Answers(at=now), error.message
        return Answers(frozenset(run.worker for run in wanted), _matched(wanted, listed), now), ""

    def _cancel(self, runs: Iterable[Run], answers: Answers) -> tuple[str, ...]:
        """Have runs cancelled that did not start; one that cannot be is given up later all the same.

        Only those whose title names a worker of this scaler: the number in the record may be another's run.
        """
        done = []
        for run in runs:
            told = answers.runs.get(run.worker)
            if told is None or not is_own(self._name, run.worker) or not names(told, run.worker):
                continue
            try:
                if self._dispatcher.cancel(told.id):
                    done.append(run.worker)
            except GhcoordError:
                continue
        return tuple(done)

    def _may_start(self, until: float) -> bool:
        """Whether a dispatch may leave in time: what cannot be sent need not be written down."""
        now = self._context.runtime.monotonic()
        return now >= self._rests_until and now + self._dispatcher.ready_in() < until

    def _room(self, decision: Decision) -> tuple[int, str]:
        """How many dispatches may leave by what the server and this process know of earlier ones; why no more."""
        runtime, now = self._context.runtime, self._context.now()
        while self._dispatched and runtime.monotonic() - self._dispatched[0] > HOUR:
            self._dispatched.popleft()
        try:
            listed = self._dispatcher.runs(now - LONGEST_RUN)
        except (Throttled, Unavailable, OutcomeUnknown) as error:
            return 0, error.message
        except NotFound:
            return 1, ""  # the dispatch itself says best what is not there
        known = {run.worker for run in decision.scaler.runs}
        counted = decision.live + decision.pending - len(decision.start)
        sent = len(self._dispatched)
        return room(self._name, listed, known, self._policy, counted=counted, sent=sent, now=now)

    def _send(self, decision: Decision, until: float) -> _Sent:
        """Send the dispatches one after the other, as long as the lease surely holds: until ``until``, monotonic."""
        sent = _Sent({}, [], list(decision.start))
        try:
            most, why = self._room(decision)
        except GhcoordError as error:
            sent.fatal = error
            return sent
        if most < len(decision.start):
            sent.problem = why
        for worker in decision.start[:most]:
            if self._ended.is_set():
                sent.problem = "it was told to stop"
                break
            if self._context.runtime.monotonic() + self._dispatcher.ready_in() >= until:
                sent.problem = NO_TIME
                break
            try:
                sent.accepted[worker] = self._dispatcher.start(worker, self._inputs)
            except OutcomeUnknown as error:
                sent.unsent.remove(worker)
                sent.unknown.append(worker)
                self._dispatched.append(self._context.runtime.monotonic())
                sent.problem = error.message
                break
            except (Throttled, Unavailable) as error:
                sent.problem = error.message
                break
            except GhcoordError as error:
                sent.fatal = error
                break
            sent.unsent.remove(worker)
            self._dispatched.append(self._context.runtime.monotonic())
        return sent


def _matched(wanted: Iterable[Run], listed: Iterable[RemoteRun]) -> dict[str, RemoteRun]:
    """The listed run of each worker: by its id, else by the worker's id in its title."""
    found = list(listed)
    by_id = {run.id: run for run in found}
    matched = {}
    for run in wanted:
        told = by_id.get(run.run_id) if run.run_id is not None else None
        told = told or next((one for one in found if names(one, run.worker)), None)
        if told is not None:
            matched[run.worker] = told
    return matched
