"""``ghcoord memory``: many keys in one commit, whole namespaces, and what all its verbs share."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from ghcoord.errors import GhcoordError, NotFound, UsageError
from ghcoord.faces import views
from ghcoord.faces.cli.common import confirm, duration, group, parse_json, verb
from ghcoord.faces.cli.context import open_hub
from ghcoord.faces.cli.output import respond, say, table, to_json

if TYPE_CHECKING:
    from ghcoord.coord.memory.memory import CheckKey, DeleteKey, SetKey

app = group("Many keys at once.")

Namespace = Annotated[str, typer.Option("--namespace", "-n", metavar="NS", help="The namespace.")]
Fence = Annotated[
    str | None,
    typer.Option("--fence", metavar="LOCK:TOKEN", help="Only while the lock is held under this fencing token."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
File = Annotated[str, typer.Argument(metavar="FILE", help="The file; '-' is standard input.")]

MAX_INPUT = 4_000_000
"""Characters of standard input that ``memory set`` reads; a value may have a quarter of that."""

MAX_FILE = 64_000_000
"""Characters of a file that becomes one commit: as many bytes fit into one."""

SHOWN = 5
"""Keys that a question names."""

_FIELDS = {
    "set": {"op", "key", "value", "namespace", "if_revision", "ttl"},
    "delete": {"op", "key", "namespace", "if_revision"},
    "check": {"op", "key", "namespace", "if_revision"},
}


def shown(value: Any) -> str:
    """A value for people: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else to_json(value, None)


def parse_fence(text: str | None) -> tuple[str, int] | None:
    """``LOCK:TOKEN`` as a pair; raises ``UsageError``."""
    if text is None:
        return None
    lock, _, token = text.rpartition(":")
    if not lock or not token.isascii() or not token.isdigit():
        raise UsageError("--fence takes LOCK:TOKEN, as in deploy:42")
    return lock, int(token)


def read_stdin(limit: int = MAX_INPUT) -> str:
    """All of standard input; raises ``UsageError`` beyond ``limit`` characters."""
    try:
        text = sys.stdin.read(limit + 1)
    except UnicodeDecodeError:
        raise UsageError("standard input is not UTF-8 text") from None
    if len(text) > limit:
        raise UsageError(f"standard input has more than {limit} characters: keep large data elsewhere")
    return text


@contextmanager
def opened(name: str) -> Iterator[TextIO]:
    """The file ``name`` to read, ``-`` for standard input; raises ``UsageError``."""
    try:
        if name == "-":
            yield sys.stdin
            return
        with open(name, encoding="utf-8") as file:
            yield file
    except UnicodeDecodeError:
        raise UsageError(f"{'standard input' if name == '-' else name} is not UTF-8 text") from None
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror or error}") from None


def _read(name: str) -> Any:
    """The JSON document in a file."""
    with opened(name) as file:
        text = file.read(MAX_FILE + 1)
    if len(text) > MAX_FILE:
        raise UsageError(f"{name} has more than {MAX_FILE} characters: they would not fit into one commit")
    return parse_json(text, "standard input" if name == "-" else name)


def _named(keys: Sequence[str]) -> str:
    """``3 keys (a, b, c)``, the first few by name."""
    more = ", …" if len(keys) > SHOWN else ""
    return f"{len(keys)} key{'' if len(keys) == 1 else 's'} ({', '.join(keys[:SHOWN])}{more})"


# -- one commit


@verb(app, "set-many")
def set_many(
    file: File,
    namespace: Namespace = "global",
    if_revision: Annotated[
        list[str] | None,
        typer.Option("--if-revision", metavar="KEY=R", help="Only if KEY is at revision R; 0: only if not set."),
    ] = None,
    ttl: Annotated[float | None, duration("--ttl", help="The values end after this time.")] = None,
    fence: Fence = None,
    yes: Yes = False,
) -> None:
    """Set the keys of a JSON object to its values, in one commit or not at all.

    Exits 4 when an --if-revision does not match, 5 when --fence is outdated,
    2 when all of it does not fit into one commit; nothing is written then.
    Asks on a terminal.

    Example:
      ghcoord memory set-many values.json --if-revision color=0
      printf '{"color": "blue", "size": 3}' | ghcoord memory set-many -
    """
    guard = parse_fence(fence)
    conditions = _conditions(if_revision)
    values = _read(file)
    if not isinstance(values, dict) or not values:
        raise UsageError('the file must be a JSON object of keys and values, as in {"color": "blue"}')
    with open_hub() as hub:
        confirm(f"Set {_named(list(values))} in the namespace {namespace!r}?", yes, unattended=True)
        done = hub.memory.set_many(values, namespace, if_revisions=conditions, ttl=ttl, fence=guard)
    entries = list(done.values())
    respond(
        [views.memory_view(entry, namespace) for entry in entries],
        lambda: say(f"{_named([entry.key for entry in entries])} set, revision {entries[0].revision}"),
    )


def _conditions(pairs: Iterable[str] | None) -> dict[str, int]:
    found = {}
    for pair in pairs or ():
        key, _, revision = pair.rpartition("=")
        if not key or not revision.isascii() or not revision.isdigit():
            raise UsageError(f"--if-revision takes KEY=REVISION, as in color=0: got {pair[:40]!r}")
        found[key] = int(revision)
    return found


