"""Tools as clients see them: the list, names, arguments, errors, sizes, progress."""

from __future__ import annotations

import json
from typing import Any

import anyio
import jsonschema
import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError

from ghcoord import errors
from ghcoord.errors import GhcoordError, NoCapacity, Throttled, UsageError
from ghcoord.faces.mcp import present
from ghcoord.faces.mcp.answer import Answer, Failure
from ghcoord.faces.mcp.call import Call, Services
from ghcoord.faces.mcp.caller import Caller
from ghcoord.faces.mcp.catalog import parse_toolsets
from ghcoord.faces.mcp.explain import explain
from ghcoord.faces.mcp.names import all_names
from ghcoord.faces.mcp.outputs import Outputs
from ghcoord.faces.mcp.running import Threads
from ghcoord.faces.mcp.server import McpServer, build_server
from ghcoord.faces.mcp.toolspec import NAME, Arguments, Returns, Toolset, ToolSpec, tool
from ghcoord.hub import Hub
from ghcoord.testing.worker_client import FakeWorkerClient
from tests.mcp.talking import ANN, ERAS, call, data, names, server_of, talk, text


class Number(Arguments):
    n: int


class Counted(Returns):
    n: int
    lines: tuple[str, ...] = ()


def made(run: Any, name: str = "thing_do", read_only: bool = False, **more: Any) -> ToolSpec:
    """A tool that does what ``run`` does."""
    return tool(name, title="Do", toolset=Toolset.HUB, takes=Number, returns=Counted, read_only=read_only, **more)(run)


def echo(call: Call, args: Number) -> Answer:
    """Says it back."""
    return Answer(f"it is {args.n}", {"n": args.n})


@pytest.mark.parametrize("mode", ERAS)
def test_every_tool_is_listed_whole(server: McpServer, mode: str) -> None:
    """In both eras each tool has a name that every client takes, a title, all hints, and two schemas of objects."""
    listed = talk(server, lambda client: client.list_tools(), mode).tools
    assert {"session_create", "fs_write", "run_python", "fs_read", "task_submit", "lock_acquire"} <= {*names(listed)}
    for one in listed:
        assert NAME.fullmatch(one.name), one.name
        assert one.title
        assert one.description
        hints = one.annotations.model_dump()
        assert one.title == hints.pop("title")
        assert not [name for name, value in hints.items() if not isinstance(value, bool)], one.name
        for schema in (one.input_schema, one.output_schema):
            assert "object" == schema["type"], one.name
            jsonschema.Draft202012Validator.check_schema(schema)
        assert one.input_schema["additionalProperties"] is False, one.name


def test_toolsets_are_all_there(server: McpServer) -> None:
    """Each toolset has tools, and no two tools share a name, plain or dotted."""
    assert {*Toolset} == {spec.toolset for spec in server.catalog.offered}
    every = [name for spec in server.catalog.offered for name in all_names(spec)]
    assert len(every) == len({*every})
    assert {"fs.read", "run.python", "pkg.install", "session.create", "echo"} <= {*every}


def test_toolsets_and_read_only_choose(hub: Hub, workers: FakeWorkerClient) -> None:
    """``--toolsets`` and ``--read-only`` list what they say, and refuse the rest by naming the flag."""
    chosen = build_server(hub, workers=workers, toolsets=parse_toolsets(["locks", "memory"]))
    listed = names(talk(chosen, lambda client: client.list_tools()).tools)
    assert listed
    assert all(name.startswith(("lock_", "memory_")) for name in listed)
    assert "lock_acquire" in str(chosen.lowlevel.instructions)
    assert "task_submit" not in str(chosen.lowlevel.instructions)
    assert "--toolsets locks,memory" in text(call(chosen, "hub_status"))
    looking = build_server(hub, workers=workers, read_only=True)
    listed = talk(looking, lambda client: client.list_tools()).tools
    assert listed
    assert all(one.annotations.read_only_hint for one in listed)
    refused = call(looking, "session_create")
    assert refused.is_error
    assert "--read-only" in text(refused)
    assert "DENIED" == refused.structured_content["failure"]["code"]
    with pytest.raises(UsageError, match="one of sessions, workspace, tasks"):
        parse_toolsets(["nothing"])


