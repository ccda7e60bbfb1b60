"""The worker daemon: polls the hub, leases tasks, runs them, and reports, one commit a tick."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from ghcoord.coord.layout import FLEET
from ghcoord.coord.workers.tick import Beat, Reply
from ghcoord.errors import GhcoordError, OutcomeUnknown, WorkerReplaced
from ghcoord.execution.offer import collect_tools, describe, sandbox_info
from ghcoord.execution.pulse import Pulse
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.execution.sandbox.open import open_sandbox
from ghcoord.execution.sandbox.orphans import end_orphans
from ghcoord.execution.slots import Slots, key_of
from ghcoord.execution.summary import Log, Summary
from ghcoord.execution.workspace import Workspaces
from ghcoord.hub import Hub
from ghcoord.ids import check_id, check_name, new_suffix
from ghcoord.model.lease import GIVE_UP_AT, RENEW_AT, check_ttl
from ghcoord.model.timing import grace_for, poll_for

ERROR_BACKOFF = 5.0
"""Seconds to wait after an error in the loop (reference: dx:1225), less when the lease is short."""

BUSY_POLL = 0.25
"""Seconds between polls while tasks run: how soon a cancellation is noticed on a local hub."""

LINGER = 0.01
"""Seconds that a tick waits for more results to share its commit, while any task still runs."""

CARE_EVERY = 60.0
"""Seconds between removals of expired locks and long-gone workers (parity: at most once a minute)."""

DUE_PAUSE = 0.01
"""Least seconds between two ticks that do what is due: back-offs, schedules, gates (coord/queue/upkeep.py)."""

STUCK_WAITING = 5.0
"""Seconds after which a task that was leased ahead and did not get a slot goes back."""

PROGRESS_EVERY = 1.0
"""Seconds between publications of what running tasks say, on a local hub."""

ABANDON_AFTER = 10.0
"""Seconds after which a stopping worker no longer waits for functions that ignore their cancellation."""


class WorkerDaemon:
    """A worker: ``run()`` until told to stop.

    ``slots`` tasks at a time; ``ttl`` seconds count as alive without a renewal (default: as set); ``poll``
    seconds between looks at an idle hub; ``until_idle`` seconds without work end it, whatever is scheduled;
    ``max_runtime`` seconds begin a drain.  ``grace`` seconds lie between asking a task's processes to
    end and ending them (default 1; see :mod:`ghcoord.model.timing`).  ``types`` are task types it
    serves besides its tools' names; with ``only`` it offers no tools but those.  The hub's registered
    tools run in-process; ``run.python`` and ``shell`` only in a sandbox, or without one when
    ``unsafe_no_sandbox`` says so.  ``log`` gets (level, text).
    """

    def __init__(
        self,
        hub: Hub,
        worker_id: str | None = None,
        *,
        slots: int = 1,
        ttl: float | None = None,
        poll: float | None = None,
        until_idle: float | None = None,
        max_runtime: float | None = None,
        workspace: Path | None = None,
        types: Collection[str] = (),
        only: Collection[str] | None = None,
        labels: Mapping[str, str] | None = None,
        unsafe_no_sandbox: bool = False,
        grace: float | None = None,
        log: Log | None = None,
    ) -> None:
        self.hub = hub
        self.worker_id = check_id(worker_id or self._default_id(hub), "worker id")
        self._runtime = hub.runtime
        self._slots_wanted = slots
        self._ttl = check_ttl(hub.worker_ttl(ttl))
        self._poll = poll_for(self._ttl, hub.settings.poll if poll is None else poll, hub.poll_interval)
        grace = grace_for(self._ttl, grace)
        self._until_idle = until_idle
        self._max_runtime = max_runtime
        self._types = tuple(check_name(one, "task type") for one in types)
        self._labels = dict(labels or {})
        self._log = log or (lambda level, text: None)
        self._wake = self._runtime.event()
        self._ended = self._runtime.event()
        self._draining = False
        self._cancelling = False
        self._lost: Reply | None = None
        self.sandbox: Sandbox | None = open_sandbox(unsafe=unsafe_no_sandbox, runtime=self._runtime)
        self._tools = collect_tools(hub, self.sandbox, self._runtime, grace, only)
        self._workspaces = Workspaces(workspace)
        self._slots = Slots(
            self._runtime,
            slots,
            self._tools,
            self._workspaces,
            self._wake,
            lambda: hub.now().timestamp(),
            grace,
        )
        self._pulse = Pulse(hub, self._slots, self._workspaces.folder)
        self.summary = Summary(self.worker_id)
        self._token = 0
        self._acknowledged = 0.0
        self._seen_head: str | None = None
        self._next_due: float | None = None
        self._asked = 0
        self._quiet_since: float | None = None
        self._cancelled_at: float | None = None
        self._next_progress = 0.0
        self._next_tend = 0.0
        self._next_care = 0.0

    @staticmethod
    def _default_id(hub: Hub) -> str:
        host = hub.actor.rpartition("@")[2].partition(".")[0].lower()
        clean = "".join(c if c.isalnum() and c.isascii() else "-" for c in host).strip("-")[:40] or "worker"
        return f"{clean}-{new_suffix(hub.runtime.randbits)}"

    # -- told from other threads; a signal handler starts one, since it may have interrupted the event's own lock

    def stop(self) -> None:
        """Drain: give back what has not started, finish what runs, take nothing new, then end."""
        self._draining = True
        self._wake.set()

    def cancel(self) -> None:
        """Drain without waiting: what runs is stopped and given back."""
        self._cancelling = True
        self.stop()

    # -- the loop

    def run(self) -> Summary:
        """Work until stopped, idle for long enough, or out of time.

        Raises ``WorkerReplaced`` when a newer registration of the same id exists.
        """
        runtime = self._runtime
        started = runtime.monotonic()
        commits = self.hub.commits
        self._register()
        forget = self.hub.on_commit(self._wake.set)
        watchdog = runtime.spawn(self._guard_lease, f"ghcoord-lease-{self.worker_id}")
        try:
            while True:
                if self._max_runtime is not None and runtime.monotonic() - started >= self._max_runtime:
                    self._begin_drain("its time is over")
                if self._draining and self._drained():
                    break
                if self._wake.is_set():
                    self._slots.settle(LINGER)
                    self._wake.clear()
                try:
                    self._tick()
                    self._rest(self._pause())
                except WorkerReplaced:
                    raise
                except Exception as error:
                    # Also what nobody foresaw: a daemon that ends over one record leaves its tasks to no one.
                    known = isinstance(error, GhcoordError)
                    self._log("error", str(error) if known else f"unexpected {type(error).__name__}: {error}")
                    self._wake.wait(min(ERROR_BACKOFF, self._ttl / 6))
        finally:
            forget()
            self._ended.set()
            watchdog.join(timeout=5.0)
            self.summary.commits = self.hub.commits - commits
            self._close()
        return self.summary

    def _register(self) -> None:
        sent = self._runtime.monotonic()
        sandbox = sandbox_info(self.sandbox)
        answer = self.hub.workers.register(
            self.worker_id,
            capacity=self._slots_wanted,
            capabilities=describe(self.hub, self._tools, self._types, self._labels),
            ttl=self._ttl,
            sandbox=sandbox,
            health=self._pulse.health(),
        )
        self._token, self._acknowledged = answer.token, sent
        self._seen_head = None
        box = f"sandbox {sandbox.driver} ({sandbox.tier})" if sandbox is not None else "no sandbox"
        self._log(
            "info", f"{answer.message}: {self._slots_wanted} slots, {box}, tools {', '.join(sorted(self._tools))}"
        )

    def _close(self) -> None:
        try:
            if self._lost is None:
                self.hub.workers.deregister(self.worker_id, token=self._token)
        except GhcoordError as error:
            self._log("warn", f"could not deregister: {error}")
        self._workspaces.close()

    # -- one tick

    def _tick(self) -> None:
        runtime = self._runtime
        slots = self._slots
        slots.enforce_timeouts()
        if self._draining:
            slots.give_back_waiting("its worker is draining")
        else:
            slots.give_back_waiting("it waited too long for a slot", older_than=STUCK_WAITING)
        if self._cancelling:
            slots.stop_all("its worker was stopped")
        finished, returned = slots.outcomes()
        now = runtime.monotonic()
        renew = now - self._acknowledged >= self._ttl * RENEW_AT
        said = []
        if now >= self._next_progress:
            said = slots.said()
            if said:
                self._next_progress = now + PROGRESS_EVERY
        want = 0 if self._draining else slots.wanted()
        head = self.hub.heads().get(FLEET)
        due = self._next_due is not None and self.hub.now().timestamp() >= self._next_due
        freed = want > 0 and self._asked == 0
        if head != self._seen_head or finished or returned or said or renew or due or freed:
            request = replace(
                self._wish(want), renew=renew, draining=self._draining, finished=finished, returned=returned, said=said
            )
            # Longer than the lease no answer is worth waiting for.
            timeout = max(1.0, self._ttl * (1 - GIVE_UP_AT))
            self._receive(request, lambda: self.hub.beat(request, timeout), now, head)
        self._care()

    def _wish(self, want: int) -> Beat:
        """A tick that asks for ``want`` more tasks."""
        return Beat(
            self.worker_id,
            self._token,
            tools=tuple(self._tools),
            want=want,
            ahead=max(0, want - self._slots.free()),
            health=self._pulse.health(),
        )

    def _rest(self, pause: float) -> None:
        """Wait for something to do. What this process submits meanwhile is leased in the commit that submits it."""
        want = 0 if self._draining else self._slots.wanted()
        if not want:
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
        try:
            reply = ask()
        except OutcomeUnknown:
            # What it leased, if anything, shows in the next reply as held but unknown, and goes back.
            self._seen_head = None
            raise
        if reply is None:
            return
        self._slots.reported(list(request.finished), list(request.returned))
        self._pulse.note(one for one in request.finished if one.task_id not in reply.refused)
        self.summary.count(request, reply, self._log)
        if reply.lost:
            self._handle_loss(reply)
            return
        if reply.renewed:
            self._acknowledged = sent
        newest = self.hub.newest()
        # Of its own commit a worker has nothing to learn; later transactions in it would have a higher revision.
        self._seen_head = newest[1] if newest is not None and newest[0] == reply.revision else head
        self._next_due = reply.next_due
        self._asked = request.want
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
        self._note_quiet(quiet and self._slots.idle)

    def _note_quiet(self, quiet: bool) -> None:
        if not quiet:
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = self._runtime.monotonic()

    def _pause(self) -> float:
        """Seconds until there is something to do, unless a task ends before."""
        now = self._runtime.monotonic()
        running = self._slots.running > 0
        pause = min(self._poll, BUSY_POLL) if running else self._poll
        pause = min(pause, max(0.01, self._acknowledged + self._ttl * RENEW_AT - now))
        if self._next_due is not None:
            pause = min(pause, max(DUE_PAUSE, self._next_due - self.hub.now().timestamp()))
        if self._until_idle is not None and self._quiet_since is not None and self._slots.idle:
            left = self._quiet_since + self._until_idle - now
            if left <= 0:
                self._begin_drain("the hub is idle")
                return 0.0
            pause = min(pause, left)
        return pause

    # -- stopping and losing

    def _begin_drain(self, why: str) -> None:
        if not self._draining:
            self._log("info", f"draining: {why}")
            self._draining = True

    def _drained(self) -> bool:
        """Whether all is reported. What ignores its cancellation is abandoned: threads cannot be killed."""
        if self._cancelling:
            now = self._runtime.monotonic()
            if self._cancelled_at is None:
                self._cancelled_at = now
            elif now - self._cancelled_at > ABANDON_AFTER:
                self._slots.abandon("its worker was stopped")
        return self._slots.idle

    def _guard_lease(self) -> None:
        """Stop what runs when the lease was not renewed in time: others may take it over soon.

        In a thread of its own, because the loop may wait for the hub for longer than the lease.
        """
        limit = self._ttl * GIVE_UP_AT
        while True:
            left = self._acknowledged + limit - self._runtime.monotonic()
            if left <= 0 and self._slots.running:
                self._log("warn", "the lease could not be renewed in time: stopping what runs")
                self._slots.stop_all("its worker could not renew its lease")
            if self._ended.wait(min(left, limit / 4) if left > 0 else limit / 8):
                return

    def _handle_loss(self, reply: Reply) -> None:
        self._log("warn", reply.lost)
        self._slots.stop_all("its worker lost its lease")
        if reply.replaced:
            self._lost = reply
            self._wait_until_stopped()
            raise WorkerReplaced(f"{reply.lost}: this process stops", self.worker_id)
        if self._draining:
            self._lost = reply
        else:
            self._register()

    def _wait_until_stopped(self) -> None:
        deadline = self._runtime.monotonic() + 10.0
        while self._slots.running and self._runtime.monotonic() < deadline:
            self._runtime.sleep(0.05)

    # -- caring for the others

    def _care(self) -> None:
        now = self._runtime.monotonic()
        if now < self._next_tend:
            return
        self._next_tend = now + min(1.0, self._ttl / 6)
        for worker_id, recovered in self.hub.workers.tend().items():
            self.summary.recovered += recovered.tasks
            self._log(
                "warn", f"worker {worker_id} is gone: {recovered.tasks} tasks and {recovered.locks} locks recovered"
            )
            self._seen_head = None
        if now >= self._next_care:
            self._next_care = now + CARE_EVERY
            self.hub.locks.tend()
            end_orphans()
            self.hub.workers.sweep()
            self.hub.tasks.retain()
