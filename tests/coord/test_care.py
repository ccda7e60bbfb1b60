"""How far back history goes, and a hub as a file: what stays after gc, and what comes with a bundle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ghcoord.bootstrap import import_hub
from ghcoord.config import Settings
from ghcoord.coord.care import care
from ghcoord.coord.layout import FLEET, HUB_RECORD, LOCKS, META
from ghcoord.errors import Corrupt, HeadRegressed, NewerSchema, NotFound, Unsupported, UsageError
from ghcoord.hub import Hub
from ghcoord.store.bundle import Written, write_bundle
from ghcoord.store.takeover import SCHEMA
from ghcoord.testing.clock import START
from tests.coord.world import World, edited, taken, where
from tests.store.gitrepo import fsck, git

DAY = 86400.0
SPACE = "memory/global"


def commits(hub: Hub, space: str = SPACE) -> list[str]:
    return [commit.oid for commit in hub.log(space)]


def days(world: World, hub: Hub, count: int) -> list[str]:
    """A value a day; the commits, oldest first."""
    made = []
    for day in range(count):
        hub.memory.set("day", day)
        made.append(hub.heads()[SPACE])
        world.runtime.advance(DAY)
    return made


# -- gc


def test_what_is_within_the_retention_stays(both: World) -> None:
    """History ends at the last commit before the retention; what holds now is untouched, and counts go on."""
    hub = both.open()
    lock = taken(hub.locks.acquire("x"))
    hub.tasks.submit("echo", {"n": 1}, id="one")
    made = days(both, hub, 10)
    before, revisions = hub.heads(), hub.revisions()
    report = hub.gc(3 * DAY)
    assert made[:5:-1] == commits(both.open("fresh"))
    assert before == {**hub.heads(), META: before[META]}, "but for the note in meta"
    assert {space: revisions[space] for space in (SPACE, LOCKS, FLEET)} == {
        space: hub.revision(space) for space in (SPACE, LOCKS, FLEET)
    }
    assert START + 6 * DAY == report.since[SPACE].timestamp()
    assert report.commits_cut >= 6
    assert (False, 3 * DAY, "") == (report.dry_run, report.retention, report.postponed)
    assert 9 == hub.memory.get("day")
    assert "history collected" == next(iter(hub.log(META))).summary.removeprefix("meta: ")
    fresh = both.open("fresh")
    fresh.locks.force_unlock("x")
    assert taken(fresh.locks.acquire("x")).token > lock.token
    assert fresh.memory.set("day", 10).revision > revisions[SPACE]
    assert ["one"] == [task.id for task in fresh.tasks.list()]


def test_the_last_minute_stays(world: World) -> None:
    """Whatever the retention: who got no answer looks for it there."""
    hub = world.open()
    for n in range(10):
        hub.memory.set("n", n)
        world.runtime.advance(20.0)
    last = commits(hub)
    hub.gc(0)
    assert last[:4] == commits(world.open("fresh")), "those of 20, 40 and 60 s ago, and the one before"


def test_the_default_is_the_hubs_setting(world: World) -> None:
    """``retention.history`` counts where none is given."""
    hub = world.open()
    made = days(world, hub, 10)
    assert 30 * DAY == hub.gc(dry_run=True).retention
    hub.config.set("retention.history", 2 * DAY)
    assert 2 * DAY == hub.gc().retention
    assert made[:6:-1] == commits(world.open("fresh"))


def test_a_dry_run_and_nothing_to_do(world: World) -> None:
    """Neither leaves a commit."""
    hub = world.open()
    days(world, hub, 5)
    before = hub.heads()
    assert hub.gc(DAY, dry_run=True).commits_cut > 0
    assert 0 == hub.gc(20 * DAY).commits_cut
    assert before == hub.heads()


def test_where_gc_is_refused(world: World) -> None:
    """In the past, and with a retention that is none."""
    hub = world.open()
    days(world, hub, 3)
    with pytest.raises(UsageError):
        hub.gc(-1)
    past = hub.at(hub.now() - timedelta(days=1))
    with pytest.raises(Unsupported):
        past.gc(0)


def test_peoples_commits_are_never_the_end(both: World) -> None:
    """History ends at a commit by ghcoord, whatever dates people's commits carry, and adoption finds its base."""
    hub = both.open()
    hub.memory.set("key", "first")
    path = where("key", "key")
    for day in range(7):
        both.runtime.advance(DAY)
        both.put(SPACE, {path: edited(both.files(SPACE)[path], value=f"by hand {day}")})
        if day % 2:
            hub.memory.set(f"own {day}", day)
    both.runtime.advance(10 * DAY)
    both.put(SPACE, {path: edited(both.files(SPACE)[path], value="last"), where("key", "own 5"): b"{"})
    hub.gc(0)
    fresh = both.open("fresh")
    assert 3 == len(commits(fresh)), "the last by hand, and below two days' the last by ghcoord"
    revision = fresh.memory.set("new", 1).revision
    assert "last" == fresh.memory.get("key")
    assert 5 == fresh.memory.get("own 5"), "the version before was restored"
    entry = fresh.memory.entry("key")
    assert entry is not None
    assert entry.revision < revision


