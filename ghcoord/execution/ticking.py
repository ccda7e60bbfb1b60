"""A daemon's tick: what it reports, leases and renews in one commit, and how long it rests until the next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace

from ghcoord.clock import Event
from ghcoord.coord.layout import FLEET
from ghcoord.coord.queue.leasing import HELD_BYTES
from ghcoord.coord.workers.tick import Beat, Reply
from ghcoord.errors import NotFound, OutcomeUnknown, Unavailable, WorkerReplaced
from ghcoord.execution.frugal import Standing, decide
from ghcoord.execution.pulse import Pulse
from ghcoord.execution.rhythm import TAIL_PART, Rhythm
from ghcoord.execution.session.pool import SessionPool
from ghcoord.execution.slots import Slots, key_of
from ghcoord.execution.summary import Log, Summary
from ghcoord.hub import Hub
from ghcoord.model.lease import GIVE_UP_AT
from ghcoord.model.tool import Tool

BUSY_POLL = 0.25
"""Seconds between polls while tasks run: how soon a cancellation is noticed on a local hub."""

WARM_POLL = 0.05
"""Seconds between polls of a local hub while somebody works in a session: a look takes about 0.05 ms."""

DUE_PAUSE = 0.01
"""Least seconds between two ticks that do what is due: back-offs, schedules, gates (coord/queue/upkeep.py)."""

STUCK_WAITING = 5.0
"""Seconds after which a task that was leased ahead and did not get a slot goes back."""

PROGRESS_EVERY = 1.0
"""Seconds between publications of what running tasks say, on a local hub; elsewhere it goes along with the ticks."""

COMMIT_PART = 4
"""Of what a commit takes a worker's tasks fill one part in so many: with their results, and what upkeep moves."""


