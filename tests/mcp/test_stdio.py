"""``ghcoord mcp`` as clients start it: a process that speaks on standard input and output, and ends with its client."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from ghcoord.bootstrap import connect, create
from ghcoord.clock import Event, SystemRuntime
from ghcoord.errors import Unavailable
from ghcoord.faces.mcp.hosting import Hosted, hosting
from ghcoord.faces.mcp.server import McpServer
from tests.cli.conftest import _alone, cli
from tests.cli.running import Cli
from tests.mcp.talking import ERAS, connected, data, names, stdio, text
from tests.processes import matching, needs_program, until

__all__ = ["_alone", "cli"]

HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}},
}
READY = {"jsonrpc": "2.0", "method": "notifications/initialized"}


class Raw:
    """A server process, spoken to line by line."""

    def __init__(self, folder: Path, *args: str, hub: Path | None = None, hello: bool = True) -> None:
        self.started = stdio(folder, *args, hub=hub)
        self.process = subprocess.Popen(
            [self.started.command, *self.started.args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(self.started.env or {})},
            cwd=folder,
            start_new_session=True,
        )
        if hello:
            assert "2025-06-18" == self.ask(HELLO)["result"]["protocolVersion"]
            self.say(READY)

    def say(self, message: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, message: Any) -> Any:
        """Send, and return the answer to it."""
        self.say(message)
        return self.hear(message["id"])

    def hear(self, number: int) -> Any:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            heard = json.loads(line)
            if heard.get("id") == number:
                return heard
        raise AssertionError(f"no answer: {self.process.stderr.read()!r}")  # type: ignore[union-attr]

    def call(self, number: int, name: str, **arguments: Any) -> Any:
        return {
            "jsonrpc": "2.0",
            "id": number,
            "method": "tools/call",
            "params": {"name": name, "arguments": arguments},
        }

    def data(self, number: int, name: str, **arguments: Any) -> Any:
        """Call a tool, and return its data."""
        result = self.ask(self.call(number, name, **arguments))["result"]
        assert not result.get("isError"), result
        return result["structuredContent"]

    def left(self) -> tuple[bytes, bytes]:
        """What is left of its output."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        return self.process.stdout.read(), self.process.stderr.read()


@contextmanager
def raw(folder: Path, *args: str, **options: Any) -> Iterator[Raw]:
    """A server that is gone afterwards, whatever happens."""
    made = Raw(folder, *args, **options)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            os.killpg(made.process.pid, signal.SIGKILL)
        made.process.wait(10)
        for stream in (made.process.stdin, made.process.stdout, made.process.stderr):
            if stream is not None and not stream.closed:
                stream.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty hub."""
    path = tmp_path / "hub.git"
    create(path, state=tmp_path / "state")[0].close()
    return path


@pytest.mark.slow
@pytest.mark.parametrize("mode", ERAS)
def test_work_in_a_session(tmp_path: Path, place: Path, mode: str) -> None:
    """In both eras, over real processes: a session, a file, Python on it, the file again by its dotted name."""
    needs_program("bwrap")

    async def run() -> None:
        async with connected(stdio(tmp_path, hub=place), mode) as client:
            assert {"session_create", "fs_write", "run_python", "fs_read"} <= {
                *names((await client.list_tools()).tools)
            }
            session = data(await client.call_tool("session_create", {}))["session_id"]
            written = {"session_id": session, "path": "a.py", "contents": "print(6 * 7)"}
            assert 12 == data(await client.call_tool("fs_write", written))["bytes_written"]
            ran = data(await client.call_tool("run_python", {"session_id": session, "file": "a.py"}))
            assert (0, "42\n") == (ran["exit_code"], ran["stdout"])
            read = data(await client.call_tool("fs.read", {"session_id": session, "path": "a.py"}))
            assert "print(6 * 7)" == read["contents"]
            failed = await client.call_tool("shell", {"session_id": session, "command": "echo out; exit 3"})
            assert failed.is_error
            assert (3, "out\n") == (failed.structured_content["exit_code"], failed.structured_content["stdout"])
            assert "out" in text(failed)
            assert [session] == [one["id"] for one in data(await client.call_tool("session_list", {}))["sessions"]]

    anyio.run(run)
    with connect(place) as after:
        assert [] == after.workers.list()


@pytest.mark.slow
def test_a_hub_of_ones_own(tmp_path: Path) -> None:
    """Where no hub is named one is made in the user's state folder, named on standard error, and found again."""
    path = tmp_path / "state" / "ghcoord" / "own-hub.git"
    for number in (1, 2):
        with raw(tmp_path) as server:
            if number == 1:
                server.data(2, "memory_set", key="k", value={"a": 1})
            assert {"a": 1} == server.data(3, "memory_get", key="k")["value"]
            server.process.stdin.close()  # type: ignore[union-attr]
            assert 0 == server.process.wait(5)
            _, said = server.left()
            assert f"using your own, {path}" in said.decode()
    assert path.is_dir()


