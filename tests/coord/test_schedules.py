"""Schedules: each due time makes one task, what was missed follows the policy, and mistakes are named."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ghcoord.coord import layout
from ghcoord.coord.layout import FLEET
from ghcoord.coord.queue.firing import SCHEDULED_FOR
from ghcoord.errors import IllegalTransition, InvalidName, NotFound, UsageError
from ghcoord.hub import Hub
from ghcoord.model.schedule import MOST_CAUGHT_UP, Schedule
from ghcoord.model.task import State
from ghcoord.testing.clock import START
from ghcoord.testing.faults import CommitFault
from tests.coord.links import check_links
from tests.coord.world import Daemon, World, edited, kinds

HOUR = 3600.0
BEGIN = datetime.fromtimestamp(START, UTC).replace(minute=0, second=0) + timedelta(hours=1)
"""The first full hour after the worlds' clock starts."""


def go_to(world: World, at: datetime, seconds: float = 0.0) -> None:
    """Set the clock to ``seconds`` after ``at``."""
    world.runtime.advance(at.timestamp() + seconds - world.runtime.now())


def fired(hub: Hub, name: str = "s") -> list[str]:
    """The due times for which there is a task."""
    return sorted(task.id.removeprefix(f"{name}.") for task in hub.tasks.list() if task.schedule == name)


def at(*hours: int) -> list[str]:
    """Full hours after the first as they stand in ids."""
    return [f"{BEGIN + timedelta(hours=hour):%Y%m%dT%H%M%SZ}" for hour in hours]


def known(schedule: Schedule | None) -> Schedule:
    assert schedule is not None
    return schedule


# -- what people do


def test_a_schedule_is_kept_as_put(both: World) -> None:
    """Every part is in the record, with the next due time; putting the same again changes nothing."""
    hub = both.open("ann")
    options: dict[str, Any] = {"priority": 7, "retries": 1, "key": "k", "rate": (3, 60.0), "requirements": {}}
    for _ in range(2):
        made = hub.schedules.put("s", "@hourly", "echo", {"a": (1, None)}, timezone="Asia/Kolkata", **options)
        commits = hub.commits
    assert commits == hub.commits
    assert made == hub.schedules.get("s") == hub.schedules.list()[0]
    assert ("@hourly", "Asia/Kolkata", "latest", 120.0, True, False, "ann") == (
        made.cron,
        made.timezone,
        made.missed,
        made.grace,
        made.overlap,
        made.paused,
        made.created_by,
    )
    assert {"a": [1, None]} == made.template.args
    assert {"priority": 7, "retries": 1, "key": "k", "rate": [3, 60.0], "requirements": {}} == made.template.options
    assert BEGIN - timedelta(minutes=30) == made.next_fire
    assert [made.next_fire, made.next_fire + timedelta(hours=1)] == hub.schedules.next("s", 2)


def test_a_fired_task_is_as_submitted(both: World) -> None:
    """Tool, arguments and options are the schedule's; it says whose it is and for when."""
    hub = both.open()
    hub.schedules.put("s", "@hourly", "echo", {"m": 1}, type="job", priority=4, timeout=9.0, metadata={"x": 1})
    daemon = Daemon(hub)
    go_to(both, BEGIN, -1)
    daemon.beat()
    assert [] == fired(hub)
    go_to(both, BEGIN)
    reply = daemon.beat()
    (task,) = hub.tasks.list()
    assert at(0) == fired(hub)
    assert ("echo", "job", {"m": 1}, 4, 9.0, "s", State.QUEUED) == (
        task.tool,
        task.type,
        task.args,
        task.priority,
        task.timeout,
        task.schedule,
        task.state,
    )
    assert {"x": 1, SCHEDULED_FOR: f"{BEGIN:%Y-%m-%dT%H:%M:%SZ}"} == task.metadata
    assert "schedule s" == task.submitted_by
    assert (BEGIN + timedelta(hours=1)).timestamp() == reply.next_due
    schedule = known(hub.schedules.get("s"))
    assert (BEGIN, task.id, 1) == (schedule.last_fire, schedule.last_task, schedule.fires)
    check_links(both.store(), both.runtime.now())


