"""Scalers on a hub: what they start, write down, find out, and leave to others."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from ghcoord.coord.scaling.autoscaler import Step
from ghcoord.errors import Denied, LeaseLost
from ghcoord.faces.phrases import phrase
from ghcoord.model.worker import Capabilities
from tests.coord.world import Daemon, status
from tests.scaling.fakes import POLICY, Killed, Plant


def test_from_nothing_to_enough_and_back(plant: Plant) -> None:
    """A run for each two tasks, inputs and all; nothing more while they come; when their workers left, nothing."""
    scaler = plant.scaler()
    assert (0, ()) == ((step := scaler.step()).decision.target, step.decision.start)
    plant.submit(6)
    step = scaler.step()
    assert (6, 3, 3) == (step.decision.demand, step.decision.target, len(step.accepted))
    assert {"slots": "2"} == plant.server.inputs[step.decision.start[0]]
    assert ["accepted"] * 3 == list(plant.states().values())
    plant.advance(61)
    assert () == scaler.step().decision.start
    for worker in step.decision.start:
        plant.run(worker)
    assert (3, 0, ()) == ((two := scaler.step().decision).live, two.pending, two.start)
    for task in plant.hub.tasks.list():
        plant.hub.tasks.cancel(task.id)
    for worker in step.decision.start:
        plant.hub.workers.deregister(worker)
        plant.server.end(worker)
    assert (0, 0, 0) == ((three := scaler.step().decision).live, three.pending, three.target)
    assert ["ended"] * 3 == list(plant.states().values())


def test_an_idle_scaler_writes_next_to_nothing(plant: Plant) -> None:
    """The first look takes the lead; then a renewal each third of the lease is all there is, and no request."""
    scaler = plant.scaler()
    scaler.step(lease=600)
    before = plant.hub.commits
    for _ in range(120):
        plant.advance(30)
        scaler.step(lease=600)
    assert 3600 / 200 >= plant.hub.commits - before > 10
    assert 0 == plant.server.asked


def test_what_happens_to_runs_is_told(plant: Plant) -> None:
    """Each step of a run is an event, with its reason, in words for people."""
    plant.submit(2)
    scaler = plant.scaler()
    (worker,) = scaler.step().decision.start
    plant.server.end(worker, "failure")
    plant.advance(61)
    scaler.step()
    told = [phrase(one.kind, one.fields) for one in reversed(plant.hub.events(20)) if one.kind.startswith("run ")]
    assert [
        f"worker asks for a run, for {worker}",
        f"the run for {worker} was accepted",
        f"the run for {worker} has ended: the run is over (failure) and its worker was not seen",
    ] == told[:3]


def test_the_maximum_and_the_minimum_hold(plant: Plant) -> None:
    """However much waits no more than the maximum; with nothing to do the minimum."""
    plant.submit(100)
    assert 4 == len(plant.scaler(once=True).step().decision.start)
    other = Plant()
    assert 2 == len(other.scaler(replace(POLICY, minimum=2)).step().decision.start)
    other.close()


def test_free_slots_of_others_count_and_needs_of_other_machines_do_not(plant: Plant) -> None:
    """What another worker will take needs no run; what needs a label that runs lack is no reason for one."""
    Daemon(plant.hub, "static", slots=3, capabilities=Capabilities(supported_task_types=("echo",)))
    plant.submit(4)
    for _ in range(5):
        plant.hub.tasks.submit("echo", {"message": "x"}, requirements={"required_capabilities": ["gpu"]})
    assert 1 == plant.scaler(once=True).step().decision.demand
    gpu = plant.hub.scaling.rehearse("worker", POLICY, {"gpu": "true"}).decision
    assert gpu is not None
    assert 6 == gpu.demand


def test_two_scalers_never_work_at_once(plant: Plant) -> None:
    """The second stands by and says who leads, until the first gives up, or is silent for its lease and a margin."""
    first, second = plant.scaler(), plant.scaler(hub=plant.world.open("you"))
    first.step()
    plant.submit(2)
    standing = second.step()
    assert standing.decision is None
    assert standing.leader.id.startswith("me:")
    assert [] == plant.server.sent
    plant.advance(299)
    assert second.step().decision is None
    plant.advance(2)
    assert 1 == len(second.step().decision.start)
    assert first.step().decision is None


def test_who_lost_the_lead_resolves_nothing(plant: Plant) -> None:
    """A token that is outdated is refused in the transaction that would write."""
    plant.submit(2)
    first, second = plant.scaler(), plant.scaler(hub=plant.world.open("you"))
    first.step(lease=100)
    token = plant.hub.scaling.get("worker").leader.token
    plant.advance(101)
    second.step()
    with pytest.raises(LeaseLost, match="another scales"):
        plant.hub.scaling.resolve("worker", token, {}, ["x"], release=True, ttl=60)
    with pytest.raises(LeaseLost):
        plant.hub.scaling.release("worker", token)


@pytest.mark.parametrize(("fault", "exists"), [("killed before", False), ("killed after", True)])
def test_a_leader_that_dies_amid_a_dispatch(plant: Plant, fault: str, exists: bool) -> None:
    """The next leader looks for what was written down before it sends anything: found it counts, else not."""
    plant.submit(8)
    policy = replace(POLICY, start_timeout=900.0)
    plant.server.faults = ["", fault]
    with pytest.raises(Killed):
        plant.scaler(policy).step(lease=300)
    assert {"intended"} == set(plant.states().values())
    plant.advance(301)
    other = plant.scaler(policy, hub=plant.world.open("you"))
    sent = len(plant.server.sent)
    step = other.step()
    found = 2 if exists else 1
    assert found == sum(state == "accepted" for state in plant.states().values()) - len(step.accepted)
    assert 4 - found == len(plant.server.sent) - sent == len(step.accepted)
    assert 4 == len(plant.server.open())


def test_nothing_is_sent_while_the_server_cannot_be_asked(plant: Plant) -> None:
    """With a dispatch of unknown outcome and no way to look it up, nothing is sent, until it must be given up."""
    plant.submit(8)
    scaler = plant.scaler(replace(POLICY, cool_down=0))
    plant.server.faults = ["lost"]
    step = scaler.step()
    assert (1, "no answer") == (len(step.unknown), step.problem)
    assert ["intended"] == list(plant.states().values())
    plant.server.down = True
    plant.advance(61)
    step = scaler.step()
    assert ((), "the server cannot be reached") == (step.decision.start, step.problem)
    assert "not known yet" in step.decision.waits
    plant.server.down = False
    assert 3 == len(scaler.step().decision.start)
    assert 4 == len(plant.server.open())


def test_a_dispatch_that_never_arrived_is_given_up(plant: Plant) -> None:
    """Lists lag, so it counts for two minutes more; then it does not, and another is sent."""
    plant.submit(2)
    scaler = plant.scaler(replace(POLICY, maximum=1, cool_down=0))
    plant.server.faults = ["never"]
    scaler.step()
    plant.advance(100)
    scaler.step()
    assert ["intended"] == list(plant.states().values())
    plant.advance(60)
    scaler.step()
    assert "lost" in plant.states().values()
    plant.advance(60)
    scaler.step()
    assert 1 == len(plant.server.open())


def test_a_run_that_never_starts_does_not_block(plant: Plant) -> None:
    """After the start timeout it is cancelled, its slot is free, and the next waits twice the cool-down."""
    plant.submit(2)
    scaler = plant.scaler(replace(POLICY, maximum=1))
    (stuck,) = scaler.step().decision.start
    plant.advance(299)
    assert ("accepted", ()) == (plant.states()[stuck], scaler.step().decision.start)
    plant.advance(3)
    assert (stuck,) == scaler.step().cancelled
    (second,) = scaler.step().decision.start
    assert "ended" == plant.states()[stuck]
    assert [second] == plant.server.open()


def test_a_run_that_cannot_be_cancelled_is_given_up_and_drained_if_it_comes(plant: Plant) -> None:
    """Its slot is held for another start timeout; when it comes after all the surplus ends."""
    plant.submit(2)
    plant.server.deaf = True
    scaler = plant.scaler(replace(POLICY, maximum=1))
    (stuck,) = scaler.step().decision.start
    for _ in range(3):
        plant.advance(150)
        scaler.step()
    assert "cancelling" == plant.states()[stuck]
    assert [stuck] == [worker for _, worker in plant.server.sent]
    for _ in range(4):
        plant.advance(150)
        scaler.step()
    second = next(worker for worker in plant.server.open() if worker != stuck)
    plant.run(second)
    plant.run(stuck)
    step = scaler.step()
    assert (2, 1) == (step.decision.live, len(step.decision.drain))
    assert "draining" == status(plant.hub, step.decision.drain[0])


@pytest.mark.slow
def test_runs_that_fail_at_once_are_started_less_and_less_often(plant: Plant) -> None:
    """Each failure in a row doubles the wait, up to an hour: a broken workflow does not eat the budget."""
    plant.submit(2)
    scaler = plant.scaler(replace(POLICY, maximum=1))
    for _ in range(12 * 60):
        step = scaler.step()
        for worker in step.accepted:
            plant.server.end(worker, "failure")
        plant.advance(60)
    times = [at for at, _ in plant.server.sent]
    gaps = [b - a for a, b in pairwise(times)]
    assert gaps == sorted(gaps)
    assert (180, 3660) == (gaps[0] // 60 * 60, max(gaps) // 60 * 60)
    assert len(times) < 20


def test_workers_that_die_are_replaced_and_their_tasks_go_back(plant: Plant) -> None:
    """With no other worker alive the scaler itself takes from the dead, so that the queue goes on."""
    (task,) = plant.submit()
    scaler = plant.scaler()
    (worker,) = scaler.step().decision.start
    plant.run(worker)
    daemon = Daemon(plant.hub, worker)
    daemon.lease()
    assert (1, 0) == ((step := scaler.step().decision).busy, step.demand)
    plant.advance(120)
    step = scaler.step()
    assert "queued" == plant.hub.tasks.get(task).state
    assert ("ended", 1) == (plant.states()[worker], len(step.decision.start))


def test_time_goes_on_for_a_hub_without_workers(plant: Plant) -> None:
    """A schedule fires and brings a run, though nobody but the scaler looks."""
    plant.hub.schedules.put("often", "every 10m", "echo", {"message": "x"})
    scaler = plant.scaler()
    assert () == scaler.step().decision.start
    plant.advance(601)
    assert 1 == len(scaler.step().decision.start)


def test_idle_workers_beyond_the_need_end_after_the_cool_down(plant: Plant) -> None:
    """One that works stays, one that has been of no use for the cool-down is told to end; the minimum stays."""
    plant.submit(4)
    scaler = plant.scaler()
    busy, idle = scaler.step().decision.start
    plant.run(busy)
    plant.run(idle)
    daemon = Daemon(plant.hub, busy, slots=4)
    daemon.lease(2)
    for task in plant.hub.tasks.list("queued"):
        plant.hub.tasks.cancel(task.id)
    assert ((), 1) == ((step := scaler.step().decision).drain, step.target)
    for seconds in (10, 10, 10, 10, 10, 9):
        plant.advance(seconds)
        plant.hub.workers.heartbeat(busy)
    assert () == scaler.step().decision.drain
    plant.advance(3)
    assert (idle,) == scaler.step().decision.drain
    assert ("active", "draining") == (status(plant.hub, busy), status(plant.hub, idle))
    assert () == scaler.step().decision.drain


@pytest.mark.slow
def test_the_budget_holds_over_leaders(plant: Plant) -> None:
    """Dispatches of the last hour count, whoever sent them."""
    plant.submit(100)
    policy = replace(POLICY, budget=6, cool_down=0)
    hubs = [plant.hub, plant.world.open("you")]
    for turn in range(180):
        for worker in plant.scaler(policy, hub=hubs[turn % 2], once=True).step().accepted or ():
            plant.server.end(worker, "success")
        plant.advance(30)
    times = [at for at, _ in plant.server.sent]
    assert 6 == max(sum(at <= other < at + 3600 for other in times) for at in times)
    assert len(times) > 6


def test_what_will_never_work_is_raised_and_nothing_is_left_behind(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token without permission: the error comes out, and no run counts."""
    plant.submit(2)

    def denied(*_: object) -> None:
        raise Denied("actions: write")

    monkeypatch.setattr(plant.server, "start", denied)
    with pytest.raises(Denied):
        plant.scaler().step()
    assert {} == plant.states()


