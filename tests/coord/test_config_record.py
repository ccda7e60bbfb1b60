"""Settings that all users of a hub share: validated, watched, and read whatever people make of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ghcoord.config import LockSettings, WorkerSettings
from ghcoord.coord.care.settings import SETTINGS, HubConfig, mended, parse
from ghcoord.coord.layout import META, SETTINGS_RECORD
from ghcoord.errors import NotFound, UsageError
from ghcoord.hub import Hub
from tests.coord.world import World, taken


def test_defaults(hub: Hub) -> None:
    """Without a record every setting has its default, and nothing counts as set."""
    assert {name: getattr(HubConfig(), one.field) for name, one in SETTINGS.items()} == hub.config.all()
    assert {} == hub.config.given()
    assert ("least_loaded", 300.0, 30 * 86400.0, None) == tuple(
        hub.config.get(name) for name in ("strategy", "locks.ttl", "retention.history", "quota.open_tasks")
    )


def test_set_get_unset(both: World) -> None:
    """What one user sets the others see; a change is an event; returning to the default is one too."""
    a, b = both.open("a"), both.open("b")
    assert 604800.0 == a.config.set("retention.history", "7d")
    assert 5 == a.config.set("quota.locks", "5")
    a.config.set("strategy", "affinity")
    assert {"retention.history": 604800.0, "quota.locks": 5, "strategy": "affinity"} == b.config.given()
    assert {"format": 1, **a.config.given()} == json.loads(both.files(META)[SETTINGS_RECORD])
    assert b.config.unset("strategy")
    assert not b.config.unset("strategy")
    assert "least_loaded" == a.config.get("strategy")
    summaries = [commit.summary for commit in a.log(META)]
    assert ["meta: setting unset", *["meta: setting changed"] * 3] == summaries[:4]


def test_setting_what_is_set_commits_nothing(hub: Hub) -> None:
    """The same value again is no change."""
    hub.config.set("locks.ttl", 60)
    before = hub.commits
    hub.config.set("locks.ttl", "1m")
    hub.config.unset("worker.ttl")
    assert before == hub.commits


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("strategy", "best", "'best' is not a strategy: one of round_robin, least_loaded"),
        ("strategy", 5, "is not a strategy"),
        ("locks.ttl", "0.5s", "is out of range: 1s to 30d"),
        ("locks.ttl", "31d", "is out of range"),
        ("locks.ttl", "soon", "cannot be used: bad duration 'soon'"),
        ("locks.ttl", True, "is not a duration"),
        ("locks.ttl", 10**400, "cannot be used"),
        ("retention.history", "5m", "is out of range: 1h00m to"),
        ("quota.locks", -1, "is not a whole number from 0 to 1,000,000,000"),
        ("quota.locks", 1.5, "is not a whole number"),
        ("quota.locks", "many", "is not a whole number"),
        ("quota.locks", True, "is not a whole number"),
    ],
)
def test_what_a_setting_does_not_take(hub: Hub, name: str, value: Any, why: str) -> None:
    """It says which setting, which value and what it takes; nothing changes."""
    before = hub.commits
    with pytest.raises(UsageError) as error:
        hub.config.set(name, value)
    assert error.value.message.startswith(f"{name}: ")
    assert why in error.value.message
    assert before == hub.commits


def test_an_unknown_name(hub: Hub) -> None:
    """It names those that there are."""
    for call in (hub.config.get, hub.config.unset, hub.config.describe, lambda name: hub.config.set(name, 1)):
        with pytest.raises(NotFound, match=r"'lock.ttl' is no setting of a hub: one of strategy, locks.ttl"):
            call("lock.ttl")


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"5", b"\xff\xfe", b"[" * 100_000, b'{"locks.ttl": NaN}', b'{"x": 1' + b"0" * 5000 + b"}"],
)
def test_a_record_that_cannot_be_read(world: World, text: bytes) -> None:
    """The defaults count, the trouble is named, and setting something repairs it."""
    hub = world.open()
    hub.config.set("locks.ttl", 60)
    world.put(META, {SETTINGS_RECORD: text})
    assert HubConfig() == parse(text).config
    assert 300.0 == hub.config.get("locks.ttl")
    (problem,) = hub.config.problems()
    assert problem.startswith("the record cannot be read: ")
    assert "locks.ttl" not in hub.config.given()
    hub.config.set("quota.locks", 3)
    assert [] == hub.config.problems()
    assert {"quota.locks": 3} == hub.config.given()


def test_a_broken_value_leaves_the_others(world: World) -> None:
    """Only what cannot be used counts as not set, and what another version knows is kept."""
    hub = world.open()
    record = {"format": 1, "locks.ttl": "forever", "quota.locks": 7, "newer.setting": {"a": 1}, "strategy": None}
    world.put(META, {SETTINGS_RECORD: json.dumps(record).encode()})
    assert (300.0, 7, "least_loaded") == tuple(map(hub.config.get, ("locks.ttl", "quota.locks", "strategy")))
    assert [
        "'newer.setting' is not a setting of this version",
        "locks.ttl: 'forever' cannot be used: bad duration 'forever': write 90, 90s, 5m or 1h30m",
        "strategy: 'None' is not a strategy: one of round_robin, least_loaded, capacity_based, affinity, adaptive",
    ] == hub.config.problems()
    data, dropped = mended(json.dumps(record).encode())
    assert {"format": 1, "newer.setting": {"a": 1}, "quota.locks": 7} == json.loads(data)
    assert ["locks.ttl", "strategy"] == [line.partition(":")[0] for line in dropped]
    hub.config.set("locks.ttl", 9)
    assert {"a": 1} == json.loads(world.files(META)[SETTINGS_RECORD])["newer.setting"]


@pytest.mark.parametrize("value", ["1e999", r'"\ud800"', "[" * 300 + "]" * 300, "[" * 900 + "]" * 900])
def test_what_cannot_be_written_again_is_dropped(world: World, value: str) -> None:
    """A stranger's value that JSON allows but no writer makes stands in the way of no change and no repair."""
    hub = world.open()
    text = f'{{"quota.locks": 7, "strange": {value}}}'.encode()
    world.put(META, {SETTINGS_RECORD: text})
    assert ["'strange' is not a setting and cannot be written again"] == hub.config.problems()
    assert {"format": 1, "quota.locks": 7} == json.loads(mended(text)[0])
    assert 1 == len(mended(text)[1])
    hub.config.set("locks.ttl", 9)
    assert {"quota.locks": 7, "locks.ttl": 9.0} == hub.config.given()
    assert [] == hub.config.problems()


