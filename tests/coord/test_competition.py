"""Twenty submitters and ten workers in several processes on one hub: limits and unique keys hold at every commit.

Nothing that the code counts is believed: what ran, started and stood beside
what is read from the records as they were in each commit.
"""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ghcoord.bootstrap import open_hub
from ghcoord.clock import SystemRuntime
from ghcoord.config import Settings
from ghcoord.coord import layout
from ghcoord.coord.layout import FLEET
from ghcoord.coord.workers.tick import Beat, Finished, Returned
from ghcoord.errors import GhcoordError
from ghcoord.hub import Hub
from ghcoord.model.codec import ms_of
from ghcoord.model.task import ENDED, State, Task, TaskResult
from ghcoord.store.heads import walk
from ghcoord.store.local import LocalStore, create_repository
from ghcoord.store.snapshot import Snapshot, diff

PROCESSES, SUBMITTERS, WORKERS = 5, 4, 2
"""Processes, and in each of them so many submitters and workers."""

EACH = 12
"""Tasks that a submitter wants."""

THREE = {"key": "three", "concurrency": 3}
BURST = {"key": "burst", "rate": (4, 0.7)}
BOTH = {"key": "both", "concurrency": 2, "rate": (3, 0.5)}
PERIOD = 3600.0


def opened(path: Path, actor: str) -> Hub:
    runtime = SystemRuntime()
    return open_hub(LocalStore(path, runtime), runtime, Settings(), actor=actor, state=Path("/nonexistent"), make=True)


def insist(call: Callable[[], Any]) -> Any:
    """What ``call`` returns, as often as it takes until nobody is faster."""
    while True:
        try:
            return call()
        except GhcoordError:
            SystemRuntime().sleep(0.05)


def submit(path: Path, name: str) -> None:
    """Tasks of all kinds in an order of one's own; the unique ones are those of all the others, too."""
    random, hub = Random(name), opened(path, name)
    wanted: list[dict[str, Any]] = [*[THREE] * 2, *[BURST] * 2, *[BOTH] * 2]
    wanted += [{"unique_key": f"open-{n}", **random.choice([{}, THREE])} for n in range(2)]
    wanted += [{"unique_key": f"ever-{n}", "unique_for": PERIOD} for n in range(EACH - len(wanted))]
    random.shuffle(wanted)
    for options in wanted:
        insist(lambda options=options: hub.tasks.submit("echo", priority=random.randrange(3), **options))
    hub.close()


def work(path: Path, name: str) -> None:
    """Leases and ends tasks; now and then it fails, gives back, or registers anew and loses what it holds."""
    random, hub, runtime = Random(name), opened(path, name), SystemRuntime()

    def register() -> int:
        return int(insist(lambda: hub.workers.register(name, capacity=4, ttl=60)).token)

    token = register()
    held: list[Task] = []
    idle = 0
    while idle < 25:
        ending = held[: random.randint(0, len(held))]
        what: dict[str, Any] = {"finished": [], "returned": []}
        for task in ending:
            lease = task.lease.token if task.lease is not None else 0
            if random.random() < 0.1:
                what["returned"].append(Returned(task.id, lease, "why not"))
            else:
                what["finished"].append(Finished(task.id, lease, TaskResult(success=True)))
        beat = Beat(name, token, ("echo",), want=random.randint(1, 3), **what)
        try:
            reply = hub.beat(beat)
        except GhcoordError:
            continue
        held = [task for task in held if task.id in reply.held and task not in ending] + reply.leased
        if random.random() < 0.03:
            token, held = register(), []
        counts = hub.tasks.counts()
        done = counts["queued"] + counts["leased"] + counts["scheduled"] + counts["failed"] == 0
        idle = idle + 1 if done and not held else 0
        runtime.sleep(random.uniform(0, 0.08))
    hub.close()


def compete(path: Path, number: int) -> None:
    threads = [
        *(threading.Thread(target=submit, args=(path, f"s{number}-{n}")) for n in range(SUBMITTERS)),
        *(threading.Thread(target=work, args=(path, f"w{number}-{n}")) for n in range(WORKERS)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def states(path: Path) -> Iterator[dict[str, dict[str, Any]]]:
    """The tasks' records as they were after each commit, oldest first."""
    store = LocalStore(path, SystemRuntime())
    commits = [info.oid for info, _ in walk(store, store.heads()[FLEET])]
    before, present = Snapshot(store, FLEET, None), dict[str, dict[str, Any]]()
    for oid in reversed(commits):
        after = Snapshot(store, FLEET, oid)
        for place, _, blob in diff(store, before, after, layout.TASKS):
            if blob is None:
                present.pop(place)
            else:
                present[place] = json.loads(store.blob(blob))
        before = after
        yield present
    store.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_limits_and_unique_keys_hold_among_competitors(tmp_path: Path) -> None:
    """At every commit; and in the end each task has succeeded once."""
    path = tmp_path / "hub.git"
    create_repository(path, "refs/heads/ghcoord/fleet")
    opened(path, "first").close()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=compete, args=(path, number)) for number in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
        assert 0 == process.exitcode
    starts: dict[str, dict[tuple[str, int], int]] = {"burst": {}, "both": {}}
    most: Counter[str] = Counter()
    final: dict[str, dict[str, Any]] = {}
    for final in states(path):
        running: Counter[str] = Counter()
        unique: Counter[str] = Counter()
        for task in final.values():
            key = task.get("limit", {}).get("key")
            if task["state"] == State.LEASED and key is not None:
                running[key] += 1
                if key in starts:
                    at = Task.model_validate(task).lease
                    assert at is not None
                    starts[key].setdefault((task["id"], at.attempt), ms_of(at.at.timestamp()))
            terms = task.get("unique")
            if terms is not None and (task["state"] not in ENDED or "period" in terms):
                unique[terms["digest"]] += 1
        most |= running
        assert running["three"] <= 3
        assert running["both"] <= 2
        assert all(count == 1 for count in unique.values()), unique
    for key, number, period in (("burst", 4, 700), ("both", 3, 500)):
        times = [*starts[key].values()]
        assert len(times) >= PROCESSES * SUBMITTERS * 2
        assert [] == [b - a for a, b in zip(times, times[number:], strict=False) if b - a < period]
    assert (3, 2) == (most["three"], most["both"]), "the limits were reached"
    assert {State.SUCCEEDED} == {task["state"] for task in final.values()}
    ever = Counter(task["unique"]["digest"] for task in final.values() if "period" in task.get("unique", {}))
    assert [1] * (EACH - 8) == [*ever.values()]
