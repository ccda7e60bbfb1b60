"""Files into a session and out of it."""

from __future__ import annotations

import base64
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from ghcoord.errors import Corrupt, GhcoordError, NotFound, UsageError
from ghcoord.faces.cli.context import invocation, open_hub
from ghcoord.faces.cli.output import note, respond, say
from ghcoord.faces.cli.sessionrun import Id, fields_of, need_session
from ghcoord.faces.cli.transfers import (
    busy,
    guard_terminal,
    joined,
    new_file,
    print_content,
    progress,
    stdin_bytes,
    stdout_bytes,
)
from ghcoord.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ghcoord.hub import Hub
    from ghcoord.model.artifact import Artifact

DIRECT = 256 * 1024
"""Bytes that travel in the call itself; larger files go by way of an artifact, which is removed afterwards."""

DIRECT_BACK = 45_000
"""Bytes that come back in a result, whose texts are cut at 64 KB, a third of it base64's."""

CARRIER = "carried"
"""Name of an artifact that carries a file."""

CARRIED = 3600.0
"""Seconds after which an artifact that carries a file goes, should nobody remove it before."""


def put(
    session_id: Id,
    local: Annotated[str, typer.Argument(metavar="LOCAL", help="A file of yours; '-' reads standard input.")],
    remote: Annotated[
        str, typer.Argument(metavar="REMOTE", help="Its path in the workspace, or a folder/; default: its name.")
    ] = "",
    mode: Annotated[
        str | None, typer.Option("--mode", metavar="OCTAL", help="Its permissions; default 755 for programs, else 644.")
    ] = None,
) -> None:
    """Copy a file into a session's workspace.

    It is there whole or not at all, and takes the place of one that was there.
    Folders above it are made. Up to 100 MiB, or what artifacts.max_mb says.

    Example:
      ghcoord session put s42 ./data.csv input/data.csv
    """
    permissions = _mode(mode)
    target = _remote(local, remote)
    with _opened(local) as source, open_hub() as hub:
        need_session(hub, session_id)
        if permissions is None and local != "-" and os.fstat(source.fileno()).st_mode & 0o100:
            permissions = 0o755
        head = source.read(DIRECT + 1)
        if len(head) <= DIRECT:
            sent = {"path": target, "contents": base64.b64encode(head).decode(), "encoding": "base64"}
            data = fields_of(hub, session_id, "fs.write", {**sent, **_permissions(permissions)})
            size = int(data["bytes_written"])
        else:
            whole = joined(head, source) if local == "-" else Path(local).expanduser()
            size = _put_large(hub, session_id, whole, target, permissions)
    view = {"id": session_id, "path": target, "size": size}
    respond(view, lambda: say(f"{target}: {format_size(size)}"))


def _remote(local: str, remote: str) -> str:
    """The path in the workspace, checked as the worker will do; a folder gets the file's own name."""
    from ghcoord.execution.files.paths import workspace_path

    if remote in ("", ".") or remote.endswith("/"):
        if local == "-":
            raise UsageError("standard input has no name: give its path in the workspace")
        remote += f"/{Path(local).name}" if remote == "." else Path(local).name
    return workspace_path(remote)


