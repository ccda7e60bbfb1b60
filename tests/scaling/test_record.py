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
