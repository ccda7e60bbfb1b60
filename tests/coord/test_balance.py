"""Placement on a hub: which worker, which task, how the load lies, and what evens it out."""

from __future__ import annotations

from typing import Any

import pytest

from ghcoord.coord import layout
from ghcoord.coord.tasks.submission import Submission
from ghcoord.coord.workers.tick import Beat, Finished
from ghcoord.errors import IllegalTransition, NoCapacity, NotFound, UsageError
from ghcoord.hub import Hub
from ghcoord.model.placement import STRATEGIES
from ghcoord.model.requirements import Requirements
from ghcoord.model.task import State, Task
from ghcoord.model.worker import Capabilities, Health
from tests.coord.world import BAD, GOOD, Daemon, World, ids, kinds, token_of


def worker(hub: Hub, name: str, slots: int = 2, *types: str, **can: Any) -> int:
    """A registered worker that serves ``echo`` and ``types``."""
    offer = Capabilities(supported_task_types=("echo", *types), **can)
    return hub.workers.register(name, capacity=slots, capabilities=offer, ttl=60.0).token


def lease(hub: Hub, name: str, token: int, want: int = 1) -> list[Task]:
    return hub.beat(Beat(name, token, tools=("echo",), want=want)).leased


def submit(hub: Hub, count: int, **more: Any) -> list[Task]:
    """Tasks t0, t1 …"""
    return hub.tasks.submit_many([Submission("echo", id=f"t{n}", **more) for n in range(count)])


# -- the strategy


def test_the_strategy_is_the_hubs(both: World) -> None:
    """Set by one, it counts for all; an unknown one is refused and changes nothing."""
    mine, theirs = both.open("a"), both.open("b")
    assert "least_loaded" == mine.balance.strategy()
    for name in STRATEGIES:
        mine.balance.set_strategy(name)
        assert name == theirs.balance.strategy() == theirs.config.get("strategy")
    with pytest.raises(UsageError, match="one of round_robin, least_loaded, capacity_based, affinity, adaptive"):
        mine.balance.set_strategy("random")
    assert "adaptive" == mine.balance.strategy()


# -- the next task


def test_the_next_task_is_what_the_queue_would_lease(world: World) -> None:
    """A look, at every point of a queue with priorities, needs and pins; nothing is committed by looking."""
    hub = world.open()
    token = worker(hub, "w1", 9, "build")
    worker(hub, "w2")
    for name, more in {
        "t0": {},
        "t1": {"priority": 5},
        "t2": {"priority": 9, "requirements": Requirements(min_cpu_cores=10_000)},
        "t3": {"priority": 9, "type": "build"},
        "t4": {"priority": 9, "worker": "w2"},
        "t5": {"worker": "w1"},
    }.items():
        hub.tasks.submit("echo", id=name, **more)
    seen = []
    while (looked := hub.balance.get_next_task("w1")) is not None:
        before = hub.commits
        assert looked == hub.balance.get_next_task("w1")
        assert before == hub.commits
        (leased,) = lease(hub, "w1", token)
        assert leased.id == looked.id
        seen.append(looked.id)
    assert ["t3", "t1", "t0", "t5"] == seen
    with pytest.raises(NotFound, match="no worker 'w9'"):
        hub.balance.get_next_task("w9")


def test_a_look_sees_what_has_fallen_due(world: World) -> None:
    """A task whose back-off is over counts, before any worker has noticed, and stays as it is."""
    hub = world.open()
    daemon = Daemon(hub, "w1")
    hub.tasks.submit("echo", id="t1", retries=1, backoff=1.0)
    daemon.report(daemon.lease()[0], BAD)
    worker(hub, "w1")
    assert None is hub.balance.get_next_task("w1")
    world.runtime.advance(2)
    assert "t1" == getattr(hub.balance.get_next_task("w1"), "id", None)
    assert State.FAILED is world.check_index()["t1"].state