def test_pause_and_resume(world: World) -> None:
    """A paused schedule does not fire; resumed it goes on from now, and what was due in between is gone."""
    hub = world.open()
    hub.schedules.put("s", "@hourly", "echo", missed="all")
    daemon = Daemon(hub)
    for _ in range(2):
        assert None is hub.schedules.pause("s").next_fire
    go_to(world, BEGIN, 3.5 * HOUR)
    daemon.beat()
    assert [] == fired(hub)
    assert BEGIN + timedelta(hours=4) == hub.schedules.next("s")[0]
    for _ in range(2):
        assert BEGIN + timedelta(hours=4) == hub.schedules.resume("s").next_fire
    go_to(world, BEGIN, 4 * HOUR)
    daemon.beat()
    assert at(4) == fired(hub)


def test_remove(world: World) -> None:
    """A removed schedule fires no more, and its tasks stay."""
    hub = world.open()
    hub.schedules.put("s", "@hourly", "echo")
    go_to(world, BEGIN)
    daemon = Daemon(hub)
    daemon.beat()
    assert "s" == hub.schedules.remove("s").name
    go_to(world, BEGIN, HOUR)
    daemon.beat()
    assert at(0) == fired(hub)
    assert [] == hub.schedules.list()
    assert not [path for path in world.files(FLEET) if path.startswith((layout.SCHEDULES, layout.FIRING))]


def test_run_now(world: World) -> None:
    """A task at once, besides the times, also while it is paused; of those that must not overlap the one there is."""
    hub = world.open()
    hub.schedules.put("s", "@hourly", "echo", paused=True, overlap=False)
    first = hub.schedules.run_now("s")
    assert (True, "s", "me") == (first.created, first.task.schedule, first.task.submitted_by)
    again = hub.schedules.run_now("s")
    assert (False, first.task.id) == (again.created, again.task.id)
    hub.tasks.cancel(first.task.id)
    assert hub.schedules.run_now("s").created
    assert SCHEDULED_FOR not in first.task.metadata


def test_what_is_changed_of_a_schedule(world: World) -> None:
    """With other times it starts anew, with the same it goes on where it was, also when its task changes."""
    hub = world.open()
    hub.schedules.put("s", "every 50m", "echo")
    go_to(world, BEGIN)
    first = hub.schedules.next("s")
    assert first == [hub.schedules.put("s", "every 50m", "other", priority=1).next_fire]
    with pytest.raises(IllegalTransition, match="another schedule 's'"):
        hub.schedules.put("s", "every 50m", "echo", replace=False)
    assert BEGIN + timedelta(minutes=30) == hub.schedules.put("s", "every 30m", "echo").next_fire
    assert hub.schedules.put("s", "every 30m", "echo", replace=False).next_fire == hub.schedules.next("s")[0]
    assert None is hub.schedules.put("s", "every 30m", "echo", paused=True).next_fire
    assert BEGIN + timedelta(minutes=30) == hub.schedules.put("s", "every 30m", "echo").next_fire
    check_links(world.store(), world.runtime.now())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": ""}, "schedule name"),
        ({"name": "a b"}, "schedule name"),
        ({"name": "n" * 101}, "at most 100"),
        ({"cron": "* * *"}, "five cron fields"),
        ({"cron": "0 0 31 2 *"}, "wrong"),
        ({"timezone": "Mars/Base"}, "no time zone"),
        ({"tool": "a b"}, "tool name"),
        ({"args": {"x": float("nan")}}, "args is not JSON"),
        ({"missed": "some"}, "one of latest, skip, all"),
        ({"grace": -1}, "grace"),
        ({"grace": True}, "grace"),
        ({"grace": 1e9}, "grace"),
        ({"priority": 10}, "priority"),
        ({"after": ["t1"]}, "'after' is no option"),
        ({"not_before": 5}, "'not_before' is no option"),
        ({"colour": 1}, "'colour' is no option"),
        ({"unique": True, "overlap": False}, "unique key already"),
        ({"rate": (1, 1)}, "needs a key"),
    ],
)
def test_mistakes_are_named(hub: Hub, changes: dict[str, Any], why: str) -> None:
    """Each in one sentence, and nothing is written."""
    before = hub.commits
    wanted = {"name": "s", "cron": "@daily", "tool": "echo", **changes}
    with pytest.raises(UsageError, match=why):
        hub.schedules.put(**wanted)
    assert before == hub.commits


