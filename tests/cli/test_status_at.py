"""``ghcoord status --at``: the hub as it was."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from ghcoord.bootstrap import open_hub
from ghcoord.config import Settings
from ghcoord.faces.dashboard import Dashboard
from ghcoord.faces.overview import gather
from ghcoord.store.inmemory import MemoryStore
from ghcoord.testing.clock import ManualRuntime
from tests.cli.running import Cli, Later
from tests.store.gitrepo import git


@pytest.fixture
def moments(hub: Path, cli: Cli, later: Later) -> dict[str, str]:
    """Things done a minute apart, and the times between them."""
    found = {}
    for at, (name, line) in enumerate(
        {
            "task": "task submit echo --arg message=x --id one",
            "lock": "lock acquire deploy --owner ci-7 --ttl 2h",
            "worker": "worker register w1",
            "free": "lock release deploy --owner ci-7",
            "cancelled": "task cancel one",
        }.items()
    ):
        later(3600 + 60 * at)
        assert 0 == cli(*line.split()).code
        later(3600 + 60 * at + 30)
        found[name] = cli("status", "--json").json["at"]
    later(7200)
    return found


def test_each_moment_is_shown_as_it_was(moments: dict[str, str], cli: Cli) -> None:
    """Between two changes exactly the first is there: in tasks, locks, workers and events."""
    seen = {name: cli("status", "--at", at, "--json").json for name, at in moments.items()}
    assert moments == {name: view["at"] for name, view in seen.items()}
    assert [1, 1, 1, 1, 0] == [view["queue"]["queued"] for view in seen.values()]
    assert [0, 0, 0, 0, 1] == [view["queue"]["cancelled"] for view in seen.values()]
    assert [0, 1, 1, 0, 0] == [len(view["locks"]) for view in seen.values()]
    assert [0, 0, 1, 1, 1] == [len(view["workers"]) for view in seen.values()]
    assert [1, 2, 3, 4, 5] == [len(view["events"]) for view in seen.values()]
    assert 2 * 3600 - 30 == round(seen["lock"]["locks"][0]["lease_left"])
    revisions = [view["revision"] for view in seen.values()]
    assert sorted(set(revisions)) == revisions
    for view in seen.values():
        assert view["revision"] == max(view["revisions"].values())


def test_a_revision_and_a_commit_name_moments(moments: dict[str, str], cli: Cli, hub: Path) -> None:
    """What a moment's JSON gives as revision shows the same again, and so does a commit from git log."""
    view = cli("status", "--at", moments["lock"], "--json").json
    again = cli("status", "--at", view["revision"], "--json").json
    assert view["revisions"] == again["revisions"]
    assert ["deploy"] == [lock["name"] for lock in again["locks"]]
    commit = git(hub, "log", "--format=%h", "--grep", "lock acquired", "ghcoord/locks").strip()
    assert again == cli("status", "--at", commit, "--json").json


def test_the_screen_is_headed_by_the_moment(moments: dict[str, str], cli: Cli) -> None:
    """People see that this was, how long ago and when; in 80 columns."""
    done = cli("status", "--at", moments["lock"])
    assert 0 == done.code
    assert f"as it was 58m30s ago, {moments['lock']}" in done.out
    assert "deploy" in done.out
    assert all(80 >= len(line) for line in done.out.splitlines())
    assert "as it was" in cli("status", "--at", "10m").out


def test_a_moment_before_the_hub(moments: dict[str, str], cli: Cli) -> None:
    """It exits 3 and names the earliest moment that there is; the future is wrong usage."""
    run = cli("status", "--at", "3d")
    assert 3 == run.code
    assert "there was no hub then: it was made at 20" in run.error
    run = cli("status", "--at", "2099-01-01")
    assert 2 == run.code
    assert "is in the future: the hub's time is" in run.error


def test_at_shows_one_moment(hub: Path, cli: Cli) -> None:
    """It does not go with --watch, and takes a moment."""
    run = cli("status", "--watch", "--at", "10m")
    assert (2, "--at shows one moment: leave --watch out") == (run.code, run.error)
    run = cli("status", "--at", "then")
    assert 2 == run.code
    assert "--at 'then' is no moment" in run.error


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_header_fits(width: int) -> None:
    """The line that says which moment this is never breaks the screen."""
    runtime = ManualRuntime()
    with open_hub(MemoryStore(runtime.now), runtime, Settings()) as hub:
        runtime.advance(60)
        with hub.at(hub.now() - timedelta(seconds=30)) as past:
            view = gather(past)
    lines = Dashboard(view, past=f"as it was 30s ago, {view['at']}").draw(width, 24)
    assert lines[1].plain.startswith("as it was 30s ago")
    assert all(width >= line.cell_len for line in lines)
