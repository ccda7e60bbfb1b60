"""What the tools of tasks take: arguments that no worker would accept are refused before anything is queued."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from ghcoord.errors import UsageError
from ghcoord.faces.mcp.answer import Failure
from ghcoord.model.tool import Tool

if TYPE_CHECKING:
    from ghcoord.faces.mcp.call import Call


def known_tool(call: Call, name: str) -> Tool | None:
    """The tool of this name that this server's worker has, or workers of this version have; else ``None``."""
    return next((one for one in (*call.workers.tools(), *_built_in()) if one.name == name), None)


@cache
def _built_in() -> tuple[Tool, ...]:
    from ghcoord.bootstrap import describe_tools

    return tuple(describe_tools())


def check_arguments(call: Call, name: str, args: Mapping[str, Any], *, in_session: bool) -> None:
    """Raise :class:`Failure` for arguments that the tool ``name`` does not take, if it is one that is known here."""
    found = known_tool(call, name)
    if found is None:
        return
    if found.needs_session and not in_session:
        raise Failure(f"{name} works in a session only", "Give the session_id of a session of yours.")
    try:
        found.check(dict(args))
    except UsageError as mistake:
        raise Failure(f"args: {mistake.message}; nothing was queued", f"{name} takes: {spelled(found)}.") from None


def spelled(tool: Tool) -> str:
    """The arguments of ``tool`` by name, ``?`` after those that may be left out."""
    if tool.arguments is None:
        return "what its description says"
    needed = set(tool.arguments.get("required", ()))
    names = tool.arguments.get("properties", {})
    return ", ".join(name if name in needed else f"{name}?" for name in names) or "nothing"


def spelled_of(call: Call, names: tuple[str, ...]) -> dict[str, str]:
    """What those of these tools take that are known here."""
    found = {name: known_tool(call, name) for name in names}
    return {name: spelled(one) for name, one in found.items() if one is not None and one.arguments is not None}
