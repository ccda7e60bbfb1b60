"""``ghcoord lock``: every verb, once with success and once without."""

from __future__ import annotations

import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from tests.cli.running import Cli, command, environment

pytestmark = pytest.mark.usefixtures("hub")


def test_a_held_lock_names_its_holder_and_the_time_left(cli: Cli) -> None:
    """The second owner exits 4 and is told who holds the lock and for how long; after the release it gets it."""
    first = cli("lock", "acquire", "x", "--owner", "a", "--ttl", "60")
    assert 0 == first.code
    assert "token" in first.out
    refused = cli("lock", "acquire", "x", "--owner", "b")
    assert 4 == refused.code
    assert "'a'" in refused.error
    assert "s left" in refused.error
    assert 0 == cli("lock", "release", "x", "--owner", "a").code
    assert 0 == cli("lock", "acquire", "x", "--owner", "b").code


def test_acquire_in_json(cli: Cli) -> None:
    """The grant has the documented keys, and times that are a lease apart."""
    lock = cli(
        "lock", "acquire", "x", "--owner", "a", "--ttl", "1m", "--meta", "why=test", "--meta", "n:=3", "--json"
    ).json
    parity = ["name", "owner", "token", "acquired_at", "expires_at", "metadata"]
    assert [*parity, "mode", "permits", "depth", "paths", "guards"] == list(lock)
    assert ("x", "a", "test", 3) == (lock["name"], lock["owner"], lock["metadata"]["why"], lock["metadata"]["n"])
    begin, end = (datetime.fromisoformat(lock[key]) for key in ("acquired_at", "expires_at"))
    assert 60 == (end - begin).total_seconds()
    assert lock["acquired_at"].endswith("Z")


def test_a_refusal_in_json_carries_the_holder(cli: Cli) -> None:
    """With --json the error is an object on standard output, with the holder and the seconds left."""
    cli("lock", "acquire", "x", "--owner", "a", "--ttl", "60")
    refused = cli("lock", "acquire", "x", "--owner", "b", "--json")
    assert (4, "") == (refused.code, refused.err)
    error = refused.json["error"]
    assert ("LOCK_HELD", 4, True, "a") == (
        error["code"],
        error["exit_code"],
        error["retryable"],
        error["holder"]["owner"],
    )
    assert 50 < error["seconds_left"] <= 60


def test_waiting_in_vain_exits_9(cli: Cli) -> None:
    """After --wait the refusal is a time-out, which is another exit code than being refused at once."""
    cli("lock", "acquire", "x", "--owner", "a")
    assert 9 == cli("lock", "acquire", "x", "--owner", "b", "--wait", "300ms").code


