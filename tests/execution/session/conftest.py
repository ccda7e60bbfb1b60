"""What the tests of sessions on a worker share: a hub, a registered worker, and checkpoints that are plain copies."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ghcoord.bootstrap as bootstrap
from ghcoord.errors import NotFound
from ghcoord.execution.checkpoints.place import Restored
from ghcoord.execution.session.folder import SessionFolder
from ghcoord.execution.session.pool import SessionPool
from ghcoord.execution.tools.kit import Kit
from ghcoord.hub import Hub
from ghcoord.model.codec import stamp
from ghcoord.model.session import Checkpoint, Session
from ghcoord.model.tool import Tool, ToolContext, ToolResult
from ghcoord.model.worker import SandboxInfo


class CopyingCheckpoints:
    """Checkpoints as copies of the workspace. Stands in for :class:`Checkpoints` with the same methods."""

    def __init__(self, folder: Path, hub: Hub, *, publish: bool = True) -> None:
        self.folder = folder
        self.hub = hub
        self.publish = publish
        self.saved: list[str] = []
        self.fail: Exception | None = None
        self.before: Callable[[], None] = lambda: None

    def save(self, session: Session, home: SessionFolder, sandbox: Any, *, name: str = "") -> Checkpoint:
        self.before()
        if self.fail is not None:
            raise self.fail
        made = Checkpoint(
            id=f"c{len(self.saved):012d}",
            created_at=stamp(self.hub.now().timestamp()),
            name=name,
            published=self.publish,
            epoch=session.epoch,
            worker=session.worker_id or "",
        )
        shutil.copytree(home.workspace, self.folder / session.id / made.id / "workspace")
        if home.journal_path.exists():
            shutil.copy(home.journal_path, self.folder / session.id / made.id / "journal")
        self.hub.sessions.record_checkpoint(session.id, session.epoch, made)
        self.saved.append(made.id)
        return made

    def sessions(self) -> list[str]:
        return sorted(each.name for each in self.folder.iterdir()) if self.folder.exists() else []

    def forget(self, session_id: str) -> None:
        shutil.rmtree(self.folder / session_id, ignore_errors=True)

    def restore(self, session: Session, checkpoint_id: str, home: SessionFolder, kit: Kit) -> Restored:
        self.before()
        if self.fail is not None:
            raise self.fail
        source = self.folder / session.id / checkpoint_id
        if not source.exists():
            raise NotFound(f"there is no checkpoint {checkpoint_id}")
        shutil.copytree(source / "workspace", home.workspace, dirs_exist_ok=True)
        if (source / "journal").exists():
            shutil.copy(source / "journal", home.journal_path)
        return Restored(checkpoint_id, 1, 1)


def write(args: dict[str, Any], ctx: ToolContext) -> ToolResult:
    """Write a file and say so."""
    (ctx.workspace / args["path"]).write_text(args["text"])
    ctx.log("stdout", f"wrote {args['path']}\n")
    ctx.progress(1.0, "done")
    return ToolResult(success=True, output=args["text"], data={"path": args["path"]})


def read(args: dict[str, Any], ctx: ToolContext) -> ToolResult:
    """Read a file."""
    return ToolResult(success=True, output=(ctx.workspace / args["path"]).read_text())


def wait(args: dict[str, Any], ctx: ToolContext) -> ToolResult:
    """Wait until cancelled."""
    import time

    while not ctx.cancelled():
        time.sleep(0.005)
    return ToolResult(success=False, error="cancelled")


TOOLS = {one.__name__: Tool(one.__name__, "", one) for one in (write, read, wait)}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """An empty hub on disk."""
    opened, _ = bootstrap.create(tmp_path / "hub.git")
    with opened:
        yield opened


@pytest.fixture
def checkpoints(hub: Hub, tmp_path: Path) -> CopyingCheckpoints:
    """Where checkpoints are kept, for all workers."""
    return CopyingCheckpoints(tmp_path / "checkpoints", hub)


class Station:
    """A registered worker with its pool, as a daemon would have it."""

    def __init__(self, hub: Hub, worker_id: str, base: Path, checkpoints: Any, **options: Any) -> None:
        self.said: list[str] = []
        self.pool = SessionPool(
            hub,
            worker_id,
            base=base,
            kit=Kit(None, hub.runtime),
            checkpoints=checkpoints,
            log=lambda level, text: self.said.append(f"{level}: {text}"),
            **options,
        )
        self.pool.serve(TOOLS)
        self.hub = hub
        self.worker_id = worker_id
        self.register()

    def register(self) -> None:
        """As a daemon does at its start."""
        answer = self.hub.workers.register(
            self.worker_id, max_sessions=self.pool.max_sessions, sandbox=SandboxInfo(driver="test", tier="full")
        )
        self.token = answer.token
        self.recovered = self.pool.recover(self.token)

    def tick(self, adopt: bool = True) -> None:
        """As a daemon's tick does for its sessions."""
        from ghcoord.coord.workers.tick import Beat

        request = Beat(
            self.worker_id,
            self.token,
            renew=True,
            sessions=self.pool.reports(),
            adopt=self.pool.room if adopt else 0,
        )
        reply = self.hub.beat(request)
        assert "" == reply.lost
        self.pool.told(request.sessions)
        self.pool.follow(reply.sessions, reply.revision)


@pytest.fixture
def station(hub: Hub, tmp_path: Path, checkpoints: CopyingCheckpoints) -> Iterator[Callable[..., Station]]:
    """Make workers; their pools are closed at the end."""
    made: list[Station] = []

    def make(worker_id: str = "w1", base: Path | None = None, **options: Any) -> Station:
        base = base or tmp_path / "base"
        base.mkdir(mode=0o711, exist_ok=True)
        made.append(Station(hub, worker_id, base, options.pop("checkpoints", checkpoints), **options))
        return made[-1]

    yield make
    for one in made:
        one.pool.close()
