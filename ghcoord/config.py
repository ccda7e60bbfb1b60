"""Settings: frozen, validated, parsed from ``ghcoord.toml``. Reads no environment."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ghcoord.errors import UsageError
from ghcoord.units import parse_duration

CONFIG_FILE = "ghcoord.toml"


@dataclass(frozen=True, slots=True)
class LockSettings:
    """``ttl`` in seconds of locks taken without one (reference: ``locking.ttlSeconds``); ``None``: as the hub says.

    Taking a lock is tried ``retry_attempts`` times, ``retry_delay`` seconds
    apart, when the hub cannot be reached; how long to wait for a lock that is
    held is up to each call.
    """

    ttl: float | None = None
    retry_attempts: int = 3
    retry_delay: float = 1.0


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """``ttl``: seconds a daemon counts as alive without renewing; ``None``: as the hub says.

    ``slots``: tasks at a time.  ``grace``: seconds between TERM and KILL for a
    task that is cancelled or timed out; ``None``: one, less for a short ttl.

    ``max_sessions``: sessions that it takes; ``stale_after``: seconds without
    use after which one is destroyed.  ``checkpoint_dir``: where checkpoints are
    kept, ``None``: below its workspace; ``max_checkpoints`` of each session.
    ``publish``: whether they go to the hub too.  ``limit``: ``name=value`` texts,
    the most that a task or a session gets.
    """

    ttl: float | None = None
    slots: int = 1
    grace: float | None = None
    max_sessions: int = 5
    stale_after: float = 1800.0
    checkpoint_dir: str | None = None
    max_checkpoints: int = 10
    publish: bool = True
    limit: tuple[str, ...] = ()


DRIVERS = ("auto", "bwrap", "landlock", "container")


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """What workers run commands in: ``driver`` is ``auto`` (bwrap, else landlock) or the name of one.

    A container is of ``image``, which must be on the machine, run by
    ``engine``: ``docker``, ``podman``, or the path of a program that takes the
    same arguments, with ``options`` as further ones.
    """

    driver: str = "auto"
    image: str | None = None
    engine: str = "docker"
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PackageSource:
    """Where ``pkg.install`` gets packages: the ``index``, ``hosts`` that may be reached besides it; ``None``: PyPI.

    ``only_binary``: wheels only, unless a call says otherwise.  ``private``:
    which of these hosts may have addresses of a private network.
    """

    index: str | None = None
    hosts: tuple[str, ...] | None = None
    only_binary: bool = True
    private: tuple[str, ...] = ()


WRITE_MODES = ("auto", "refs", "rest")
LIMITS = ("auto", "github", "none")


@dataclass(frozen=True, slots=True)
class GithubSettings:
    """How hubs on GitHub are reached. ``api`` is the base URL of another API than the host's usual one.

    ``write``: ``auto`` takes the cheapest way there is, ``refs`` always trees,
    commits and ``updateRefs``, ``rest`` does without GraphQL.  A GitHub App is
    named by ``app`` (its id), ``installation`` (its id; needed only where there
    are several) and ``key_file``, its private key.
    """

    api: str | None = None
    write: str = "auto"
    app: str | None = None
    installation: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True)
class BudgetSettings:
    """``writes_per_hour``: commits an hour to plan for, of all that share the account; ``None``: half of the limit.

    ``patience``: seconds to wait for a limit before giving up.  ``limits``: ``auto``
    counts by what GitHub publishes at GitHub's own hosts, ``github`` everywhere,
    ``none`` nowhere; what a server itself says is obeyed in any case.
    """

    writes_per_hour: int | None = None
    patience: float = 900.0
    limits: str = "auto"


HOLDERS = ("hub", "directory", "s3")


@dataclass(frozen=True, slots=True)
class ArtifactSettings:
    """Who holds the contents of new artifacts: ``where`` is ``hub``, ``directory`` or ``s3``.

    ``directory`` is a folder that all machines see.  ``bucket`` is that of S3,
    or of a service with its interface at the URL ``endpoint``; ``prefix`` stands
    before every key, and credentials come from boto3's own places alone.
    ``retention``: seconds that an artifact is kept; ``None``: until somebody
    deletes it.  ``max_mb``: the largest that is taken, in MiB.
    """

    where: str = "hub"
    directory: str | None = None
    bucket: str | None = None
    prefix: str = "ghcoord/"
    endpoint: str | None = None
    region: str | None = None
    retention: float | None = None
    max_mb: int = 100


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one process. ``poll`` is the seconds between polls; ``None`` lets the store decide."""

    hub: str | None = None
    actor: str | None = None
    prefix: str = "refs/heads/ghcoord/"
    poll: float | None = None
    locks: LockSettings = field(default_factory=LockSettings)
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    github: GithubSettings = field(default_factory=GithubSettings)
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    artifacts: ArtifactSettings = field(default_factory=ArtifactSettings)
    sandbox: SandboxSettings = field(default_factory=SandboxSettings)
    packages: PackageSource = field(default_factory=PackageSource)