class Ticking(ABC):
    """The part of a daemon that talks with the hub while it works.

    Its loop calls :meth:`_tick` and :meth:`_rest`.
    """

    def __init__(
        self,
        hub: Hub,
        worker_id: str,
        *,
        rhythm: Rhythm,
        slots: Slots,
        pulse: Pulse,
        sessions: SessionPool,
        tools: Mapping[str, Tool],
        wake: Event,
        log: Log,
    ) -> None:
        self.hub = hub
        self.worker_id = worker_id
        self.summary = Summary(worker_id)
        self._runtime = hub.runtime
        self._wake = wake
        self.rhythm = rhythm
        self._slots = slots
        self._pulse = pulse
        self.sessions = sessions
        self.on_tick: Callable[[Beat, Reply], None] = lambda request, reply: None
        """Called in the loop's thread with each tick that the hub has taken, and its reply."""
        self._tools = tools
        self._log = log
        self._draining = False
        self._cancelling = False
        self._token = 0
        self._recovered = False
        """Whether the sessions that it has are known since it registered."""
        self._heads: Mapping[str, str] | None = None
        self._seen_head: str | None = None
        self._next_due: float | None = None
        self._next_look = 0.0
        self._asked = 0
        self._avoided: frozenset[str] = frozenset()
        self._queued = 0
        self._quiet_since: float | None = None
        self._until_idle: float | None = None
        self._next_progress = 0.0

    @property
    def ready(self) -> bool:
        """Whether the hub knows this worker, and it the sessions that it has: from then on it takes some."""
        return self._recovered

    @abstractmethod
    def _handle_loss(self, reply: Reply) -> None:
        """The registration is no longer this worker's."""

    # -- one tick

    def _tick(self) -> None:
        """Report, lease and renew what is to be, in one commit at most."""
        slots = self._slots
        self._heads = None
        self.rhythm.refresh()
        if not self._recovered:
            self._recover()
        slots.enforce_timeouts()
        if self._draining:
            slots.give_back_waiting("its worker is draining")
        elif self.rhythm.pace is None:
            slots.give_back_waiting("it waited too long for a slot", older_than=STUCK_WAITING)
        else:
            slots.give_back_surplus(self.rhythm.ahead(), "the tasks before it take longer than was thought")
        if self._cancelling:
            slots.stop_all("its worker was stopped")
        if self.rhythm.pace is None:
            self._usual_tick()
        else:
            self._frugal_tick()

    def _recover(self) -> None:
        """Find out which sessions it still has; the tick tells what to do when it is not registered any more."""
        try:
            self._recovered = self.sessions.recover(self._token)
        except (WorkerReplaced, NotFound) as error:
            self._log("debug", f"its sessions wait: {error.message}")
            self._seen_head = None

    def _usual_tick(self) -> None:
        """Where asking and committing cost nothing: whenever there is anything to say or to learn."""
        runtime, slots, rhythm = self._runtime, self._slots, self.rhythm
        finished, returned = slots.outcomes()
        now = runtime.monotonic()
        renew = now >= rhythm.renew_at()
        said = []
        if now >= self._next_progress:
            said = slots.said()
            if said:
                self._next_progress = now + PROGRESS_EVERY
        want = 0 if self._draining else slots.wanted()
        head = self.hub.heads().get(FLEET)
        due = self._next_due is not None and self.hub.now().timestamp() >= self._next_due
        freed = want > 0 and self._asked == 0
        news = self.sessions.news
        again = want > 0 and not self._avoided <= set(slots.avoided())
        if head != self._seen_head or finished or returned or said or renew or due or freed or news or again:
            request = replace(
                self._wish(want), renew=renew, draining=self._draining, finished=finished, returned=returned, said=said
            )
            # Longer than the lease no answer is worth waiting for.
            timeout = max(1.0, rhythm.ttl * (1 - GIVE_UP_AT))
            self._receive(request, lambda: self.hub.beat(request, timeout), now, head)

    def _frugal_tick(self) -> None:
        """Where commits are scarce: see :mod:`ghcoord.execution.frugal`."""
        runtime, slots, rhythm, hub = self._runtime, self._slots, self.rhythm, self.hub
        now = runtime.monotonic()
        step = decide(self._standing(now))
        if not (step.commit or step.look or step.due):
            return
        if (ready := hub.write_ready_in()) > 0:
            # What is decided before such a wait is outdated after it, and all who wait would go at once.
            rhythm.wait(ready + runtime.uniform(0, ready))
            return
        if step.look:
            self._next_look = now + rhythm.poll * runtime.uniform(0.9, 1.1)
        if (step.commit or step.due) and not rhythm.knows_others:
            rhythm.count(self.worker_id, hub.workers.present(hub.heads()).values())
        looked = runtime.monotonic()
        heads = self._heads = hub.heads()
        head = heads.get(FLEET)
        renew = looked >= rhythm.renew_at()
        # A try that reads little wins more races: a lease that could not be renewed at once goes first.
        want = 0 if renew and rhythm.losing else self._wanted()
        more = want > 0 and (self._asked == 0 or not self._avoided <= set(slots.avoided()))
        if not (step.commit or step.due or head != self._seen_head or more):
            return
        finished, returned = slots.outcomes()
        request = replace(
            self._wish(want),
            renew=renew,
            draining=self._draining,
            finished=finished,
            returned=returned,
            said=slots.said() if step.commit else (),
            upkeep=step.due,
        )
        sent = runtime.monotonic()
        try:
            self._receive(request, lambda: hub.beat(request, 0.0), sent, head)
        except Unavailable:
            newest = hub.newest()
            if newest is None or newest[1] == head:
                raise
            rhythm.refused()
            rhythm.tried(runtime.monotonic() - looked)
            self._log("debug", f"others were faster: another try in {rhythm.lost():.1f} s")

    def _standing(self, now: float) -> Standing:
        """How things stand; see :func:`ghcoord.execution.frugal.decide`."""
        slots, rhythm = self._slots, self.rhythm
        finished, returned = slots.outcomes()
        due = None
        if self._next_due is not None:
            due = now + self._next_due - self.hub.now().timestamp() + rhythm.due_after()
        return Standing(
            now=now,
            busy=slots.busy,
            results=bool(finished) or self.sessions.news,
            returned=bool(returned),
            free=slots.free() > 0,
            wants=self._wanted() > 0,
            draining=self._draining,
            queued=self._queued > 0,
            renew_at=rhythm.renew_at(),
            write_at=rhythm.write_at(),
            retry_at=rhythm.retry_at,
            look_at=self._next_look,
            due_at=due,
            credit_at=rhythm.credit_at,
        )

    def _wanted(self) -> int:
        """How many more tasks it takes now."""
        rhythm = self.rhythm
        return 0 if self._draining else self._slots.wanted(None if rhythm.pace is None else rhythm.ahead())

    def _wish(self, want: int) -> Beat:
        """A tick that asks for ``want`` more tasks."""
        wish = Beat(
            self.worker_id,
            self._token,
            tools=tuple(self._tools),
            want=want,
            ahead=max(0, want - self._slots.free()),
            health=self._pulse.health(),
            sessions=self.sessions.reports(),
            adopt=0 if self._draining else self.sessions.room,
            avoid=self._slots.avoided(),
        )
        rhythm = self.rhythm
        if rhythm.pace is None:
            return wish
        return replace(
            wish,
            ttl=rhythm.wished_ttl(),
            among=max(rhythm.fleet, rhythm.workers),
            least=self._slots.finished_in(rhythm.ahead() * TAIL_PART),
            room=min(HELD_BYTES, self.hub.commit_bytes // COMMIT_PART),
        )

    def _rest(self, pause: float) -> None:
        """Wait for something to do. What this process submits meanwhile is leased in the commit that submits it."""
        want = self._wanted()
        if not want or (self.rhythm.pace is not None and self._slots.busy):
            self._wake.wait(pause)
            return
        sent = self._runtime.monotonic()
        request = self._wish(want)
        end = self.hub.beat_along(request)
        try:
            self._wake.wait(pause)
        finally:
            self._receive(request, end, sent, self._seen_head)

    def _receive(self, request: Beat, ask: Callable[[], Reply | None], sent: float, head: str | None) -> None:
        """Do what the reply to ``request`` says, if there is one; ``head`` is what was seen before."""
        rhythm = self.rhythm
        rhythm.asks(sent, request.ttl)
        try:
            reply = ask()
        except OutcomeUnknown:
            # What it leased, if anything, shows in the next reply as held but unknown, and goes back.
            self._seen_head = None
            raise
        if reply is None:
            rhythm.refused()
            return
        self._slots.reported(list(request.finished), list(request.returned))
        self._pulse.note(one for one in request.finished if one.task_id not in reply.refused)
        self.summary.count(request, reply, self._log)
        self.on_tick(request, reply)
        if reply.lost:
            self._handle_loss(reply)
            return
        if reply.renewed:
            rhythm.granted(sent, request.ttl)
            self.sessions.told(request.sessions)
        else:
            rhythm.refused()
        newest = self.hub.newest()
        # Of its own commit a worker has nothing to learn; later transactions in it would have a higher revision.
        # A tick that changed nothing has taken none: what another commits in that millisecond may have its number.
        own = newest is not None and reply.renewed and newest[0] == reply.revision
        self._seen_head = newest[1] if newest is not None and own else head
        self._next_due = reply.next_due
        self._asked = request.want
        self._avoided = frozenset(request.avoid)
        self._queued = reply.queued
        if self._recovered:
            self.sessions.follow(reply.sessions, reply.revision)
            if self.sessions.lease_runs():  # renewed, or taken anew
                self.sessions.resume()
        unknown = set(reply.held.items()) - self._slots.known() - {key_of(task) for task in reply.leased}
        for task_id, token in unknown:
            self._slots.give_back(task_id, token, "the reply that leased it was lost")
        if unknown:
            self._wake.set()
        self._slots.add(reply.leased)
        for task_id in reply.cancel:
            self._slots.cancel(task_id)
        if reply.drain and not self._draining:
            self._begin_drain("it was asked to")
        quiet = not reply.leased and reply.elsewhere == 0 and not reply.expects
        self._note_quiet(quiet and self._slots.idle and not self.sessions.busy)

    def _note_quiet(self, quiet: bool) -> None:
        if not quiet:
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = self._runtime.monotonic()

    def _pause(self) -> float:
        """Seconds until there is something to do, unless a task ends before."""
        now = self._runtime.monotonic()
        if self.rhythm.pace is not None:
            pause = max(DUE_PAUSE, decide(self._standing(now)).at - now)
        else:
            pause = min(self.rhythm.poll, BUSY_POLL) if self._slots.running > 0 else self.rhythm.poll
            pause = min(pause, WARM_POLL) if self.sessions.lively else pause
            pause = min(pause, max(0.01, self.rhythm.renew_at() - now))
            if self._next_due is not None:
                pause = min(pause, max(DUE_PAUSE, self._next_due - self.hub.now().timestamp()))
        if self._until_idle is not None and self._quiet_since is not None and self._slots.idle:
            left = self._quiet_since + self._until_idle - now
            if left <= 0:
                self._begin_drain("the hub is idle")
                return 0.0
            pause = min(pause, left)
        return pause

    def _begin_drain(self, why: str) -> None:
        if not self._draining:
            self._log("info", f"draining: {why}")
            self._draining = True
