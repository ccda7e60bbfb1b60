"""A tool as the server lists it: names, schemas, hints, and the plain function that does the work."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

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
        every = wrong.errors(include_url=False)
        inner = {one["loc"][:-1] for one in every}
        # Of a list with wrong items it is said as well that it is too short, without them.
        errors = [one for one in every if one["loc"] not in inner or not one["loc"]]
        said = [_plain(one) for one in errors[:5]]
        if not any(one["type"] in ("extra_forbidden", "missing") for one in errors):
            raise Failure("; ".join(said), "Correct that and call again.") from None
        if any(one["type"] == "missing" and one["loc"] == ("session_id",) for one in errors):
            raise Failure("; ".join(said), "Call session_create first: it returns a session_id.") from None
        known = ", ".join(takes.model_fields)
        raise Failure("; ".join(said), f"It takes: {known or 'nothing'}.") from None


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of ``model``, an object, without the titles that pydantic makes up."""
    made: dict[str, Any] = readable(_untitled(model.model_json_schema()))
    made.pop("description", None)  # the class's own, for who reads the code
    return made


def readable(schema: Any) -> Any:
    """``schema`` as any client reads it: descriptions without markup, one type where it says a type."""
    if isinstance(schema, list):
        return [readable(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: readable(value) for key, value in schema.items()}
    if isinstance(said := made.get("description"), str):
        made["description"] = " ".join(said.replace("``", "").split())
    if isinstance(kinds := made.get("type"), list) and "anyOf" not in made:
        del made["type"]
        made["anyOf"] = [{"type": kind} for kind in kinds]
    return made


_KINDS = {
    "string": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "dict": "an object",
}
_BOUNDS = {
    "greater_than": ("gt", "more than {}"),
    "greater_than_equal": ("ge", "at least {}"),
    "less_than": ("lt", "less than {}"),
    "less_than_equal": ("le", "at most {}"),
    "string_too_short": ("min_length", "a text of at least {} characters"),
    "string_too_long": ("max_length", "a text of at most {} characters"),
    "too_short": ("min_length", "a list of at least {}"),
    "too_long": ("max_length", "a list of at most {}"),
    "enum": ("expected", "one of {}"),
    "literal_error": ("expected", "one of {}"),
}


def _plain(error: ErrorDetails) -> str:
    """What is wrong with one argument, in words of JSON."""
    where = ".".join(str(part) for part in error["loc"] if not str(part).startswith(_INNER))[:100] or "the arguments"
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{where}: is not an argument of this tool"
    if kind == "missing":
        return f"{where}: is missing"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        bound = context.get(name)
        return f"{where}: must be {words.format(f'{bound:g}' if isinstance(bound, float) else bound)}"
    if (wanted := _KINDS.get(kind.partition("_")[0])) and kind.endswith(("_type", "_parsing", "_from_float")):
        return f"{where}: must be {wanted}"
    if kind == "value_error":
        return f"{where}: {error['msg'].removeprefix('Value error, ')}"
    said = error["msg"].removeprefix("Input should be ")[:200]
    return f"{where}: {'must be ' if said != error['msg'] else ''}{said[:1].lower()}{said[1:]}"


_INNER = ("function-", "constrained-", "tagged-")


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
