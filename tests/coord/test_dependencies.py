"""Dependencies: a task waits until all others have ended, its policy decides when one fails, and many wait cheaply."""

from __future__ import annotations

from typing import Any

import pytest

from ghcoord.coord import layout
from ghcoord.coord.layout import FLEET
from ghcoord.coord.queue import records, releasing
from ghcoord.coord.queue.upkeep import PAGE
from ghcoord.coord.tasks.submission import MAX_AFTER
from ghcoord.coord.tasks.tasks import Submission, TaskQuery
from ghcoord.errors import IllegalTransition, NotFound, UsageError
from ghcoord.hub import Hub
from ghcoord.model import steps
from ghcoord.model.task import State, Task
from ghcoord.store.tx import Tx
from ghcoord.testing.faults import CommitFault
from tests.coord.links import check_links
from tests.coord.world import BAD, GOOD, Daemon, World, edited, ids, kinds, where


def state(hub: Hub, task: Task | str) -> State:
    found = hub.tasks.get(task if isinstance(task, str) else task.id)
    assert found is not None
    return found.state


def waiting_for(hub: Hub, task: Task) -> tuple[str, ...]:
    found = hub.tasks.get(task.id)
    assert found is not None
    assert found.dependencies is not None
    return found.dependencies.waiting_for


def test_a_task_waits_until_all_have_ended(both: World) -> None:
    """It is blocked, runs nowhere, and is queued in the commit that ends the last one."""
    hub = both.open()
    daemon = Daemon(hub)
    first, second = hub.tasks.submit("echo"), hub.tasks.submit("echo")
    last = hub.tasks.submit("echo", after=[first.id, second.id])
    assert (State.BLOCKED, (first.id, second.id)) == (last.state, waiting_for(hub, last))
    check_links(both.store(), both.runtime.now())
    leased = daemon.lease(5)
    assert [first.id, second.id] == ids(leased)
    daemon.report(leased[1])
    assert (first.id,) == waiting_for(hub, last)
    reply = daemon.report(leased[0], want=5)
    assert [last.id] == ids(reply.leased), "told and leased within the tick that reports the end"
    assert "task unblocked" in kinds(hub)
    assert [] == [path for path in both.files(FLEET) if path.startswith((layout.DEPENDENTS, layout.RELEASING))]
    check_links(both.store(), both.runtime.now())


def test_what_has_ended_already_is_not_waited_for(world: World) -> None:
    """After successes a task is queued at once; not-before holds as well, whichever comes later."""
    hub = world.open()
    daemon = Daemon(hub)
    done = hub.tasks.submit("echo")
    daemon.report(*daemon.lease())
    assert State.QUEUED is hub.tasks.submit("echo", after=[done.id]).state
    assert State.SCHEDULED is hub.tasks.submit("echo", after=[done.id], not_before=60.0).state
    open_one = hub.tasks.submit("echo", priority=9)
    later = hub.tasks.submit("echo", after=[open_one.id, done.id], not_before=60.0)
    assert (State.BLOCKED, (open_one.id,)) == (later.state, waiting_for(hub, later))
    daemon.report(*daemon.lease())
    assert State.SCHEDULED is state(hub, later)
    world.runtime.advance(61)
    daemon.beat(renew=True)
    assert State.QUEUED is state(hub, later)
    check_links(world.store(), world.runtime.now())


@pytest.mark.parametrize("how", ["dead", "cancelled"])
@pytest.mark.parametrize("before", [False, True], ids=["afterwards", "beforehand"])
def test_when_one_fails(world: World, how: str, before: bool) -> None:
    """Cancelled with the reason, and so on down the line; run nevertheless; or wait for its success after a retry."""
    hub = world.open()
    daemon = Daemon(hub)
    one = hub.tasks.submit("echo", id="one")

    def fail() -> None:
        if how == "dead":
            daemon.report(*daemon.lease(), BAD)
        else:
            hub.tasks.cancel("one")

    def submit() -> dict[str, Task]:
        made = {what: hub.tasks.submit("echo", id=what, after=["one"], if_failed=what) for what in ("run", "wait")}
        made["cancel"] = hub.tasks.submit("echo", id="cancel", after=["one"])
        made["next"] = hub.tasks.submit("echo", id="next", after=["cancel"])
        made["last"] = hub.tasks.submit("echo", id="last", after=["next", "one"], if_failed="run")
        return made

    if before:
        fail()
        submit()
    else:
        submit()
        fail()
    expected = {
        "run": State.QUEUED,
        "wait": State.BLOCKED,
        "cancel": State.CANCELLED,
        "next": State.CANCELLED,
        "last": State.QUEUED,
    }
    assert expected == {what: state(hub, what) for what in expected}
    reasons = {task.id: task.cancel_reason for task in hub.tasks.list("cancelled")}
    assert f"it waits for task one, which is {how}" == reasons["cancel"]
    assert "it waits for task cancel, which is cancelled" == reasons["next"]
    check_links(world.store(), world.runtime.now())
    hub.tasks.cancel_many(TaskQuery(ids=["run", "last"]))
    assert State.QUEUED is hub.tasks.retry(one.id).state
    assert State.CANCELLED is state(hub, "cancel"), "what was cancelled stays so"
    leased = daemon.lease(5)
    assert ["one"] == ids(leased)
    daemon.report(leased[0])
    assert State.QUEUED is state(hub, "wait")
    check_links(world.store(), world.runtime.now())


