"""Answers in the form of the protocol: text and data that say the same, and neither too long."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mcp_types import CallToolResult, TextContent

from ghcoord.faces.mcp.answer import Answer, Failure
from ghcoord.faces.mcp.caller import Caller
from ghcoord.faces.mcp.outputs import Outputs

MAX_TEXT = 48 * 1024
"""Bytes of text of one answer: Claude Code cuts at 25,000 tokens (facts/mcp.md)."""

MAX_DATA = 96 * 1024
"""Bytes of its data as JSON. With the text far below the 1 MiB that breaks clients (facts/mcp.md)."""

HEAD = 3
"""Of four parts of a text that is too long, so many are its beginning; the rest is its end, where errors stand."""

FAILURE = "failure"
"""Where the data of a call that could not be made says why."""

_ADDED: Mapping[str, Any] = {
    "notices": {
        "type": "array",
        "items": {"type": "string"},
        "description": "What you have to know besides.",
    },
    "truncated": {"type": "boolean"},
    "full_output": {"type": "string", "description": "Resource with what was cut."},
    FAILURE: {
        "type": "object",
        "description": "Why it was not done.",
        "properties": {
            "code": {"type": "string"},
            "message": {"type": "string"},
            "next_step": {"type": "string"},
            "retryable": {"type": "boolean"},
        },
    },
}


def output_schema(returns: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of what a client gets: what the tool returns, or why it could not be called; what was cut, in both."""
    properties = returns.get("properties", {})
    schema = {
        **returns,
        "type": "object",
        "properties": {**properties, **{name: one for name, one in _ADDED.items() if name not in properties}},
    }
    required = list(schema.pop("required", ()))
    return {**schema, "anyOf": [{"required": required}, {"required": [FAILURE]}]}


def success(answer: Answer, caller: Caller, title: str, outputs: Outputs) -> CallToolResult:
    """``answer`` for the client; what is too long is kept in ``outputs`` under ``title``."""
    data = _encodable(answer.data)
    if answer.notices:
        data["notices"] = list(answer.notices)
    text = "\n".join((*(f"NOTE: {one}" for one in answer.notices), answer.text))
    long_text = _size(text) > MAX_TEXT
    if long_text or _size(_json(data)) > MAX_DATA:
        uri = outputs.keep(caller, title, text if long_text else _json(data, indent=1))
        data = {**fit(data, MAX_DATA - 1024), "truncated": True, "full_output": uri}
        if long_text:
            text = shorten(text, MAX_TEXT - 1024)
        text += f"\n[This is not all: the whole output is the resource {uri}.]"
    return CallToolResult(content=[_text(text)], structured_content=data, is_error=answer.failed)


def failure(why: Failure) -> CallToolResult:
    """A call that could not be made."""
    message = shorten(why.message, 4096)
    told = {"code": why.code, "message": message, "next_step": why.next_step, "retryable": why.retryable}
    text = shorten(str(Failure(message, why.next_step)), MAX_TEXT)
    return CallToolResult(content=[_text(f"Error: {text}")], structured_content={FAILURE: told}, is_error=True)


def shorten(text: str, most: int) -> str:
    """``text`` in at most about ``most`` bytes: its beginning and its end."""
    raw = text.encode(errors="replace")
    if len(raw) <= most:
        return text
    room = max(0, most - 64)
    head, tail = room * HEAD // 4, room - room * HEAD // 4
    begun, ended = raw[:head].decode(errors="ignore"), raw[len(raw) - tail :].decode(errors="ignore")
    return f"{begun}\n[… {len(raw) - head - tail} bytes left out …]\n{ended}"


def fit(data: dict[str, Any], most: int) -> dict[str, Any]:
    """``data`` in at most ``most`` bytes of JSON: long texts are shortened, then long lists lose their ends.

    Raises :class:`Failure` for what stays too long.
    """
    longest, items = most // 2, 1 << 30
    while longest >= 64:
        cut: dict[str, Any] = _cut(data, longest, items)
        if _size(_json(cut)) <= most:
            return cut
        if longest > 1024 or items <= 1:
            longest //= 4
        else:
            items = min(items, _longest_list(cut)) // 4
    raise Failure("the answer is too long to be sent", "Ask for less: a smaller limit, or a narrower selection.")


def _cut(value: Any, longest: int, items: int) -> Any:
    if isinstance(value, str):
        return shorten(value, longest)
    if isinstance(value, list):
        return [_cut(one, longest, items) for one in value[:items]]
    if isinstance(value, dict):
        return {key: _cut(one, longest, items) for key, one in value.items()}
    return value


def _longest_list(value: Any) -> int:
    if isinstance(value, list):
        return max(len(value), *map(_longest_list, value), 0)
    if isinstance(value, dict):
        return max(map(_longest_list, value.values()), default=0)
    return 0


def _text(text: str) -> TextContent:
    # Half a character pair can come out of a command and cannot be sent.
    return TextContent(type="text", text=text.encode(errors="replace").decode())


def _encodable(data: Mapping[str, Any]) -> dict[str, Any]:
    """``data`` without halves of character pairs, which cannot be sent."""
    text = _json(data)
    try:
        text.encode()
    except UnicodeEncodeError:
        cleaned: dict[str, Any] = json.loads(text.encode(errors="replace"))
        return cleaned
    return dict(data)


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _size(text: str) -> int:
    return len(text.encode(errors="replace"))
