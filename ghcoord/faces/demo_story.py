"""The course of ``ghcoord demo``: what happens one after the other, and what is seen of it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ghcoord.execution.sandbox.open import Probe
from ghcoord.faces.demo_processes import Processes
from ghcoord.faces.demo_report import Facts
from ghcoord.faces.demo_tasks import is_long, submissions
from ghcoord.hub import Hub

if TYPE_CHECKING:
    from ghcoord.model.task import Task

T = TypeVar("T")

WORKERS = ("alpha", "beta")
WORKER_TTL = 3.0
"""Seconds; short, so that the death of one is noticed while somebody is looking."""
POLL = 0.2
SLOTS = 2
LOCK = "deploy"
LOCK_TTL = 1.0
KILL_AGE = 0.4
"""Seconds that a long task has run when its worker is killed."""

START_TIMEOUT = 30.0
WORK_TIMEOUT = 60.0


class Stage(Protocol):
    """Where the demo is shown."""

    def say(self, text: str) -> None:
        """A thing that has just happened."""

    def show(self) -> None:
        """Draw the present state; called about ten times a second while something is waited for."""


class Stuck(Exception):
    """Something did not happen in time."""


class Story:
    """Plays the demo on ``hub``; ``facts`` holds what was seen, also when it got stuck."""

    def __init__(self, hub: Hub, processes: Processes, stage: Stage, sandbox: Probe) -> None:
        self._hub = hub
        self._processes = processes
        self._stage = stage
        self._sandbox = sandbox
        self._workers: dict[str, subprocess.Popen[str]] = {}
        self._killed_at = 0.0
        self.facts = Facts()

    def play(self) -> Facts:
        """All acts. What goes wrong ends them and is kept in the facts."""
        started = self._hub.runtime.monotonic()
        try:
            for act in (self._submit, self._start_workers, self._kill_one, self._contend, self._finish, self._stop):
                act()
        except Stuck as why:
            self.facts.stuck = str(why)
        self._look_back()
        self.facts.seconds = self._hub.runtime.monotonic() - started
        return self.facts

    # -- the acts

    def _submit(self) -> None:
        tasks = self._hub.tasks.submit_many(submissions())
        self.facts.submitted = len(tasks)
        self._stage.say(f"{len(tasks)} tasks submitted in one commit: short, long and urgent ones, one that fails once")

    def _start_workers(self) -> None:
        options = ["--slots", str(SLOTS), "--ttl", f"{WORKER_TTL:g}", "--poll", f"{POLL:g}"]
        options += ["--workspace", str(self._processes.folder / "work")]
        if not self._sandbox.ok:
            options.append("--unsafe-no-sandbox")
        for name in WORKERS:
            self._workers[name] = self._processes.start(name, "worker", "start", "--id", name, *options)
        self._until(self._all_registered, START_TIMEOUT, "the workers did not register")
        self._stage.say(f"two worker processes are up: {' and '.join(WORKERS)}, {SLOTS} slots, lease {WORKER_TTL:g} s")
        for worker in self._hub.workers.list():
            if "run.python" not in worker.capabilities.supported_task_types:
                raise Stuck(f"{worker.id} cannot run Python: {self._sandbox.reason}; {self._sandbox.fix}")

    def _all_registered(self) -> bool:
        self._check_workers()
        return len(self._hub.workers.list()) == len(WORKERS)

    def _kill_one(self) -> None:
        victim = self._until(self._busy_worker, START_TIMEOUT, "no worker took a long task")
        self._processes.kill(self._workers.pop(victim))
        self._killed_at = self._hub.now().timestamp()
        held = [task for task in self._hub.tasks.list("leased") if task.worker == victim]
        self.facts.victim = victim
        self.facts.survivor = next(name for name in WORKERS if name != victim)
        self.facts.held = tuple(task.id for task in held)
        running = ", ".join([*self.facts.held[:4], *(["…"] if len(held) > 4 else [])])
        self._stage.say(f"{victim} killed with SIGKILL while it held {len(held)} tasks: {running}")

    def _busy_worker(self) -> str | None:
        """A worker that has been at a long task for a while, and will be for longer."""
        self._check_workers()
        now = self._hub.now()
        for task in self._hub.tasks.list("leased"):
            if task.lease is not None and is_long(task.id):
                age = (now - task.lease.at).total_seconds()
                if KILL_AGE <= age:
                    return task.lease.worker
        return None

    def _contend(self) -> None:
        """Two processes want one lock; the first gets silent, and its late write is refused."""
        claimants = {
            owner: self._processes.start(
                owner, *f"lock acquire {LOCK} --owner {owner} --ttl {LOCK_TTL:g} --wait 20s --json".split()
            )
            for owner in ("ann", "ben")
        }
        first, old = self._until(lambda: self._granted(claimants), 20.0, "nobody got the lock")
        self._stage.say(f"ann and ben both want the lock {LOCK}: {first} got it, token {old}, and falls silent")
        claimants.pop(first)
        second, new = self._until(lambda: self._granted(claimants), 25.0, "the lock of a silent owner was never free")
        self.facts.tokens = (old, new)
        self._stage.say(f"the lease of {first} is over: {second} has the lock, token {new}")
        self.facts.refused_with = self._run("late", *f"memory set release old --fence {LOCK}:{old}".split())
        self._stage.say(f"{first} comes back and writes: {self._processes.complaint('late')}")
        self.facts.allowed_with = self._run("good", *f"memory set release new --fence {LOCK}:{new}".split())
        self.facts.kept = self._hub.memory.get("release")
        self._stage.say(f"{second} writes with the present token: release = {self.facts.kept}")

    def _granted(self, claimants: dict[str, subprocess.Popen[str]]) -> tuple[str, int] | None:
        for owner, process in claimants.items():
            if process.poll() == 0:
                answer: dict[str, Any] = json.loads(self._processes.output(owner))
                return owner, int(answer["token"])
            if process.poll() is not None:
                raise Stuck(f"lock acquire ended with exit code {process.poll()}: {self._processes.complaint(owner)}")
        return None

    def _run(self, name: str, *args: str) -> int:
        process = self._processes.start(name, *args)
        self._until(lambda: process.poll() is not None, 20.0, f"{args[0]} did not end")
        return int(process.returncode)

    def _finish(self) -> None:
        self._until(self._all_ended, WORK_TIMEOUT, "tasks are left undone")
        self._stage.say("all tasks have ended")

    def _all_ended(self) -> bool:
        self._check_workers()
        counts = self._hub.tasks.counts()
        return sum(counts[state] for state in ("succeeded", "dead", "cancelled")) >= self.facts.submitted

    def _stop(self) -> None:
        survivor = self._workers[self.facts.survivor]
        survivor.send_signal(signal.SIGTERM)
        self._until(lambda: survivor.poll() is not None, 20.0, f"{self.facts.survivor} does not end")
        self.facts.survivor_exit = survivor.returncode

    # -- waiting and looking

    def _until(self, look: Callable[[], T | None], timeout: float, what: str) -> T:
        runtime = self._hub.runtime
        deadline = runtime.monotonic() + timeout
        while True:
            found = look()
            if found:
                return found
            if runtime.monotonic() >= deadline:
                raise Stuck(f"{what} within {timeout:g} s")
            self._stage.show()
            runtime.sleep(0.1)

    def _check_workers(self) -> None:
        for name, process in self._workers.items():
            if process.poll() is not None:
                raise Stuck(f"{name} ended with exit code {process.returncode}: {self._processes.complaint(name)}")

    def _look_back(self) -> None:
        facts = self.facts
        facts.tasks = self._hub.tasks.list()
        facts.recovered_after = self._recovered_after(facts.tasks)
        commits = [f"{commit.oid[:7]} {commit.summary}" for commit in self._hub.log()]
        facts.commits, facts.history = len(commits), commits

    def _recovered_after(self, tasks: list[Task]) -> float | None:
        held = [task for task in tasks if task.id in self.facts.held]
        ends = [
            one.ended_at.timestamp()
            for task in held
            for one in task.history
            if one.outcome == "lost" and one.worker == self.facts.victim
        ]
        return max(ends) - self._killed_at if ends else None