@pytest.mark.slow
def test_two_servers_make_one_hub(tmp_path: Path) -> None:
    """Two clients that start for the first time at the same moment share the user's own hub."""
    with raw(tmp_path, hello=False) as one, raw(tmp_path, hello=False) as other:
        for server in (one, other):
            server.ask(HELLO)
            server.say(READY)
        one.data(2, "memory_set", key="k", value=1)
        assert 1 == other.data(2, "memory_get", key="k")["value"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["eof", "sigterm", "sigint"])
def test_ends_with_its_client(tmp_path: Path, place: Path, how: str) -> None:
    """When the client closes or a signal comes commands are dead in 2 s, the session saved, the worker gone."""
    needs_program("bwrap")
    with raw(tmp_path, hub=place) as server:
        session = server.data(2, "session_create")["session_id"]
        server.data(3, "fs_write", session_id=session, path="kept.txt", contents="kept")
        mark = f"mark-{os.getpid()}-{session}"
        server.say(server.call(4, "shell", session_id=session, command=f": {mark}; sleep 1000 & sleep 1000; true"))
        until(lambda: matching(mark))
        began = time.monotonic()
        if how == "eof":
            server.process.stdin.close()  # type: ignore[union-attr]
        else:
            server.process.send_signal(signal.SIGTERM if how == "sigterm" else signal.SIGINT)
        until(lambda: not matching(mark), timeout=2.0)
        assert 0 == server.process.wait(10)
        took = time.monotonic() - began
        assert took < 4.0, took  # 0.4 s where nothing else runs
        out, said = server.left()
        assert all(b'"jsonrpc"' in line for line in out.splitlines())
        assert b"Traceback" not in said
    with connect(place) as after:
        assert [] == after.workers.list()
        kept = after.sessions.get(session)
        assert kept is not None
        assert "parked" == kept.state
        assert kept.checkpoints


@pytest.mark.slow
def test_nothing_but_the_protocol_on_stdout(tmp_path: Path, place: Path) -> None:
    """Broken lines, empty ones and text that is no JSON disturb nothing, and nothing else is ever printed there."""
    with raw(tmp_path, "--log-level", "debug", "--audit-log", "-", hub=place) as server:
        assert server.process.stdin is not None
        server.process.stdin.write(b"\n{broken\n[]\n\xff\xfe\n" + b'{"jsonrpc": "2.0"}\n')
        assert server.ask({"jsonrpc": "2.0", "id": 7, "method": "ping"})["result"] == {}
        assert server.ask({"jsonrpc": "2.0", "id": 8, "method": "nothing/such"})["error"]["code"] == -32601
        server.process.stdin.close()
        assert 0 == server.process.wait(5)
        out, said = server.left()
        for line in out.splitlines():
            assert "2.0" == json.loads(line)["jsonrpc"]
        assert b"registered" in said


@pytest.mark.slow
def test_a_client_that_does_not_read(tmp_path: Path, place: Path) -> None:
    """A client that stops reading and then ends does not keep the server."""
    with raw(tmp_path, hub=place) as server:
        for number in range(10, 80):
            server.say({"jsonrpc": "2.0", "id": number, "method": "tools/list"})
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 0


