"""The tool that waits for changes of the shared memory, a bounded while at a time."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field

from ghcoord.faces.mcp.answer import Answer, Failure
from ghcoord.faces.mcp.call import MAX_WAIT, Call
from ghcoord.faces.mcp.shown import bounded, json_line, line, rows
from ghcoord.faces.mcp.toolspec import Arguments, Returns, Toolset, tool
from ghcoord.faces.mcp.waits import Stop
from ghcoord.faces.views import change_view
from ghcoord.hub import Cursor

MAX_CHANGES = 50
"""Changes that one answer tells."""

MAX_SHOWN = 1_000
"""Characters, about, of a value that changed."""

_CURSOR = re.compile(r"([0-9]{1,16})(?:-([0-9]{1,16}))?", re.ASCII)


class Watch(Arguments):
    """Of ``memory_watch``."""

    key: str = Field(
        default="", max_length=256, description="The key, or with prefix the beginning of keys; empty for all keys."
    )
    prefix: bool = Field(default=False, description="Watch every key that begins with key.")
    namespace: Annotated[str, Field(min_length=1, max_length=256, description="The namespace.")] = "global"
    cursor: Annotated[
        int | str | None,
        Field(description="next_cursor of the call before, or the revision that memory_get showed; default: from now."),
    ] = None
    wait_s: float = Field(default=30.0, ge=0, le=MAX_WAIT, description="Seconds to wait for a change, up to 45.")


class Watched(Returns):
    """What ``memory_watch`` returns."""

    changes: list[dict[str, Any]] = Field(
        description="kind (set, deleted, expired, resync), key, value, namespace, revision; empty when nothing changed."
    )
    next_cursor: str = Field(description="Give it as cursor to the next call: then nothing is missed in between.")
    left_out: int = Field(description="Changes that are not told here: read the present values with memory_list.")
    resync: bool = Field(description="The history since the cursor is gone: what is told is the present state.")


@tool(
    "memory_watch",
    title="Wait for a change",
    toolset=Toolset.MEMORY,
    takes=Watch,
    returns=Watched,
    read_only=True,
    idempotent=True,
)
def memory_watch(call: Call, args: Watch) -> Answer:
    """Wait up to 45 seconds for a key of the shared memory, or keys with a common beginning, to change, and return
    the changes and a cursor. No change is no error: call it again with cursor = next_cursor, so that nothing is
    missed. With wait_s 0 it only looks. Values set in quick succession may show as one change."""
    every = args.prefix or not args.key
    watch = call.hub.memory.changes(args.key, args.namespace, prefix=every, since=_cursor(args.cursor))
    end = call.wait_until(args.wait_s)
    stop = Stop(call, lambda: f"waiting for a change of {line(args.key or 'the memory', 80)}")
    changes = watch.look()
    while not changes:
        left = end - call.services.runtime.monotonic()
        if left <= 0 or stop.wait(min(call.hub.poll_interval, left)):
            break
        changes = watch.look()
    told = [change for change in changes if change.kind != "resync"]
    after = "-".join(map(str, watch.cursor))
    shown = [_view(change, args.namespace) for change in told[:MAX_CHANGES]]
    left_out, resync = len(told) - len(shown), len(told) < len(changes)
    data = {"changes": shown, "next_cursor": after, "left_out": left_out, "resync": resync}
    said = ["The history since the cursor is gone; these are all keys as they are now:"] if resync else []
    said += [_line(one) for one in shown]
    said += [f"{left_out} more changes are left out: read the values as they are now with memory_list."] * bool(
        left_out
    )
    return Answer(rows(said, "Nothing changed.", f'Next: memory_watch with cursor "{after}".'), data)


def _cursor(given: int | str | None) -> Cursor | None:
    if given is None:
        return None
    match = _CURSOR.fullmatch(str(given))
    if match is None or int(match[1]) > 2**53 or int(match[2] or 0) > 2**53:
        raise Failure(
            "cursor: is neither one that memory_watch gave nor a revision", "Leave it out to watch from now on."
        )
    revision = int(match[1])
    return Cursor(revision, int(match[2] or revision))


def _view(change: Any, namespace: str) -> dict[str, Any]:
    view = change_view(change, namespace)
    return {**view, "value": bounded(view["value"], MAX_SHOWN, MAX_SHOWN)}


def _line(one: dict[str, Any]) -> str:
    value = f" = {json_line(one['value'], 400)}" if one["kind"] == "set" else ""
    return f"{one['kind']} {line(one['key'])}{value}  (revision {one['revision']})"
