"""``ghcoord actions submit`` through the real command line, on a hub on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghcoord.bootstrap import connect
from ghcoord.clock import SystemRuntime
from ghcoord.execution.worker import WorkerDaemon
from tests.actions.commands import Obeyed, read_pairs
from tests.cli.running import Cli


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the step's outputs; the summary lies beside it."""
    file = tmp_path / "output"
    monkeypatch.setenv("GITHUB_OUTPUT", str(file))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    return file


@pytest.fixture
def worker(local_hub: Path) -> Iterator[None]:
    """A worker of that hub that runs no commands."""
    with connect(local_hub) as hub:
        daemon = WorkerDaemon(hub, "w1", poll=0.05, commands=False)
        thread = SystemRuntime().spawn(lambda: daemon.run() and None, "worker")
        yield
        daemon.cancel()
        thread.join(10.0)


@pytest.mark.usefixtures("worker")
def test_one_task_and_its_outputs(cli: Cli, outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits, and sets outputs that hold whatever the task said; the log obeys none of it."""
    monkeypatch.setenv("GITHUB_REPOSITORY", "me/hub")
    monkeypatch.setenv("GITHUB_RUN_ID", "42")
    said = "a\n::error::b\nEOF\nx=y"
    done = cli("actions", "submit", "echo", "--args-json", json.dumps({"message": said}), "--options", '{"id": "t1"}')
    assert 0 == done.code
    found = read_pairs(outputs)
    assert ("t1", "succeeded", "true", said) == tuple(
        found[name].removesuffix("\n") for name in ("task-id", "state", "success", "output")
    )
    assert "https://github.com/me/hub/actions/runs/42" == json.loads(found["task"])["metadata"]["run"]
    log = Obeyed()
    for line in done.out.splitlines():
        log.line(line)
    assert (["task t1 (echo) succeeded"], [], [], 0) == (log.groups, log.annotations, log.others, log.open_groups)
    assert "<code>t1</code>" in (tmp_path / "summary").read_text()


@pytest.mark.usefixtures("worker")
def test_a_batch_with_a_failure(cli: Cli, outputs: Path, tmp_path: Path) -> None:
    """Counts and ids of all, an annotation for the one that failed, and exit code 8 unless that is allowed."""
    (tmp_path / "batch").write_text('{"tool": "echo", "args": {"message": "a"}}\n{"tool": "fs.read", "args": {}}\n')
    args = ("actions", "submit", "--batch", str(tmp_path / "batch"), "--batch-id", "b")
    done = cli(*args)
    assert 8 == done.code
    found = read_pairs(outputs)
    assert ("false", "2", "1", "1", "0") == tuple(
        found[name] for name in ("success", "submitted", "succeeded", "failed", "cancelled")
    )
    assert 2 == len(json.loads(found["task-ids"]))
    assert 1 == done.out.count("::error title=task ")
    again = cli(*args, "--allow-failure", "--json")
    assert (0, json.loads(found["task-ids"]), 1) == (again.code, again.json["ids"], again.json["failed"])


@pytest.mark.usefixtures("local_hub")
def test_without_waiting_and_without_a_worker(cli: Cli, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--no-wait leaves the task queued; waiting too long exits 9, says which and sets the outputs so far."""
    options = ("--options", '{"id": "t1"}')
    assert 0 == cli("actions", "submit", "echo", *options, "--no-wait").code
    assert ("t1", "queued", "false", "") == tuple(
        read_pairs(outputs)[name] for name in ("task-id", "state", "success", "output")
    )
    monkeypatch.setenv("GITHUB_OUTPUT", str(outputs))  # the command before has hidden it from this process
    outputs.write_text("")
    late = cli("actions", "submit", "echo", *options, "--wait-timeout", "100ms")
    assert 9 == late.code
    assert "::error title=ghcoord::task t1 is still queued" in late.out
    assert ("t1", "queued") == (read_pairs(outputs)["task-id"], read_pairs(outputs)["state"])


@pytest.mark.usefixtures("local_hub")
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "name the tool"),
        (("echo", "--batch", "x"), "a batch takes tools"),
        (("echo", "--batch-id", "x"), "--batch-id goes with --batch"),
        (("echo", "--args-json", "[]"), "--args-json must be a JSON object"),
        (("echo", "--options", '{"tool": "x"}'), "do not go among the --options"),
        (("echo", "--options", '{"retires": 1}'), "'retires' is no option of a task"),
    ],
)
def test_mistakes_submit_nothing(cli: Cli, arguments: tuple[str, ...], why: str) -> None:
    """A wrong input is one sentence, and no task."""
    refused = cli("actions", "submit", *arguments)
    assert 2 == refused.code
    assert why in refused.err
    assert [] == cli("task", "list", "--json").json
