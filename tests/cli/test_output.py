"""What is printed: JSON with frozen keys, tables that fit, nothing hostile."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ghcoord.faces.cli.output import clean, clean_text, to_json
from tests.cli.running import Cli, command, environment

HOSTILE = "\x1b]0;owned\x07\x1b[31mred\x9b31m [bold]x[/bold] \u202egnirts\u2028 \r\n end"

WORKER_KEYS = """id hostname pid status drain_requested registered_at last_heartbeat expires_at ttl noticed_after
account token capacity
capabilities sandbox max_sessions active_sessions session_ids health recent_types metadata"""
TASK_KEYS = """id tool type args state priority attempt worker result created_at submitted_by started_at ended_at due_at
not_before after waiting_for if_failed key concurrency rate unique requirements assigned_at assigned session schedule
batch trace estimated_duration timeout retries backoff backoff_cap failures lost cancel_requested cancel_reason progress
lease history metadata"""
SUBMITTED_KEYS = TASK_KEYS + " duplicate"
SCHEDULE_KEYS = """name cron timezone tool args options missed grace overlap paused next_fire last_fire last_task fires
created_at created_by"""
LOCK_KEYS = "name owner token acquired_at expires_at metadata mode permits depth paths guards"
SETTING_KEYS = "name value default set kind means"
ENTRY_KEYS = "key value namespace revision updated_at updated_by ttl expires_at"
ARTIFACT_KEYS = "id name size sha256 content_type created_at created_by session_id task_id where expires_at"
SESSION_KEYS = """id workspace_id user_id state worker_id last_worker created_at created_by last_active metadata env
limits allow sandbox requirements epoch restored_from restored_at lost_because checkpoints calls active_tasks usage
tasks"""
CHECKPOINT_KEYS = "id session_id name created_at files size modified packages published worker"
CALL_KEYS = "id task success output error exit_code duration data truncated artifacts completed_at"
TOOL_KEYS = "id description sandboxed needs_session tier arguments returns"
MCP_TOKEN_KEYS = "id user workspace resource read_only created_at expires_at"
HOLD_KEYS = "state name owner pid started token ttl code message"
VERSION_KEYS = "revision at by kind deleted value ttl namespace commit"

SESSION = [
    (["init"], "hub id created"),
    (["worker", "register", "w1", "--type", "echo"], "success message heartbeat_interval_seconds token"),
    (["worker", "heartbeat", "w1"], "acknowledged message unknown_session_ids"),
    (["worker", "list"], [WORKER_KEYS]),
    (["worker", "list", "--count"], "count"),
    (["worker", "show", "w1"], WORKER_KEYS),
    (["worker", "status", "w1", "active"], WORKER_KEYS),
    (["task", "submit", "echo", "--id", "t0"], SUBMITTED_KEYS),
    (["task", "assign", "t0", "w1"], TASK_KEYS),
    (["task", "unassign", "t0"], TASK_KEYS),
    (["balance", "next", "w1"], TASK_KEYS),
    (["balance", "select", "t0"], WORKER_KEYS),
    (
        ["balance", "show"],
        "total_capacity utilized_capacity utilization_percent worker_loads spread imbalanced",
    ),
    (["balance", "strategy"], "strategy"),
    (
        ["balance", "rebalance"],
        "tasks_moved improved_utilization before_utilization after_utilization moves",
    ),
    (["worker", "drain", "w1"], WORKER_KEYS),
    (["worker", "reap"], "recovered removed removed_ids taken"),
    (["worker", "reap", "--dry-run"], "stale recovered removed removed_ids taken"),
    (["worker", "reap", "--mark-only"], "marked"),
    (["worker", "deregister", "w1"], "success message unknown_session_ids"),
    (["task", "submit", "echo", "--id", "t1", "--arg", "message=hi"], SUBMITTED_KEYS),
    (["task", "submit", "echo", "--id", "t2"], SUBMITTED_KEYS),
    (["task", "submit", "--batch", "-"], "submitted duplicates batch_id ids"),
    (["task", "cancel", "t2"], TASK_KEYS),
    (["task", "retry", "t2"], TASK_KEYS),
    (["task", "cancel", "t2"], TASK_KEYS),
    (
        ["worker", "start", "--until-idle", "10ms"],
        "worker_id leased succeeded failed returned refused recovered commits",
    ),
    (["task", "list"], [TASK_KEYS]),
    (["task", "show", "t1"], TASK_KEYS + " waiting_because"),
    (["task", "wait", "t1"], TASK_KEYS),
    (["task", "logs", "t1"], "id text"),
    (["task", "cancel", "--state", "queued", "--yes"], "cancelled refused"),
    (["task", "retry", "--state", "dead", "--yes"], "retried refused"),
    (["task", "purge", "--state", "cancelled", "--yes"], "purged refused"),
    (["schedule", "add", "nightly", "0 3 * * *", "echo"], SCHEDULE_KEYS),
    (["schedule", "list"], [SCHEDULE_KEYS]),
    (["schedule", "show", "nightly"], SCHEDULE_KEYS),
    (["schedule", "pause", "nightly"], SCHEDULE_KEYS),
    (["schedule", "resume", "nightly"], SCHEDULE_KEYS),
    (["schedule", "run", "nightly"], SUBMITTED_KEYS),
    (["schedule", "remove", "nightly", "--yes"], SCHEDULE_KEYS),
    (["lock", "acquire", "x", "--owner", "a"], LOCK_KEYS),
    (["lock", "renew", "x", "--owner", "a"], LOCK_KEYS),
    (["lock", "list"], [LOCK_KEYS]),
    (["lock", "show", "x"], LOCK_KEYS + " holders waiters"),
    (["lock", "release", "x", "--owner", "a"], "name owner released depth"),
    (["lock", "release", "--all", "--owner", "a"], "owner released"),
    (["lock", "acquire", "x", "--owner", "a"], LOCK_KEYS),
    (["lock", "force-unlock", "x", "--yes"], LOCK_KEYS + " holders waiters"),
    (["lock", "clean"], "removed"),
    (["lock", "run", "x", "--", "true"], "name owner token exit_code duration"),
    (
        ["lock", "stats", "x"],
        "name acquisitions contended expired left held_total held_max waited_total waited_max last_owner updated_at",
    ),
    (["leader", "run", "s", "--once", "--", "true"], "name id token terms exit_code duration"),
    (["memory", "set", "k", "v"], ENTRY_KEYS),
    (["memory", "get", "k"], ENTRY_KEYS),
    (["memory", "list"], [ENTRY_KEYS]),
    (["memory", "history", "k"], [VERSION_KEYS]),
    (["memory", "set-many", "-"], [ENTRY_KEYS]),
    (["memory", "delete-many", "tool", "args", "--yes"], "namespace keys deleted dry_run"),
    (["memory", "namespaces"], ["namespace keys bytes revision updated_at"]),
    (["memory", "export", "all.jsonl"], "file keys"),
    (["memory", "import", "all.jsonl"], "created overwritten skipped unchanged dry_run"),
    (["memory", "sync"], "namespaces"),
    (["memory", "sweep"], "namespace removed"),
    (["memory", "delete", "k"], "key namespace deleted"),
    (["memory", "set", "k", "v"], ENTRY_KEYS),
    (["memory", "drop", "global", "--yes"], "namespace removed"),
    (["artifact", "put", "all.jsonl"], ARTIFACT_KEYS),
    (["artifact", "list"], [ARTIFACT_KEYS]),
    (["artifact", "get", "ARTIFACT", "-o", "again.jsonl"], ARTIFACT_KEYS + " file"),
    (["artifact", "delete", "ARTIFACT", "--yes"], ARTIFACT_KEYS),
    (["artifact", "clean"], "removed"),
    (["config", "list"], [SETTING_KEYS]),
    (["config", "set", "quota.locks", "100"], SETTING_KEYS),
    (["config", "get", "quota.locks"], SETTING_KEYS),
    (["config", "unset", "quota.locks"], SETTING_KEYS),
    (
        ["gc", "--dry-run"],
        "dry_run retention since commits commits_cut objects bytes_before bytes_after postponed",
    ),
    (["export", "all.bundle"], "file spaces commits objects bytes"),
    (["import", "all.bundle", "--hub", "copy.git"], "hub id spaces migrated_from"),
    (["audit", "log"], ["at space namespace kind by author revision commit fields"]),
    (["audit", "blame", "task", "t1"], "kind name space path removed fields"),
    (["audit", "purge", "--older-than", "30d", "--yes"], "entries files before first dry_run"),
    (["actions", "submit", "echo", "--no-wait"], "submitted ids succeeded failed cancelled"),
    (
        ["actions", "worker", "--until-idle", "10ms"],
        "worker_id leased succeeded failed returned refused recovered commits retried cancelled ended",
    ),
    (["actions", "unlock", "--folder", "none"], HOLD_KEYS),
    (["mcp", "token", "create", "--user", "ann"], MCP_TOKEN_KEYS + " token"),
    (["mcp", "token", "list"], [MCP_TOKEN_KEYS]),
    (["mcp", "token", "revoke", "TOKEN", "--yes"], MCP_TOKEN_KEYS),
    (["doctor"], "hub usable findings"),
    (["budget"], "limited account usage forecast pace blocked_until why refusals not_asked"),
]
"""A session with every command that prints one JSON document, and the keys of each; in a list: of its elements."""

IN_A_SESSION = [
    (["session", "create", "--id", "S"], SESSION_KEYS),
    (["session", "put", "S", "-", "a.txt"], "id path size"),
    (["session", "exec", "S", "--", "cat", "a.txt"], CALL_KEYS),
    (["session", "get", "S", "a.txt", "back.txt"], "id path local size"),
    (["session", "checkpoint", "S"], CHECKPOINT_KEYS),
    (["session", "checkpoint", "S", "--list"], [CHECKPOINT_KEYS]),
    (["session", "checkpoint", "S", "--export", "C", "-o", "c.tar.gz"], "id session_id output size"),
    (["session", "diff", "S"], "id a b added removed changed more packages metadata settings"),
    (["session", "restore", "S", "--yes"], SESSION_KEYS),
    (["session", "checkpoint", "S", "--name", "another"], CHECKPOINT_KEYS),
    (["session", "checkpoint", "S", "--delete", "C", "--yes"], "id session_id deleted"),
    (["session", "list"], [SESSION_KEYS]),
    (["session", "list", "--count"], "count"),
    (["session", "show", "S"], SESSION_KEYS),
    (["session", "metadata", "S", "--set", "a=1"], "id metadata"),
    (["session", "clean", "--dry-run"], "stale cleaned"),
    (["tool", "list"], [TOOL_KEYS]),
    (["tool", "call", "echo", "--session", "S", "--arg", "message=hi"], CALL_KEYS),
    (["session", "destroy", "S", "--yes"], ["id destroyed"]),
]
"""The same for a session that a worker has."""


def test_json_keys_are_frozen(cli: Cli, hub: Path) -> None:
    """Every command's --json parses, and its keys are those that scripts know: changing one breaks them."""
    artifact = token = ""
    for line, keys in SESSION:
        # Before the subcommand here, after it in the other tests.
        words = [{"ARTIFACT": artifact, "TOKEN": token}.get(word, word) for word in line]
        done = cli("--json", *words, stdin='{"tool": "echo", "args": {"message": "x"}}\n')
        assert 0 == done.code, (line, done)
        value: Any = done.json
        if isinstance(keys, list):
            assert value, line
            value, keys = value[0], keys[0]
        assert keys.split() == list(value), line
        if line[:2] == ["artifact", "put"]:
            artifact = value["id"]
        if line[:3] == ["mcp", "token", "create"]:
            token = value["id"]
    result = cli("task", "show", "t1", "--json").json["result"]
    assert "success output error exit_code duration data truncated artifacts completed_at".split() == list(result)


