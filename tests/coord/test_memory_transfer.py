"""Export and import: what comes out goes in, all of it or a clear no, and twice is harmless."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ghcoord.coord.memory import transfer as memory_transfer
from ghcoord.coord.memory.memory import Imported, SetKey
from ghcoord.errors import InvalidName, NotFound, RevisionMismatch, TooLarge, Unavailable, UsageError
from ghcoord.hub import Hub
from ghcoord.testing.faults import CommitFault
from tests.coord.memory_checks import check_namespace
from tests.coord.world import World, where

SPACE = "memory/global"


def contents(hub: Hub) -> dict[tuple[str, str], tuple[Any, float | None]]:
    """Every value with what is left of its ttl."""
    return {(line["namespace"], line["key"]): (line["value"], line["ttl"]) for line in hub.memory.export()}


def filled(world: World) -> Hub:
    hub = world.open("maker")
    hub.memory.set_many({"a": 1, "b/é": {"x": [None, 1.5]}, "x" * 256: "text\n"})
    hub.memory.set("t", True, ttl=100)
    hub.memory.set("gone", 1, ttl=1)
    hub.memory.set("k", None, "Other")
    world.runtime.advance(10)
    return hub


def test_what_comes_out_goes_in(both: World) -> None:
    """Values of all namespaces, with the time left; what has ended is not there; revisions and authors are new."""
    source = filled(both)
    lines = [json.loads(json.dumps(line)) for line in source.memory.export()]
    assert 5 == len(lines)
    assert {"maker"} == {line["updated_by"] for line in lines}
    assert 90.0 == next(line["ttl"] for line in lines if line["key"] == "t")
    other = World()
    target = other.open("taker")
    assert Imported(created=5) == target.memory.bring_in(lines)
    assert contents(source) == contents(target)
    entry = target.memory.entry("a")
    assert entry is not None
    assert "taker" == entry.updated_by
    check_namespace(other.snapshot(SPACE))
    other.close()


def test_some_namespaces_and_one_moment(world: World) -> None:
    """Those that are named, as they were when the export began; one without keys is not found."""
    hub = filled(world)
    lines = hub.memory.export(["Other"])
    hub.memory.set("k", "later", "Other")
    assert [("k", None)] == [(line["key"], line["value"]) for line in lines]
    with pytest.raises(NotFound, match="'empty' has no keys"):
        hub.memory.export(["Other", "empty"])


def test_a_broken_record_is_left_out(world: World) -> None:
    """The others are exported."""
    hub = filled(world)
    hub._context.transact((SPACE,), lambda tx: tx.write(SPACE, where("key", "a"), b"{broken"))
    assert ("global", "a") not in contents(hub)
    assert 4 == len(contents(hub))


def test_twice_is_harmless(both: World) -> None:
    """What has the value already is left alone, down to its revision; so an interrupted import is done again."""
    hub = filled(both)
    lines = list(hub.memory.export())
    heads = both.store().heads()
    assert Imported(unchanged=5) == hub.memory.bring_in(lines)
    assert heads == both.store().heads()


def test_one_is_not_true(world: World) -> None:
    """Values are compared as JSON."""
    hub = world.open()
    hub.memory.set("k", 1)
    assert Imported(overwritten=1) == hub.memory.bring_in([{"key": "k", "value": True}], existing="overwrite")
    assert True is hub.memory.get("k")
    assert Imported(overwritten=1) == hub.memory.bring_in([{"key": "k", "value": 1.0}], existing="overwrite")


def test_what_has_another_value(world: World) -> None:
    """Stops it before anything is written, stays, or is overwritten; a dry run says what would be."""
    hub = world.open()
    hub.memory.set("k", 1)
    lines = [{"key": f"n{n:04d}", "value": n} for n in range(600)] + [{"key": "k", "value": 2}]
    with pytest.raises(RevisionMismatch, match="'k' in the namespace 'global' has another value: overwrite or skip"):
        hub.memory.bring_in(lines)
    with pytest.raises(RevisionMismatch):
        hub.memory.bring_in(lines, dry_run=True)
    assert ["k"] == hub.memory.list()
    before = hub.commits
    assert Imported(created=600, skipped=1) == hub.memory.bring_in(lines, existing="skip", dry_run=True)
    assert Imported(created=600, overwritten=1) == hub.memory.bring_in(lines, existing="overwrite", dry_run=True)
    assert before == hub.commits
    assert Imported(created=600, skipped=1) == hub.memory.bring_in(lines, existing="skip")
    assert 1 == hub.memory.get("k")
    assert Imported(overwritten=1, unchanged=600) == hub.memory.bring_in(lines, existing="overwrite")
    assert 2 == hub.memory.get("k")
    with pytest.raises(UsageError, match="one of refuse, skip, overwrite"):
        hub.memory.bring_in([], existing="maybe")


def test_batches(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many keys or bytes a commit, and progress after each; an interruption leaves whole batches."""
    monkeypatch.setattr(memory_transfer, "BATCH_KEYS", 10)
    monkeypatch.setattr(memory_transfer, "BATCH_BYTES", 5000)
    hub, faulty = world.open_faulty()
    lines = [{"key": f"k{n:02d}", "value": n} for n in range(25)]
    lines += [{"key": f"big{n}", "value": "x" * 3000} for n in range(3)]
    lines += [{"key": "k", "value": 1, "namespace": "other"}]
    seen: list[int] = []
    commits = hub.commits

    def interrupt(done: int) -> None:
        seen.append(done)
        if done == 20:
            faulty.fail_commits(*[CommitFault.UNAVAILABLE] * 10_000)

    with pytest.raises(Unavailable):
        hub.memory.bring_in(lines, progress=interrupt)
    assert 20 == len(hub.memory.list())
    faulty._commit_faults.clear()
    assert Imported(created=9, unchanged=20) == hub.memory.bring_in(lines, progress=seen.append)
    assert [10, 20, 10, 20, 26, 27, 28, 29] == seen
    assert commits + 2 + 4 == hub.commits


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        ({"value": 1}, UsageError, "'key' is missing"),
        ({"key": "k"}, UsageError, "'value' is missing"),
        ({"key": 5, "value": 1}, UsageError, "must be texts"),
        ({"key": "k", "value": 1, "namespace": None}, UsageError, "must be texts"),
        ({"key": "k", "value": 1, "colour": 1}, UsageError, "'colour' is no field"),
        ({"key": "k", "value": 1, "ttl": "5m"}, UsageError, "ttl must be a number"),
        ({"key": "k", "value": 1, "ttl": True}, UsageError, "ttl must be a number"),
        ({"key": "k", "value": 1, "ttl": 0}, UsageError, "out of range"),
        ({"key": "a//b", "value": 1}, InvalidName, "segment"),
        ({"key": "k", "value": 1, "namespace": "n" * 61}, InvalidName, "too long"),
        ({"key": "k", "value": float("nan")}, UsageError, "not JSON"),
        ({"key": "k", "value": "x" * 1_000_000}, TooLarge, "at most"),
        ({"key": "fine", "value": 2}, UsageError, "'fine' of the namespace 'global' is there twice"),
    ],
)
def test_a_bad_line_is_refused_before_anything(world: World, line: dict[str, Any], error: type, says: str) -> None:
    """Whatever is wrong with one of many; nothing is written."""
    hub = world.open()
    with pytest.raises(error, match=says):
        hub.memory.bring_in([{"key": "fine", "value": 1}, line])
    assert [] == hub.memory.namespaces()


def test_lines_as_a_program_has_them(hub: Hub) -> None:
    """``parse_line`` gives what an import takes too."""
    one = hub.memory.parse_line({"key": "e\u0301", "value": 1, "ttl": None, "revision": 5, "updated_by": "x"})
    assert SetKey("é", 1) == one
    assert Imported(created=1) == hub.memory.bring_in([one])


def test_the_quota_holds_for_imports(world: World) -> None:
    """Also in the rehearsal, so that nothing is written."""
    hub = world.open()
    hub.config.set("quota.memory_keys", 2)
    with pytest.raises(TooLarge, match="quota"):
        hub.memory.bring_in([{"key": f"k{n}", "value": n} for n in range(3)])
    assert [] == hub.memory.namespaces()
