"""``ghcoord task cancel | retry | purge | assign | unassign``, by ids and by query: previewed, asked, done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ghcoord.bootstrap import connect
from ghcoord.hub import Submission
from tests.cli.running import Cli
from tests.cli.terminal import Terminal

pytestmark = pytest.mark.usefixtures("hub")


@pytest.fixture
def many(hub: Path) -> Callable[..., None]:
    """Submit so many tasks."""

    def submit(count: int, tool: str = "echo") -> None:
        with connect(hub) as opened:
            opened.tasks.submit_many([Submission(tool, id=f"{tool}{n:02}") for n in range(count)])

    return submit


def states(cli: Cli) -> dict[str, int]:
    found: dict[str, int] = {}
    for task in cli("task", "list", "--json").json:
        found[task["state"]] = found.get(task["state"], 0) + 1
    return found


def test_a_dry_run_shows_how_many_and_the_first_ten(cli: Cli, many: Callable[..., None]) -> None:
    """And changes nothing."""
    many(12)
    lines = cli("task", "cancel", "--tool", "echo", "--dry-run").out.splitlines()
    assert ("12 tasks would be cancelled:", "  echo00  echo  queued", "  … and 2 more") == (
        lines[0],
        lines[1],
        lines[-1],
    )
    assert 12 == len(lines)
    dry = cli("task", "cancel", "--all", "--dry-run", "--json").json
    assert (12, True, 10) == (dry["count"], dry["dry_run"], len(dry["first"]))
    assert "0 tasks would be purged\n" == cli("task", "purge", "--all", "--dry-run").out
    assert {"queued": 12} == states(cli)


def test_nobody_to_ask(cli: Cli, many: Callable[..., None]) -> None:
    """Without a terminal and without --yes nothing happens, and what would is shown."""
    many(2)
    for verb, options in (("cancel", ["--all"]), ("retry", ["--state", "dead"]), ("purge", ["--all"])):
        if verb != "cancel":
            assert 0 == cli("task", verb, *options).code, "there is nothing to ask about"
            continue
        refused = cli("task", verb, *options)
        assert 2 == refused.code
        assert "2 tasks would be cancelled:\n  echo00  echo  queued\n" in refused.err
        assert refused.err.endswith("error: Cancel 2 tasks? Nobody is there to answer: add --yes\n")
        in_json = cli("task", verb, *options, "--json")
        assert (2, "") == (in_json.code, in_json.err)
    assert {"queued": 2} == states(cli)


def test_asked_on_a_terminal(many: Callable[..., None], cli: Cli) -> None:
    """A no changes nothing."""
    many(3)
    with Terminal("task", "cancel", "--tool", "echo") as terminal:
        terminal.wait_for("Cancel 3 tasks?")
        terminal.type("n\n")
        assert 130 == terminal.end()
    assert {"queued": 3} == states(cli)


def test_cancel_retry_purge_by_query(cli: Cli, many: Callable[..., None]) -> None:
    """Exactly what meets the filters, with the number as the output."""
    many(3)
    many(2, "other")
    assert "2 tasks cancelled\n" == cli("task", "cancel", "--tool", "other", "--reason", "no", "--yes").out
    assert {"queued": 3, "cancelled": 2} == states(cli)
    assert "0 tasks retried\n" == cli("task", "retry", "--tool", "other", "--yes").out, "dead ones, unless said"
    assert {"retried": 2, "refused": {}} == cli(
        "task", "retry", "--tool", "other", "--state", "cancelled", "--yes", "--json"
    ).json
    assert "5 tasks cancelled\n" == cli("task", "cancel", "--all", "-y").out
    assert {"purged": 3, "refused": {}} == cli("task", "purge", "--tool", "echo", "--yes", "--json").json
    assert "0 tasks purged\n" == cli("task", "purge", "--ended-before", "1h", "--yes").out
    assert "2 tasks purged\n" == cli("task", "purge", "--all", "--yes").out
    assert {} == states(cli)


def test_by_ids(cli: Cli, many: Callable[..., None]) -> None:
    """Of several ids each is told, and the first refusal sets the exit code."""
    many(3)
    done = cli("task", "cancel", "echo00", "echo01")
    assert (0, "echo00 cancelled\necho01 cancelled\n") == (done.code, done.out)
    mixed = cli("task", "cancel", "nobody", "echo00", "echo02")
    assert (3, "echo02 cancelled\n") == (mixed.code, mixed.out)
    assert ["error: there is no task 'nobody'", "error: task echo00 is cancelled: it cannot cancel from there"] == (
        mixed.err.splitlines()
    )
    retried = cli("task", "retry", "echo00", "echo01", "nobody", "--json")
    assert (3, ["echo00", "echo01"], ["nobody"]) == (
        retried.code,
        retried.json["retried"],
        list(retried.json["refused"]),
    )


def test_purge_by_ids(cli: Cli, many: Callable[..., None]) -> None:
    """Asks as well; one that is open or awaited exits 4, an unknown one 3."""
    many(2)
    cli("task", "cancel", "echo00")
    assert 2 == cli("task", "purge", "echo00").code
    open_one = cli("task", "purge", "echo01", "--yes")
    assert (4, "task echo01 is queued: only tasks that have ended are purged") == (open_one.code, open_one.error)
    assert 3 == cli("task", "purge", "nobody", "--yes").code
    cli("task", "submit", "echo", "--after", "echo00", "--if-failed", "wait")
    awaited = cli("task", "purge", "echo00", "--yes")
    assert (4, "task echo00 cannot be purged: others wait for it\n") == (awaited.code, awaited.err)
    cli("task", "cancel", "--state", "blocked", "--yes")
    assert "1 task purged\n" == cli("task", "purge", "echo00", "--yes").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cancel"], "say which tasks to cancel"),
        (["retry"], "say which tasks to retry"),
        (["purge"], "say which tasks to purge"),
        (["cancel", "t1", "--tool", "x"], "not both"),
        (["retry", "t1", "--all"], "not both"),
        (["purge", "t1", "--tool", "x"], "not both"),
        (["cancel", "t1", "--dry-run"], "goes with filters"),
        (["cancel", "--state", "pending"], "--state 'pending' is unknown"),
        (["cancel", "--state", "dead", "--yes"], "dead tasks cannot be cancelled"),
        (["purge", "--state", "queued", "--yes"], "queued tasks cannot be purged"),
        (["purge", "--ended-before", "soon"], "--ended-before 'soon' is no moment"),
        (["purge", "--ended-before", "abcdef12345"], "takes a time"),
        (["purge", "--older-than", "soon"], "1h30m"),
        (["cancel", "--meta", "x"], "key=value"),
    ],
)
def test_wrong_usage(cli: Cli, words: list[str], said: str) -> None:
    """Exits 2 with one line."""
    refused = cli("task", *words)
    assert 2 == refused.code
    assert said in refused.error


def test_assign_and_unassign(cli: Cli, many: Callable[..., None]) -> None:
    """A task is meant for one worker, then for all; what is missing exits 3, a task that has ended 4."""
    many(1)
    assert 3 == cli("task", "assign", "echo00", "w1").code
    cli("worker", "register", "w1")
    assert "echo00 is meant for w1\n" == cli("task", "assign", "echo00", "w1").out
    shown = cli("task", "show", "echo00", "--json").json
    assert ("w1", {"worker": "w1", "until": None, "pinned": False}) == (
        shown["worker"],
        {key: shown["assigned"][key] for key in ("worker", "until", "pinned")},
    )
    assert shown["assigned_at"] is not None
    assert "meant for  w1" in cli("task", "show", "echo00").out
    assert "echo00 is for any worker\n" == cli("task", "unassign", "echo00").out
    assert None is cli("task", "show", "echo00", "--json").json["assigned_at"]
    assert (3, 3) == (cli("task", "assign", "nobody", "w1").code, cli("task", "unassign", "nobody").code)
    cli("task", "cancel", "echo00")
    assert 4 == cli("task", "assign", "echo00", "w1").code
