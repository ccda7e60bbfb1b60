"""A session's folder on its worker, as checkpoints see it, and putting a restored workspace in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ghcoord.coord.sessions.manifests import ContentRef
from ghcoord.execution.checkpoints.localstore import LocalStore
from ghcoord.execution.files.beneath import Files
from ghcoord.execution.sandbox.base import Sandbox, prepare_workspace
from ghcoord.execution.workspace import remove_tree
from ghcoord.model.limits import Limits

RESTORING = "restoring"
"""Folder beside a workspace in which a checkpoint is unpacked."""

REPLACED = "replaced"
"""What a workspace is called from when the restored one takes its place until it is removed."""

MAX_JOURNAL = 128 * 1024 * 1024
"""Bytes of a journal that a checkpoint takes: its end, when it is longer."""


class Home(Protocol):
    """A session's folder on this worker: :class:`ghcoord.execution.session.folder.SessionFolder`."""

    @property
    def root(self) -> Path: ...

    @property
    def workspace(self) -> Path: ...

    @property
    def journal_path(self) -> Path: ...

    @property
    def files(self) -> Files: ...

    @property
    def limits(self) -> Limits: ...

    def keep(self, name: str) -> Path: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restoration brought back. ``missing`` are packages of the lock that no index has for this Python."""

    checkpoint_id: str
    files: int
    size: int
    missing: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """What whoever uses the session must know; empty when all is there."""
        if not self.missing:
            return ""
        named = ", ".join(self.missing[:10]) + (f" and {len(self.missing) - 10} more" if len(self.missing) > 10 else "")
        return f"the checkpoint's files are there, but no index has {named}: install them in another way"


def swap(home: Home, fresh: Path, then: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    """Have ``fresh`` be the workspace if ``then``, which needs it in its place, does not raise."""
    replaced = home.root / REPLACED
    if replaced.exists():
        remove_tree(replaced)
    home.close()
    home.workspace.rename(replaced)
    try:
        fresh.rename(home.workspace)
        missing = then()
    except BaseException:
        home.close()
        if home.workspace.exists():
            remove_tree(home.workspace)
        replaced.rename(home.workspace)
        raise
    remove_tree(replaced)
    return missing


def make_empty(folder: Path, sandbox: Sandbox) -> None:
    """An empty folder, the tasks' own, whatever was there. Raises ``OSError`` and ``SandboxError``."""
    if folder.exists() or folder.is_symlink():
        remove_tree(folder)
    folder.mkdir(mode=0o700)
    prepare_workspace(folder, sandbox.identity)


def keep_journal(home: Home, store: LocalStore) -> ContentRef | None:
    """The session's journal as a content of the store; ``None`` where there is none."""
    try:
        with open(home.journal_path, "rb") as file:
            size = file.seek(0, 2)
            if not size:
                return None
            file.seek(max(0, size - MAX_JOURNAL))
            digest, size = store.add(file, min(size, MAX_JOURNAL))
    except FileNotFoundError:
        return None
    return ContentRef(sha256=digest, size=size)
