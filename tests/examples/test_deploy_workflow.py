"""``deploy.yml``: the lock action around a deployment."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.actions.locking import place
from tests.examples.workflows import jobs, one_step, run_job

pytestmark = pytest.mark.slow


def test_deploy_workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deploys under the lock, records what was deployed by a fenced write, and releases in the end."""
    with place("twin", tmp_path, monkeypatch) as here:
        run_job(here, jobs("deploy.yml")["deploy"], "first")
        assert "main" == here.now().memory.get("deployed")
        assert not here.now().locks.is_locked("deploy")


def test_record_is_refused_when_the_lock_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the lock was lost in the middle, the record stays what it was and the post step fails the job."""
    with place("twin", tmp_path, monkeypatch) as here:
        deploy = jobs("deploy.yml")["deploy"]
        job = run_job(here, deploy, "loses", only=3)
        here.now().locks.force_unlock("deploy")
        with pytest.raises(AssertionError, match="no longer guards anything"):
            one_step(job, deploy["steps"][3])
        assert here.now().memory.get("deployed") is None
        (post,) = job.finish()
        assert "failure" == post.outcome
