"""Observer, events, and the hub's own record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ghcoord.bootstrap import open_hub
from ghcoord.config import Settings
from ghcoord.coord.observer import SAVE_EVERY, Observer
from ghcoord.errors import Corrupt, NewerSchema, NotFound
from ghcoord.model.codec import stamp
from ghcoord.model.lease import Lease
from ghcoord.store.takeover import SCHEMA
from ghcoord.testing.clock import START, ManualRuntime
from tests.coord.world import Daemon, World

NOW = 1_700_000_000.0


def lease(token: int = 1, renewal: int = 1, ttl: float = 10.0) -> Lease:
    return Lease("o", token, renewal, ttl, stamp(NOW))


def observer(runtime: ManualRuntime, file: Path | None = None) -> Observer:
    return Observer(runtime, margin=2.0, file=file)


def test_a_lease_is_over_when_it_stood_still_for_ttl_and_margin() -> None:
    """By one's own clock; stamps and wall clocks do not matter."""
    runtime = ManualRuntime()
    watching = observer(runtime)
    watching.look([("k", lease())])
    runtime.advance(12)
    runtime.jump_wall(1e6)
    assert not watching.judge()("k", lease(), NOW + 1e9)
    runtime.advance(0.1)
    assert watching.judge()("k", lease(), NOW - 1e9)


def test_a_renewal_or_a_new_grant_begins_anew() -> None:
    """Only a lease that looks exactly as it did counts; one never seen, or changed since, does not."""
    runtime = ManualRuntime()
    watching = observer(runtime)
    watching.look([("k", lease())])
    runtime.advance(100)
    judge = watching.judge()
    assert not judge("k", lease(renewal=2), NOW)
    assert not judge("k", lease(token=2), NOW)
    assert not judge("other", lease(), NOW)
    watching.look([("k", lease(renewal=2))])
    assert not watching.judge()("k", lease(renewal=2), NOW)
    assert judge("k", lease(), NOW), "a judge goes by what was seen up to its making"


def test_what_is_not_there_any_more_is_forgotten() -> None:
    """In a complete look, keys that are missing; others stay."""
    runtime = ManualRuntime()
    watching = observer(runtime)
    watching.look([("worker:a", lease()), ("worker:b", lease()), ("lock:a", lease())])
    runtime.advance(100)
    watching.look([("worker:a", lease())], complete="worker:")
    watching.look([("worker:b", lease())])
    judge = watching.judge()
    assert [True, False, True] == [judge(key, lease(), NOW) for key in ("worker:a", "worker:b", "lock:a")]


def test_observations_outlive_the_process(tmp_path: Path) -> None:
    """Under the same boot a restarted process goes on; saved on closing and every few seconds."""
    file = tmp_path / "observed.json"
    runtime = ManualRuntime()
    first = observer(runtime, file)
    first.look([("k", lease())])
    assert not file.exists()
    runtime.advance(SAVE_EVERY)
    first.look([("k", lease())])
    assert file.exists()
    first.close()
    runtime.advance(7.1)
    assert observer(runtime, file).judge()("k", lease(), NOW)
    assert ["observed.json"] == [found.name for found in tmp_path.iterdir()]


def test_observations_of_another_boot_are_nothing(tmp_path: Path) -> None:
    """The clock that they count by is another one."""
    file = tmp_path / "observed.json"
    runtime = ManualRuntime(boot_id="first")
    watching = observer(runtime, file)
    watching.look([("k", lease())])
    watching.close()
    later = ManualRuntime(boot_id="second")
    later.advance(1e6)
    assert not observer(later, file).judge()("k", lease(), NOW)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"null",
        b'{"boot": "manual-boot"}',
        b'{"boot": "manual-boot", "seen": {"k": 5}}',
        b'{"boot": "manual-boot", "seen": {"k": [1, 1, "x"]}}',
        b'{"boot": "manual-boot", "seen": {"k": [1, 1, 99999999]}}',
        b'{"boot": "manual-boot", "seen": {"k": [1, 1, NaN]}}',
        b'{"boot": "manual-boot", "seen": {"k": [1e999, 1, 1]}}',
        b"[" * 100_000,
    ],
    ids=lambda content: content[:40].decode(errors="replace"),
)
def test_a_damaged_file_is_nothing_seen(tmp_path: Path, content: bytes) -> None:
    """Nothing is taken for observed, and nothing is raised: also times of the future."""
    file = tmp_path / "observed.json"
    file.write_bytes(content)
    runtime = ManualRuntime()
    watching = observer(runtime, file)
    assert not watching.judge()("k", lease(), NOW)
    watching.look([("k", lease())])
    runtime.advance(13)
    assert watching.judge()("k", lease(), NOW)


def test_a_file_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    """Without a place to keep them, observations are this process's own."""
    runtime = ManualRuntime()
    watching = observer(runtime, tmp_path / "missing" / "observed.json")
    watching.look([("k", lease())])
    runtime.advance(13)
    watching.look([("k", lease())])
    watching.close()
    assert watching.judge()("k", lease(), NOW)