def test_what_was_refused_for_now_is_not_counted(plant: Plant) -> None:
    """A limit refuses the second of three: one is accepted, the others were not sent, and the reason is told."""
    plant.submit(6)
    plant.server.faults = ["", "refused"]
    step = plant.scaler().step()
    assert (1, "too fast") == (len(step.accepted), step.problem)
    assert ["accepted"] == list(plant.states().values())


def test_nothing_is_sent_when_the_lease_would_be_over_first(plant: Plant) -> None:
    """The server's limits would make a dispatch wait beyond the lease: it is not sent, and not counted."""
    plant.submit(2)
    plant.server.wait = 1000.0
    step = plant.scaler().step()
    assert ({}, "the server's limits allow no more dispatches now") == (step.accepted, step.problem)
    assert ([], {}) == (plant.server.sent, plant.states())


def test_one_look_leaves_nobody_leading(plant: Plant) -> None:
    """As from cron: two commits where something is started, none where nothing changes."""
    plant.scaler(once=True).step()
    plant.submit(2)
    before = plant.hub.commits
    plant.scaler(once=True).step()
    assert 2 == plant.hub.commits - before
    assert plant.hub.scaling.get("worker").leader is None
    plant.scaler(once=True).step()
    assert 2 == plant.hub.commits - before


def test_a_daemon_goes_on_and_gives_the_lead_up(plant: Plant) -> None:
    """Troubles that pass are told and lived through; stopped, it lets another lead at once."""
    scaler = plant.scaler()
    told: list[object] = []
    warned: list[str] = []

    def tell(step: object) -> None:
        told.append(step)
        if len(told) == 3:
            scaler.stop()

    scaler.run(30, tell, warned.append)
    assert (3, []) == (len(told), warned)
    assert plant.hub.scaling.get("worker").leader is None


def test_told_to_stop_it_sends_nothing_more(plant: Plant) -> None:
    """A dispatch takes seconds, and who tells it to end does not wait for twenty: the others were not sent."""
    scaler = plant.scaler()
    plant.submit(6)
    plant.server.on_send = lambda worker: scaler.stop()
    told: list[Step] = []
    scaler.run(30, told.append, lambda text: None)
    assert (1, "it was told to stop") == (len(told[0].accepted), told[0].problem)
    assert 1 == len(plant.server.sent)
    record = plant.hub.scaling.get("worker")
    assert (["accepted"], None) == ([run.state for run in record.runs], record.leader)