def test_types_that_a_worker_ran_come_first(world: World) -> None:
    """With affinity, among tasks of equal priority, also beyond the first in line; of given tasks alike."""
    hub = world.open()
    token = worker(hub, "w1", 5, "build")
    hub.tasks.submit("echo", id="ran", type="build")
    (task,) = lease(hub, "w1", token)
    hub.beat(Beat("w1", token, finished=(Finished(task.id, token_of(task), GOOD, task.need.type),)))
    assert {"build": 1} == hub.workers.list()[0].recent_types
    tasks = submit(hub, 3)
    tasks.append(hub.tasks.submit("echo", id="t3", type="build"))
    assert "t0" == getattr(hub.balance.get_next_task("w1"), "id", None)
    for name in ("affinity", "adaptive"):
        hub.balance.set_strategy(name)
        assert "t3" == getattr(hub.balance.get_next_task("w1"), "id", None)
        assert "t3" == getattr(hub.balance.get_next_task("w1", tasks), "id", None)
        assert "t1" == getattr(hub.balance.get_next_task("w1", tasks[1:3]), "id", None)
    hub.workers.drain("w1")
    assert None is hub.balance.get_next_task("w1")


# -- a worker for a task


def test_a_worker_is_selected_by_the_strategy(world: World) -> None:
    """Of all workers or of those given; the dead by the clock, the sick, the full and the unfit are not."""
    hub = world.open()
    (task,) = submit(hub, 1)
    assert None is hub.balance.select_worker(task) is hub.balance.select_worker("t0")
    for name, slots in (("w1", 1), ("w2", 4), ("w3", 4)):
        worker(hub, name, slots)
    hub.tasks.assign(hub.tasks.submit("echo", id="busy").id, "w2")
    before = hub.commits
    assert "w1" == getattr(hub.balance.select_worker(task), "id", None)
    given = [one for one in hub.workers.list() if one.id == "w2"]
    assert "w2" == getattr(hub.balance.select_worker("t0", given), "id", None)
    assert None is hub.balance.select_worker(task, [])
    assert before == hub.commits
    hub.workers.heartbeat("w1", health=Health(health_status="unhealthy"))
    assert "w3" == getattr(hub.balance.select_worker(task), "id", None)
    world.runtime.advance(50)
    hub.workers.heartbeat("w2")
    world.runtime.advance(20)
    assert "w2" == getattr(hub.balance.select_worker(task), "id", None), "the leases of the others are over"
    with pytest.raises(NotFound):
        hub.balance.select_worker("t9")


def test_assigning_places_the_task(world: World) -> None:
    """It waits for that worker alone, which the event and the record say; what waits counts as load."""
    hub = world.open()
    tokens = {name: worker(hub, name, 2) for name in ("w1", "w2")}
    submit(hub, 5)
    placed = [hub.balance.assign(f"t{n}") for n in range(4)]
    assert ["w1", "w2", "w1", "w2"] == [task.worker for task in placed]
    with pytest.raises(NoCapacity, match=r"no active worker with a free slot suits task t4 \(tool echo\)"):
        hub.balance.assign("t4")
    assert "task assigned" == kinds(hub)[0]
    assert [False] * 4 == [bool(task.assigned and task.assigned.pinned) for task in placed]
    assert ["t0", "t2", "t4"] == ids(lease(hub, "w1", tokens["w1"], 9))
    world.check_index()


def test_a_task_can_be_placed_anew(world: World) -> None:
    """Chosen afresh, whomever it was placed on before; not what is pinned, runs, or is not there."""
    hub = world.open()
    daemon = Daemon(hub, "w1", slots=5)
    worker(hub, "w2", 4)
    submit(hub, 2)
    hub.tasks.assign("t0", "w1")
    hub.workers.drain("w1")
    assert "w2" == hub.balance.assign("t0").worker
    hub.tasks.submit("echo", id="pinned", worker="w2")
    with pytest.raises(UsageError, match="pinned to 'w2'"):
        hub.balance.assign("pinned")
    with pytest.raises(NotFound):
        hub.balance.assign("t9")
    hub.workers.set_status("w1", "active")
    daemon.lease()
    with pytest.raises(IllegalTransition, match="only one that has not started"):
        hub.balance.assign("t1")
    hub.workers.drain("w2")
    hub.workers.drain("w1")
    with pytest.raises(IllegalTransition):
        hub.balance.assign("t1")


