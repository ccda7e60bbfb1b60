"""ghcoord: a Git repository as a coordination plane, with no server.

The public names are loaded when first used, so that ``import ghcoord`` alone
costs nothing and ``ghcoord --help`` is quick::

    import ghcoord

    hub = ghcoord.connect("./hub.git")
    with hub.locks.hold("deploy") as lock:
        ...

Modules inside the package import each other by full name, never from here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ghcoord.version import __version__

if TYPE_CHECKING:
    from ghcoord import errors
    from ghcoord.bootstrap import connect
    from ghcoord.config import Settings
    from ghcoord.execution.worker import WorkerDaemon
    from ghcoord.hub import Hub

__all__ = ["Hub", "Settings", "WorkerDaemon", "__version__", "connect", "errors"]

_HOMES = {
    "Hub": "ghcoord.hub",
    "Settings": "ghcoord.config",
    "WorkerDaemon": "ghcoord.execution.worker",
    "connect": "ghcoord.bootstrap",
}


if not TYPE_CHECKING:  # a type checker knows the names above, and no others

    def __getattr__(name: str) -> object:
        """Load a public name when it is first used (PEP 562)."""
        if name == "errors":
            return import_module("ghcoord.errors")
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'ghcoord' has no attribute {name!r}")
        value = getattr(import_module(home), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
