"""``artifact.put``, ``artifact.get``, ``artifact.list``: files between a session's workspace and the hub."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from ghcoord.coord.artifacts.artifacts import Artifacts
from ghcoord.errors import NotFound, TaskFailed
from ghcoord.execution.files.beneath import Files
from ghcoord.execution.tools.arguments import Arguments, FilePath, Returns, declare
from ghcoord.execution.tools.kit import Kit
from ghcoord.model.artifact import Artifact, plain_name
from ghcoord.model.tool import Tool, ToolContext, ToolResult

MOST_LISTED = 1000
"""Artifacts that one call lists at most."""

_ID = Annotated[str, Field(min_length=1, max_length=64)]


class Put(Arguments):
    """Of ``artifact.put``."""

    path: FilePath
    name: str | None = None
    content_type: str | None = None


class Get(Arguments):
    """Of ``artifact.get``."""

    id: _ID
    path: FilePath | None = None


class List(Arguments):
    """Of ``artifact.list``."""


class OneArtifact(Returns):
    """What ``artifact.put`` returns."""

    artifact: dict[str, Any]


class Written(Returns):
    """What ``artifact.get`` returns."""

    path: str
    size: int


class Listed(Returns):
    """What ``artifact.list`` returns."""

    artifacts: list[dict[str, Any]]


def tools(kit: Kit) -> list[Tool]:
    """The tools that need a hub's artifacts; none where ``kit`` has none."""
    if kit.artifacts is None:
        return []
    return [
        declare(
            "artifact.put",
            "Keep a file of the session's workspace as an artifact.",
            Put,
            partial(_put, kit, kit.artifacts),
            returns=OneArtifact,
            needs_session=True,
        ),
        declare(
            "artifact.get",
            "Write an artifact into the session's workspace.",
            Get,
            partial(_get, kit, kit.artifacts),
            returns=Written,
            needs_session=True,
        ),
        declare(
            "artifact.list",
            "List the artifacts of the session, newest first.",
            List,
            partial(_list, kit.artifacts),
            returns=Listed,
            needs_session=True,
        ),
    ]


def _files(kit: Kit, ctx: ToolContext) -> Files:
    return Files(ctx.workspace, kit.sandbox.identity if kit.sandbox is not None else None, limits=ctx.limits)


def _put(kit: Kit, artifacts: Artifacts, args: Put, ctx: ToolContext) -> ToolResult:
    name = args.name if args.name is not None else plain_name(args.path)
    with _files(kit, ctx) as files, files.open_read(args.path) as source:
        made = artifacts.put(
            name,
            source,
            content_type=args.content_type,
            session_id=ctx.session_id,
            task_id=ctx.task_id or None,
        )
    said = f"{made.id}  {made.name}, {made.size} bytes\n"
    return ToolResult(success=True, output=said, data={"artifact": described(made)}, artifacts=(made.id,))


def _get(kit: Kit, artifacts: Artifacts, args: Get, ctx: ToolContext) -> ToolResult:
    found = artifacts.get(args.id)
    if found is None:
        raise NotFound(f"there is no artifact {args.id!r}")
    path = args.path if args.path is not None else plain_name(found.name)
    with _files(kit, ctx) as files, files.open_new(path, size=found.size) as target:
        for piece in artifacts.open(found.id):
            if ctx.cancelled():
                raise TaskFailed("cancelled before all of it was written")
            target.write(piece)
    return ToolResult(success=True, output=f"{path}, {found.size} bytes\n", data={"path": path, "size": found.size})


def _list(artifacts: Artifacts, args: List, ctx: ToolContext) -> ToolResult:
    found = artifacts.list(session_id=ctx.session_id)
    lines = "".join(f"{one.id}  {one.size}  {one.name}\n" for one in found[:MOST_LISTED])
    listed = [described(one) for one in found[:MOST_LISTED]]
    return ToolResult(True, output=lines, data={"artifacts": listed}, truncated=len(found) > MOST_LISTED)


def described(artifact: Artifact) -> dict[str, Any]:
    """An artifact's record as a tool returns it, with times as in the CLI's JSON."""
    found = artifact.model_dump(include=set(Artifact.model_fields) - {"format"})
    for name in ("created_at", "expires_at"):
        if isinstance(found[name], datetime):
            found[name] = found[name].astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return found
