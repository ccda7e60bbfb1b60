"""Schedules fired by real daemons, with clocks of their own, killed around the due times."""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise

import pytest

from ghcoord.hub import Hub
from ghcoord.model.task import State
from ghcoord.store.heads import walk
from ghcoord.store.message import read_events
from tests.processes import WorkerProcess, until

SHIFTED = """
import sys, time
from ghcoord.clock import SystemRuntime
from ghcoord.__main__ import main

SystemRuntime.now = lambda runtime: time.time() + float(sys.argv[1])
sys.exit(main(sys.argv[5:]))
"""
"""A command line whose wall clock is wrong by so many seconds; the rest is another one's, without its interpreter."""


def daemon(hub: Hub, name: str, shift: float) -> WorkerProcess:
    before = (sys.executable, "-c", SHIFTED, str(shift))
    return WorkerProcess(hub.url, name, "--ttl", "5", "--poll", "0.1s", before=before)


def all_there(hub: Hub, running: Iterable[WorkerProcess]) -> None:
    """Wait until all daemons have registered; one that ended says why."""

    def look() -> bool:
        for one in running:
            assert None is one.process.poll(), one.wait()
        return len(hub.workers.list()) == 5

    until(look)


def fired(hub: Hub) -> list[float]:
    """The due times of all fires in the history of the hub, in its order."""
    store = hub._context.transactor.store
    found = [
        event["task"]
        for info, _ in walk(store, hub.heads()["fleet"])
        for line in reversed(read_events(info.message))
        if (event := json.loads(line))["kind"] == "schedule fired"
    ]
    return [datetime.strptime(one.removeprefix("s."), "%Y%m%dT%H%M%SZ").timestamp() for one in reversed(found)]


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.4, 30.0], ids=["racing", "a minute apart"])
def test_each_second_fires_once(hub: Hub, spread: float) -> None:
    """Five daemons, one killed with SIGKILL around every due time and started again: no fire twice, none lost."""
    chance = random.Random(7)
    shifts = {f"w{n}": (n - 2) / 2 * spread for n in range(5)}
    running = {name: daemon(hub, name, shift) for name, shift in shifts.items()}
    try:
        all_there(hub, running.values())
        hub.schedules.put("s", "every 1s", "echo", {"message": "x"})
        begin = int(time.time()) + 1
        for number in range(12):
            time.sleep(max(0.0, begin + number + chance.uniform(-0.15, 0.15) - time.time()))
            name = chance.choice(sorted(running))
            running[name].signal(signal.SIGKILL)
            running[name].end()
            running[name] = daemon(hub, name, shifts[name])
        hub.schedules.pause("s")
        until(lambda: not hub.tasks.list(["queued", "leased"]), timeout=40)
    finally:
        for one in running.values():
            one.end()
    times = fired(hub)
    assert {1.0} == {later - earlier for earlier, later in pairwise(times)}
    assert 10 <= len(times)
    tasks = hub.tasks.list()
    assert len(times) == len(tasks) == len({task.id for task in tasks})
    assert {State.SUCCEEDED} == {task.state for task in tasks}
    assert {1} == {sum(attempt.outcome == "succeeded" for attempt in task.history) for task in tasks}


@pytest.mark.slow
@pytest.mark.parametrize(("missed", "expected"), [("latest", 1), ("skip", 0), ("all", 24)])
def test_after_a_day_of_sleep(hub: Hub, missed: str, expected: int) -> None:
    """Five daemons that wake together on a hub that slept for a day do what the policy says, once."""
    hub.schedules.put("s", "@hourly", "echo", {"message": "x"}, missed=missed, grace=0)
    names = [f"w{n}" for n in range(5)]
    running = [daemon(hub, name, 86400.0) for name in names]
    try:
        all_there(hub, running)
        until(lambda: hub.schedules.list()[0].next_fire.timestamp() > time.time() + 86400 - 10)
        until(lambda: not hub.tasks.list(["queued", "leased"]), timeout=40)
    finally:
        for one in running:
            one.end()
    times = fired(hub)
    assert expected == len(times) == len(set(times)) == len(hub.tasks.list("succeeded"))
