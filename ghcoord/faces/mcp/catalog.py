"""The tools of one server: all of them, or those of some toolsets, or those that change nothing."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from importlib import import_module

from ghcoord.errors import UsageError
from ghcoord.faces.mcp.answer import Failure
from ghcoord.faces.mcp.names import NameStyle, all_names, listed_name
from ghcoord.faces.mcp.toolspec import NAME, Toolset, ToolSpec
from ghcoord.model.tool import Tool

_MODULES = ("sessions", "tasks", "locks", "memory", "workers", "artifacts", "hub")
"""Modules of :mod:`ghcoord.faces.mcp.tools` with ``TOOLS``; those of the workspace are made of the workers' own."""


def all_tools(worker_tools: Sequence[Tool]) -> tuple[ToolSpec, ...]:
    """Every tool there is, where workers offer ``worker_tools`` in sessions."""
    from ghcoord.faces.mcp.tools.workspace import workspace_tools

    made: dict[str, tuple[ToolSpec, ...]] = {
        name: import_module(f"ghcoord.faces.mcp.tools.{name}").TOOLS for name in _MODULES
    }
    sessions = made.pop("sessions")
    return (*sessions, *workspace_tools(list(worker_tools)), *(one for some in made.values() for one in some))


def parse_toolsets(names: Iterable[str]) -> frozenset[Toolset]:
    """The toolsets of these names. Raises ``UsageError`` naming those there are."""
    chosen = set()
    for name in names:
        try:
            chosen.add(Toolset(name))
        except ValueError:
            raise UsageError(f"{name[:40]!r} is no toolset: one of {', '.join(Toolset)}") from None
    return frozenset(chosen)


class Catalog:
    """The tools that a server offers, by name. Does not change.

    ``toolsets`` chooses from them, all unless given; ``read_only`` leaves those
    that change nothing, and refuses the others with the reason.  Raises
    ``ValueError`` for tools whose names a client may not take, or that share one.
    """

    def __init__(
        self,
        specs: Sequence[ToolSpec],
        *,
        toolsets: Collection[Toolset] | None = None,
        read_only: bool = False,
        style: NameStyle = NameStyle.PLAIN,
    ) -> None:
        self.style = style
        self._by_name: dict[str, ToolSpec] = {}
        self._refused: dict[str, str] = {}
        self._offered: list[ToolSpec] = []
        for spec in specs:
            if NAME.fullmatch(spec.name) is None:
                raise ValueError(f"the tool name {spec.name!r} is not one that every client takes")
            why = _refusal(spec, toolsets, read_only)
            if not why:
                self._offered.append(spec)
            for name in all_names(spec):
                if name in self._by_name or name in self._refused:
                    raise ValueError(f"two tools are called {name!r}")
                if why:
                    self._refused[name] = why
                else:
                    self._by_name[name] = spec

    @property
    def offered(self) -> tuple[ToolSpec, ...]:
        """The tools in the order of the list."""
        return tuple(self._offered)

    def listed(self, *, read_only: bool = False) -> list[tuple[str, ToolSpec]]:
        """What a client sees: names and tools; only those that change nothing, for one that may do no more."""
        return [(listed_name(one, self.style), one) for one in self._offered if one.read_only or not read_only]

    def find(self, name: str) -> ToolSpec:
        """The tool of this name, plain or dotted. Raises :class:`Failure` saying why it is not there."""
        spec = self._by_name.get(name)
        if spec is not None:
            return spec
        if name in self._refused:
            raise Failure(self._refused[name], "Go on without it, or ask the user to allow it.", code="DENIED")
        near = difflib.get_close_matches(name[:64], list(self._by_name), n=1)
        names = ", ".join(listed_name(one, self.style) for one in self._offered)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise Failure(f"there is no tool {name[:64]!r}", f"{hint}The tools are: {names}.", code="NOT_FOUND")


def _refusal(spec: ToolSpec, toolsets: Collection[Toolset] | None, read_only: bool) -> str:
    if toolsets is not None and spec.toolset not in toolsets:
        return f"{spec.name} is not offered: this server was started with --toolsets {','.join(sorted(toolsets))}"
    if read_only and not spec.read_only:
        return f"{spec.name} changes something, and this server was started with --read-only"
    return ""
