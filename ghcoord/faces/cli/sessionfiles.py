"""Files into a session and out of it."""

from __future__ import annotations

import base64
import hashlib
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from ghcoord.errors import Corrupt, GhcoordError, TaskFailed, UsageError
from ghcoord.faces.cli.context import open_hub
from ghcoord.faces.cli.output import note, respond, say
from ghcoord.faces.cli.sessionrun import Id, run_call
from ghcoord.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from ghcoord.hub import Hub

DIRECT = 256 * 1024
"""Bytes that travel in the call itself; larger files go by way of an artifact, which is removed afterwards."""

DIRECT_BACK = 45_000
"""Bytes that come back in a result, whose texts are cut at 64 KB, a third of it base64's."""


def put(
    session_id: Id,
    local: Annotated[str, typer.Argument(metavar="LOCAL", help="A file of yours; '-' reads standard input.")],
    remote: Annotated[str, typer.Argument(metavar="REMOTE", help="Its path in the session's workspace.")],
    mode: Annotated[str | None, typer.Option("--mode", metavar="OCTAL", help="Its permissions, e.g. 755.")] = None,
) -> None:
    """Copy a file into a session's workspace, of any size.

    It is there whole or not at all. Folders above it are made.

    Example:
      ghcoord session put s42 ./data.csv input/data.csv
    """
    permissions = _mode(mode)
    with _opened(local) as source, open_hub() as hub:
        head = source.read(DIRECT + 1)
        if len(head) <= DIRECT:
            args: dict[str, Any] = {
                "path": remote,
                "contents": base64.b64encode(head).decode(),
                "encoding": "base64",
            }
            if permissions is not None:
                args["mode"] = permissions
            data = _call(hub, session_id, "fs.write", args)
            size = int(data["bytes_written"])
        else:
            size = _put_large(hub, session_id, _Chained(head, source), remote, permissions)
    view = {"id": session_id, "path": remote, "size": size}
    respond(view, lambda: say(f"{remote}: {format_size(size)}"))


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


@contextmanager
def _opened(local: str) -> Iterator[BinaryIO]:
    if local == "-":
        yield sys.stdin.buffer
        return
    path = Path(local).expanduser()
    if path.is_dir():
        raise UsageError(f"{local} is a folder: pack it, put the archive, and unpack it with 'session exec ID -- tar'")
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise UsageError(f"cannot read {local}: {error.strerror}") from None


class _Chained:
    """What was read already, then the rest."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int = -1) -> bytes:
        if self._head:
            head = self._head if size < 0 else self._head[:size]
            self._head = self._head[len(head) :]
            return head + self._rest.read() if size < 0 else head
        return self._rest.read(size)


def _put_large(hub: Hub, session_id: str, source: _Chained, remote: str, mode: int | None) -> int:
    name = remote.rpartition("/")[2] or "file"
    artifact = hub.artifacts.put(name, source, session_id=session_id, retention=3600.0)
    try:
        _call(hub, session_id, "artifact.get", {"id": artifact.id, "path": remote})
        if mode is not None:
            _call(hub, session_id, "exec", {"argv": ["chmod", f"{mode:o}", "--", remote]})
    finally:
        _forget(hub, artifact.id)
    return artifact.size


def _forget(hub: Hub, artifact_id: str) -> None:
    """Remove what only carried the file; if that fails, its retention of an hour does."""
    try:
        hub.artifacts.delete(artifact_id)
    except GhcoordError as error:
        note(f"the artifact {artifact_id} that carried the file stays for an hour: {error.message}")


def get(
    session_id: Id,
    remote: Annotated[str, typer.Argument(metavar="REMOTE", help="A file's path in the session's workspace.")],
    local: Annotated[str, typer.Argument(metavar="LOCAL", help="Where to; '-' writes to standard output.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Copy a file out of a session's workspace, of any size.

    Without LOCAL into the present folder, under its own name. Refuses to
    replace a file without --force.

    Example:
      ghcoord session get s42 out/result.json
      ghcoord session get s42 out/plot.png plot.png --force
    """
    target = local or remote.rpartition("/")[2] or "file"
    if target != "-" and Path(target).is_dir():
        target = str(Path(target) / (remote.rpartition("/")[2] or "file"))
    if target != "-" and not force and Path(target).exists():
        raise UsageError(f"{target} is there already: --force replaces it")
    with open_hub() as hub:
        data = _call(hub, session_id, "fs.read", {"path": remote, "encoding": "base64", "limit": DIRECT_BACK})
        content = base64.b64decode(data["contents"])
        size = int(data["size"])
        with _target(target) as out:
            if size <= len(content):
                out.write(content)
            else:
                size = _get_large(hub, session_id, remote, out)
    if target != "-":
        view = {"id": session_id, "path": remote, "local": target, "size": size}
        respond(view, lambda: say(f"{target}: {format_size(size)}"))


@contextmanager
def _target(target: str) -> Iterator[BinaryIO]:
    """The file, which appears when it is complete, or standard output."""
    if target == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(target)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


def _get_large(hub: Hub, session_id: str, remote: str, out: BinaryIO) -> int:
    data = _call(hub, session_id, "artifact.put", {"path": remote})
    artifact_id = str(data["artifact"]["id"])
    try:
        artifact = hub.artifacts.get(artifact_id)
        if artifact is None:
            raise Corrupt(f"the artifact {artifact_id}, which carried the file, is gone")
        digest, size = hashlib.sha256(), 0
        for chunk in hub.artifacts.open(artifact_id):
            digest.update(chunk)
            size += len(chunk)
            out.write(chunk)
        if digest.hexdigest() != artifact.sha256:
            raise Corrupt(f"{remote} arrived damaged: try again")
        return size
    finally:
        _forget(hub, artifact_id)


def _call(hub: Hub, session_id: str, tool: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a call returned; raises ``TaskFailed`` with the tool's own words."""
    _, result = run_call(hub, session_id, tool, args)
    if not result.success:
        raise TaskFailed(result.error)
    return result.data