def test_copied_trailers_are_no_end(world: World) -> None:
    """A commit that carries an old commit's trailers is a person's, before and after gc."""
    hub = world.open()
    hub.memory.set("n", 0)
    store = world.store()
    copied = store.commit_info(store.heads()[SPACE]).message
    world.runtime.advance(5 * DAY)
    revision = hub.memory.set("n", 1).revision
    world.put(SPACE, {"note": b"x"}, message=copied.rstrip())
    hub.gc(DAY)
    fresh = world.open("fresh")
    assert revision <= fresh.revision(SPACE)
    assert fresh.memory.set("n", 2).revision > revision


def test_who_looks_back_finds_the_end(world: World) -> None:
    """Logs, histories and views of the past end where history does, and none of them fails."""
    hub = world.open()
    heard = hub.memory.set("k", 0).revision
    days(world, hub, 8)
    hub.gc(2 * DAY)
    fresh = world.open("fresh")
    assert 3 == len(commits(fresh))
    assert "resync" == next(iter(fresh.memory.watch("day", since=heard))).kind
    assert len(list(fresh.memory.history("day"))) <= 3
    fresh.events(50)
    with pytest.raises(NotFound):
        fresh.at(hub.now() - timedelta(days=7))
    assert 6 == fresh.at(hub.now() - timedelta(days=1.5)).memory.get("day")


# -- a hub as a file


@pytest.fixture
def local(tmp_path: Path) -> Iterator[World]:
    """A hub on disk with something in it."""
    world = World(tmp_path / "hub.git")
    hub = world.open()
    days(world, hub, 3)
    hub.locks.acquire("deploy", "ci", ttl=1e6)
    hub.tasks.submit("echo", {"n": 1}, id="one")
    hub.memory.set("Key", {"a": 1}, namespace="Team A")
    yield world
    world.close()


def imported(file: Path, where: Path, tmp_path: Path, **more: bool) -> Hub:
    return import_hub(file, where, Settings(), actor="importer", state=tmp_path / "state", **more)


def test_there_and_back(local: World, tmp_path: Path) -> None:
    """The copy has the same commits, and goes on by itself."""
    (tmp_path / "state").mkdir()
    hub = local.open()
    made = hub.export(tmp_path / "x.bundle")
    assert (tmp_path / "x.bundle").stat().st_size == made.size
    copy = imported(tmp_path / "x.bundle", tmp_path / "copy.git", tmp_path)
    assert hub.heads() == copy.heads() == made.heads
    assert hub.id == copy.id
    assert "ci" == copy.locks.list(include_expired=True)[0].owner
    assert {"a": 1} == copy.memory.get("Key", "Team A")
    copy.memory.set("day", "in the copy")
    assert 2 == hub.memory.get("day")
    copy.close()
    fsck(tmp_path / "copy.git")
    assert [] == [name for name in os.listdir(tmp_path) if ".import-" in name or "unfinished" in name]


def test_without_history(local: World, tmp_path: Path) -> None:
    """Records, revisions and tokens are the same; of each space only the last commit by ghcoord comes along."""
    (tmp_path / "state").mkdir()
    hub = local.open()
    local.put(SPACE, {"by-hand": b"x"})
    whole, small = hub.export(tmp_path / "x.bundle"), hub.export(tmp_path / "y.bundle", history=False)
    assert small.commits == len(small.heads) + 1 < whole.commits
    assert small.size < whole.size
    with imported(tmp_path / "y.bundle", tmp_path / "copy.git", tmp_path) as copy:
        assert hub.revisions() == copy.revisions()
        assert 2 == len(commits(copy))
        assert copy.memory.set("n", 1).revision > hub.revision(SPACE)
        assert [] == [event.kind for event in copy.events(20) if "by hand" in event.kind]


def test_after_gc(local: World, tmp_path: Path) -> None:
    """Of a hub whose history was cut the bundle is complete in itself: git and we agree."""
    (tmp_path / "state").mkdir()
    hub = local.open()
    hub.gc(0)
    assert (tmp_path / "hub.git" / "shallow").exists()
    made = hub.export(tmp_path / "x.bundle")
    git(tmp_path / "hub.git", "bundle", "verify", "-q", str(tmp_path / "x.bundle"))
    git(tmp_path, "clone", "-q", "-b", "ghcoord/fleet", str(tmp_path / "x.bundle"), "clone")
    with imported(tmp_path / "x.bundle", tmp_path / "copy.git", tmp_path) as copy:
        assert made.heads == copy.heads()
        assert hub.revisions() == copy.revisions()
        assert len(commits(hub)) == len(commits(copy))
    assert not (tmp_path / "copy.git" / "shallow").exists()
    fsck(tmp_path / "copy.git")


def test_a_hub_of_its_own(local: World, tmp_path: Path) -> None:
    """With a new id it is another hub, and says where it comes from."""
    (tmp_path / "state").mkdir()
    hub = local.open()
    hub.export(tmp_path / "x.bundle")
    with imported(tmp_path / "x.bundle", tmp_path / "copy.git", tmp_path, new_id=True) as copy:
        assert hub.id != copy.id
        assert "hub forked" in next(iter(copy.log(META))).summary


