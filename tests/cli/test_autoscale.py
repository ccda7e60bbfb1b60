"""``ghcoord autoscale`` against a twin of GitHub: once, as a dry run, as a daemon, and what is refused."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghcoord.bootstrap import connect
from ghcoord.twin.server import Twin
from tests.cli.running import Cli, command, environment
from tests.processes import until

KEYS = """name workflow leading leader minimum maximum demand busy live pending target dispatched cancelled drained
waits problem dry_run"""


@pytest.fixture
def twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Path) -> Iterator[Twin]:
    """A GitHub with the workflow; the hub is a folder, which saves time."""
    for name in ("GITHUB_TOKEN", "GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Twin(tmp_path / "twin") as twin:
        twin.repository("me", "code", empty=False)
        inputs = {"worker-id": None, "slots": "1"}
        twin.actions.workflow("me/code", "worker.yml", inputs, run_name="worker ${{ inputs.worker-id }}")
        monkeypatch.setenv("GH_TOKEN", twin.user("me"))
        monkeypatch.setenv("GHCOORD_GITHUB_API", f"{twin.url}/api/v3")
        yield twin


AT = ("--repository", "github:me/code")


def submit(cli: Cli, number: int) -> None:
    for _ in range(number):
        assert 0 == cli("task", "submit", "echo", "--arg", "message=x").code


def test_one_look_starts_what_is_missing(twin: Twin, cli: Cli) -> None:
    """The runs have the inputs given; JSON says what was done; a second look says why there are no more."""
    submit(cli, 3)
    done = cli("autoscale", "--once", "--per-run", "2", "--input", "slots=4", "--json", *AT)
    assert (0, KEYS.split()) == (done.code, list(done.json))
    assert ["accepted"] * 2 == [one["state"] for one in done.json["dispatched"]]
    assert [one["worker"] for one in done.json["dispatched"]] == [run.inputs["worker-id"] for run in twin.actions.runs]
    assert {"4"} == {run.inputs["slots"] for run in twin.actions.runs}
    again = cli("autoscale", "--once", "--per-run", "1", *AT)
    assert "3 tasks wait, 0 run; 0 of 5 runs live, 2 to come, 3 wanted; cooling down for" in again.out
    assert 2 == len(twin.actions.runs)


def test_a_dry_run_changes_nothing(twin: Twin, cli: Cli, hub: Path) -> None:
    """It asks for the workflow, says what would be done, and writes nothing, neither there nor in the hub."""
    submit(cli, 2)
    assert "1 would be started" in cli("autoscale", "--dry-run", *AT).out
    told = cli("autoscale", "--dry-run", "--json", *AT).json
    assert KEYS.split() == list(told)
    assert [{"worker", "state", "run_id", "url"}] == [set(one) for one in told["dispatched"]]
    assert {"GET"} == {one.operation.partition(" ")[0] for one in twin.log}
    assert [] == twin.actions.runs
    with connect(hub) as opened:
        assert opened.scaling.get("worker") is None


def test_a_dry_run_fails_where_a_look_would(twin: Twin, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """No repository, no workflow, one that is switched off, no token: the errors of a look, also with nothing to do."""
    for mode in ("--dry-run", "--once"):
        nowhere = cli("autoscale", mode)
        assert (2, True) == (nowhere.code, "name their repository with --repository" in nowhere.error)
    missing = cli("autoscale", "--dry-run", "--workflow", "no.yml", *AT)
    assert (3, True) == (missing.code, "must be on the default branch" in missing.error)
    twin.actions.workflow("me/code", "off.yml", state="disabled_manually")
    off = cli("autoscale", "--dry-run", "--workflow", "off.yml", *AT)
    assert (2, True) == (off.code, "switched off (disabled_manually)" in off.error)
    monkeypatch.delenv("GH_TOKEN")
    assert 6 == cli("autoscale", "--dry-run", *AT).code


def test_what_does_not_go_together_is_refused(twin: Twin, cli: Cli) -> None:
    """Each wrong option is named, with the fix; a hub without workflows needs --repository."""
    assert "give one of --once and --every" in cli("autoscale", "--once", "--every", "1m").error
    assert "--every takes at least 1s" in cli("autoscale", "--every", "10ms").error
    assert "minimum of 6" in cli("autoscale", "--min", "6").error
    assert "is no budget" in cli("autoscale", "--budget", "lots").error
    assert "scaler's own" in cli("autoscale", "--input", "worker-id=x").error
    assert "--repository" in cli("autoscale", "--once").error
    assert "scaler name" in cli("autoscale", "--once", "--name", "a/b", *AT).error
    submit(cli, 1)
    missing = cli("autoscale", "--once", "--workflow", "no.yml", *AT)
    assert (3, True) == (missing.code, "must be on the default branch" in missing.error)


def test_dispatches_without_an_answer_are_no_success(twin: Twin, cli: Cli) -> None:
    """The server fails: exit 7, and the reason; the next look finds the run."""
    submit(cli, 1)
    twin.faults.add("status", match=lambda incoming: incoming.path.endswith("/dispatches"), after=True)
    failed = cli("autoscale", "--once", *AT)
    assert (7, True, True) == (failed.code, "1 maybe started" in failed.out, "may have been done" in failed.err)
    again = cli("autoscale", "--once", "--json", *AT)
    assert (0, 1, []) == (again.code, again.json["pending"], again.json["dispatched"])
    assert 1 == len(twin.actions.runs)


@pytest.mark.slow
def test_as_a_daemon(twin: Twin, cli: Cli, hub: Path) -> None:
    """It says what it does a line a change, another stands by, and on SIGTERM it gives the lead up and exits 0."""
    submit(cli, 1)
    args = ("autoscale", "--every", "1s", *AT)
    first = subprocess.Popen(
        command(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    until(lambda: bool(twin.actions.runs))
    assert "scales: standing by" in cli("autoscale", "--once", *AT).out
    standing = json.loads(cli("autoscale", "--once", "--json", *AT).out)
    assert (False, None) == (standing["leading"], standing["target"])
    first.send_signal(signal.SIGTERM)
    out, err = first.communicate(timeout=20)
    assert (0, 1) == (first.returncode, len(twin.actions.runs))
    assert "1 tasks wait, 0 run; 0 of 5 runs live, 1 to come, 1 wanted; 1 started" == out.splitlines()[0]
    assert "scaling worker.yml of github:me/code: 0 to 5 runs" in err
    assert "standing by" not in cli("autoscale", "--once", *AT).out
