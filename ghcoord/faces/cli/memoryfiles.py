"""``ghcoord memory export`` and ``import``: keys as lines of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.errors import GhcoordError, UsageError
from ghcoord.faces import views
from ghcoord.faces.cli.common import confirm, group, parse_object, verb
from ghcoord.faces.cli.context import open_hub
from ghcoord.faces.cli.memorybulk import File, Yes, opened
from ghcoord.faces.cli.output import respond, say, to_json

if TYPE_CHECKING:
    from ghcoord.coord.memory.memory import Imported, SetKey
    from ghcoord.hub import Hub

app = group("Keys as lines of JSON.")

Namespaces = Annotated[
    list[str] | None, typer.Option("--namespace", "-n", metavar="NS", help="This namespace; several times for several.")
]

MAX_LINE = 4_000_000
"""Characters of one line of an import."""


@verb(app, "export")
def export(
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="Where to write; '-' is standard output.")] = "-",
    namespace: Namespaces = None,
    yes: Yes = False,
) -> None:
    """Write keys and values as JSON, a line each, as of one moment.

    All namespaces, unless --namespace names some; exits 3 when one of them has
    no keys. ttl is what is left of it, in seconds.

    Example:
      ghcoord memory export --namespace global
      ghcoord memory export backup.jsonl
    """
    with open_hub() as hub:
        lines = hub.memory.export(namespace)
        if file == "-":
            for line in lines:
                print(to_json(line, None))
            return
        if os.path.exists(file):
            confirm(f"Replace the file {file}?", yes)
        count = _write(Path(file), lines)
    respond({"file": file, "keys": count}, lambda: say(f"{count} keys written to {file}"))


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> int:
    """Write a file of lines, whole or not at all; returns how many."""
    part = path.with_name(f"{path.name}.part")
    count = 0
    try:
        with open(part, "w", encoding="utf-8") as file:
            for line in lines:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                count += 1
        part.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
    return count


@verb(app, "import")
def import_(
    file: File,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Set keys anew that have another value.")] = False,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Keep what has another value.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be set.")] = False,
    yes: Yes = False,
) -> None:
    """Set keys from a file that 'memory export' wrote.

    Every line is looked at before anything is written. Without --overwrite or
    --skip-existing a key that has another value stops the import: exit code 4.
    Goes in commits of 500 keys; after an interruption, do it again. Asks on a
    terminal.

    Example:
      ghcoord memory import backup.jsonl --dry-run
      ghcoord memory import backup.jsonl --skip-existing
    """
    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing exclude each other")
    existing = "overwrite" if overwrite else "skip" if skip_existing else "refuse"
    with open_hub() as hub:
        found = _lines(hub, file)
        planned = hub.memory.bring_in(found, existing=existing, dry_run=True)
        if dry_run:
            done = planned
        else:
            confirm(f"Import {len(found)} keys: {_summed(planned)}?", yes, unattended=True)
            done = _import(hub, found, existing)
    word = "would be " if dry_run else ""
    respond(views.import_view(done, dry_run=dry_run), lambda: say(f"{len(found)} keys {word}imported: {_summed(done)}"))


def _import(hub: Hub, lines: list[SetKey], existing: str) -> Imported:
    from ghcoord.faces.cli.batch import progress_bar

    with progress_bar(len(lines), "importing") as progress:
        return hub.memory.bring_in(lines, existing=existing, progress=progress)


def _summed(done: Imported) -> str:
    return (
        f"{done.created} new, {done.overwritten} overwritten, {done.skipped} skipped, "
        f"{done.unchanged} there with the same value"
    )


def _lines(hub: Hub, name: str) -> list[SetKey]:
    """The keys of an import, all looked at; raises ``UsageError`` naming the first line that cannot be taken."""
    found: list[SetKey] = []
    seen: dict[tuple[str, str], int] = {}
    with opened(name) as file:
        number = 0
        while text := file.readline(MAX_LINE + 1):
            number += 1
            if not text.strip():
                continue
            try:
                if len(text) > MAX_LINE:
                    raise UsageError(f"longer than {MAX_LINE} characters")
                one = hub.memory.parse_line(parse_object(text, "the line"))
                first = seen.setdefault((one.namespace, one.key), number)
                if first != number:
                    raise UsageError(f"the key {one.key!r} is there twice, first in line {first}")
            except GhcoordError as mistake:
                raise UsageError(f"{name}, line {number}: {mistake.message}") from None
            found.append(one)
    return found