def test_round_robin_advances_with_each_assignment(world: World) -> None:
    """Looks do not advance it; assignments of any process do, and a broken record begins anew."""
    mine, theirs = world.open("a"), world.open("b")
    mine.balance.set_strategy("round_robin")
    for name in ("w1", "w2", "w3"):
        worker(mine, name, 9)
    submit(mine, 6)
    chosen = []
    for number in range(4):
        hub = (mine, theirs)[number % 2]
        looked = [hub.balance.select_worker(f"t{number}") for _ in range(2)]
        placed = hub.balance.assign(f"t{number}")
        assert {placed.worker} == {getattr(one, "id", None) for one in looked}
        chosen.append(placed.worker)
    assert ["w1", "w2", "w3", "w1"] == chosen
    for broken in (b"{", b"[1]", b'{"last": {}}', b"\xff"):
        world.put("fleet", {layout.BALANCE_RECORD: broken})
        assert "w1" == getattr(mine.balance.select_worker("t4"), "id", None)
    assert "w1" == mine.balance.assign("t4").worker
    assert "w2" == mine.balance.assign("t5").worker


def test_two_processes_place_without_overfilling(world: World) -> None:
    """Each assignment is one transaction over what is there: nobody gets more than its slots."""
    hubs = world.open("a"), world.open("b")
    for name in ("w1", "w2"):
        worker(hubs[0], name, 2)
    submit(hubs[0], 5)
    for number in range(4):
        hubs[number % 2].balance.assign(f"t{number}")
    for hub in hubs:
        with pytest.raises(NoCapacity):
            hub.balance.assign("t4")
    assert {"w1": 2, "w2": 2} == {one.worker_id: one.assigned for one in hubs[0].balance.distribution().worker_loads}


# -- the load


def test_the_load_is_what_is_held_and_what_waits(world: World) -> None:
    """By worker, in order; the silent and the draining are not counted; imbalance is said."""
    hub = world.open()
    daemon = Daemon(hub, "w1", slots=2)
    worker(hub, "w2", 4)
    submit(hub, 3)
    daemon.lease(2)
    hub.tasks.assign("t2", "w2")
    found = hub.balance.distribution()
    assert (6, 3, 50.0, 75.0, True) == (
        found.total_capacity,
        found.utilized_capacity,
        found.utilization_percent,
        found.spread,
        found.imbalanced,
    )
    assert [("w1", 2, 0, 2, 100.0), ("w2", 0, 1, 4, 25.0)] == list(found.worker_loads)
    hub.workers.drain("w2")
    assert ["w1"] == [one.worker_id for one in hub.balance.distribution().worker_loads]
    world.runtime.advance(18)
    assert () == hub.balance.distribution().worker_loads


# -- rebalancing


def test_nothing_to_move_is_no_commit(hub: Hub) -> None:
    """On an empty hub, and with workers but no tasks."""
    for name in ("w1", "w2"):
        before = hub.commits
        assert (0, False, 0.0, 0.0, ()) == hub.balance.rebalance()
        assert before == hub.commits
        worker(hub, name)


def test_rebalancing_says_what_it_moves(both: World) -> None:
    """One commit, the same as the dry run said; what runs, is pinned or fits stays; a second time nothing."""
    hub = both.open()
    daemon = Daemon(hub, "w1", slots=2)
    submit(hub, 7)
    daemon.lease(1)
    for number in range(1, 6):
        hub.tasks.assign(f"t{number}", "w1")
    hub.tasks.submit("echo", id="pinned", worker="w1")
    worker(hub, "w2", 2)
    worker(hub, "w3", 1)
    before = hub.commits, both.files("fleet")
    planned = hub.balance.rebalance(dry_run=True)
    assert before == (hub.commits, both.files("fleet"))
    assert [("t5", "w1", "w2"), ("t4", "w1", "w3"), ("t3", "w1", "w2")] == list(planned.moves)
    assert (3, True, 40.0, 100.0) == planned[:4]
    assert planned == hub.balance.rebalance()
    assert before[0] + 1 == hub.commits
    tasks = both.check_index()
    meant = {name: task.assigned.worker if task.assigned else None for name, task in tasks.items()}
    expected = {"t0": None, "t1": "w1", "t2": "w1", "t3": "w2", "t4": "w3", "t5": "w2", "t6": None, "pinned": "w1"}
    assert expected == meant
    assert ["task assigned"] * 3 == kinds(hub)[:3]
    again = hub.balance.rebalance()
    assert (0, False, ()) == (again.tasks_moved, again.improved_utilization, again.moves)
    assert before[0] + 1 == hub.commits


