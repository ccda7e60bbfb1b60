"""Clients for tests: the fake, this process's own worker, and the hub's, all with workers in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ghcoord.bootstrap as bootstrap
from ghcoord.execution.worker import WorkerDaemon
from ghcoord.faces.mcp.clients.local import LocalWorkerClient
from ghcoord.faces.mcp.clients.remote import HubWorkerClient
from ghcoord.hub import Hub
from ghcoord.model.session import SessionState
from ghcoord.model.task import TaskResult
from ghcoord.testing.worker_client import FakeCall, FakeWorkerClient
from ghcoord.testing.worker_client_contract import WAIT, ClientUnderTest, wait_tool
from tests.processes import needs_program, until

ROOM = 3


@contextmanager
def open_hub(folder: Path) -> Iterator[Hub]:
    """An empty hub on disk."""
    opened, _ = bootstrap.create(folder / "hub.git")
    with opened:
        yield opened


@contextmanager
def worker(hub: Hub, folder: Path, worker_id: str = "w1", **options: Any) -> Iterator[WorkerDaemon]:
    """A worker in a thread of its own, with bubblewrap."""
    needs_program("bwrap")
    settings: dict[str, Any] = {
        "poll": 0.03,
        "ttl": 15.0,
        "workspace": folder / f"work-{worker_id}",
        "max_sessions": ROOM,
        "slots": 8,
        **options,
    }
    daemon = WorkerDaemon(hub, worker_id, **settings)
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        until(lambda: worker_id in {one.id for one in hub.workers.list("active")}, every=0.005)
        yield daemon
    finally:
        daemon.cancel()
        thread.join(30)
        assert not thread.is_alive()


def fake_bench(hub: Hub) -> ClientUnderTest:
    """The fake one."""
    client = FakeWorkerClient(hub, max_sessions=ROOM)
    client.on(WAIT, _wait)
    return ClientUnderTest(client, hub, client.lose, ROOM)


def _wait(call: FakeCall) -> TaskResult:
    call.log("stdout", "begun\n")
    call.progress(0.5, "half")
    stop = threading.Event()
    while not call.cancelled():
        stop.wait(0.01)
    return TaskResult(success=False, error="cancelled")


@contextmanager
def local_bench(hub: Hub, folder: Path) -> Iterator[ClientUnderTest]:
    """A worker of this process."""
    hub.tools.add(wait_tool())
    with worker(hub, folder) as daemon:
        pool = daemon.sessions

        def lose(session_id: str) -> None:
            lose_files(hub, session_id)
            until(lambda: pool.open_epoch(session_id) is None)

        client = LocalWorkerClient(pool)
        yield ClientUnderTest(client, hub, lose, ROOM)
        client.close()


@contextmanager
def remote_bench(hub: Hub, folder: Path) -> Iterator[ClientUnderTest]:
    """A worker of the hub."""
    hub.tools.add(wait_tool())
    with worker(hub, folder) as daemon:
        pool = daemon.sessions

        def lose(session_id: str) -> None:
            lose_files(hub, session_id)
            until(lambda: pool.open_epoch(session_id) is None)

        client = HubWorkerClient(hub)
        yield ClientUnderTest(client, hub, lose, ROOM)
        client.close()


def lose_files(hub: Hub, session_id: str) -> None:
    """Take the session from its worker, as when that one's lease is over."""

    def is_open() -> bool:
        found = hub.sessions.get(session_id)
        return found is not None and found.state is SessionState.ACTIVE

    until(is_open, every=0.01)
    session = hub.sessions.get(session_id)
    assert session is not None
    assert session.worker_id is not None
    hub.sessions.park(session.worker_id, {session_id: session.epoch})
