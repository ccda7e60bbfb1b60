"""A real server whose hub refuses or is gone: calls end before their client gives up, and say what to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client

from ghcoord.bootstrap import create
from ghcoord.config import Settings
from tests.acceptance.hubs import network_hub
from tests.mcp.talking import stdio, talk

pytestmark = pytest.mark.slow

SOON = 45.0
"""Seconds: clients give up after 60."""


async def timed(client: Client, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The failure that a call ends with, soon."""
    answer = await client.call_tool(name, arguments, read_timeout_seconds=SOON)
    assert answer.is_error
    return dict((answer.structured_content or {})["failure"])


def test_a_long_limit_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GitHub refuses everything for ten minutes: calls do not wait for that, and say how long it is."""
    with network_hub("github", tmp_path, monkeypatch) as (url, twin):
        server = stdio(tmp_path, "--remote", hub=url)
        server.env = {**(server.env or {}), **{name: os.environ[name] for name in ("GH_TOKEN", "GHCOORD_GITHUB_API")}}

        async def say(client: Client) -> None:
            twin.faults.add("secondary", seconds=600)
            first = await timed(client, "memory_set", {"key": "k", "value": 1})
            assert ("THROTTLED", True) == (first["code"], first["retryable"])
            assert "in 600 s" in first["next_step"] or "in 599 s" in first["next_step"]
            for name, arguments in (("lock_acquire", {"name": "l", "wait_s": 2}), ("memory_watch", {"wait_s": 2})):
                assert "THROTTLED" == (await timed(client, name, arguments))["code"]

        talk(server, say)


def test_a_hub_that_is_gone_is_an_answer(tmp_path: Path) -> None:
    """A lock that cannot be asked for is an error within the time that a client waits."""
    url = tmp_path / "hub.git"
    create(str(url), Settings())[0].close()

    async def say(client: Client) -> None:
        url.rename(tmp_path / "away")
        assert "UNAVAILABLE" == (await timed(client, "lock_acquire", {"name": "l"}))["code"]
        (tmp_path / "away").rename(url)
        assert not (await client.call_tool("lock_acquire", {"name": "l"})).is_error

    talk(stdio(tmp_path, "--remote", hub=url), say)
