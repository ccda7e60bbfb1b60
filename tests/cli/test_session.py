"""``ghcoord session``: made, listed, shown, described, destroyed, cleaned up; what is there and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from ghcoord.bootstrap import connect
from tests.cli.running import Cli, Later

HOSTILE = "\x1b]0;owned\x07\x1b[31mred [bold]x[/bold] \u202egnirts \r\n end"


@pytest.fixture
def room(cli: Cli, hub: Path) -> Path:
    """A hub with a worker that has room for three sessions, as far as records go: nothing runs."""
    assert 0 == cli("worker", "register", "w1", "--max-sessions", "3", "--type", "exec", "--label", "zone=eu").code
    return hub


def create(cli: Cli, *args: object) -> str:
    done = cli("session", "create", "--sandbox", "none", *args)
    assert 0 == done.code, done.err
    return done.out.strip()


def test_create_says_its_id(cli: Cli, room: Path) -> None:
    """The one that was asked for, or one that is made up; all that was given is in the record."""
    made = create(cli)
    assert made.startswith("s")
    options = ("--id", "s1", "--workspace-id", "ws", "--user-id", "ann", "--meta", "n:=1", "--env", "A=b=c")
    more = ("--limit", "memory_mb=512", "--limit", "timeout=5m", "--allow", "example.org", "--require", "zone")
    assert "s1" == create(cli, *options, *more, "--worker", "w1")
    found = cli("session", "show", "s1", "--json").json
    assert ("s1", "ws", "ann", "new", "w1") == tuple(
        found[key] for key in ("id", "workspace_id", "user_id", "state", "worker_id")
    )
    assert ({"n": 1}, ["A"], ["example.org"]) == (found["metadata"], found["env"], found["allow"])
    assert {"memory_mb": 512, "timeout": 300} == found["limits"]
    assert ("none", ["zone"]) == (found["sandbox"], found["requirements"]["required_capabilities"])


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--id", "a b"), 2, "session id 'a b' is not accepted"),
        (("--id", ""), 2, "session id"),
        (("--id", "ü" * 300), 2, "session id"),
        (("--limit", "foo=1"), 2, "'foo' is no limit: one of timeout, memory_mb"),
        (("--limit", "memory_mb=lots"), 2, "memory_mb must be a whole number"),
        (("--limit", "memory_mb=-1"), 2, "memory_mb"),
        (("--limit", "memory_mb"), 2, "--limit takes key=value"),
        (("--sandbox", "high"), 2, "full, partial, none"),
        (("--env", "1=x"), 2, "variable"),
        (("--allow", "http://x/"), 2, "http://x/"),
        (("--meta", "a:={"), 2, "not JSON"),
        (("--worker", "w9"), 3, "no worker 'w9'"),
        (("--require", "gpu"), 7, "gpu"),
        (("--from", "x"), 2, "SESSION:CHECKPOINT"),
        (("--from", "s9:c1"), 3, "no session 's9'"),
        (("--from", "no.tar.gz"), 3, "no file 'no.tar.gz'"),
        (("--nonsense",), 2, "--nonsense"),
    ],
)
def test_create_refuses(cli: Cli, room: Path, args: tuple[str, ...], code: int, words: str) -> None:
    """In one line that names the fix, and nothing is made."""
    refused = cli("session", "create", "--sandbox", "none", *args)
    assert (code, True) == (refused.code, words in refused.error), refused.err
    assert "0\n" == cli("session", "list", "--count").out


def test_create_needs_a_worker_with_room(cli: Cli, room: Path) -> None:
    """None that has the sandbox, none with room: exit code 7 and why; an id that is taken: 2."""
    refused = cli("session", "create")
    assert (7, True) == (refused.code, "sandbox tier none, not full" in refused.error), refused.err
    for name in ("s1", "s2", "s3"):
        create(cli, "--id", name)
    full = cli("session", "create", "--sandbox", "none")
    assert (7, True) == (full.code, "room" in full.error or "full" in full.error), full.err
    assert "NO_CAPACITY" == cli("session", "create", "--sandbox", "none", "--json").json["error"]["code"]
    cli("session", "destroy", "s3", "--yes")
    assert "is there already" in cli("session", "create", "--sandbox", "none", "--id", "s1").error


def test_no_hub(cli: Cli) -> None:
    """A command that knows of no hub says how to name one."""
    for line in (("session", "list"), ("session", "exec", "s1", "true"), ("tool", "call", "echo", "--session", "s1")):
        assert "GHCOORD_HUB" in cli(*line).error
        assert 2 == cli(*line, "--json").code


def test_list(cli: Cli, room: Path) -> None:
    """Oldest first, by worker, user, workspace and state, the newest N; a table that fits for people."""
    for name in ("s2", "s1", "s" * 60):
        create(cli, "--id", name, "--user-id", name[:2], "--workspace-id", "w" * 50)
    ids = ["s2", "s1", "s" * 60]

    def listed(*args: str) -> list[str]:
        return [one["id"] for one in cli("session", "list", *args, "--json").json]

    assert ids == listed() == listed("--worker", "w1") == listed("--state", "new") == listed("--workspace-id", "w" * 50)
    assert (["s1"], [], []) == (listed("--user", "s1"), listed("--state", "lost"), listed("--worker", "w2"))
    assert (ids[1:], [], ids) == (listed("--limit", "2"), listed("--limit", "0"), listed("--limit", "9"))
    shown = cli("session", "list").out
    assert all(80 >= len(line) for line in shown.splitlines())
    assert "s" * 60 in shown.replace("\n", "").replace(" ", "") or "ssssssssss" in shown
    assert "2\n" == cli("session", "list", "--user", "s1", "--count").out.replace("1", "2")
    assert {"count": 3} == cli("session", "list", "--count", "--json").json
    assert "no sessions\n" == cli("session", "list", "--user", "nobody").out
    assert "new, active, parked, lost" in cli("session", "list", "--state", "x").error
    assert 2 == cli("session", "list", "--limit", "-1").code


def test_show(cli: Cli, room: Path) -> None:
    """What it is, where, and what it may; variables by name only, for they may be secrets."""
    create(cli, "--id", "s1", "--limit", "memory_mb=512", "--env", "SECRET=hunter2", "--meta", "a=b")
    shown = cli("session", "show", "s1").out
    for part in ("s1", "new", "w1", "memory_mb=512", "SECRET", '{"a": "b"}', "none or better"):
        assert part in shown, shown
    assert "hunter2" not in shown + cli("session", "show", "s1", "--json").out
    assert all(80 >= len(line) for line in shown.splitlines())
    missing = cli("session", "show", "nosuch")
    assert (3, True) == (missing.code, "'nosuch': see 'ghcoord session list'" in missing.error)
    assert "NOT_FOUND" == cli("session", "show", "a b", "--json").json["error"]["code"]


def test_metadata(cli: Cli, room: Path) -> None:
    """Printed, merged key by key, replaced as a whole."""
    create(cli, "--id", "s1", "--meta", "a=1")
    assert {"a": "1", "b": 2} == cli("session", "metadata", "s1", "--set", "b:=2").json
    assert {"id": "s1", "metadata": {"a": "1", "b": 2}} == cli("session", "metadata", "s1", "--json").json
    assert {"c": [1]} == cli("session", "metadata", "s1", "--replace", '{"c": [1]}').json
    assert {} == cli("session", "metadata", "s1", "--replace", "{}").json
    for args, code, words in (
        (("s1", "--set", "a"), 2, "key=value"),
        (("s1", "--replace", "[]"), 2, "JSON object"),
        (("s1", "--set", "a=1", "--replace", "{}"), 2, "one of --set and --replace"),
        (("s1", "--set", "a=" + "x" * 70_000), 2, "at most 65536"),
        (("nosuch",), 3, "no session 'nosuch'"),
    ):
        refused = cli("session", "metadata", *args)
        assert (code, True) == (refused.code, words in refused.error), refused.err


def test_destroy(cli: Cli, room: Path) -> None:
    """Asks; all that are named, or none when one of them is not there; a name that is given twice counts once."""
    for name in ("s1", "s2"):
        create(cli, "--id", name)
    assert "--yes" in cli("session", "destroy", "s1").error
    missing = cli("session", "destroy", "s1", "nosuch", "--yes")
    assert (3, "2\n") == (missing.code, cli("session", "list", "--count").out)
    assert "2 sessions (s1, s2) destroyed\n" == cli("session", "destroy", "s1", "s2", "s1", "--yes").out
    create(cli, "--id", "s3")
    assert [{"id": "s3", "destroyed": True}] == cli("session", "destroy", "s3", "--yes", "--json").json
    assert 3 == cli("session", "destroy", "s3", "--yes").code


def test_clean(cli: Cli, room: Path, later: Later) -> None:
    """What nobody used for so long goes, the longest unused first; before that it is said which."""
    create(cli, "--id", "old")
    assert "0 stale\n" == cli("session", "clean", "--dry-run").out
    later(3600)
    cli("worker", "register", "w1")
    create(cli, "--id", "new")
    assert "1 stale: old\n" == cli("session", "clean", "--dry-run").out
    assert "Nobody is there to answer: add --yes" in cli("session", "clean").error
    assert {"stale": ["old"], "cleaned": 0} == cli("session", "clean", "--dry-run", "--json").json
    assert "1 destroyed\n" == cli("session", "clean", "--yes").out
    later(7200)
    assert {"stale": [], "cleaned": 0} == cli("session", "clean", "--max-age", "3h", "--json").json
    assert {"stale": ["new"], "cleaned": 1} == cli("session", "clean", "--limit", "1", "--yes", "--json").json
    assert 2 == cli("session", "clean", "--max-age", "-1").code
    assert 2 == cli("session", "clean", "--limit", "0").code


def test_hostile_records_do_no_harm(cli: Cli, room: Path) -> None:
    """Control characters and markup in what others wrote show as text."""
    with connect(room) as hub:
        hub.sessions.create("s1", user_id="u", metadata={"m": HOSTILE}, env={"E": HOSTILE}, sandbox="none")
    for line in (["show", "s1"], ["list"], ["metadata", "s1"]):
        for extra in ([], ["--json"]):
            shown = cli("session", *line, *extra).out
            assert all(char.isprintable() or char == "\n" for char in shown), line
            assert "\u202e" not in shown
    assert "[bold]x[/bold]" in cli("session", "metadata", "s1").out


def test_calls_where_nothing_can_run(cli: Cli, room: Path) -> None:
    """A lost session, and one that no living worker can take, are told at once, with exit code 7."""
    create(cli, "--id", "s1")
    assert 0 == cli("worker", "deregister", "w1").code
    refused = cli("session", "exec", "s1", "--", "true")
    assert (7, True) == (refused.code, "no worker" in refused.error), refused.err
    asjson = cli("session", "exec", "s1", "--json", "--", "true")
    assert (7, 7) == (asjson.code, asjson.json["error"]["exit_code"])
