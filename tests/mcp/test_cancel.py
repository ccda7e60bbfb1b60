"""Cancelling a call ends what it runs, and a client that is gone leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest
from mcp.client import Client

from ghcoord.bootstrap import connect, create
from ghcoord.faces.mcp.answer import Answer
from ghcoord.faces.mcp.call import Call, Services
from ghcoord.faces.mcp.toolspec import Arguments, Returns, Toolset, tool
from tests.mcp.talking import ERAS, connected, data, server_of, stdio, talk
from tests.processes import matching, needs_program, until


class Nothing(Arguments):
    pass


class Said(Returns):
    said: str = ""


@pytest.mark.parametrize("mode", ERAS)
def test_a_cancelled_call_learns_of_it(services: Services, mode: str) -> None:
    """In both eras the tool sees that it was cancelled, the client need not wait, and the server goes on."""
    began, saw = services.runtime.event(), services.runtime.event()

    @tool("thing_do", title="Do", toolset=Toolset.HUB, takes=Nothing, returns=Said, read_only=True)
    def wait(call: Call, args: Nothing) -> Answer:
        """Waits until it is cancelled."""
        began.set()
        for _ in range(2000):
            if call.cancelled():
                saw.set()
                break
            time.sleep(0.005)
        return Answer("")

    async def say(client: Client) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "thing_do", {})
            while not began.is_set():
                await anyio.sleep(0.005)
            group.cancel_scope.cancel()
        with anyio.fail_after(5):
            while not saw.is_set():
                await anyio.sleep(0.005)
        await client.list_tools()

    talk(server_of(services, wait), say, mode)


@pytest.mark.parametrize("mode", ERAS)
def test_nobody_waits_for_a_tool_that_ignores_it(services: Services, mode: str) -> None:
    """A tool that does not look whether it was cancelled keeps neither the client nor the server's other calls."""
    go = services.runtime.event()

    @tool("thing_do", title="Do", toolset=Toolset.HUB, takes=Nothing, returns=Said, read_only=True)
    def ignore(call: Call, args: Nothing) -> Answer:
        """Goes on."""
        go.wait(10)
        return Answer("")

    async def say(client: Client) -> None:
        with anyio.move_on_after(0.05):
            await client.call_tool("thing_do", {})
        assert not go.is_set()
        await client.list_tools()

    server = server_of(services, ignore)
    began = time.monotonic()
    talk(server, say, mode)
    assert time.monotonic() - began < 3
    assert 1 == server.adapter._threads.running
    go.set()
    until(lambda: 0 == server.adapter._threads.running, every=0.005)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty hub."""
    path = tmp_path / "hub.git"
    create(path, state=tmp_path / "state")[0].close()
    return path


@pytest.mark.slow
@pytest.mark.parametrize("mode", ERAS)
def test_cancelling_kills_the_process_tree(tmp_path: Path, place: Path, mode: str) -> None:
    """A long command reports progress; cancelled, its whole tree is dead within 2 s, and the session goes on."""
    needs_program("bwrap")
    mark = f"mark-{os.getpid()}-{mode}"
    stubborn = f"(: {mark}; trap '' TERM; sleep 1000 & wait; sleep 1000) &"
    script = f"{stubborn} for n in 1 2 3 4; do echo {mark} $n; sleep 0.4; done; sleep 1000"

    async def run() -> None:
        async with connected(stdio(tmp_path, hub=place), mode) as client:
            session = data(await client.call_tool("session_create", {}))["session_id"]
            heard: list[tuple[float, str | None]] = []
            enough = anyio.Event()

            async def hear(value: float, total: float | None, message: str | None) -> None:
                heard.append((value, message))
                if len(heard) >= 3:
                    enough.set()

            async def work() -> None:
                await client.call_tool("shell", {"session_id": session, "command": script}, progress_callback=hear)

            async with anyio.create_task_group() as group:
                group.start_soon(work)
                with anyio.fail_after(20):
                    await enough.wait()
                assert matching(mark)
                group.cancel_scope.cancel()
            took = await anyio.to_thread.run_sync(lambda: until(lambda: not matching(mark), timeout=10))
            assert took < 2.0, took
            assert sorted(heard) == heard
            assert mark in str(heard[-1][1])
            again = await client.call_tool("shell", {"session_id": session, "command": "echo here"})
            assert "here\n" == data(again)["stdout"]

    anyio.run(run)


@pytest.mark.slow
def test_a_killed_client_leaves_nothing(tmp_path: Path, place: Path) -> None:
    """A client that is killed in the middle of a call: server and command are gone, and the hub has no worker left."""
    needs_program("bwrap")
    mark = f"mark-{os.getpid()}-killed"
    started = stdio(tmp_path, hub=place)
    code = (
        "import anyio\n"
        "from mcp.client import Client\n"
        "from mcp.client.stdio import StdioServerParameters\n"
        "async def main():\n"
        f"    async with Client(StdioServerParameters(**{started.model_dump(mode='json')!r})) as client:\n"
        "        made = await client.call_tool('session_create', {})\n"
        "        session = made.structured_content['session_id']\n"
        f"        await client.call_tool('shell', {{'session_id': session, 'command': ': {mark}; sleep 1000; true'}})\n"
        "anyio.run(main)\n"
    )
    client = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    try:
        until(lambda: matching(f": {mark}; sleep") and _commands(mark))
        client.kill()
        until(lambda: not _commands(mark), timeout=3)
        until(lambda: not matching(f"--hub {place} mcp"), timeout=5)
    finally:
        client.kill()
        client.communicate(timeout=10)
    with connect(place) as hub:
        assert [] == hub.workers.list()


def _commands(mark: str) -> bool:
    """Whether the command itself runs, and not only the client that has it in its source."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if mark.encode() in line and b"import anyio" not in line:
                return True
    return False
