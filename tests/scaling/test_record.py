"""The record of a scaler and its policy: looked at, forgotten, rehearsed, broken by people, refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ghcoord.coord.layout import FLEET, scaler_path
from ghcoord.coord.scaling.decision import Policy
from ghcoord.errors import NotFound, UsageError
from tests.coord.world import edited, kinds
from tests.scaling.fakes import POLICY, Plant


def test_a_rehearsal_changes_nothing(plant: Plant) -> None:
    """It says what would be started; no commit, no request."""
    plant.submit(6)
    before = plant.hub.revisions()
    step = plant.hub.scaling.rehearse("worker", POLICY, {})
    assert 3 == len(step.decision.start)
    assert before == plant.hub.revisions()
    assert plant.hub.scaling.get("worker") is None


def test_records_are_listed_and_forgotten(plant: Plant) -> None:
    """By name; what is not there cannot be removed; strange names are refused."""
    plant.scaler().step()
    assert ["worker"] == [one.name for one in plant.hub.scaling.list()]
    plant.hub.scaling.forget("worker")
    assert [] == plant.hub.scaling.list()
    with pytest.raises(NotFound):
        plant.hub.scaling.forget("worker")
    with pytest.raises(UsageError):
        plant.hub.scaling.autoscaler("../x", None, POLICY)  # type: ignore[arg-type]  # the name comes first
    with pytest.raises(UsageError, match="at most 100"):
        plant.hub.scaling.autoscaler("x" * 101, None, POLICY)  # type: ignore[arg-type]


def test_what_people_write_into_the_record_stops_nothing(plant: Plant) -> None:
    """A broken record is set aside; stamps of the year 9000, runs named twice and strange ids are lived with."""
    plant.submit(4)
    scaler = plant.scaler(replace(POLICY, maximum=2))
    scaler.step()
    path = scaler_path("worker")
    raw = plant.world.files(FLEET)[path]
    plant.world.put(FLEET, {path: b"{nonsense"})
    assert scaler.step().decision is not None
    assert "broken record set aside" in kinds(plant.hub)
    far = "9000-01-01T00:00:00Z"
    run = {"worker": "../../etc", "intended_at": far, "since": far, "state": "accepted", "run_id": 7}
    leader = {"id": "x", "token": 5, "renewal": 5, "ttl": 60, "renewed_at": far}
    plant.world.put(FLEET, {path: edited(raw, runs=[run, run], leader=leader, surplus_since=far)})
    assert scaler.step().decision is None
    plant.advance(61)
    scaler.step()
    for _ in range(20):
        plant.advance(60)
        scaler.step()
    assert "../../etc" not in plant.server.open()
    assert 2 == len([worker for worker in plant.server.open() if worker.startswith("worker-")])


def test_a_record_ends_nobody_elses_runs(plant: Plant) -> None:
    """Somebody writes 100 runs into the record that the workflow never had: none of them is cancelled."""
    scaler = plant.scaler()
    scaler.step()
    raw = plant.world.files(FLEET)[scaler_path("worker")]
    then = "2020-01-01T00:00:00Z"
    runs = [
        {"worker": f"w{at}", "intended_at": then, "since": then, "state": "accepted", "run_id": at} for at in range(100)
    ]
    plant.world.put(FLEET, {scaler_path("worker"): edited(raw, runs=runs)})
    asked: list[int] = []
    plant.server.cancel = asked.append  # type: ignore[assignment, method-assign]
    for _ in range(20):
        scaler.step()
        plant.advance(60)
    assert [] == asked
    plant.submit(2)
    assert 1 == len(scaler.step().decision.start)


def test_a_record_cancels_no_run_of_the_workflow_that_is_anothers(plant: Plant) -> None:
    """Somebody writes the number of a run that a person or another scaler started into the record: it goes on."""
    scaler = plant.scaler()
    scaler.step()
    others = ("ann-box", "gpu-0123456789ab")
    numbers = [plant.server.start(worker, {}).run_id for worker in others]
    raw = plant.world.files(FLEET)[scaler_path("worker")]
    then = "2020-01-01T00:00:00Z"
    forged = [("worker-0123456789ab", numbers[0]), (others[0], numbers[0]), (others[1], numbers[1])]
    runs = [
        {"worker": worker, "intended_at": then, "since": then, "state": "cancelling", "run_id": number}
        for worker, number in forged
    ]
    plant.world.put(FLEET, {scaler_path("worker"): edited(raw, runs=runs)})
    for _ in range(5):
        assert () == scaler.step().cancelled
        plant.advance(60)
    assert sorted(others) == sorted(plant.server.open())


@pytest.mark.parametrize("titles", [True, False])
def test_a_record_that_forgets_leads_beyond_nothing(plant: Plant, titles: bool) -> None:
    """Somebody removes all runs before each look: no more than the maximum are there, nor than the budget was sent.

    Where titles do not name the worker the budget alone is left.
    """
    policy = replace(POLICY, cool_down=0.0, budget=10)
    scaler = plant.scaler(policy)
    plant.submit(40)
    if not titles:
        listed = plant.server.listed
        plant.server.listed = lambda since: [replace(run, title="") for run in listed(since)]  # type: ignore[method-assign]
    for _ in range(30):
        step = scaler.step()
        raw = plant.world.files(FLEET)[scaler_path("worker")]
        plant.world.put(FLEET, {scaler_path("worker"): edited(raw, runs=[])})
        if titles:
            assert policy.maximum >= len(plant.server.open())
        plant.advance(61)
    assert (policy.maximum if titles else policy.budget) == len(plant.server.sent)
    assert ("maximum" if titles else "budget") in step.problem
    if titles:  # of another process too, and as runs end
        for _ in range(20):
            for worker in plant.server.open():
                plant.server.end(worker)
            plant.scaler(policy, once=True).step()
            plant.world.put(FLEET, {scaler_path("worker"): edited(raw, runs=[], leader=None)})
            plant.advance(61)
        assert policy.budget == len(plant.server.sent)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"minimum": 5}, "minimum of 5 does not go"),
        ({"maximum": 0}, "out of range"),
        ({"maximum": 501}, "out of range"),
        ({"per_run": 0}, "at least 1"),
        ({"budget": 0}, "out of range"),
        ({"cool_down": 4000.0}, "cool-down"),
        ({"start_timeout": 5.0}, "start timeout"),
    ],
)
def test_policies_that_cannot_be_kept(change: dict[str, float], words: str) -> None:
    """Each number out of its range is named."""
    with pytest.raises(UsageError, match=words):
        replace(POLICY, **change).check()  # type: ignore[arg-type]
    assert Policy().check() == Policy()