def test_caller_who_may_only_look(services: Services) -> None:
    """A caller of read-only rights neither sees nor can call what changes something."""
    looker = Caller("ann", "default", "h", read_only=True)
    server = server_of(services, made(echo), made(echo, "thing_look", read_only=True), caller=looker)
    assert ["thing_look"] == names(talk(server, lambda client: client.list_tools()).tools)
    assert "you may only look" in text(call(server, "thing_do", {"n": 1}))
    assert "it is 1" == text(call(server, "thing_look", {"n": 1}))


@pytest.mark.parametrize("style", ["plain", "dotted"])
def test_dotted_names(hub: Hub, workers: FakeWorkerClient, style: str) -> None:
    """Both names of a tool can be called, whichever is listed."""
    server = build_server(hub, workers=workers, tool_names=style)
    listed = names(talk(server, lambda client: client.list_tools()).tools)
    assert ("session.create" in listed, "fs.read" in listed) == (style == "dotted",) * 2
    assert ("session_create" in listed, "fs_read" in listed) == (style == "plain",) * 2
    for name in ("session_list", "session.list"):
        assert not call(server, name).is_error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"n": "7"}, "n: must be a whole number"),
        ({"n": 7, "m": 1}, "m: is not an argument of this tool"),
        ({}, "n: is missing"),
        ({"n": True}, "n: must be a whole number"),
    ],
)
def test_arguments_are_not_guessed(services: Services, arguments: dict[str, Any], said: str) -> None:
    """What does not suit the schema is refused with the reason and the names there are, and nothing runs."""
    ran: list[int] = []

    def run(call: Call, args: Number) -> Answer:
        """Runs."""
        ran.append(args.n)
        return Answer("")

    result = call(server_of(services, made(run)), "thing_do", arguments)
    assert result.is_error
    assert said in text(result)
    assert text(result).endswith(("It takes: n.", "Correct that and call again."))
    assert [] == ran


def test_unknown_tool(services: Services) -> None:
    """A tool that does not exist is an answer that names the nearest and all there are."""
    server = server_of(services, made(echo))
    result = call(server, "thing_doo", {"n": 1})
    assert result.is_error
    assert "Error: there is no tool 'thing_doo'. Did you mean thing_do? The tools are: thing_do." == text(result)
    assert ["thing_doo"] == server.adapter._auditor.names  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", ERAS)
def test_errors_say_the_next_step(services: Services, mode: str) -> None:
    """An error of the hub is text with what to do, and the same as data that suits the schema."""

    def run(call: Call, args: Number) -> Answer:
        """Fails."""
        raise NoCapacity("no worker has room")

    result = call(server_of(services, made(run)), "thing_do", {"n": 1}, mode)
    assert result.is_error
    assert text(result).startswith("Error: no worker has room. End a session")
    why = result.structured_content["failure"]
    assert ("NO_CAPACITY", "no worker has room", True) == (why["code"], why["message"], why["retryable"])
    jsonschema.validate(result.structured_content, present.output_schema(made(run).returns))


def test_faults_are_answers_and_logged(services: Services) -> None:
    """A fault of the server is an answer, and its log says it."""

    def run(call: Call, args: Number) -> Answer:
        """Breaks."""
        raise KeyError("x")

    server = server_of(services, made(run))
    assert "unexpected KeyError: 'x'" in text(call(server, "thing_do", {"n": 1}))
    assert ["error: thing_do: unexpected KeyError: 'x'"] == server.said  # type: ignore[attr-defined]


def test_each_error_says_what_to_do() -> None:
    """Every error of the tree but a mistake in the arguments comes with a next step."""
    usage = {UsageError, errors.InvalidName, errors.NoHub}
    plain = {GhcoordError, errors.LockError, errors.WorkerError, errors.WorkerReplaced, errors.SyncError}
    plain |= {errors.TaskFailed, errors.StoreError, errors.Unsupported}
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GhcoordError)]
    assert len(found) > 30
    for kind in {*found} - usage - plain:
        extra: dict[str, Any] = {"until": 0.0} if kind is Throttled else {}
        extra |= {"expected": 1, "actual": 2} if kind is errors.RevisionMismatch else {}
        assert explain(kind("x", **extra), 0.0).next_step, kind
    assert "Try the same call again in 30 s." == explain(Throttled("slow down", 130.0), 100.0).next_step
    assert 2001 == len(explain(UsageError("x" * 9999), 0.0).message)


