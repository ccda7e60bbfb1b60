"""The real server over HTTP, with real sandboxes: progress, cancelling, clients that are killed, users kept apart."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError

from ghcoord.bootstrap import create
from ghcoord.faces.mcp.http.disconnects import GONE_TTL
from tests.mcp.http.process import Served, killed_client, sandbox_folder, served
from tests.mcp.http.serving import ERAS, connected, run
from tests.processes import matching, needs_program, until, workers

pytestmark = pytest.mark.slow

_NUMBERS = count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests here."""
    hub = tmp_path_factory.mktemp("http") / "hub.git"
    create(hub)[0].close()
    with served(hub, "--max-sessions", "40", "--slots", "4") as one:
        yield one


def tree() -> tuple[str, str]:
    """A command that starts a tree of processes, with a word that only they have, deaf to SIGTERM."""
    word = f"{os.getpid()}{next(_NUMBERS)}{time.time_ns() % 10_000_000}"
    naps = " ".join(f"(trap '' TERM; exec sleep 7{word}.{each}) &" for each in range(3))
    return f"{naps} setsid sleep 7{word}.9 & echo begun; wait", f"sleep 7{word}"


async def call(client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    """What a tool returns; fails when it says that it failed."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return result.structured_content


async def refused(client: Client, tool: str, /, **arguments: Any) -> str:
    """Why a tool would not."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.content
    return str(result.content[0].text)  # type: ignore[union-attr]


async def gone(word: str, within: float) -> float:
    """Seconds until no process has ``word`` in its command line."""
    began = time.monotonic()
    while matching(word):
        assert time.monotonic() - began < within, f"{word} still runs"
        await anyio.sleep(0.02)
    return time.monotonic() - began


async def there(word: str) -> None:
    with anyio.fail_after(20):
        while not matching(word):
            await anyio.sleep(0.02)


def cancelled_after(one: Served, mode: str) -> float:
    """Seconds from cancelling a long call, which told how it goes, to the end of its processes."""
    command, word = tree()
    heard: list[str] = []

    async def progress(value: float, total: float | None, message: str | None) -> None:
        heard.append(message or "")

    async def play() -> float:
        async with connected(one.url, one.token("ann"), mode) as client:
            session = (await call(client, "session_create"))["session_id"]
            async with anyio.create_task_group() as group:
                group.start_soon(
                    lambda: client.call_tool(
                        "shell", {"session_id": session, "command": command}, progress_callback=progress
                    )
                )
                await there(word)
                with anyio.fail_after(10):
                    while not heard:
                        await anyio.sleep(0.02)
                group.cancel_scope.cancel()
            took = await gone(word, 10)
            assert "still here" == (await call(client, "echo", session_id=session, message="still here"))["message"]
            return took

    took = run(play)
    assert "begun" in heard
    return took


@pytest.mark.parametrize("mode", ERAS)
def test_progress_then_cancelling_kills_the_tree(server: Served, mode: str) -> None:
    """A long call tells how it goes; when the client cancels it, its processes are gone within 2 s."""
    took = cancelled_after(server, mode)
    print(f"{mode}: gone after {took:.2f} s")
    assert took < 2


def test_cancelling_reaches_another_worker(tmp_path: Path) -> None:
    """The same with --remote, where the call is a task on a worker that is a process of its own."""
    hub = tmp_path / "hub.git"
    create(hub)[0].close()
    with (
        sandbox_folder() as base,
        workers(hub, "w1", args=("--slots", "4", "--workspace", str(base))),
        served(hub, "--remote") as one,
    ):
        taken = [cancelled_after(one, mode) for mode in ERAS]
    print(f"remote: gone after {taken}")
    assert max(taken) < 2


@pytest.mark.parametrize("mode", ERAS)
def test_a_killed_client_leaves_nothing_running(server: Served, mode: str) -> None:
    """After SIGKILL its processes end: at once in the new protocol, within the TTL in the old."""
    command, word = tree()
    with killed_client(server, mode, server.token("ann"), command) as client:
        until(lambda: matching(word))
        client.send_signal(signal.SIGKILL)
        client.wait(5)
        took = until(lambda: not matching(word), timeout=GONE_TTL + 5)
    print(f"{mode}: gone after {took:.2f} s")
    assert took < (GONE_TTL + 2 if mode == "legacy" else 2)


def test_the_server_ends_with_what_it_runs(tmp_path: Path) -> None:
    """After SIGTERM nothing of a session is left, though a client waits for it."""
    hub = tmp_path / "hub.git"
    create(hub)[0].close()
    command, word = tree()
    with served(hub) as one, killed_client(one, "legacy", one.token("ann"), command):
        until(lambda: matching(word))
    assert not matching(word)


@pytest.mark.parametrize("mode", ERAS)
def test_users_are_kept_apart(server: Served, mode: str) -> None:
    """Another user, and the same one in another workspace, finds nothing of a session, as of none."""

    async def play() -> None:
        mine, theirs, elsewhere = (server.token(*who) for who in (("ann", "docs"), ("bob", "docs"), ("ann", "code")))
        async with contextlib.AsyncExitStack() as stack:
            ann, bob, other = [
                await stack.enter_async_context(connected(server.url, one, mode)) for one in (mine, theirs, elsewhere)
            ]
            session = (await call(ann, "session_create"))["session_id"]
            await call(ann, "fs_write", session_id=session, path="secret.txt", contents="s3cret")
            long = await call(ann, "shell", session_id=session, command="yes s3cret | head -c 200000")
            output = long["full_output"]
            task = await call(ann, "task_submit", tool="echo", args={"message": "s3cret"}, session_id=session)
            task_id = task.get("task_id") or task["task"]["id"]
            artifact = await call(ann, "artifact_put", name="secret", text="s3cret", session_id=session)
            artifact_id = artifact.get("artifact_id") or artifact["artifact"]["id"]
            uris = [
                f"ghcoord://sessions/{session}",
                output,
                f"ghcoord://tasks/{task_id}/log",
                f"ghcoord://artifacts/{artifact_id}",
            ]
            for uri in uris:
                assert (await ann.read_resource(uri)).contents
            for uri in (output, f"ghcoord://artifacts/{artifact_id}"):
                assert "s3cret" in str(await ann.read_resource(uri))
            for stranger in (bob, other):
                attempts: list[tuple[str, dict[str, Any]]] = [
                    ("fs_read", {"path": "secret.txt"}),
                    ("fs_write", {"path": "secret.txt", "contents": "x"}),
                    ("fs_list", {}),
                    ("shell", {"command": "cat secret.txt"}),
                    ("run_python", {"code": "print(1)"}),
                    ("echo", {"message": "x"}),
                    ("session_status", {}),
                    ("session_destroy", {}),
                    ("session_checkpoint", {}),
                    ("session_restore", {}),
                ]
                for tool, arguments in attempts:
                    there = await refused(stranger, tool, session_id=session, **arguments)
                    never = await refused(stranger, tool, session_id="s" + "0" * 19, **arguments)
                    assert never.replace("s" + "0" * 19, session) == there, tool
                for tool in ("task_status", "task_result", "task_logs", "task_cancel"):
                    assert "s3cret" not in await refused(stranger, tool, task_id=task_id)
                assert "s3cret" not in await refused(stranger, "artifact_get", artifact_id=artifact_id)
                assert "no session" in await refused(
                    stranger, "task_submit", tool="echo", args={"message": "x"}, session_id=session
                )
                for uri in uris:
                    with pytest.raises(MCPError) as why:
                        await stranger.read_resource(uri)
                    assert "s3cret" not in str(why.value)
                for uri in ("ghcoord://sessions", "ghcoord://workers", "ghcoord://locks"):
                    assert session not in str(await stranger.read_resource(uri)), uri
                listed = str(await stranger.list_resources())
                assert not [one for one in (session, output, task_id, artifact_id) if one in listed]
                for tool in ("session_list", "task_list", "artifact_list"):
                    seen = json.dumps(await call(stranger, tool))
                    assert not [one for one in (session, task_id, artifact_id, "s3cret") if one in seen], tool
            assert "s3cret" == (await call(ann, "fs_read", session_id=session, path="secret.txt"))["contents"]
            await call(ann, "session_destroy", session_id=session)

    run(play)


@pytest.mark.parametrize("told", [(), ("--max-sessions-per-user", "2")])
def test_one_user_leaves_sessions_for_others(tmp_path: Path, told: tuple[str, ...]) -> None:
    """Of three sessions a user has two at most, as a default and as told, however many are asked for at once."""
    hub = tmp_path / "hub.git"
    create(hub)[0].close()
    with served(hub, "--max-sessions", "3", *told) as one:

        async def play() -> None:
            async with connected(one.url, one.token("ann")) as ann, connected(one.url, one.token("bob")) as bob:
                made: list[bool] = []

                async def make() -> None:
                    made.append(not (await ann.call_tool("session_create", {})).is_error)

                async with anyio.create_task_group() as group:
                    for _ in range(4):
                        group.start_soon(make)
                assert [False, False, True, True] == sorted(made)
                assert "2 at most" in await refused(ann, "session_create")
                await call(bob, "session_create")
                held = (await call(ann, "session_list"))["sessions"]
                await call(ann, "session_destroy", session_id=held[0]["id"])
                await call(ann, "session_create")

        run(play)


def test_a_token_to_look_with(server: Served) -> None:
    """With a read-only token only tools that change nothing are listed and run."""

    async def play() -> None:
        async with connected(server.url, server.token("ann", read_only=True)) as client:
            tools = (await client.list_tools()).tools
            assert tools
            assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in tools)
            assert "look" in await refused(client, "session_create")
            assert "look" in await refused(client, "memory_set", key="k", value=1)
            await call(client, "hub_status")

    run(play)


