"""``docs/parity.md``: every row's Python names and commands are called, and do what the row says."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import ghcoord
from ghcoord import errors
from ghcoord.bootstrap import connect
from ghcoord.config import Settings, parse_settings
from ghcoord.model.event import AuditEntry
from ghcoord.model.requirements import Requirements
from ghcoord.model.task import State, TaskResult
from ghcoord.model.worker import Capabilities, Capacity, Health, WorkerStatus
from tests.cli.conftest import _alone, cli, hub, later, lived_in, living  # noqa: F401 - fixtures
from tests.cli.running import Cli
from tests.docs import parity_mcp, parity_sessions  # noqa: F401 - their rows
from tests.docs.parity import OPEN, Recorder, Row, offered, recording, rows
from tests.docs.stage import SCENARIOS, Stage, row

NEED_A_WORKER = ("Sessions", "Tools", "Hub, settings, errors: path errors")
"""Beginnings of the rows that play in a hub whose worker runs."""


@pytest.fixture
def stage(
    request: pytest.FixtureRequest,
    cli: Cli,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[Stage, Recorder]]:
    one = request.getfixturevalue("one")
    if one.key.startswith(NEED_A_WORKER):
        request.getfixturevalue("living")
        url = request.getfixturevalue("lived_in")
    else:
        url = request.getfixturevalue("hub")
    with (
        connect(str(url), Settings(), actor="ann@desk") as opened,
        recording(monkeypatch, opened, cli) as (recorder, run),
    ):
        yield Stage(opened, run, str(url), monkeypatch), recorder


SLOW = ("Settings: memory and disk a session wk:294 co:1018",)
"""Rows that take more than a second or two."""


@pytest.mark.parametrize(
    "one",
    [pytest.param(one, marks=pytest.mark.slow if one.key in SLOW else (), id=one.key) for one in offered()],
)
def test_row(one: Row, stage: tuple[Stage, Recorder]) -> None:
    """What the row names is there, was called, and behaves as the row says."""
    assert one.key in SCENARIOS, "the row has no scenario"
    there, recorder = stage
    SCENARIOS[one.key](there)
    assert [] == recorder.missing(one)


def test_every_scenario_has_its_row() -> None:
    """No scenario outlives its row."""
    assert {one.key for one in offered()} == set(SCENARIOS)


def test_nothing_is_open() -> None:
    """Every row of the reference documents is offered, or named as not carried over."""
    assert [] == [one for one in rows() if one.section == "Open"]
    assert [one for one in rows() if one.section in OPEN]


# -- hub, settings, errors


@row("Hub, settings, errors: NewWorkerRegistry")
def _connect(stage: Stage) -> None:
    with ghcoord.connect(stage.url, settings=Settings(poll=0.5)) as other:
        assert stage.hub.id == other.id
        for part in ("locks", "workers", "tasks", "memory", "balance", "audit", "sessions", "artifacts", "tools"):
            assert hasattr(other, part)
    assert 0 == stage.cli("status", "--hub", stage.url).code


@row("Hub, settings, errors: locking.ttlSeconds, retryAttempts, retryDelayMs")
def _lock_settings(stage: Stage) -> None:
    lock = stage.hub.locks.acquire("with the default")
    assert lock is not None
    assert (300.0, 3, 1.0) == (lock.ttl, Settings().locks.retry_attempts, Settings().locks.retry_delay)
    given = parse_settings('[locks]\nttl = "1m"\nretry_attempts = 5\nretry_delay = "2s"\n').locks
    assert (60.0, 5, 2.0) == (given.ttl, given.retry_attempts, given.retry_delay)
    assert 0 == stage.cli("lock", "acquire", "x", "--owner", "a", "--ttl", "60", "--wait", "1s").code


@row("Hub, settings, errors: LockError.code")
def _lock_codes(stage: Stage) -> None:
    lock = stage.hub.locks.acquire("x", "a")
    assert lock is not None
    with pytest.raises(errors.NotOwner) as not_owner:
        stage.hub.locks.release("x", "b")
    with pytest.raises(errors.LeaseLost) as lost:
        stage.hub.locks.release("x", "a", lock.token - 1)
    assert ("INVALID_OWNER", "LOCK_EXPIRED") == (not_owner.value.code, lost.value.code)
    wrong = stage.cli("lock", "release", "x", "--owner", "b", "--json")
    assert (4, "INVALID_OWNER") == (wrong.code, wrong.json["error"]["code"])
    old = stage.cli("lock", "release", "x", "--owner", "a", "--token", lock.token - 1, "--json")
    assert (5, "LOCK_EXPIRED") == (old.code, old.json["error"]["code"])


@row("Hub, settings, errors: WorkerError.workerId")
def _worker_error(stage: Stage) -> None:
    token = stage.worker()
    stage.worker()
    with pytest.raises(errors.WorkerError) as replaced:
        stage.hub.workers.heartbeat("w1", token=token)
    assert "w1" == replaced.value.worker_id
    assert "notes" == errors.SyncError("x", "notes").namespace
    assert (7, "notes") == (errors.SyncError.exit_code, errors.SyncError("x", "notes").details()["namespace"])
    stage.hub.workers.deregister("w1")
    none = stage.cli("worker", "list", "--has-capacity", "--limit", "1", "--json")
    assert (7, "") == (none.code, none.json["error"]["worker_id"])


@row("Hub, settings, errors: NotFoundError")
def _not_found(stage: Stage) -> None:
    with pytest.raises(errors.NotFound):
        stage.hub.tasks.cancel("t999")
    assert 3 == stage.cli("task", "show", "t999").code


@row("Hub, settings, errors: path errors co:970 co:973")
def _path_errors(stage: Stage) -> None:
    session = stage.hub.sessions.create().id
    for path, text in (
        ("/etc/x", "path must be relative to workspace root, got absolute path: /etc/x"),
        ("../x", "path traversal not allowed: ../x"),
    ):
        put = stage.cli("session", "put", session, "-", path, stdin="x")
        assert (2, text) == (put.code, put.error)
        called = stage.cli("tool", "call", "fs.read", "--session", session, "--arg", f"path={path}")
        assert (8, text) == (called.code, called.error)
    assert 2 == errors.PathRefused.exit_code


@row("Hub, settings, errors: call failed, task failed co:989 co:995")
def _task_failed(stage: Stage) -> None:
    token = stage.worker()
    task = stage.hub.tasks.submit("echo", {"message": "x"})
    (leased,) = stage.lease("w1", token)
    stage.end("w1", token, leased, success=False, error="no such thing")
    assert stage.hub.tasks.wait(task.id).success is False
    assert 8 == stage.cli("task", "wait", task.id).code
    assert (8, 7) == (errors.TaskFailed.exit_code, errors.StoreError.exit_code)


# -- locks


@row("Locks: acquireLock")
def _acquire(stage: Stage) -> None:
    lock = stage.hub.locks.acquire("x", "a", ttl=60, wait=0, metadata={"task_type": "build"})
    assert lock is not None
    assert stage.hub.locks.acquire("x", "b") is None
    assert 4 == stage.cli("lock", "acquire", "x", "--owner", "b").code
    waited = stage.cli("lock", "acquire", "x", "--owner", "b", "--ttl", "60", "--wait", "200ms", "--meta", "k=v")
    assert 9 == waited.code


@row("Locks: finally")
def _hold(stage: Stage) -> None:
    with stage.hub.locks.hold("x") as held:
        assert stage.hub.locks.is_locked("x")
        assert held.token > 0
    assert not stage.hub.locks.is_locked("x")
    assert 3 == stage.cli("lock", "run", "x", "--", "sh", "-c", "exit 3").code


@row("Locks: releaseLock")
def _release(stage: Stage) -> None:
    with pytest.raises(errors.NotFound):
        stage.hub.locks.release("x", "a")
    lock = stage.hub.locks.acquire("x", "a")
    assert lock is not None
    stage.hub.locks.release("x", "a", token=lock.token)
    stage.hub.locks.acquire("x", "a")
    assert 0 == stage.cli("lock", "release", "x", "--owner", "a").code


@row("Locks: releaseWorkerLocks")
def _release_all(stage: Stage) -> None:
    for name in ("x", "y"):
        stage.hub.locks.acquire(name, "a")
    assert 2 == stage.hub.locks.release_all("a")
    stage.hub.locks.acquire("z", "a")
    assert 1 == stage.cli("lock", "release", "--all", "--owner", "a", "--json").json["released"]


@row("Locks: isLocked")
def _is_locked(stage: Stage) -> None:
    assert 3 == stage.cli("lock", "show", "x").code
    stage.hub.locks.acquire("x", "a", ttl=60)
    assert stage.hub.locks.is_locked("x")
    assert 0 == stage.cli("lock", "show", "x").code
    stage.later(61)
    assert not stage.hub.locks.is_locked("x")


@row("Locks: getLock")
def _get_lock(stage: Stage) -> None:
    assert stage.hub.locks.get("x") is None
    stage.hub.locks.acquire("x", "a")
    found = stage.hub.locks.get("x")
    assert found is not None
    assert "a" == found.owner == stage.cli("lock", "show", "x", "--json").json["owner"]


@row("Locks: listLocks")
def _list_locks(stage: Stage) -> None:
    stage.hub.locks.acquire("x", "a", ttl=60)
    stage.hub.locks.acquire("y", "b")
    assert ["x"] == [lock.name for lock in stage.hub.locks.list("a")]
    stage.later(61)
    assert ["y"] == [lock.name for lock in stage.hub.locks.list()]
    assert ["x", "y"] == [lock.name for lock in stage.hub.locks.list(include_expired=True)]
    assert 1 == len(stage.cli("lock", "list", "--owner", "a", "--include-expired", "--json").json)


@row("Locks: cleanupStaleLocks")
def _clean(stage: Stage) -> None:
    stage.hub.locks.acquire("x", "a", ttl=5)
    stage.later(60)
    assert 1 == stage.hub.locks.clean()
    assert 0 == stage.cli("lock", "clean", "--json").json["removed"]


@row("Locks: Lock")
def _lock(stage: Stage) -> None:
    lock = stage.hub.locks.acquire("x", "a", metadata={"k": "v"})
    assert lock is not None
    assert ("x", "a", UTC) == (lock.name, lock.owner, lock.acquired_at.tzinfo)
    assert lock.expires_at > lock.acquired_at
    shown = stage.cli("lock", "show", "x", "--json").json
    assert {"name", "owner", "token", "acquired_at", "expires_at", "metadata"} <= set(shown)


@row("Locks: LockMetadata")
def _lock_metadata(stage: Stage) -> None:
    assert 0 == stage.cli("lock", "acquire", "x", "--owner", "a", "--meta", "k=v").code
    lock = stage.hub.locks.get("x")
    assert lock is not None
    assert {"k", "hostname", "pid"} <= set(lock.metadata)


# -- workers


@row("Workers: RegisterWorker")
def _register(stage: Stage) -> None:
    with pytest.raises(errors.InvalidName):
        stage.hub.workers.register("")
    stage.hub.workers.register("w1", hostname="h", capacity=3, max_sessions=5, metadata={"region": "eu"})
    first = stage.hub.workers.get("w1")
    assert first is not None
    assert first.capabilities.cpu_cores >= 1
    assert first.capabilities.memory_mb > 1
    args = ("--slots", "2", "--max-sessions", "7", "--label", "gpu=a100", "--meta", "k=v")
    assert 0 == stage.cli("worker", "register", "w1", *args).code
    again = stage.hub.workers.get("w1")
    assert again is not None
    assert (2, 7, "a100") == (again.capacity.max_tasks, again.max_sessions, again.capabilities.labels["gpu"])


@row("Workers: RegisterResponse")
def _registration(stage: Stage) -> None:
    answer = stage.hub.workers.register("w1")
    assert (True, 30.0) == (answer.success, answer.heartbeat_interval_seconds)
    shown = stage.cli("worker", "register", "w2", "--json").json
    assert {"success", "message", "heartbeat_interval_seconds"} <= set(shown)


@row("Workers: Heartbeat")
def _heartbeat(stage: Stage) -> None:
    with pytest.raises(errors.NotFound):
        stage.hub.workers.heartbeat("w1")
    stage.worker()
    reply = stage.hub.workers.heartbeat("w1", active_sessions=1, session_ids=["s9"], health=Health(cpu=0.5))
    assert (True, ("s9",)) == (reply.acknowledged, reply.unknown_session_ids)
    assert 0 == stage.cli("worker", "heartbeat", "w1").code


@row("Workers: heartbeat metadata dx:937")
def _health(stage: Stage) -> None:
    stage.worker()
    health = Health(cpu=0.5, memory=100.0, active_tasks=1, health_status="degraded")
    stage.hub.workers.heartbeat("w1", health=health)
    assert "degraded" == stage.cli("worker", "show", "w1", "--json").json["health"]["health_status"]


@row("Workers: HeartbeatMonitor.start")
def _keepalive(stage: Stage) -> None:
    stage.worker()
    before = stage.hub.workers.get("w1")
    beating = stage.hub.workers.keepalive("w1")
    beating.start()
    deadline = time.monotonic() + 10
    while stage.hub.workers.get("w1") == before and time.monotonic() < deadline:
        time.sleep(0.05)
    beating.stop()
    assert before != stage.hub.workers.get("w1")


@row("Workers: DeregisterWorker")
def _deregister(stage: Stage) -> None:
    stage.worker()
    answer = stage.hub.workers.deregister("w1", session_ids=["s1"])
    assert (True, ("s1",)) == (answer.success, answer.unknown_session_ids)
    stage.worker("w2")
    assert 0 == stage.cli("worker", "deregister", "w2", "--session", "s1").code
    assert 3 == stage.cli("worker", "deregister", "w2").code


@row("Workers: updateStatus")
def _set_status(stage: Stage) -> None:
    stage.worker(slots=4)
    changed = stage.hub.workers.set_status("w1", "busy", {"active_tasks": 2})
    assert ("busy", 4, 2) == (changed.status, changed.capacity.max_tasks, changed.capacity.active_tasks)
    assert 0 == stage.cli("worker", "status", "w1", "active").code
    assert 0 == stage.cli("worker", "drain", "w1").code


@row("Workers: GetWorker")
def _get_worker(stage: Stage) -> None:
    assert stage.hub.workers.get("w1") is None
    stage.worker()
    assert "w1" == stage.cli("worker", "show", "w1", "--json").json["id"]


@row("Workers: ListWorkers")
def _list_workers(stage: Stage) -> None:
    stage.worker("w1")
    stage.worker("w2", slots=0)
    stage.hub.workers.drain("w2")
    assert ["w1"] == [one.id for one in stage.hub.workers.list("active", has_capacity=True, task_type="build")]
    assert ["w1", "w2"] == [one.id for one in stage.hub.workers.list(["active", "draining"])]
    args = ("--status", "active", "--has-capacity", "--task-type", "build", "--json")
    assert ["w1"] == [one["id"] for one in stage.cli("worker", "list", *args).json]


@row("Workers: WorkerCount")
def _count(stage: Stage) -> None:
    stage.worker("w1")
    stage.worker("w2")
    assert 2 == stage.hub.workers.count()
    assert 2 == stage.cli("worker", "list", "--count", "--json").json["count"]
    assert 2 == len(stage.cli("status", "--json").json["workers"])


@row("Workers: FindWorkerWithCapacity")
def _find(stage: Stage) -> None:
    with pytest.raises(errors.NoCapacity):
        stage.hub.workers.find_with_capacity()
    stage.hub.workers.register("full", max_sessions=0)
    stage.worker("w1")
    assert "w1" == stage.hub.workers.find_with_capacity().id
    found = stage.cli("worker", "list", "--status", "active", "--has-sessions", "--limit", "1", "--json").json
    assert ["w1"] == [one["id"] for one in found]


@row("Workers: markStale")
def _mark_stale(stage: Stage) -> None:
    stage.worker()
    with pytest.raises(errors.UsageError):
        stage.hub.workers.mark_stale(5)
    stage.later(200)
    assert ["w1"] == stage.hub.workers.mark_stale(120)
    marked = stage.hub.workers.get("w1")
    assert marked is not None
    assert "offline" == marked.status
    assert 0 == stage.cli("worker", "reap", "--mark-only", "--yes").code


@row("Workers: checkStaleWorkers")
def _stale(stage: Stage) -> None:
    stage.worker()
    assert [] == stage.hub.workers.stale()
    stage.later(200)
    assert ["w1"] == stage.hub.workers.stale()
    assert 0 == stage.cli("worker", "reap", "--dry-run").code
    assert 1 == stage.hub.workers.count()


@row("Workers: recoverStaleLocks")
def _recover(stage: Stage) -> None:
    for name in ("w1", "w2"):
        token = stage.worker(name)
        stage.hub.locks.acquire(f"of {name}", name)
        stage.hub.tasks.submit("echo", {"message": "x"})
        stage.lease(name, token)
    stage.later(200)
    assert (1, 1, 0) == stage.hub.workers.recover("w1")
    assert 0 == stage.cli("worker", "reap", "w2", "--yes").code
    assert {"queued": 2, "leased": 0} == {state: stage.hub.tasks.counts()[state] for state in ("queued", "leased")}


@row("Workers: RemoveStaleWorkers")
def _reap(stage: Stage) -> None:
    stage.worker("w1")
    stage.later(400)
    assert 1 == stage.hub.workers.reap()
    stage.worker("w2")
    stage.later(1000)
    assert 0 == stage.cli("worker", "reap", "--stale-after", "5m", "--yes").code
    assert 0 == stage.hub.workers.count()


@row("Workers: StartCleanupLoop")
def _reaper(stage: Stage) -> None:
    stage.worker()
    stage.later(400)
    with stage.hub.workers.reaper(interval=0.05):
        deadline = time.monotonic() + 10
        while stage.hub.workers.count() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert 0 == stage.hub.workers.count()
    assert 2 == stage.cli("worker", "reap", "--every", "never").code


@row("Workers: RegisteredWorker")
def _worker_record(stage: Stage) -> None:
    stage.worker()
    keys = "id hostname status registered_at last_heartbeat capacity capabilities max_sessions active_sessions metadata"
    found = stage.hub.workers.get("w1")
    assert all(hasattr(found, key) for key in keys.split())
    assert set(keys.split()) <= set(stage.cli("worker", "show", "w1", "--json").json)


@row("Workers: WorkerStatus")
def _statuses(stage: Stage) -> None:
    assert {"active", "busy", "draining", "offline"} == {str(one) for one in WorkerStatus}
    stage.worker()
    for status in WorkerStatus:
        assert 0 == stage.cli("worker", "status", "w1", status).code
    assert 2 == stage.cli("worker", "status", "w1", "asleep").code
    token = stage.worker("w2", slots=1)
    stage.hub.tasks.submit("echo", {"message": "x"})
    stage.lease("w2", token)
    busy = stage.hub.workers.get("w2")
    assert busy is not None
    assert "busy" == busy.status


@row("Workers: WorkerCapacity")
def _capacity(stage: Stage) -> None:
    assert 2 == Capacity(max_tasks=3, active_tasks=1).available_slots
    can = Capabilities(cpu_cores=2, memory_mb=512, supported_task_types=("a",), labels={"gpu": ""})
    stage.hub.workers.register("w1", capacity=3, capabilities=can)
    shown = stage.cli("worker", "show", "w1", "--json").json
    assert 3 == shown["capacity"]["available_slots"]
    assert {"cpu_cores", "memory_mb", "supported_task_types", "labels"} == set(shown["capabilities"])


# -- tasks


@row("Tasks and the worker daemon: Task")
def _task(stage: Stage) -> None:
    plain = stage.hub.tasks.submit("echo", {"message": "x"}, priority=3, estimated_duration=90, metadata={"k": 1})
    assert "echo" == plain.type
    assert 90 == plain.estimated_duration
    typed = stage.hub.tasks.submit("echo", {"message": "x"}, type="build", requirements=Requirements(min_cpu_cores=2))
    assert "build" == typed.type
    args = ("--arg", "a=1", "--args-json", '{"b": 2}', "--type", "build", "--priority", "5", "--estimate", "90s")
    made = stage.cli("task", "submit", "echo", *args, "--meta", "k=v", "--json").json
    assert ({"a": "1", "b": 2}, "build", 5, 90.0) == (
        made["args"],
        made["type"],
        made["priority"],
        made["estimated_duration"],
    )
    token = stage.worker()
    assert [made["id"], plain.id, typed.id] == [task.id for task in stage.lease("w1", token, 3)]


@row("Tasks and the worker daemon: TaskRequirements")
def _requirements(stage: Stage) -> None:
    args = ("--min-cores", "8", "--min-memory", "1024", "--require", "gpu")
    made = stage.cli("task", "submit", "echo", *args, "--json").json
    assert ["gpu"] == made["requirements"]["required_capabilities"]
    small = stage.worker("small")
    assert [] == stage.lease("small", small)
    can = Capabilities(cpu_cores=8, memory_mb=2048, supported_task_types=("echo",), labels={"gpu": ""})
    big = stage.hub.workers.register("big", capabilities=can).token
    assert [made["id"]] == [task.id for task in stage.lease("big", big)]


@row("Tasks and the worker daemon: getPendingTasks")
def _pending(stage: Stage) -> None:
    low = stage.hub.tasks.submit("echo", {"message": "x"})
    high = stage.hub.tasks.submit("echo", {"message": "x"}, priority=9)
    assert [high.id, low.id] == [task.id for task in stage.hub.tasks.list(state="queued")]
    shown = stage.cli("task", "list", "--state", "queued", "--limit", "1", "--json").json
    assert [high.id] == [task["id"] for task in shown]


@row("Tasks and the worker daemon: assignTaskToWorker")
def _assign(stage: Stage) -> None:
    one, two = stage.worker("w1"), stage.worker("w2")
    task = stage.hub.tasks.submit("echo", {"message": "x"}, worker="w2")
    assert [] == stage.lease("w1", one)
    moved = stage.hub.tasks.submit("echo", {"message": "x"})
    assigned = stage.hub.tasks.assign(moved.id, "w2")
    assert assigned.assigned is not None
    assert ("w2", True) == (assigned.worker, assigned.assigned.at.timestamp() > 0)
    assert {task.id, moved.id} == {one.id for one in stage.lease("w2", two, 2)}
    third = stage.cli("task", "submit", "echo", "--worker", "w2", "--json").json
    fourth = stage.hub.tasks.submit("echo", {"message": "x"})
    assert 0 == stage.cli("task", "assign", fourth.id, "w2").code
    stage.hub.workers.deregister("w2")
    back = {task.id, moved.id, third["id"], fourth.id}
    assert back == {one.id for one in stage.lease("w1", one, 4)}


@row("Tasks and the worker daemon: watch for completion dx:1340, five minutes dx:1355")
def _wait(stage: Stage) -> None:
    token = stage.worker()
    task = stage.hub.tasks.submit("echo", {"message": "x"})
    with pytest.raises(errors.WaitTimeout):
        stage.hub.tasks.wait(task.id, timeout=0.05)
    assert 9 == stage.cli("task", "wait", task.id, "--timeout", "50ms").code
    (leased,) = stage.lease("w1", token)
    stage.end("w1", token, leased)
    assert stage.hub.tasks.wait(task.id, timeout=300).success


@row("Tasks and the worker daemon: TaskResult")
def _result(stage: Stage) -> None:
    token = stage.worker()
    task = stage.hub.tasks.submit("echo", {"message": "x"})
    (leased,) = stage.lease("w1", token)
    stage.end("w1", token, leased)
    shown = stage.cli("task", "show", task.id, "--json").json["result"]
    keys = "success output error exit_code duration data truncated artifacts completed_at"
    assert set(keys.split()) == set(shown)
    assert all(hasattr(stage.hub.tasks.result(task.id), key) for key in keys.split())


@row("Tasks and the worker daemon: streamed logs and progress co:317 wk:26")
def _logs(stage: Stage) -> None:
    token = stage.worker()
    task = stage.hub.tasks.submit("echo", {"message": "x"})
    (leased,) = stage.lease("w1", token)
    stage.end("w1", token, leased)
    assert "out" in "".join(stage.hub.tasks.logs(task.id, follow=False))
    assert "out" in stage.cli("task", "logs", task.id, "--follow").out


@row("Tasks and the worker daemon: cancellation wk:123, timeout wk:122")
def _cancel(stage: Stage) -> None:
    task = stage.hub.tasks.submit("echo", {"message": "x"}, timeout=300)
    assert State.CANCELLED is stage.hub.tasks.cancel(task.id).state
    made = stage.cli("task", "submit", "echo", "--timeout", "5m", "--json").json
    assert 300.0 == made["timeout"]
    assert 0 == stage.cli("task", "cancel", made["id"]).code


@row("Tasks and the worker daemon: DistributedWorker.start")
def _daemon(stage: Stage) -> None:
    class Built(BaseModel):
        name: str

    @stage.hub.tools.register("build")
    def build(name: str) -> dict[str, str]:
        return {"name": name}

    task = stage.hub.tasks.submit("build", {"name": "docs"})
    daemon = ghcoord.WorkerDaemon(stage.hub, "w1", slots=2, until_idle=0.2)
    daemon.run()
    result = stage.hub.tasks.result(task.id)
    assert result is not None
    assert result.success
    second = ghcoord.WorkerDaemon(stage.hub, "w2")
    thread = threading.Thread(target=second.run)
    thread.start()
    second.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert 0 == stage.cli("worker", "start", "--id", "w3", "--slots", "2", "--until-idle", "100ms").code


@row("Tasks and the worker daemon: pending")
def _states(stage: Stage) -> None:
    known = {"scheduled", "blocked", "queued", "leased", "failed", "succeeded", "dead", "cancelled"}
    assert known == {str(state) for state in State}
    for state in known:
        assert 0 == stage.cli("task", "list", "--state", state).code
    assert 2 == stage.cli("task", "list", "--state", "pending").code


# -- placement


@row("Placement: getNextTask")
def _next_task(stage: Stage) -> None:
    stage.worker()
    assert stage.hub.balance.get_next_task("w1") is None
    low = stage.hub.tasks.submit("echo", {"message": "x"})
    high = stage.hub.tasks.submit("echo", {"message": "x"}, priority=9)
    found = stage.hub.balance.get_next_task("w1")
    assert found is not None
    assert high.id == found.id
    chosen = stage.hub.balance.get_next_task("w1", [low])
    assert chosen is not None
    assert low.id == chosen.id
    assert high.id == stage.cli("balance", "next", "w1", "--json").json["id"]
    assert 2 == stage.hub.tasks.counts()["queued"]


@row("Placement: selectWorker")
def _select_worker(stage: Stage) -> None:
    task = stage.hub.tasks.submit("echo", {"message": "x"})
    assert stage.hub.balance.select_worker(task) is None
    stage.worker("w1")
    stage.worker("w2")
    only = [one for one in stage.hub.workers.list() if one.id == "w2"]
    chosen = stage.hub.balance.select_worker(task, only)
    assert chosen is not None
    assert "w2" == chosen.id
    assert stage.cli("balance", "select", task.id, "--json").json["id"] in ("w1", "w2")


@row("Placement: setStrategy")
def _strategy(stage: Stage) -> None:
    for name in ("round_robin", "least_loaded", "capacity_based", "affinity", "adaptive"):
        stage.hub.balance.set_strategy(name)
        assert 0 == stage.cli("balance", "strategy", name).code
    with pytest.raises(errors.UsageError):
        stage.hub.balance.set_strategy("random")


@row("Placement: getLoadDistribution")
def _distribution(stage: Stage) -> None:
    token = stage.worker("w1", slots=2)
    stage.worker("w2", slots=2)
    for _ in range(2):
        stage.hub.tasks.submit("echo", {"message": "x"})
    stage.lease("w1", token, 2)
    found = stage.hub.balance.distribution()
    assert (4, 2, 50.0) == (found.total_capacity, found.utilized_capacity, found.utilization_percent)
    first = found.worker_loads[0]
    assert ("w1", 2, 2, 100.0) == (first.worker_id, first.active_tasks, first.capacity, first.utilization_percent)
    assert "imbalanced" in stage.cli("balance", "show").out


@row("Placement: rebalance")
def _rebalance(stage: Stage) -> None:
    stage.worker("w1", slots=2)
    for _ in range(4):
        stage.hub.tasks.assign(stage.hub.tasks.submit("echo", {"message": "x"}).id, "w1")
    stage.worker("w2", slots=2)
    assert 0 == stage.cli("balance", "rebalance", "--dry-run").code
    result = stage.hub.balance.rebalance()
    assert result.tasks_moved > 0
    assert {"improved_utilization", "before_utilization", "after_utilization"} <= set(dir(result))


# -- memory


@row("Memory: set")
def _memory_set(stage: Stage) -> None:
    stage.hub.memory.set("k", {"a": [1, None]}, namespace="tasks")
    assert {"a": [1, None]} == stage.hub.memory.get("k", "tasks")
    assert 0 == stage.cli("memory", "set", "k", "[1]", "--json-value", "--namespace", "tasks").code
    assert [1] == stage.hub.memory.get("k", "tasks")


@row("Memory: get<T>")
def _memory_get(stage: Stage) -> None:
    class Decision(BaseModel):
        action: str

    stage.hub.memory.set("d", {"action": "scale_up"}, "swarm")
    assert Decision(action="scale_up") == stage.hub.memory.get("d", namespace="swarm", model=Decision)
    assert stage.hub.memory.get("missing") is None
    assert 3 == stage.cli("memory", "get", "missing").code


@row("Memory: delete")
def _memory_delete(stage: Stage) -> None:
    stage.hub.memory.set("k", 1)
    assert stage.hub.memory.delete("k", namespace="global")
    assert not stage.hub.memory.delete("k")
    assert 3 == stage.cli("memory", "delete", "k").code


@row("Memory: list")
def _memory_list(stage: Stage) -> None:
    for key in ("task-1", "task-2", "other"):
        stage.hub.memory.set(key, 1)
    assert ["task-1", "task-2"] == stage.hub.memory.list(namespace="global", prefix="task-")
    assert "task-1" in stage.cli("memory", "list", "task-").out


@row("Memory: sync")
def _memory_sync(stage: Stage) -> None:
    stage.hub.memory.set("k", 1, "tasks")
    assert {"tasks"} <= set(stage.hub.memory.sync())
    assert 0 == stage.cli("memory", "sync", "--namespace", "tasks").code


@row("Memory: watch")
def _memory_watch(stage: Stage) -> None:
    seen: list[Any] = []
    stop = stage.hub.memory.watch("k", seen.append)
    stage.hub.memory.set("k", 1)
    stage.hub.memory.set("k", 2)
    deadline = time.monotonic() + 10
    while (not seen or seen[-1].value != 2) and time.monotonic() < deadline:
        time.sleep(0.05)
    stop()
    assert 2 == seen[-1].value
    assert 2 == stage.cli("memory", "watch", "").code


# -- audit


@row("Audit: NewAuditLogger")
def _audit(stage: Stage) -> None:
    entry = AuditEntry(
        session_id="sess-1",
        user_id="user-1",
        tool_name="fs.read",
        arguments={"path": "a.py", "token": "ghp_0123456789abcdefghijABCDEFGHIJ012345"},
        trace_id="trace-1",
        workspace_id="ws-1",
    )
    stage.hub.audit.tool_call(entry)
    stage.hub.audit.tool_result(entry.model_copy(update={"result": TaskResult(success=True, output="x")}))
    stage.hub.audit.flush()
    args = ("--session", "sess-1", "--tool", "fs.read", "--user", "user-1", "--since", "1h")
    found = stage.cli("audit", "log", *args, "--workspace", "ws-1", "--trace", "trace-1", "--json")
    assert 2 == len(found.json)
    assert "ghp_0123" not in found.out
    logging.getLogger("ghcoord.audit")


@row("Audit: AuditEntry")
def _audit_entry(stage: Stage) -> None:
    keys = "timestamp session_id user_id tool_name arguments result error_msg trace_id workspace_id"
    stage.hub.audit.tool_call(AuditEntry(session_id="s", tool_name="echo"))
    stage.hub.audit.flush()
    (shown,) = stage.cli("audit", "log", "--session", "s", "--json").json
    fields = shown.get("entry") or shown["fields"]
    assert set(keys.split()) <= set(fields)


# -- settings


@row("Settings: WORKER_ID")
def _worker_id(stage: Stage) -> None:
    stage.monkeypatch.setenv("GHCOORD_WORKER_ID", "from-env")
    started = stage.cli("worker", "start", "--until-idle", "100ms", "--json")
    assert "from-env" == started.json["worker_id"]
    assert "w9" == stage.cli("worker", "start", "--id", "w9", "--until-idle", "100ms", "--json").json["worker_id"]


@row("Settings: BASE_WORKSPACE")
def _base_workspace(stage: Stage) -> None:
    folder = Path(stage.url).parent / "ws"
    assert 0 == stage.cli("worker", "start", "--workspace", folder, "--until-idle", "100ms").code
    assert folder.is_dir()


@row("Settings: LOG_LEVEL")
def _log_level(stage: Stage) -> None:
    quiet = stage.cli("worker", "start", "--log-level", "error", "--until-idle", "100ms")
    assert (0, "") == (quiet.code, quiet.err)
    assert 0 == stage.cli("--version").code
