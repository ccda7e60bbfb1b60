"""Sessions on the hub's workers when something fails: answers, workers, room, patience; a worker that is killed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from mcp.client import Client

from ghcoord import bootstrap
from ghcoord.config import load_settings
from ghcoord.coord.workers.tick import Beat
from ghcoord.errors import LeaseLost, NoCapacity, NotFound, OutcomeUnknown, Throttled, Unavailable
from ghcoord.faces.mcp.answer import Failure
from ghcoord.faces.mcp.caller import Caller
from ghcoord.faces.mcp.clients import following
from ghcoord.faces.mcp.clients.local import LocalWorkerClient
from ghcoord.faces.mcp.clients.remote import HubWorkerClient
from ghcoord.hub import Hub
from ghcoord.model.session import Session
from ghcoord.model.task import State, TaskResult
from ghcoord.model.worker import SandboxInfo
from ghcoord.testing.worker_client_contract import WAIT, ClientUnderTest, wait_tool
from tests.acceptance.hubs import network_hub
from tests.mcp.agents import ANN, agent_of
from tests.mcp.benches import open_hub, worker
from tests.mcp.talking import connected, data, stdio, text
from tests.processes import matching, until, workers
from tests.worker.test_sessions import base, registered

__all__ = ["base"]


class Absent:
    """A worker that is registered and takes a call only when it is told to."""

    def __init__(self, hub: Hub, worker_id: str = "absent", tools: tuple[str, ...] = ("echo",), **options: Any) -> None:
        self.hub = hub
        self.id = worker_id
        given = {"ttl": 3600.0, "sandbox": SandboxInfo(driver="test", tier="full"), **options}
        self.token = hub.workers.register(worker_id, **given).token
        self._tools = tools

    def take(self) -> None:
        """Lease what is queued, and do nothing about it."""
        reply = self.hub.beat(Beat(self.id, self.token, tools=self._tools, want=5, renew=True))
        assert 1 == len(reply.leased)


@pytest.fixture
def client(hub: Hub) -> Iterator[HubWorkerClient]:
    made = HubWorkerClient(hub, start_wait=0.15)
    yield made
    made.close()


def call(client: HubWorkerClient, session: Session, **options: Any) -> Any:
    return client.execute(session.id, "echo", {"message": "x"}, timeout=5, **options)


def in_background(run: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """``run`` in a thread; what it returns or raises."""
    ended: list[Any] = []

    def body() -> None:
        try:
            ended.append(run())
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    return thread, ended


def test_without_any_worker_it_says_so(client: HubWorkerClient) -> None:
    """And how to get one."""
    with pytest.raises(NoCapacity, match="there is no worker for the session"):
        client.create(ANN)


def test_a_call_that_no_worker_takes_is_withdrawn(hub: Hub, client: HubWorkerClient) -> None:
    """It does not run later, when nobody waits for it."""
    worker = Absent(hub)
    session = client.create(ANN)
    with pytest.raises(NoCapacity, match="no worker could run the call"):
        call(client, session)
    assert [State.CANCELLED] == [one.state for one in hub.tasks.list(["cancelled", "queued"])]
    assert [] == hub.beat(Beat(worker.id, worker.token, tools=("echo",), want=5, renew=True)).leased


def test_a_call_that_waits_can_be_cancelled(hub: Hub, client: HubWorkerClient) -> None:
    """At once, and it never runs."""
    Absent(hub)
    session = client.create(ANN)
    executed = call(client, session, cancelled=lambda: bool(hub.tasks.list("queued")))
    assert (False, True) == (executed.result.success, "cancelled" in executed.result.error)
    assert [] == hub.tasks.list("queued")


def test_a_worker_that_does_not_answer_a_cancellation(
    hub: Hub, client: HubWorkerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller gets away, and is told that the end is not known."""
    monkeypatch.setattr(following, "CANCEL_WAIT", 0.2)
    worker, stop = Absent(hub), threading.Event()
    session = client.create(ANN)
    thread, ended = in_background(lambda: call(client, session, cancelled=stop.is_set))
    until(lambda: hub.tasks.list("queued"), every=0.01)
    worker.take()
    stop.set()
    thread.join(10)
    assert "has not said yet that it stopped" in ended[0].result.error
    assert hub.tasks.list("leased")[0].cancel_requested