def test_locks_of_two_tokens(server: Served) -> None:
    """Two tokens of one user exclude each other, and neither releases what the other holds."""

    async def play() -> None:
        async with (
            connected(server.url, server.token("ann")) as one,
            connected(server.url, server.token("ann"), "legacy") as other,
        ):
            held = await call(one, "lock_acquire", name="deploy")
            await refused(other, "lock_acquire", name="deploy")
            await refused(other, "lock_release", name="deploy", token=held["token"])
            await call(one, "lock_release", name="deploy", token=held["token"])

    run(play)


def test_a_wrong_audience_and_a_revoked_token(server: Served) -> None:
    """A token for another server, an expired and a revoked one get 401 from a server that runs on."""
    message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    headers = {"Accept": "application/json, text/event-stream", "Host": server.url.split("/")[2]}

    def status(token: str | None, **more: str) -> int:
        given = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx2.post(server.url, json=message, headers={**headers, **given, **more}).status_code

    other = server.tokens.create("ann", resource="http://127.0.0.1:9/mcp", lasts=60)
    good = server.tokens.create("ann", resource=server.url, lasts=60)
    assert [401, 401, 401] == [status(None), status("ghc_x"), status(other.secret)]
    assert 400 == status(good.secret)  # let in; a ping needs a session in the old protocol
    brief = server.tokens.create("ann", resource=server.url, lasts=2)
    assert 400 == status(brief.secret)
    until(lambda: 401 == status(brief.secret), timeout=5)
    server.tokens.revoke(good.record.id)
    assert 401 == status(good.secret)
    assert [421, 403] == [status(None, Host="evil.example"), status(None, Origin="https://evil.example")]


