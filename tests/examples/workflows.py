"""Runs the jobs of the workflows in ``examples/workflows``."""

from __future__ import annotations

import shutil
from typing import Any

import yaml

from tests.actions.expressions import interpolate
from tests.actions.locking import TOKEN, Place
from tests.actions.runner import ROOT, Job
from tests.examples.conftest import EXAMPLES

OURS = "OWNER/ghcoord/"
"""How a workflow of another repository names the actions of this one."""


def workflow(name: str) -> dict[str, Any]:
    """A workflow, as YAML reads it."""
    found: dict[str, Any] = yaml.safe_load((EXAMPLES / "workflows" / name).read_text())
    return found


def jobs(name: str) -> dict[str, Any]:
    """The jobs of a workflow with its variables, by their ids."""
    found = workflow(name)
    return {key: {**job, "env": {**found.get("env", {}), **job.get("env", {})}} for key, job in found["jobs"].items()}


def run_job(here: Place, found: dict[str, Any], name: str, only: int | None = None) -> Job:
    """Run the steps of a job and its post steps; every one must succeed. ``only`` so many first steps."""
    job = here.job(name)
    contexts = {"github": job.github}
    job.env |= {key: interpolate(value, contexts) for key, value in found["env"].items()}
    if here.twin is not None:
        job.env["GHCOORD_GITHUB_API"] = f"{here.twin.url}/api/v3"
    job.path = [job.env["GHCOORD_INSTALLED"]]
    for step in found["steps"][:only]:
        one_step(job, step)
    if only is None:
        for done in job.finish():
            assert "success" == done.outcome, done.text
    return job


def one_step(job: Job, step: dict[str, Any]) -> None:
    """Run one step of a workflow."""
    uses, name = step.get("uses", ""), step.get("name", "")
    if uses.startswith("actions/checkout@"):
        shutil.copytree(EXAMPLES, job.workspace / "examples", dirs_exist_ok=True)
        return
    if step.get("run") == "pip install ghcoord":
        return  # it is on the path
    if uses:
        assert uses.startswith(OURS), uses
        action = ROOT / uses.removeprefix(OURS).partition("@")[0]
        done = job.use(action, step.get("with"), id=step.get("id", ""))
    else:
        env = {key: TOKEN if "github.token" in value else value for key, value in step.get("env", {}).items()}
        done = job.run(step["run"], id=name.lower(), env=env)
    assert "success" == done.outcome, done.text
