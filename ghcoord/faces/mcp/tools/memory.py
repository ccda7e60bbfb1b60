"""Tools for the shared memory: values by key, compare-and-set, fenced writes, waiting for changes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ghcoord.errors import FenceRefused, RevisionMismatch
from ghcoord.faces.cli.output import to_json
from ghcoord.faces.mcp.answer import Answer, Failure
from ghcoord.faces.mcp.call import Call
from ghcoord.faces.mcp.shown import bounded, json_line, line, rows, text
from ghcoord.faces.mcp.tools.memorywatch import memory_watch
from ghcoord.faces.mcp.toolspec import Arguments, Returns, Toolset, tool
from ghcoord.faces.mcp.visible import holds
from ghcoord.faces.views import iso, iso_or_none
from ghcoord.model.memory import MemoryEntry

MAX_VALUE = 24_000
"""Characters of JSON of a value that an answer has; a longer one is a resource."""

MAX_PREVIEW = 1_000
"""Characters, about, of a value in a list or beside the resource that has all of it."""

MAX_KEYS = 200
"""Keys in one page."""

MAX_VALUES = 50
"""Keys in one page when their values are asked for: each is a record to read."""

MAX_NAMED = 20
"""Namespaces that are named where one has no keys."""

MAX_TTL = 30 * 86_400.0
"""Seconds of the longest time to live."""

Key = Annotated[str, Field(min_length=1, max_length=256, description="The key, such as plan/step-1.")]
Namespace = Annotated[
    str, Field(min_length=1, max_length=256, description="The namespace, a separate set of keys; default global.")
]
IfRevision = Annotated[
    int | None,
    Field(ge=0, le=2**53, description="Only if the key is at this revision, as memory_get showed; 0: only if not set."),
]
FenceLock = Annotated[
    str | None, Field(min_length=1, max_length=256, description="Only while you hold this lock; give fence_token too.")
]
FenceToken = Annotated[int | None, Field(ge=1, le=2**53, description="The token that lock_acquire gave for it.")]


class Get(Arguments):
    """Of ``memory_get``."""

    key: Key
    namespace: Namespace = "global"


class Got(Returns):
    """What ``memory_get`` returns."""

    found: bool
    key: str
    namespace: str
    value: Any = Field(description="The value; only its beginning when truncated.")
    revision: int = Field(description="For if_revision, and as a cursor of memory_watch; 0 when it is not set.")
    updated_at: str | None
    updated_by: str
    expires_at: str | None
    truncated: bool
    full_output: str | None = Field(description="The resource that has the whole value as JSON, when truncated.")


@tool(
    "memory_get",
    title="Read a value",
    toolset=Toolset.MEMORY,
    takes=Get,
    returns=Got,
    read_only=True,
    idempotent=True,
)
def memory_get(call: Call, args: Get) -> Answer:
    """Read a key of the memory that all agents and workers of this hub share: its value, its revision, who set it and
    when. A key that is not set is no error: found is false and revision 0."""
    entry = call.hub.memory.entry(args.key, args.namespace)
    if entry is None:
        nothing = {"updated_at": None, "updated_by": "", "expires_at": None, "truncated": False, "full_output": None}
        where = {"key": args.key, "namespace": args.namespace}
        told = f"{line(args.key)!r} is not set in {line(args.namespace)!r}."
        next_step = "memory_list shows the keys that are; memory_set with if_revision 0 sets it if it still is not."
        return Answer(f"{told} {next_step}", {"found": False, **where, "value": None, "revision": 0, **nothing})
    value, uri = _fitting(call, args, entry)
    expires = iso_or_none(entry.expires_at)
    data = {
        "found": True,
        "key": entry.key,
        "namespace": args.namespace,
        "value": value,
        "revision": entry.revision,
        "updated_at": iso(entry.updated_at),
        "updated_by": line(entry.updated_by, 128),
        "expires_at": expires,
        "truncated": uri is not None,
        "full_output": uri,
    }
    head = f"{line(entry.key)} at revision {entry.revision}, set {data['updated_at']} by {data['updated_by']}"
    head += f", ends {expires}" if expires else ""
    shown = value if isinstance(value, str) else to_json(value)
    ends = [f"[This is its beginning: the whole value is the resource {uri}.]"] if uri else []
    return Answer("\n".join([head, text(shown), *ends]), data)


def _fitting(call: Call, args: Get, entry: MemoryEntry) -> tuple[Any, str | None]:
    """The value, or its beginning and the resource that has it all."""
    whole = to_json(entry.value)
    if len(whole) <= MAX_VALUE:
        return entry.value, None
    uri = call.services.outputs.keep(call.caller, f"memory {args.namespace}: {entry.key}", whole)
    return bounded(entry.value, MAX_PREVIEW, MAX_PREVIEW), uri


class Set(Arguments):
    """Of ``memory_set``."""

    key: Key
    value: Any = Field(description="Any JSON value up to 900 KB: give an object as an object, not as text.")
    namespace: Namespace = "global"
    if_revision: IfRevision = None
    ttl_s: float | None = Field(default=None, gt=0, le=MAX_TTL, description="Seconds after which it is gone; no lock!")
    fence_lock: FenceLock = None
    fence_token: FenceToken = None


class Changed(Returns):
    """What ``memory_set`` returns."""

    key: str
    namespace: str
    revision: int = Field(description="The new revision.")
    expires_at: str | None


@tool(
    "memory_set",
    title="Write a value",
    toolset=Toolset.MEMORY,
    takes=Set,
    returns=Changed,
    read_only=False,
    destructive=True,
)
def memory_set(call: Call, args: Set) -> Answer:
    """Set a key of the shared memory to any JSON value; durable when it returns. To change what others may change
    too, read it with memory_get and give its revision as if_revision: if somebody was faster, nothing is written and
    you read again. With fence_lock and fence_token it is written only while you hold that lock."""
    try:
        entry = call.hub.memory.set(
            args.key,
            args.value,
            args.namespace,
            if_revision=args.if_revision,
            ttl=args.ttl_s,
            fence=_fence(call, args.fence_lock, args.fence_token),
        )
    except RevisionMismatch as lost:
        raise _lost(lost) from None
    except FenceRefused as refused:
        raise _unguarded(call, args, refused) from None
    expires = iso_or_none(entry.expires_at)
    text = f"{line(entry.key)} is set in {line(args.namespace)}, at revision {entry.revision}"
    text += f", until {expires}." if expires else "."
    data = {"key": entry.key, "namespace": args.namespace, "revision": entry.revision, "expires_at": expires}
    return Answer(text, data)


def _fence(call: Call, lock: str | None, token: int | None) -> tuple[str, int] | None:
    if (lock is None) is not (token is None):
        raise Failure("a fence is a lock and its token", "Give both fence_lock and fence_token, or neither.")
    if lock is None or token is None:
        return None
    if call.caller.shared:
        held = call.hub.locks.holders(lock, include_expired=True)
        if any(grant.token == token and not holds(call.caller, grant) for grant in held):
            raise Failure(
                f"the lock {line(lock)!r} is not yours under that token", "Take it with lock_acquire.", code="DENIED"
            )
    return lock, token


def _lost(lost: RevisionMismatch) -> Failure:
    return Failure(
        f"{lost.message.partition(': read')[0]}: nothing was written",
        "Call memory_get, decide again with what is there now, and give its revision as if_revision.",
        code=lost.code,
    )


def _unguarded(call: Call, args: Set | Delete, refused: FenceRefused) -> Failure | FenceRefused:
    """Why a fence was refused, where the lock is held but was not taken for the namespace, as some hubs need it."""
    grants = call.hub.locks.holders(args.fence_lock) if args.fence_lock is not None else []
    if any(grant.token == args.fence_token and args.namespace not in grant.guards for grant in grants):
        space = line(args.namespace)
        return Failure(
            f"the lock {line(args.fence_lock)!r} was not taken for the namespace {space!r}: nothing was written",
            f'Release it, and call lock_acquire with namespaces ["{space}"].',
            code=refused.code,
        )
    return refused


class Delete(Arguments):
    """Of ``memory_delete``."""

    key: Key
    namespace: Namespace = "global"
    if_revision: IfRevision = None
    fence_lock: FenceLock = None
    fence_token: FenceToken = None


class Deleted(Returns):
    """What ``memory_delete`` returns."""

    deleted: bool = Field(description="False when the key was not set.")


@tool(
    "memory_delete",
    title="Delete a value",
    toolset=Toolset.MEMORY,
    takes=Delete,
    returns=Deleted,
    read_only=False,
    destructive=True,
    idempotent=True,
)
def memory_delete(call: Call, args: Delete) -> Answer:
    """Remove a key of the shared memory; harmless when it is not set. Conditions as for memory_set."""
    fence = _fence(call, args.fence_lock, args.fence_token)
    try:
        deleted = call.hub.memory.delete(args.key, args.namespace, if_revision=args.if_revision, fence=fence)
    except RevisionMismatch as lost:
        raise _lost(lost) from None
    except FenceRefused as refused:
        raise _unguarded(call, args, refused) from None
    return Answer(f"{line(args.key)} {'is deleted' if deleted else 'was not set'}.", {"deleted": deleted})


class List(Arguments):
    """Of ``memory_list``."""

    namespace: Namespace = "global"
    prefix: str = Field(default="", max_length=256, description="Only keys that begin so, such as plan/.")
    values: bool = Field(default=False, description="Also the values (the beginnings of long ones), at most 50 a page.")
    limit: int = Field(default=50, ge=1, le=MAX_KEYS)
    after: str | None = Field(default=None, min_length=1, max_length=256, description="next_after of the page before.")


class Listed(Returns):
    """What ``memory_list`` returns."""

    namespace: str
    keys: list[str]
    entries: list[dict[str, Any]] = Field(description="With values: key, value, revision, updated_at, updated_by.")
    next_after: str | None = Field(description="Give it as after for the next page; null at the end.")


@tool(
    "memory_list",
    title="List keys",
    toolset=Toolset.MEMORY,
    takes=List,
    returns=Listed,
    read_only=True,
    idempotent=True,
)
def memory_list(call: Call, args: List) -> Answer:
    """List the keys of a namespace of the shared memory in order, with values if you ask for them. hub_status names
    the namespaces."""
    memory, prefix = call.hub.memory, args.prefix
    if args.values:
        limit = min(args.limit, MAX_VALUES)
        found = memory.entries(args.namespace, prefix, limit=limit + 1, after=args.after)
        keys = [entry.key for entry in found]
    else:
        limit, found = args.limit, []
        keys = memory.list(args.namespace, prefix, limit=limit + 1, after=args.after)
    after = keys[limit - 1] if len(keys) > limit else None
    entries = [_entry(entry) for entry in found[:limit]]
    if args.values:
        lines = [
            f"{line(one['key'])} = {json_line(one['value'], 400)}  (revision {one['revision']})" for one in entries
        ]
    else:
        lines = [line(key) for key in keys[:limit]]
    text = rows(lines, "" if lines else _none(call, args), "" if after is None else f'More: after "{line(after)}".')
    return Answer(text, {"namespace": args.namespace, "keys": keys[:limit], "entries": entries, "next_after": after})


def _none(call: Call, args: List) -> str:
    """That there are no keys, and whether there is the namespace."""
    names = call.hub.memory.namespaces()
    if args.namespace in names:
        return "No such keys."
    known = ", ".join(line(name, 60) for name in names[:MAX_NAMED])
    said = f"The namespace {line(args.namespace)!r} has no keys."
    return f"{said} Those that have: {known}{', …' if len(names) > MAX_NAMED else ''}." if names else said


def _entry(entry: MemoryEntry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "value": bounded(entry.value, MAX_PREVIEW, MAX_PREVIEW),
        "revision": entry.revision,
        "updated_at": iso(entry.updated_at),
        "updated_by": line(entry.updated_by, 128),
    }


TOOLS = (memory_get, memory_set, memory_delete, memory_list, memory_watch)
