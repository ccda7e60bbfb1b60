"""What the tests of checkpoints share: an embedded hub with two workers, and sessions with folders on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import ghcoord.bootstrap as bootstrap
from ghcoord.clock import SystemRuntime
from ghcoord.execution.checkpoints.checkpoints import Checkpoints
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.execution.sandbox.open import open_sandbox
from ghcoord.execution.session.folder import SessionFolder
from ghcoord.execution.tools.kit import Kit
from ghcoord.hub import Hub
from ghcoord.model.limits import DEFAULT_LIMITS, Limits
from ghcoord.model.session import Session
from ghcoord.model.worker import SandboxInfo

RUNTIME = SystemRuntime()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub in a folder, with the workers ``w1`` and ``w2``."""
    made, _ = bootstrap.create(tmp_path / "hub")
    with made:
        for worker in ("w1", "w2"):
            made.workers.register(worker, max_sessions=20, sandbox=SandboxInfo(driver="bwrap", tier="full"))
        yield made


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    """A sandbox that unpacks: the machine's, else none at all, since what is unpacked here is ours."""
    found = open_sandbox(choice="auto", unsafe=False, runtime=RUNTIME)
    return found or open_sandbox(choice="none", unsafe=True, runtime=RUNTIME)  # type: ignore[return-value]


@pytest.fixture
def kit(sandbox: Sandbox) -> Kit:
    """What a worker has."""
    return Kit(sandbox, RUNTIME)


@dataclass
class Desk:
    """A worker's folder, with its checkpoints."""

    hub: Hub
    base: Path
    checkpoints: Checkpoints
    kit: Kit
    worker: str = "w1"

    def open(self, session: Session, limits: Limits = DEFAULT_LIMITS) -> SessionFolder:
        """An empty workspace for the session."""
        self.base.mkdir(mode=0o711, parents=True, exist_ok=True)
        assert self.kit.sandbox is not None
        folder = SessionFolder(session, self.base / session.id, self.kit.sandbox.identity, session.limits.under(limits))
        folder.make()
        return folder

    def session(self, name: str = "s1", **settings: object) -> Session:
        """A new session on this worker."""
        return self.hub.sessions.create(name, worker=self.worker, **settings)  # type: ignore[arg-type]

    def restore(self, session: Session, checkpoint: str, limits: Limits = DEFAULT_LIMITS) -> SessionFolder:
        """The session's files in a new folder, as the checkpoint has them."""
        folder = self.open(session, limits)
        self.checkpoints.restore(session, checkpoint, folder, self.kit)
        return folder


def desk(hub: Hub, base: Path, kit: Kit, worker: str = "w1", **options: object) -> Desk:
    """A worker's desk below ``base``."""
    base.mkdir(mode=0o711, exist_ok=True)
    made = Checkpoints(base / "checkpoints", hub, **options)  # type: ignore[arg-type]
    return Desk(hub, base / "sessions", made, kit, worker)


def passable(folder: Path) -> None:
    """Let the tasks' own user through to what lies in ``folder``."""
    for each in (folder, *folder.parents):
        if each != Path("/") and each.stat().st_uid == os.getuid():
            each.chmod(each.stat().st_mode | 0o011)


@pytest.fixture
def here(hub: Hub, tmp_path: Path, kit: Kit) -> Desk:
    """The first worker's."""
    passable(tmp_path)
    return desk(hub, tmp_path / "a", kit)


@pytest.fixture
def there(hub: Hub, tmp_path: Path, kit: Kit) -> Desk:
    """The second worker's, with folders of its own."""
    return desk(hub, tmp_path / "b", kit, "w2")
