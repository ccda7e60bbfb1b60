"""Settings → store → hub: the only place that chooses, and ``ghcoord.connect``, its door."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ghcoord.clock import Runtime, SystemRuntime
from ghcoord.config import Settings, load_settings
from ghcoord.coord.care import hubrecord
from ghcoord.coord.care.adopt import adopt
from ghcoord.coord.care.care import unheard
from ghcoord.coord.care.migrate import migrate_hub, migrate_space
from ghcoord.coord.layout import FLEET
from ghcoord.coord.observer import Observer
from ghcoord.coord.workers.workers import Machine
from ghcoord.errors import NoHub, Unavailable, UsageError
from ghcoord.hub import Hub
from ghcoord.model.health import Vitals
from ghcoord.model.lease import check_ttl
from ghcoord.model.timing import grace_for, poll_for
from ghcoord.model.tool import Tool
from ghcoord.store import network
from ghcoord.store.base import Store, Tell
from ghcoord.store.budget.base import OnWait, Report
from ghcoord.store.dispatching import Dispatcher
from ghcoord.store.folder import FolderState, Stray, look, remove
from ghcoord.store.heads import Mark
from ghcoord.store.observation import Observation
from ghcoord.store.open import Surroundings, driver_of, github_api, local_path, open_dispatcher, open_store
from ghcoord.store.takeover import SCHEMA
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
    on_wait: OnWait | None = None,
) -> Hub:
    """Open the hub at ``url``: ``github:OWNER/REPOSITORY``, any Git remote, a folder, ``file://…`` or ``memory:``.

    Without ``url``: ``GHCOORD_HUB``, then the nearest ``ghcoord.toml``.
    ``actor`` is who acts, in commits and events (default: user@host).
    ``trace`` is called after each call of the store with its name, its seconds
    and the error's class; ``on_wait`` before a wait for a server's limits, or
    for a server that does not answer, with its end (seconds since the epoch)
    and the reason.  Raises ``NoHub``, ``NotFound`` where there is no hub,
    ``NewerSchema`` for one of a newer ghcoord, ``Denied`` without a token.
    """
    chosen = settings or load_settings(Path.cwd())
    where = locate(url, chosen)
    runtime = runtime or SystemRuntime()
    store = open_store(where, runtime, chosen, surroundings(where, on_wait))
    try:
        return open_hub(store, runtime, chosen, actor=actor, trace=trace, on_wait=on_wait)
    except BaseException:
        store.close()
        raise


def known_budget(url: str | Path | None = None, settings: Settings | None = None) -> Report | None:
    """What this machine knows of the limits of the server that has the hub at ``url``; ``None`` without limits.

    Asks nobody.  Raises ``NoHub``, ``Denied`` without a token.
    """
    chosen = settings or load_settings(Path.cwd())
    where = locate(url, chosen)
    with contextlib.closing(open_store(where, SystemRuntime(), chosen, surroundings(where))) as store:
        return None if store.budget is None else store.budget.report()


def surroundings(url: str, on_wait: OnWait | None = None) -> Surroundings:
    """What the driver for ``url`` gets of this machine: the environment, and this user's folders for state and caches.

    A hub on this machine needs none, and none are made.
    """
    if driver_of(url) in ("local", "memory"):
        return Surroundings(environment=os.environ, on_wait=on_wait)
    return Surroundings(
        environment=os.environ,
        state=_own_folder("XDG_STATE_HOME", ".local", "state"),
        cache=_own_folder("XDG_CACHE_HOME", ".cache"),
        on_wait=on_wait,
    )


def locate(url: str | Path | None, settings: Settings) -> str:
    """The hub to open: ``url``, else ``GHCOORD_HUB``, else the one in ``settings``; raises ``NoHub``."""
    where = str(url) if url is not None else os.environ.get("GHCOORD_HUB") or settings.hub
    if where is None:
        raise NoHub('no hub was named: use --hub HUB, set GHCOORD_HUB, or write hub = "…" into ghcoord.toml')
    return where


def create(
    url: str | Path,
    settings: Settings | None = None,
    *,
    actor: str | None = None,
    state: Path | None = None,
    trace: Trace | None = None,
    on_wait: OnWait | None = None,
    make_repository: bool = False,
    tell: Callable[[str], object] = lambda text: None,
) -> tuple[Hub, bool]:
    """Make a hub at ``url``, or open the one there; the second value says whether it is new.

    A folder is made where there is none, a repository on GitHub (a private
    one) only with ``make_repository``.  ``state`` is the folder for what this
    user's processes remember of it (default: below the user's home); ``trace``
    and ``on_wait`` as for :func:`connect`; ``tell`` hears of what takes long.
    """
    chosen = settings or load_settings(Path.cwd())
    where = str(url)
    path = local_path(where)
    if make_repository and driver_of(where) != "github":
        raise UsageError(f"only a repository on GitHub can be created with the hub, not {where}: leave --create out")
    runtime = SystemRuntime()
    around = surroundings(where, on_wait)
    if path is not None:
        from ghcoord.store.local import create_repository

        create_repository(path, chosen.prefix + FLEET)
    elif driver_of(where) == "github":
        from ghcoord.store.github.create import create_on_github

        api = github_api(where, runtime, chosen, around)
        try:
            if create_on_github(api, chosen.prefix, create=make_repository):
                tell("making a hub takes about ten seconds: GitHub allows a write a second")
        finally:
            api.close()
    store = open_store(where, runtime, chosen, around)
    hub = open_hub(store, runtime, chosen, actor=actor, trace=trace, on_wait=on_wait, state=state, make=True)
    return hub, hub.created


def import_hub(
    file: str | Path,
    url: str | Path,
    settings: Settings | None = None,
    *,
    new_id: bool = False,
    actor: str | None = None,
    state: Path | None = None,
    tell: Tell = unheard,
) -> Hub:
    """Make a hub at ``url``, a new or empty folder, from the bundle at ``file`` that ``export`` wrote.

    Everything in the bundle is checked first, and on failure nothing is left.
    With ``new_id`` it is a hub of its own from then on; without, the same hub
    in another place, as after the loss of a disk.  ``state`` as for
    :func:`create`, ``tell`` hears how far it is.  Raises ``UsageError`` for a
    file that is no hub's bundle or a folder that is not empty, ``Corrupt``,
    ``TooLarge``, ``NewerSchema``.
    """
    chosen = settings or load_settings(Path.cwd())
    path = local_path(str(url))
    if path is None:
        raise UsageError(f"a bundle is imported into a new folder, not into {url}: push its branches from there")
    from ghcoord.store.local import create_repository
    from ghcoord.store.unbundle import load_bundle

    runtime = SystemRuntime()
    path = path.absolute()
    new = [folder for folder in path.parents if not folder.exists()]
    building = path.parent / f".{path.name}.import-{runtime.randbits(32):08x}"
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UsageError(f"{path} exists and is not empty: name a new folder")
        load_bundle(Path(file).expanduser(), create_repository(building, chosen.prefix + FLEET), chosen.prefix, tell)
        with contextlib.closing(open_store(str(building), runtime, chosen)) as store:
            record = hubrecord.read(store, str(file))
            if new_id:
                record = hubrecord.change_id(Transactor(store, runtime, actor=actor or _default_actor()))
        building.rename(path)
    except OSError as error:
        raise Unavailable(f"cannot make a hub at {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
        for folder in new:
            with contextlib.suppress(OSError):  # it holds the hub
                folder.rmdir()
    made = open_store(str(path), runtime, chosen)
    seen = state or _state_folder(f"{record['id']} {made.url}")
    if seen is not None:
        for known in ("heads.json", "observed.json"):
            (seen / known).unlink(missing_ok=True)  # of a hub that was here before
    return open_hub(made, runtime, chosen, actor=actor, state=state)


def describe_tools() -> list[Tool]:
    """The tools that a worker of this program offers in a full sandbox, plug-ins among them. Starts nothing."""
    from ghcoord.execution.sandbox.none import NoSandbox
    from ghcoord.execution.tools.kit import Kit
    from ghcoord.execution.tools.registry import builtin_tools

    with connect("memory:", Settings()) as hub:
        kit = Kit(NoSandbox(None), hub.runtime, artifacts=hub.artifacts)
        return sorted(builtin_tools(kit), key=lambda tool: tool.name)


def workflow_dispatcher(url: str, settings: Settings, workflow: str, ref: str, on_wait: OnWait | None) -> Dispatcher:
    """What starts runs of ``workflow`` at ``ref`` in the repository ``url``. Raises ``UsageError``, ``Denied``."""
    return open_dispatcher(url, SystemRuntime(), settings, surroundings(url, on_wait), workflow, ref)


def folder_of(url: str) -> Path | None:
    """The folder of a hub on this machine; ``None`` for all others. Raises ``UsageError``."""
    return local_path(url)


def examine_network(url: str, settings: Settings, on_wait: OnWait | None = None) -> list[Observation]:
    """Look at the way to the hub at ``url`` without opening it; nothing to say of hubs on this machine."""
    return network.examine_network(url, SystemRuntime(), settings, surroundings(url, on_wait))


def probe_network(url: str, settings: Settings, on_wait: OnWait | None = None) -> list[Observation]:
    """Settle live what is uncertain of GitHub, in refs that are deleted again. Raises ``UsageError`` elsewhere."""
    return network.probe_network(url, SystemRuntime(), settings, surroundings(url, on_wait))


def inspect_folder(url: str) -> FolderState:
    """Look at the folder of the hub at ``url`` without opening it. Raises ``NotFound``."""
    path = local_path(url)
    if path is None:
        return FolderState([], [], 0, 0)
    from ghcoord.store.local import find_git_dir

    return look(find_git_dir(path), SystemRuntime().now())


def tidy_folder(strays: Iterable[Stray]) -> None:
    """Remove what :func:`inspect_folder` found to be left over. Raises ``Denied``."""
    for stray in strays:
        remove(stray)


def open_hub(
    store: Store,
    runtime: Runtime,
    settings: Settings,
    *,
    actor: str | None = None,
    trace: Trace | None = None,
    on_wait: OnWait | None = None,
    state: Path | None = None,
    make: bool | None = None,
) -> Hub:
    """A hub over ``store``. ``make`` creates its record (default: only in memory, where nothing is ever there).

    Raises ``UsageError`` for settings whose times do not go together.
    """
    check_times(settings)
    inner = TracingStore(store, runtime, trace) if trace is not None else store
    who = actor or settings.actor or _default_actor()
    cached = CachingStore(RetryingStore(inner, runtime, on_wait=on_wait))
    transactor = Transactor(cached, runtime, actor=who, adopt=adopt, migrate=migrate_space)
    in_memory = store.url == "memory:"
    if make or (make is None and in_memory):
        record = hubrecord.create(transactor)
    else:
        record = hubrecord.open_existing(transactor, store.url)
    folder = state or (None if in_memory else _state_folder(f"{record['id']} {store.url}"))
    transactor.guard.marks.update(_load_marks(folder))
    if record["schema"] < SCHEMA:
        record = migrate_hub(transactor, record)
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
        vitals=read_vitals,
        on_close=lambda marks: _save_marks(folder, marks),
    )


def check_times(settings: Settings) -> None:
    """Raise ``UsageError`` for a ttl out of range, and for a poll interval or a grace that is too long for the ttl."""
    for name, ttl in (("locks.ttl", settings.locks.ttl), ("worker.ttl", settings.worker.ttl)):
        try:
            if ttl is not None:
                check_ttl(ttl)
                if name == "worker.ttl":
                    poll_for(ttl, settings.poll, ttl)
                    grace_for(ttl, settings.worker.grace)
        except UsageError as mistake:
            raise UsageError(f"the setting {name}: {mistake.message}") from None


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


def read_vitals(folder: Path) -> Vitals:
    """The machine's load, this process's memory, and the room in ``folder``, as far as they can be told."""
    load = memory = free = None
    with contextlib.suppress(OSError):
        load = round(os.getloadavg()[0], 2)
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        memory = round(pages * os.sysconf("SC_PAGE_SIZE") / (1024 * 1024), 1)
    with contextlib.suppress(OSError):
        free = float(shutil.disk_usage(folder).free // (1024 * 1024))
    return Vitals(load, memory, free)


# -- what this user's processes remember of a hub between runs


def _own_folder(variable: str, *usual: str) -> Path | None:
    """``$variable/ghcoord``, else the usual place below the home, mode 0700; ``None`` where it cannot be made."""
    base = os.environ.get(variable) or os.path.join(os.path.expanduser("~"), *usual)
    folder = Path(base) / "ghcoord"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def token_file() -> Path:
    """Where the tokens of this user's MCP server are kept. Raises ``UsageError`` where no such folder can be made."""
    folder = _own_folder("XDG_STATE_HOME", ".local", "state")
    if folder is None:
        raise UsageError("there is no folder to keep tokens in: set XDG_STATE_HOME, or give --token-file")
    return folder / "mcp-tokens.json"


def _state_folder(hub: str) -> Path | None:
    """The folder for what is remembered of ``hub``; ``None`` where no such folder can be made."""
    base = _own_folder("XDG_STATE_HOME", ".local", "state")
    if base is None:
        return None
    folder = base / hashlib.sha256(hub.encode(errors="surrogateescape")).hexdigest()[:16]
    try:
        folder.mkdir(exist_ok=True, mode=0o700)
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
