"""What agents pass to the tools of a session and get back: the workers' own schemas, with the session and paging."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from ghcoord.errors import UsageError
from ghcoord.faces.mcp.answer import Failure
from ghcoord.faces.mcp.tools.workspacetext import plain_names
from ghcoord.faces.mcp.toolspec import readable
from ghcoord.model.tool import Tool, json_problem

TIMEOUT = 120.0
"""Seconds that a call gets unless it says otherwise."""

MAX_TIMEOUT = 3600.0
"""Seconds that a call gets at most."""

READ_BYTES = 32 * 1024
"""Bytes that fs_read returns at most in one call: as base64 they still fit an answer."""

LIST_PAGE = 500
"""Names that fs_list returns unless told otherwise."""

MAX_LIST_PAGE = 2000
"""Names that fs_list returns at most in one call."""

CREATE_FIRST = "Call session_create first: it returns one."
CORRECT = "Correct that argument and call again."
PATH = "Give a path relative to the workspace, such as src/main.py, without '..'."

_PATH = re.compile(r"\b(path traversal|the path|in the path|path of a file|relative to workspace root)\b")
"""In what is said of a path that is refused."""

SESSION_ID = {
    "type": "string",
    "minLength": 1,
    "maxLength": 128,
    "description": "The session's id, as session_create returned it.",
}
TIMEOUT_S = {
    "type": "number",
    "exclusiveMinimum": 0,
    "maximum": MAX_TIMEOUT,
    "default": TIMEOUT,
    "description": "Seconds after which the call is ended.",
}

_ALWAYS: Mapping[str, Any] = {
    "success": {"type": "boolean"},
    "exit_code": {
        "anyOf": [{"type": "integer"}, {"type": "null"}],
        "description": "Of the command; null where there was none, or where it was ended.",
    },
    "duration_s": {"type": "number"},
    "truncated": {"type": "boolean", "description": "Whether something was left out for its size."},
    "error": {"type": "string", "description": "Why it failed; empty on success."},
}

_FIELDS: Mapping[str, str] = {
    "path": "Relative to the workspace, such as src/main.py.",
    "contents": "The text to write.",
    "encoding": "Of the text; base64 for bytes that are no text.",
    "append": "Add to the end instead of replacing.",
    "mode": 'Permission bits such as "0644".',
    "offset": "Bytes to skip: next_offset of the answer before.",
    "limit": "Bytes to read at most.",
    "recursive": "With everything below.",
    "glob": "Only names that match, such as **/*.py.",
    "details": "With kind, size, mode and time of each.",
    "code": "Python source; either this or file.",
    "file": "A Python file of the workspace to run.",
    "args": "Arguments of the program.",
    "stdin": "Standard input.",
    "env": "Variables for this call.",
    "command": "For /bin/sh -c, in the workspace.",
    "message": "What to return.",
}
"""Descriptions of arguments for the model, where the worker's own tool has none."""


@dataclass(frozen=True, slots=True)
class Given:
    """Checked arguments of one call: ``args`` are the worker tool's own, ``page`` those of a list."""

    session_id: str
    timeout: float
    args: dict[str, Any]
    page: dict[str, int] = field(default_factory=dict)


# -- schemas


def arguments_of(tool: Tool) -> dict[str, Any]:
    """The JSON schema of what an agent passes."""
    schema: dict[str, Any] = readable(deepcopy(dict(tool.arguments or {"type": "object", "properties": {}})))
    own = schema.get("properties", {})
    for name, one in own.items():
        if name in _FIELDS:
            one.setdefault("description", _FIELDS[name])
    if tool.name == "fs.read":
        own["limit"] = _whole("limit", 1, READ_BYTES, READ_BYTES)
    if tool.name == "fs.list":
        own["offset"] = {**_whole("offset", 0, None, 0), "description": "Names to skip: next_offset before."}
        own["limit"] = {**_whole("limit", 1, MAX_LIST_PAGE, LIST_PAGE), "description": "Names in one answer."}
    return {
        **schema,
        "additionalProperties": False,
        "properties": {"session_id": SESSION_ID, **own, "timeout_s": TIMEOUT_S},
        "required": ["session_id", *schema.get("required", ())],
    }


def _whole(name: str, least: int, most: int | None, default: int) -> dict[str, Any]:
    bounds = {"minimum": least} if most is None else {"minimum": least, "maximum": most}
    return {"type": "integer", **bounds, "default": default, "description": _FIELDS[name]}


def returns_of(tool: Tool) -> dict[str, Any]:
    """The tool's own fields, which a call that failed may lack, and those that there always are."""
    schema: dict[str, Any] = readable(deepcopy(dict(tool.returns or {"type": "object", "properties": {}})))
    paging: dict[str, Any] = {}
    if tool.name == "fs.list":
        paging = {"total": {"type": "integer"}, "next_offset": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}
    return {
        **schema,
        "properties": {**schema.get("properties", {}), **paging, **_ALWAYS},
        "required": list(_ALWAYS),
    }


# -- arguments


def checked(tool: Tool, schema: Mapping[str, Any], given: Mapping[str, Any]) -> Given:
    """``given`` by ``schema``: nothing unknown is dropped, nothing is converted.

    Raises :class:`Failure` naming what is wrong.
    """
    takes = f"It takes: {', '.join(schema['properties'])}."
    name = tool.name.replace(".", "_")
    if problem := json_problem(dict(given), "the arguments"):
        raise Failure(problem, takes)
    session_id = given.get("session_id")
    if "session_id" not in given:
        raise Failure("session_id is missing", CREATE_FIRST)
    if not isinstance(session_id, str) or not 1 <= len(session_id) <= 128:
        raise Failure("session_id must be the text that session_create returned", CREATE_FIRST)
    timeout = given.get("timeout_s", TIMEOUT)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= MAX_TIMEOUT:
        raise Failure(f"timeout_s must be a number of seconds above 0, at most {MAX_TIMEOUT:g}", CORRECT)
    if unknown := next((each for each in given if each not in schema["properties"]), None):
        raise Failure(f"{name} has no argument {unknown[:100]!r}", takes)
    own = {name: value for name, value in given.items() if name not in ("session_id", "timeout_s")}
    page: dict[str, int] = {}
    if tool.name == "fs.list":
        page = {each: own.pop(each) for each in ("offset", "limit") if each in own}
        for each, value in page.items():
            _check_whole(each, value, schema)
    if tool.name == "fs.read":
        own.setdefault("limit", READ_BYTES)
        _check_whole("limit", own["limit"], schema)
    try:
        tool.check(own)
    except UsageError as mistake:
        said = plain_names(mistake.message).replace(": input should be ", " must be ")
        said = said.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
        step = takes if "needs the argument" in said else PATH if _PATH.search(said) else CORRECT
        raise Failure(said, step, code=mistake.code) from None
    return Given(session_id, float(timeout), own, page)


def _check_whole(name: str, value: Any, schema: Mapping[str, Any]) -> None:
    wanted = schema["properties"][name]
    least, most = wanted["minimum"], wanted.get("maximum", 1 << 53)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Failure(f"{name} must be a whole number from {least} to {most}", CORRECT)
