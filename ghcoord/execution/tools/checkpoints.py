"""``session.checkpoint`` and ``session.diff``: saving the session that a call runs in, and what changed in it."""

from __future__ import annotations

from typing import Annotated, Any, Protocol, runtime_checkable

from pydantic import Field

from ghcoord.coord.sessions.differences import Diff
from ghcoord.coord.sessions.manifests import MAX_MANIFEST_NAME
from ghcoord.execution.tools.arguments import Arguments, Returns, declare, failed
from ghcoord.execution.tools.kit import Kit
from ghcoord.model.session import Checkpoint
from ghcoord.model.tool import Tool, ToolContext, ToolResult

_ID = Annotated[str, Field(min_length=1, max_length=64)]


@runtime_checkable
class Saving(Protocol):
    """What the context of a call in a session has besides :class:`ghcoord.model.tool.ToolContext`."""

    def checkpoint(self, name: str = "") -> Checkpoint:
        """Save the session's files as they are."""
        ...

    def diff(self, a: str | None = None, b: str | None = None, *, text: bool = False) -> Diff:
        """What leads from checkpoint ``a``, the latest unless given, to ``b`` or to the files as they are."""
        ...


class Save(Arguments):
    """Of ``session.checkpoint``."""

    name: Annotated[str, Field(max_length=MAX_MANIFEST_NAME)] = ""


class Compare(Arguments):
    """Of ``session.diff``."""

    a: _ID | None = None
    b: _ID | None = None
    text: bool = False


class Saved(Returns):
    """Of ``session.checkpoint``."""

    checkpoint: Checkpoint


class Compared(Returns):
    """Of ``session.diff``."""

    diff: Diff


def tools(kit: Kit) -> list[Tool]:
    """Both tools; they work in sessions only, and start nothing."""
    return [
        declare(
            "session.checkpoint",
            "Save the session's files, settings and exact packages.",
            Save,
            _save,
            returns=Saved,
            needs_session=True,
        ),
        declare(
            "session.diff",
            "Show what changed since a checkpoint, or between two.",
            Compare,
            _compare,
            returns=Compared,
            needs_session=True,
        ),
    ]


def _save(args: Save, ctx: ToolContext) -> ToolResult:
    if not isinstance(ctx, Saving):
        return failed("session.checkpoint works in a session only: create one with 'ghcoord session create'")
    made = ctx.checkpoint(args.name)
    return ToolResult(success=True, output=made.id, data={"checkpoint": made.model_dump(mode="json")})


def _compare(args: Compare, ctx: ToolContext) -> ToolResult:
    if not isinstance(ctx, Saving):
        return failed("session.diff works in a session only: create one with 'ghcoord session create'")
    found = ctx.diff(args.a, args.b, text=args.text)
    return ToolResult(success=True, output=_summary(found), data={"diff": found.model_dump(mode="json")})


def _summary(diff: Diff) -> str:
    if diff.empty:
        return "no difference"
    counts: list[tuple[str, Any]] = [("added", diff.added), ("removed", diff.removed), ("changed", diff.changed)]
    return ", ".join(f"{len(each)} {name}" for name, each in counts if each) or "packages or settings differ"