def test_what_is_not_there(hub: Hub) -> None:
    """Every verb says so."""
    assert None is hub.schedules.get("s")
    for verb in (hub.schedules.pause, hub.schedules.resume, hub.schedules.remove, hub.schedules.run_now):
        with pytest.raises(NotFound, match="no schedule 's'"):
            verb("s")
    with pytest.raises(NotFound):
        hub.schedules.next("s")
    with pytest.raises(InvalidName):
        hub.schedules.get("../s")
    hub.schedules.put("s", "@daily", "echo")
    for count in (0, 1001):
        with pytest.raises(UsageError, match="out of range"):
            hub.schedules.next("s", count)


# -- late and missed


def slept(world: World, missed: str, until: datetime, seconds: float = 0.0, **more: Any) -> Hub:
    """A schedule every hour whose fires nobody was there for until then."""
    hub = world.open()
    hub.schedules.put("s", "@hourly", "echo", missed=missed, **more)
    go_to(world, until, seconds)
    Daemon(hub).beat()
    return hub


@pytest.mark.parametrize(
    ("missed", "expected"), [("latest", at(24)), ("skip", []), ("all", at(*range(25)))], ids=["latest", "skip", "all"]
)
def test_after_a_day_of_sleep(world: World, missed: str, expected: list[str]) -> None:
    """One for all of them, none, or each; then it goes on as ever."""
    hub = slept(world, missed, BEGIN + timedelta(hours=24), 1800)
    assert expected == fired(hub)
    assert BEGIN + timedelta(hours=25) == hub.schedules.next("s")[0] == known(hub.schedules.get("s")).next_fire
    go_to(world, BEGIN, 25 * HOUR)
    Daemon(hub).beat()
    assert sorted({*expected, *at(25)}) == fired(hub)
    left_out = [event.fields["fires"] for event in hub.events(100) if event.kind == "schedule missed fires"]
    assert ([25 - len(expected)] if missed != "all" else []) == left_out
    check_links(world.store(), world.runtime.now())


@pytest.mark.parametrize("missed", ["latest", "skip", "all"])
def test_what_is_only_late_was_not_missed(world: World, missed: str) -> None:
    """Within the grace every due time fires, whatever the policy: clocks differ, and workers take a moment."""
    hub = world.open()
    hub.schedules.put("s", "* * * * *", "echo", missed=missed)
    go_to(world, BEGIN, -61)
    Daemon(hub).beat()
    before = fired(hub)
    go_to(world, BEGIN, 59)
    Daemon(hub).beat()
    minutes = [f"{BEGIN + timedelta(minutes=n):%Y%m%dT%H%M%SZ}" for n in (-1, 0)]
    assert minutes == [one for one in fired(hub) if one not in before]


def test_a_fire_in_time_makes_up_for_the_missed_ones(world: World) -> None:
    """With one just due, latest adds no other; a longer grace saves more of them."""
    assert at(5) == fired(slept(world, "latest", BEGIN + timedelta(hours=5), 60))
    assert at(3, 4, 5) == fired(slept(World(), "skip", BEGIN + timedelta(hours=5), 60, grace=2.5 * HOUR))


def test_what_is_made_up_for_has_a_limit(world: World) -> None:
    """Of a year of minutes the newest 500 are made up for, in pages, and an event tells that it were more."""
    hub = world.open()
    hub.schedules.put("s", "* * * * *", "echo", missed="all")
    go_to(world, BEGIN + timedelta(days=365), 30)
    daemon = Daemon(hub)
    made = list[int]()
    while (reply := daemon.beat()).next_due is not None and reply.next_due <= world.runtime.now():
        made.append(len(fired(hub)))
    assert [200, 400] == made
    assert MOST_CAUGHT_UP == len(fired(hub))
    assert f"{BEGIN + timedelta(days=365):%Y%m%dT%H%M%SZ}" == fired(hub)[-1]
    (told,) = [event.fields for event in hub.events(1000) if event.kind == "schedule missed fires"]
    assert (1, True) == (told["fires"], told["more"])
    assert MOST_CAUGHT_UP == known(hub.schedules.get("s")).fires


def test_many_schedules_at_once(world: World) -> None:
    """120 that are due together fire in pages, each once."""
    hub = world.open()
    for number in range(120):
        hub.schedules.put(f"s{number}", "@hourly", "echo", {"n": number})
    go_to(world, BEGIN, 1)
    daemon = Daemon(hub)
    sizes = []
    while len(sizes) < 4:
        sizes.append(len(hub.tasks.list()))
        daemon.beat()
    assert [0, 100, 120, 120] == sizes
    assert list(range(120)) == sorted(task.args["n"] for task in hub.tasks.list())
    check_links(world.store(), world.runtime.now())


