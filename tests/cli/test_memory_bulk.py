"""``ghcoord memory`` for many keys, namespaces and files: every verb, once with success and once without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.running import Cli, Later
from tests.cli.terminal import Terminal

pytestmark = pytest.mark.usefixtures("hub")


# -- one commit


def test_set_many(cli: Cli, tmp_path: Path) -> None:
    """A JSON object from a file or standard input; the view has each entry, all of one revision."""
    file = tmp_path / "values.json"
    file.write_text('{"color": "blue", "limits": {"cpu": 2}}')
    entries = cli("memory", "set-many", file, "--ttl", "1h", "--json").json
    assert ["color", "limits"] == [entry["key"] for entry in entries]
    assert (1, {3600}) == (len({entry["revision"] for entry in entries}), {entry["ttl"] for entry in entries})
    done = cli("memory", "set-many", "-", "-n", "other", "--if-revision", "a=0", stdin='{"a": 1, "b=c": null}')
    assert 0 == done.code
    assert done.out.startswith("2 keys (a, b=c) set, revision ")
    lost = cli("memory", "set-many", "-", "-n", "other", "--if-revision", "a=0", stdin='{"b": 1}')
    assert 4 == lost.code
    assert "'a'" in lost.error
    assert 3 == cli("memory", "get", "b", "-n", "other").code
    assert 5 == cli("memory", "set-many", "-", "--fence", "x:1", stdin='{"b": 1}').code


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{broken", "standard input is not JSON"),
        ("[1]", "must be a JSON object"),
        ("{}", "must be a JSON object"),
        ('{"a//b": 1}', "segment"),
        ('{"a": NaN}', "not JSON"),
    ],
)
def test_set_many_refuses(cli: Cli, text: str, says: str) -> None:
    """What is no object of keys and values: exit code 2, one line, nothing written."""
    done = cli("memory", "set-many", "-", stdin=text)
    assert 2 == done.code
    assert says in done.error
    assert [] == cli("memory", "list", "--json").json


def test_files_that_cannot_be_read(cli: Cli, tmp_path: Path) -> None:
    """Missing, a folder, no text: one line that names the file."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for verb in ("set-many", "apply", "import"):
        for file in ("missing.json", str(tmp_path), str(binary)):
            done = cli("memory", verb, file)
            assert 2 == done.code
            assert file in done.error
    for pair in ("a", "=1", "a=x", "a=-1"):
        assert 2 == cli("memory", "set-many", "-", "--if-revision", pair, stdin='{"a": 1}').code


def test_delete_many(cli: Cli) -> None:
    """By name or prefix, after a look or with --yes; what is not set exits 3."""
    cli("memory", "set-many", "-", stdin='{"a/1": 1, "a/2": 1, "a/3": 1, "b": 1}')
    look = cli("memory", "delete-many", "--prefix", "a/", "--dry-run", "--json").json
    assert {"namespace": "global", "keys": ["a/1", "a/2", "a/3"], "deleted": 0, "dry_run": True} == look
    asked = cli("memory", "delete-many", "--prefix", "a/")
    assert 2 == asked.code
    assert "Remove 3 keys (a/1, a/2, a/3) from the namespace 'global'? Nobody is there to answer" in asked.error
    assert 2 == cli("memory", "delete-many", "--json", "a/1", "b", "missing", "--yes").json["deleted"]
    assert "2 keys (a/2, a/3) removed\n" == cli("memory", "delete-many", "--prefix", "a/", "-y").out
    assert 3 == cli("memory", "delete-many", "a/1", "-y").code
    assert "0 keys would be removed\n" == cli("memory", "delete-many", "a/1", "--dry-run").out
    for args in ((), ("a", "--prefix", "b")):
        assert 2 == cli("memory", "delete-many", *args, "-y").code
    cli("memory", "set", "k", "1")
    assert 5 == cli("memory", "delete-many", "k", "-y", "--fence", "x:1").code


