"""``ghcoord memory``: every verb, once with success and once without."""

from __future__ import annotations

import json
import select
import subprocess

import pytest

from tests.cli.running import Cli, Later, command, environment

pytestmark = pytest.mark.usefixtures("hub")


def test_set_and_get(cli: Cli) -> None:
    """A text comes back bare, any JSON as JSON, and null is a value; a missing key exits 3."""
    cli("memory", "set", "k", "a text")
    assert "a text\n" == cli("memory", "get", "k").out
    cli("memory", "set", "k", '{"b": [1, null]}', "--json-value")
    assert '{"b": [1, null]}\n' == cli("memory", "get", "k").out
    cli("memory", "set", "k", "null", "--json-value")
    assert (0, "null\n") == (cli("memory", "get", "k").code, cli("memory", "get", "k").out)
    missing = cli("memory", "get", "missing")
    assert 3 == missing.code
    assert "'missing'" in missing.error


def test_set_reads_standard_input(cli: Cli) -> None:
    """'-' stands for standard input, every character of it."""
    cli("memory", "set", "k", "-", stdin="two\nlines\n")
    assert "two\nlines\n" == cli("memory", "get", "k", "--json").json["value"]


def test_compare_and_set(cli: Cli) -> None:
    """--if-revision writes at that revision only: 0 means unset; a lost write exits 4 and changes nothing."""
    entry = cli("memory", "set", "k", "1", "--if-revision", "0", "--json").json
    lost = cli("memory", "set", "k", "2", "--if-revision", "0")
    assert 4 == lost.code
    assert "'k'" in lost.error
    assert 0 == cli("memory", "set", "k", "3", "--if-revision", entry["revision"]).code
    assert "3\n" == cli("memory", "get", "k").out


def test_namespaces_are_apart(cli: Cli) -> None:
    """A key of one namespace is not in another, and sync names both."""
    cli("memory", "set", "k", "1")
    cli("memory", "set", "k", "2", "--namespace", "other")
    assert "1\n" == cli("memory", "get", "k").out
    assert "2\n" == cli("memory", "get", "k", "-n", "other").out
    assert {"global", "other"} == set(cli("memory", "sync", "--json").json["namespaces"])
    assert ["other"] == list(cli("memory", "sync", "--namespace", "other", "--json").json["namespaces"])
    assert 2 == cli("memory", "sync", "--namespace", "a//b").code


def test_a_value_with_a_ttl_ends(cli: Cli, later: Later) -> None:
    """After its ttl the key is gone for readers."""
    entry = cli("memory", "set", "k", "1", "--ttl", "1h30m", "--json").json
    assert 5400 == entry["ttl"]
    later(5399)
    assert 0 == cli("memory", "get", "k").code
    later(5401)
    assert 3 == cli("memory", "get", "k").code


def test_delete(cli: Cli) -> None:
    """A key that was set is deleted; one that was not exits 3; conditions hold as for set."""
    cli("memory", "set", "k", "1")
    assert 4 == cli("memory", "delete", "k", "--if-revision", "1").code
    assert 5 == cli("memory", "delete", "k", "--fence", "x:1").code
    assert {"key": "k", "namespace": "global", "deleted": True} == cli("memory", "delete", "k", "--json").json
    assert 3 == cli("memory", "delete", "k").code


def test_list(cli: Cli) -> None:
    """Keys are listed by prefix and in order; a namespace that cannot be exits 2."""
    for key in ("b/1", "a/2", "a/1"):
        cli("memory", "set", key, "v")
    assert ["a/1", "a/2"] == [entry["key"] for entry in cli("memory", "list", "a/", "--json").json]
    assert 4 == len(cli("memory", "list").out.splitlines())
    assert "no keys\n" == cli("memory", "list", "c").out
    assert 2 == cli("memory", "list", "--namespace", "").code


