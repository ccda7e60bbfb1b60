"""``ghcoord init`` and ``ghcoord doctor``: make a hub, and look for problems."""

from __future__ import annotations

import os
import re
import shlex
from typing import Annotated

import typer

from ghcoord.errors import NoHub, UsageError
from ghcoord.faces.cli.common import confirm
from ghcoord.faces.cli.context import hub_url, invocation, open_hub, say_wait, settings
from ghcoord.faces.cli.output import note, respond, say

DEFAULT_HUB = "./hub.git"


def init(
    path: Annotated[
        str | None,
        typer.Argument(metavar="HUB", help=f"A folder or URL; default: as --hub, else {DEFAULT_HUB}."),
    ] = None,
    create: Annotated[
        bool, typer.Option("--create", help="Make the repository on GitHub, a private one, if there is none.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before using a repository of files.")] = False,
) -> None:
    """Make a hub in a folder, on GitHub or in any Git remote, or say that it is there.

    In a repository with files of its own it asks first: the hub's branches come
    to stand beside that one's.

    Example:
      ghcoord init ./hub.git
      ghcoord init github:me/hub --create
    """
    import ghcoord.bootstrap as bootstrap

    if path is not None and invocation().hub not in (None, path):
        raise UsageError("the hub is named twice: give HUB or --hub")
    try:
        where = hub_url() if path is None else path
    except NoHub:
        where = DEFAULT_HUB
    _ask_about_files(where, yes)
    hub, new = bootstrap.create(where, settings(), on_wait=say_wait, make_repository=create, tell=note)
    with hub:
        view = {"hub": hub.url, "id": hub.id, "created": new}

    def plain() -> None:
        say(f"made a hub at {hub.url}" if new else f"there is a hub at {hub.url} already, nothing was changed")
        if new and path is not None:
            say(f"  export GHCOORD_HUB={shlex.quote(hub.url)}   # or pass --hub each time")

    respond(view, plain)


def _ask_about_files(where: str, yes: bool) -> None:
    """Before an ordinary repository becomes a hub: say what it gets, and ask."""
    from ghcoord.bootstrap import folder_of

    folder = folder_of(where)
    if folder is None or not os.path.isdir(folder / ".git") or os.path.isdir(folder / ".git" / "ghcoord"):
        return
    prefix = settings().prefix
    kind = "branches" if prefix.startswith("refs/heads/") else "refs"
    confirm(
        f"{folder} is a repository with files of its own. A hub adds {kind} below "
        f"{prefix.removeprefix('refs/heads/')} to it, which 'git push --all' would push too, and the folder "
        ".git/ghcoord; its files and branches stay as they are. Make a hub in it?",
        yes,
    )


def doctor(
    adopt: Annotated[
        bool, typer.Option("--adopt", help="After history went back: take the hub as it is now for true.")
    ] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Show what can be put right, ask, and do it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --repair: only show it.")] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="Try out how GitHub behaves, in branches that are deleted again.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Look for problems of the hub and of this machine, each with its fix.

    Exits 0 also with warnings, 7 when the hub cannot be used. Changes nothing
    except with --adopt, --repair and --probe. Of a hub on GitHub or in another
    Git remote it also looks at the way there: token, permissions, branch
    protection, proxies, clock and limits. --repair sets broken records aside, makes
    indexes anew that disagree with the records, recovers from workers that are
    gone, and removes what killed programs left in the hub's folder.

    Example:
      ghcoord doctor
      ghcoord doctor --repair --dry-run
      ghcoord doctor --adopt --yes
      ghcoord doctor --probe --hub github:me/hub
    """
    from ghcoord.faces.cli.checks import Finding, examine
    from ghcoord.faces.cli.checks_network import probe as try_out
    from ghcoord.faces.cli.repairs import put_right

    if dry_run and not repair:
        raise UsageError("--dry-run goes with --repair: add it")
    where = hub_url()
    findings: list[Finding] = []
    if adopt:
        with open_hub() as hub:
            stopped = hub.check_history()
            if stopped is None:
                findings.append(Finding("adopt", "ok", "nothing to adopt: history goes on from what was seen"))
            else:
                confirm(f"{stopped.partition(': ')[0]}. Go on from the present state?", yes)
                spaces = ", ".join(f"{name} at {revision}" for name, revision in hub.adopt_history().items())
                findings.append(Finding("adopt", "ok", f"the present state is taken for true: {spaces}"))
    repairs = put_right(where, dry_run=dry_run, yes=yes) if repair else []
    findings += examine(where)
    if probe:
        note("trying GitHub out takes about half a minute: it allows a write a second")
        findings += try_out(where, findings)
    unusable = any(one.level == "error" for one in findings)

    def plain() -> None:
        for one in findings:
            say(f"{_MARKS[one.level]}  {one.check}: {one.message}")
            if one.fix:
                say(f"       fix: {one.fix}")

    found = {"hub": _without_secrets(where), "usable": not unusable, "findings": [one.view() for one in findings]}
    respond({**found, "repairs": repairs} if repair else found, plain)
    if unusable:
        raise typer.Exit(7)


def _without_secrets(url: str) -> str:
    """``url`` without a user and a password."""
    return re.sub(r"^([\w+]+:)?//[^/]*@", r"\1//", url)


_MARKS = {"ok": "ok   ", "warning": "warn ", "error": "ERROR"}