def test_a_waiting_task_fails_many_times(world: World) -> None:
    """Who waits for a success goes on waiting however often the other one fails."""
    hub = world.open()
    daemon = Daemon(hub)
    one = hub.tasks.submit("echo")
    last = hub.tasks.submit("echo", after=[one.id], if_failed="wait")
    for _ in range(3):
        daemon.report(*daemon.lease(), BAD)
        daemon.beat()
        assert State.BLOCKED is state(hub, last)
        hub.tasks.retry(one.id)
    daemon.report(*daemon.lease())
    assert State.QUEUED is state(hub, last)


def test_a_failure_that_is_tried_again_is_no_end(world: World) -> None:
    """A back-off is none, nor is a lost lease."""
    hub = world.open()
    daemon = Daemon(hub)
    one = hub.tasks.submit("echo", retries=1, backoff=1.0)
    last = hub.tasks.submit("echo", after=[one.id])
    daemon.report(*daemon.lease(), BAD)
    daemon.beat(renew=True)
    assert State.BLOCKED is state(hub, last)
    world.runtime.advance(3)
    daemon.report(*daemon.lease())
    assert State.QUEUED is state(hub, last)


def test_a_blocked_task_is_cancelled_and_retried(world: World) -> None:
    """Cancelled it waits no more; retried it is queued, whatever it once waited for."""
    hub = world.open()
    one = hub.tasks.submit("echo")
    last = hub.tasks.submit("echo", after=[one.id])
    with pytest.raises(IllegalTransition, match="is blocked"):
        hub.tasks.retry(last.id)
    assert State.CANCELLED is hub.tasks.cancel(last.id).state
    check_links(world.store(), world.runtime.now())
    assert State.QUEUED is hub.tasks.retry(last.id).state
    check_links(world.store(), world.runtime.now())


def test_what_others_wait_for_is_not_purged(world: World) -> None:
    """A dead task stays while somebody waits for its retry; afterwards it goes."""
    hub = world.open()
    daemon = Daemon(hub)
    one = hub.tasks.submit("echo")
    last = hub.tasks.submit("echo", after=[one.id], if_failed="wait")
    daemon.report(*daemon.lease(), BAD)
    done = hub.tasks.purge(TaskQuery())
    assert (0, {one.id: f"task {one.id} cannot be purged: others wait for it"}) == (done.changed, done.refused)
    world.runtime.advance(40 * 86400)
    assert 0 == hub.tasks.retain()
    hub.tasks.cancel(last.id)
    assert 2 == hub.tasks.purge(TaskQuery()).changed


# -- mistakes


def test_whom_to_wait_for_must_exist(hub: Hub) -> None:
    """Else nothing of the batch is queued; a task cannot wait for itself or for one that comes later."""
    for batch in (
        [Submission("echo"), Submission("echo", after=["nobody"])],
        [Submission("echo", id="a", after=["b"]), Submission("echo", id="b")],
        [Submission("echo", id="a", after=["a"])],
    ):
        with pytest.raises(NotFound, match=r"no task '(nobody|a|b)' to wait for"):
            hub.tasks.submit_many(batch)
    assert [] == hub.tasks.list()


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"after": "t1"}, "list of task ids"),
        ({"after": ["../x"]}, "task id"),
        ({"after": [7]}, "not a text"),
        ({"after": ["t1", "t1"]}, "twice"),
        ({"after": [f"t{n}" for n in range(MAX_AFTER + 1)]}, "at most 100"),
        ({"if_failed": "ignore"}, "one of cancel, run, wait"),
        ({"if_failed": ["run"]}, "unknown"),
    ],
)
def test_mistakes_are_named(hub: Hub, bad: dict[str, Any], why: str) -> None:
    """In one sentence."""
    with pytest.raises(UsageError, match=why):
        hub.tasks.submit("echo", **bad)


