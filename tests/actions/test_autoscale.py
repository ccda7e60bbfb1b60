"""The workflows autoscale.yml and worker.yml: their steps run as a runner does, against the twin."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from ghcoord.hub import Hub
from ghcoord.store.github.dispatch import MAX_INPUTS, WORKER_INPUT
from ghcoord.twin.server import Twin
from tests.actions.conftest import Jobs
from tests.actions.expressions import interpolate
from tests.actions.runner import ACTIONS, ROOT, Job

WORKFLOWS = ROOT / ".github" / "workflows"


def workflow(name: str) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load((WORKFLOWS / name).read_text())
    return found


def inputs_of(name: str) -> Mapping[str, Mapping[str, Any]]:
    inputs: Mapping[str, Mapping[str, Any]] = workflow(name)[True]["workflow_dispatch"]["inputs"]
    return inputs


def test_a_worker_can_be_dispatched_and_found_again() -> None:
    """The workflow of workers takes the id that a scaler gives, shows it in its title, and is not too wide."""
    assert WORKER_INPUT in inputs_of("worker.yml")
    assert f"inputs.{WORKER_INPUT}" in workflow("worker.yml")["run-name"]
    assert MAX_INPUTS >= len(inputs_of("worker.yml"))


def look(job: Job, **inputs: str) -> str:
    """Run the one step of autoscale.yml in ``job``; what it printed."""
    (step,) = [one for one in workflow("autoscale.yml")["jobs"]["look"]["steps"] if "run" in one]
    given = {**{name: one["default"] for name, one in inputs_of("autoscale.yml").items()}, **inputs}
    contexts = {"github": job.github, "inputs": given, "vars": {"GHCOORD_MAX": "7"}}
    env = {name: str(interpolate(str(value), contexts)) for name, value in step["env"].items()}
    if not (job.workspace / ".github").exists():
        shutil.copytree(ACTIONS, job.workspace / ".github" / "actions")
    return job.run(step["run"], env=env).text


@pytest.mark.slow
def test_the_workflow_starts_runs_and_leaves_nobody_leading(twin: Twin, hub: Hub, jobs: Jobs) -> None:
    """With the job's own token and actions: write; input before variable before default."""
    defaults = {name: one["default"] for name, one in inputs_of("worker.yml").items()}
    twin.actions.workflow("me/hub", "worker.yml", defaults, run_name="worker ${{ inputs.worker-id }}")
    for _ in range(12):
        hub.tasks.submit("echo", {"message": "x"})
    assert "permission" in look(job := jobs())
    assert "failure" == job.status
    rights: Any = {"contents": "write", "metadata": "read", "actions": "write"}
    twin.grant("github-actions[bot]", "me/hub", contents="write", actions="write")
    twin.user("github-actions[bot]", "ghs_twin1", kind="actions", permissions=rights, repositories=["me/hub"])
    said = look(job := jobs(), **{"per-run": "4"})
    assert "0 of 7 runs live, 3 to come, 3 wanted; 3 started" in said
    assert ("success", 3) == (job.status, len(twin.actions.runs))
    scaler = hub.scaling.get("worker")
    assert scaler is not None
    assert {run.number for run in twin.actions.runs} == {run.run_id for run in scaler.runs}
    assert scaler.leader is None