def test_waiting_gets_the_lock_when_it_is_released(cli: Cli) -> None:
    """--wait returns the grant as soon as the holder lets go."""
    cli("lock", "acquire", "x", "--owner", "a")
    waiting = subprocess.Popen(
        command("lock", "acquire", "x", "--owner", "b", "--wait", "20s", "--json"),
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert 0 == cli("lock", "release", "x", "--owner", "a").code
    assert 0 == waiting.wait(20)
    assert waiting.stdout is not None
    waiting.stdout.close()
    assert "b" == cli("lock", "show", "x", "--json").json["owner"]


def test_a_fenced_write_with_an_old_token_is_refused(cli: Cli) -> None:
    """After a new grant the old token is refused before the new holder has written anything."""
    old = cli("lock", "acquire", "x", "--owner", "a", "--json").json["token"]
    assert 0 == cli("memory", "set", "k", "1", "--fence", f"x:{old}").code
    cli("lock", "release", "x", "--owner", "a")
    new = cli("lock", "acquire", "x", "--owner", "b", "--json").json["token"]
    assert new > old
    refused = cli("memory", "set", "k", "stale", "--fence", f"x:{old}")
    assert 5 == refused.code
    assert str(new) in refused.error
    assert "1\n" == cli("memory", "get", "k").out
    assert 0 == cli("memory", "set", "k", "2", "--fence", f"x:{new}").code


def test_renew(cli: Cli) -> None:
    """Renewing moves the end and keeps the token; a stranger, a free lock and an old token have their own codes."""
    lock = cli("lock", "acquire", "x", "--owner", "a", "--ttl", "10", "--json").json
    renewed = cli("lock", "renew", "x", "--owner", "a", "--ttl", "1h", "--json").json
    assert lock["token"] == renewed["token"]
    assert lock["expires_at"] < renewed["expires_at"]
    assert 4 == cli("lock", "renew", "x", "--owner", "b").code
    assert 5 == cli("lock", "renew", "x", "--owner", "a", "--token", "1").code
    assert 3 == cli("lock", "renew", "free", "--owner", "a").code


def test_release(cli: Cli) -> None:
    """A stranger exits 4, an old token 5, a free lock 3; the holder lets go."""
    token = cli("lock", "acquire", "x", "--owner", "a", "--json").json["token"]
    assert 4 == cli("lock", "release", "x", "--owner", "b").code
    assert 5 == cli("lock", "release", "x", "--owner", "a", "--token", "1").code
    assert "x released\n" == cli("lock", "release", "x", "--owner", "a", "--token", token).out
    assert 3 == cli("lock", "release", "x", "--owner", "a").code
    assert 2 == cli("lock", "release").code


def test_release_all(cli: Cli) -> None:
    """--all releases the owner's locks and no others, and never those of a default owner."""
    for name, owner in (("x", "a"), ("y", "a"), ("z", "b")):
        cli("lock", "acquire", name, "--owner", owner)
    assert {"owner": "a", "released": 2} == cli("lock", "release", "--all", "--owner", "a", "--json").json
    assert ["z"] == [lock["name"] for lock in cli("lock", "list", "--json").json]
    assert 2 == cli("lock", "release", "--all").code
    assert 2 == cli("lock", "release", "--all", "--owner", "b", "--token", "5").code
    assert 3 == cli("lock", "release", "x", "--all", "--owner", "a").code
    assert 0 == cli("lock", "release", "z", "--all", "--owner", "b").code


def test_list(cli: Cli) -> None:
    """Locks are listed by name, of one owner when asked; an option that is not there exits 2."""
    assert "no locks\n" == cli("lock", "list").out
    for name, owner in (("y", "a"), ("x", "b")):
        cli("lock", "acquire", name, "--owner", owner)
    assert ["x", "y"] == [lock["name"] for lock in cli("lock", "list", "--include-expired", "--json").json]
    assert ["y"] == [lock["name"] for lock in cli("lock", "list", "--owner", "a", "--json").json]
    assert 2 == cli("lock", "list", "--colour").code


def test_show(cli: Cli) -> None:
    """A held lock exits 0, a free one 3."""
    cli("lock", "acquire", "x", "--owner", "a")
    assert 0 == cli("lock", "show", "x").code
    assert "the lock 'y' is free" == cli("lock", "show", "y").error
    assert 3 == cli("lock", "show", "y").code


def test_clean(cli: Cli) -> None:
    """Nothing is removed while leases run; an argument that is not taken exits 2."""
    cli("lock", "acquire", "x", "--owner", "a")
    assert {"removed": 0} == cli("lock", "clean", "--json").json
    assert 2 == cli("lock", "clean", "x").code


def test_force_unlock(cli: Cli) -> None:
    """Nobody at the terminal: refused without --yes; with it the grant ends; a free lock exits 3."""
    cli("lock", "acquire", "x", "--owner", "a")
    refused = cli("lock", "force-unlock", "x")
    assert 2 == refused.code
    assert "--yes" in refused.error
    assert "a" == cli("lock", "force-unlock", "x", "--yes", "--json").json["owner"]
    assert 3 == cli("lock", "force-unlock", "x", "--yes").code


def _race(hub: Path, lock: str, racers: int) -> list[int]:
    processes = [
        subprocess.Popen(
            command("lock", "acquire", lock, "--owner", f"o{number}"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment({"GHCOORD_HUB": str(hub)}),
        )
        for number in range(racers)
    ]
    return sorted(process.wait(60) for process in processes)


def test_a_race_has_one_winner(hub: Path) -> None:
    """Of separate processes that race for one lock exactly one gets it, and the others exit 4."""
    assert [0] + [4] * 7 == _race(hub, "x", 8)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_races_of_twenty_have_one_winner_each(hub: Path) -> None:
    """The same at full size: 10 rounds of 20 processes."""
    for number in range(10):
        assert [0] + [4] * 19 == _race(hub, f"x{number}", 20)