@pytest.mark.slow
def test_twenty_calls_side_by_side(tmp_path: Path, place: Path) -> None:
    """Many calls at once over one pipe: each gets its own answer."""

    async def run() -> None:
        async with connected(stdio(tmp_path, hub=place)) as client:

            async def one(number: int) -> None:
                key = f"k{number}"
                await client.call_tool("memory_set", {"key": key, "value": number})
                assert number == data(await client.call_tool("memory_get", {"key": key}))["value"]

            async with anyio.create_task_group() as group:
                for number in range(20):
                    group.start_soon(one, number)

    anyio.run(run)


@pytest.mark.slow
def test_remote_needs_no_worker_here(tmp_path: Path, place: Path) -> None:
    """With ``--remote`` no worker is registered, and a session says that there is none to have it."""

    async def run() -> None:
        async with connected(stdio(tmp_path, "--remote", hub=place)) as client:
            assert [] == data(await client.call_tool("worker_list", {}))["workers"]
            refused = await client.call_tool("session_create", {})
            assert refused.is_error
            assert "worker" in text(refused)

    anyio.run(run)


@pytest.mark.slow
def test_a_replaced_worker_ends_the_server(tmp_path: Path, place: Path) -> None:
    """When its worker's loop ends by itself the server says so in one line, and ends with 7."""
    with raw(tmp_path, hub=place) as server:
        workers = server.data(2, "worker_list")["workers"]
        with connect(place) as other:
            other.workers.drain(workers[0]["id"])
        assert 7 == server.process.wait(20)
        _, said = server.left()
        assert re.search(rb"error: the worker \S+ of this server has ended", said)


class FakeDaemon:
    """A worker whose loop is ``loop``, given the event that ends it."""

    worker_id = "w1"
    ready = False

    def __init__(self, loop: Callable[[Event], None]) -> None:
        self.hub = self
        self.runtime = SystemRuntime()
        self.sessions = self
        self._loop = loop
        self._cancelled = self.runtime.event()
        self.paused: list[str] = []

    def run(self) -> None:
        self._loop(self._cancelled)

    def cancel(self) -> None:
        self._cancelled.set()

    def pause(self, why: str) -> None:
        self.paused.append(why)


def test_a_worker_that_fails_at_once() -> None:
    """A worker that ends before it is ready keeps the server from starting, with the reason."""

    def fail(ended: Event) -> None:
        raise Unavailable("the disk is full")

    told: list[int] = []
    hosted = Hosted(FakeDaemon(fail), lambda: told.append(1))  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match="w1 of this server has ended: the disk is full"):
        hosted.start()
    assert [1] == told


@pytest.mark.parametrize("hurried", [False, True])
def test_a_worker_that_does_not_end(hurried: bool) -> None:
    """A worker that takes too long to leave, or whose server is in a hurry, has its calls stopped and is left."""
    daemon = FakeDaemon(lambda ended: daemon.runtime.sleep(5))
    daemon.ready = True
    hurry = daemon.runtime.event()
    if hurried:
        hurry.set()
    began = time.monotonic()
    leaving = hosting(daemon, on_end=lambda: None, leave_in=60.0 if hurried else 0.1, hurry=hurry)  # type: ignore[arg-type]
    with leaving:
        pass
    assert ["has left with its server"] == daemon.paused
    assert time.monotonic() - began < 3


