"""``ghcoord schedule``: every verb, once with success and once without."""

from __future__ import annotations

import re

import pytest

from tests.cli.running import Cli, Later

pytestmark = pytest.mark.usefixtures("hub")


def test_add_and_show(cli: Cli) -> None:
    """What was given is kept and shown, with the next due time."""
    done = cli(
        *("schedule", "add", "nightly", "0 3 * * *", "echo", "--arg", "message=hi", "--timezone", "Europe/Berlin"),
        *("--missed", "all", "--grace", "10m", "--no-overlap", "--priority", "4", "--key", "k", "--rate", "3/1m"),
        *("--min-cores", "2", "--require", "gpu", "--meta", "x=1", "--estimate", "90s", "--retries", "2"),
    )
    assert re.fullmatch(r"nightly: next at 20\d\d-\d\d-\d\dT0[12]:00:00\.000Z\n", done.out)
    shown = cli("schedule", "show", "nightly", "--json").json
    assert {
        "name": "nightly",
        "cron": "0 3 * * *",
        "timezone": "Europe/Berlin",
        "tool": "echo",
        "args": {"message": "hi"},
        "missed": "all",
        "grace": 600.0,
        "overlap": False,
        "paused": False,
        "last_fire": None,
        "last_task": None,
        "fires": 0,
    }.items() <= shown.items()
    assert {
        "priority": 4,
        "key": "k",
        "rate": [3, 60.0],
        "requirements": {"min_cpu_cores": 2, "required_capabilities": ["gpu"]},
        "metadata": {"x": "1"},
        "estimated_duration": 90.0,
        "retries": 2,
    } == shown["options"]
    plain = cli("schedule", "show", "nightly").out
    for part in ("times     0 3 * * * (Europe/Berlin)", "missed    all, when over 10m00s late", "left out while"):
        assert part in plain
    assert 3 == cli("schedule", "show", "other").code


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["s", "* * *", "echo"], "five cron fields"),
        (["s", "0 0 31 2 *", "echo"], "is wrong"),
        (["a b", "@daily", "echo"], "schedule name"),
        (["s", "@daily", "a b"], "tool name"),
        (["s", "@daily", "echo", "--timezone", "Mars"], "no time zone 'Mars'"),
        (["s", "@daily", "echo", "--missed", "none"], "one of latest, skip, all"),
        (["s", "@daily", "echo", "--grace", "soon"], "1h30m"),
        (["s", "@daily", "echo", "--rate", "fast"], "10/1m"),
        (["s", "@daily", "echo", "--unique", "--no-overlap"], "unique key already"),
        (["s", "@daily", "echo", "--args-json", "["], "not JSON"),
    ],
)
def test_add_refuses(cli: Cli, options: list[str], said: str) -> None:
    """Each mistake exits 2 with one line that says what is wanted."""
    refused = cli("schedule", "add", *options)
    assert 2 == refused.code
    assert said in refused.error
    assert [] == cli("schedule", "list", "--json").json


def test_add_again(cli: Cli) -> None:
    """The same is no change, another one needs --replace, and nothing is lost by mistake."""
    for _ in range(2):
        assert 0 == cli("schedule", "add", "s", "@daily", "echo").code
    refused = cli("schedule", "add", "s", "@hourly", "echo")
    assert (4, "there is another schedule 's' (@daily): replace or remove it") == (refused.code, refused.error)
    assert "@hourly" == cli("schedule", "add", "s", "@hourly", "echo", "--replace", "--json").json["cron"]


def test_list(cli: Cli) -> None:
    """A line each; in JSON all of it."""
    assert "no schedules\n" == cli("schedule", "list").out
    cli("schedule", "add", "b", "@daily", "echo", "--paused")
    cli("schedule", "add", "a", "every 15m", "shell")
    lines = cli("schedule", "list").out.splitlines()
    assert [["a", "every"], ["b", "@daily"]] == [line.split()[:2] for line in lines[1:]]
    assert "paused" in lines[2]
    assert ["a", "b"] == [one["name"] for one in cli("schedule", "list", "--json").json]
    assert 2 == cli("schedule", "list", "--limit", "1").code


def test_next(cli: Cli) -> None:
    """The next due times in the schedule's zone, in JSON in UTC."""
    cli("schedule", "add", "s", "30 2 * * *", "echo", "--timezone", "Asia/Kolkata", "--paused")
    lines = cli("schedule", "next", "s", "-n", "2").out.splitlines()
    assert 2 == len(lines)
    assert all(line.endswith("02:30:00 IST") for line in lines)
    assert all(at.endswith("T21:00:00.000Z") for at in cli("schedule", "next", "s", "--json").json)
    assert 3 == cli("schedule", "next", "other").code
    assert 2 == cli("schedule", "next", "s", "-n", "0").code


def test_pause_and_resume(cli: Cli) -> None:
    """Paused it has no next due time; an unknown one exits 3."""
    cli("schedule", "add", "s", "@daily", "echo")
    assert "s paused\n" == cli("schedule", "pause", "s").out
    assert None is cli("schedule", "show", "s", "--json").json["next_fire"]
    assert "next      paused" in cli("schedule", "show", "s").out
    assert cli("schedule", "resume", "s").out.startswith("s: next at 20")
    for verb in ("pause", "resume"):
        assert 3 == cli("schedule", verb, "other").code


def test_remove(cli: Cli) -> None:
    """Where nobody can answer it needs --yes; an unknown one exits 3."""
    cli("schedule", "add", "s", "@daily", "echo")
    refused = cli("schedule", "remove", "s")
    assert 2 == refused.code
    assert "add --yes" in refused.error
    assert "s removed\n" == cli("schedule", "remove", "s", "--yes").out
    assert 3 == cli("schedule", "remove", "s", "--yes").code


def test_run(cli: Cli) -> None:
    """A task at once; where tasks must not overlap the one that is there is named."""
    cli("schedule", "add", "s", "@daily", "echo", "--no-overlap", "--arg", "message=x")
    made = cli("schedule", "run", "s", "--json").json
    assert ("s", "queued", False) == (made["schedule"], made["state"], made["duplicate"])
    again = cli("schedule", "run", "s")
    assert (f"{made['id']}\n", f"task {made['id']} is there already: it is queued\n") == (again.out, again.err)
    assert [made["id"]] == [task["id"] for task in cli("task", "list", "--schedule", "s", "--json").json]
    assert 3 == cli("schedule", "run", "other").code


def test_a_worker_fires(cli: Cli, later: Later) -> None:
    """What was due while nobody was there is fired by the next worker, as the policy says."""
    cli("schedule", "add", "one", "@daily", "echo", "--arg", "message=x")
    cli("schedule", "add", "each", "@daily", "echo", "--arg", "message=x", "--missed", "all")
    cli("schedule", "add", "none", "@daily", "echo", "--arg", "message=x", "--missed", "skip")
    later(3 * 86400 + 7200)
    worker = cli("worker", "start", "--until-idle", "50ms", "--poll", "50ms")
    assert 0 == worker.code, worker.err
    states = {
        name: [task["state"] for task in cli("task", "list", "--schedule", name, "--json").json]
        for name in ("one", "each", "none")
    }
    assert {"one": ["succeeded"], "each": ["succeeded"] * 3, "none": []} == states