# -- batches, many, and long lines


def test_a_batch_with_an_order(both: World) -> None:
    """Tasks of one batch wait for earlier ones, across its commits, and repeating it changes nothing."""
    hub = both.open()
    batch = [Submission("echo", id="first")]
    batch += [Submission("echo", after=["first"]) for _ in range(600)]
    batch += [Submission("echo", id="last", after=["first"])]
    tasks = hub.tasks.submit_many(batch, batch="b")
    before = hub.commits
    assert ids(tasks) == ids(hub.tasks.submit_many(batch, batch="b"))
    assert before == hub.commits
    assert {"blocked": 601, "queued": 1} == {name: n for name, n in hub.tasks.counts().items() if n}


def test_many_wait_for_one(world: World) -> None:
    """Its end tells a page of them, further ticks the others; no commit is huge, no directory wide, none is left."""
    hub = world.open()
    daemon = Daemon(hub, slots=1)
    one = hub.tasks.submit("first")
    hub.tasks.submit_many([Submission("echo", after=[one.id]) for _ in range(3 * PAGE + 50)])
    assert 3000 > world.widest(FLEET)
    first = Daemon(hub, "w2", tools=("first",))
    first.report(*first.lease())
    left = [hub.tasks.counts()["blocked"]]
    while left[-1]:
        reply = daemon.beat()
        assert reply.next_due is None or reply.next_due <= world.runtime.now() or not left[-1] > PAGE
        left.append(hub.tasks.counts()["blocked"])
    assert [2 * PAGE + 50, PAGE + 50, 50, 0] == left
    check_links(world.store(), world.runtime.now())


def test_a_long_line_falls(world: World) -> None:
    """Each of 250 tasks waits for the one before it: cancelling the first cancels all, a page a tick."""
    hub = world.open()
    batch = [Submission("echo", id="n0")]
    batch += [Submission("echo", id=f"n{n}", after=[f"n{n - 1}"]) for n in range(1, 250)]
    hub.tasks.submit_many(batch)
    hub.tasks.cancel("n0")
    daemon = Daemon(hub)
    left = [hub.tasks.counts()["blocked"]]
    while left[-1]:
        daemon.beat()
        left.append(hub.tasks.counts()["blocked"])
    assert [249 - PAGE, 0] == left
    check_links(world.store(), world.runtime.now())


def test_a_retry_while_others_are_being_told(world: World) -> None:
    """Those that were not told yet wait on for the new end."""
    hub = world.open()
    one = hub.tasks.submit("first")
    hub.tasks.submit_many([Submission("echo", after=[one.id]) for _ in range(PAGE + 30)])
    hub.tasks.cancel(one.id)
    assert (30, PAGE + 1) == (hub.tasks.counts()["blocked"], hub.tasks.counts()["cancelled"])
    hub.tasks.retry(one.id)
    daemon = Daemon(hub, tools=("first",))
    daemon.beat()
    assert 30 == hub.tasks.counts()["blocked"]
    daemon.report(*daemon.lease())
    assert (0, 30) == (hub.tasks.counts()["blocked"], hub.tasks.counts()["queued"])
    check_links(world.store(), world.runtime.now())


def test_many_ends_that_nobody_hears_of_are_noted_in_pages(world: World) -> None:
    """Those who wait for a success are not told of a failure; to find that out costs a commit only so much."""
    hub = world.open()
    for number in range(5):
        hub.tasks.submit("echo", {}, id=f"a{number}")
        hub.tasks.submit("echo", {}, after=[f"a{number}"], if_failed="wait")

    def fail(tx: Tx) -> None:
        found = [task for number in range(5) if (task := records.get(tx, f"a{number}")) is not None]
        records.put(tx, [(task, steps.cancel(task, "", now=tx.now)) for task in found])

    hub._context.transact((FLEET,), fail)
    more = [hub._context.transact((FLEET,), lambda tx: releasing.work(tx, 2)) for _ in range(3)]
    assert [True, True, False] == more
    assert 5 == hub.tasks.counts()["blocked"]