def test_the_ttl_of_locks(world: World) -> None:
    """An argument goes before this process's settings, these before the hub's, and these before the default."""
    hub, own = world.open(), world.open("own", locks=LockSettings(ttl=7.0))
    assert 300.0 == taken(hub.locks.acquire("a")).ttl
    hub.config.set("locks.ttl", 20)
    assert 20.0 == taken(hub.locks.acquire("b")).ttl
    assert 7.0 == taken(own.locks.acquire("c")).ttl
    assert 5.0 == taken(own.locks.acquire("d", ttl=5)).ttl


def test_the_ttl_of_workers(world: World) -> None:
    """The same order."""
    hub, own = world.open(), world.open("own", worker=WorkerSettings(ttl=7.0))
    assert (15.0, 7.0, 3.0) == (hub.worker_ttl(), own.worker_ttl(), own.worker_ttl(3.0))
    hub.config.set("worker.ttl", 20)
    assert (20.0, 7.0) == (hub.worker_ttl(), own.worker_ttl())


def test_others_notice_within_a_poll_interval(world: World) -> None:
    """Who has the hub open reads the settings once in a poll interval at most, and the record only when it moved."""
    a, b = world.open("a"), world.open("b")
    assert 300.0 == b._context.config().lock_ttl
    a.config.set("locks.ttl", 20)
    assert 20.0 == a._context.config().lock_ttl
    assert 300.0 == b._context.config().lock_ttl
    world.runtime.advance(b.poll_interval)
    assert 20.0 == b._context.config().lock_ttl


def test_a_hub_that_does_not_answer_changes_no_settings(world: World) -> None:
    """What was last known goes on counting."""
    hub, faulty = world.open_faulty()
    hub.config.set("locks.ttl", 20)
    assert 20.0 == hub._context.config().lock_ttl
    world.runtime.advance(hub.poll_interval)
    real = faulty.heads

    def fails() -> dict[str, str]:
        from ghcoord.errors import Unavailable

        raise Unavailable("gone")

    faulty.heads = fails  # type: ignore[method-assign]
    assert 20.0 == hub._context.config().lock_ttl
    faulty.heads = real  # type: ignore[method-assign]