_DURATIONS = {"ttl", "poll", "grace", "retry_delay", "patience", "retention", "stale_after"}
_NUMBERS = {"slots": 10_000, "retry_attempts": 100, "writes_per_hour": 100_000, "max_mb": 5_000_000}
_NUMBERS |= {"max_sessions": 10_000, "max_checkpoints": 1000}
"""The largest value of each whole number; the smallest is 1."""
_TABLES: dict[str, type[Any]] = {
    "locks": LockSettings,
    "worker": WorkerSettings,
    "github": GithubSettings,
    "budget": BudgetSettings,
    "artifacts": ArtifactSettings,
    "sandbox": SandboxSettings,
    "packages": PackageSource,
}
_CHOICES = {"write": WRITE_MODES, "limits": LIMITS, "where": HOLDERS, "driver": DRIVERS}
_SWITCHES = {"publish", "only_binary"}
_LISTS = {"limit", "options", "hosts", "private"}


def _build(kind: type[Any], table: dict[str, Any], where: str) -> Any:
    known = {f.name: f for f in fields(kind)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"{where}{key} is not a setting: one of {', '.join(sorted(known))}")
        part = _TABLES.get(key) if kind is Settings else None
        if part is not None or isinstance(value, dict):
            if part is None or not isinstance(value, dict):
                raise UsageError(f"{where}{key} is {'not a' if part is None else 'a'} table")
            values[key] = _build(part, value, f"{where}{key}.")
        elif key in _DURATIONS:
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise UsageError(f'{where}{key} is not a duration: write 90, "90s", "5m" or "1h30m"')
            values[key] = parse_duration(value)
            if key == "poll" and not values[key]:
                raise UsageError(f"{where}{key} must be more than 0")
        elif key in _NUMBERS:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _NUMBERS[key]:
                raise UsageError(f"{where}{key} must be a whole number from 1 to {_NUMBERS[key]:,}")
            values[key] = value
        elif key in _SWITCHES:
            if not isinstance(value, bool):
                raise UsageError(f"{where}{key} must be true or false")
            values[key] = value
        elif key in _LISTS:
            if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
                raise UsageError(f'{where}{key} must be a list of texts: write ["…", "…"]')
            values[key] = tuple(value)
        elif not isinstance(value, str) or not value:
            raise UsageError(f"{where}{key} must be a text")
        elif key in _CHOICES and value not in _CHOICES[key]:
            raise UsageError(f"{where}{key} is one of {', '.join(_CHOICES[key])}")
        else:
            values[key] = value
    return kind(**values)


def parse_settings(text: str, where: str = CONFIG_FILE) -> Settings:
    """Settings from TOML; raises ``UsageError`` naming the line or the key."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} is not TOML: {error}") from None
    settings: Settings = _build(Settings, table, f"{where}: ")
    if not settings.prefix.startswith("refs/") or not settings.prefix.endswith("/"):
        raise UsageError(f"{where}: prefix must start with refs/ and end with /")
    return settings


def load_settings(folder: Path) -> Settings:
    """Settings of the nearest ``ghcoord.toml`` in ``folder`` or above it; the defaults when there is none.

    A relative ``hub``, ``checkpoint_dir`` or ``artifacts.directory`` is taken from where the file lies.
    """
    for place in (folder, *folder.parents):
        file = place / CONFIG_FILE
        if os.path.isfile(file):  # unlike Path.is_file, False where a folder above may not be read
            try:
                settings = parse_settings(file.read_text(), str(file))
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"cannot read {file}: {error}") from None
            if settings.hub is not None and _is_relative_path(settings.hub):
                settings = replace(settings, hub=str(place / settings.hub))
            if settings.artifacts.directory is not None:
                held = str(place / Path(settings.artifacts.directory).expanduser())
                settings = replace(settings, artifacts=replace(settings.artifacts, directory=held))
            if settings.worker.checkpoint_dir is not None:
                kept = str(place / Path(settings.worker.checkpoint_dir).expanduser())
                settings = replace(settings, worker=replace(settings.worker, checkpoint_dir=kept))
            return settings
    return Settings()


def _is_relative_path(hub: str) -> bool:
    elsewhere = (
        "://" in hub or hub == "memory:" or hub.startswith(("~", "github:")) or re.match(r"[\w.-]+@[\w.-]+:", hub)
    )
    return not elsewhere and not Path(hub).is_absolute()
