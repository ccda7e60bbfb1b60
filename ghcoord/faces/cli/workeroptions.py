"""Options that every command which runs a worker has."""

from __future__ import annotations

from typing import Annotated

import typer

from ghcoord.faces.cli.common import one_of

LEVELS = ("debug", "info", "warn", "error")
SANDBOXES = ("auto", "bwrap", "landlock", "container", "none")

Sandbox = Annotated[
    str | None,
    typer.Option(
        "--sandbox",
        metavar="DRIVER",
        parser=one_of(SANDBOXES),
        help="auto, bwrap, landlock, container, or none; default auto: bwrap, else landlock.",
    ),
]
UnsafeNoSandbox = Annotated[
    bool, typer.Option("--unsafe-no-sandbox", help="Run commands unprotected where no sandbox works.")
]
NoCommands = Annotated[bool, typer.Option("--no-commands", help="Offer no tool that runs commands: needs no sandbox.")]
AtMost = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="K=V", help="The most that a task or session gets, as memory_mb=512; several."),
]
LogLevel = Annotated[
    str,
    typer.Option(
        "--log-level",
        metavar="LEVEL",
        parser=one_of(LEVELS),
        envvar="GHCOORD_LOG_LEVEL",
        show_envvar=True,
        help="debug, info, warn or error.",
    ),
]
