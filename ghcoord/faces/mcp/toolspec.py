"""A tool as the server lists it: names, schemas, hints, and the plain function that does the work."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ghcoord.faces.mcp.answer import Answer, Failure

if TYPE_CHECKING:
    from ghcoord.faces.mcp.call import Call

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)
"""Names that every client takes (facts/mcp.md): one bad name withholds the whole set in some."""


class Toolset(StrEnum):
    """Groups of tools that ``--toolsets`` chooses from."""

    SESSIONS = "sessions"
    WORKSPACE = "workspace"
    TASKS = "tasks"
    LOCKS = "locks"
    MEMORY = "memory"
    WORKERS = "workers"
    ARTIFACTS = "artifacts"
    HUB = "hub"


class Arguments(BaseModel):
    """Base of a tool's arguments: nothing unknown is dropped, nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Returns(BaseModel):
    """Base of what a tool returns, for its output schema."""

    model_config = ConfigDict(extra="forbid")


_A = TypeVar("_A", bound=Arguments)


@dataclass(frozen=True, kw_only=True)
class ToolSpec:
    """One tool.

    ``check`` turns the client's arguments into those that ``run`` takes and
    raises :class:`Failure`.  The four hints are those of MCP; ``destructive``
    says that something is lost, ``idempotent`` that the same call again changes
    nothing more, ``open_world`` that it runs code or reaches beyond the hub.
    ``dotted`` is the name in the reference documents, accepted but not listed.
    """

    name: str
    title: str
    description: str
    toolset: Toolset
    arguments: Mapping[str, Any]
    returns: Mapping[str, Any]
    check: Callable[[Mapping[str, Any]], Any]
    run: Callable[[Call, Any], Answer]
    read_only: bool
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False
    dotted: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


def tool(
    name: str,
    *,
    title: str,
    toolset: Toolset,
    takes: type[_A],
    returns: type[BaseModel],
    read_only: bool,
    destructive: bool = False,
    idempotent: bool = False,
    open_world: bool = False,
    dotted: str = "",
) -> Callable[[Callable[[Call, _A], Answer]], ToolSpec]:
    """Make a tool of a function; its docstring is the description that the model reads."""

    def decorate(function: Callable[[Call, _A], Answer]) -> ToolSpec:
        return ToolSpec(
            name=name,
            title=title,
            description=" ".join((function.__doc__ or "").split()),
            toolset=toolset,
            arguments=schema_of(takes),
            returns=schema_of(returns),
            check=lambda given: validated(takes, given),
            run=function,
            read_only=read_only,
            destructive=destructive,
            idempotent=idempotent,
            open_world=open_world,
            dotted=dotted,
        )

    return decorate


def validated(takes: type[_A], given: Mapping[str, Any]) -> _A:
    """``given`` as ``takes``. Raises :class:`Failure` naming each argument that is wrong, unknown or missing."""
    try:
        # From JSON, so that a list is a tuple and a number a float, but no text a number.
        return takes.model_validate_json(_json(given))
    except ValidationError as wrong:
        said = []
        for one in wrong.errors(include_url=False, include_context=False, include_input=False)[:5]:
            where = ".".join(map(str, one["loc"]))[:100] or "the arguments"
            what = {"extra_forbidden": "is not an argument of this tool", "missing": "is missing"}.get(one["type"])
            said.append(f"{where}: {what or one['msg'][:1].lower() + one['msg'][1:]}")
        known = ", ".join(takes.model_fields)
        raise Failure("; ".join(said), f"It takes: {known or 'nothing'}.") from None


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of ``model``, an object, without the titles that pydantic makes up."""
    made: dict[str, Any] = _untitled(model.model_json_schema())
    return made


def _json(value: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(dict(value), allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as problem:
        raise Failure(f"the arguments are not plain JSON: {problem}") from None


def _untitled(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {
            key: {name: _untitled(inner) for name, inner in value.items()}
            if key in ("properties", "$defs") and isinstance(value, dict)
            else _untitled(value)
            for key, value in schema.items()
            if not (key == "title" and isinstance(value, str))
        }
    if isinstance(schema, list):
        return [_untitled(each) for each in schema]
    return schema