def test_json_keys_of_sessions_are_frozen(cli: Cli, session: str) -> None:
    """The same for all that a session's worker answers, and the parts of a session's record."""
    name, checkpoint = f"{session}-keys", ""
    shown: dict[str, Any] = {}
    for line, keys in IN_A_SESSION:
        words = [{"S": name, "C": checkpoint}.get(word, word) for word in line]
        done = cli("--json", *words, stdin="text")
        assert 0 == done.code, (line, done)
        value: Any = done.json
        if isinstance(keys, list):
            value, keys = value[0], keys[0]
        assert keys.split() == list(value), line
        if line == ["session", "checkpoint", "S"]:
            checkpoint = value["id"]
        if line == ["session", "show", "S"]:
            shown = value
    assert "memory_mb cpu_seconds disk_mb processes".split() == list(shown["usage"])
    assert "tool task success at duration error".split() == list(shown["tasks"][0])


def test_the_session_covers_every_verb() -> None:
    """No command escapes the frozen keys, except those that print lines and those with tests of their own."""
    from tests.cli.test_help import NAMES

    covered = {
        name for name in NAMES for line, _ in SESSION + IN_A_SESSION if name.split() == line[: len(name.split())]
    }
    own = {"memory watch", "status", "demo", "memory apply", "bench", "schedule next", "twin", "session shell"}
    own |= {"actions lock", "autoscale"}
    assert own | {"leader show", "leader list", "leader resign"} == set(NAMES) - covered


