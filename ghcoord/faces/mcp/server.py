"""The MCP server of a hub: everything put together, independent of the transport."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from mcp.server.caching import CacheHint
from mcp.server.lowlevel import Server

from ghcoord.faces.mcp.adapter import Adapter, Auditor, Identify
from ghcoord.faces.mcp.audited import Audited
from ghcoord.faces.mcp.call import Services
from ghcoord.faces.mcp.caller import Caller
from ghcoord.faces.mcp.catalog import Catalog, all_tools
from ghcoord.faces.mcp.clients.base import WorkerClient
from ghcoord.faces.mcp.names import NameStyle
from ghcoord.faces.mcp.outputs import Outputs
from ghcoord.faces.mcp.owners import Owners
from ghcoord.faces.mcp.quota import Most, SessionQuota
from ghcoord.faces.mcp.toolspec import Toolset
from ghcoord.hub import Hub
from ghcoord.ids import new_suffix
from ghcoord.version import __version__

Log = Callable[[str, str], None]
"""Told (level, text): ``debug``, ``info``, ``warn`` or ``error``."""

WHAT_IT_IS = (
    "ghcoord coordinates agents through a Git repository, the hub. What you do here other agents of the hub see, and "
    "what they did you can see. An error says what to do next."
)

GUIDANCE = (
    (
        {"session_create", "fs_write", "run_python"},
        "To run code: session_create, then fs_write, run_python, shell, pkg_install with its session_id; files stay "
        "between calls. session_destroy when you are done.",
    ),
    ({"lock_acquire"}, "Before you change what others may change too: lock_acquire; afterwards lock_release."),
    ({"memory_set"}, "Decisions that others need: memory_set, memory_get, memory_watch."),
    ({"task_submit"}, "Work that others can do, or that takes long: task_submit, then task_wait again and again."),
)
"""What an agent is told at the start, each where all these tools are offered."""


def instructions(catalog: Catalog) -> str:
    """How to use what ``catalog`` offers, for the model."""
    offered = {spec.name for spec in catalog.offered}
    return "\n".join((WHAT_IT_IS, *(said for needed, said in GUIDANCE if needed <= offered)))


class McpServer:
    """A hub's MCP server. :meth:`serve` speaks on standard input and output, :attr:`lowlevel` on anything else.

    :attr:`callers` tells who sent a request; a transport that authenticates
    its clients sets it.  Until then all are the ``user`` of this process.
    """

    def __init__(self, adapter: Adapter, name: str, version: str) -> None:
        self.adapter = adapter
        self.lowlevel: Server[dict[str, object]] = Server(
            name,
            version=version,
            title="ghcoord",
            description="Sessions, tasks, locks and memory in a Git repository",
            instructions=instructions(adapter.catalog),
            cache_hints={
                "tools/list": CacheHint(ttl_ms=60_000),
                "prompts/list": CacheHint(ttl_ms=60_000),
                "resources/templates/list": CacheHint(ttl_ms=60_000),
            },
            # Else the SDK lists all tools for each call over HTTP, to check its headers.
            get_tool_input_schema=adapter.input_schema,
            on_list_tools=adapter.list_tools,
            on_call_tool=adapter.call_tool,
            on_list_resources=adapter.list_resources,
            on_list_resource_templates=adapter.list_templates,
            on_read_resource=adapter.read_resource,
            on_list_prompts=adapter.list_prompts,
            on_get_prompt=adapter.get_prompt,
        )

    @property
    def services(self) -> Services:
        """What its tools share."""
        return self.adapter.services

    @property
    def catalog(self) -> Catalog:
        """The tools that it offers."""
        return self.adapter.catalog

    @property
    def callers(self) -> Identify:
        """Tells who sent a request."""
        return self.adapter.identify

    @callers.setter
    def callers(self, identify: Identify) -> None:
        self.adapter.identify = identify

    def serve(self, logger: logging.Logger | None = None) -> None:
        """Serve one client on standard input and output until it ends (reference: ``Serve``, ``ServeWithLogger``).

        While it serves nothing else is read from the one or written to the
        other: what this process prints goes to standard error.
        """
        from ghcoord.faces.mcp.serve import Stop, serve_stdio

        if logger is not None:
            logger.info("serving on standard input and output")
        serve_stdio(self, Stop())
        if logger is not None:
            logger.info("the client has gone")


def build_server(
    hub: Hub,
    *,
    name: str = "ghcoord",
    version: str = __version__,
    workers: WorkerClient,
    audit: Auditor | None = None,
    toolsets: Collection[Toolset] | None = None,
    read_only: bool = False,
    tool_names: NameStyle | str = NameStyle.PLAIN,
    user: str | None = None,
    workspace: str | None = None,
    user_sessions: Most | None = None,
    log: Log = lambda level, text: None,
) -> McpServer:
    """The server of ``hub`` (reference: ``NewMCPServer``), whose sessions ``workers`` runs.

    ``audit`` records calls, in the hub unless given.  ``toolsets`` chooses tools,
    ``read_only`` leaves those that change nothing, ``tool_names`` is how they
    are listed.  ``user`` and ``workspace`` are whose calls these are, where the
    transport does not tell.  ``user_sessions`` tells how many sessions each of
    several users may have.  ``log`` gets (level, text).
    """
    style = NameStyle(tool_names)
    catalog = Catalog(all_tools(workers.tools()), toolsets=toolsets, read_only=read_only, style=style)
    services = Services(hub, workers, Outputs(hub), Owners(hub), SessionQuota(user_sessions))
    auditor = Audited(hub) if audit is None else audit
    identify = local_callers(hub, user, workspace)
    adapter = Adapter(services, catalog, auditor=auditor, identify=identify, log=log)
    return McpServer(adapter, name, version)


def local_callers(hub: Hub, user: str | None = None, workspace: str | None = None) -> Identify:
    """All who speak to this process are ``user``, by default whoever runs it, in ``workspace``."""
    caller = Caller(user or hub.actor, workspace or "default", f"mcp-{new_suffix(hub.runtime.randbits)}")
    return lambda ctx: caller
