"""Making a restored session's environment again, from its exact lock.

What cannot be had *now* (the index does not answer, the worker cannot install)
is a fault of the surroundings: the session is not opened, and is tried again
here or elsewhere.  What cannot be had *at all* (the index answers, and has no
such package: one that was built in the session, or was withdrawn) would make
the session's files unreachable for ever; it is left out, and told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ghcoord.errors import SandboxError, UsageError
from ghcoord.execution.environment.install import InstallOutcome, install
from ghcoord.execution.environment.make import make_environment
from ghcoord.model.limits import Limits
from ghcoord.model.session import Session

if TYPE_CHECKING:
    from ghcoord.execution.tools.kit import Kit

TIMEOUT = 900.0
"""Seconds that installing the packages of a lock may take."""

ONE_BY_ONE = 200
"""Packages that are tried one at a time, at most, when the lock cannot be had as a whole."""

_NEVER = re.compile(
    r"was not found in the package registry|there is no version of|No solution found|has no (usable |matching )?wheels"
)
"""What uv says when the index has answered, and has not got it."""


class Place(Protocol):
    """What is needed of a session's folder."""

    @property
    def workspace(self) -> Path: ...

    @property
    def limits(self) -> Limits: ...

    def keep(self, name: str) -> Path: ...


def rebuild(lock: Sequence[str], session: Session, place: Place, kit: Kit) -> tuple[str, ...]:
    """Make the environment in ``place.workspace`` and install ``lock``; what of it no index has.

    Raises :class:`SandboxError` when it cannot be done now.
    """
    if kit.sandbox is None or kit.sandbox.python is None:
        if lock:
            raise SandboxError(f"the session has packages, and no Python is in the sandbox: {', '.join(lock[:10])}")
        return ()
    make_environment(place.workspace, kit.sandbox, kit.runtime)
    if not lock:
        return ()
    ctx = Installing(session, place)
    if _installed(kit, ctx, lock):
        return ()
    if len(lock) > ONE_BY_ONE:
        raise SandboxError(f"the {len(lock)} packages of the session cannot be installed together: see the index")
    return tuple(pin for pin in lock if not _installed(kit, ctx, [pin]))


def _installed(kit: Kit, ctx: Installing, pins: Sequence[str]) -> bool:
    """Whether ``pins`` are installed now; ``False`` when the index has not got one of them."""
    try:
        outcome = install(kit, ctx, pins, no_deps=True)
    except UsageError as why:
        raise SandboxError(f"the session's packages were not installed: {why.message}") from why
    if not outcome.error:
        return True
    if _is_final(outcome):
        return False
    raise SandboxError(f"the session's packages were not installed ({', '.join(pins[:10])}): {outcome.error}")


def _is_final(outcome: InstallOutcome) -> bool:
    said = re.sub(r"\s+", " ", outcome.completed.stderr)
    return not outcome.completed.stopped and bool(_NEVER.search(said)) and "does not answer" not in outcome.error


@dataclass(frozen=True, slots=True)
class Installing:
    """A :class:`~ghcoord.model.tool.ToolContext` for what is done to a session before its first call."""

    session: Session
    place: Place

    @property
    def task_id(self) -> str:
        return "restore"

    @property
    def attempt(self) -> int:
        return 1

    @property
    def workspace(self) -> Path:
        return self.place.workspace

    @property
    def timeout(self) -> float | None:
        return TIMEOUT

    @property
    def session_id(self) -> str | None:
        return self.session.id

    @property
    def trace(self) -> str:
        return ""

    @property
    def env(self) -> Mapping[str, str]:
        return {}

    @property
    def limits(self) -> Limits:
        return self.place.limits

    @property
    def allow(self) -> tuple[str, ...]:
        return self.session.allow

    def keep(self, name: str) -> Path:
        return self.place.keep(name)

    def cancelled(self) -> bool:
        return False

    def progress(self, fraction: float | None = None, message: str = "") -> None:
        """Nobody is there to be told."""

    def log(self, stream: str, text: str) -> None:
        """Nobody is there to be told."""
