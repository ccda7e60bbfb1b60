"""``ghcoord mcp token``: who may use the MCP server over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.errors import UsageError
from ghcoord.faces.cli.common import confirm, duration, group, verb
from ghcoord.faces.cli.output import note, respond, say, table

if TYPE_CHECKING:
    from ghcoord.faces.mcp.http.tokens import TokenFile, TokenRecord

app = group("Give and take tokens for the MCP server over HTTP.")

File = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="Where tokens are kept; default one in your state folder."),
]

DAYS = 86400.0


def _file(given: Path | None) -> TokenFile:
    from ghcoord.bootstrap import token_file
    from ghcoord.clock import SystemRuntime
    from ghcoord.faces.mcp.http.tokens import TokenFile

    return TokenFile(given or token_file(), SystemRuntime())


def token_view(record: TokenRecord) -> dict[str, Any]:
    """A token's record with stable keys; without the token, which nobody keeps."""
    from datetime import UTC, datetime

    from ghcoord.faces.views import iso

    return {
        "id": record.id,
        "user": record.user,
        "workspace": record.workspace,
        "resource": record.resource,
        "read_only": record.read_only,
        "created_at": iso(datetime.fromtimestamp(record.created_at, UTC)),
        "expires_at": iso(datetime.fromtimestamp(record.expires_at, UTC)),
    }


@verb(app, "create")
def create(
    user: Annotated[str, typer.Option("--user", metavar="USER", help="Whose calls these are.")],
    workspace: Annotated[
        str, typer.Option("--workspace", metavar="W", help="In which workspace; default the server's.")
    ] = "",
    expires: Annotated[float, duration("--expires", help="How long it is good; default 90d.")] = 90 * DAYS,
    resource: Annotated[
        str | None,
        typer.Option(
            "--resource",
            metavar="URL",
            help="The server it is for, no other; default port 8321 of this machine.",
        ),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Good for the tools only that change nothing.")
    ] = False,
    token_file: File = None,
) -> None:
    """Make a token and print it, this once: only its digest is kept.

    A client sends it as 'Authorization: Bearer TOKEN'. It is good for one
    server, named by its URL as 'ghcoord mcp --http' prints it. A server that
    runs takes the token at once.

    Example:
      ghcoord mcp token create --user ann
      ghcoord mcp token create --user bob --workspace docs --expires 30d \\
        --resource https://mcp.example.org/mcp
    """
    from ghcoord.faces.mcp.http.urls import DEFAULT_RESOURCE, check_url

    if expires <= 0:
        raise UsageError("a token lasts more than 0s: give --expires 30d")
    made = _file(token_file).create(
        user,
        workspace=workspace,
        resource=check_url(resource or DEFAULT_RESOURCE, "resource"),
        lasts=expires,
        read_only=read_only,
    )
    view = token_view(made.record)

    def plain() -> None:
        note(f"token {made.record.id} of {user} for {made.record.resource}, until {view['expires_at']}:")
        say(made.secret)

    respond({**view, "token": made.secret}, plain)


@verb(app, "list")
def list_(token_file: File = None) -> None:
    """List the tokens there are, expired ones too.

    Example:
      ghcoord mcp token list
    """
    from ghcoord.clock import SystemRuntime

    found = _file(token_file).list()
    now = SystemRuntime().now()
    respond(
        [token_view(one) for one in found],
        lambda: table(
            ("ID", "USER", "WORKSPACE", "MAY", "FOR", "EXPIRES"),
            [
                (
                    one.id,
                    one.user,
                    one.workspace or None,
                    "read" if one.read_only else "all",
                    one.resource,
                    "expired" if one.expires_at <= now else token_view(one)["expires_at"][:10],
                )
                for one in found
            ],
            keep=("ID", "FOR", "EXPIRES"),
            empty="no tokens",
        ),
    )


@verb(app, "revoke")
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The token's id, as 'list' shows it.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    token_file: File = None,
) -> None:
    """Take a token back. A server that runs refuses it from the next request on.

    Example:
      ghcoord mcp token revoke 8j2kq0x1mz
    """
    from ghcoord.errors import NotFound

    file = _file(token_file)
    found = next((one for one in file.list() if one.id == token_id), None)
    if found is None:
        raise NotFound(f"there is no token {token_id[:64]!r} in {file.path}: see ghcoord mcp token list")
    confirm(f"Revoke the token {found.id} of {found.user}?", yes)
    gone = file.revoke(found.id)
    respond(token_view(gone), lambda: say(f"revoked {gone.id}"))
