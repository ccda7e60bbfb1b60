"""The names under which tools are listed and called.

Listed are names that every client takes (``fs_read``); the dotted ones of the
reference documents (``fs.read``) are accepted as well, or listed instead.
"""

from __future__ import annotations

from enum import StrEnum

from ghcoord.faces.mcp.toolspec import ToolSpec


class NameStyle(StrEnum):
    """Which names are listed: ``plain``, which every client takes, or ``dotted``, the reference's."""

    PLAIN = "plain"
    DOTTED = "dotted"


def dotted_name(spec: ToolSpec) -> str:
    """The tool's dotted name: the reference's, else its noun and verb with a dot between (``session.create``)."""
    return spec.dotted or spec.name.replace("_", ".", 1)


def listed_name(spec: ToolSpec, style: NameStyle) -> str:
    """The name that clients see in the list."""
    return dotted_name(spec) if style is NameStyle.DOTTED else spec.name


def all_names(spec: ToolSpec) -> tuple[str, ...]:
    """Every name under which the tool can be called."""
    return tuple(dict.fromkeys((spec.name, dotted_name(spec))))
