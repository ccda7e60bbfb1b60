"""``ghcoord config``."""

from __future__ import annotations

from pathlib import Path

from ghcoord.bootstrap import connect
from tests.cli.running import Cli


def ttl(hub: Path) -> float:
    """The ttl of the lock x."""
    with connect(hub) as opened:
        lock = opened.locks.get("x")
    assert lock is not None
    return (lock.expires_at - lock.acquired_at).total_seconds()


def test_list(cli: Cli, hub: Path) -> None:
    """Every setting with what counts, and the default beside what was changed; within 80 columns."""
    assert 0 == cli("config", "set", "retention.history", "7d").code
    done = cli("config", "list")
    assert 0 == done.code
    (line,) = (line for line in done.out.splitlines() if line.startswith("retention.history"))
    assert ["retention.history", "7d", "30d", "commits"] == line.split()[:4]
    assert all(len(line) <= 80 for line in done.out.splitlines())
    found = {one["name"]: one for one in cli("config", "list", "--json").json}
    expected = {
        "value": 604800.0,
        "default": 2592000.0,
        "set": True,
        "kind": "duration",
        "means": "commits stay, for gc",
    }
    assert {"name": "retention.history", **expected} == found["retention.history"]
    assert (None, False) == (found["quota.locks"]["value"], found["quota.locks"]["set"])
    assert 11 == len(found)


def test_list_without_a_hub(cli: Cli, tmp_path: Path) -> None:
    """There is nothing to list."""
    assert 3 == cli("config", "list", "--hub", tmp_path / "missing").code


def test_get(cli: Cli, hub: Path) -> None:
    """One value, as it may be set again."""
    assert "5m00s\n" == cli("config", "get", "locks.ttl").out
    assert "least_loaded\n" == cli("config", "get", "strategy").out
    assert "none\n" == cli("config", "get", "quota.locks").out
    assert 300.0 == cli("config", "get", "locks.ttl", "--json").json["value"]


def test_get_of_an_unknown_one(cli: Cli, hub: Path) -> None:
    """It names those that there are."""
    done = cli("config", "get", "lock.ttl")
    assert 3 == done.code
    assert "'lock.ttl' is no setting of a hub: one of strategy, locks.ttl" in done.error


def test_set(cli: Cli, hub: Path) -> None:
    """The new value counts for the next command."""
    done = cli("config", "set", "locks.ttl", "90")
    assert (0, "locks.ttl is 1m30s now\n") == (done.code, done.out)
    assert 90.0 == cli("config", "set", "locks.ttl", "90", "--json").json["value"]
    cli("lock", "acquire", "x")
    assert 90.0 == ttl(hub)


def test_set_to_what_it_does_not_take(cli: Cli, hub: Path) -> None:
    """What is wrong is said, and nothing changes."""
    done = cli("config", "set", "strategy", "fastest")
    assert 2 == done.code
    assert "strategy: 'fastest' is not a strategy: one of round_robin" in done.error
    assert 2 == cli("config", "set", "quota.locks", "--", "-1").code
    assert "least_loaded\n" == cli("config", "get", "strategy").out


def test_unset(cli: Cli, hub: Path) -> None:
    """The default counts again; doing so twice is no error."""
    cli("config", "set", "quota.locks", "3")
    assert "quota.locks is none, the default\n" == cli("config", "unset", "quota.locks").out
    assert "quota.locks is none, the default, as before\n" == cli("config", "unset", "quota.locks").out
    assert cli("config", "unset", "quota.locks", "--json").json["set"] is False


def test_unset_of_an_unknown_one(cli: Cli, hub: Path) -> None:
    """A misspelt name is told."""
    assert 3 == cli("config", "unset", "quota").code


def test_the_files_settings_go_first(cli: Cli, hub: Path, tmp_path: Path) -> None:
    """ghcoord.toml goes before the hub's settings."""
    cli("config", "set", "locks.ttl", "90")
    (tmp_path / "ghcoord.toml").write_text("[locks]\nttl = 40\n")
    cli("lock", "acquire", "x")
    assert 40.0 == ttl(hub)