def test_in_place_of_a_lost_one(local: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing is the decision: what this user saw of a newer hub at that place stops nobody."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    hub = local.open()
    hub.export(tmp_path / "x.bundle")
    place = tmp_path / "other.git"
    with import_hub(tmp_path / "x.bundle", place, Settings()) as first:
        first.memory.set("day", "lost")
    git(tmp_path, "clone", "-q", "--bare", str(place), "kept.git")
    os.rename(place, tmp_path / "gone.git")
    with import_hub(tmp_path / "x.bundle", place, Settings()) as again:
        again.memory.set("day", "after all")
    try:
        with import_hub(tmp_path / "x.bundle", tmp_path / "third.git", Settings()) as third:
            third.memory.set("day", 1)
    except HeadRegressed:
        pytest.fail("another place is another hub to its user")


def test_a_hub_in_memory_can_be_kept(world: World, tmp_path: Path) -> None:
    """Export does not ask where the hub is."""
    (tmp_path / "state").mkdir()
    hub = world.open()
    hub.memory.set("a", 1)
    hub.export(tmp_path / "x.bundle")
    with imported(tmp_path / "x.bundle", tmp_path / "copy.git", tmp_path) as copy:
        assert 1 == copy.memory.get("a")
    with pytest.raises(UsageError, match="imported into a new folder"):
        import_hub(tmp_path / "x.bundle", "memory:", Settings())


def test_import_refuses(local: World, tmp_path: Path) -> None:
    """A folder that is in use, another prefix, a file that is not there: nothing is left behind."""
    hub = local.open()
    hub.export(tmp_path / "x.bundle")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UsageError, match="exists and is not empty"):
        imported(tmp_path / "x.bundle", tmp_path / "hub.git", tmp_path)
    with pytest.raises(UsageError, match="exists and is not empty"):
        imported(tmp_path / "x.bundle", tmp_path / "x.bundle", tmp_path)
    with pytest.raises(UsageError, match="a hub's lie below refs/ghcoord/"):
        import_hub(tmp_path / "x.bundle", tmp_path / "copy.git", Settings(prefix="refs/ghcoord/"))
    with pytest.raises(UsageError, match="there is no file"):
        imported(tmp_path / "missing", tmp_path / "a" / "b" / "copy.git", tmp_path)
    git(tmp_path, "init", "-q", "work")
    git(tmp_path / "work", "commit", "-q", "--allow-empty", "-m", "x")
    git(tmp_path / "work", "branch", "ghcoord/meta")
    git(tmp_path / "work", "bundle", "create", "-q", "../no.bundle", "ghcoord/meta")
    with pytest.raises(UsageError, match=r"not of a hub: it has no meta:hub\.json"):
        imported(tmp_path / "no.bundle", tmp_path / "copy.git", tmp_path)
    assert sorted([*before, "no.bundle", "work"]) == sorted(os.listdir(tmp_path))


@pytest.mark.parametrize(("text", "error"), [(b"{", Corrupt), (b'{"id": "x", "schema": 99}', NewerSchema)])
def test_import_of_a_strange_hub(local: World, tmp_path: Path, text: bytes, error: type[Exception]) -> None:
    """A hub whose record is broken, or of a newer version, is refused and nothing is left."""
    local.put(META, {HUB_RECORD: text})
    store = local.store()
    write_bundle(
        store, tmp_path / "x.bundle", "refs/heads/ghcoord/", store.heads(), [], FLEET, lambda what, count: None
    )
    with pytest.raises(error):
        imported(tmp_path / "x.bundle", tmp_path / "copy.git", tmp_path)
    assert not (tmp_path / "copy.git").exists()


def test_a_gc_in_the_middle_of_an_export(local: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cut while it is read is left out, and the file is whole."""
    (tmp_path / "state").mkdir()
    hub, other = local.open(), local.open("other")
    tries: list[int] = []

    def write(*args: Any) -> Written:
        tries.append(1)
        if len(tries) == 1:
            other.gc(0)
            raise Corrupt("an object is gone")
        return write_bundle(*args)

    monkeypatch.setattr(care, "write_bundle", write)
    hub.export(tmp_path / "x.bundle")
    with imported(tmp_path / "x.bundle", tmp_path / "new" / "copy.git", tmp_path) as copy:
        assert hub.revisions() == copy.revisions()
        assert (3, 2) == (len(commits(copy)), len(tries)), "two days, and the end"


def test_an_older_hub_is_migrated_on_the_way(tmp_path: Path) -> None:
    """A bundle that git made of a hub of schema 1 becomes one of today."""
    (tmp_path / "state").mkdir()
    bundle = Path(__file__).parents[1] / "data" / "schema1.bundle"
    with imported(bundle, tmp_path / "copy.git", tmp_path) as copy:
        assert 1 == copy.migrated_from
        assert 20 == len(copy.tasks.list("queued"))
    store = World(tmp_path / "copy.git").snapshot(META)
    assert SCHEMA == json.loads(store.read(HUB_RECORD) or b"")["schema"]
