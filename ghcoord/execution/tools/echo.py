"""The tool that only answers."""

from __future__ import annotations

from ghcoord.execution.tools.arguments import Arguments, Returns, declare
from ghcoord.execution.tools.kit import Kit
from ghcoord.model.tool import Tool, ToolContext, ToolResult


class _Echo(Arguments):
    message: str


class _Message(Returns):
    message: str


def tools(kit: Kit) -> list[Tool]:
    """``echo``, which needs nothing of the kit."""
    return [declare("echo", "Return the message.", _Echo, _echo, returns=_Message)]


def _echo(args: _Echo, ctx: ToolContext) -> ToolResult:
    return ToolResult(success=True, output=args.message, data={"message": args.message})
