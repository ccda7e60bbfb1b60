"""Checkpoints of a session on the command line: made, listed, compared, written to a file, gone back to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.errors import NotFound, UsageError
from ghcoord.faces import session_views as views
from ghcoord.faces.cli.common import confirm
from ghcoord.faces.cli.context import invocation, open_hub
from ghcoord.faces.cli.output import clean_text, note, respond, say, table
from ghcoord.faces.cli.sessionrun import Id, fields_of, need_session
from ghcoord.faces.cli.transfers import busy, guard_terminal, new_file, stdout_bytes
from ghcoord.faces.views import iso
from ghcoord.units import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ghcoord.hub import Diff, Hub
    from ghcoord.model.session import Checkpoint

FORMS = ("tar.zst", "tar.gz")


def checkpoint(
    session_id: Id,
    name: Annotated[str, typer.Option("--name", metavar="TEXT", help="What it is called.")] = "",
    list_: Annotated[bool, typer.Option("--list", help="List the session's checkpoints; make none.")] = False,
    delete: Annotated[
        str | None, typer.Option("--delete", metavar="C", help="Delete this checkpoint; make none.")
    ] = None,
    export: Annotated[
        str | None, typer.Option("--export", metavar="C", help="Write this checkpoint to --output; make none.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="A .tar.zst or .tar.gz; '-' is stdout.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Save a session's files, settings and exact packages; list, delete or export what was saved.

    Any worker can restore what was published. The environment itself is not
    saved: it is built again from its lock. The last ten are kept.

    Example:
      ghcoord session checkpoint s42 --name 'before the upgrade'
      ghcoord session checkpoint s42 --list
      ghcoord session checkpoint s42 --export c1 -o work.tar.zst
    """
    if sum((list_, delete is not None, export is not None, bool(name))) > 1:
        raise UsageError("give one of --name, --list, --delete and --export")
    if (output is None) is not (export is None):
        raise UsageError("--export and --output go together")
    if output == "-" and invocation().json:
        raise UsageError("--json and the archive cannot both go to standard output: name a file")
    with open_hub() as hub:
        session = need_session(hub, session_id)
        named = delete if delete is not None else export
        if named is not None and session.checkpoint(named) is None:
            raise _no_checkpoint(session_id, named)
        if list_:
            found = hub.sessions.checkpoints(session_id)
            respond([views.checkpoint_view(one, session_id) for one in found], lambda: _show(found))
        elif delete is not None:
            _delete(hub, session_id, delete, yes)
        elif export is not None and output is not None:
            _export(hub, session_id, export, output, yes)
        else:
            made = _made(hub, session_id, name)
            respond(
                views.checkpoint_view(made, session_id),
                lambda: say(f"{made.id}: {_files(made.files)}, {format_size(made.size)}{_where(made)}"),
            )


def _made(hub: Hub, session_id: str, name: str) -> Checkpoint:
    from ghcoord.model.session import Checkpoint

    with busy("saving"):
        data = fields_of(hub, session_id, "session.checkpoint", {"name": name} if name else {})
    return Checkpoint.model_validate(data["checkpoint"])


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"


def _where(checkpoint: Checkpoint) -> str:
    return "" if checkpoint.published else f", only on {checkpoint.worker or 'its worker'}"


def _show(found: Sequence[Checkpoint]) -> None:
    table(
        ("ID", "CREATED", "FILES", "SIZE", "PKGS", "WHERE", "NAME"),
        [
            (
                one.id,
                iso(one.created_at)[:19],
                one.files,
                format_size(one.size),
                len(one.packages),
                "hub" if one.published else one.worker,
                one.name or None,
            )
            for one in found
        ],
        keep=("ID",),
        right=("FILES", "SIZE", "PKGS"),
        empty="no checkpoints",
    )


def _delete(hub: Hub, session_id: str, checkpoint_id: str, yes: bool) -> None:
    confirm(f"Delete the checkpoint {checkpoint_id} of session {session_id}?", yes)
    hub.sessions.delete_checkpoint(session_id, checkpoint_id)
    respond({"id": checkpoint_id, "session_id": session_id, "deleted": True}, lambda: say(f"{checkpoint_id} deleted"))


