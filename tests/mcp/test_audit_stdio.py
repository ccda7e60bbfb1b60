"""Acceptance 6 over stdio: a hundred calls and results, no secret, few commits; and one trace all the way through."""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CallToolResult

from ghcoord.bootstrap import connect, create
from ghcoord.coord.audit.audit import LOCAL_INTERVAL
from tests.cli.running import command, environment, spawn
from tests.processes import needs_program, until, workers

pytestmark = pytest.mark.slow

SECRET = "ghp_0123456789abcdefghijABCDEFGHIJ012345"
HIDDEN = "correct horse battery staple"
CALLS = 100
SHOW = "import os; print(os.environ['TRACEPARENT'])"

Use = Callable[[Client], Awaitable[None]]


def trace(number: int) -> str:
    """The traceparent of one of the client's calls."""
    return f"00-{number + 1:032x}-{number + 1:016x}-01"


def traced(number: int) -> dict[str, Any]:
    return {"traceparent": trace(number)}


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """An empty hub below a folder that a sandboxed command may reach."""
    needs_program("bwrap")
    made = tmp_path / "hub.git"
    create(made)[0].close()
    for above in (tmp_path, *tmp_path.parents):
        if above.stat().st_uid == os.getuid() and above != Path("/tmp"):
            above.chmod(above.stat().st_mode | 0o011)
    return made


def serve(hub: Path, use: Use, *options: str, mode: Any = "auto", env: dict[str, str] | None = None) -> str:
    """Have ``use`` talk to a server of its own; what that said on standard error."""
    argv = command("--hub", hub, "mcp", *options)
    said = hub.parent / "stderr"
    settings = environment({"XDG_STATE_HOME": str(hub.parent / "state"), **(env or {})})
    params = StdioServerParameters(command=argv[0], args=argv[1:], env=settings, cwd=hub.parent)

    async def talk() -> None:
        with said.open("w") as log, anyio.fail_after(100):
            async with Client(stdio_client(params, errlog=log), mode=mode) as client:
                await use(client)

    anyio.run(talk)
    return said.read_text()


def data(result: CallToolResult) -> dict[str, Any]:
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return result.structured_content


def calls(session: str) -> list[tuple[str, dict[str, Any]]]:
    """All but the first of the hundred: good ones, failing ones, and ones that are refused; secrets in most of them."""
    kinds: list[tuple[str, dict[str, Any]]] = [
        (
            "fs_write",
            {"session_id": session, "path": "a.env", "contents": f"API_KEY={HIDDEN.split()[0]}\nT={SECRET}\n"},
        ),
        ("fs_read", {"session_id": session, "path": "a.env"}),
        ("run_python", {"session_id": session, "code": f"print('{SECRET}')"}),
        ("shell", {"session_id": session, "command": f"echo {SECRET}; exit 3", "env": {"PASSWORD": HIDDEN}}),
        ("memory_set", {"key": "db_password", "value": HIDDEN}),
        ("task_submit", {"tool": "echo", "args": {"message": SECRET}, "metadata": {"token": HIDDEN}}),
        ("fs_read", {"session_id": "not-mine", "path": "a.env"}),
        ("rm", {"password": HIDDEN}),
        ("shell", {"session_id": session, "comand": SECRET}),
        ("memory_get", {"key": "db_password"}),
        ("task_list", {}),
    ]
    return [kinds[number % len(kinds)] for number in range(CALLS - 1)]


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_a_hundred_calls_leave_a_hundred_and_a_hundred(hub: Path, tmp_path: Path, mode: str) -> None:
    """Each in the hub and in the file, whose call it was and in which trace; no secret; a commit a tick at most."""
    began = time.monotonic()
    answered: Counter[bool] = Counter()

    async def use(client: Client) -> None:
        made = data(await client.call_tool("session_create", {"env": {"TOKEN": HIDDEN}}, meta=traced(0)))
        todo = list(enumerate(calls(made["session_id"]), 1))

        async def work() -> None:
            while todo:
                number, (name, arguments) = todo.pop(0)
                answered[(await client.call_tool(name, arguments, meta=traced(number))).is_error] += 1

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(work)

    said = serve(hub, use, "--audit-log", str(tmp_path / "audit.jsonl"), "--user", "ann", mode=mode)
    took = time.monotonic() - began
    assert CALLS - 1 == answered.total()
    assert 27 <= answered[True] <= 45, "four kinds in eleven fail"
    with connect(hub) as opened:
        events = [event for event in opened.audit.log(oldest_first=True, kind="tool *") if "tool_name" in event.fields]
    assert {"tool call": CALLS, "tool result": CALLS} == Counter(event.kind for event in events)
    for kind in ("tool call", "tool result"):
        found = [event.fields for event in events if event.kind == kind]
        assert {f"{number + 1:032x}" for number in range(CALLS)} == {fields["trace_id"] for fields in found}
        assert {"ann"} == {fields["user_id"] for fields in found}
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [(e.kind, e.fields["trace_id"]) for e in events] == [(one["kind"], one["trace_id"]) for one in lines]
    check_secrets(hub, (tmp_path / "audit.jsonl").read_text() + said)
    check_results([event.fields for event in events if event.kind == "tool result"])
    commits = len(git(hub, "rev-list", "ghcoord/audit").split())
    assert commits <= math.ceil(took / LOCAL_INTERVAL) + 1


