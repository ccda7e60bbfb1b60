"""Sessions while their workers are killed, paused, drained and replaced at random: nothing acknowledged is lost unseen.

Each client appends one number a call, with a key, and reads all that is there.
What was acknowledged is there, unless the session says that it was restored
since; then what the checkpoint had is there.  A number may be there twice only
where an attempt was cut short after its effect (docs/guarantees.md).
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from ghcoord.coord.context import SESSION_TABLE, WORKER_TABLE
from ghcoord.coord.layout import FLEET
from ghcoord.errors import NoCapacity, SessionLost, UsageError, WaitTimeout
from ghcoord.hub import Hub
from ghcoord.model.session import SessionState
from ghcoord.model.task import TaskResult
from tests.processes import WorkerProcess, needs_program, until
from tests.worker.test_sessions import base, registered

__all__ = ["base"]

ROUNDS = 20
CLIENTS = 3


class Client:
    """Somebody who works in one session, one call after the other; ``wrong`` is what should not have happened."""

    def __init__(self, hub: Hub, name: str, seed: int, over: threading.Event) -> None:
        self.hub = hub
        self.name = name
        self.random = random.Random(seed)
        self.over = over
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        self.there: list[int] = []
        self.saved: dict[str, list[int]] = {}
        self.lives = 0

    def run(self) -> None:
        """Work until it is over."""
        number = 0
        try:
            self._begin()
            while not self.over.is_set():
                number += 1
                try:
                    self._work(number)
                except SessionLost:
                    self._lost()
        except Exception as error:
            self.wrong.append(f"{self.session} {number}: {type(error).__name__}: {error}")

    @property
    def session(self) -> str:
        """The session that it has now."""
        return f"{self.name}-{self.lives}"

    def _begin(self) -> None:
        self.lives += 1
        self.there, self.saved = [], {}
        while not self.over.is_set():
            try:
                self.hub.sessions.create(self.session)
                return
            except NoCapacity:
                time.sleep(0.2)

    def _lost(self) -> None:
        found = self.hub.sessions.get(self.session)
        if found is None or found.checkpoints:
            self.wrong.append(f"{self.session} was lost though it was saved")
        self.counts["lost"] += 1
        self._begin()

    def _call(self, tool: str, args: dict[str, str], number: int) -> TaskResult | None:
        while not self.over.is_set():
            try:
                return self.hub.sessions.call(self.session, tool, args, key=f"k{number}", wait=5)
            except WaitTimeout:
                self.counts["timeouts"] += 1
            except NoCapacity:
                time.sleep(0.2)
        return None

    def _work(self, number: int) -> None:
        what = self.random.random()
        if what < 0.12:
            result = self._call("session.checkpoint", {}, number)
            if result is not None and result.success:
                self.saved[result.data["checkpoint"]["id"]] = list(self.there)
        elif what < 0.15 and self.saved:
            self._go_back(self.random.choice(list(self.saved)))
        else:
            result = self._call("shell", {"command": f"echo {number} >>log; cat log"}, number)
            if result is not None and result.success:
                self._check(number, [int(one) for one in result.output.split()])

    def _go_back(self, checkpoint: str) -> None:
        if self.hub.sessions.get(self.session) is None or checkpoint not in {
            one.id for one in self.hub.sessions.checkpoints(self.session)
        }:
            return
        try:
            self.hub.sessions.restore(self.session, checkpoint)
        except UsageError:
            return  # a call that was taken from a dead worker runs
        self.there = list(self.saved[checkpoint])
        self.counts["went back"] += 1

    def _check(self, number: int, lines: list[int]) -> None:
        self.counts["calls"] += 1
        self.counts["twice"] += lines.count(number) - 1
        missing = set(self.there) - set(lines)
        if missing:
            found = self.hub.sessions.get(self.session)
            start = None if found is None else found.restored_from
            self.counts["restored"] += 1
            if start is None:
                self.wrong.append(f"{self.session} {number}: {sorted(missing)} are missing, and nothing was restored")
            elif set(self.saved.get(start, ())) - set(lines):
                self.wrong.append(f"{self.session} {number}: not all of the checkpoint {start} is there")
            elif set(lines) - set(self.there) - {number}:
                self.wrong.append(f"{self.session} {number}: {lines} has what should be gone")
        elif extra := set(lines) - set(self.there) - {number}:
            self.wrong.append(f"{self.session} {number}: {sorted(extra)} should be gone")
        if lines[-1:] != [number]:
            self.wrong.append(f"{self.session} {number}: ends with {lines[-3:]}")
        self.there = list(dict.fromkeys(lines))


def _watch(hub: Hub, over: threading.Event, wrong: list[str]) -> None:
    """No session is on two workers, and each worker counts what it has."""
    while not over.wait(0.2):
        snapshot = hub._context.snapshot(FLEET)
        sessions = {one.id: one for one in SESSION_TABLE.scan(snapshot)}
        for worker in WORKER_TABLE.scan(snapshot):
            has = sorted(one.id for one in sessions.values() if one.worker_id == worker.id)
            if has != sorted(worker.session_ids) or worker.active_sessions != len(has):
                wrong.append(f"{worker.id} lists {worker.session_ids}, counts {worker.active_sessions}, has {has}")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_acknowledged_is_lost_unseen(hub: Hub, base: Path, tmp_path: Path) -> None:
    """Two workers, one of which is hurt every few seconds, and three clients; at the end nothing is left behind."""
    needs_program("bwrap")
    chance = random.Random(5)
    options = ("--ttl", "2", "--poll", "0.1s", "--slots", "3", "--workspace", str(base), "--log-level", "error")
    started: list[WorkerProcess] = []

    def start(name: str) -> WorkerProcess:
        started.append(WorkerProcess(hub.url, name, *options))
        return started[-1]

    over, wrong = threading.Event(), []  # type: tuple[threading.Event, list[str]]
    clients = [Client(hub, f"s{number}", number, over) for number in range(CLIENTS)]
    threads = [threading.Thread(target=one.run) for one in clients]
    threads.append(threading.Thread(target=_watch, args=(hub, over, wrong)))
    try:
        workers = {name: start(name) for name in ("w1", "w2")}
        for name in workers:
            registered(hub, name)
        for thread in threads:
            thread.start()
        for _ in range(ROUNDS):
            time.sleep(chance.uniform(0.5, 2.5))
            name = chance.choice(list(workers))
            _hurt(chance, workers, name, start)
        over.set()
        for thread in threads:
            thread.join(60)
        counts = sum((one.counts for one in clients), Counter())
        assert [] == wrong + [text for one in clients for text in one.wrong], counts
        assert counts["calls"] > 50, counts
        assert counts["twice"] <= ROUNDS, counts
        for session in hub.sessions.list():
            if session.state is not SessionState.LOST:
                assert hub.sessions.call(session.id, "echo", {"message": "x"}, wait=60).success
            hub.sessions.destroy(session.id)
        assert [] == [task.id for task in hub.tasks.list(limit=100_000) if not task.ended]
        until(lambda: not list(base.glob("sessions/*/*/*/session.json")))
        assert [] == hub.repair(dry_run=True)
    finally:
        over.set()
        for worker in started:
            worker.end()


def _hurt(
    chance: random.Random, workers: dict[str, WorkerProcess], name: str, start: Callable[[str], WorkerProcess]
) -> None:
    """Kill, pause or drain a worker, or start another process with its id."""
    worker = workers[name]
    what = chance.choice(("kill", "kill", "pause", "drain", "replace"))
    if what == "pause":
        worker.signal(signal.SIGSTOP)
        time.sleep(chance.choice((0.5, 3, 5)))
        worker.signal(signal.SIGCONT)
        return
    if what == "kill":
        worker.signal(signal.SIGKILL)
    elif what == "drain":
        worker.signal(signal.SIGTERM)
    if what != "replace":
        worker.process.wait(60)
        time.sleep(chance.choice((0, 0, 3)))
    workers[name] = start(name)
    if what == "replace":
        worker.process.wait(60)