def _mode(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        value = int(text, 8)
    except ValueError:
        value = -1
    if not 0 <= value <= 0o777:
        raise UsageError(f"--mode takes octal permissions from 0 to 777, not {text[:20]!r}")
    return value


def _permissions(mode: int | None) -> dict[str, int]:
    return {} if mode is None else {"mode": mode}


@contextmanager
def _opened(local: str) -> Iterator[BinaryIO]:
    if local == "-":
        yield stdin_bytes()
        return
    path = Path(local).expanduser()
    if path.is_dir():
        raise UsageError(
            f"{local} is a folder: 'tar c {local} | ghcoord session put ID - a.tar', "
            "then 'ghcoord session exec ID tar xf a.tar'"
        )
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise NotFound(f"there is no file {local!r}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {local!r}: {getattr(error, 'strerror', None) or error}") from None
    with file:
        yield file


def _put_large(hub: Hub, session_id: str, source: BinaryIO | Path, remote: str, mode: int | None) -> int:
    size = source.stat().st_size if isinstance(source, Path) else None
    with progress(size, "storing") as tell:
        artifact = hub.artifacts.put(
            CARRIER,
            source,
            session_id=session_id,
            retention=hub.artifacts.at_most(CARRIED),
            tell=tell,
        )
    try:
        with busy("the worker fetches it", artifact.size):
            fields_of(hub, session_id, "artifact.get", {"id": artifact.id, "path": remote})
            if mode is not None:
                fields_of(hub, session_id, "fs.write", {"path": remote, "contents": "", "append": True, "mode": mode})
    finally:
        _forget(hub, artifact.id)
    return artifact.size


def _forget(hub: Hub, artifact_id: str) -> None:
    """Remove what only carried the file; if that fails, its retention does."""
    try:
        hub.artifacts.delete(artifact_id)
    except GhcoordError as error:
        note(f"the artifact {artifact_id}, which carried the file, stays for a while: {error.message}")


def get(
    session_id: Id,
    remote: Annotated[str, typer.Argument(metavar="REMOTE", help="A file's path in the session's workspace.")],
    local: Annotated[
        str, typer.Argument(metavar="LOCAL", help="A file or folder; '-' writes to standard output.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Copy a file out of a session's workspace, here under its own name unless LOCAL says more.

    Refuses to replace a file without --force. Up to 100 MiB, or what
    artifacts.max_mb says.

    Example:
      ghcoord session get s42 out/result.json
      ghcoord session get s42 out/plot.png plot.png --force
    """
    from ghcoord.execution.files.paths import workspace_path

    remote = workspace_path(remote)
    if local == "-" and invocation().json:
        raise UsageError("--json and the file cannot both go to standard output: name a file")
    target = None if local == "-" else _local(local, remote.rpartition("/")[2], force)
    with open_hub() as hub:
        need_session(hub, session_id)
        data = fields_of(hub, session_id, "fs.read", {"path": remote, "encoding": "base64", "limit": DIRECT_BACK})
        content = base64.b64decode(data["contents"])
        size = int(data["size"])
        if target is None and size <= len(content):
            print_content(content, force)
        elif target is None:
            guard_terminal(force)
            size = _get_large(hub, session_id, remote, size, stdout_bytes())
        else:
            with new_file(target, replace=force) as out:
                if size <= len(content):
                    out.write(content)
                else:
                    size = _get_large(hub, session_id, remote, size, out)
    if target is not None:
        view = {"id": session_id, "path": remote, "local": str(target), "size": size}
        respond(view, lambda: say(f"{target}: {format_size(size)}"))


def _local(local: str, name: str, force: bool) -> Path:
    """The file to write; a folder gets one of ``name``, which is one part of a path. Raises ``UsageError``."""
    path = Path(local).expanduser() if local else Path(name)
    if local and (path.is_dir() or local.endswith("/")):
        path /= name
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {str(path.parent)!r}")
    if os.path.lexists(path) and not force:
        raise UsageError(f"{path} is there already: --force replaces it")
    return path


def _get_large(hub: Hub, session_id: str, remote: str, size: int, out: BinaryIO) -> int:
    with busy("the worker stores it", size):
        data = fields_of(hub, session_id, "artifact.put", {"path": remote})
    artifact_id = str(data["artifact"]["id"])
    try:
        artifact = hub.artifacts.get(artifact_id)
        if artifact is None:
            raise Corrupt(f"the artifact {artifact_id}, which carried the file, is gone")
        with progress(artifact.size, "fetching") as tell:
            _copy(hub, artifact, out, tell)
        return artifact.size
    finally:
        _forget(hub, artifact_id)


def _copy(hub: Hub, artifact: Artifact, out: BinaryIO, tell: Callable[[int], None]) -> None:
    done = 0
    for piece in hub.artifacts.open(artifact.id):
        out.write(piece)
        done += len(piece)
        tell(done)
    out.flush()
