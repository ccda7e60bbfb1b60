"""Many tasks by query: found, counted, cancelled, retried, purged, and purged by age."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ghcoord.coord.layout import FLEET
from ghcoord.coord.tasks.bulk import PAGE, SHOWN
from ghcoord.coord.tasks.tasks import Submission, TaskQuery
from ghcoord.errors import UsageError
from ghcoord.hub import Hub
from ghcoord.model.task import State
from ghcoord.store.wrappers import WrappedStore
from ghcoord.testing.clock import START
from ghcoord.testing.faults import CommitFault
from tests.coord.links import check_links
from tests.coord.world import BAD, Daemon, World, edited, ids, kinds, where

DAY = 86400.0


@pytest.fixture
def mixed(world: World) -> Hub:
    """Six tasks that differ in everything that a query may ask for."""
    ann, bob = world.open("ann"), world.open("bob")
    daemon = Daemon(ann, "w1", tools=("echo",))
    ann.tasks.submit("echo", {"n": 1}, id="good", type="echo", metadata={"team": "a", "n": [1]})
    daemon.report(*daemon.lease())
    world.runtime.advance(1)
    bob.tasks.submit("echo", id="bad", metadata={"team": "b"})
    daemon.report(*daemon.lease(), BAD)
    world.runtime.advance(100)
    ann.tasks.submit("echo", id="runs", key="k", concurrency=1)
    daemon.lease()
    bob.tasks.submit("other", id="queued", type="job", key="k", concurrency=1)
    bob.tasks.submit("other", id="later", not_before=1000.0)
    bob.tasks.submit_many([Submission("other", id="blocked", after=["later"])], batch="b1")
    return ann


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (TaskQuery(), "runs queued later blocked bad good"),
        (TaskQuery(states=["queued", "dead"]), "queued bad"),
        (TaskQuery(states="dead"), "bad"),
        (TaskQuery(tool="other"), "queued later blocked"),
        (TaskQuery(type="job"), "queued"),
        (TaskQuery(type="echo"), "runs bad good"),
        (TaskQuery(worker="w1"), "runs bad good"),
        (TaskQuery(key="k"), "runs queued"),
        (TaskQuery(batch="b1"), "blocked"),
        (TaskQuery(schedule="s"), ""),
        (TaskQuery(submitted_by="bob"), "queued later blocked bad"),
        (TaskQuery(metadata={"team": "a"}), "good"),
        (TaskQuery(metadata={"team": "a", "n": [1]}), "good"),
        (TaskQuery(metadata={"team": "a", "n": 1}), ""),
        (TaskQuery(metadata={"none": None}), ""),
        (TaskQuery(older_than=50), "bad good"),
        (TaskQuery(older_than=0), "runs queued later blocked bad good"),
        (TaskQuery(ended_before=50), "bad good"),
        (TaskQuery(ended_before=150.0), ""),
        (TaskQuery(ended_before=datetime.fromtimestamp(START + 2, UTC)), "bad good"),
        (TaskQuery(ids=["blocked", "good", "nobody"]), "blocked good"),
        (TaskQuery(ids=[]), ""),
        (TaskQuery(tool="other", submitted_by="bob", states=("blocked",)), "blocked"),
    ],
)
def test_queries(mixed: Hub, query: TaskQuery, expected: str) -> None:
    """Everything given must hold; counting agrees with listing, and a limit takes the first ones."""
    assert expected.split() == ids(mixed.tasks.list(query=query))
    assert len(expected.split()) == mixed.tasks.count(query)
    assert expected.split()[:2] == ids(mixed.tasks.list(query=query, limit=2))


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"states": ["running"]}, "unknown state"),
        ({"older_than": -1}, "older_than"),
        ({"older_than": "1d"}, "older_than"),
        ({"ended_before": float("nan")}, "ended_before"),
        ({"ended_before": datetime(2026, 1, 1)}, "no time zone"),
        ({"ended_before": datetime(1, 1, 1, tzinfo=UTC)}, "between 1970"),
        ({"metadata": ["x"]}, "JSON object"),
        ({"ids": "t1"}, "list of task ids"),
        ({"ids": ["../x"]}, "task id"),
    ],
)
def test_bad_queries_are_refused(hub: Hub, bad: dict[str, Any], why: str) -> None:
    """By every method that takes one."""
    query = TaskQuery(**bad)
    tasks = hub.tasks
    for use in (tasks.count, tasks.cancel_many, tasks.retry_many, tasks.purge, lambda one: tasks.list(query=one)):
        with pytest.raises(UsageError, match=why):
            use(query)
    with pytest.raises(UsageError, match="give either"):
        hub.tasks.list("queued", query=TaskQuery())


def test_a_limit_reads_no_more_than_it_takes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of many is found without reading the others."""
    hub = world.open()
    hub.tasks.submit_many([Submission("echo", priority=n % 3) for n in range(400)])
    hub.tasks.cancel_many(TaskQuery(older_than=0), reason="x")
    hub.tasks.submit_many([Submission("echo", not_before=60.0) for _ in range(400)])
    read = [0]
    from ghcoord.coord.tasks import query as task_query

    real = task_query.read

    def counted(*args: Any) -> Any:
        read[0] += 1
        return real(*args)

    monkeypatch.setattr(task_query, "read", counted)
    assert 3 == len(hub.tasks.list(limit=3))
    assert 2 == len(hub.tasks.list("cancelled", limit=2))
    assert 400 == hub.tasks.count(TaskQuery(states=["cancelled"]))
    assert 5 == read[0]