def test_a_worker_that_leaves() -> None:
    """A worker that ends when it is told is waited for, and nothing is stopped."""
    daemon = FakeDaemon(lambda ended: ended.wait(5) and None)  # type: ignore[func-returns-value]
    daemon.ready = True
    with hosting(daemon, on_end=lambda: None, leave_in=60.0, hurry=daemon.runtime.event()):  # type: ignore[arg-type]
        pass
    assert [] == daemon.paused


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--remote"], 2, "no hub was named"),
        (["--remote", "--slots", "2"], 2, "--slots concerns a worker in this process"),
        (["--remote", "--slots", "0"], 2, "--slots concerns a worker in this process"),
        (["--session-ttl", "0"], 2, "--session-ttl must be longer"),
        (["--http"], 2, "see 'ghcoord mcp --help'"),
        (["--no-auth"], 2, "--no-auth goes with --http"),
        (["--max-sessions-per-user", "2"], 2, "--max-sessions-per-user goes with --http"),
        (["--http", "127.0.0.1:0", "--no-auth", "--max-sessions-per-user", "2"], 2, "goes with tokens"),
        (["--toolsets", "nothing"], 2, "one of sessions, workspace"),
        (["--tool-names", "x"], 2, "plain, dotted"),
        (["--http", "127.0.0.1:0", "--user", "ann"], 2, "go without tokens"),
        (["--http", "127.0.0.1:0", "--jwks", "k.json"], 2, "belong together"),
        (["--hub", "missing.git"], 7, "cannot start: "),
        (["--sandbox", "none"], 2, "--unsafe-no-sandbox"),
    ],
)
def test_wrong_starts_are_one_line(cli: Cli, args: list[str], code: int, said: str) -> None:
    """What cannot be started is one line that names the fix, with 2 for a mistake and 7 for the rest."""
    done = cli("mcp", *args)
    assert code == done.code, done.err
    lines = [line for line in done.err.splitlines() if not line.startswith("no hub was named: using")]
    assert 1 == len(lines), done.err
    assert said in lines[0]
    assert "" == done.out


@pytest.mark.parametrize("args", [["--hub", "missing.git"], ["--slots", "x"], ["--http"], ["--no-auth"]])
def test_no_error_is_on_the_protocols_output(cli: Cli, args: list[str]) -> None:
    """With --json as well: the object is on standard error."""
    done = cli("mcp", "--json", *args)
    assert "" == done.out
    assert done.code == json.loads(done.err[done.err.index("{") :])["error"]["exit_code"]


def test_without_the_extra(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra it says what to install, and ends with 7."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = cli("mcp")
    assert (7, "the MCP server needs more than is installed: pip install 'ghcoord[mcp,worker]'") == (
        done.code,
        done.error,
    )


def test_help_imports_nothing_heavy() -> None:
    """``ghcoord --help`` and ``ghcoord mcp --help`` load neither the SDK nor what it needs."""
    code = (
        "import sys; from ghcoord.__main__ import main; main(['mcp', '--help']); main(['--help']);"
        "print([one for one in ('mcp', 'mcp_types', 'anyio', 'starlette', 'uvicorn', 'pygit2') if one in sys.modules])"
    )
    started = stdio(Path.cwd())
    done = subprocess.run(
        [started.command, "-c", code],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, **(started.env or {})},
        check=True,
    )
    assert "[]" == done.stdout.splitlines()[-1]


def test_serve_is_the_references(server: McpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """``serve()`` serves on the process's own streams, and puts them back afterwards."""
    import logging

    reading, writing = os.pipe()
    out_reading, out_writing = os.pipe()
    saved = os.dup(0), os.dup(1)
    said: list[str] = []
    logger = logging.Logger("test")
    logger.info = lambda text: said.append(text)  # type: ignore[method-assign, assignment]
    try:
        os.dup2(reading, 0)
        os.dup2(out_writing, 1)
        os.write(writing, json.dumps(HELLO).encode() + b"\n")
        os.close(writing)
        server.serve(logger)
        assert os.fstat(0).st_ino == os.fstat(reading).st_ino
        assert os.fstat(1).st_ino == os.fstat(out_writing).st_ino
    finally:
        os.dup2(saved[0], 0)
        os.dup2(saved[1], 1)
        for one in (*saved, reading, out_writing):
            os.close(one)
    with os.fdopen(out_reading) as heard:
        assert "ghcoord" == json.loads(heard.readline())["result"]["serverInfo"]["name"]
    assert ["serving on standard input and output", "the client has gone"] == said