def test_hostile_records_do_no_harm(cli: Cli, hub: Path) -> None:
    """Control characters, reordering and Rich markup from records show as text in every view that shows them."""
    cli("memory", "set", "k", HOSTILE)
    cli("task", "submit", "echo", "--id", "t1", "--arg", f"message={HOSTILE}", "--meta", f"m={HOSTILE}")
    cli("task", "cancel", "t1", "--reason", HOSTILE)
    cli("lock", "acquire", "x", "--owner", "[red]me[/red]", "--meta", f"m={HOSTILE}")
    cli("worker", "register", "w1", "--label", f"l={HOSTILE}", "--meta", f"m={HOSTILE}")
    for line in (
        ["memory", "get", "k"],
        ["memory", "list"],
        ["task", "list"],
        ["task", "show", "t1"],
        ["task", "wait", "t1"],
        ["lock", "show", "x"],
        ["lock", "list"],
        ["lock", "acquire", "x"],
        ["worker", "show", "w1"],
        ["worker", "list"],
    ):
        done = cli(*line)
        shown = done.out + done.err
        assert all(char.isprintable() or char == "\n" for char in shown), line
        assert not {"\u202e", "\u2028"} & set(shown), line
        in_json = cli(*line, "--json").out
        assert all(char.isprintable() or char == "\n" for char in in_json), line
    assert "[bold]x[/bold]" in cli("memory", "get", "k").out
    assert "[red]me[/red]" in cli("lock", "list").out
    assert HOSTILE == cli("memory", "get", "k", "--json").json["value"]


