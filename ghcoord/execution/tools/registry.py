"""All tools of a worker: the built-in ones, and those of plug-ins.

A plug-in is a Python distribution with an entry point of the group
``ghcoord.tools``: a function that is given the worker's
:class:`~ghcoord.execution.tools.kit.Kit` and returns a
:class:`~ghcoord.model.tool.Tool`, or a list of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points

from ghcoord.errors import UsageError
from ghcoord.execution.tools import artifacts, checkpoints, commands, echo, files, packages, prompt, testing
from ghcoord.execution.tools.kit import Kit
from ghcoord.model.tool import Tool, check_tool_name

GROUP = "ghcoord.tools"
"""The group of entry points that add tools."""

_BUILT_IN = (echo, files, commands, packages, testing, prompt, artifacts, checkpoints)


def builtin_tools(kit: Kit, report: Callable[[str], None] | None = None) -> list[Tool]:
    """Every built-in tool that ``kit`` can serve, and the plug-ins' tools.

    A plug-in that fails, or wants a name that is taken, is left out:
    ``report`` is told, or a warning is issued.
    """
    found = [tool for module in _BUILT_IN for tool in module.tools(kit)]
    names = [tool.name for tool in found]
    return found + plugin_tools(kit, entry_points(group=GROUP), names, report or _warn)


def plugin_tools(
    kit: Kit, points: Iterable[EntryPoint], taken: Iterable[str], report: Callable[[str], None]
) -> list[Tool]:
    """The tools that ``points`` add: all of one plug-in, or none."""
    names = set(taken)
    found: list[Tool] = []
    for point in points:
        try:
            tools = _load(kit, point)
            for at, tool in enumerate(tools):
                check_tool_name(tool.name)
                if tool.name in names or tool.name in [other.name for other in tools[:at]]:
                    raise UsageError(f"there is a tool {tool.name!r} already")
        except (Exception, SystemExit) as why:
            said = str(why) if isinstance(why, UsageError) else f"{type(why).__name__}: {why}"
            report(f"the tools of plug-in {point.name!r} ({point.value}) are left out: {said}")
            continue
        names.update(tool.name for tool in tools)
        found += tools
    return found


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=3)


def _load(kit: Kit, point: EntryPoint) -> list[Tool]:
    made = point.load()(kit)
    tools = list(made) if isinstance(made, list | tuple) else [made]
    for tool in tools:
        if not isinstance(tool, Tool):
            raise TypeError(f"it returned a {type(tool).__name__}, no Tool")
    return tools
