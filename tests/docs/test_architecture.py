"""What ``docs/architecture.md`` tables is what the code has."""

from __future__ import annotations

import hashlib
import os
import re

import pytest

import ghcoord
from ghcoord.coord import layout
from ghcoord.coord.layout import FILES, FLEET, LOCKS, META, memory_space
from ghcoord.coord.queue import records
from ghcoord.coord.sessions.manifests import FileEntry, Manifest, ManifestRecord
from ghcoord.coord.workers.tick import Beat, Finished
from ghcoord.hub import Capabilities, Hub, Submission
from ghcoord.model.steps import cancel
from ghcoord.model.task import TRANSITIONS, State, Task, TaskResult
from ghcoord.store.tx import Tx
from tests.docs.pages import ROOT

_PLACES = {
    "xx": "[0-9a-f]{2}",
    "yy": "[0-9a-f]{2}",
    "NNNN": "[0-9]{4}",
    "SSSSSSSSSS": "[0-9a-f]{10}",
    "SSSSSS": "[0-9a-f]{6}",
    "SSS": "[0-9a-f]{3}",
    "SS": "[0-9a-f]{2}",
    "TTTTT": "[0-9a-f]{5}",
    "TTTT": "[0-9a-f]{4}",
    "TTT": "[0-9a-f]{3}",
    "TT": "[0-9a-f]{2}",
    "P": "[0-9]",
    "STATE": "[a-z]+",
    "PATH": ".+",
    "STEPS/": "(?:[a-z0-9_!%-]+/)*",
    "REST": ".*",
}
_WORD = re.compile("|".join([*_PLACES, "ID|NEED|WORKER|NAME|KEY|LOCK|TOKEN|KIND|BATCH|DIGEST"]))


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below ``heading``."""
    text = (ROOT / "docs" / "architecture.md").read_text().partition(f"## {heading}\n")[2]
    rows = re.findall(r"^\| (.+) \|$", text.partition("\n## ")[0], flags=re.MULTILINE)
    return [row.split(" | ") for row in rows[1:]]


def codes(cell: str) -> list[str]:
    return re.findall("`([^`]+)`", cell)


def patterns() -> dict[str, dict[str, re.Pattern[str]]]:
    """The paths that the page lists for each space, as patterns."""
    spaces = [META, FLEET, LOCKS, FILES, "memory/NAMESPACE"]
    found: dict[str, dict[str, re.Pattern[str]]] = {space: {} for space in spaces}
    for where, paths, _ in table("On disk"):
        for space in spaces if where == "every one" else codes(where):
            for path in codes(paths):
                rule = _WORD.sub(lambda word: _PLACES.get(word[0], "[^/]+"), re.escape(path).replace(r"\-", "-"))
                found[space][path] = re.compile(rule)
    return found


def busy_hub() -> Hub:
    """A hub that has everything: tasks in each state, workers, locks, values, a fence."""
    hub = ghcoord.connect("memory:")
    token = hub.workers.register("w1", capacity=9).token
    hub.tasks.submit_many([Submission("echo", {}, retries=int(n == 1), backoff=60, id=f"t{n}") for n in range(4)])
    leased = hub.beat(Beat("w1", token, tools=("echo",), want=4)).leased
    ends = [TaskResult(success=n == 0) for n in range(3)]
    done = [
        Finished(task.id, task.lease.token, end)
        for task, end in zip(leased, ends, strict=False)
        if task.lease is not None
    ]
    hub.beat(Beat("w1", token, finished=done))
    hub.tasks.submit("echo", {})
    hub.workers.register("w2", capacity=50, capabilities=Capabilities(supported_task_types=("echo",)))
    _line_up(hub)
    hub.balance.set_strategy("round_robin")
    hub.balance.assign(hub.tasks.submit("echo", {}).id)
    lock = hub.locks.acquire("deploy", "ann")
    assert lock is not None
    hub.locks.acquire("build", "ben")
    hub.locks.release("build", "ben")
    hub.locks.paths.acquire(["src/**"], "ann")
    hub.memory.set("color", "blue", fence=("deploy", lock.token))
    hub.memory.set("coal", "black", ttl=60)
    _sessions(hub)
    return hub


def _sessions(hub: Hub) -> None:
    """One that a worker has, with calls and a checkpoint; one that waits for a worker; artifacts."""
    one = hub.sessions.create("one", sandbox="none", worker="w2")
    for key in (None, "k"):
        hub.sessions.submit_call(one.id, "echo", {}, key=key)
    for owner in ({"session_id": one.id}, {"task_id": "t1"}):
        hub.artifacts.put("small", b"x", retention=60, **owner)
    hub.artifacts.put("large", os.urandom(9_000_000))
    with pytest.raises(InterruptedError):
        hub.artifacts.put("cut off", os.urandom(36_000_000), tell=_interrupt)
    digest = hashlib.sha256(b"x").hexdigest()
    record = ManifestRecord(id="c123456789abc", session=one.id, epoch=one.epoch, created_at=hub.now())
    hub.sessions.publish(Manifest(record, {"f": FileEntry(0o644, 1, 0, digest)}), lambda digest: iter([b"x"]))
    waiting = hub.sessions.create("waits", sandbox="none", worker="w1")
    hub.sessions.park("w1", {waiting.id: waiting.epoch})


def _interrupt(done: int) -> None:
    if done > 34_000_000:
        raise InterruptedError


def _line_up(hub: Hub) -> None:
    """Tasks that wait for a time, for others, for a worker, behind a gate."""
    later = hub.tasks.submit("echo", {}, not_before=60, id="later")
    for waited_for in (later.id, hub.tasks.submit("echo", {}).id):
        for policy in ("run", "wait"):
            hub.tasks.submit("echo", {}, after=[waited_for], if_failed=policy)
    hub.tasks.submit_many([Submission("echo", key="k", concurrency=1), Submission("echo", unique=True)], batch="night")
    for _ in range(2):
        hub.tasks.submit("echo", {}, key="k", concurrency=1, worker="w2")
    hub.tasks.submit("echo", {}, worker="w2")
    hub.schedules.put("nightly", "0 3 * * *", "echo")
    ended = hub.tasks.submit("never", {})
    hub.tasks.submit("echo", {}, after=[ended.id], if_failed="run")
    hub._context.transact((FLEET,), lambda tx: _cancel_only(tx, ended))


def _cancel_only(tx: Tx, task: Task) -> None:
    """Cancelled, and those who wait for it not told yet."""
    records.put(tx, [(task, cancel(task, "", now=tx.now))])


def test_layout_is_as_described() -> None:
    """Every file of a busy hub lies where the page says, and every place is in use (but for broken records)."""
    hub = busy_hub()
    assert set(State) == {state for state, number in hub.tasks.counts().items() if number}
    known = patterns()
    known[memory_space("global")] = known.pop("memory/NAMESPACE")
    unused = {(space, path) for space, paths in known.items() for path in paths if not path.startswith(layout.BROKEN)}
    for space in hub.heads():
        for path, _ in hub._context.snapshot(space).walk(""):
            fitting = [name for name, rule in known[space].items() if rule.fullmatch(path)]
            assert fitting, f"{space}:{path} is not in the page"
            unused -= {(space, name) for name in fitting}
    assert set() == unused


def test_transitions_are_as_described() -> None:
    """The page's table of a task's states is that of the model."""
    described = {
        (before, after)
        for source, target, _ in table("The queue")
        for before in codes(source)
        for after in codes(target)
    }
    assert {(str(before), str(after)) for (before, _), after in TRANSITIONS.items()} == described