@pytest.mark.slow
def test_twenty_thousand_wait_for_one(tmp_path: Any) -> None:
    """On disk: narrow directories, an end that costs as much as ever, and all are told."""
    world = World(tmp_path / "hub.git")
    hub = world.open()
    one = hub.tasks.submit("first")
    hub.tasks.submit_many([Submission("echo", after=[one.id]) for _ in range(20_000)])
    assert 3000 > world.widest(FLEET)
    daemon = Daemon(hub, tools=("first",))
    daemon.report(*daemon.lease())
    assert 20_000 - PAGE == hub.tasks.counts()["blocked"]
    for _ in range(20_000 // PAGE):
        daemon.beat()
    assert 20_000 == hub.tasks.counts()["queued"]
    check_links(world.store(), world.runtime.now())
    world.close()


# -- lost replies, and people


def test_lost_replies(world: World) -> None:
    """The end that was told twice, or not at all, unblocks once."""
    hub, faulty = world.open_faulty()
    daemon = Daemon(hub)
    for fault in (CommitFault.REPLY_LOST, CommitFault.REQUEST_LOST, CommitFault.CONFLICT_AFTER_LANDING):
        one = hub.tasks.submit("echo")
        faulty.fail_commits(fault)
        last = hub.tasks.submit("echo", after=[one.id])
        (leased,) = daemon.lease(5)
        faulty.fail_commits(fault)
        daemon.report(leased, GOOD)
        assert State.QUEUED is state(hub, last)
        daemon.report(*daemon.lease(5))
    check_links(world.store(), world.runtime.now())


@pytest.mark.parametrize(
    ("policy", "expected"), [("cancel", State.CANCELLED), ("run", State.QUEUED), ("wait", State.CANCELLED)]
)
def test_people_delete_what_is_waited_for(both: World, policy: str, expected: State) -> None:
    """It cannot succeed any more: who would run runs, the others are cancelled, with the reason."""
    hub = both.open()
    one = hub.tasks.submit("echo")
    last = hub.tasks.submit("echo", after=[one.id], if_failed=policy)
    both.put(FLEET, {where("task", one.id): None})
    Daemon(hub).beat(renew=True)
    assert expected is state(hub, last)
    if expected is State.CANCELLED:
        assert f"waits for task {one.id}, which no longer exists" in hub.tasks.list("cancelled")[0].cancel_reason
    check_links(both.store(), both.runtime.now())


def test_people_edit_what_waits(both: World) -> None:
    """Edited dependencies count, made-up names harm nobody, and a deleted index is made anew."""
    hub = both.open()
    one, two = hub.tasks.submit("first"), hub.tasks.submit("second")
    tasks = [hub.tasks.submit("echo", after=[one.id]) for _ in range(3)]
    files = both.files(FLEET)

    def waits(task: Task, *names: str) -> dict[str, bytes]:
        path = where("task", task.id)
        return {path: edited(files[path], dependencies={"after": names, "waiting_for": names, "if_failed": "cancel"})}

    both.put(
        FLEET, {**waits(tasks[0], two.id), **waits(tasks[1], one.id, "nobody"), **waits(tasks[2], "../x", "y" * 300)}
    )
    daemon = Daemon(hub, tools=("first", "second"))
    daemon.beat(renew=True)
    assert [State.BLOCKED, State.CANCELLED, State.BLOCKED] == [state(hub, task) for task in tasks]
    index = {path: None for path in both.files(FLEET) if path.startswith((layout.DEPENDENTS, layout.RELEASING))}
    stray = {f"{layout.DEPENDENTS}/aa/bb/x/end/00/y": b"{}", f"{layout.RELEASING}/00/{one.id}": b"{}"}
    both.put(FLEET, {**index, **stray})
    for task in daemon.lease(2):
        daemon.report(task)
    assert State.QUEUED is state(hub, tasks[0])
    hub.tasks.cancel(tasks[2].id)
    daemon.beat()
    assert [] == [path for path in both.files(FLEET) if path.startswith((layout.DEPENDENTS, layout.RELEASING))]


def test_a_circle_made_by_hand(world: World) -> None:
    """Two that wait for each other stay blocked, harm nobody, and can be cancelled."""
    hub = world.open()
    one = hub.tasks.submit("echo", not_before=1000.0)
    tasks = [hub.tasks.submit("echo", after=[one.id]) for _ in range(2)]
    files = world.files(FLEET)
    paths = [where("task", task.id) for task in tasks]
    waits = [{"after": [other.id], "waiting_for": [other.id], "if_failed": "cancel"} for other in reversed(tasks)]
    world.put(FLEET, {path: edited(files[path], dependencies=wait) for path, wait in zip(paths, waits, strict=True)})
    daemon = Daemon(hub)
    daemon.beat(renew=True)
    assert [State.BLOCKED] * 2 == [state(hub, task) for task in tasks]
    hub.tasks.cancel(tasks[0].id)
    assert [State.CANCELLED] * 2 == [state(hub, task) for task in tasks]
