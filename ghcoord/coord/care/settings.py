"""The hub's settings, kept as a record in the hub, so that all its users go by the same ones.

``meta:settings.json`` holds those that were set, flat, under the names that
``ghcoord config`` takes; durations in seconds.  It may be edited and pushed by
people: a value that cannot be used counts as not set, and ``doctor`` says so.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ghcoord.coord.layout import META, SETTINGS_RECORD
from ghcoord.errors import GhcoordError, NotFound, UsageError
from ghcoord.model.codec import MAX_RECORD, to_json
from ghcoord.model.lease import MAX_TTL, MIN_TTL
from ghcoord.model.placement import STRATEGIES
from ghcoord.store.base import Entry, Oid
from ghcoord.store.transact import Transactor
from ghcoord.store.tx import Tx
from ghcoord.units import MAX_DURATION, format_duration, parse_duration

if TYPE_CHECKING:
    from ghcoord.coord.context import Context

DAY = 86400.0

MIN_HISTORY = 3600.0
"""Shortest ``retention.history`` in seconds: history is what resolves a lost reply, for half an hour."""

MAX_QUOTA = 10**9
_DIGITS = re.compile("[0-9]{1,12}")


@dataclass(frozen=True, slots=True)
class HubConfig:
    """What the hub's users agreed on. Times in seconds; a quota of ``None`` is no limit.

    ``retention_history`` is for commits (``gc``), the next three for ended
    tasks by state, ``retention_audit`` for audit entries.  ``quota_open_tasks``
    counts tasks that have not ended, ``quota_memory_keys`` the keys of one
    namespace, ``quota_locks`` the locks that are held.
    """

    strategy: str = "least_loaded"
    lock_ttl: float = 300.0
    worker_ttl: float = 15.0
    retention_history: float = 30 * DAY
    retention_succeeded: float = 7 * DAY
    retention_cancelled: float = 7 * DAY
    retention_dead: float = 30 * DAY
    retention_audit: float = 90 * DAY
    quota_open_tasks: int | None = None
    quota_memory_keys: int | None = None
    quota_locks: int | None = None


def _strategy(value: Any) -> str:
    if value not in STRATEGIES:
        raise ValueError(f"is not a strategy: one of {', '.join(STRATEGIES)}")
    return str(value)


def _duration(least: float, most: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError('is not a duration: write 90, "90s", "5m" or "30d"')
        try:
            seconds = parse_duration(value)
        except (UsageError, OverflowError) as error:
            raise ValueError(f"cannot be used: {error}") from None
        if not least <= seconds <= most:
            raise ValueError(f"is out of range: {format_duration(least)} to {format_duration(most)}")
        return seconds

    return check


def _quota(value: Any) -> int:
    number = int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= MAX_QUOTA:
        raise ValueError(f"is not a whole number from 0 to {MAX_QUOTA:,}")
    return number


class Setting(NamedTuple):
    """One setting: the field of :class:`HubConfig` behind it, what checks a value, and what it means.

    ``kind`` is ``duration``, ``number`` or ``choice``.
    """

    field: str
    kind: str
    check: Callable[[Any], Any]
    means: str


def _durations(field: str, means: str, least: float = 0.0, most: float = MAX_DURATION) -> Setting:
    return Setting(field, "duration", _duration(least, most), means)


SETTINGS: Mapping[str, Setting] = {
    "strategy": Setting("strategy", "choice", _strategy, "how tasks are placed on workers"),
    "locks.ttl": _durations("lock_ttl", "of locks taken without one", MIN_TTL, MAX_TTL),
    "worker.ttl": _durations("worker_ttl", "of worker daemons started without one", MIN_TTL, MAX_TTL),
    "retention.history": _durations("retention_history", "commits stay, for gc", MIN_HISTORY),
    "retention.succeeded": _durations("retention_succeeded", "tasks that succeeded stay"),
    "retention.cancelled": _durations("retention_cancelled", "tasks that were cancelled stay"),
    "retention.dead": _durations("retention_dead", "tasks that failed for good stay"),
    "retention.audit": _durations("retention_audit", "audit entries stay"),
    "quota.open_tasks": Setting("quota_open_tasks", "number", _quota, "tasks that have not ended, at most"),
    "quota.memory_keys": Setting("quota_memory_keys", "number", _quota, "keys of a namespace, at most"),
    "quota.locks": Setting("quota_locks", "number", _quota, "locks held at a time, at most"),
}
"""Every setting by the name that people use."""


class SettingState(NamedTuple):
    """A setting as it is: what counts, the default, whether it was ``given``, its kind and what it means."""

    name: str
    value: Any
    default: Any
    given: bool
    kind: str
    means: str


class Parsed(NamedTuple):
    """A settings record as it was understood: what counts, what was set, what is wrong, and keys of other versions."""

    config: HubConfig
    given: dict[str, Any]
    problems: tuple[str, ...]
    unknown: dict[str, Any]


def parse(raw: bytes | None) -> Parsed:
    """The settings in a record's text; never raises."""
    try:
        record = {} if raw is None else _object(raw)
    except (ValueError, RecursionError) as error:
        return Parsed(HubConfig(), {}, (f"the record cannot be read: {error}",), {})
    given: dict[str, Any] = {}
    unknown = {name: value for name, value in record.items() if name not in SETTINGS and name != "format"}
    unfit = [name for name, value in unknown.items() if not _can_be_kept(name, value)]
    for name in unfit:
        del unknown[name]
    problems = [f"{name[:80]!r} is not a setting of this version" for name in unknown]
    problems += [f"{name[:80]!r} is not a setting and cannot be written again" for name in unfit]
    for name, value in record.items():
        if name in SETTINGS:
            try:
                given[name] = SETTINGS[name].check(value)
            except ValueError as error:
                problems.append(f"{name}: {str(value)[:40]!r} {error}")
    config = replace(HubConfig(), **{SETTINGS[name].field: value for name, value in given.items()})
    return Parsed(config, given, tuple(problems), unknown)