def test_rebalancing_empties_who_takes_none(world: World) -> None:
    """From a draining worker and a silent one to one with room, and to anybody where there is none."""
    hub = world.open()
    for name in ("w1", "w2"):
        hub.workers.register(name, capacity=3, capabilities=Capabilities(supported_task_types=("echo",)), ttl=15.0)
    worker(hub, "w3", 2)
    submit(hub, 4)
    for number, name in enumerate(("w1", "w2", "w1", "w2")):
        hub.tasks.assign(f"t{number}", name)
    hub.workers.drain("w1")
    world.runtime.advance(16)
    moved = hub.balance.rebalance()
    assert [("t0", "w1", "w3"), ("t1", "w2", "w3"), ("t2", "w1", None), ("t3", "w2", None)] == list(moved.moves)
    assert {"task assigned", "task unassigned"} == set(kinds(hub)[:4])
    assert [None, None] == [world.check_index()[name].assigned for name in ("t2", "t3")]


def test_rebalancing_goes_in_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tasks were placed, one call reads and moves a bounded number, and further ones go on."""
    monkeypatch.setattr("ghcoord.coord.workers.balance.SCAN", 5)
    hub = world.open()
    worker(hub, "w1", 1)
    worker(hub, "w2", 12)
    submit(hub, 12)
    for number in range(12):
        hub.tasks.assign(f"t{number}", "w1")
    counts = [hub.balance.rebalance().tasks_moved for _ in range(4)]
    assert ([5, 5, 1, 0], 11) == (counts, sum(counts))


def test_limited_tasks_are_moved_once(world: World) -> None:
    """A task behind a gate lies twice in the index and counts once."""
    hub = world.open()
    worker(hub, "w1", 1)
    tasks = [hub.tasks.submit("echo", id=f"t{n}", key="k", concurrency=1) for n in range(3)]
    for task in tasks:
        hub.tasks.assign(task.id, "w1")
    worker(hub, "w2", 9)
    assert 3 == hub.balance.distribution().worker_loads[0].assigned
    assert ["t2", "t1"] == [move.task_id for move in hub.balance.rebalance().moves]
    world.check_index()


def test_strange_records_stop_nobody(world: World) -> None:
    """Folders and names in the index that are nobody's, and workers with impossible numbers, are passed over."""
    hub = world.open()
    worker(hub, "w1", 1)
    worker(hub, "w2", 4)
    submit(hub, 3)
    for number in range(3):
        hub.tasks.assign(f"t{number}", "w1")
    stray = {f"index/assigned/{name}": b"{}" for name in ("x", "nobody/echo/9/000000/00/00-t99", "w1/odd/t1", "w1/-")}
    world.put("fleet", stray)
    assert 2 == hub.balance.rebalance().tasks_moved
    assert hub.balance.distribution().worker_loads
    assert "w1" == getattr(hub.balance.select_worker("t0"), "id", None), "where it waits already it is in nobody's way"


def test_a_worker_that_comes_back_leaves_its_assignments_to_all(world: World) -> None:
    """A new registration may offer less: only what was pinned to the worker still waits for it."""
    hub = world.open()
    worker(hub, "w1")
    other = worker(hub, "w2")
    assigned = hub.tasks.submit("echo", {"message": "x"})
    hub.tasks.assign(assigned.id, "w1")
    pinned = hub.tasks.submit("echo", {"message": "x"}, worker="w1")
    worker(hub, "w1")
    assert [assigned.id] == ids(lease(hub, "w2", other, 2))
    assert pinned.id == hub.tasks.list("queued")[0].id
