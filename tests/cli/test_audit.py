"""``ghcoord audit``: every verb, once with success and once without, and moments as people write them."""

from __future__ import annotations

import json
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ghcoord.bootstrap import connect
from ghcoord.errors import UsageError
from ghcoord.faces.cli.moments import parse_time, parse_when
from ghcoord.model.event import AuditEntry
from ghcoord.model.task import TaskResult
from tests.cli.running import Cli, Later, command, environment
from tests.cli.terminal import Terminal
from tests.store.gitrepo import git

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ENTRY_KEYS = {
    "timestamp", "session_id", "user_id", "tool_name", "arguments", "result", "error_msg", "trace_id", "workspace_id"
}  # fmt: skip


@pytest.fixture
def story(hub: Path) -> Path:
    """A hub in which some things were done."""
    with connect(hub, actor="ann") as opened:
        opened.tasks.submit("echo", {"message": "x"}, id="one")
        opened.locks.acquire("deploy", "ci-7")
        opened.memory.set("size", 7, namespace="Team")
        opened.memory.set("color", {"hex": "#00ff00", "name": "green"})
        entry = AuditEntry(session_id="s1", user_id="u1", tool_name="fs.read", arguments={"password": "hunter2"})
        opened.audit.tool_call(entry)
        result = TaskResult(success=False, error="no such file")
        opened.audit.tool_result(entry.model_copy(update={"result": result, "timestamp": None}))
    with connect(hub, actor="ben") as opened:
        opened.memory.set("color", {"hex": "#ff0000", "name": "green"})
    return hub


# -- log


def test_log_is_a_table_for_people(story: Path, cli: Cli) -> None:
    """Time, who and what in words, newest first, in 80 columns; secrets are not in it."""
    done = cli("audit", "log")
    assert 0 == done.code
    lines = done.out.splitlines()
    assert ["TIME", "WHO", "WHAT"] == lines[0].split()
    assert all(80 >= len(line) for line in lines)
    for words in ("task one (echo) submitted by ann", "deploy locked by ci-7", "fs.read called (user u1, session s1)"):
        assert words in done.out
    assert "size set by ann in Team" in done.out
    assert "fs.read failed (user u1, session s1)" in done.out
    assert "hunter2" not in done.out
    assert "ben" == lines[1].split()[1]
    assert "" == done.err


def test_log_in_json(story: Path, cli: Cli) -> None:
    """One array with stable keys; a recorded call has those of an AuditEntry."""
    found = cli("audit", "log", "--json").json
    keys = {"at", "space", "namespace", "kind", "by", "author", "revision", "commit", "fields"}
    assert all(keys == set(event) for event in found)
    assert ["memory set", "tool result", "tool call"] == [event["kind"] for event in found[:3]]
    assert set(found[2]["fields"]) == ENTRY_KEYS
    assert "[redacted]" == found[2]["fields"]["arguments"]["password"]
    assert ["global", None, None, "global", "Team"] == [event["namespace"] for event in found[:5]]
    heads = git(story, "for-each-ref", "--format=%(objectname)")
    assert found[0]["commit"] in heads


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        (["--task", "one"], ["task submitted"]),
        (["--lock", "deploy"], ["lock acquired"]),
        (["--key", "color", "--namespace", "global"], ["memory set", "memory set"]),
        (["--actor", "ben"], ["memory set"]),
        (["--session", "s1", "--tool", "fs.read", "--user", "u1"], ["tool result", "tool call"]),
        (["--kind", "tool*"], ["tool result", "tool call"]),
        (["--workspace", "w"], []),
        (["--trace", "t"], []),
        (["--worker", "w1"], []),
        (["--schedule", "nightly"], []),
        (["--since", "1h", "--kind", "lock"], ["lock acquired"]),
        (["--until", "1h"], []),
        (["--since", "2020-01-01", "--limit", "1"], ["memory set"]),
    ],
)
def test_log_with_filters(story: Path, cli: Cli, options: list[str], kinds: list[str]) -> None:
    """Every option does what it says."""
    done = cli("audit", "log", *options, "--json")
    assert 0 == done.code, done.out
    assert kinds == [event["kind"] for event in done.json]


def test_log_by_revision(story: Path, cli: Cli) -> None:
    """A revision bounds the log as a time does."""
    events = cli("audit", "log", "--json").json
    revision = events[1]["revision"]
    assert events[:3] == cli("audit", "log", "--since", revision, "--json").json
    assert events[1:] == cli("audit", "log", "--until", revision, "--json").json