def test_apply(cli: Cli) -> None:
    """Sets, deletes and checks over namespaces, all or none; the view has a result for each."""
    cli("memory", "set", "old", "1", "-n", "other")
    ops = [
        {"op": "set", "key": "k", "value": None, "if_revision": 0, "ttl": 60},
        {"op": "delete", "key": "old", "namespace": "other"},
        {"op": "delete", "key": "missing"},
        {"op": "check", "key": "free", "if_revision": 0},
    ]
    found = cli("memory", "apply", "-", "--json", stdin=json.dumps(ops)).json
    assert ["set", "delete", "delete", "check"] == [one["op"] for one in found]
    assert [None, True, False, None] == [one["deleted"] for one in found]
    assert ("k", 60, None) == (found[0]["entry"]["key"], found[0]["entry"]["ttl"], found[3]["entry"])
    assert 4 == cli("memory", "apply", "-", stdin=json.dumps(ops)).code
    assert "1 check done\n" == cli("memory", "apply", "-", stdin='[{"op":"check","key":"x","if_revision":0}]').out
    assert 5 == cli("memory", "apply", "-", "--fence", "x:1", stdin=json.dumps(ops)).code


@pytest.mark.parametrize(
    ("op", "says"),
    [
        ("5", "must be a JSON array"),
        ("[]", "must be a JSON array"),
        ("[5]", "change 1: op must be one of set, delete, check"),
        ('[{"op": "set", "key": "k", "value": 1}, {"op": "move"}]', "change 2: op must be one of"),
        ('[{"op": "set", "key": "k"}]', "'value' is missing"),
        ('[{"op": "check", "key": "k"}]', "'if_revision' is missing"),
        ('[{"op": "delete", "value": 1}]', "'value' is no field of delete"),
        ('[{"op": "delete", "key": 5}]', "key must be a text"),
        ('[{"op": "delete", "key": null}]', "must be texts"),
        ('[{"op": "set", "key": "k", "value": 1, "ttl": "5m"}]', "ttl must be a number"),
        ('[{"op": "set", "key": "k", "value": 1, "if_revision": true}]', "if_revision must be a number"),
        ('[{"op": "delete", "key": "k"}, {"op": "check", "key": "k", "if_revision": 0}]', "is there twice"),
    ],
)
def test_apply_refuses(cli: Cli, op: str, says: str) -> None:
    """One change that cannot be: exit code 2, its number, nothing written."""
    done = cli("memory", "apply", "-", stdin=op)
    assert 2 == done.code
    assert says in done.error
    assert [] == cli("memory", "list", "--json").json


# -- namespaces


def test_namespaces_and_drop(cli: Cli) -> None:
    """Listed with what they hold; dropped after a question; gone from the list; nothing there exits 3."""
    assert "no namespaces\n" == cli("memory", "namespaces").out
    cli("memory", "set-many", "-", "-n", "scratch", stdin=json.dumps({f"k{n}": n for n in range(7)}))
    cli("memory", "set", "k", "1")
    own, scratch = cli("memory", "namespaces", "--json").json
    assert ["global", "scratch"] == [own["namespace"], scratch["namespace"]]
    assert (1, 7, True) == (own["keys"], scratch["keys"], scratch["bytes"] > 7 * 50)
    assert "scratch" in cli("memory", "namespaces").out
    asked = cli("memory", "drop", "scratch")
    assert 2 == asked.code
    assert "Remove all keys of the namespace 'scratch': 7 keys (k0, k1, k2, k3, k4, …)?" in asked.error
    assert {"namespace": "scratch", "removed": 7} == cli("memory", "drop", "scratch", "--yes", "--json").json
    assert ["global"] == [one["namespace"] for one in cli("memory", "namespaces", "--json").json]
    assert 3 == cli("memory", "drop", "scratch", "--yes").code
    assert 2 == cli("memory", "drop", "a//b", "--yes").code


def answered(question: str, answer: str, *args: str) -> tuple[int, str]:
    """Exit code and screen of a command on a terminal, where ``answer`` is typed once ``question`` shows."""
    with Terminal("memory", *args) as terminal:
        terminal.wait_for(question)
        terminal.type(answer)
        return terminal.end(), terminal.seen


def test_on_a_terminal_it_asks(cli: Cli, tmp_path: Path) -> None:
    """A no is exit code 130 and changes nothing; a yes does it, with a bar that shows how far it is."""
    cli("memory", "set-many", "-", stdin='{"a": 1, "b": 2}')
    assert 130 == answered("all keys of the namespace 'global': 2 keys (a, b)?", "n\n", "drop", "global")[0]
    assert ["a", "b"] == [entry["key"] for entry in cli("memory", "list", "--json").json]
    (tmp_path / "f").write_text('{"key": "c", "value": 3}')
    code, seen = answered("Import 1 keys: 1 new, 0 overwritten, 0 skipped, 0 there", "y\n", "import", "f")
    assert (0, True) == (code, "importing" in seen)
    assert "3\n" == cli("memory", "get", "c").out


