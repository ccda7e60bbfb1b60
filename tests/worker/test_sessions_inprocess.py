"""Sessions of daemons in this process: leases lost and found, chores, replacement, and what a drain waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ghcoord.errors import NoCapacity, NotFound, SandboxError
from ghcoord.execution.checkpoints.checkpoints import Checkpoints
from ghcoord.execution.worker import WorkerDaemon
from ghcoord.faces.mcp.clients.local import LocalWorkerClient
from ghcoord.hub import Hub
from ghcoord.model.session import SessionState
from ghcoord.model.task import TaskResult
from tests.processes import matching, needs_program, until

pytestmark = pytest.mark.usefixtures("_needs")


@pytest.fixture
def _needs() -> None:
    needs_program("bwrap")


@pytest.fixture
def start(hub: Hub, tmp_path: Path) -> Iterator[Callable[..., WorkerDaemon]]:
    """Start daemons in threads; they are stopped at the end."""
    running: list[tuple[WorkerDaemon, threading.Thread]] = []

    def begin(worker_id: str = "w1", **options: Any) -> WorkerDaemon:
        given = {"poll": 0.05, "ttl": 5.0, "workspace": tmp_path / "work", **options}
        daemon = WorkerDaemon(hub, worker_id, **given)
        thread = threading.Thread(target=_run, args=(daemon,))
        thread.start()
        running.append((daemon, thread))
        until(lambda: worker_id in {one.id for one in hub.workers.list()})
        return daemon

    yield begin
    for daemon, thread in running:
        daemon.cancel()
        thread.join(20)
        assert not thread.is_alive()


def _run(daemon: WorkerDaemon) -> None:
    from ghcoord.errors import WorkerReplaced

    try:
        daemon.run()
    except WorkerReplaced:
        return


def call(hub: Hub, session: str, command: str) -> str:
    result = hub.sessions.call(session, "shell", {"command": command}, wait=30)
    assert result.success, result.error
    return result.output


def test_a_worker_that_was_declared_dead_takes_its_sessions_back(hub: Hub, start: Callable[..., WorkerDaemon]) -> None:
    """It registers again and goes on with the files that it has: nothing was lost."""
    start()
    hub.sessions.create("s1")
    call(hub, "s1", "echo one >f")
    hub.workers.deregister("w1")
    until(lambda: any(event.kind == "session taken back" for event in hub.events(50)))
    assert "one\n" == call(hub, "s1", "cat f")


def test_the_newer_process_of_an_id_gets_the_sessions(hub: Hub, start: Callable[..., WorkerDaemon]) -> None:
    """It waits until the older one has let go of the files, and goes on with them."""
    start()
    hub.sessions.create("s1")
    call(hub, "s1", "echo one >f")
    start()
    assert "one\n" == call(hub, "s1", "cat f")


@pytest.mark.slow
def test_sessions_that_nobody_uses_are_destroyed(
    hub: Hub, start: Callable[..., WorkerDaemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ``stale_after`` seconds without a call, with their files; one that is called stays."""
    monkeypatch.setattr("ghcoord.execution.chores.CARE_EVERY", 0.2)
    daemon = start(stale_after=0.5)
    for name in ("s1", "s2"):
        hub.sessions.create(name)
        call(hub, name, "true")
    root = daemon.sessions.home.root("s2")
    assert root.exists()

    def s2_is_gone() -> bool:
        daemon.sessions.call("s1", "echo", {"message": "x"})
        return not root.exists()

    until(s2_is_gone)
    assert ["s1"] == [one.id for one in hub.sessions.list()]


