"""A client as a process: ``RUN=COMMAND client.py URL MODE TOKEN`` runs it in a new session and waits for its end."""

from __future__ import annotations

import os
import sys

import anyio

from tests.mcp.http.serving import connected


async def main(url: str, mode: str, token: str, command: str) -> None:
    """Run ``command``."""
    async with connected(url, token, mode) as client:
        made = await client.call_tool("session_create", {})
        assert made.structured_content is not None
        await client.call_tool("shell", {"session_id": made.structured_content["session_id"], "command": command})


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:], os.environ["RUN"])
