"""``ghcoord artifact``: files that outlive the task or session that made them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ghcoord.errors import NotFound, UsageError
from ghcoord.faces.artifact_views import artifact_view
from ghcoord.faces.cli.common import confirm, duration, group, number, verb
from ghcoord.faces.cli.context import invocation, open_hub
from ghcoord.faces.cli.output import fields, respond, say, table
from ghcoord.faces.cli.transfers import guard_terminal, new_file, progress, stdin_bytes, stdout_bytes
from ghcoord.faces.views import iso, iso_or_none
from ghcoord.units import format_size

if TYPE_CHECKING:
    from ghcoord.hub import Hub
    from ghcoord.model.artifact import Artifact

app = group("Keep files in the hub, for other machines and for later.")

Id = Annotated[str, typer.Argument(metavar="ID", help="The artifact's id.")]
Session = Annotated[str | None, typer.Option("--session", metavar="ID", help="Of this session.")]
Task = Annotated[str | None, typer.Option("--task", metavar="ID", help="Of this task.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@verb(app, "put")
def put(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file; '-' reads standard input.")],
    name: Annotated[str | None, typer.Option("--name", help="What it is called; default: the file's name.")] = None,
    session: Session = None,
    task: Task = None,
    retention: Annotated[
        float | None, duration("--retention", help="It goes after this time, 0 never; default as in ghcoord.toml.")
    ] = None,
    content_type: Annotated[
        str | None, typer.Option("--content-type", metavar="TYPE", help="Such as text/plain; default by the name.")
    ] = None,
) -> None:
    """Store a file, and print the id under which it is found.

    The same content is stored once. It lies in the hub, or where 'artifacts' in
    ghcoord.toml says: in a directory or an S3 bucket.

    Example:
      ghcoord artifact put report.pdf --retention 30d
      make test 2>&1 | ghcoord artifact put - --name test.log
    """
    if file == "-" and name is None:
        raise UsageError("standard input has no name: give one with --name")
    called = Path(file).name if name is None else name
    source = stdin_bytes() if file == "-" else Path(file).expanduser()
    size = 0 if file == "-" else _size(Path(file).expanduser())
    with open_hub() as hub, progress(size, "storing") as tell:
        made = hub.artifacts.put(
            called,
            source,
            content_type=content_type,
            session_id=session,
            task_id=task,
            retention=retention,
            tell=tell,
        )
    respond(artifact_view(made), lambda: _show(made))


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _show(artifact: Artifact) -> None:
    owner = [("session", artifact.session_id), ("task", artifact.task_id)]
    until = iso_or_none(artifact.expires_at)
    fields(
        [
            ("id", artifact.id),
            ("name", artifact.name),
            ("size", format_size(artifact.size)),
            ("sha256", artifact.sha256),
            ("type", artifact.content_type),
            *owner,
            ("until", until and until[:19]),
        ]
    )


@verb(app, "get")
def get(
    artifact_id: Id,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="A file or folder; '-' is standard output."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file without asking.")] = False,
) -> None:
    """Write an artifact's content into a file, by default one of its name here.

    A file is there only when all of the content came and is what was stored.
    Standard output gets the content as it comes; exit code 7 at the end means
    that it is not what was stored.

    Example:
      ghcoord artifact get a3k9x0m2p4q1
      ghcoord artifact get a3k9x0m2p4q1 -o copy.pdf --force
    """
    if output == "-" and invocation().json:
        raise UsageError("--json and the content cannot both go to standard output: name a file with -o")
    with open_hub() as hub:
        found = _need(hub, artifact_id)
        if output == "-":
            _to_stdout(hub.artifacts.open(artifact_id), force)
            return
        target = _target(output, found)
        if os.path.lexists(target):
            if target.is_dir():
                raise UsageError(f"{target} is a folder: name a file with -o")
            confirm(f"{target} exists. Replace it?", force, flag="--force")
            force = True
        with progress(found.size, "fetching") as tell:
            _write(target, hub.artifacts.open(artifact_id), tell, replace=force)
    view = {**artifact_view(found), "file": str(target)}
    respond(view, lambda: say(f"{target}: {format_size(found.size)}"))


def _need(hub: Hub, artifact_id: str) -> Artifact:
    found = hub.artifacts.get(artifact_id)
    if found is None:
        raise NotFound(f"there is no artifact {artifact_id!r}")
    return found


def _target(output: str | None, artifact: Artifact) -> Path:
    """Where it goes: the name that its maker gave it never leads out of a folder."""
    if output is None:
        return Path(artifact.file_name)
    path = Path(output).expanduser()
    return path / artifact.file_name if path.is_dir() or output.endswith("/") else path


def _to_stdout(pieces: Iterable[bytes], force: bool) -> None:
    guard_terminal(force)
    out = stdout_bytes()
    for piece in pieces:
        out.write(piece)
    out.flush()


def _write(target: Path, pieces: Iterable[bytes], tell: Callable[[int], None], *, replace: bool) -> None:
    """Write a file, whole or not at all; one that came there meanwhile stays unless it is to be replaced."""
    done = 0
    with new_file(target, replace=replace) as file:
        for piece in pieces:
            file.write(piece)
            done += len(piece)
            tell(done)


@verb(app, "list")
def list_(
    session: Session = None,
    task: Task = None,
    name: Annotated[str | None, typer.Option("--name", help="Only those called so.")] = None,
    limit: Annotated[int | None, number("--limit", least=0, help="The newest N.")] = None,
) -> None:
    """List artifacts, newest first.

    Example:
      ghcoord artifact list --task t42
    """
    with open_hub() as hub:
        found = hub.artifacts.list(session, task, name)[:limit]
    respond(
        [artifact_view(one) for one in found],
        lambda: table(
            ("ID", "NAME", "SIZE", "OF", "CREATED", "UNTIL"),
            [
                (
                    one.id,
                    one.name,
                    format_size(one.size),
                    one.session_id or one.task_id,
                    iso(one.created_at)[:19],
                    (iso_or_none(one.expires_at) or "-")[:10],
                )
                for one in found
            ],
            keep=("ID",),
            right=("SIZE",),
            empty="no artifacts",
        ),
    )


@verb(app, "delete")
def delete(artifact_id: Id, yes: Yes = False) -> None:
    """Remove an artifact, and its content unless another has the same.

    The hub's history keeps what the hub held until 'ghcoord gc' cuts it.

    Example:
      ghcoord artifact delete a3k9x0m2p4q1 --yes
    """
    with open_hub() as hub:
        found = _need(hub, artifact_id)
        confirm(f"{found.name}, {format_size(found.size)}, goes for good. Go on?", yes)
        if not hub.artifacts.delete(artifact_id):
            raise NotFound(f"there is no artifact {artifact_id!r} any more")
    respond(artifact_view(found), lambda: say(f"{artifact_id} deleted"))


@verb(app, "clean")
def clean() -> None:
    """Remove artifacts whose time is over, and what interrupted uploads left.

    Workers do so by themselves.

    Example:
      ghcoord artifact clean
    """
    with open_hub() as hub:
        removed = hub.artifacts.clean()
    respond({"removed": removed}, lambda: say(f"{removed} removed"))
