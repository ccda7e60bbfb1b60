"""Settings → store → hub: the only place that chooses, and ``ghcoord.connect``, its door."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ghcoord.clock import Runtime, SystemRuntime
from ghcoord.config import Settings, load_settings
from ghcoord.coord import hubrecord
from ghcoord.coord.adopt import adopt
from ghcoord.coord.layout import FLEET
from ghcoord.coord.observer import Observer
from ghcoord.coord.workers import Machine
from ghcoord.errors import NoHub
from ghcoord.hub import Hub
from ghcoord.store.base import Store
from ghcoord.store.heads import Mark
from ghcoord.store.open import local_path, open_store
from ghcoord.store.transact import Transactor
from ghcoord.store.wrappers import CachingStore, RetryingStore, TracingStore

Trace = Callable[[str, float, str | None], None]


def connect(
    url: str | Path | None = None,
    settings: Settings | None = None,
    *,
    runtime: Runtime | None = None,
    actor: str | None = None,
    trace: Trace | None = None,
) -> Hub:
    """Open the hub at ``url``: a folder, ``file://…`` or ``memory:``.

    Without ``url``: ``GHCOORD_HUB``, then the nearest ``ghcoord.toml``.
    ``actor`` is who acts, in commits and events (default: user@host).
    ``trace`` is called after each call of the store with its name, its seconds
    and the error's class.  Raises ``NoHub``, ``NotFound`` where there is no hub,
    ``NewerSchema`` for one of a newer ghcoord.
    """
    chosen = settings or load_settings(Path.cwd())
    where = locate(url, chosen)
    runtime = runtime or SystemRuntime()
    return open_hub(open_store(where, runtime, chosen.prefix), runtime, chosen, actor=actor, trace=trace)


def locate(url: str | Path | None, settings: Settings) -> str:
    """The hub to open: ``url``, else ``GHCOORD_HUB``, else the one in ``settings``; raises ``NoHub``."""
    where = str(url) if url is not None else os.environ.get("GHCOORD_HUB") or settings.hub
    if where is None:
        raise NoHub('no hub was named: use --hub PATH, set GHCOORD_HUB, or write hub = "…" into ghcoord.toml')
    return where


def create(
    url: str | Path, settings: Settings | None = None, *, actor: str | None = None, state: Path | None = None
) -> tuple[Hub, bool]:
    """Make a hub at ``url``, or open the one there; the second value says whether it is new.

    ``state`` is the folder for what this user's processes remember of it (default: below the user's home).
    """
    chosen = settings or load_settings(Path.cwd())
    path = local_path(str(url))
    runtime = SystemRuntime()
    if path is not None:
        from ghcoord.store.local import create_repository

        create_repository(path, chosen.prefix + FLEET)
    hub = open_hub(open_store(str(url), runtime, chosen.prefix), runtime, chosen, actor=actor, state=state, make=True)
    return hub, hub.created


class FolderState(NamedTuple):
    """What a look at a local hub's folder found: where this user may not write, and ``*.lock`` files with their age.

    Git holds a lock file for milliseconds: one that is seconds old was left by
    a killed git command.  Those of a killed ghcoord are not among them, since
    the next write removes them.
    """

    unwritable: list[Path]
    leftover_locks: list[tuple[Path, float]]


def inspect_folder(url: str, older_than: float = 10.0) -> FolderState:
    """Look at the folder of the hub at ``url`` without opening it; ``older_than`` in seconds. Raises ``NotFound``."""
    path = local_path(url)
    if path is None:
        return FolderState([], [])
    from ghcoord.store.local import find_git_dir

    git_dir = find_git_dir(path)
    needed = (git_dir, git_dir / "objects", git_dir / "objects" / "pack", git_dir / "refs", git_dir / "ghcoord")
    now = SystemRuntime().now()
    own = {file.stat().st_ino for file in (git_dir / "ghcoord").glob("ref-*")}
    locks = []
    for file in sorted([*git_dir.glob("*.lock"), *(git_dir / "refs").rglob("*.lock")]):
        try:
            state = file.stat()
        except OSError:
            continue
        if state.st_ino not in own and now - state.st_mtime > older_than:
            locks.append((file, now - state.st_mtime))
    return FolderState([folder for folder in needed if folder.exists() and not os.access(folder, os.W_OK)], locks)


def open_hub(
    store: Store,
    runtime: Runtime,
    settings: Settings,
    *,
    actor: str | None = None,
    trace: Trace | None = None,
    state: Path | None = None,
    make: bool | None = None,
) -> Hub:
    """A hub over ``store``. ``make`` creates its record (default: only in memory, where nothing is ever there)."""
    inner = TracingStore(store, runtime, trace) if trace is not None else store
    who = actor or settings.actor or _default_actor()
    transactor = Transactor(CachingStore(RetryingStore(inner, runtime)), runtime, actor=who, adopt=adopt)
    in_memory = store.url == "memory:"
    if make or (make is None and in_memory):
        record = hubrecord.create(transactor)
    else:
        record = hubrecord.open_existing(transactor, store.url)
    folder = state or (None if in_memory else _state_folder(f"{record['id']} {store.url}"))
    transactor.guard.marks.update(_load_marks(folder))
    return Hub(
        transactor,
        runtime,
        replace(settings, actor=who),
        record,
        actor=who,
        observer=Observer(
            runtime,
            margin=store.capabilities.clock_margin,
            file=folder / "observed.json" if folder is not None else None,
        ),
        machine=detect_machine,
        on_close=lambda marks: _save_marks(folder, marks),
    )


def _default_actor() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def detect_machine() -> Machine:
    """This host's name, the process id, and the cores and memory (whole MiB) that it may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1024 * 1024)
    return Machine(socket.gethostname(), os.getpid(), cores, memory)


# -- what this user's processes remember of a hub between runs


def _state_folder(hub: str) -> Path | None:
    """``$XDG_STATE_HOME/ghcoord/<hub>``, mode 0700; ``None`` where no such folder can be made."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    folder = Path(base) / "ghcoord" / hashlib.sha256(hub.encode(errors="surrogateescape")).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _load_marks(folder: Path | None) -> dict[str, Mark]:
    if folder is None:
        return {}
    try:
        state: dict[str, Any] = json.loads((folder / "heads.json").read_text())
        return {str(space): Mark(int(mark[0]), str(mark[1])) for space, mark in state.items()}
    except (OSError, ValueError, TypeError, IndexError, AttributeError):
        return {}


def _save_marks(folder: Path | None, marks: Mapping[str, Mark]) -> None:
    """Keep the highest heads seen; best effort, since a missing mark only means less protection."""
    if folder is None:
        return
    file = folder / "heads.json"
    temporary = folder / f"heads.json.{os.getpid()}"
    try:
        temporary.write_text(json.dumps({space: [mark.revision, mark.head] for space, mark in marks.items()}))
        temporary.replace(file)
    except OSError:
        return