def check_secrets(hub: Path, told: str) -> None:
    """No secret is in any file of the audit's history, nor in ``told``."""
    paths = git(hub, "ls-tree", "-r", "--name-only", "ghcoord/audit").split()
    texts = [git(hub, "log", "-p", "ghcoord/audit"), *(git(hub, "show", f"ghcoord/audit:{path}") for path in paths)]
    assert any("[redacted]" in text for text in texts)
    for secret in (SECRET, HIDDEN):
        assert not [text for text in (*texts, told) if secret in text]


def check_results(results: list[dict[str, Any]]) -> None:
    """What was refused says why, what ended says how."""
    said = {fields["tool_name"]: fields for fields in results}
    assert "there is no tool 'rm'" in said["rm"]["error_msg"]
    shells = [fields for fields in results if fields["tool_name"] == "shell"]
    assert any("shell has no argument 'comand'" in fields["error_msg"] for fields in shells)
    assert any(fields["result"] and 3 == fields["result"]["exit_code"] for fields in shells)
    assert any("not-mine" in fields["error_msg"] for fields in results if fields["tool_name"] == "fs_read")
    assert said["session_create"]["session_id"]
    assert said["run_python"]["result"]["success"]


def git(hub: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=hub, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("remote", [False, True], ids=["local", "remote"])
def test_a_trace_goes_from_the_client_through_the_task_to_the_worker(hub: Path, remote: bool) -> None:
    """The commands of calls and of tasks find it, the task's record has it, and the log finds all of it by its id."""
    seen: list[str] = []

    async def use(client: Client) -> None:
        session = data(await client.call_tool("session_create", {}))["session_id"]
        asked = {"session_id": session, "code": SHOW}
        seen.append(data(await client.call_tool("run_python", asked, meta=traced(1)))["stdout"].strip())
        seen.append(data(await client.call_tool("run_python", asked, meta={"traceparent": "hostile\n"}))["stdout"])
        given = {"tool": "run.python", "args": {"code": SHOW}, "id": "traced"}
        data(await client.call_tool("task_submit", given, meta=traced(2)))
        data(await client.call_tool("task_wait", {"ids": ["traced"], "wait_s": 30}))

    base = ("--poll", "50ms", "--workspace", str(hub.parent))
    with workers(hub, *(["w1"] if remote else []), args=base), connect(hub) as opened:
        until(lambda: opened.workers.list("active") or not remote)
        serve(hub, use, *(["--remote"] if remote else []))
    assert trace(1) == seen[0]
    assert seen[1].startswith("00-"), "one that begins here"
    shown = json.loads(spawn("--hub", hub, "task", "show", "traced", "--json").out)
    assert (trace(2), trace(2)) == (shown["trace"], shown["result"]["output"].strip())
    found = json.loads(spawn("--hub", hub, "audit", "log", "--trace", trace(2), "--json").out)
    assert ["task submitted", "tool call", "tool result"] == sorted(event["kind"] for event in found)


def test_spans_form_one_tree(hub: Path) -> None:
    """With OpenTelemetry's variables set: the SDK's span of the request, below it the session's call and the task."""

    async def use(client: Client) -> None:
        session = data(await client.call_tool("session_create", {}))["session_id"]
        data(await client.call_tool("shell", {"session_id": session, "command": f"echo {SECRET}"}, meta=traced(1)))
        data(
            await client.call_tool("task_submit", {"tool": "echo", "args": {"message": "x"}, "id": "t"}, meta=traced(2))
        )
        data(await client.call_tool("task_wait", {"ids": ["t"], "wait_s": 30}))

    said = serve(hub, use, env={"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_SCHEDULE_DELAY": "200"})
    spans = {one["name"]: one for one in objects(said)}
    for number, request, work in ((1, "tools/call shell", "call shell"), (2, "tools/call task_submit", "task echo")):
        span_id = trace(number)[36:52]
        assert f"0x{span_id}" == spans[request]["parent_id"], "the client's"
        assert spans[request]["context"]["span_id"] == spans[work]["parent_id"]
        assert f"0x{number + 1:032x}" == spans[work]["context"]["trace_id"]
    assert (
        spans["call shell"]["attributes"]["ghcoord.session"]
        == spans["tools/call shell"]["attributes"]["ghcoord.session"]
    )
    assert "ghcoord" == spans["task echo"]["resource"]["attributes"]["service.name"]
    assert SECRET not in said


def test_calls_that_are_cancelled_have_an_end(hub: Path) -> None:
    """One while the client goes on, one as it leaves: the log says of both how they ended."""

    async def use(client: Client) -> None:
        session = data(await client.call_tool("session_create", {}))["session_id"]
        asked = {"session_id": session, "command": "sleep 60"}
        with anyio.move_on_after(1):
            await client.call_tool("shell", asked)
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "shell", asked)
            await anyio.sleep(1)
            group.cancel_scope.cancel()

    serve(hub, use)
    with connect(hub) as opened:
        ended = [event.fields for event in opened.audit.log(kind="tool result", tool="shell")]
    assert 2 == len(ended)
    assert all(fields["error_msg"] for fields in ended)


def objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects that begin a line of ``text``."""
    found, decoder, at = [], json.JSONDecoder(), text.find("{\n")
    while at >= 0:
        one, end = decoder.raw_decode(text, at)
        found.append(one)
        at = text.find("{\n", end)
    return found