def test_list_in_pages(cli: Cli) -> None:
    """So many at a time, on from the last key of the page before; people are told how."""
    for key in ("a", "b c", "d"):
        cli("memory", "set", key, "v")
    page = cli("memory", "list", "--limit", "2")
    assert "perhaps more: --after 'b c'\n" == page.err
    assert ["d"] == [entry["key"] for entry in cli("memory", "list", "--after", "b c", "--json").json]
    assert "" == cli("memory", "list", "--limit", "2", "--after", "b c").err
    assert 2 == cli("memory", "list", "--limit", "0").code


def test_history(cli: Cli, later: Later) -> None:
    """Each version with its author; one that never was exits 3; a value as it was at a revision."""
    first = cli("memory", "set", "k", "old", "--json").json["revision"]
    second = cli("memory", "set", "k", '{"x": 1}', "--json-value", "--json").json["revision"]
    cli("memory", "delete", "k")
    found = cli("memory", "history", "k", "--json").json
    assert [("deleted", None), ("set", {"x": 1}), ("set", "old")] == [(one["kind"], one["value"]) for one in found]
    assert [second, first] == [one["revision"] for one in found[1:]]
    assert 2 == len(cli("memory", "history", "k", "--limit", "1").out.splitlines())
    assert 2 == len(cli("memory", "history", "k", "--since", second, "--json").json)
    assert 4 == len(cli("memory", "history", "k").out.splitlines())
    assert "old\n" == cli("memory", "get", "k", "--revision", first).out
    assert '{"x": 1}\n' == cli("memory", "get", "k", "--revision", second).out
    for revision, code in ((first - 1, 3), (found[0]["revision"], 3), (found[0]["revision"] + 1, 2)):
        assert code == cli("memory", "get", "k", "--revision", revision).code
    never = cli("memory", "history", "never")
    assert 3 == never.code
    assert "'never'" in never.error
    assert 2 == cli("memory", "history", "k", "--limit", "0").code


def test_sweep(cli: Cli, later: Later) -> None:
    """Values whose time is over go, of one namespace or all; a namespace that cannot be exits 2."""
    for namespace in ("global", "other"):
        cli("memory", "set", "k", "1", "--ttl", "10", "-n", namespace)
    later(20)
    assert {"namespace": "other", "removed": 1} == cli("memory", "sweep", "-n", "other", "--json").json
    assert "1 removed\n" == cli("memory", "sweep").out
    assert "0 removed\n" == cli("memory", "sweep").out
    assert 2 == cli("memory", "sweep", "-n", "a//b").code


def test_watch_goes_on_from_a_revision(cli: Cli) -> None:
    """What has the revision and all that came after it, at once."""
    cli("memory", "set", "a/1", "old")
    heard = cli("memory", "set", "a/2", "x", "--json").json["revision"]
    cli("memory", "set", "a/1", "new")
    done = cli("memory", "watch", "a/", "--prefix", "--since", heard, "--count", "2", "--timeout", "20s")
    assert 0 == done.code
    assert ["set a/2 = x", "set a/1 = new"] == [line.partition(" (")[0] for line in done.out.splitlines()]
    assert 2 == cli("memory", "watch", "a/", "--since", "-1").code


@pytest.mark.slow
def test_watch_prints_a_line_a_change(cli: Cli) -> None:
    """Each change is one line of JSON; --count ends it with 0."""
    watching = subprocess.Popen(
        command("memory", "watch", "a/", "--prefix", "--count", "2", "--timeout", "20s", "--json"),
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert watching.stdout is not None
    number = 0
    while not select.select([watching.stdout], [], [], 0.2)[0]:
        number += 1
        cli("memory", "set", "a/k", str(number))
    seen = json.loads(watching.stdout.readline())
    assert ("set", "a/k", "global") == (seen["kind"], seen["key"], seen["namespace"])
    assert 1 <= int(seen["value"]) <= number
    cli("memory", "set", "a/last", '{"x": 1}', "--json-value")
    rest, _ = watching.communicate(timeout=20)
    assert 0 == watching.returncode
    assert 1 == len(rest.splitlines())


def test_watch_times_out(cli: Cli) -> None:
    """Without a change --timeout exits 9."""
    assert 9 == cli("memory", "watch", "k", "--timeout", "200ms").code