# -- beside each other


def test_tasks_that_must_not_overlap(world: World) -> None:
    """A fire is left out, and told, while the task of an earlier one has not ended; afterwards it fires again."""
    hub = world.open()
    hub.schedules.put("s", "@hourly", "echo", overlap=False)
    daemon = Daemon(hub)
    for hour in (0, 1):
        go_to(world, BEGIN, hour * HOUR)
        daemon.beat(renew=True)
    assert at(0) == fired(hub)
    assert "task s." in next(e.fields["reason"] for e in hub.events() if e.kind == "schedule fire skipped")
    (task,) = daemon.lease()
    daemon.report(task)
    go_to(world, BEGIN, 2 * HOUR)
    daemon.beat(renew=True)
    assert at(0, 2) == fired(hub)


def test_tasks_that_run_one_after_another(world: World) -> None:
    """With a key instead they wait in line."""
    hub = world.open()
    hub.schedules.put("s", "@hourly", "echo", key="s", concurrency=1)
    daemon = Daemon(hub)
    for hour in (0, 1):
        go_to(world, BEGIN, hour * HOUR)
        daemon.beat(renew=True)
    assert at(0, 1) == fired(hub)
    first = daemon.lease(5)
    assert 1 == len(first)
    daemon.report(first[0])
    assert 1 == len(daemon.lease(5))


def test_a_task_for_a_worker_that_is_gone(world: World) -> None:
    """A pin lasts as long as its worker: without it the task is for all."""
    hub = world.open()
    daemon = Daemon(hub, "w1")
    hub.schedules.put("s", "@hourly", "echo", worker="w1")
    hub.schedules.put("r", "@hourly", "echo", worker="w2")
    go_to(world, BEGIN)
    daemon.beat(renew=True)
    pins = {task.schedule: task.assigned.worker if task.assigned else None for task in hub.tasks.list()}
    assert {"s": "w1", "r": None} == pins


def test_a_purged_fire_does_not_come_back(world: World) -> None:
    """The next due time is what keeps a fire from happening twice, not its task."""
    hub = world.open()
    hub.schedules.put("s", "@hourly", "echo")
    daemon = Daemon(hub)
    go_to(world, BEGIN)
    daemon.beat()
    (task,) = hub.tasks.list()
    hub.tasks.cancel(task.id)
    from ghcoord.coord.tasks.tasks import TaskQuery

    assert 1 == hub.tasks.purge(TaskQuery()).changed
    go_to(world, BEGIN, 1800)
    daemon.beat(renew=True)
    assert [] == fired(hub)


def test_an_id_that_is_taken(world: World) -> None:
    """Somebody's own task of that id is left alone, the fire is told to be left out, and the next one happens."""
    hub = world.open()
    hub.schedules.put("s", "@hourly", "echo")
    hub.tasks.submit("other", id=f"s.{at(0)[0]}")
    daemon = Daemon(hub)
    for hour in (0, 1):
        go_to(world, BEGIN, hour * HOUR)
        daemon.beat(renew=True)
    assert at(1) == fired(hub)
    assert "schedule fire skipped" in kinds(hub)


# -- lost replies and people


def test_lost_replies(world: World) -> None:
    """Each verb happens once when its answer is lost."""
    hub, faulty = world.open_faulty()
    for fault in (CommitFault.REPLY_LOST, CommitFault.CONFLICT_AFTER_LANDING, CommitFault.REQUEST_LOST):
        faulty.fail_commits(fault)
        hub.schedules.put("s", "@hourly", "echo", {"fault": fault.value})
        faulty.fail_commits(fault)
        hub.schedules.run_now("s")
        faulty.fail_commits(fault)
        hub.schedules.pause("s")
        faulty.fail_commits(fault)
        hub.schedules.resume("s")
    assert 3 == len(hub.tasks.list())
    go_to(world, BEGIN)
    daemon = Daemon(hub)
    faulty.fail_commits(CommitFault.REPLY_LOST)
    daemon.beat()
    assert at(0) == [one for one in fired(hub) if one in at(0)]
    assert 4 == len(hub.tasks.list())