def test_failed_calls_keep_their_data(services: Services) -> None:
    """What was run and went wrong is an error whose output is in text and data."""

    def run(call: Call, args: Number) -> Answer:
        """Goes wrong."""
        return Answer("exit code 3\nboom", {"n": 3}, failed=True, notices=("the session was restored",))

    result = call(server_of(services, made(run)), "thing_do", {"n": 1})
    assert result.is_error
    assert "NOTE: the session was restored\nexit code 3\nboom" == text(result)
    assert {"n": 3, "notices": ["the session was restored"]} == result.structured_content


def test_long_answers_are_cut_and_kept(services: Services) -> None:
    """A long answer shows its beginning and its end, says that it is not all, and the rest is a resource."""
    whole = "begin\n" + "é" * 1_000_000 + "\nend"

    def run(call: Call, args: Number) -> Answer:
        """Says a lot."""
        return Answer(whole, {"n": 1, "lines": [whole, *("x" * 1000 for _ in range(5000))]})

    server = server_of(services, made(run))
    result = call(server, "thing_do", {"n": 1})
    assert present.MAX_TEXT >= len(text(result).encode()) > present.MAX_TEXT // 2
    assert text(result).startswith("begin\n")
    assert "bytes left out" in text(result)
    found = data(result)
    assert found["truncated"] is True
    assert found["full_output"] in text(result)
    assert len(json.dumps(found, ensure_ascii=False).encode()) <= present.MAX_DATA
    kept = services.outputs.find(ANN, found["full_output"])
    assert kept is not None
    assert whole == kept.text
    assert services.outputs.find(Caller("bob", "default", "h"), found["full_output"]) is None


@pytest.mark.parametrize(
    "data",
    [
        {"n": 1, "lines": ["x"] * 100_000},
        {"n": 1, "deep": {"a": [{"b": "y" * 300_000}] * 3}},
        {"n": 1, "lines": [["z" * 10] * 100] * 1000},
    ],
    ids=["many", "deep", "nested"],
)
def test_data_of_any_form_fits(services: Services, data: dict[str, Any]) -> None:
    """Data that is too long loses the ends of its texts, then of its lists, and nothing else."""
    result = present.success(Answer("short", data), ANN, "x", services.outputs)
    found = result.structured_content
    assert isinstance(found, dict)
    assert len(json.dumps(found).encode()) <= present.MAX_DATA
    assert 1 == found["n"]
    assert {*data} <= {*found}


def test_data_that_cannot_fit(hub: Hub) -> None:
    """Thousands of keys are no answer: it says to ask for less."""
    with pytest.raises(Failure, match="Ask for less"):
        present.success(Answer("", {f"k{n}": n for n in range(10_000)}), ANN, "x", Outputs(hub))


def test_broken_characters_arrive(services: Services) -> None:
    """Half a character pair, which no JSON can hold, is replaced in text and data."""

    def run(call: Call, args: Number) -> Answer:
        """Says half a character."""
        return Answer("\ud800!", {"n": 1, "lines": ["\udfff?"]})

    result = call(server_of(services, made(run)), "thing_do", {"n": 1}, "legacy")
    assert "?!" == text(result)
    assert ["??"] == data(result)["lines"]


@pytest.mark.parametrize("mode", ERAS)
def test_progress_grows(services: Services, mode: str) -> None:
    """Progress arrives in both eras, each value above the one before, few of many, and the last of all."""

    def run(call: Call, args: Number) -> Answer:
        """Counts."""
        for at in range(args.n):
            call.progress(at / args.n if at % 2 else None, f"at {at}")
        return Answer("", {"n": args.n})

    heard: list[tuple[float, float | None, str | None]] = []

    async def hear(value: float, total: float | None, message: str | None) -> None:
        heard.append((value, total, message))

    server = server_of(services, made(run))
    talk(server, lambda client: client.call_tool("thing_do", {"n": 2000}, progress_callback=hear), mode)
    assert 1 <= len(heard) <= 5
    assert sorted({value for value, _, _ in heard}) == [value for value, _, _ in heard]
    assert "at 1999" == heard[-1][2]
    assert 0.999 == heard[-1][0]


def test_too_many_calls_are_refused(hub: Hub) -> None:
    """A call above the limit of threads is refused, may be tried again, and holds nobody up."""
    threads = Threads(hub.runtime, 1)
    go = hub.runtime.event()

    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(threads.run, lambda cancelled, progress: go.wait(5))
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(Failure, match="1 calls already") as refused:
                await threads.run(lambda cancelled, progress: None)
            assert refused.value.retryable
            go.set()
        assert 7 == await threads.run(lambda cancelled, progress: 7)

    anyio.run(run)
    assert 0 == threads.running


