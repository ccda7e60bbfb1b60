"""``ghcoord session``: workspaces with an environment on a worker, made, looked at and removed."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from ghcoord.errors import GhcoordError, NotFound, UsageError
from ghcoord.faces import session_views as views
from ghcoord.faces.cli import sessioncheckpoints, sessionfiles, sessionrun, sessionshell
from ghcoord.faces.cli.common import (
    RunCommand,
    confirm,
    duration,
    group,
    number,
    one_of,
    parse_object,
    parse_pairs,
    verb,
)
from ghcoord.faces.cli.context import open_hub
from ghcoord.faces.cli.output import fields, respond, say, table, to_json
from ghcoord.faces.cli.sessionrun import Id, need_session
from ghcoord.faces.cli.transfers import busy
from ghcoord.faces.views import iso, iso_or_none
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from ghcoord.hub import Hub
    from ghcoord.model.session import Session, Usage

app = group("Work in a sandboxed workspace on a worker, call by call.")

TIERS = ("full", "partial", "none")
STATES = ("new", "active", "parked", "lost")


class ExecCommand(RunCommand):
    """``session exec ID ls -la`` means what ``session exec ID -- ls -la`` does."""


@verb(app, "create")
def create(
    session_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Its id; default: one that is made up.")
    ] = None,
    workspace_id: Annotated[
        str | None, typer.Option("--workspace-id", metavar="W", help="What it works on: yours to choose.")
    ] = None,
    user_id: Annotated[str | None, typer.Option("--user-id", metavar="U", help="Whose it is: yours to choose.")] = None,
    meta: Annotated[list[str] | None, typer.Option("--meta", metavar="K=V", help="Metadata; k:=json.")] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", metavar="K=V", help="A variable for all its commands.")
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="K=V", help="A limit, e.g. memory_mb=512, timeout=5m, active_tasks=2."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="HOST", help="A host that its commands may reach over https; several."),
    ] = None,
    sandbox: Annotated[
        str,
        typer.Option("--sandbox", metavar="TIER", parser=one_of(TIERS), help="The least sandbox: full, partial, none."),
    ] = "full",
    worker: Annotated[str | None, typer.Option("--worker", metavar="ID", help="On this worker.")] = None,
    require: Annotated[
        list[str] | None, typer.Option("--require", metavar="CAP", help="A label or task type of the worker.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="SOURCE", help="A checkpoint to start with: SESSION:CHECKPOINT, or an exported file."
        ),
    ] = None,
) -> None:
    """Make a session on a worker that has room for one, and print its id.

    Its workspace and Python environment are made with its first call. Exits 7
    when no worker has room, or none has the sandbox that it needs.

    Example:
      ghcoord session create --limit memory_mb=512 --env PYTHONPATH=src
      ghcoord session create --id try-2 --from build:c1
      ghcoord session create --from work.tar.zst
    """
    from ghcoord.model.limits import parse_limits

    variables = {name: str(value) for name, value in parse_pairs(env, "--env").items()}
    archive = _archive(source)
    with open_hub() as hub, archive or nullcontext() as packed:
        session = hub.sessions.create(
            session_id,
            user_id=user_id,
            workspace_id=workspace_id,
            metadata=parse_pairs(meta, "--meta"),
            env=variables,
            limits=parse_limits(parse_pairs(limit, "--limit")),
            sandbox=sandbox,
            requirements={"required_capabilities": tuple(require)} if require else None,
            allow=tuple(allow or ()),
            worker=worker,
            checkpoint=None if source is None or packed is not None else _source(source),
        )
        if packed is not None:
            session = _filled(hub, session, packed, worker)
    respond(views.session_view(session), lambda: say(session.id))


def _archive(source: str | None) -> BinaryIO | None:
    """The exported checkpoint that ``--from`` names, if it names a file."""
    if source is None or not source.endswith((".tar.zst", ".tar.gz")):
        return None
    try:
        return Path(source).expanduser().open("rb")
    except FileNotFoundError:
        raise NotFound(f"there is no file {source!r}") from None
    except OSError as error:
        raise UsageError(f"cannot read {source!r}: {error.strerror or error}") from None


def _source(text: str) -> tuple[str, str]:
    session, colon, checkpoint = text.partition(":")
    if not (session and colon and checkpoint):
        raise UsageError(f"--from takes SESSION:CHECKPOINT or a .tar.zst or .tar.gz: got {text[:40]!r}")
    return session, checkpoint


def _filled(hub: Hub, session: Session, packed: BinaryIO, worker: str | None) -> Session:
    """The new session with the files of an archive, or none at all."""
    try:
        with busy("reading the archive"):
            saved = hub.sessions.import_checkpoint(session.id, packed)
        return hub.sessions.restore(session.id, saved.id, worker=worker)
    except BaseException:
        with suppress(GhcoordError):
            hub.sessions.destroy(session.id)
        raise


@verb(app, "list")
def list_(
    worker: Annotated[str | None, typer.Option("--worker", metavar="ID", help="Only those on this worker.")] = None,
    user: Annotated[str | None, typer.Option("--user", metavar="U", help="Only this user's.")] = None,
    workspace: Annotated[str | None, typer.Option("--workspace-id", metavar="W", help="Only those of W.")] = None,
    state: Annotated[
        str | None,
        typer.Option("--state", metavar="S", parser=one_of(STATES), help=f"One of {', '.join(STATES)}."),
    ] = None,
    count: Annotated[bool, typer.Option("--count", help="Print only how many there are.")] = False,
    limit: Annotated[int | None, number("--limit", least=0, help="The newest N.")] = None,
) -> None:
    """List sessions, oldest first.

    Example:
      ghcoord session list --worker w1 --state active
      ghcoord session list --count
    """
    chosen = {"worker": worker, "user": user, "workspace": workspace, "state": state}
    with open_hub() as hub:
        if count:
            total = hub.sessions.count(**chosen)
            respond({"count": total}, lambda: say(total))
            return
        found = hub.sessions.list(**chosen)
    if limit is not None:
        found = found[max(0, len(found) - limit) :]
    respond(
        [views.session_view(one) for one in found],
        lambda: table(
            ("ID", "STATE", "WORKER", "ACTIVE", "CALLS", "CKPTS", "WORKSPACE"),
            [
                (
                    one.id,
                    one.state,
                    one.worker_id,
                    iso(one.last_active)[:19],
                    one.calls,
                    len(one.checkpoints),
                    one.workspace_id or None,
                )
                for one in found
            ],
            keep=("ID",),
            right=("CALLS", "CKPTS"),
            empty="no sessions",
        ),
    )


@verb(app, "show")
def show(session_id: Id) -> None:
    """Show a session: where it is, what it uses and may use, its last calls.

    What it uses is as its worker last published it. Exits 3 when there is no
    such session.

    Example:
      ghcoord session show s42
    """
    with open_hub() as hub:
        session = need_session(hub, session_id)
    respond(views.session_view(session), lambda: _show(session))


def _show(session: Session) -> None:
    restored = None
    if session.restored_from is not None:
        restored = f"checkpoint {session.restored_from} at {iso_or_none(session.restored_at)}"
    limits = session.limits.model_dump(exclude_none=True)
    fields(
        [
            ("session", session.id),
            ("state", f"{session.state}: {session.lost_because}" if session.lost_because else session.state),
            ("worker", session.worker_id),
            ("workspace", session.workspace_id or None),
            ("user", session.user_id or None),
            ("created", f"{iso(session.created_at)} by {session.created_by}"),
            ("active", iso(session.last_active)),
            ("sandbox", f"{session.sandbox} or better" if session.sandbox != "full" else "full"),
            ("limits", ", ".join(f"{name}={value:g}" for name, value in limits.items()) or None),
            ("variables", ", ".join(sorted(session.env)) or None),
            ("may reach", ", ".join(session.allow) or None),
            ("restored", restored),
            ("uses", _usage(session.usage)),
            ("checkpoints", ", ".join(one.id for one in session.checkpoints) or None),
            ("calls", f"{session.calls}, {session.active_tasks} now" if session.active_tasks else session.calls),
            ("metadata", to_json(session.metadata, None) if session.metadata else None),
        ]
    )
    for call in session.recent:
        how = "ok" if call.success else call.error or "failed"
        say(f"  {iso(call.at)[11:19]} {call.tool} {format_duration(call.duration)} {how}")


def _usage(usage: Usage) -> str | None:
    parts = [
        f"{value:g} {unit}"
        for value, unit in (
            (usage.memory_mb, "MiB of memory"),
            (usage.cpu_seconds, "s of CPU"),
            (usage.disk_mb, "MiB on disk"),
            (usage.processes, "processes"),
        )
        if value is not None
    ]
    return ", ".join(parts) or None


@verb(app, "metadata")
def metadata(
    session_id: Id,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="K=V", help="Set a key; k:=json.")] = None,
    replace: Annotated[
        str | None, typer.Option("--replace", metavar="JSON", help="Replace all of it by this object.")
    ] = None,
) -> None:
    """Print a session's metadata, or change it.

    Example:
      ghcoord session metadata s42 --set goal='pass the tests'
      ghcoord session metadata s42 --replace '{}'
    """
    if set_ and replace is not None:
        raise UsageError("give one of --set and --replace")
    with open_hub() as hub:
        if replace is not None:
            found = hub.sessions.replace_metadata(session_id, parse_object(replace, "--replace"))
        elif set_:
            found = hub.sessions.merge_metadata(session_id, parse_pairs(set_, "--set"))
        else:
            found = hub.sessions.metadata(session_id)
    respond({"id": session_id, "metadata": found}, lambda: print(to_json(found)))


@verb(app, "destroy")
def destroy(
    session_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The sessions' ids.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """End sessions: their files, environments and checkpoints are removed.

    Calls that wait are cancelled, those that run are stopped. Artifacts stay.

    Example:
      ghcoord session destroy s42 --yes
    """
    wanted = list(dict.fromkeys(session_ids))
    with open_hub() as hub:
        for session_id in wanted:
            need_session(hub, session_id)
        confirm(f"Remove {_named(wanted)} with all files and checkpoints?", yes)
        for session_id in wanted:
            hub.sessions.destroy(session_id)
    gone = [{"id": session_id, "destroyed": True} for session_id in wanted]
    respond(gone, lambda: say(f"{_named(wanted)} destroyed"))


def _named(ids: list[str]) -> str:
    return f"session {ids[0]}" if len(ids) == 1 else f"{len(ids)} sessions ({', '.join(ids[:5])})"


@verb(app, "clean")
def clean(
    max_age: Annotated[
        float, duration("--max-age", help="Without a call for this long; default 30m.", show_default=False)
    ] = 1800.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which; remove none.")] = False,
    limit: Annotated[int | None, number("--limit", least=1, help="At most N, the oldest first.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Destroy sessions that nobody has used for a while. Workers do so by themselves.

    Example:
      ghcoord session clean --max-age 2h --dry-run
    """
    with open_hub() as hub:
        stale = hub.sessions.stale(max_age)[:limit]
        if dry_run or not stale:
            answer = {"stale": stale, "cleaned": 0}
            respond(answer, lambda: say(f"{len(stale)} stale{': ' if stale else ''}{', '.join(stale[:10])}"))
            return
        confirm(f"Remove {_named(stale)} with all files and checkpoints?", yes)
        cleaned = hub.sessions.clean(max_age, only=stale)
    respond({"stale": stale, "cleaned": cleaned}, lambda: say(f"{cleaned} destroyed"))


verb(app, "exec", cls=ExecCommand)(sessionrun.exec_)
verb(app, "shell")(sessionshell.shell)
verb(app, "put")(sessionfiles.put)
verb(app, "get")(sessionfiles.get)
verb(app, "checkpoint")(sessioncheckpoints.checkpoint)
verb(app, "restore")(sessioncheckpoints.restore)
verb(app, "diff")(sessioncheckpoints.diff)