# -- files


def test_export_and_import(cli: Cli, tmp_path: Path, later: Later) -> None:
    """A round trip through a file: values, namespaces, what is left of a ttl; twice changes nothing."""
    cli("memory", "set-many", "-", stdin='{"a": "é\\n", "b": {"x": [1.5, null]}}')
    cli("memory", "set", "t", "1", "-n", "other", "--ttl", "1h")
    assert {"file": "all.jsonl", "keys": 3} == cli("memory", "export", "all.jsonl", "--json").json
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    printed = [json.loads(line) for line in cli("memory", "export").out.splitlines()]
    assert [(one["key"], one["value"]) for one in lines] == [(one["key"], one["value"]) for one in printed]
    assert ["t"] == [json.loads(line)["key"] for line in cli("memory", "export", "-n", "other").out.splitlines()]
    for namespace in ("global", "other"):
        cli("memory", "drop", namespace, "--yes")
    expected = {"created": 3, "overwritten": 0, "skipped": 0, "unchanged": 0, "dry_run": True}
    assert expected == cli("memory", "import", "all.jsonl", "--dry-run", "--json").json
    assert [] == cli("memory", "namespaces", "--json").json
    assert {**expected, "dry_run": False} == cli("memory", "import", "all.jsonl", "--json").json
    again = cli("memory", "import", "all.jsonl")
    assert "3 keys imported: 0 new, 0 overwritten, 0 skipped, 3 there with the same value\n" == again.out
    assert "é\n" == cli("memory", "get", "a", "--json").json["value"]
    later(3500)
    assert 0 == cli("memory", "get", "t", "-n", "other").code
    later(3601)
    assert 3 == cli("memory", "get", "t", "-n", "other").code


def test_import_of_what_is_there(cli: Cli, tmp_path: Path) -> None:
    """Another value stops it, is kept or overwritten, as one says."""
    cli("memory", "set", "k", "old")
    (tmp_path / "f").write_text('{"key": "k", "value": "new"}\n\n{"key": "n", "value": 1}\n')
    stopped = cli("memory", "import", "f")
    assert 4 == stopped.code
    assert "'k' in the namespace 'global' has another value" in stopped.error
    assert 3 == cli("memory", "get", "n").code
    assert 2 == cli("memory", "import", "f", "--overwrite", "--skip-existing").code
    assert 1 == cli("memory", "import", "f", "--skip-existing", "--json").json["skipped"]
    assert "old\n" == cli("memory", "get", "k").out
    done = cli("memory", "import", "-", "--overwrite", "--json", stdin=(tmp_path / "f").read_text()).json
    assert (1, 1) == (done["overwritten"], done["unchanged"])
    assert "new\n" == cli("memory", "get", "k").out


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: the line is not JSON"),
        ("[1]", "line 2: the line must be a JSON object"),
        ('{"key": "a"}', "line 2: the field 'value' is missing"),
        ('{"key": "a/", "value": 1}', "line 2: the key 'a/' has an empty"),
        ('{"key": "fine", "value": 2}', "line 2: the key 'fine' is there twice, first in line 1"),
        ('{"key": "a", "value": 1, "ttl": -1}', "line 2: a ttl of -1 s"),
        ('{"key": "a", "value": "' + "x" * 4_000_000 + '"}', "line 2: longer than"),
    ],
    ids=range(7),
)
def test_import_refuses(cli: Cli, line: str, says: str) -> None:
    """A bad line is named, and no line before it was written."""
    done = cli("memory", "import", "-", stdin='{"key": "fine", "value": 1}\n' + line + "\n")
    assert 2 == done.code
    assert says in done.error
    assert [] == cli("memory", "list", "--json").json


def test_export_refuses(cli: Cli, tmp_path: Path) -> None:
    """A namespace without keys, a place where nothing can be written, and a file that is there, unless told to."""
    assert 3 == cli("memory", "export", "-n", "empty").code
    cli("memory", "set", "k", "1")
    done = cli("memory", "export", tmp_path / "no" / "such")
    assert 2 == done.code
    assert "cannot write" in done.error
    (tmp_path / "f").write_text("mine")
    assert "Replace the file f?" in cli("memory", "export", "f").error
    assert "mine" == (tmp_path / "f").read_text()
    assert "1 keys written to f\n" == cli("memory", "export", "f", "--yes").out
    assert ["f", "hub.git", "state"] == sorted(path.name for path in tmp_path.iterdir())
