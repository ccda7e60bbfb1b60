"""``ghcoord mcp``: what the MCP server can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ghcoord.errors import UsageError
from ghcoord.faces.cli.common import Group, duration, number, one_of
from ghcoord.faces.cli.context import invocation
from ghcoord.faces.cli.mcptokens import app as tokens
from ghcoord.faces.cli.workeroptions import LogLevel, Sandbox, UnsafeNoSandbox

NAME_STYLES = ("plain", "dotted")

app = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None, invoke_without_command=True)
app.add_typer(tokens, name="token")

_LOCAL = {
    "max_sessions": "--max-sessions",
    "slots": "--slots",
    "session_ttl": "--session-ttl",
    "sandbox": "--sandbox",
    "unsafe_no_sandbox": "--unsafe-no-sandbox",
}
"""What concerns the worker of this process, which there is none of with ``--remote``."""

_HTTP = {
    "max_sessions_per_user": "--max-sessions-per-user",
    "no_auth": "--no-auth",
    "token_file": "--token-file",
    "jwks": "--jwks",
    "issuer": "--issuer",
    "public_url": "--public-url",
    "allow_host": "--allow-host",
    "allow_origin": "--allow-origin",
}
"""What concerns HTTP only."""


@app.callback()
def mcp(
    ctx: typer.Context,
    http: Annotated[
        str | None,
        typer.Option("--http", metavar="HOST:PORT", help="Serve streamable HTTP there; default: stdin and stdout."),
    ] = None,
    remote: Annotated[
        bool, typer.Option("--remote", help="Sessions run on the hub's workers; default: in this process.")
    ] = False,
    toolsets: Annotated[
        str | None,
        typer.Option(
            "--toolsets",
            metavar="A,B",
            help="Only these: sessions, workspace, tasks, locks, memory, workers, artifacts, hub.",
        ),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Only tools that change nothing.")] = False,
    tool_names: Annotated[
        str,
        typer.Option(
            "--tool-names",
            metavar="STYLE",
            parser=one_of(NAME_STYLES),
            help="plain (fs_read), or dotted (fs.read), which several clients refuse.",
        ),
    ] = "plain",
    user: Annotated[
        str | None, typer.Option("--user", metavar="U", help="Whose sessions these are; default: user@host.")
    ] = None,
    workspace_id: Annotated[
        str | None,
        typer.Option("--workspace-id", metavar="W", help="Keeps projects of a user apart; default: default."),
    ] = None,
    max_sessions: Annotated[
        int | None, number("--max-sessions", least=1, most=10_000, help="Sessions at a time; default 5.")
    ] = None,
    max_sessions_per_user: Annotated[
        int | None,
        number(
            "--max-sessions-per-user",
            least=1,
            most=10_000,
            help="Of each user's token; default half of what there is room for.",
        ),
    ] = None,
    slots: Annotated[
        int | None,
        number("--slots", least=0, most=10_000, help="Tasks of the hub at a time, 0: sessions only; default 1."),
    ] = None,
    session_ttl: Annotated[
        float | None, duration("--session-ttl", help="Unused this long, a session ends; default 30m.")
    ] = None,
    sandbox: Sandbox = None,
    unsafe_no_sandbox: UnsafeNoSandbox = False,
    audit_log: Annotated[
        str | None,
        typer.Option("--audit-log", metavar="FILE", help="Write each call as a line of JSON; - is standard error."),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="HTTP without tokens: on a loopback address only.")
    ] = False,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="Tokens of 'ghcoord mcp token create'; default: your own."),
    ] = None,
    jwks: Annotated[
        Path | None, typer.Option("--jwks", metavar="FILE", help="Take JWTs signed with these keys instead.")
    ] = None,
    issuer: Annotated[str | None, typer.Option("--issuer", metavar="URL", help="Who issues these JWTs.")] = None,
    public_url: Annotated[
        str | None, typer.Option("--public-url", metavar="URL", help="What clients call the server: behind a proxy.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", metavar="HOST", help="Another Host header to accept; several.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option("--allow-origin", metavar="URL", help="A web page that may call the server; several."),
    ] = None,
    log_level: LogLevel = "warn",
) -> None:
    """Offer the hub to agents: an MCP server.

    Without --http it serves the one client that started it, until that closes
    its input. Sessions run in this process, which is a worker of the hub, in
    the sandbox that 'ghcoord worker start' would take; with --remote they run
    on the hub's other workers. Where no hub is named it makes one of your own.

    On a hub that is shared it runs tasks of others too, --slots of them at a
    time: with --slots 0 it has the sessions of its own client alone.

    Needs the extras: pip install 'ghcoord[mcp,worker]'.

    Example:
      ghcoord mcp --workspace-id shop
      ghcoord mcp --hub github:me/hub --remote --toolsets tasks,locks,memory
      ghcoord mcp --http 127.0.0.1:8321
    """
    if ctx.invoked_subcommand is not None:
        return
    invocation().quiet = True
    given = ctx.params
    local = [name for key, name in _LOCAL.items() if given[key] is not None and given[key] is not False]
    if remote and local:
        raise UsageError(f"{local[0]} concerns a worker in this process: leave it or --remote out")
    if session_ttl is not None and session_ttl <= 0:
        raise UsageError("--session-ttl must be longer than 0s: a session would end before its first call")
    if http is None and (wrong := [name for key, name in _HTTP.items() if given[key]]):
        raise UsageError(f"{wrong[0]} goes with --http")
    if no_auth and max_sessions_per_user is not None:
        raise UsageError("--max-sessions-per-user goes with tokens: without them there is one user")
    if http is not None and not no_auth and (user is not None or workspace_id is not None):
        raise UsageError("--user and --workspace-id go without tokens: these say whose calls they are")
    from ghcoord.faces.cli.mcprun import HttpOptions, WorkerOptions, run_server

    run_server(
        toolsets=None if toolsets is None else [one.strip() for one in toolsets.split(",")],
        read_only=read_only,
        tool_names=tool_names,
        user=user,
        workspace_id=workspace_id,
        audit_log=audit_log,
        log_level=log_level,
        worker=None if remote else WorkerOptions(max_sessions, slots, session_ttl, sandbox, unsafe_no_sandbox),
        http=None
        if http is None
        else HttpOptions(
            http,
            no_auth,
            token_file,
            jwks,
            issuer,
            public_url,
            tuple(allow_host or ()),
            tuple(allow_origin or ()),
            max_sessions_per_user,
        ),
    )