def _export(hub: Hub, session_id: str, checkpoint_id: str, output: str, yes: bool) -> None:
    if output == "-":
        guard_terminal(yes)
        out = stdout_bytes()
        hub.sessions.export_checkpoint(session_id, checkpoint_id, out, FORMS[0])
        out.flush()
        return
    form = next((form for form in FORMS if output.endswith(f".{form}")), None)
    if form is None:
        raise UsageError(f"--output must end in .tar.zst or .tar.gz, which says how it is packed: got {output[-40:]!r}")
    target = Path(output).expanduser()
    there = os.path.lexists(target)
    if there:
        confirm(f"{output} exists. Replace it?", yes)
    with new_file(target, replace=there) as file, busy("exporting"):
        hub.sessions.export_checkpoint(session_id, checkpoint_id, file, form)
    size = target.stat().st_size
    view = {"id": checkpoint_id, "session_id": session_id, "output": output, "size": size}
    respond(view, lambda: say(f"{output}: {format_size(size)}"))


def _no_checkpoint(session_id: str, checkpoint_id: str | None) -> NotFound:
    if checkpoint_id is None:
        return NotFound(
            f"the session {session_id} has no checkpoint: 'ghcoord session checkpoint {session_id}' makes one"
        )
    return NotFound(
        f"the session {session_id} has no checkpoint {checkpoint_id[:64]!r}: "
        f"see 'ghcoord session checkpoint {session_id} --list'"
    )


def restore(
    session_id: Id,
    checkpoint_id: Annotated[str | None, typer.Argument(metavar="CHECKPOINT", help="Default: the latest.")] = None,
    new_id: Annotated[
        str | None, typer.Option("--as", metavar="ID", help="Into a new session of this id; the old one goes on.")
    ] = None,
    worker: Annotated[str | None, typer.Option("--worker", metavar="W", help="On this worker.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Go back to a checkpoint, on the same worker or another one.

    What the session has now is gone afterwards: it asks. With --as the session
    stays as it is, and a new one starts from the checkpoint.

    Example:
      ghcoord session restore s42 c1 --yes
      ghcoord session restore s42 --as s42-again
    """
    with open_hub() as hub:
        session = need_session(hub, session_id)
        if not session.checkpoints or (checkpoint_id is not None and session.checkpoint(checkpoint_id) is None):
            raise _no_checkpoint(session_id, checkpoint_id)
        if new_id is None:
            what = f"checkpoint {checkpoint_id}" if checkpoint_id else "its latest checkpoint"
            confirm(f"Replace the files of session {session_id} by {what}?", yes)
        session = hub.sessions.restore(session_id, checkpoint_id, new_id=new_id, worker=worker)
    where = f"on {session.worker_id}" if session.worker_id else "once a worker has room"
    respond(
        views.session_view(session),
        lambda: say(f"session {session.id} starts {where} from {session.restore_from} with its next call"),
    )


def diff(
    session_id: Id,
    a: Annotated[str | None, typer.Argument(metavar="A", help="A checkpoint; default: the latest.")] = None,
    b: Annotated[str | None, typer.Argument(metavar="B", help="Another one; default: the workspace as it is.")] = None,
    text: Annotated[bool, typer.Option("--text", help="Show what changed in small text files.")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 1 when there is a difference.")] = False,
) -> None:
    """Show what differs between two checkpoints, or a checkpoint and the workspace.

    Example:
      ghcoord session diff s42
      ghcoord session diff s42 c1 c2 --text
    """
    with open_hub() as hub:
        saved = need_session(hub, session_id).checkpoints
        if a is None and not saved:
            raise _no_checkpoint(session_id, None)
        for named in (a, b):
            if named is not None and all(one.id != named for one in saved):
                raise _no_checkpoint(session_id, named)
        found = _compared(hub, session_id, saved[-1].id if a is None else a, b, text)
    view: dict[str, Any] = {"id": session_id, **found.model_dump(mode="json")}
    respond(view, lambda: _show_diff(view))
    if exit_code and not found.empty:
        raise typer.Exit(1)


def _compared(hub: Hub, session_id: str, a: str, b: str | None, text: bool) -> Diff:
    """Two checkpoints as the hub has them, or one and the workspace, at which its worker looks."""
    from ghcoord.hub import Diff

    if b is not None:
        return hub.sessions.diff(session_id, a, b, text=text)
    with busy("comparing"):
        return Diff.model_validate(fields_of(hub, session_id, "session.diff", {"a": a, "text": text})["diff"])


_SIGNS = (("added", "A"), ("removed", "D"), ("changed", "M"))


def _show_diff(view: dict[str, Any]) -> None:
    lines = [f"{sign} {one['path']}" for name, sign in _SIGNS for one in view[name]]
    lines += [f"{sign} package {one}" for name, sign in _SIGNS for one in view["packages"][name]]
    for line in lines:
        say(line)
    for one in view["changed"]:
        if one.get("text"):
            print(clean_text(one["text"].rstrip("\n")))
    if not lines and not invocation().json:
        note("no difference")