def test_commands_in_a_row_observe_together(both: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each opens the hub, looks and closes: together they notice a dead worker."""
    state = tmp_path_factory.mktemp("state")
    hub = both.open()
    Daemon(hub).lease()
    for _ in range(3):
        one = both.open(state=state)
        found = one.workers.tend()
        one.close()
        both.runtime.advance(10)
    assert ["w1"] == list(found)


# -- events


def test_events_are_newest_first_and_limited(both: World) -> None:
    """Of fleet and locks together, with time and fields; renewals are left out."""
    hub = both.open("ann")
    for number in range(5):
        both.runtime.advance(1)
        hub.tasks.submit("echo", id=f"t{number}")
        both.runtime.advance(1)
        hub.locks.acquire(f"x{number}", ttl=600)
    daemon = Daemon(hub)
    daemon.beat(renew=True)
    events = hub.events(4)
    assert ["worker registered", "lock acquired", "task submitted", "lock acquired"] == [e.kind for e in events]
    assert {"task": "t4", "tool": "echo", "by": "ann"} == events[2].fields
    assert ("fleet", START + 9) == (events[2].space, events[2].at.timestamp())
    assert sorted((e.at for e in hub.events(100)), reverse=True) == [e.at for e in hub.events(100)]
    assert [] == hub.events(0)


def test_events_of_one_task(world: World) -> None:
    """Its whole life, however much happened besides."""
    hub = world.open()
    hub.tasks.submit("echo", id="t1")
    daemon = Daemon(hub)
    (task,) = daemon.lease()
    for number in range(30):
        world.runtime.advance(1)
        hub.tasks.submit("echo", id=f"other{number}")
    daemon.report(task)
    assert ["task succeeded", "task leased", "task submitted"] == [e.kind for e in hub.events(task="t1")]
    assert [] == hub.events(task="t99")


def test_forged_and_broken_event_lines_are_skipped(world: World) -> None:
    """A person's commit message cannot break the view."""
    hub = world.open()
    hub.tasks.submit("echo", id="t1")
    lines = [
        '- {"at": "x", "kind": 5}',
        "- {",
        '- {"at": 1e999, "kind": "a"}',
        '- {"kind": "no time"}',
        "- {}",
        "- {[}",
    ]
    world.put("fleet", {"x": b"x"}, message="hello\n\n" + "\n".join(lines))
    assert ["task submitted"] == [e.kind for e in hub.events() if e.space == "fleet"]


def test_long_texts_do_not_flood_the_history(world: World) -> None:
    """A cancel reason of any length leaves a short event; the record keeps 500 characters."""
    hub = world.open()
    hub.tasks.submit("echo", id="t1")
    task = hub.tasks.cancel("t1", "ü" * 10_000)
    assert "ü" * 500 == task.cancel_reason
    head = world.snapshot("fleet").head
    assert head is not None
    assert len(world.store().commit_info(head).message) < 2500


def test_the_log_is_for_people(world: World) -> None:
    """One line a commit, newest first."""
    hub = world.open()
    hub.tasks.submit("echo", id="t1")
    hub.tasks.cancel("t1")
    assert ["fleet: task cancelled t1", "fleet: task submitted t1"] == [c.summary for c in hub.log()][:2]
    assert [] == list(hub.log("no-such-space"))


# -- the hub's record


def test_making_a_hub_twice_is_making_it_once(both: World) -> None:
    """The second time nothing is written, and the id is the same."""
    first = both.open()
    assert first.created
    heads = first.heads()
    second = both.open()
    assert (False, first.id, heads) == (second.created, second.id, second.heads())
    assert {"fleet", "locks", "meta"} == set(heads)
    assert all(b"git log" in both.files(space)["README.md"] for space in heads)


def test_there_is_no_hub_where_none_was_made(tmp_path: Path) -> None:
    """Opening does not make one, and says how to."""
    world = World(tmp_path / "hub.git")
    with pytest.raises(NotFound, match=r"there is no hub at .*'ghcoord init"):
        open_hub(world.store(), world.runtime, Settings(), actor="me", state=tmp_path)
    assert {} == world.store().heads()


@pytest.mark.parametrize("make", [True, False])
def test_a_newer_hub_is_refused(both: World, make: bool) -> None:
    """Also by ``init``: nothing is written to it."""
    both.open()
    record = json.loads(both.files("meta")["hub.json"])
    both.put("meta", {"hub.json": json.dumps({**record, "schema": SCHEMA + 1}).encode()})
    heads = both.store().heads()
    with pytest.raises(NewerSchema, match=f"the hub has schema {SCHEMA + 1}, this ghcoord knows {SCHEMA}: upgrade"):
        open_hub(both.store(), both.runtime, Settings(), actor="me", state=Path("/nonexistent"), make=make)
    assert heads == both.store().heads()


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"5",
        b"{}",
        b'{"schema": "x", "id": "a"}',
        b'{"schema": 1}',
        b'{"schema": 1e999, "id": "a"}',
        b"\xff",
        b"[" * 100000,
    ],
    ids=lambda content: content[:30].decode(errors="replace"),
)
def test_a_broken_hub_record_is_named(world: World, content: bytes) -> None:
    """It is not guessed at, and not made anew."""
    world.open()
    world.put("meta", {"hub.json": content})
    with pytest.raises(Corrupt, match=r"meta:hub\.json is broken"):
        world.open()


def test_a_hub_says_what_it_is(world: World) -> None:
    """Id, actor, address, clock."""
    hub = world.open("ann", poll=0.5)
    assert ("ann", "memory:", 0.5, 0.5, START) == (
        hub.actor,
        hub.url,
        hub.poll_interval,
        hub.clock_margin,
        hub.now().timestamp(),
    )
    assert 20 == len(hub.id)
    with hub as same:
        assert hub is same
    assert 0 == hub.revision("no-such-space")
