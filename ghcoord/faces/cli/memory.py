"""``ghcoord memory``: values by key."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from ghcoord.errors import NotFound, WaitTimeout
from ghcoord.faces import views
from ghcoord.faces.cli import memorybulk, memoryfiles
from ghcoord.faces.cli.common import duration, group, number, parse_json, verb
from ghcoord.faces.cli.context import invocation, open_hub
from ghcoord.faces.cli.memorybulk import Fence, Namespace, parse_fence, read_stdin, shown
from ghcoord.faces.cli.output import clean, clean_text, emit_line, note, respond, say, table

if TYPE_CHECKING:
    from ghcoord.coord.memory.memory import Change
    from ghcoord.hub import Hub

app = group("Share values by key: any JSON, with compare-and-set and fenced writes.")

Key = Annotated[str, typer.Argument(help="The key.")]
IfRevision = Annotated[
    int | None,
    number("--if-revision", least=0, metavar="R", help="Only if the key is at this revision; 0: only if not set."),
]


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
    guard = parse_fence(fence)
    text = read_stdin() if value == "-" else value
    content = parse_json(text, "the value") if json_value else text
    with open_hub() as hub:
        entry = hub.memory.set(key, content, namespace, if_revision=if_revision, ttl=ttl, fence=guard)
    respond(views.memory_view(entry, namespace), lambda: say(f"{entry.key} set, revision {entry.revision}"))


@verb(app, "get")
def get(
    key: Key,
    namespace: Namespace = "global",
    revision: Annotated[
        int | None, number("--revision", least=1, metavar="R", help="As it was at this revision of the namespace.")
    ] = None,
) -> None:
    """Print a key's value: a text as it is, anything else as JSON.

    Control characters that could disturb a terminal show as escapes; --json
    has the exact value. Exits 3 when the key is not set, or was not at
    --revision, or when the history no longer goes back to it.

    Example:
      ghcoord memory get color
    """
    with open_hub() as hub:
        entry = hub.memory.entry(key, namespace, revision=revision)
    if entry is None:
        raise NotFound(f"the key {key!r} is not set in the namespace {namespace!r}")
    respond(views.memory_view(entry, namespace), lambda: print(clean_text(shown(entry.value))))


@verb(app, "delete")
def delete(key: Key, namespace: Namespace = "global", if_revision: IfRevision = None, fence: Fence = None) -> None:
    """Remove a key. Exits 3 when it was not set.

    Example:
      ghcoord memory delete color
    """
    guard = parse_fence(fence)
    with open_hub() as hub:
        deleted = hub.memory.delete(key, namespace, if_revision=if_revision, fence=guard)
    if not deleted:
        raise NotFound(f"the key {key!r} is not set in the namespace {namespace!r}")
    respond({"key": key, "namespace": namespace, "deleted": True}, lambda: say(f"{key} deleted"))


@verb(app, "list")
def list_(
    prefix: Annotated[str, typer.Argument(help="Only keys that start with this.")] = "",
    namespace: Namespace = "global",
    limit: Annotated[int | None, number("--limit", least=1, help="At most N keys.")] = None,
    after: Annotated[str | None, typer.Option("--after", metavar="KEY", help="Only keys that sort behind KEY.")] = None,
) -> None:
    """List keys with their values and revisions, sorted by key.

    Example:
      ghcoord memory list config/
      ghcoord memory list --limit 100 --after config/z
    """
    with open_hub() as hub:
        entries = hub.memory.entries(namespace, prefix, limit=limit, after=after)
    respond(
        [views.memory_view(entry, namespace) for entry in entries],
        lambda: table(
            ("KEY", "VALUE", "REVISION", "UPDATED", "BY"),
            [
                (entry.key, shown(entry.value), entry.revision, views.iso(entry.updated_at)[:19], entry.updated_by)
                for entry in entries
            ],
            keep=("KEY",),
            right=("REVISION",),
            empty="no keys",
        ),
    )
    if limit is not None and len(entries) == limit and not invocation().json:
        note(f"perhaps more: --after {quote(entries[-1].key)}")


@verb(app, "history")
def history(
    key: Key,
    namespace: Namespace = "global",
    limit: Annotated[int, number("--limit", least=1, help="The newest N versions.")] = 20,
    since: Annotated[int, number("--since", least=0, metavar="R", help="Only from this revision on.")] = 0,
) -> None:
    """Show what a key was set to, when and by whom, newest first.

    That goes back as far as the hub's history is kept. Exits 3 when there is
    nothing.

    Example:
      ghcoord memory history color --limit 5
    """
    with open_hub() as hub:
        found = hub.memory.history(key, namespace, limit=limit, since=since)
    if not found:
        raise NotFound(
            f"the history of the namespace {namespace!r} has nothing of {key!r}"
            + (f" from revision {since} on" if since else "")
        )
    rows = [
        (one.revision or None, views.iso(one.at)[:19], one.by, one.kind, None if one.deleted else shown(one.value))
        for one in found
    ]
    respond(
        [views.version_view(one, namespace) for one in found],
        lambda: table(
            ("REVISION", "AT", "BY", "WHAT", "VALUE"), rows, keep=("REVISION",), right=("REVISION",), empty="nothing"
        ),
    )


@verb(app, "watch")
def watch(
    key: Annotated[str, typer.Argument(help="The key, or with --prefix the beginning of several.")],
    namespace: Namespace = "global",
    prefix: Annotated[bool, typer.Option("--prefix", help="Watch every key that starts with KEY.")] = False,
    since: Annotated[
        int | None, number("--since", least=0, metavar="R", help="Begin with this revision instead of now.")
    ] = None,
    timeout: Annotated[float | None, duration("--timeout", help="End with exit code 9 after this time.")] = None,
    count: Annotated[int | None, number("--count", least=1, help="End after N changes.")] = None,
) -> None:
    """Print each change of a key, one line each, until interrupted.

    With --json a line is a JSON object: kind is set, deleted, expired or
    resync. The last of several quick changes is never missed. --since takes
    the highest revision that was printed and begins with what has it, so that
    nothing is missed; where the history does not go back that far, resync
    comes and then every key.

    Example:
      ghcoord memory watch config/ --prefix --count 1 --timeout 5m
    """
    with open_hub() as hub:
        if sys.stderr.isatty() and not invocation().json:
            what = f"what starts with {key!r}" if prefix else f"{key!r}"
            note(f"watching {what} in {namespace}, Ctrl-C ends it")
        for seen, change in enumerate(_changes(hub, key, namespace, prefix, since, timeout), start=1):
            if invocation().json:
                emit_line(views.change_view(change, namespace))
            else:
                value = f" = {shown(change.value)}" if change.kind == "set" else ""
                print(clean(f"{change.kind} {change.key}{value} (revision {change.revision})"), flush=True)
            if seen == count:
                return


def _changes(
    hub: Hub, key: str, namespace: str, prefix: bool, since: int | None, timeout: float | None
) -> Iterator[Change]:
    """Changes as they come; raises ``WaitTimeout`` at the deadline, and what the hub raises."""
    arrived: list[Change | Exception] = []
    bell = hub.runtime.event()

    def arrive(one: Change | Exception) -> None:
        arrived.append(one)
        bell.set()

    stop = hub.memory.watch(key, arrive, namespace, prefix=prefix, since=since, on_error=arrive)
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


@verb(app, "sweep")
def sweep(
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", metavar="NS", help="This namespace only; else all.")
    ] = None,
) -> None:
    """Remove values whose time is over. Writes do so too, a few at a time.

    Example:
      ghcoord memory sweep
    """
    with open_hub() as hub:
        count = hub.memory.sweep(namespace)
    respond({"namespace": namespace, "removed": count}, lambda: say(f"{count} removed"))


app.add_typer(memorybulk.app)
app.add_typer(memoryfiles.app)
