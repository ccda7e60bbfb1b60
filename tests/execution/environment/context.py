"""What a tool is given, for tests that need no worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ghcoord.model.limits import DEFAULT_LIMITS, Limits


@dataclass
class Context:
    """A :class:`ToolContext` over a folder."""

    root: Path
    timeout: float | None = 60.0
    limits: Limits = DEFAULT_LIMITS
    allow: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    stop: Callable[[], bool] = lambda: False
    logged: list[tuple[str, str]] = field(default_factory=list)
    uid: int | None = None
    """Whose the kept folders are; ``None`` for the worker's own."""
    task_id: str = "task"
    attempt: int = 1
    session_id: str | None = "session"
    trace: str = ""

    @property
    def workspace(self) -> Path:
        path = self.root / "workspace"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def keep(self, name: str) -> Path:
        import os

        path = self.root / "keep" / name
        path.mkdir(parents=True, exist_ok=True)
        if self.uid is not None:
            os.chown(path, self.uid, self.uid)
        return path

    def cancelled(self) -> bool:
        return self.stop()

    def progress(self, fraction: float | None = None, message: str = "") -> None:
        return

    def log(self, stream: str, text: str) -> None:
        self.logged.append((stream, text))
