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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ghcoord.bootstrap import Trace
    from ghcoord.config import Settings
    from ghcoord.hub import Hub
    from ghcoord.store.budget.base import Report


@dataclass(slots=True)
class Invocation:
    """The options that every command takes. ``hub`` is as given, ``None`` when it was not.

    ``quiet``: standard output is not for people or JSON but a protocol's alone.
    """

    hub: str | None = None
    json: bool = False
    debug: bool = False
    quiet: bool = False


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
    from ghcoord.bootstrap import folder_of

    url = hub_url()
    folder = None if url.startswith("file://") else folder_of(url)
    return url if folder is None else str(folder.absolute())


@contextmanager
def open_hub(
    trace: Trace | None = None,
    *,
    patience: float | None = None,
    actor: str | None = None,
    given: Settings | None = None,
) -> Iterator[Hub]:
    """The hub that was named, closed at the end. Raises ``NoHub`` and what ``ghcoord.connect`` raises.

    ``trace`` is told of each call of the store; so is standard error with ``--debug`` when there is none.
    ``patience`` in seconds overrides the setting: how long to wait for a server's limits.
    ``actor`` is who acts, as for ``ghcoord.connect``; ``given`` stands for the settings.
    """
    from ghcoord.bootstrap import connect

    told = trace or (_trace if _current.debug else None)
    chosen = given or settings()
    if patience is not None:
        chosen = replace(chosen, budget=replace(chosen.budget, patience=patience))
    with connect(_current.hub, chosen, actor=actor, trace=told, on_wait=say_wait) as hub:
        if hub.migrated_from is not None:
            print(f"migrated the hub from schema {hub.migrated_from}, which older versions wrote", file=sys.stderr)
        yield hub


def known_budget() -> Report | None:
    """What this machine knows of the limits of the hub's server. Asks nobody, and raises as :func:`open_hub` does."""
    from ghcoord.bootstrap import known_budget as look

    return look(_current.hub, settings())


def say_wait(until: float, why: str) -> None:
    """Say on standard error that nothing happens before ``until``, and why."""
    from ghcoord.clock import SystemRuntime
    from ghcoord.faces.cli.output import clean
    from ghcoord.units import format_duration

    wait = format_duration(round(max(0.0, until - SystemRuntime().now())))
    print(f"waiting {wait}, until {time_of_day(until)}: {clean(why)}", file=sys.stderr, flush=True)


def time_of_day(seconds: float) -> str:
    """A moment, in seconds since the epoch, as a local time of day."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%H:%M:%S")


def _trace(call: str, seconds: float, failed: str | None) -> None:
    print(f"store: {call} {seconds * 1000:.1f} ms{' ' + failed if failed else ''}", file=sys.stderr)


TRACED_BY = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Variables of OpenTelemetry that say where spans go: one of them is enough to be traced."""


def start_tracing() -> None:
    """Send spans where the ``OTEL_*`` variables say; nothing without them. Raises ``UsageError``."""
    exporter = os.environ.get("OTEL_TRACES_EXPORTER") or ("otlp" if any(map(os.environ.get, TRACED_BY)) else "")
    if exporter and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true":
        from ghcoord.execution.spans import install

        install(exporter)


def surrounding_trace() -> str | None:
    """The trace that this process is part of, from ``TRACEPARENT``; ``None`` without a valid one."""
    from ghcoord.tracing import valid

    return valid(os.environ.get("TRACEPARENT")) or None


def environment(**extra: str) -> dict[str, str]:
    """This process's environment with ``extra``, for a child process."""
    return {**os.environ, **extra}


def hide(names: Iterable[str]) -> None:
    """Take variables out of this process's environment, and so out of that of every child from now on."""
    for name in names:
        os.environ.pop(name, None)


def variable(name: str) -> str | None:
    """An environment variable; ``None`` when it is unset or empty."""
    return os.environ.get(name) or None
