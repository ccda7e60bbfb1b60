"""Let one command in a sandbox reach some hosts."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ghcoord.clock import Runtime
from ghcoord.errors import SandboxError, UsageError
from ghcoord.execution.environment.addresses import Resolve, resolve
from ghcoord.execution.environment.relay import Relay
from ghcoord.execution.environment.settings import Reach
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.execution.sandbox.job import Mount
from ghcoord.model.tier import Tier
from ghcoord.model.tool import ToolContext

_SOCKET = "relay"


@dataclass(frozen=True, slots=True)
class Network:
    """A relay with what a command needs to reach it."""

    relay: Relay | None = None
    """``None`` where nothing may be reached."""
    mounts: tuple[Mount, ...] = ()
    prefix: tuple[str, ...] = ()

    def argv(self, command: Sequence[str]) -> list[str]:
        """``command`` with the relay as its proxy."""
        return [*self.prefix, *command]


@contextlib.contextmanager
def open_network(
    sandbox: Sandbox, workspace: Path, reach: Reach, runtime: Runtime, *, ask: Resolve = resolve
) -> Iterator[Network]:
    """A relay to ``reach`` for a command in ``workspace``, until the block ends.

    Its socket lies in a private folder beside the workspace.  Raises
    :class:`UsageError` in a partial sandbox, which has no network of its own to
    hold the relay's other end, and :class:`SandboxError` when it cannot be made.
    """
    if sandbox.tier == Tier.PARTIAL:
        raise UsageError(
            f"the {sandbox.name} sandbox has no network of its own, through which the relay would go: "
            "this needs a worker whose sandbox is full"
        )
    if sandbox.python is None:
        raise SandboxError("the sandbox has no Python, which the relay needs: install python3 in /usr")
    try:
        folder = Path(tempfile.mkdtemp(prefix=".relay-", dir=workspace.parent))
    except OSError as why:
        raise SandboxError(f"no folder for the relay beside {workspace}: {why.strerror}") from why
    try:
        folder.chmod(0o711)
        relay = Relay(reach, runtime, folder / _SOCKET, identity=sandbox.identity, ask=ask)
    except OSError as why:
        shutil.rmtree(folder, ignore_errors=True)
        raise SandboxError(f"the relay could not be started: {why}") from why
    try:
        mount = Mount(relay.path, _SOCKET)
        prefix = (sandbox.python, "-I", "-S", "-c", _program(), sandbox.where(workspace, mount))
        yield Network(relay, (mount,), prefix)
    finally:
        relay.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def network_of(sandbox: Sandbox, ctx: ToolContext, runtime: Runtime) -> Iterator[Network]:
    """What the commands of a session may reach: its own list of hosts, and nothing where that is empty.

    Raises like :func:`open_network`.
    """
    if not ctx.allow:
        yield Network()
        return
    with open_network(sandbox, ctx.workspace, Reach(frozenset()).also(ctx.allow), runtime) as network:
        yield network


@lru_cache(maxsize=1)
def _program() -> str:
    return Path(__file__).with_name("relay_inside.py").read_text()
