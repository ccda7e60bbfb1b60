"""``ghcoord twin``: a GitHub of one's own for tests, in a process of its own."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ghcoord.errors import UsageError
from ghcoord.faces.cli.common import number
from ghcoord.faces.cli.context import invocation

if TYPE_CHECKING:
    from types import FrameType

NEEDS = ("graphql", "werkzeug", "yaml")
"""What the extra brings."""


def twin(
    port: Annotated[
        int, number("--port", help="Where to listen; default: a free one.", least=0, most=65535, metavar="PORT")
    ] = 0,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", metavar="DIR", help="Keep repositories and token there; default: a temporary one."),
    ] = None,
    limits: Annotated[bool, typer.Option("--limits", help="Enforce GitHub's published limits.")] = False,
    user: Annotated[str, typer.Option("--user", metavar="LOGIN", help="Who the token belongs to.")] = "me",
    repository: Annotated[
        list[str] | None,
        typer.Option("--repository", metavar="OWNER/NAME", help="Make it, empty; may be repeated. Default: LOGIN/hub."),
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Print each request on standard error.")] = False,
) -> None:
    """Run a twin of GitHub on this machine, to try and test things with.

    It answers REST, GraphQL and git on loopback as GitHub does, over real
    repositories, until Ctrl-C. Prints where it listens and a token that opens
    nothing else. Needs the extra: pip install 'ghcoord[twin]'.

    Example:
      ghcoord twin --port 8477 --folder ./twin --repository me/hub
      ghcoord twin --limits --log
    """
    if any(importlib.util.find_spec(name) is None for name in NEEDS):
        raise UsageError("the twin needs more than is installed: pip install 'ghcoord[twin]'")
    argv = [sys.executable, "-m", "ghcoord.twin", "--port", str(port), f"--user={user}"]
    argv += [] if folder is None else [f"--folder={folder}"]
    argv += [f"--repository={each}" for each in repository or ()]
    argv += ["--limits"] if limits else []
    argv += ["--log"] if log else []
    argv += ["--json"] if invocation().json else []
    sys.stdout.flush()
    # In this process's group, so that what ends the group ends it too; to hear of Ctrl-C twice does no harm.
    with subprocess.Popen(argv) as child, _passing_on(child):
        code = child.wait()
    if code:
        raise typer.Exit(code if code > 0 else 128 - code)


@contextmanager
def _passing_on(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass the signals that end this process on to the child."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
