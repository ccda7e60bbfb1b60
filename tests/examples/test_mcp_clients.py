"""The configurations in ``examples/mcp`` parse, name the server as each client wants it, and start it."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

from ghcoord.hub import Hub
from tests.docs.runner import environment
from tests.examples.conftest import EXAMPLES
from tests.mcp.talking import talk

FILES = {
    "claude_desktop_config.json": "mcpServers",
    "claude-code.mcp.json": "mcpServers",
    "cursor.mcp.json": "mcpServers",
    "vscode.mcp.json": "servers",
    "codex.config.toml": "mcp_servers",
    "windsurf.mcp_config.json": "mcpServers",
    "gemini.settings.json": "mcpServers",
}
"""The configuration of each client, and under which key it looks for servers."""

KNOWN = {"type", "command", "args", "env", "env_vars", "startup_timeout_sec", "tool_timeout_sec", "timeout"}
"""What the clients' documents describe, and the files here use."""


def server(name: str) -> dict[str, Any]:
    """What a client reads of the server ``ghcoord``."""
    text = (EXAMPLES / "mcp" / name).read_text()
    found: dict[str, Any] = tomllib.loads(text) if name.endswith(".toml") else json.loads(text)
    assert [FILES[name]] == list(found)
    (only,) = found[FILES[name]].items()
    assert "ghcoord" == only[0]
    return dict(only[1])


def test_all_files_are_known() -> None:
    """A new file needs a line above, and a line in the README beside it."""
    found = {path.name for path in (EXAMPLES / "mcp").iterdir()} - {"README.md"}
    assert set(FILES) == found
    readme = (EXAMPLES / "mcp" / "README.md").read_text()
    assert not [name for name in FILES if f"[{name}]({name})" not in readme]


@pytest.mark.parametrize("name", FILES)
def test_entry(name: str) -> None:
    """Each names the program and its arguments, nothing that its client does not know, and no secret."""
    entry = server(name)
    assert set(entry) <= KNOWN
    assert "ghcoord" == entry["command"]
    assert ["mcp", "--hub"] == entry["args"][:2]
    assert ("stdio" if "type" in entry else None) == entry.get("type")
    assert not any(value.startswith(("ghp_", "github_pat_")) for value in entry.get("env", {}).values())


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_starts(name: str, hub: Hub, tmp_path: Path) -> None:
    """The SDK's client starts the command as written, but for the hub, and takes a lock through it."""
    entry = server(name)
    assert "github:me/hub" in entry["args"][2]
    settings = dict(environment(tmp_path))
    program = Path(settings["PATH"].partition(os.pathsep)[0]) / entry["command"]
    params = StdioServerParameters(command=str(program), args=["mcp", "--hub", hub.url], env=settings, cwd=tmp_path)

    async def say(client: Client) -> tuple[list[str], Any]:
        listed = await client.list_tools()
        taken = await client.call_tool("lock_acquire", {"name": "deploy"})
        assert not taken.is_error, taken
        return [tool.name for tool in listed.tools], taken.structured_content

    names, taken = talk(params, say)
    assert {"lock_acquire", "session_create", "memory_set", "task_submit"} <= set(names)
    assert hub.locks.holders("deploy")[0].token == taken["token"]
