"""What this invocation of the command line was told: the hub, the output format, debugging.

With ``bootstrap.py`` the only module that reads the environment.  A command is
a plain function and asks here::

    with open_hub() as hub:
        respond(view, lambda: ...)      # output.py

``--hub``, ``--json`` and ``--debug`` are taken before and after the subcommand
by :mod:`ghcoord.faces.cli.common`; no command declares them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ghcoord.bootstrap import Trace
    from ghcoord.config import Settings
    from ghcoord.hub import Hub


@dataclass(slots=True)
class Invocation:
    """The options that every command takes. ``hub`` is as given, ``None`` when it was not."""

    hub: str | None = None
    json: bool = False
    debug: bool = False


_current = Invocation()


def begin(*, json: bool = False, debug: bool = False) -> Invocation:
    """Start afresh; called once by each call of ``main``."""
    global _current
    _current = Invocation(json=json, debug=debug)
    return _current


def invocation() -> Invocation:
    """The options of the call of ``main`` that runs now. May be read from any thread."""
    return _current


def settings() -> Settings:
    """The nearest ``ghcoord.toml``, or the defaults. Raises ``UsageError`` naming what is wrong in it."""
    from ghcoord.config import load_settings
    from ghcoord.errors import UsageError

    try:
        folder = Path.cwd()
    except OSError as error:
        raise UsageError(f"the present folder cannot be used ({error.strerror}): change to another one") from None
    return load_settings(folder)


def hub_url() -> str:
    """The hub of ``--hub``, ``GHCOORD_HUB`` or ``ghcoord.toml``; raises ``NoHub``. Opens nothing."""
    from ghcoord.bootstrap import locate

    return locate(_current.hub, settings())


def portable_hub_url() -> str:
    """As :func:`hub_url`, valid in any working directory: for child processes."""
    url = hub_url()
    return url if "://" in url or url == "memory:" else str(Path(url).expanduser().absolute())


@contextmanager
def open_hub(trace: Trace | None = None) -> Iterator[Hub]:
    """The hub that was named, closed at the end. Raises ``NoHub`` and what ``ghcoord.connect`` raises.

    ``trace`` is told of each call of the store; so is standard error with ``--debug`` when there is none.
    """
    from ghcoord.bootstrap import connect

    with connect(_current.hub, settings(), trace=trace or (_trace if _current.debug else None)) as hub:
        if hub.migrated_from is not None:
            print(f"migrated the hub from schema {hub.migrated_from}, which older versions wrote", file=sys.stderr)
        yield hub


def _trace(call: str, seconds: float, failed: str | None) -> None:
    print(f"store: {call} {seconds * 1000:.1f} ms{' ' + failed if failed else ''}", file=sys.stderr)


def environment(**extra: str) -> dict[str, str]:
    """This process's environment with ``extra``, for a child process."""
    return {**os.environ, **extra}


def variable(name: str) -> str | None:
    """An environment variable; ``None`` when it is unset or empty."""
    return os.environ.get(name) or None
