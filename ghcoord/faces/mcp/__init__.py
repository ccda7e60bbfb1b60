"""The MCP server: a hub's sessions, tasks, locks and memory as tools for agents.

:func:`build_server` is loaded when it is asked for: it needs the extra ``mcp``,
the command line's tokens do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ghcoord.faces.mcp.server import McpServer, build_server

__all__ = ["McpServer", "build_server"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ghcoord.faces.mcp import server

    return getattr(server, name)
