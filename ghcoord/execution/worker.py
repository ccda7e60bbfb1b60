"""The worker daemon: polls the hub, leases tasks, runs them, and reports, one commit a tick."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ghcoord.clock import Thread
from ghcoord.coord.workers.tick import Reply
from ghcoord.errors import GhcoordError, Throttled, Unavailable, WorkerReplaced
from ghcoord.execution.chores import Chores
from ghcoord.execution.environment.settings import PackageSettings
from ghcoord.execution.fulllog import FullLogKeeper
from ghcoord.execution.joining import Joining
from ghcoord.execution.offer import choose_sandbox, collect_tools, describe, make_pool, sandbox_info
from ghcoord.execution.places import Places
from ghcoord.execution.pulse import Pulse
from ghcoord.execution.rhythm import FIRST_SPREAD, Rhythm
from ghcoord.execution.sandbox.container import ContainerSettings
from ghcoord.execution.session.pool import STALE_AFTER
from ghcoord.execution.slots import REPORT_BYTES, Slots
from ghcoord.execution.summary import Log, Summary
from ghcoord.execution.ticking import COMMIT_PART, Ticking
from ghcoord.execution.tools.kit import Kit
from ghcoord.execution.workspace import Workspaces
from ghcoord.hub import Hub
from ghcoord.ids import check_id, check_name, new_suffix
from ghcoord.model.lease import GIVE_UP_AT, check_ttl
from ghcoord.model.limits import DEFAULT_LIMITS, Limits, parse_limits
from ghcoord.model.session import MAX_CHECKPOINTS
from ghcoord.model.timing import grace_for

ERROR_BACKOFF = 5.0
"""Seconds to wait after an error in the loop (reference: dx:1225), less when the lease is short."""

THROTTLED_AT_MOST = 60.0
"""Seconds that it waits at most at a time while the server refuses; then it looks after its tasks again."""

REGISTER_TIMEOUT = 30.0
"""Seconds for which it tries to register where tries cost nothing."""

LEAVE_AT_MOST = 90.0
"""Seconds over which workers that end at the same moment spread their first tries to deregister, at most."""

LINGER = 0.01
"""Seconds that a tick waits for more results to share its commit, while any task still runs."""

ABANDON_AFTER = 10.0
"""Seconds after which a stopping worker no longer waits for functions that ignore their cancellation."""


class WorkerDaemon(Ticking):
    """A worker: ``run()`` until told to stop.

    ``slots`` tasks at a time, with 0 only calls of the sessions that were made for it by name, one at a time;
    ``ttl`` seconds count as alive without a renewal (default: as set); ``poll`` seconds between looks at
    an idle hub; ``until_idle`` seconds without work end it, whatever is scheduled;
    ``max_runtime`` seconds begin a drain.  ``grace`` seconds lie between asking a task's processes to
    end and ending them (default 1; see :mod:`ghcoord.model.timing`).  ``types`` are task types it
    serves besides its tools' names; with ``only`` it offers no tools but those.  The hub's registered
    tools run in-process.  ``log`` gets (level, text).

    Tools that start commands run in the ``sandbox`` that is named: ``auto`` (bwrap, else landlock),
    ``bwrap``, ``landlock``, ``container``, or ``none``, which needs ``unsafe_no_sandbox``.  Where ``auto``
    finds none that works they are not offered, or, with ``commands``, nothing starts and the error names
    the fix; ``commands=False`` offers none in any case.  ``limits`` go before the usual ones and are the
    most that a task or a session gets.

    It has ``max_sessions`` sessions at most, keeps ``max_checkpoints`` of each below ``checkpoint_dir``
    and, with ``publish``, in the hub, and destroys those idle for ``stale_after`` seconds.
    :attr:`sessions` is for callers in this process.

    On a server with limits ``ttl`` and ``poll`` are the shortest that it uses; see
    :mod:`ghcoord.execution.rhythm`.  There it notices cancellations, and publishes
    what tasks say, with its commits.
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
        sandbox: str = "auto",
        unsafe_no_sandbox: bool = False,
        commands: bool | None = None,
        container: ContainerSettings | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        packages: PackageSettings | None = None,
        max_sessions: int = 5,
        checkpoint_dir: Path | None = None,
        max_checkpoints: int = MAX_CHECKPOINTS,
        publish: bool = True,
        stale_after: float = STALE_AFTER,
        grace: float | None = None,
        log: Log | None = None,
    ) -> None:
        runtime = hub.runtime
        worker_id = check_id(worker_id or self._default_id(hub), "worker id")
        ttl = check_ttl(hub.worker_ttl(ttl))
        rhythm = Rhythm(hub, ttl, hub.settings.poll if poll is None else poll)
        grace = grace_for(ttl, grace)
        self._types = tuple(check_name(one, "task type") for one in types)
        log = log or (lambda level, text: None)
        self.sandbox = choose_sandbox(runtime, sandbox, unsafe_no_sandbox, commands, container, log)
        kit = Kit(
            self.sandbox,
            runtime,
            grace,
            limits=(limits if isinstance(limits, Limits) else parse_limits(limits or {})).or_else(DEFAULT_LIMITS),
            packages=packages or PackageSettings(),
            artifacts=hub.artifacts,
        )
        self._workspaces = Workspaces(workspace)
        self.sessions = make_pool(
            hub,
            worker_id,
            base=self._workspaces.folder,
            kit=kit,
            checkpoint_dir=checkpoint_dir,
            max_checkpoints=max_checkpoints,
            publish=publish,
            max_sessions=max_sessions,
            stale_after=stale_after,
            log=log,
        )
        tools = collect_tools(hub, kit, only)
        self.sessions.serve(tools)
        wake = runtime.event()
        self.sessions.on_news = wake.set
        self.sessions.lease_runs = lambda: runtime.monotonic() < rhythm.give_up_at()
        identity = None if self.sandbox is None else self.sandbox.identity
        taken = Slots(
            runtime,
            max(1, slots),  # calls of its sessions that come through the hub need one
            tools,
            Places(self._workspaces, limits=kit.limits, identity=identity, pool=self.sessions),
            wake,
            lambda: hub.now().timestamp(),
            grace,
            min(REPORT_BYTES, hub.commit_bytes // COMMIT_PART),
            FullLogKeeper(hub, log),
        )
        super().__init__(
            hub,
            worker_id,
            rhythm=rhythm,
            slots=taken,
            pulse=Pulse(hub, taken, self._workspaces.folder),
            sessions=self.sessions,
            tools=tools,
            wake=wake,
            log=log,
        )
        self._chores = Chores(hub, rhythm, self.sessions, self.summary, self._log)
        self._slots_wanted = slots
        self._until_idle = until_idle
        self._max_runtime = max_runtime
        self._labels = dict(labels or {})
        self._ended = runtime.event()
        self._lost: Reply | None = None
        self._cancelled_at: float | None = None
        self._parking: Thread | None = None

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

        Raises ``WorkerReplaced`` when a newer registration of the same id
        exists, and ``Denied`` when the folder for its sessions cannot be used.
        """
        runtime = self._runtime
        started = runtime.monotonic()
        commits = self.hub.commits
        self.sessions.home.hold()
        self._join()
        forget = self.hub.on_commit(self._wake.set)
        watchdog = runtime.spawn(self._guard_lease, f"ghcoord-lease-{self.worker_id}")
        try:
            while True:
                if self._max_runtime is not None and runtime.monotonic() - started >= self._max_runtime:
                    self._begin_drain("its time is over")
                if self._draining and self._drained() and self._sessions_left():
                    break
                if self._wake.is_set():
                    self._slots.settle(LINGER)
                    self._wake.clear()
                try:
                    self._tick()
                    if self._chores.run(self._heads):
                        self._seen_head = None
                    self._rest(self._pause())
                except WorkerReplaced:
                    raise
                except Exception as error:
                    # Also what nobody foresaw: a daemon that ends over one record leaves its tasks to no one.
                    known = isinstance(error, GhcoordError)
                    self._log("error", str(error) if known else f"unexpected {type(error).__name__}: {error}")
                    wait = min(ERROR_BACKOFF, self.rhythm.ttl / 6)
                    if isinstance(error, Throttled):
                        wait = max(wait, min(THROTTLED_AT_MOST, error.until - runtime.now()))
                    self._wake.wait(wait)
        finally:
            forget()
            self._ended.set()
            watchdog.join(timeout=5.0)
            self.summary.commits = self.hub.commits - commits
            self._close()
        return self.summary

    def _join(self) -> None:
        """Register, among others who start at the same moment if commits are scarce; not when told to stop before."""
        if self.rhythm.pace is None:
            self._register()
            return
        if not Joining(self.hub, self.rhythm, self.worker_id, self._await).run(self._register):
            self._lost = Reply(lost="it was told to stop before it had registered")

    def _await(self, seconds: float) -> bool:
        """Wait; whether to go on afterwards."""
        end = self._runtime.monotonic() + seconds
        while not self._draining and (left := end - self._runtime.monotonic()) > 0:
            self._wake.wait(left)
            self._wake.clear()
        return not self._draining

    def _register(self) -> None:
        rhythm = self.rhythm
        ttl = rhythm.wished_ttl(first=True)
        sent = self._runtime.monotonic()
        sandbox = sandbox_info(self.sandbox)
        answer = self.hub.workers.register(
            self.worker_id,
            capacity=self._slots_wanted,
            capabilities=describe(self.hub, self._tools, self._types, self._labels),
            ttl=ttl,
            sandbox=sandbox,
            max_sessions=self.sessions.max_sessions,
            health=self._pulse.health(),
            account=self.hub.account,
            timeout=REGISTER_TIMEOUT if rhythm.pace is None else 0.0,
        )
        self._token = answer.token
        self._recovered = False
        rhythm.granted(sent, ttl)
        if rhythm.crowded:
            rhythm.wait(self._runtime.uniform(0, rhythm.workers * FIRST_SPREAD))
        self._seen_head = None
        box = f"sandbox {sandbox.driver} ({sandbox.tier})" if sandbox is not None else "no sandbox"
        self._log(
            "info",
            f"{answer.message}: {self._slots_wanted} slots, {self.sessions.max_sessions} sessions, {box}, "
            f"tools {', '.join(sorted(self._tools))}",
        )

    def _close(self) -> None:
        try:
            if self._lost is None:
                self._deregister()
        except GhcoordError as error:
            self._log("warn", f"could not deregister: {error}")
        self.hub.share(0)
        self.sessions.close()
        self._workspaces.close()

    def _deregister(self) -> None:
        """Where commits are scarce others may be faster: a few tries, spread by how many workers there are."""
        rhythm, workers = self.rhythm, self.hub.workers
        if rhythm.pace is None:
            workers.deregister(self.worker_id, token=self._token)
            return
        spread = min(LEAVE_AT_MOST, 2.0 * (rhythm.workers - 1))
        for last in (False, False, False, True):
            if not self._cancelling:
                self._runtime.sleep(self._runtime.uniform(0, spread))
                spread = max(spread * 2, 1.0)
            self.hub.heads()
            try:
                workers.deregister(self.worker_id, token=self._token, timeout=0.0)
                return
            except Unavailable:
                if last:
                    raise

    # -- stopping and losing

    def _drained(self) -> bool:
        """Whether all is reported. What ignores its cancellation is abandoned: threads cannot be killed."""
        if self._cancelling:
            now = self._runtime.monotonic()
            if self._cancelled_at is None:
                self._cancelled_at = now
            elif now - self._cancelled_at > ABANDON_AFTER:
                self._slots.abandon("its worker was stopped")
        return self._slots.idle

    def _sessions_left(self) -> bool:
        """Whether its sessions are saved and parked, as far as they can be; meanwhile it goes on renewing its lease."""
        if self._lost is not None or not self._recovered:
            return True
        if self._parking is None:
            self._parking = self._runtime.spawn(self._park, "ghcoord-drain")
            self._parking.join(LINGER)
        return not self._parking.is_alive() or self._gave_up()

    def _park(self) -> None:
        try:
            self.sessions.drain()
        except Exception as error:
            self._log("error", f"the sessions could not be parked: {type(error).__name__}: {error}")
        finally:
            self._wake.set()

    def _gave_up(self) -> bool:
        at = self._cancelled_at
        return at is not None and self._runtime.monotonic() - at > ABANDON_AFTER

    def _guard_lease(self) -> None:
        """Stop what runs when the lease was not renewed in time: others may take it over soon.

        In a thread of its own, because the loop may wait for the hub for longer than the lease.
        """
        rhythm = self.rhythm
        while True:
            left = rhythm.give_up_at() - self._runtime.monotonic()
            if left <= 0:
                if self._slots.running or self.sessions.busy:
                    self._log("warn", "the lease could not be renewed in time: stopping what runs")
                    self._slots.stop_all("its worker could not renew its lease")
                self.sessions.pause("could not renew its lease")
            limit = rhythm.ttl * GIVE_UP_AT
            if self._ended.wait(min(left, limit / 4) if left > 0 else limit / 8):
                return

    def _handle_loss(self, reply: Reply) -> None:
        self._log("warn", reply.lost)
        self._slots.stop_all("its worker lost its lease")
        self.sessions.pause("lost its lease")
        if reply.replaced:
            self._lost = reply
            self._wait_until_stopped()
            raise WorkerReplaced(f"{reply.lost}: this process stops", self.worker_id)
        if self._draining:
            self._lost = reply
        else:
            self._join()

    def _wait_until_stopped(self) -> None:
        deadline = self._runtime.monotonic() + 10.0
        while self._slots.running and self._runtime.monotonic() < deadline:
            self._runtime.sleep(0.05)