def test_one_user_leaves_threads_for_others(hub: Hub) -> None:
    """Half of them are the most that one user of several has; who is alone may have all."""
    threads = Threads(hub.runtime, 4)
    go = hub.runtime.event()

    async def run() -> None:
        async def wait(who: str) -> None:
            await threads.run(lambda cancelled, progress: go.wait(5), who=who)

        async with anyio.create_task_group() as group:
            for who in ("ann", "ann", "bob"):
                group.start_soon(wait, who)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(Failure, match="2 calls of yours already"):
                await threads.run(lambda cancelled, progress: None, who="ann")
            assert 7 == await threads.run(lambda cancelled, progress: 7, who="bob")
            assert 8 == await threads.run(lambda cancelled, progress: 8)
            go.set()
        assert 9 == await threads.run(lambda cancelled, progress: 9, who="ann")

    anyio.run(run)
    assert 0 == threads.running


def test_calls_run_side_by_side(services: Services) -> None:
    """Forty calls that wait for one another all end, more than the SDK's own threads."""
    together = 45
    arrived: list[int] = []
    all_here = services.runtime.event()

    def run(call: Call, args: Number) -> Answer:
        """Waits for the others."""
        arrived.append(args.n)
        if len(arrived) == together:
            all_here.set()
        assert all_here.wait(10)
        return Answer("", {"n": args.n})

    results: dict[int, Any] = {}

    async def say(client: Client) -> None:
        async def one(n: int) -> None:
            results[n] = data(await client.call_tool("thing_do", {"n": n}))["n"]

        async with anyio.create_task_group() as group:
            for n in range(together):
                group.start_soon(one, n)

    talk(server_of(services, made(run)), say, "legacy")
    assert {n: n for n in range(together)} == results


def test_trace_and_client_reach_the_tool(services: Services) -> None:
    """A call's ``traceparent`` and the client's name reach the tool; without one it gets a trace of its own."""
    seen: list[Call] = []

    def run(call: Call, args: Number) -> Answer:
        """Looks."""
        seen.append(call)
        return Answer("", {"n": 1})

    server = server_of(services, made(run))
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    talk(server, lambda client: client.call_tool("thing_do", {"n": 1}, meta={"traceparent": trace}), "legacy")
    call(server, "thing_do", {"n": 1})
    assert "0af7651916cd43dd8448eb211c80319c" == seen[0].trace.split("-")[1]
    assert seen[1].trace
    assert seen[1].trace.split("-")[1] != seen[0].trace.split("-")[1]
    assert seen[0].caller.client.startswith("mcp ")


@pytest.mark.parametrize("mode", ERAS)
def test_resources_and_prompts(server: McpServer, mode: str) -> None:
    """Resources, templates and prompts are listed and can be had; what is not there is an error of the protocol."""

    async def say(client: Client) -> None:
        listed = (await client.list_resources()).resources
        assert {"ghcoord://sessions", "ghcoord://locks", "ghcoord://workers"} <= {str(one.uri) for one in listed}
        read = await client.read_resource("ghcoord://workers")
        assert "fake" in read.contents[0].text  # type: ignore[union-attr]
        templates = (await client.list_resource_templates()).resource_templates
        assert "ghcoord://outputs/{id}" in {one.uri_template.partition("{?")[0] for one in templates}
        prompts = (await client.list_prompts()).prompts
        assert 3 == len(prompts)
        given = {one.name: "x" for one in prompts[0].arguments or () if one.required}
        got = await client.get_prompt(prompts[0].name, given)
        assert got.messages
        with pytest.raises(MCPError) as missing:
            await client.read_resource("ghcoord://nothing/x")
        assert -32002 == missing.value.error.code or -32602 == missing.value.error.code
        with pytest.raises(MCPError, match="no prompt"):
            await client.get_prompt("nothing")

    talk(server, say, mode)


def test_two_tools_of_one_name(services: Services) -> None:
    """A catalog with a name twice, or one that clients refuse, is not made."""
    with pytest.raises(ValueError, match="two tools"):
        server_of(services, made(echo), made(echo))
    with pytest.raises(ValueError, match="every client"):
        server_of(services, made(echo, "a.b"))