def test_log_says_why_it_ends(story: Path, cli: Cli) -> None:
    """Standard error tells of a limit, and of history that was removed."""
    assert "these are the newest 2: --limit shows more" in cli("audit", "log", "--limit", "2").err
    head = git(story, "rev-parse", "ghcoord/memory/global").strip()
    parent = git(story, "rev-parse", "ghcoord/memory/global^").strip()
    git(story, "repack", "-adq")
    _remove(story, parent)
    done = cli("audit", "log", "--key", "color", "--json")
    assert [head] == [event["commit"] for event in done.json]
    assert "the history of memory/global before " in done.err


def _remove(hub: Path, oid: str) -> None:
    """Take one object out of the repository, as gc does with old commits."""
    names = git(hub, "rev-list", "--all", "--objects", "--no-object-names").split()
    kept = "\n".join(name for name in names if name != oid)
    made = subprocess.run(
        ["git", "pack-objects", "-q", "objects/pack/pack"],
        cwd=hub,
        input=kept,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    for file in (hub / "objects" / "pack").glob("pack-*"):
        if made not in file.name:
            file.unlink()


def test_log_refuses_what_cannot_be(story: Path, cli: Cli) -> None:
    """A moment that is none, and an end of what has none, are mistakes with a way out."""
    run = cli("audit", "log", "--since", "yesterday")
    assert (2, True) == (run.code, "--since 'yesterday' is no moment: write 2026-11-21T10:00Z" in run.error)
    run = cli("audit", "log", "--follow", "--until", "1h")
    assert (2, "--follow has no end: leave --until out") == (run.code, run.error)
    assert 2 == cli("audit", "log", "--limit", "0").code
    assert 2 == cli("audit", "log", "--since", "0123abc").code
    assert 3 == cli("audit", "log", "--hub", "none.git").code


def test_hostile_entries_are_shown_harmlessly(story: Path, cli: Cli) -> None:
    """What others wrote into a call reaches the terminal as visible text only."""
    with connect(story) as opened:
        opened.audit.tool_call(AuditEntry(tool_name="\x1b[2J[red]x\n", user_id="\u202eu"))
    done = cli("audit", "log", "--limit", "1")
    assert "\\x1b[2J[red]x\\n" in done.out
    assert "\x1b" not in done.out


def test_hostile_files_do_not_stop_the_log(story: Path, cli: Cli) -> None:
    """Lines that somebody pushed into a file of calls, of any shape, are shown or left out, as table and as JSON."""
    git(story.parent, "clone", "-q", "--branch", "ghcoord/audit", str(story), "edit")
    [file] = (story.parent / "edit").glob("calls/**/*.jsonl")
    at = NOW.timestamp() - 10**8
    lines: list[dict[str, object]] = [
        {"kind": "commit by hand", "paths": 5},
        {"kind": "commit by hand", "paths": [None, {}], "summary": ["x"], "more": 1},
        {"kind": "tool call", "tool_name": {"a": 1}, "session_id": [1], "result": 5, "error_msg": {}},
        {"kind": "tool result", "tool_name": None, "result": {"success": "yes", "error": [1]}},
        {"kind": "task submitted", "task": {"x": 1}, "by": 5},
        {"kind": ["x"], "by": None},
    ]
    text = "\n".join(json.dumps({"at": at, **line}) for line in lines)
    deep = f'{{"at": {at}, "kind": "deep", "x": {"[" * 500}{"]" * 500}}}'
    file.write_text(f"{file.read_text()}{text}\n{deep}\n")
    git(story.parent / "edit", "commit", "-qam", "hostile")
    git(story.parent / "edit", "push", "-q")
    shown = cli("audit", "log")
    found = cli("audit", "log", "--json")
    assert (0, 0) == (shown.code, found.code), shown.err + found.out
    assert len(lines) == sum(event["space"] == "audit" for event in found.json) - 3
    assert "deep" not in [event["kind"] for event in found.json]


@pytest.mark.slow
def test_log_follows(story: Path) -> None:
    """--follow prints the newest last and goes on, a JSON line each; Ctrl-C is success."""
    process = subprocess.Popen(
        command("audit", "log", "--follow", "--limit", "1", "--kind", "memory", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    try:
        first = json.loads(process.stdout.readline())
        with connect(story, actor="eve") as opened:
            opened.memory.set("more", 1)
        second = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert ("ben", "eve") == (first["by"], second["by"])
    assert (0, "", "") == (process.returncode, rest, errors)


# -- blame


def test_blame_is_a_table(story: Path, cli: Cli) -> None:
    """Field, value, when, who and what in 80 columns; times are whole."""
    done = cli("audit", "blame", "key", "color")
    assert 0 == done.code
    lines = {line.split()[0]: line for line in done.out.splitlines()}
    assert "ben" in lines["value.hex"]
    assert "#ff0000" in lines["value.hex"]
    assert "ann" in lines["value.name"]
    assert all(80 >= len(line) for line in done.out.splitlines())


def test_blame_in_json(story: Path, cli: Cli) -> None:
    """Each field has its value and its origin."""
    found = cli("audit", "blame", "task", "one", "--json").json
    assert {"kind", "name", "space", "path", "removed", "fields"} == set(found)
    assert ("task", "one", "fleet", None) == (found["kind"], found["name"], found["space"], found["removed"])
    fields = {line["field"]: line for line in found["fields"]}
    assert {"field", "value", "at", "by", "kind", "summary", "revision", "commit"} == set(fields["state"])
    assert ("queued", "ann", "task submitted") == tuple(fields["state"][key] for key in ("value", "by", "kind"))


def test_blame_of_what_is_gone(story: Path, cli: Cli) -> None:
    """Its last state, and who removed it."""
    assert 0 == cli("lock", "release", "deploy", "--owner", "ci-7").code
    cli("memory", "delete", "color")
    done = cli("audit", "blame", "key", "color")
    assert 0 == done.code
    assert done.out.startswith("removed 20")
    assert "(memory deleted); before that:" in done.out
    assert cli("audit", "blame", "key", "color", "--json").json["removed"]["kind"] == "memory deleted"


def test_blame_refuses_what_is_not_there(story: Path, cli: Cli) -> None:
    """A name that never was exits 3, a kind that is none 2."""
    run = cli("audit", "blame", "task", "two")
    assert (3, "there is no task 'two', and history knows of none") == (run.code, run.error)
    assert 2 == cli("audit", "blame", "space", "fleet").code


# -- purge


def test_purge_previews_asks_and_removes(story: Path, cli: Cli, later: Later) -> None:
    """Without --yes it shows what would go and does nothing where nobody answers; with it the entries are gone."""
    nothing = cli("audit", "purge", "--older-than", "1h", "--yes")
    assert (0, "0 entries in 0 files removed\n") == (nothing.code, nothing.out)
    later(7200)
    plan = cli("audit", "purge", "--older-than", "1h", "--dry-run", "--json").json
    assert (2, 1, True) == (plan["entries"], plan["files"], plan["dry_run"])
    refused = cli("audit", "purge", "--older-than", "1h")
    assert 2 == refused.code
    assert "fs.read" in refused.err
    assert "Remove 2 audit entries in 1 files? Nobody is there to answer: add --yes" in refused.err
    assert 2 == len(cli("audit", "log", "--kind", "tool", "--json").json)
    done = cli("audit", "purge", "--older-than", "1h", "--yes")
    assert (0, "2 entries in 1 files removed\n") == (done.code, done.out)
    assert [] == cli("audit", "log", "--kind", "tool", "--json").json


def test_purge_asks_on_a_terminal(story: Path) -> None:
    """A no leaves everything as it was."""
    with Terminal("audit", "purge", "--older-than", "0s") as terminal:
        terminal.wait_for("Remove 2 audit entries")
        terminal.type("n\n")
        assert 130 == terminal.end()
    with connect(story) as opened:
        assert 2 == len(list(opened.audit.log(kind="tool")))


# -- moments


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10m", NOW - timedelta(minutes=10)),
        ("1h30m", NOW - timedelta(minutes=90)),
        ("90", NOW - timedelta(seconds=90)),
        ("1.5h ago", NOW - timedelta(minutes=90)),
        ("2d", NOW - timedelta(days=2)),
        ("2026-11-21T10:00Z", datetime(2026, 11, 21, 10, 0, tzinfo=UTC)),
        ("2026-11-21T10:00:00.123Z", datetime(2026, 11, 21, 10, 0, 0, 123000, tzinfo=UTC)),
        ("2026-11-21 11:00+01:00", datetime(2026, 11, 21, 10, 0, tzinfo=UTC)),
        ("2026-11-21", datetime(2026, 11, 21).astimezone()),
        ("1795244152923", 1795244152923),
        ("0123abc", "0123abc"),
        ("4931778", "4931778"),
        ("123456d", "123456d"),
        ("2ecc0b4f" * 5, "2ecc0b4f" * 5),
    ],
)
def test_moments(text: str, expected: object) -> None:
    """Times, durations ago, revisions and commits are told apart."""
    assert expected == parse_when(text, NOW, "--at")


@pytest.mark.parametrize(
    "text", ["", "now", "10 minutes", "-5m", "9" * 50, "2026-13-01", "ABCDEF0", "9999d", "0001-01-01"]
)
def test_no_moments(text: str) -> None:
    """Everything else is refused."""
    with pytest.raises(UsageError):
        parse_when(text, NOW, "--at")


def test_a_time_is_no_commit() -> None:
    """Where a commit means nothing it is refused, and nothing stays nothing."""
    assert parse_time(None, NOW, "--since") is None
    with pytest.raises(UsageError, match="not a commit"):
        parse_time("0123abc", NOW, "--since")