@pytest.mark.slow
def test_a_short_time_is_for_a_workers_own_sessions(
    hub: Hub, start: Callable[..., WorkerDaemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that keeps idle sessions for half a second destroys its own, not those of another."""
    monkeypatch.setattr("ghcoord.execution.chores.CARE_EVERY", 0.2)
    start("w1")
    hub.sessions.create("theirs", worker="w1")
    start("w2", stale_after=0.5)
    hub.sessions.create("own", worker="w2")
    for name in ("theirs", "own"):
        call(hub, name, "true")
    until(lambda: "own" not in [one.id for one in hub.sessions.list()])
    time.sleep(1.0)
    assert ["theirs"] == [one.id for one in hub.sessions.list()]


@pytest.mark.slow
def test_a_drain_keeps_its_lease_while_it_saves(
    hub: Hub, start: Callable[..., WorkerDaemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saving that takes longer than the lease does not make the worker count as dead."""
    save = Checkpoints.save

    def slow(self: Checkpoints, *args: Any, **given: Any) -> Any:
        time.sleep(2.5)
        return save(self, *args, **given)

    monkeypatch.setattr(Checkpoints, "save", slow)
    daemon = start(ttl=1.5)
    hub.sessions.create("s1")
    call(hub, "s1", "echo one >f")
    daemon.stop()
    until(lambda: not hub.workers.list())
    found = hub.sessions.get("s1")
    assert found is not None
    assert (SessionState.PARKED, 1) == (found.state, len(found.checkpoints))


def test_what_a_session_used_is_shown(hub: Hub, start: Callable[..., WorkerDaemon]) -> None:
    """CPU and memory of its commands and the size of its files, here at once and in the hub with the next tick."""
    daemon = start()
    hub.sessions.create("s1")
    call(hub, "s1", "head -c 3000000 /dev/zero >big; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
    until(lambda: daemon.sessions.status("s1").disk is not None)
    here = daemon.sessions.status("s1")
    assert here.disk is not None
    assert 2.8 <= here.disk < 6
    assert here.cpu is not None
    assert (1, "shell") == (here.calls, here.tasks[-1].tool)
    call(hub, "s1", "true")
    until(lambda: hub.sessions.status("s1").disk is not None)
    assert 2 == hub.sessions.status("s1").calls


def test_a_program_in_this_process_has_it_all(hub: Hub, start: Callable[..., WorkerDaemon]) -> None:
    """The same names as ``hub.sessions``, with calls that make no task."""
    pool = start().sessions
    session = pool.create(user_id="ann", metadata={"a": 1}, env={"WHO": "ann"}, limits={"timeout": 20})
    assert "ann\n" == pool.call(session.id, "shell", {"command": "echo $WHO"}).output
    assert pool.call(session.id, "fs.write", {"path": "f", "contents": "x"}).success
    assert {"a": 1, "b": 2} == pool.merge_metadata(session.id, {"b": 2})
    assert {"c": 3} == pool.replace_metadata(session.id, {"c": 3}) == pool.metadata(session.id)
    assert ([session.id], 1, 0) == (
        [one.id for one in pool.list(user="ann")],
        pool.count(worker="w1"),
        pool.count(user="bob"),
    )
    assert pool.get(session.id) is not None
    assert pool.get("none") is None
    with pytest.raises(NotFound, match="no checkpoint"):
        pool.diff(session.id)
    first = pool.checkpoint(session.id, "first")
    pool.call(session.id, "fs.write", {"path": "g", "contents": "y"})
    assert ["g"] == [one.path for one in pool.diff(session.id).added]
    second = pool.call(session.id, "session.checkpoint", {"name": "second"})
    assert "second" == second.data["checkpoint"]["name"]
    assert ["g"] == [one.path for one in pool.diff(session.id, first.id, second.output).added]
    copied = pool.restore(session.id, first.id, new_id="copy")
    assert ["f"] == [one for one in pool.call(copied.id, "fs.list", {"path": "."}).data["entries"] if one != ".venv"]
    pool.delete_checkpoint(session.id, first.id)
    assert [second.output] == [one.id for one in hub.sessions.checkpoints(session.id)]
    assert 0 == pool.clean(3600)
    pool.destroy(session.id)
    assert ["copy"] == [one.id for one in hub.sessions.list()]
    assert [] == hub.tasks.list()


def test_a_local_call_that_is_cancelled_is_killed(hub: Hub, start: Callable[..., WorkerDaemon]) -> None:
    """With its whole tree; one that takes too long as well. What it printed before came at once."""
    pool = start().sessions
    pool.create("s1")
    stop, heard = threading.Event(), threading.Event()
    out: list[TaskResult] = []

    def work() -> None:
        command = "echo begun; (setsid sleep 986.5 &); sleep 986.5"
        out.append(pool.call("s1", "shell", {"command": command}, cancelled=stop.is_set, log=lambda *said: heard.set()))

    thread = threading.Thread(target=work)
    thread.start()
    assert heard.wait(10)
    assert matching("sleep 986.5")
    stop.set()
    thread.join(10)
    assert (False, "begun\n") == (out[0].success, out[0].output)
    assert not matching("sleep 986.5")
    slow = pool.call("s1", "shell", {"command": "sleep 986.5"}, timeout=0.3)
    assert "timed out" in slow.error
    assert not matching("sleep 986.5")


def test_calls_at_the_limit_of_a_session(hub: Hub, start: Callable[..., WorkerDaemon]) -> None:
    """Tasks beyond it wait in the hub; none fails."""
    start(slots=4)
    hub.sessions.create("s1", limits={"active_tasks": 1})
    command = "mkdir one && sleep 0.1 && rmdir one"
    tasks = [hub.sessions.submit_call("s1", "shell", {"command": command}) for _ in range(4)]
    assert all(hub.tasks.wait(task.id, 30).success for task in tasks)


@pytest.mark.slow
def test_a_session_that_cannot_be_opened_stops_nobody_else(hub: Hub, start: Callable[..., WorkerDaemon]) -> None:
    """Its calls are tried again less and less often; tasks and other sessions go on meanwhile."""
    daemon = start()
    opening = daemon.sessions._opening.open
    tries: list[str] = []

    def fail(session: Any) -> Any:
        if session.id == "bad" and len(tries) < 4:
            tries.append(session.id)
            raise SandboxError("the package index does not answer")
        return opening(session)

    daemon.sessions._opening.open = fail  # type: ignore[method-assign]
    hub.sessions.create("bad")
    hub.sessions.create("good")
    waiting = hub.sessions.submit_call("bad", "echo", {"message": "x"})
    until(lambda: len(tries) >= 2)
    began = time.monotonic()
    for number in range(5):
        assert hub.tasks.wait(hub.tasks.submit("echo", {"message": str(number)}).id, 10).success
        assert "x\n" == call(hub, "good", "echo x")
    assert time.monotonic() - began < 8
    assert len(tries) < 4
    del tries[:]
    tries += ["enough"] * 4
    until(lambda: (found := hub.tasks.get(waiting.id)) is not None and found.ended, 20)


def test_without_slots_it_runs_its_own_sessions_alone(hub: Hub, start: Callable[..., WorkerDaemon]) -> None:
    """No task and no session of others; one that was made for it by name is called through the hub and here."""
    daemon = start(slots=0)
    task = hub.tasks.submit("echo", {"message": "hi"})
    with pytest.raises(NoCapacity, match="has no slots"):
        hub.sessions.create("other")
    hub.sessions.create("own", worker="w1")
    assert "via hub\n" == call(hub, "own", "echo via hub")
    assert "here\n" == daemon.sessions.call("own", "shell", {"command": "echo here"}).output
    waits = hub.tasks.get(task.id)
    assert waits is not None
    assert "queued" == waits.state
    assert "calls of their own sessions only" in hub.tasks.why_waits(task.id)
    assert (0, 0) == ((worker := hub.workers.list()[0]).capacity.max_tasks, worker.capacity.available_slots)


def test_without_slots_a_saved_session_goes_on(hub: Hub, start: Callable[..., WorkerDaemon]) -> None:
    """The server after a restart takes it from its checkpoint at its next call, and says so."""
    before = start("w1", slots=0)
    before.sessions.create("own")
    before.sessions.call("own", "fs.write", {"path": "a", "contents": "kept"})
    before.sessions.checkpoint("own")
    before.cancel()
    until(lambda: (found := hub.sessions.get("own")) is not None and found.worker_id is None)
    client = LocalWorkerClient(start("w2", slots=0).sessions, fetches=True)
    assert "kept" in client.execute("own", "shell", {"command": "cat a"}).result.output
    found = hub.sessions.get("own")
    assert found is not None
    assert "w2" == found.worker_id
    client.close()
