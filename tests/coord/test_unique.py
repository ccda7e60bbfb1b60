"""Unique keys: one task of a key at a time, for a while, in given states, also among competing submitters."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from ghcoord.bootstrap import connect, create
from ghcoord.coord import layout
from ghcoord.coord.layout import FLEET
from ghcoord.coord.queue.uniqueness import MOST
from ghcoord.coord.tasks.submission import OPEN
from ghcoord.coord.tasks.tasks import Submission, TaskQuery
from ghcoord.errors import IllegalTransition, UsageError
from ghcoord.hub import Hub
from ghcoord.model.task import State
from ghcoord.testing.faults import CommitFault
from tests.coord.links import check_links
from tests.coord.world import BAD, Daemon, World, edited, ids, where


def kept(world: World) -> list[str]:
    """The files that unique keys have."""
    return [path for path in world.files(FLEET) if path.startswith(layout.UNIQUE)]


def test_a_task_that_is_there_is_returned(both: World) -> None:
    """The same type, tool and arguments, however spelt, are one task until it has ended."""
    hub = both.open()
    first = hub.tasks.offer(Submission("echo", {"a": (1, 2), "b": None}, unique=True))
    before = hub.commits
    again = hub.tasks.offer(Submission("echo", {"b": None, "a": [1, 2]}, unique=True, priority=9))
    assert (True, False, first.task) == (first.created, again.created, again.task)
    assert first.task == hub.tasks.submit("echo", {"a": [1, 2], "b": None}, unique=True)
    assert before == hub.commits
    others = [
        Submission("echo", {"a": [2, 1], "b": None}, unique=True),
        Submission("echo", {"a": [1, 2], "b": None}, unique=True, type="other"),
        Submission("other", {"a": [1, 2], "b": None}, unique=True),
        Submission("echo", {"a": [1, 2], "b": None}),
    ]
    assert all(one.created for one in hub.tasks.offer_many(others))
    check_links(both.store(), both.runtime.now())


def test_a_key_of_ones_own(world: World) -> None:
    """With a key, type, tool and arguments do not matter; a key is no digest of arguments."""
    hub = world.open()
    first = hub.tasks.submit("echo", {"n": 1}, unique_key="nightly")
    assert first == hub.tasks.submit("other", {"n": 2}, unique_key="nightly")
    assert first != hub.tasks.submit("echo", {"n": 1}, unique=True)
    assert first != hub.tasks.submit("echo", {"n": 1}, unique_key="nightly-2")


@pytest.mark.parametrize("state", list(State))
def test_in_which_states_another_counts(world: World, state: State) -> None:
    """By default until it has ended; with given states exactly in these."""
    hub = world.open()
    daemon = Daemon(hub)
    options: dict[str, Any] = {"retries": 1, "backoff": 1000.0} if state is State.FAILED else {}
    if state is State.SCHEDULED:
        options["not_before"] = 60.0
    if state is State.BLOCKED:
        options["after"] = [hub.tasks.submit("other").id]
    for terms in ({"unique": True}, {"unique": True, "unique_states": (state,)}):
        first = hub.tasks.submit("echo", {"terms": str(terms)}, **terms, **options)
        if state in (State.LEASED, State.FAILED, State.DEAD, State.SUCCEEDED):
            (leased,) = daemon.lease()
            if state is State.SUCCEEDED:
                daemon.report(leased)
            elif state is not State.LEASED:
                daemon.report(leased, BAD)
        if state is State.CANCELLED:
            hub.tasks.cancel(first.id)
        found = hub.tasks.get(first.id)
        assert found is not None
        assert state is found.state
        again = hub.tasks.offer(Submission("echo", {"terms": str(terms)}, **terms))
        assert (state in OPEN or "unique_states" in terms) is not again.created
        if again.created:
            hub.tasks.cancel(again.task.id)
    check_links(world.store(), world.runtime.now())


def test_for_a_while(world: World) -> None:
    """With a period another counts for so long after it was submitted, also when it has succeeded."""
    hub = world.open()
    daemon = Daemon(hub)
    first = hub.tasks.submit("echo", unique_for=60.0)
    daemon.report(*daemon.lease())
    world.runtime.advance(59)
    assert first.id == hub.tasks.submit("echo", unique_for=60.0).id
    world.runtime.advance(2)
    second = hub.tasks.submit("echo", unique_for=60.0)
    assert first.id != second.id
    world.runtime.advance(61)
    third = hub.tasks.submit("echo", unique_for=60.0)
    assert second.id != third.id, "older than the period, though it has not even begun"
    hub.tasks.cancel(third.id)
    assert third.id != hub.tasks.submit("echo", unique_for=60.0).id, "what was cancelled does not count"


def test_terms_that_differ(world: World) -> None:
    """Another counts only if it does by both: its own terms and those of the new one."""
    hub = world.open()
    short = hub.tasks.submit("echo", unique_for=10.0)
    assert short == hub.tasks.submit("echo", unique=True)
    world.runtime.advance(11)
    long = hub.tasks.submit("echo", unique=True)
    assert short != long
    assert long == hub.tasks.submit("echo", unique=True)
    world.runtime.advance(11)
    assert long != hub.tasks.submit("echo", unique_for=10.0)


def test_within_one_batch(both: World) -> None:
    """The first of equal ones is queued; the others are told which one stands for them, whatever id they have."""
    hub = both.open()
    same = Submission("echo", {"n": 1}, unique=True)
    batch = [same, same, Submission("echo", {"n": 1}, unique=True, id="mine"), Submission("echo", after=["mine"])]
    offered = hub.tasks.offer_many(batch)
    assert [True, False, False, True] == [one.created for one in offered]
    first = offered[0].task.id
    assert [first] * 3 == ids([one.task for one in offered[:3]])
    assert offered[3].task.dependencies is not None
    assert (first,) == offered[3].task.dependencies.after
    assert 2 == len(check_links(both.store(), both.runtime.now()))


def test_a_repeated_batch(world: World) -> None:
    """Tasks that a batch made are found by their ids, also when their keys are free again."""
    hub = world.open()
    batch = [Submission("echo", {"n": n % 2}, unique=True) for n in range(4)]
    first = hub.tasks.submit_many(batch, batch="b")
    assert ids(first) == ids(hub.tasks.submit_many(batch, batch="b"))
    hub.tasks.cancel_many(TaskQuery())
    assert ids(first)[:2] == ids(hub.tasks.submit_many(batch[:2], batch="b"))


def test_retry_beside_another(world: World) -> None:
    """A dead task whose key another one has by now is not retried, and the refusal names that one."""
    hub = world.open()
    daemon = Daemon(hub)
    first = hub.tasks.submit("echo", unique=True)
    daemon.report(*daemon.lease(), BAD)
    second = hub.tasks.submit("echo", unique=True)
    assert first.id != second.id
    with pytest.raises(IllegalTransition, match=f"beside task {second.id}, which is queued"):
        hub.tasks.retry(first.id)
    assert {first.id} == set(hub.tasks.retry_many(TaskQuery()).refused)
    hub.tasks.cancel(second.id)
    assert State.QUEUED is hub.tasks.retry(first.id).state
    assert first.id == hub.tasks.submit("echo", unique=True).id
    with pytest.raises(IllegalTransition, match=f"beside task {first.id}"):
        hub.tasks.retry(second.id)


def test_retrying_two_of_a_key_at_once(world: World) -> None:
    """Of several dead ones a redrive queues one; the others are refused."""
    hub = world.open()
    daemon = Daemon(hub)
    for _ in range(3):
        hub.tasks.submit("echo", unique=True)
        daemon.report(*daemon.lease(), BAD)
    done = hub.tasks.retry_many(TaskQuery())
    assert (1, 2) == (done.changed, len(done.refused))
    check_links(world.store(), world.runtime.now())


def test_nothing_is_kept_that_is_not_needed(world: World) -> None:
    """The file of a key goes with the last task that counts, however its state, record or period ends."""
    hub = world.open()
    daemon = Daemon(hub)
    hub.tasks.submit("echo", {"n": 1}, unique=True)
    assert 1 == len(kept(world))
    daemon.report(*daemon.lease())
    assert [] == kept(world)
    hub.tasks.submit("echo", {"n": 2}, unique_for=60.0)
    daemon.report(*daemon.lease())
    assert 1 == len(kept(world)), "for the rest of its period"
    hub.tasks.purge(TaskQuery())
    assert [] == kept(world)
    for _ in range(MOST + 10):
        hub.tasks.submit("echo", {"n": 3}, unique_for=1.0)
        world.runtime.advance(2)
    (path,) = kept(world)
    assert 200 > len(world.files(FLEET)[path]), "not one line for each that once counted"


def test_competing_submitters(tmp_path: Path) -> None:
    """Of 20 that submit the same at once one makes it, and all are told its id; of another key, another one."""
    create(tmp_path / "hub.git")[0].close()
    told: list[tuple[str, bool]] = []
    begin = threading.Barrier(20)

    def run() -> None:
        with connect(tmp_path / "hub.git") as hub:
            begin.wait(20)
            for number in range(3):
                offered = hub.tasks.offer(Submission("echo", {"n": number}, unique=True))
                told.append((offered.task.id, offered.created))

    threads = [threading.Thread(target=run) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (60, 3) == (len(told), len({task_id for task_id, _ in told}))
    assert 3 == sum(created for _, created in told)


def test_lost_replies(world: World) -> None:
    """A submission whose answer was lost has made its task, and the next one finds it."""
    hub, faulty = world.open_faulty()
    for fault in (CommitFault.REPLY_LOST, CommitFault.REQUEST_LOST, CommitFault.CONFLICT_AFTER_LANDING):
        faulty.fail_commits(fault)
        offered = hub.tasks.offer(Submission("echo", {"fault": fault.value}, unique=True))
        assert offered.created
        assert not hub.tasks.offer(Submission("echo", {"fault": fault.value}, unique=True)).created
    assert 3 == len(check_links(world.store(), world.runtime.now()))


def test_people_and_unique_keys(both: World) -> None:
    """Deleted and edited tasks, and a broken index, leave keys as the records say."""
    hub = both.open()
    tasks = [hub.tasks.submit("echo", {"n": n}, unique=True) for n in range(4)]
    files = both.files(FLEET)
    both.put(FLEET, {where("task", tasks[0].id): None})
    assert hub.tasks.offer(Submission("echo", {"n": 0}, unique=True)).created
    record = where("task", tasks[1].id)
    both.put(FLEET, {record: edited(files[record], state="cancelled")})
    assert hub.tasks.offer(Submission("echo", {"n": 1}, unique=True)).created
    paths = kept(both)
    both.put(FLEET, dict(zip(paths, (b"[", b'{"tasks": 7}', b'{"tasks": [7, "../x"]}', None), strict=True)))
    for number in (2, 3):
        assert tasks[number].id == hub.tasks.submit("echo", {"n": number}, unique=True).id
    check_links(both.store(), both.runtime.now())


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"unique_key": ""}, "unique key is empty"),
        ({"unique_key": 7}, "not a text"),
        ({"unique_for": 0}, "period of a unique key"),
        ({"unique_for": "1h"}, "not a number"),
        ({"unique_states": ()}, "list of states"),
        ({"unique_states": "queued"}, "list of states"),
        ({"unique_states": ["running"]}, "'running' is unknown"),
        ({"unique_states": [["queued"]]}, "unknown"),
    ],
)
def test_mistakes_are_named(hub: Hub, bad: dict[str, Any], why: str) -> None:
    """In one sentence, before anything is queued."""
    with pytest.raises(UsageError, match=why):
        hub.tasks.submit("echo", **bad)
    assert [] == hub.tasks.list()
