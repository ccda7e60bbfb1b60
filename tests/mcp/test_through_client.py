"""These tools, resources and prompts through the SDK's own client and the whole server."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError

from ghcoord.faces.mcp.server import McpServer
from ghcoord.hub import Hub
from ghcoord.model.task import TaskResult
from tests.coord.world import Daemon
from tests.mcp.talking import ERAS, talk


async def ok(client: Client, name: str, /, **arguments: Any) -> dict[str, Any]:
    """The data of a call that succeeded."""
    answer = await client.call_tool(name, arguments)
    assert not answer.is_error, answer.content
    assert answer.structured_content is not None
    return answer.structured_content


@pytest.mark.parametrize("mode", ERAS)
def test_work_from_claim_to_result(server: McpServer, hub: Hub, mode: str) -> None:
    """Lock, memory, task, artifact and their resources, in both eras; the SDK checks each against its schema."""
    worker = Daemon(hub, tools=("echo",))

    async def say(client: Client) -> None:
        await client.list_tools()
        assert "ann" == (await ok(client, "hub_status"))["you"]["user"]
        lock = await ok(client, "lock_acquire", name="plan", wait_s=1)
        fence = {"fence_lock": "plan", "fence_token": lock["token"]}
        first = await ok(client, "memory.set", key="k", value={"n": 1}, if_revision=0, **fence)
        again = await client.call_tool("memory_set", {"key": "k", "value": 2, "if_revision": 0})
        assert again.is_error
        assert "memory_get" in again.content[0].text
        changed = await ok(client, "memory_watch", key="k", cursor=first["revision"] - 1, wait_s=1)
        assert [{"n": 1}] == [one["value"] for one in changed["changes"]]
        task_id = (await ok(client, "task_submit", tool="echo", args={"message": "hi"}))["task"]["id"]
        worker.report(*worker.lease(), TaskResult(success=True, output="hi\n"))
        assert (await ok(client, "task_wait", ids=[task_id]))["done"]
        assert "hi\n" == (await ok(client, "task_result", task_id=task_id))["output"]
        log = await client.read_resource(f"ghcoord://tasks/{task_id}/log")
        assert "hi\n" == log.contents[0].text
        stored = await ok(client, "artifact_put", name="a.bin", base64="AAEC")
        blob = await client.read_resource(stored["artifact"]["uri"])
        assert "AAEC" == blob.contents[0].blob
        workers = json.loads((await client.read_resource("ghcoord://workers")).contents[0].text)
        assert {"fake", "w1"} == {one["id"] for one in workers["workers"]}
        await ok(client, "lock_release", name="plan", token=lock["token"])
        lost = await client.call_tool("lock_renew", {"name": "plan", "token": lock["token"]})
        assert lost.is_error

    talk(server, say, mode)


def test_resources_and_prompts_are_listed_and_refused(server: McpServer) -> None:
    """Lists are whole; what is not there is an error of the protocol that says so."""

    async def say(client: Client) -> None:
        session = (await ok(client, "session_create"))["session_id"]
        uris = [one.uri for one in (await client.list_resources()).resources]
        assert f"ghcoord://sessions/{session}" in map(str, uris)
        for uri in uris:
            await client.read_resource(str(uri))
        assert 4 == len((await client.list_resource_templates()).resource_templates)
        listed = [one.name for one in (await client.list_prompts()).prompts]
        assert ["claim_work", "run_code_safely", "hand_over"] == listed
        prompt = await client.get_prompt("hand_over", {"what": "the parser"})
        assert re.search("the parser", prompt.messages[0].content.text)
        for ask in (
            lambda: client.read_resource("ghcoord://tasks/nope/log"),
            lambda: client.get_prompt("hand_over", {}),
        ):
            with pytest.raises(MCPError):
                await ask()

    talk(server, say)