# -- changing


def test_cancel_many(mixed: Hub, world: World) -> None:
    """What waits is cancelled, what runs is asked to end, what has ended stays; again there is nothing to do."""
    dry = mixed.tasks.cancel_many(TaskQuery(), dry_run=True)
    assert (4, ["runs", "queued", "later", "blocked"]) == (dry.changed, ids(dry.first))
    told: list[int] = []
    done = mixed.tasks.cancel_many(TaskQuery(), "all wrong", on_progress=told.append)
    assert (4, {}, [4]) == (done.changed, done.refused, told)
    assert {"all wrong"} == {task.cancel_reason for task in mixed.tasks.list("cancelled")}
    runs = mixed.tasks.get("runs")
    assert runs is not None
    assert (State.LEASED, True) == (runs.state, runs.cancel_requested)
    commits = mixed.commits
    assert 0 == mixed.tasks.cancel_many(TaskQuery()).changed
    assert commits == mixed.commits
    check_links(world.store(), world.runtime.now())


def test_retry_many(mixed: Hub) -> None:
    """Dead ones, unless other states are named, go to the end of the queue."""
    assert ["bad"] == ids(mixed.tasks.retry_many(TaskQuery(), dry_run=True).first)
    assert 1 == mixed.tasks.retry_many(TaskQuery()).changed
    assert 1 == mixed.tasks.retry_many(TaskQuery(states=["scheduled"])).changed
    assert {"queued", "bad", "later"} == set(ids(mixed.tasks.list("queued")))
    assert "task retried" in kinds(mixed)


def test_purge(mixed: Hub, world: World) -> None:
    """What has ended is gone, from the counts as well; what has not stays."""
    assert ["bad", "good"] == ids(mixed.tasks.purge(TaskQuery(), dry_run=True).first)
    assert 1 == mixed.tasks.purge(TaskQuery(states=["dead"])).changed
    assert 1 == mixed.tasks.purge(TaskQuery()).changed
    assert None is mixed.tasks.get("good")
    assert 4 == sum(mixed.tasks.counts().values())
    assert "1 tasks purged" in kinds(mixed)
    check_links(world.store(), world.runtime.now())


@pytest.mark.parametrize(
    ("verb", "states", "why"),
    [
        ("cancel_many", ["queued", "dead"], "dead tasks cannot be cancelled"),
        ("retry_many", ["leased"], "leased tasks cannot be retried"),
        ("purge", ["queued"], "queued tasks cannot be purged: only succeeded, dead, cancelled ones"),
    ],
)
def test_states_that_cannot(mixed: Hub, verb: str, states: list[str], why: str) -> None:
    """A query that names them is refused before anything is changed."""
    before = mixed.commits
    with pytest.raises(UsageError, match=why):
        getattr(mixed.tasks, verb)(TaskQuery(states=states))
    assert before == mixed.commits


def test_many_go_in_pages(world: World) -> None:
    """500 in a commit, with progress, and one event for many."""
    hub = world.open()
    hub.tasks.submit_many([Submission("echo") for _ in range(PAGE + 10)])
    for verb, state in (("cancel", "queued"), ("retry", "cancelled"), ("cancel", "queued")):
        before, told = hub.commits, list[int]()
        change = hub.tasks.cancel_many if verb == "cancel" else hub.tasks.retry_many
        done = change(TaskQuery(states=[state]), on_progress=told.append)
        assert (PAGE + 10, 2) == (done.changed, hub.commits - before)
        assert [PAGE, PAGE + 10] == told
    assert f"{PAGE} tasks cancelled" in kinds(hub)
    assert SHOWN < PAGE
    before = hub.commits
    assert PAGE + 10 == hub.tasks.purge(TaskQuery()).changed
    assert 2 == hub.commits - before
    assert 0 == len([path for path in world.files(FLEET) if path.startswith(("tasks/", "index/"))])