def mended(raw: bytes | None) -> tuple[bytes, tuple[str, ...]]:
    """A settings record without what cannot be used, and what that was, a line each."""
    parsed = parse(raw)
    # Those of other versions come first, and are left to these.
    return _encode({**parsed.unknown, **parsed.given}), parsed.problems[len(parsed.unknown) :]


def _can_be_kept(name: str, value: Any) -> bool:
    """Whether JSON that was read can be written: not a number beyond all floats, half a character, or deep nesting."""
    try:
        to_json({name: value})
    except (ValueError, RecursionError):
        return False
    return True


def _encode(values: Mapping[str, Any]) -> bytes:
    return to_json({"format": 1, **values}).encode()


def _object(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_RECORD:
        raise ValueError(f"{len(raw)} bytes are too many")
    record = json.loads(raw, parse_constant=_no_number)
    if not isinstance(record, dict):
        raise ValueError("it is not a JSON object")
    return record


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number there")


@dataclass(slots=True)
class ConfigReader:
    """Keeps the settings last read, for as long as the branch ``meta`` does not move. Thread-safe.

    The branch is looked at once a poll interval at most: another user's
    change counts here from the next look on.
    """

    _mutex: threading.Lock = field(default_factory=threading.Lock)
    _looked_at: float | None = None
    _head: Oid | None = None
    _entry: Entry | None = None
    _parsed: Parsed = field(default_factory=lambda: parse(None))

    def read(self, transactor: Transactor, interval: float) -> Parsed:
        """The settings as of at most ``interval`` seconds ago; those before where the hub does not answer."""
        with self._mutex:
            now = transactor.runtime.monotonic()
            if self._looked_at is None or now - self._looked_at >= interval:
                self._look(transactor, interval)
                self._looked_at = now
            return self._parsed

    def forget(self) -> None:
        """Look afresh at the next call."""
        with self._mutex:
            self._looked_at = None

    def _look(self, transactor: Transactor, interval: float) -> None:
        try:
            snapshot = transactor.recent_view(META, age=interval)[META]
            if snapshot.head == self._head:
                return
            entry = snapshot.entry(SETTINGS_RECORD)
            if entry != self._entry:
                self._parsed = parse(snapshot.read(SETTINGS_RECORD))
                self._entry = entry
            self._head = snapshot.head
        except GhcoordError:
            return  # what needs the hub will say what is wrong with it


class HubSettings:
    """``hub.config``: the settings that all users of the hub share."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def _parsed(self) -> Parsed:
        return parse(self._context.snapshot(META).read(SETTINGS_RECORD))

    def get(self, name: str) -> Any:
        """What counts for the setting ``name``, set or default. Raises ``NotFound``."""
        return getattr(self._parsed().config, _known(name).field)

    def all(self) -> dict[str, Any]:
        """What counts for every setting, by name."""
        config = self._parsed().config
        return {name: getattr(config, one.field) for name, one in SETTINGS.items()}

    def describe(self, name: str | None = None) -> list[SettingState]:
        """Every setting, or the one called ``name``, as it is. Raises ``NotFound``."""
        parsed, default = self._parsed(), HubConfig()
        chosen = SETTINGS if name is None else {name: _known(name)}
        return [
            SettingState(
                one,
                getattr(parsed.config, of.field),
                getattr(default, of.field),
                one in parsed.given,
                of.kind,
                of.means,
            )
            for one, of in chosen.items()
        ]

    def given(self) -> dict[str, Any]:
        """The settings that were set, by name; the others have their defaults."""
        return dict(self._parsed().given)

    def problems(self) -> list[str]:
        """What is wrong with the record, a line each; empty when nothing is."""
        return list(self._parsed().problems)

    def set(self, name: str, value: Any) -> Any:
        """Set ``name`` for all users of the hub; returns the value as kept.

        A duration is a number of seconds or a text such as ``"30d"``.  What
        people broke in the record is dropped.  Raises ``NotFound`` for an
        unknown name, ``UsageError`` for a value that it does not take.
        """
        setting = _known(name)
        try:
            kept = setting.check(value)
        except ValueError as error:
            raise UsageError(f"{name}: {str(value)[:40]!r} {error}") from None
        self._change(name, kept)
        return kept

    def unset(self, name: str) -> bool:
        """Return to the default; ``False`` when ``name`` was not set. Raises ``NotFound``."""
        _known(name)
        return self._change(name, None)

    def _change(self, name: str, value: Any) -> bool:
        actor = self._context.actor

        def run(tx: Tx) -> bool:
            raw = tx.read(META, SETTINGS_RECORD)
            parsed = parse(raw)
            before = parsed.given
            after = {**parsed.unknown, **{key: kept for key, kept in before.items() if key != name}}
            if value is not None:
                after[name] = value
            data = _encode(after)
            if data != raw and (after or raw is not None):
                tx.write(META, SETTINGS_RECORD, data)
                kind = "setting changed" if value is not None else "setting unset"
                tx.event(META, kind, setting=name, value=value, before=before.get(name), by=actor)
            return name in before

        was_set = self._context.transact((META,), run)
        self._context.forget_config()
        return was_set


def _known(name: str) -> Setting:
    found = SETTINGS.get(name)
    if found is None:
        raise NotFound(f"{name[:80]!r} is no setting of a hub: one of {', '.join(SETTINGS)}")
    return found