def test_tables_fit_80_columns(cli: Cli, hub: Path) -> None:
    """Long values are cut and long names are folded; ids stay whole."""
    name = "name/" + "x" * 200
    cli("memory", "set", name, "value " * 100)
    cli("lock", "acquire", name, "--owner", "owner " * 20 + "end", "--ttl", "1h")
    cli("task", "submit", "echo", "--id", "t" * 30, "--arg", "message=" + "m" * 500)
    cli("worker", "register", "w" * 60)
    cli("worker", "start", "--until-idle", "10ms")
    for line in (["memory", "list"], ["lock", "list"], ["task", "list"], ["worker", "list"]):
        assert 80 >= max(map(len, cli(*line).out.splitlines())), line
    assert name == "".join(row.split()[0] for row in cli("lock", "list").out.splitlines()[1:])
    assert "t" * 30 in cli("task", "list").out


@pytest.mark.parametrize(("extra", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_is_for_terminals(cli: Cli, hub: Path, extra: dict[str, str], coloured: bool) -> None:
    """On a terminal states have colours, unless NO_COLOR is set; elsewhere they never have."""
    cli("task", "submit", "echo", "--id", "t1")
    cli("task", "cancel", "t1")
    cli("worker", "register", "w1")
    assert "\x1b" not in cli("worker", "list").out
    ours, theirs = pty.openpty()
    env = {key: value for key, value in environment(extra).items() if key != "NO_COLOR" or extra}
    done = subprocess.run(command("worker", "list"), stdout=theirs, env={**env, "TERM": "xterm-256color"}, check=True)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert 0 == done.returncode
    assert coloured is ("\x1b[32m" in shown)


@pytest.mark.parametrize(
    ("text", "line", "block"),
    [
        ("plain ünïcödé 漢字 👩‍💻", "plain ünïcödé 漢字 👩‍💻", "plain ünïcödé 漢字 👩‍💻"),
        ("a\nb\tc", "a\\nb\\tc", "a\nb\tc"),
        ("\x1b[0m\x07\x9b\x7f\r", "\\x1b[0m\\x07\\x9b\\x7f\\r", "\\x1b[0m\\x07\\x9b\\x7f\\r"),
        ("\u202e\u2028\ud800", "\\u202e\\u2028\\ud800", "\\u202e\\u2028\\ud800"),
    ],
)
def test_cleaning(text: str, line: str, block: str) -> None:
    """Letters and symbols of any script stay; what a terminal would act on shows as an escape."""
    assert (line, block) == (clean(text), clean_text(text))


RUNNER_COMMAND = re.compile(r"^\s*::[A-Za-z]|##\[", re.MULTILINE)


@pytest.mark.parametrize(
    "text",
    [
        "::add-mask::e",
        "said\n \u3000 ::stop-commands::x\nmore",
        "error ##[add-mask]e",
        "\r::set-output name=a::b",
        "##[group]\n##[endgroup]##[debug]",
    ],
)
def test_a_runner_finds_no_command_in_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a job of GitHub Actions nothing that a task printed is obeyed, in whichever pieces it comes; else it stays."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    assert "a :: b" == clean_text("a :: b")
    assert text.replace("\r", "\\r") == clean_text(text)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert ("a :: b::c C# [1]", "C#") == (clean_text("a :: b::c C# [1]"), clean("C#"))
    for at in range(len(text)):
        for then in range(at, len(text)):
            pieces = [clean_text(piece) for piece in (text[:at], text[at:then], text[then:])]
            assert not RUNNER_COMMAND.search("".join(pieces)), pieces
    assert not RUNNER_COMMAND.search(clean(text))
    assert not RUNNER_COMMAND.search(to_json({"k": text}))
    assert {"k": text} == json.loads(to_json({"k": text}))


def test_json_is_exact_and_safe() -> None:
    """What a terminal would act on is escaped, and reading it back gives the very value."""
    text = to_json({"k": HOSTILE + "ü\ud800"})
    assert all(char.isprintable() or char == "\n" for char in text)
    assert {"k": HOSTILE + "ü\ud800"} == json.loads(text)