def test_a_call_that_never_ends_is_not_called_failed(
    hub: Hub, client: HubWorkerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long after its timeout it may have run: the agent is told to look."""
    monkeypatch.setattr(following, "UNHEARD_FOR", 0.1)
    monkeypatch.setattr(following, "CANCEL_WAIT", 0.1)
    worker = Absent(hub)
    session = client.create(ANN)
    agent = agent_of(ClientUnderTest(client, hub, lambda session_id: None, 1))
    thread, ended = in_background(lambda: agent("echo", session_id=session.id, message="x", timeout_s=0.2))
    until(lambda: hub.tasks.list("queued"), every=0.01)
    worker.take()
    thread.join(10)
    assert ("WAIT_TIMEOUT", True) == (ended[0].code, "look at the files" in ended[0].next_step)


@pytest.mark.parametrize("error", [OutcomeUnknown("no answer"), Unavailable("away"), Throttled("later", 0.0)])
def test_a_call_whose_answer_is_lost_runs_once(
    hub: Hub, client: HubWorkerClient, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It is queued again under the same key, which finds the one that landed."""
    Absent(hub)
    session = client.create(ANN)
    real, keys = hub.sessions.submit_call, []

    def lossy(*args: Any, **options: Any) -> Any:
        keys.append(options["key"])
        task = real(*args, **options)
        if len(keys) < 3:
            raise error
        return task

    monkeypatch.setattr(hub.sessions, "submit_call", lossy)
    monkeypatch.setattr(following, "LOOK_EVERY", 0.01)
    with pytest.raises(NoCapacity):
        call(client, session)
    assert (3, 1) == (len(keys), len(set(keys)))
    assert 1 == len(hub.tasks.list(["cancelled"]))


def test_a_hub_that_does_not_answer_leaves_the_outcome_open(
    hub: Hub, client: HubWorkerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is not one of a call that failed: it says to look first."""
    Absent(hub)
    session = client.create(ANN)

    def silent(*args: Any, **options: Any) -> Any:
        raise OutcomeUnknown("no answer came")

    monkeypatch.setattr(hub.sessions, "submit_call", silent)
    monkeypatch.setattr(following, "SUBMIT_FOR", 0.05)
    monkeypatch.setattr(following, "LOOK_EVERY", 0.01)
    agent = agent_of(ClientUnderTest(client, hub, lambda session_id: None, 1))
    with pytest.raises(Failure, match="It may have run: look at the files") as why:
        agent("echo", session_id=session.id, message="x")
    assert ("OUTCOME_UNKNOWN", False) == (why.value.code, why.value.retryable)


def test_a_hub_that_goes_away_meanwhile(hub: Hub, client: HubWorkerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a while that does not matter; then the error names the call, which may run on."""
    Absent(hub)
    session = client.create(ANN)
    monkeypatch.setattr(following, "UNHEARD_FOR", 0.1)

    def away(task_id: str) -> Any:
        raise Unavailable("cannot be reached")

    monkeypatch.setattr(hub.tasks, "get", away)
    agent = agent_of(ClientUnderTest(client, hub, lambda session_id: None, 1))
    with pytest.raises(
        Failure, match=r"cannot be reached; the call c[0-9a-f]{32} may run on.*look at the files"
    ) as why:
        agent("echo", session_id=session.id, message="x")
    assert not why.value.retryable


@pytest.mark.parametrize("local", [True, False])
def test_an_answer_outlives_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch, local: bool) -> None:
    """What has run is told although the hub is gone when it ends: else a caller would run it again."""
    away = Absent(hub)

    def get(session_id: str, **options: Any) -> Any:
        raise Unavailable("cannot be reached")

    def ran(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(hub.sessions, "get", get)
        return done if local else SimpleNamespace(id="c1", ended=True, result=done, history=())

    done = TaskResult(success=True, output="done")
    pool: Any = SimpleNamespace(hub=hub, worker_id=away.id, open_epoch=lambda session_id: None, call=ran)
    monkeypatch.setattr(following.Following, "run", ran)
    client = LocalWorkerClient(pool) if local else HubWorkerClient(hub)
    session = HubWorkerClient(hub).create(ANN)
    executed = client.execute(session.id, "echo", {"message": "x"})
    assert "done" == executed.result.output
    assert "earlier calls is not known: cannot be reached" in executed.notices[0]


def test_a_session_that_ends_meanwhile(hub: Hub, client: HubWorkerClient) -> None:
    """Is not found; that is no failed call."""
    Absent(hub)
    session = client.create(ANN)
    thread, ended = in_background(lambda: call(client, session))
    until(lambda: hub.tasks.list("queued"), every=0.01)
    hub.sessions.destroy(session.id)
    thread.join(10)
    assert isinstance(ended[0], NotFound), ended


def test_a_session_that_was_cleaned_up_is_explained(hub: Hub, client: HubWorkerClient) -> None:
    """The next call says that it has ended, and what to call."""
    Absent(hub)
    agent = agent_of(ClientUnderTest(client, hub, lambda session_id: None, 1))
    session_id = agent.session()
    hub.sessions.clean(0)
    until(lambda: hub.sessions.clean(0) or not hub.sessions.count(), every=0.05)
    with pytest.raises(Failure, match=r"or it has ended.*session_create"):
        agent("echo", session_id=session_id, message="x")


def test_a_lease_that_was_lost_meanwhile(hub: Hub, client: HubWorkerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call may have run in files that are given up: look first."""
    Absent(hub)
    agent = agent_of(ClientUnderTest(client, hub, lambda session_id: None, 1))
    session_id = agent.session()

    def lost(*args: Any, **options: Any) -> Any:
        raise LeaseLost("the worker lost its lease while the call ran")

    monkeypatch.setattr(client, "execute", lost)
    with pytest.raises(Failure, match="look at the files"):
        agent("echo", session_id=session_id, message="x")


def test_a_worker_without_the_tool(hub: Hub, client: HubWorkerClient) -> None:
    """Is named with those that it has."""
    from ghcoord.hub import Capabilities

    Absent(hub, capabilities=Capabilities(tools=("echo",), supported_task_types=("echo",)))
    session = client.create(ANN)
    with pytest.raises(Exception, match="has no tool 'shell': it has echo"):
        client.execute(session.id, "shell", {"command": "true"}, timeout=5)


# -- several workers


@pytest.mark.slow
def test_a_server_reaches_sessions_of_another(tmp_path: Path) -> None:
    """Its own worker's without a task, another's through the hub, and those that an ended server has left."""
    tmp_path.chmod(0o711)
    with open_hub(tmp_path) as hub, worker(hub, tmp_path, "w1") as mine:
        client = LocalWorkerClient(mine.sessions)
        own = client.create(ANN)
        assert client.execute(own.id, "fs.write", {"path": "f", "contents": "own"}).result.success
        assert 0 == hub.tasks.count()
        with worker(hub, tmp_path, "w2") as theirs:
            other = LocalWorkerClient(theirs.sessions).create(ANN)
            assert theirs.worker_id == other.worker_id
            executed = client.execute(other.id, "fs.write", {"path": "f", "contents": "other"}, timeout=20)
            assert (True, ()) == (executed.result.success, executed.notices)
            assert 1 == hub.tasks.count()
            theirs.stop()
            until(lambda: hub.workers.get("w2") is None)
        executed = client.execute(other.id, "fs.read", {"path": "f"}, timeout=20)
        assert "other" == executed.result.data["contents"]
        assert "on the worker w1 from its checkpoint" in executed.notices[0]
        assert () == client.execute(other.id, "fs.read", {"path": "f"}, timeout=20).notices
        client.close()


@pytest.mark.slow
def test_a_call_that_workers_cannot_run_comes_back(tmp_path: Path) -> None:
    """After a few tries, with what they said: not after the caller's patience."""
    with open_hub(tmp_path) as hub, worker(hub, tmp_path, "w1", commands=False) as daemon:
        client = HubWorkerClient(hub, sandbox="none")
        session = client.create(ANN)
        assert client.execute(session.id, "fs.write", {"path": "f", "contents": "x"}).result.success
        client.checkpoint(session.id)
        client.restore(session.id)
        until(lambda: daemon.sessions.open_epoch(session.id) is None)
        began = hub.runtime.monotonic()
        with pytest.raises(NoCapacity, match="unpacked in a sandbox, and the worker has none"):
            client.execute(session.id, "fs.read", {"path": "f"}, timeout=20)
        assert hub.runtime.monotonic() - began < following.START_WAIT
        client.close()


@pytest.mark.slow
def test_a_full_session_is_no_lost_one(tmp_path: Path) -> None:
    """Calls beyond its limit wait here, and say so where they are made in this process."""
    with open_hub(tmp_path) as hub:
        hub.tools.add(wait_tool())
        with worker(hub, tmp_path, "w1") as daemon:
            local = LocalWorkerClient(daemon.sessions)
            session = local.create(ANN, limits={"active_tasks": 1})
            stop = threading.Event()
            heard = threading.Event()
            thread, _ = in_background(
                lambda: local.execute(session.id, WAIT, {}, cancelled=stop.is_set, log=lambda *said: heard.set())
            )
            assert heard.wait(10)
            agent = agent_of(ClientUnderTest(local, hub, lambda session_id: None, 1))
            with pytest.raises(Failure, match=r"which is its limit.*Wait until one of its calls has ended") as why:
                agent("echo", session_id=session.id, message="x")
            assert why.value.retryable
            stop.set()
            thread.join(10)
            assert "x" == agent("echo", session_id=session.id, message="x").text
            local.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["github", "remote-http"])
def test_a_hub_behind_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A session can be used, seen and ended as soon as it was made; another process's calls reach it."""
    tmp_path.chmod(0o711)
    with (
        network_hub(kind, tmp_path, monkeypatch) as (url, _),
        bootstrap.connect(url, load_settings(tmp_path)) as hub,
        bootstrap.connect(url, load_settings(tmp_path)) as other,
        worker(hub, tmp_path, "w1", poll=0.2) as daemon,
    ):
        here = agent_of(ClientUnderTest(LocalWorkerClient(daemon.sessions), hub, lambda session_id: None, 1))
        there = agent_of(ClientUnderTest(HubWorkerClient(other), other, lambda session_id: None, 1))
        session_id = here.session()
        here("fs_write", session_id=session_id, path="f", contents="one")
        until(lambda: [session_id] == [one["id"] for one in there("session_list").data["sessions"]])
        answer = there("shell", session_id=session_id, command="cat f; echo two >f")
        assert ("one", ()) == (answer.data["stdout"].strip()[:3], answer.notices)
        assert "two\n" == here("fs_read", session_id=session_id, path="f").data["contents"]
        second = there.session()
        assert "x" == there("echo", session_id=second, message="x").text
        there("session_destroy", session_id=second)
        with pytest.raises(Failure, match="there is no session"):
            there("echo", session_id=second, message="x")


@pytest.mark.slow
def test_a_cancelled_call_leaves_no_process(tmp_path: Path, base: Path) -> None:
    """The whole tree of it is gone from another process's worker within two seconds."""
    with (
        open_hub(tmp_path) as hub,
        workers(hub.url, "w1", args=("--workspace", str(base))),
    ):
        registered(hub, "w1")
        agent = agent_of(ClientUnderTest(HubWorkerClient(hub), hub, lambda session_id: None, 1))
        session_id, stop, number = agent.session(), threading.Event(), f"300.{hub.runtime.randbits(50)}"
        command = f"(setsid sleep {number} &); trap '' TERM; sleep {number}; sleep {number}"
        thread, ended = in_background(
            lambda: agent("shell", session_id=session_id, command=command, cancelled=stop.is_set)
        )
        until(lambda: matching(f"sleep {number}"))
        stop.set()
        assert until(lambda: not matching(number)) < 2
        thread.join(10)
        assert ended[0].failed


# -- acceptance: two workers, one is killed

FAST = ("--ttl", "1.5", "--poll", "0.1s")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_worker_of_a_session_is_killed(tmp_path: Path, base: Path) -> None:
    """The next call answers from the restored session on the other worker, or says clearly what was lost."""
    with (
        open_hub(tmp_path) as hub,
        workers(hub.url, "w1", args=(*FAST, "--workspace", str(base))) as [first],
    ):
        registered(hub, "w1")

        async def say(client: Client) -> None:
            saved, lost = [data(await client.call_tool("session_create", {}))["session_id"] for _ in range(2)]
            for session_id in (saved, lost):
                data(await client.call_tool("fs_write", {"session_id": session_id, "path": "f", "contents": "one"}))
            checkpoint = data(await client.call_tool("session_checkpoint", {"session_id": saved, "name": "mine"}))
            data(await client.call_tool("shell", {"session_id": saved, "command": "echo two >f"}))
            with workers(hub.url, "w2", args=(*FAST, "--workspace", str(tmp_path / "elsewhere"))):
                registered(hub, "w2")
                first.signal(signal.SIGKILL)
                answer = await client.call_tool("fs_read", {"session_id": saved, "path": "f"})
                assert "one" == data(answer)["contents"]
                (notice,) = data(answer)["notices"]
                assert f"on the worker w2 from its checkpoint {checkpoint['checkpoint']['id']} 'mine'" in notice
                assert "lost (known calls since then: shell)" in notice
                assert notice in text(answer)
                again = data(await client.call_tool("shell", {"session_id": saved, "command": "cat f"}))
                assert ("one", False) == (again["stdout"], "notices" in again)
                gone = await client.call_tool("fs_read", {"session_id": lost, "path": "f"})
                assert gone.is_error
                assert "lost with all its files, packages and processes" in text(gone)
                assert "session_create" in text(gone)
                assert "SESSION_LOST" == gone.structured_content["failure"]["code"]

        async def run() -> None:
            async with connected(stdio(tmp_path, "--remote", hub=tmp_path / "hub.git")) as client:
                await say(client)

        anyio.run(run)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_worker_of_a_call_is_killed(tmp_path: Path, base: Path) -> None:
    """While it runs: with a checkpoint it runs again elsewhere and says so; without one the session is lost."""
    with (
        open_hub(tmp_path) as hub,
        workers(hub.url, "w1", args=(*FAST, "--slots", "4", "--workspace", str(base))) as [first],
    ):
        registered(hub, "w1")
        agent = agent_of(
            ClientUnderTest(HubWorkerClient(hub), hub, lambda session_id: None, 5), Caller("ann", "w", "x")
        )
        saved, lost = agent.session(), agent.session()
        command = "test -f began && echo again; touch began; echo $0; sleep 4"
        for session_id in (saved, lost):
            agent("shell", session_id=session_id, command="true")
        agent("session_checkpoint", session_id=saved)
        running = [in_background(partial(agent, "shell", session_id=one, command=command)) for one in (saved, lost)]
        until(lambda: 2 == len(hub.tasks.list("leased")))
        with workers(hub.url, "w2", args=(*FAST, "--workspace", str(tmp_path / "elsewhere"))):
            registered(hub, "w2")
            first.signal(signal.SIGKILL)
            for thread, _ in running:
                thread.join(60)
            answer, error = running[0][1][0], running[1][1][0]
            assert "/bin/sh\n" == answer.data["stdout"], answer
            assert any("went away while this call ran on it" in notice for notice in answer.notices)
            assert any("from its checkpoint" in notice for notice in answer.notices)
            assert "SESSION_LOST" == error.code, error