@verb(app, "delete-many")
def delete_many(
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", help="The keys.")] = None,
    prefix: Annotated[str | None, typer.Option("--prefix", metavar="P", help="Every key that starts with P.")] = None,
    namespace: Namespace = "global",
    fence: Fence = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    yes: Yes = False,
) -> None:
    """Remove several keys in one commit or not at all, after showing which.

    Exits 3 when none of them is set.

    Example:
      ghcoord memory delete-many color size --yes
      ghcoord memory delete-many --prefix config/ --dry-run
    """
    guard = parse_fence(fence)
    if bool(keys) is (prefix is not None):
        raise UsageError("name the keys, or give --prefix")
    with open_hub() as hub:
        if prefix is not None:
            found = hub.memory.list(namespace, prefix)
        else:
            found = [key for key in keys or () if hub.memory.entry(key, namespace) is not None]
        if not found and not dry_run:
            raise NotFound(f"none of these keys is set in the namespace {namespace!r}")
        if not dry_run:
            confirm(f"Remove {_named(found)} from the namespace {namespace!r}?", yes)
            found = hub.memory.delete_many(found, namespace, fence=guard)
    word = "would be removed" if dry_run else "removed"
    respond(
        {"namespace": namespace, "keys": found, "deleted": 0 if dry_run else len(found), "dry_run": dry_run},
        lambda: say(f"{_named(found)} {word}" if found else f"0 keys {word}"),
    )


@verb(app, "apply")
def apply(file: File, fence: Fence = None, yes: Yes = False) -> None:
    """Carry out a list of changes in one commit, or none of them.

    FILE is a JSON array of objects with op (set, delete or check), key, and
    where they apply value, namespace, if_revision and ttl (seconds). All
    conditions are judged on the state before. Exits 4 when one of them does
    not hold. Asks on a terminal.

    Example:
      ghcoord memory apply changes.json
    """
    guard = parse_fence(fence)
    ops = _ops(_read(file))
    with open_hub() as hub:
        confirm(f"Carry out {_counted(ops)}: {_named([op.key for op in ops])}?", yes, unattended=True)
        results = hub.memory.apply(ops, fence=guard)
    found = []
    for op, result in zip(ops, results, strict=True):
        name = _name(op)
        entry = None if isinstance(result, bool) or result is None else views.memory_view(result, op.namespace)
        deleted = result if isinstance(result, bool) else None
        found.append({"op": name, "key": op.key, "namespace": op.namespace, "deleted": deleted, "entry": entry})
    respond(found, lambda: say(f"{_counted(ops)} done"))


def _name(op: SetKey | DeleteKey | CheckKey) -> str:
    return type(op).__name__.removesuffix("Key").lower()


def _counted(ops: Sequence[SetKey | DeleteKey | CheckKey]) -> str:
    """``2 set, 1 check``."""
    names = [_name(op) for op in ops]
    return ", ".join(f"{names.count(name)} {name}" for name in _FIELDS if name in names)


def _ops(value: Any) -> list[SetKey | DeleteKey | CheckKey]:
    if not isinstance(value, list) or not value:
        raise UsageError("the file must be a JSON array of changes, such as {op: set, key: color, value: blue}")
    found = []
    for number, one in enumerate(value, start=1):
        try:
            found.append(_op(one))
        except GhcoordError as mistake:
            raise UsageError(f"change {number}: {mistake.message}") from None
    return found


def _op(one: Any) -> SetKey | DeleteKey | CheckKey:
    from ghcoord.hub import CheckKey, DeleteKey, SetKey

    kind = one.get("op") if isinstance(one, dict) else None
    if kind not in _FIELDS:
        raise UsageError(f"op must be one of {', '.join(_FIELDS)}")
    for name in one:
        if name not in _FIELDS[kind]:
            raise UsageError(f"{name[:40]!r} is no field of {kind}: one of {', '.join(sorted(_FIELDS[kind]))}")
    for name in ("key", *(["value"] if kind == "set" else []), *(["if_revision"] if kind == "check" else [])):
        if name not in one:
            raise UsageError(f"the field {name!r} is missing")
    for name, kinds in (("key", str), ("namespace", str), ("if_revision", int), ("ttl", int | float)):
        if one.get(name) is not None and (isinstance(one[name], bool) or not isinstance(one[name], kinds)):
            raise UsageError(f"{name} must be a {'text' if kinds is str else 'number'}")
    if one["key"] is None or one.get("namespace", "") is None:
        raise UsageError("key and namespace must be texts")
    given = {name: one[name] for name in one if name != "op"}
    if kind == "set":
        return SetKey(**given)
    return DeleteKey(**given) if kind == "delete" else CheckKey(**given)


# -- namespaces


@verb(app, "namespaces")
def namespaces() -> None:
    """List the namespaces that hold keys: how many, and the bytes of their records.

    Values whose time is over count until they are removed.

    Example:
      ghcoord memory namespaces
    """
    with open_hub() as hub:
        found = hub.memory.usage()
    respond(
        [views.usage_view(one) for one in found],
        lambda: table(
            ("NAMESPACE", "KEYS", "BYTES", "REVISION", "UPDATED"),
            [(one.namespace, one.keys, one.bytes, one.revision, views.iso(one.updated_at)[:19]) for one in found],
            keep=("NAMESPACE",),
            right=("KEYS", "BYTES", "REVISION"),
            empty="no namespaces",
        ),
    )


@verb(app, "drop")
def drop(
    namespace: Annotated[str, typer.Argument(metavar="NAMESPACE", help="The namespace.")], yes: Yes = False
) -> None:
    """Remove every key of a namespace, after saying how many there are.

    Its branch stays, and with it the history. Exits 3 when it has no keys.

    Example:
      ghcoord memory drop scratch --yes
    """
    with open_hub() as hub:
        keys = hub.memory.list(namespace)
        if not keys:
            raise NotFound(f"the namespace {namespace!r} has no keys")
        confirm(f"Remove all keys of the namespace {namespace!r}: {_named(keys)}?", yes)
        count = hub.memory.drop_namespace(namespace)
    respond({"namespace": namespace, "removed": count}, lambda: say(f"{count} removed"))
