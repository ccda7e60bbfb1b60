"""``ghcoord bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ghcoord.bootstrap import connect
from ghcoord.execution.worker import WorkerDaemon
from ghcoord.faces.bench import Bench, Meter, Plan
from ghcoord.hub import Hub
from tests.cli.running import Cli
from tests.cli.terminal import Terminal

OPERATIONS = ["commit", "memory set", "memory get", "lock acquire + release", "task submit to result"]


def _left(path: Path) -> dict[str, Any]:
    """What anybody sees of a hub, apart from its history."""
    with connect(path) as hub:
        return {
            "workers": hub.workers.list(),
            "tasks": sum(hub.tasks.counts().values()),
            "locks": hub.locks.list(include_expired=True),
            "keys": [entry["key"] for entry in hub.memory.export()],
        }


def test_it_measures_and_leaves_nothing(cli: Cli, hub: Path) -> None:
    """Every operation and batch size has its figures, the commits stay below what was said, the hub is as it was."""
    before = _left(hub)
    done = cli("bench", "--quick", "--tasks", "20", "--batch", "4", "--batch", "20", "--json")
    assert 0 == done.code, done.err
    found = done.json
    assert OPERATIONS == [one["operation"] for one in found["latency"]]
    for one in found["latency"]:
        assert 5 == one["times"]
        assert 0 < one["p50_ms"] <= one["p95_ms"] <= one["p99_ms"]
    assert [(4, 20), (20, 20)] == [(one["batch"], one["tasks"]) for one in found["throughput"]]
    for one in found["throughput"]:
        assert 0 < one["commits_per_task"] < 3
        assert 0 == one["requests_per_task"] == found["requests_per_commit"]
        assert one["store_calls_per_task"] > one["commits_per_task"]
    assert found["complete"]
    assert 0 < found["commits"] <= found["commit_limit"]
    assert f"at most {found['commit_limit']} commits in {hub}" in done.err
    assert before == _left(hub)


def test_a_temporary_hub_is_measured_and_removed(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any hub: a table of at most 80 columns, and no folder left."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    done = cli("bench", "--temporary", "--quick", "--tasks", "5")
    assert 0 == done.code, done.err
    for name in (*OPERATIONS, "tasks/s", "commits/task"):
        assert name in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    assert [] == [one.name for one in (tmp_path / "tmp").iterdir() if one.name.startswith("ghcoord-bench")]


def test_it_needs_a_hub(cli: Cli, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None named, and two at once, are mistakes that name the way out."""
    assert "--temporary" in cli("bench", "--temporary", "--hub", hub).error
    monkeypatch.delenv("GHCOORD_HUB")
    done = cli("bench")
    assert 2 == done.code
    assert "--temporary" in done.error
    assert 2 == cli("bench", "--temporary", "--batch", "0").code


def test_a_hub_in_use_is_measured_only_when_that_is_wanted(cli: Cli, hub: Path) -> None:
    """With a task or a worker in it the bench asks; with --yes it goes on, and touches nobody's task."""
    cli("task", "submit", "echo", "--arg", "message=x", "--id", "mine")
    refused = cli("bench", "--quick")
    assert 2 == refused.code
    assert "The hub has 0 workers and 1 tasks" in refused.error
    assert 0 == cli("bench", "--quick", "--tasks", "4", "--batch", "4", "--yes").code
    with connect(hub) as opened:
        task = opened.tasks.get("mine")
        assert task is not None
        assert "queued" == task.state


def test_it_asks_and_shows_how_far_it_is(hub: Path) -> None:
    """On a terminal it asks before it measures a hub in use, and has a progress bar."""
    with connect(hub) as opened:
        opened.tasks.submit("echo", {"message": "x"})
    with Terminal("bench", "--quick", "--tasks", "10", "--hub", hub) as terminal:
        terminal.wait_for("Go on?")
        terminal.type("y\n")
        terminal.wait_for("measuring")
        terminal.wait_for("commits of at most")
        assert 0 == terminal.end()


def test_it_stops_at_its_commits(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When others make its commits more than planned, rounds are left out, and it says so."""
    monkeypatch.setattr(Plan, "commits", property(lambda plan: 40))
    meter = Meter()
    with connect(hub, trace=meter) as opened:
        report = Bench(opened, meter, Plan(5, 100), lambda done: None).run()
    assert not report.complete
    assert 0 < report.commits <= 40
    assert 5 == len(report.latency["memory set"])


def test_it_cleans_up_after_an_interruption(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of the tasks leaves no worker, task, lock or key."""

    def interrupted(bench: Bench, size: int) -> None:
        tasks = bench._hub.tasks.submit("echo", {"message": "x"})
        bench._tasks.append(tasks.id)
        raise KeyboardInterrupt

    before = _left(hub)
    monkeypatch.setattr(Bench, "_run_batch", interrupted)
    meter = Meter()
    with connect(hub, trace=meter) as opened, pytest.raises(KeyboardInterrupt):
        Bench(opened, meter, Plan(2, 4), lambda done: None).run()
    assert before == _left(hub)


def test_a_worker_offers_only_what_it_was_told_to(hub: Path) -> None:
    """With ``only`` other tools are not in its registration, and an unknown one is refused."""
    with connect(hub) as opened:
        assert ["echo"] == _offered(opened, only=("echo",))
        assert "shell" in _offered(opened, only=None)
        with pytest.raises(Exception, match="no tool 'nothing'"):
            WorkerDaemon(opened, only=("nothing",))


def _offered(hub: Hub, only: tuple[str, ...] | None) -> list[str]:
    return sorted(WorkerDaemon(hub, only=only, unsafe_no_sandbox=True)._tools)
