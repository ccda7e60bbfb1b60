"""A tool's arguments, declared once: checked, told in one sentence when wrong, and published as a JSON schema."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from ghcoord.errors import GhcoordError, SandboxError, UsageError
from ghcoord.execution.files.paths import folder_path, workspace_path
from ghcoord.execution.sandbox.base import check_strings
from ghcoord.model.tier import Tier
from ghcoord.model.tool import Tool, ToolContext, ToolResult


class Arguments(BaseModel):
    """Base of a tool's arguments. Nothing is converted: ``"5"`` is no number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Returns(BaseModel):
    """Base of what describes a tool's ``data``."""


def _variables(env: dict[str, str]) -> dict[str, str]:
    _raise_plain(lambda: check_strings(["-"], env))
    return env


def _file(path: str) -> str:
    _raise_plain(lambda: workspace_path(path))
    return path


def _folder(path: str) -> str:
    _raise_plain(lambda: folder_path(path))
    return path


def _raise_plain(check: Callable[[], object]) -> None:
    """Run ``check``; its message goes to the caller as it is."""
    try:
        check()
    except UsageError as mistake:
        raise ValueError(mistake.message) from None


Variables = Annotated[dict[str, str], AfterValidator(_variables)]
"""Environment variables."""

FilePath = Annotated[str, AfterValidator(_file)]
"""The path of something in the workspace."""

FolderPath = Annotated[str, AfterValidator(_folder)]
"""The path of something in the workspace, or ``.`` for all of it."""

_A = TypeVar("_A", bound=Arguments)


def declare(
    name: str,
    description: str,
    arguments: type[_A],
    run: Callable[[_A, ToolContext], ToolResult],
    *,
    returns: type[BaseModel] | None = None,
    sandboxed: bool = False,
    tier: Tier = Tier.FULL,
    needs_session: bool = False,
) -> Tool:
    """A tool whose ``run`` gets checked arguments.

    ``run`` may raise: :class:`SandboxError` means that the infrastructure
    failed, any other :class:`GhcoordError` or ``OSError`` that the call did.
    """
    return Tool(
        name,
        description,
        partial(_run, name, arguments, run),
        sandboxed=sandboxed,
        check=partial(_check, name, arguments),
        arguments=_schema(arguments),
        returns=_schema(returns) if returns else None,
        tier=tier,
        needs_session=needs_session,
    )


def validate(tool: str, arguments: type[_A], args: dict[str, Any]) -> _A:
    """``args`` as ``arguments``. Raises :class:`UsageError`: one sentence about what is wrong first."""
    for name, value in args.items():
        _check_text(name, value)
    try:
        return arguments.model_validate(args)
    except ValidationError as wrong:
        errors = wrong.errors(include_url=False, include_context=False)
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    raise UsageError(_explain(tool, arguments, first))


def _check_text(name: str, value: Any) -> None:
    """Raises :class:`UsageError` for text that no file and no record can hold."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{name} is not valid UTF-8") from None
    elif isinstance(value, list | dict):
        for each in value:
            _check_text(f"each of {name}", each)


def failed(error: str) -> ToolResult:
    """The result of a call that failed for ``error``."""
    return ToolResult(success=False, error=error)


def _check(name: str, arguments: type[Arguments], args: dict[str, Any]) -> None:
    validate(name, arguments, args)


def _run(
    name: str,
    arguments: type[_A],
    run: Callable[[_A, ToolContext], ToolResult],
    args: dict[str, Any],
    ctx: ToolContext,
) -> ToolResult:
    try:
        return run(validate(name, arguments, args), ctx)
    except SandboxError as why:
        return ToolResult(success=False, error=why.message, infrastructure=True)
    except GhcoordError as mistake:
        return failed(mistake.message)
    except OSError as why:
        return failed(f"{name}: {why.strerror or why}")


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    schema.pop("title", None)
    schema.pop("description", None)
    for each in schema.get("properties", {}).values():
        each.pop("title", None)
    return schema


_WANTED = {
    "string_type": "a string",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list of strings",
    "dict_type": "an object of strings",
}

_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}


def _explain(tool: str, arguments: type[Arguments], error: ErrorDetails) -> str:
    where, kind, value = error["loc"], error["type"], error["input"]
    name = str(where[0]) if where else ""
    if kind == "extra_forbidden":
        takes = ", ".join(arguments.model_fields) or "none"
        return f"{tool} has no argument {name[:100]!r}: it takes {takes}"
    if kind == "missing":
        return f"{tool} needs the argument {name}"
    if kind == "value_error":
        return error["msg"].removeprefix("Value error, ")
    inner = f"each of {name}" if len(where) > 1 else name
    if wanted := _WANTED.get(kind):
        found = "null" if value is None else _KINDS.get(type(value), f"a {type(value).__name__}")
        return f"{inner} must be {wanted}, not {found}"
    return f"{inner}: {error['msg'][:1].lower()}{error['msg'][1:]}"
