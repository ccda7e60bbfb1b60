"""``sweep.py``, alone and in the jobs of ``sweep.yml``: every combination once, a table, and the models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ghcoord.hub import Hub
from tests.actions.locking import place
from tests.examples.conftest import Start, ended
from tests.examples.workflows import jobs, run_job

pytestmark = pytest.mark.slow


def test_sweep(hub: Hub, start: Start) -> None:
    """Two machines do six runs; the table is sorted, and its best model fits the points."""
    assert "6 runs are queued\n" == ended(start("sweep.py", "submit"))
    assert "6 runs are queued\n" == ended(start("sweep.py", "submit"))
    done = [int(ended(one).split()[0]) for one in [start("sweep.py", "work") for _ in range(2)]]
    assert 6 == sum(done)
    assert 6 == hub.tasks.count()
    rows = [line.strip("| ").split(" | ") for line in ended(start("sweep.py", "table")).splitlines()[2:]]
    assert 6 == len(rows)
    losses = [float(row[0]) for row in rows]
    assert sorted(losses) == losses
    model = json.loads(b"".join(hub.artifacts.open(rows[0][4])))
    assert abs(model["slope"] - 3) < 0.5
    assert abs(model["offset"] - 1) < 0.5


def test_sweep_workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs of sweep.yml, on runners beside the twin: the summary of the last one is the table."""
    with place("twin", tmp_path, monkeypatch) as here:
        found = jobs("sweep.yml")
        assert ["submit", "work", "table"] == list(found)
        run_job(here, found["submit"], "submit")
        for runner in found["work"]["strategy"]["matrix"]["runner"][:2]:
            run_job(here, found["work"], f"work-{runner}")
        summary = run_job(here, found["table"], "table").summary
        assert summary.startswith("| loss | rate | steps | worker | model |")
        assert 8 == len(summary.splitlines())