def test_people_edit_schedules(both: World) -> None:
    """An edited, a new and a deleted record count from the next transaction on; a broken one is set aside."""
    hub = both.open()
    for name in ("edit", "gone", "bad"):
        hub.schedules.put(name, "@daily", "echo")
    files = both.files(FLEET)
    paths = {name: layout.schedule_path(name) for name in ("edit", "gone", "bad", "new")}
    record = json.loads(files[paths["edit"]])
    new = {key: record[key] for key in ("anchor", "created_at", "template")} | {"name": "new", "cron": "@hourly"}
    both.put(
        FLEET,
        {
            paths["edit"]: edited(files[paths["edit"]], cron="@hourly", next_fire=BEGIN.isoformat()),
            paths["gone"]: None,
            paths["bad"]: edited(files[paths["bad"]], cron="* * * * * *"),
            paths["new"]: json.dumps(new).encode(),
        },
    )
    daemon = Daemon(hub)
    assert ["bad", "edit", "new"] == [one.name for one in hub.schedules.list()]
    assert "@daily" == known(hub.schedules.get("bad")).cron
    assert BEGIN == known(hub.schedules.get("new")).next_fire
    go_to(both, BEGIN)
    daemon.beat(renew=True)
    assert (at(0), at(0)) == (fired(hub, "edit"), fired(hub, "new"))
    check_links(both.store(), both.runtime.now())


@pytest.mark.parametrize(
    ("options", "why"),
    [({"priority": "high"}, "priority"), ({"requirements": 5}, "requirements are")],
)
def test_options_that_nobody_could_have_submitted(world: World, options: dict[str, Any], why: str) -> None:
    """A record with a made-up option is told not to fire, and stops nothing else."""
    hub = world.open()
    hub.schedules.put("s", "@hourly", "echo")
    hub.schedules.put("r", "@hourly", "echo")
    path = layout.schedule_path("s")
    template = {"tool": "echo", "args": {}, "options": {**options, "id": "x", "after": ["t"]}}
    world.put(FLEET, {path: edited(world.files(FLEET)[path], template=template)})
    go_to(world, BEGIN)
    daemon = Daemon(hub)
    daemon.beat()
    assert ([], at(0)) == (fired(hub), fired(hub, "r"))
    assert why in next(e.fields["reason"] for e in hub.events() if e.kind == "schedule cannot fire")
    assert BEGIN + timedelta(hours=1) == known(hub.schedules.get("s")).next_fire


def test_an_option_without_a_value_is_as_if_not_given(world: World) -> None:
    """Also one that has a default of its own."""
    hub = world.open()
    hub.schedules.put("s", "@hourly", "echo", prefer="w")
    path = layout.schedule_path("s")
    template = {"tool": "echo", "options": {"prefer": "w", "prefer_for": None}}
    world.put(FLEET, {path: edited(world.files(FLEET)[path], template=template)})
    go_to(world, BEGIN)
    Daemon(hub).beat()
    assert at(0) == fired(hub)


def test_a_record_of_a_newer_version(world: World) -> None:
    """It is left as it is, looked at again later, and the others fire."""
    hub = world.open()
    hub.schedules.put("s", "@hourly", "echo")
    hub.schedules.put("r", "@hourly", "echo")
    store = world.store()
    path = layout.schedule_path("s")
    daemon = Daemon(hub)
    newer = edited(world.files(FLEET)[path], format=99)

    def plant(tx: Any) -> None:
        tx.write(FLEET, path, newer)

    hub._context.transact((FLEET,), plant)
    go_to(world, BEGIN, 1)
    reply = daemon.beat()
    assert at(0) == fired(hub, "r")
    assert newer == world.files(FLEET)[path]
    assert world.runtime.now() + 300 == reply.next_due
    assert "schedule cannot be read" in kinds(hub)
    assert store.heads()[FLEET]


def test_a_broken_index_is_made_anew(world: World) -> None:
    """Timers that people deleted or made up are those of the records again."""
    hub = world.open()
    hub.schedules.put("s", "@hourly", "echo")
    files = world.files(FLEET)
    timer = next(path for path in files if path.startswith(layout.FIRING))
    strays = {f"{layout.FIRING}/00000/000/000/000/aa/nobody": b"{}", f"{layout.FIRING}/x": b"{}"}
    world.put(FLEET, {timer: None, **strays})
    daemon = Daemon(hub)
    assert [timer] == [path for path in world.files(FLEET) if path.startswith(layout.FIRING)]
    go_to(world, BEGIN)
    daemon.beat()
    assert at(0) == fired(hub)