SCENARIOS = "server-initialize ping tools-list resources-list prompts-list dns-rebinding-protection".split()


@pytest.mark.timeout(600)
def test_conformance(tmp_path: Path) -> None:
    """The official suite's scenarios for a product pass (acceptance 2)."""
    needs_program("npx")
    hub = tmp_path / "hub.git"
    create(hub)[0].close()
    with served(hub, auth=False) as one:
        command = "npx -y -p node@22 -p @modelcontextprotocol/conformance@0.1.16 conformance server --url"
        for scenario in SCENARIOS:
            done = subprocess.run(
                [*command.split(), one.url, "--scenario", scenario],
                capture_output=True,
                text=True,
                timeout=120,
                cwd=tmp_path,
                check=False,
            )
            assert 0 == done.returncode, done.stdout + done.stderr
            assert "0 failed" in done.stdout + done.stderr


CLIENTS = 20
LASTS = float(os.environ.get("GHCOORD_TEST_CLIENTS_FOR", "60"))


@pytest.mark.timeout(300)
def test_twenty_clients_for_a_minute(server: Served) -> None:
    """20 clients of both eras and of 5 users at once: no error, and no answer that belongs to another."""
    ended: list[int] = []
    started = time.monotonic()

    async def one(number: int) -> None:
        mode = ERAS[number % 2]
        rounds = 0
        async with connected(server.url, server.token(f"user{number % 5}", f"w{number}"), mode) as client:
            session = (await call(client, "session_create"))["session_id"]
            while time.monotonic() - started < LASTS:
                rounds += 1
                own = f"{number}-{rounds}-{os.urandom(4).hex()}"
                echoed = await call(client, "echo", session_id=session, message=own)
                assert own == echoed["message"]
                await call(client, "fs_write", session_id=session, path="own.txt", contents=own)
                ran = await call(client, "shell", session_id=session, command=f"cat own.txt; echo ' {own}'")
                assert f"{own} {own}\n" == ran["stdout"]
                assert own == (await call(client, "fs_read", session_id=session, path="own.txt"))["contents"]
                listed = await call(client, "session_list")
                assert [session] == [each["id"] for each in listed["sessions"]]
                resource = await client.read_resource(f"ghcoord://sessions/{session}")
                assert session in resource.contents[0].text  # type: ignore[union-attr]
                if rounds % 5 == 1:
                    await call(client, "memory_set", key=f"k{number}", value=own, namespace="minute")
                    got = await call(client, "memory_get", key=f"k{number}", namespace="minute")
                    assert own in json.dumps(got)
            await call(client, "session_destroy", session_id=session)
        ended.append(rounds)

    async def play() -> None:
        async with anyio.create_task_group() as group:
            for number in range(CLIENTS):
                group.start_soon(one, number)

    run(play)
    print(f"{CLIENTS} clients, {sum(ended)} rounds, from {min(ended)} to {max(ended)}")
    assert CLIENTS == len(ended)
    assert min(ended) > 2
    assert not [line for line in server.said if "rror" in line or "Traceback" in line], server.said
