"""What tests of the MCP face share: a hub in memory, a way to workers that runs nothing, a server over both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ghcoord.bootstrap import connect
from ghcoord.config import Settings
from ghcoord.faces.mcp.call import Services
from ghcoord.faces.mcp.outputs import Outputs
from ghcoord.faces.mcp.owners import Owners
from ghcoord.faces.mcp.server import McpServer, build_server
from ghcoord.hub import Hub
from ghcoord.testing.worker_client import FakeWorkerClient
from tests.coord.world import World
from tests.mcp.desk import Desk


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub in memory, nobody's but the test's."""
    with connect("memory:", Settings()) as hub:
        yield hub


@pytest.fixture
def workers(hub: Hub) -> FakeWorkerClient:
    """Sessions of that hub that run nothing."""
    return FakeWorkerClient(hub)


@pytest.fixture
def services(hub: Hub, workers: FakeWorkerClient) -> Services:
    """What tools share."""
    return Services(hub, workers, Outputs(hub), Owners(hub))


@pytest.fixture
def server(hub: Hub, workers: FakeWorkerClient) -> McpServer:
    """The whole server."""
    return build_server(hub, workers=workers, user="ann")


@pytest.fixture
def world() -> Iterator[World]:
    """A hub in memory and in manual time."""
    made = World()
    yield made
    made.close()


@pytest.fixture
def desk(world: World) -> Desk:
    """Tools as plain functions, on a hub in manual time."""
    return Desk(world)