def test_large_records_go_in_small_pages(world: World) -> None:
    """A commit takes no more bytes than every store does."""
    hub = world.open()
    hub.tasks.submit_many([Submission("echo", {"x": "x" * 800_000}) for _ in range(30)])
    before = hub.commits
    assert 30 == hub.tasks.cancel_many(TaskQuery()).changed
    assert 2 == hub.commits - before


def test_a_task_changes_between_look_and_commit(world: World) -> None:
    """What no longer meets the query when it is its turn is left alone."""
    other = world.open("other")
    tasks = other.tasks.submit_many([Submission("echo") for _ in range(3)])
    daemon = Daemon(other)

    once = [lambda: daemon.lease(1)]

    class Slow(WrappedStore):
        """Somebody else is first, once."""

        def commit(self, *args: Any) -> Any:
            if once:
                once.pop()()
            return super().commit(*args)

    hub = world.open("slow", store=Slow(world.store()))
    done = hub.tasks.cancel_many(TaskQuery(states=["queued"]))
    assert 2 == done.changed
    (runs,) = other.tasks.list("leased")
    assert (tasks[0].id, False) == (runs.id, runs.cancel_requested)


def test_lost_replies(world: World) -> None:
    """A page whose answer was lost is not done twice."""
    hub, faulty = world.open_faulty()
    for fault in (CommitFault.REPLY_LOST, CommitFault.REQUEST_LOST, CommitFault.CONFLICT_AFTER_LANDING):
        hub.tasks.submit_many([Submission("echo") for _ in range(3)])
        faulty.fail_commits(fault)
        assert 3 == hub.tasks.cancel_many(TaskQuery()).changed
        faulty.fail_commits(fault)
        assert 3 == hub.tasks.retry_many(TaskQuery(states=["cancelled"])).changed
        hub.tasks.cancel_many(TaskQuery())
        faulty.fail_commits(fault)
        assert 3 == hub.tasks.purge(TaskQuery()).changed


def test_broken_records_are_passed_over(world: World) -> None:
    """A record that a person broke stops no bulk action, and no list."""
    hub = world.open()
    for number in range(3):
        hub.tasks.submit("echo", id=f"n{number}")
    record = world.files(FLEET)[where("task", "n1")]
    world.put(FLEET, {where("task", "n1"): b"{"})
    assert ["n0", "n2"] == ids(hub.tasks.list())
    assert 2 == hub.tasks.cancel_many(TaskQuery()).changed
    assert ["n1"] == ids(hub.tasks.list("queued")), "its version before is back"
    world.put(FLEET, {where("task", "n1"): edited(record, format=99)})
    assert 0 == hub.tasks.cancel_many(TaskQuery()).changed


# -- retention


def test_what_ended_long_ago_is_removed(both: World) -> None:
    """Each state after its own time, the oldest first; what is open, young or awaited stays."""
    hub = both.open()
    hub.config.set("retention.succeeded", DAY)
    hub.config.set("retention.dead", 3 * DAY)
    daemon = Daemon(hub)
    for number in range(3):
        hub.tasks.submit("echo", id=f"good{number}")
        daemon.report(*daemon.lease())
        hub.tasks.submit("echo", id=f"bad{number}")
        daemon.report(*daemon.lease(), BAD)
        both.runtime.advance(DAY)
        daemon = Daemon(hub)
    hub.tasks.submit("echo", id="open")
    hub.tasks.submit("echo", id="waits", after=["bad0"], if_failed="wait")
    assert 3 == hub.tasks.retain()
    assert {"bad0", "bad1", "bad2", "open", "waits"} == set(ids(hub.tasks.list()))
    both.runtime.advance(DAY + 1)
    assert 1 == hub.tasks.retain()
    assert {"bad0", "bad2", "open", "waits"} == set(ids(hub.tasks.list()))
    before = hub.commits
    assert 0 == hub.tasks.retain()
    assert before == hub.commits
    check_links(both.store(), both.runtime.now())


def test_retention_of_many(world: World) -> None:
    """Thousands go in pages, and what is young is not even read."""
    hub = world.open()
    hub.tasks.submit_many([Submission("echo") for _ in range(PAGE + 10)])
    hub.tasks.cancel_many(TaskQuery())
    world.runtime.advance(7 * DAY - 1)
    assert 0 == hub.tasks.retain()
    world.runtime.advance(2)
    before = hub.commits
    assert PAGE + 10 == hub.tasks.retain()
    assert 2 == hub.commits - before
