"""``ghcoord memory``: values by key."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.errors import NotFound, UsageError, WaitTimeout
from ghcoord.faces import views
from ghcoord.faces.cli.common import duration, group, number, parse_json, verb
from ghcoord.faces.cli.context import invocation, open_hub
from ghcoord.faces.cli.output import clean, clean_text, emit_line, note, respond, say, table, to_json

if TYPE_CHECKING:
    from ghcoord.coord.memory import Change
    from ghcoord.hub import Hub

app = group("Share values by key: any JSON, with compare-and-set and fenced writes.")

Key = Annotated[str, typer.Argument(help="The key.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", metavar="NS", help="The namespace.")]
IfRevision = Annotated[
    int | None,
    number("--if-revision", least=0, metavar="R", help="Only if the key is at this revision; 0: only if not set."),
]
Fence = Annotated[
    str | None,
    typer.Option("--fence", metavar="LOCK:TOKEN", help="Only while the lock is held under this fencing token."),
]

MAX_INPUT = 4_000_000
"""Characters of standard input that are read; a value may have a quarter of that."""


def _fence(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    lock, _, token = text.rpartition(":")
    if not lock or not token.isascii() or not token.isdigit():
        raise UsageError("--fence takes LOCK:TOKEN, as in deploy:42")
    return lock, int(token)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value, None)


@verb(app, "set")
def set_(
    key: Key,
    value: Annotated[str, typer.Argument(help="The value; '-' reads standard input.")],
    json_value: Annotated[bool, typer.Option("--json-value", help="VALUE is JSON; else it is a text.")] = False,
    namespace: Namespace = "global",
    if_revision: IfRevision = None,
    ttl: Annotated[float | None, duration("--ttl", help="The value ends after this time.")] = None,
    fence: Fence = None,
) -> None:
    """Set a key to a text, or with --json-value to any JSON.

    Exits 4 when --if-revision does not match and 5 when --fence is outdated;
    nothing is written then.

    Example:
      ghcoord memory set color blue
      ghcoord memory set limits '{"cpu": 2}' --json-value --ttl 1h
      ghcoord memory set release 1.4 --fence deploy:42
    """
    guard = _fence(fence)
    text = _read_stdin() if value == "-" else value
    content = parse_json(text, "the value") if json_value else text
    with open_hub() as hub:
        entry = hub.memory.set(key, content, namespace, if_revision=if_revision, ttl=ttl, fence=guard)
    respond(views.memory_view(entry, namespace), lambda: say(f"{entry.key} set, revision {entry.revision}"))


def _read_stdin() -> str:
    try:
        text = sys.stdin.read(MAX_INPUT + 1)
    except UnicodeDecodeError:
        raise UsageError("standard input is not UTF-8 text") from None
    if len(text) > MAX_INPUT:
        raise UsageError(f"standard input has more than {MAX_INPUT} characters: keep large data elsewhere")
    return text


@verb(app, "get")
def get(key: Key, namespace: Namespace = "global") -> None:
    """Print a key's value: a text as it is, anything else as JSON.

    Control characters that could disturb a terminal show as escapes; --json
    has the exact value. Exits 3 when the key is not set.

    Example:
      ghcoord memory get color
    """
    with open_hub() as hub:
        entry = hub.memory.entry(key, namespace)
    if entry is None:
        raise NotFound(f"the key {key!r} is not set in the namespace {namespace!r}")
    respond(views.memory_view(entry, namespace), lambda: print(clean_text(_shown(entry.value))))


@verb(app, "delete")
def delete(key: Key, namespace: Namespace = "global", if_revision: IfRevision = None, fence: Fence = None) -> None:
    """Remove a key. Exits 3 when it was not set.

    Example:
      ghcoord memory delete color
    """
    guard = _fence(fence)
    with open_hub() as hub:
        deleted = hub.memory.delete(key, namespace, if_revision=if_revision, fence=guard)
    if not deleted:
        raise NotFound(f"the key {key!r} is not set in the namespace {namespace!r}")
    respond({"key": key, "namespace": namespace, "deleted": True}, lambda: say(f"{key} deleted"))


@verb(app, "list")
def list_(
    prefix: Annotated[str, typer.Argument(help="Only keys that start with this.")] = "",
    namespace: Namespace = "global",
) -> None:
    """List keys with their values and revisions.

    Example:
      ghcoord memory list config/
    """
    with open_hub() as hub:
        entries = hub.memory.entries(namespace, prefix)
    respond(
        [views.memory_view(entry, namespace) for entry in entries],
        lambda: table(
            ("KEY", "VALUE", "REVISION", "UPDATED", "BY"),
            [
                (entry.key, _shown(entry.value), entry.revision, views.iso(entry.updated_at)[:19], entry.updated_by)
                for entry in entries
            ],
            keep=("KEY",),
            right=("REVISION",),
            empty="no keys",
        ),
    )


@verb(app, "watch")
def watch(
    key: Annotated[str, typer.Argument(help="The key, or with --prefix the beginning of several.")],
    namespace: Namespace = "global",
    prefix: Annotated[bool, typer.Option("--prefix", help="Watch every key that starts with KEY.")] = False,
    timeout: Annotated[float | None, duration("--timeout", help="End with exit code 9 after this time.")] = None,
    count: Annotated[int | None, number("--count", least=1, help="End after N changes.")] = None,
) -> None:
    """Print each change of a key, one line each, until interrupted.

    With --json a line is a JSON object: kind is set, deleted, expired or
    resync. The last of several quick changes is never missed.

    Example:
      ghcoord memory watch config/ --prefix --count 1 --timeout 5m
    """
    with open_hub() as hub:
        if sys.stderr.isatty() and not invocation().json:
            what = f"what starts with {key!r}" if prefix else f"{key!r}"
            note(f"watching {what} in {namespace}, Ctrl-C ends it")
        for seen, change in enumerate(_changes(hub, key, namespace, prefix, timeout), start=1):
            if invocation().json:
                emit_line(views.change_view(change, namespace))
            else:
                value = f" = {_shown(change.value)}" if change.kind == "set" else ""
                print(clean(f"{change.kind} {change.key}{value} (revision {change.revision})"), flush=True)
            if seen == count:
                return


def _changes(hub: Hub, key: str, namespace: str, prefix: bool, timeout: float | None) -> Iterator[Change]:
    """Changes as they come; raises ``WaitTimeout`` at the deadline, and what the hub raises."""
    arrived: list[Change | Exception] = []
    bell = hub.runtime.event()

    def arrive(one: Change | Exception) -> None:
        arrived.append(one)
        bell.set()

    stop = hub.memory.watch(key, arrive, namespace, prefix=prefix, on_error=arrive)
    assert callable(stop)
    deadline = None if timeout is None else hub.runtime.monotonic() + timeout
    try:
        while True:
            bell.clear()
            while arrived:
                one = arrived.pop(0)
                if isinstance(one, Exception):
                    raise one
                yield one
            left = None if deadline is None else deadline - hub.runtime.monotonic()
            if left is not None and left <= 0:
                raise WaitTimeout(f"no further change of {key!r} within {timeout:g} s")
            # Not for ever, so that an interrupt is noticed on every platform.
            bell.wait(1.0 if left is None else min(left, 1.0))
    finally:
        stop()


@verb(app, "sync")
def sync(
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", metavar="NS", help="This namespace only; else all.")
    ] = None,
) -> None:
    """Make sure that what was written has arrived, fetch what is new, and show the revisions.

    Example:
      ghcoord memory sync
    """
    with open_hub() as hub:
        revisions = hub.memory.sync(namespace)
    respond(
        {"namespaces": revisions},
        lambda: table(
            ("NAMESPACE", "REVISION"),
            sorted(revisions.items()),
            keep=("NAMESPACE",),
            right=("REVISION",),
            empty="no namespaces",
        ),
    )
