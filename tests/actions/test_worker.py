"""``ghcoord actions worker`` through the real command line, on a hub on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.actions.commands import Obeyed, read_pairs
from tests.cli.running import Cli

QUICK = ("--until-idle", "50ms", "--poll", "50ms", "--no-commands", "--log-level", "warn")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A job's files, and the variables that name them and the run."""
    found = {}
    for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_ENV"):
        found[name] = tmp_path / name
        found[name].touch()
        monkeypatch.setenv(name, str(found[name]))
    monkeypatch.setenv("GITHUB_RUN_ID", "42")
    monkeypatch.setenv("ACTIONS_RUNTIME_TOKEN", "secret")
    return found


def obeyed(text: str) -> Obeyed:
    """What a runner makes of it."""
    found = Obeyed()
    for line in text.splitlines():
        found.line(line)
    return found


@pytest.mark.usefixtures("local_hub")
def test_it_works_and_tells(cli: Cli, files: dict[str, Path]) -> None:
    """Tasks are run, told of in log, annotation, summary and outputs, and the runner's files are out of reach."""
    cli("task", "submit", "echo", "--id", "t1", "-a", "message=hi\n::error::evil")
    cli("task", "submit", "fs.read", "--id", "t2", "-a", "path=gone | <b>")
    cli("task", "submit", "fs.read", "--id", "t3", "-a", "path=gone", "--retries", "1", "--backoff", "10ms")
    done = cli("actions", "worker", *QUICK)
    found = obeyed(done.out)
    assert (0, []) == (done.code, found.others)
    assert {
        ("error", "task t2 (fs.read) failed"),
        ("warning", "task t3 (fs.read) failed, to be retried"),
        ("error", "task t3 (fs.read) failed"),
    } == {(one.level, one.properties["title"]) for one in found.annotations}
    outputs = read_pairs(files["GITHUB_OUTPUT"])
    assert ("1", "2", "1", "the hub is idle") == tuple(
        outputs[name] for name in ("succeeded", "failed", "retried", "ended")
    )
    assert outputs["worker-id"].startswith("run-42-1-")
    summary = files["GITHUB_STEP_SUMMARY"].read_text()
    assert "1 succeeded; 2 failed; 1 failed, to be retried. The hub is idle, after" in summary
    assert "gone &#124; &#60;b&#62;" in summary
    assert {"GITHUB_OUTPUT", "GITHUB_ENV", "ACTIONS_RUNTIME_TOKEN"}.isdisjoint(os.environ)
    assert [] == cli("worker", "list", "--json").json


@pytest.mark.usefixtures("local_hub")
def test_json_stays_one_document(cli: Cli) -> None:
    """With --json the log goes to standard error, and what it did to standard output; outside of a job too."""
    cli("task", "submit", "echo", "--id", "t1")
    done = cli("actions", "worker", *QUICK, "--id", "w1", "--quiet", "--fail-on-failure", "--json")
    assert (8, "w1", 1) == (done.code, done.json["worker_id"], done.json["failed"])
    assert "::error title=task t1 (echo) failed::" in done.err


@pytest.mark.usefixtures("local_hub")
@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            ("--job-limit", "30m", "--max-runtime", "29m"),
            "a job of 30m00s leaves 22m00s to take tasks in, beside 5m00s",
        ),
        (("--job-limit", "5m", "--drain", "5m"), "a job of 5m00s leaves 0s to take tasks in"),
        (("--no-commands", "--sandbox", "bwrap"), "--no-commands goes without --sandbox"),
        (("--sandbox", "none"), "'none' is not one of auto, bwrap, landlock, container"),
        (("--id", ""), "the worker id is empty"),
    ],
)
def test_what_cannot_go_well_is_refused(cli: Cli, options: tuple[str, ...], why: str) -> None:
    """A time beyond the job's limit, no sandbox at all, an empty id: one sentence, exit code 2, no worker."""
    refused = cli("actions", "worker", *options)
    assert 2 == refused.code
    assert why in refused.err
    assert [] == cli("worker", "list", "--json").json


def test_no_hub_is_an_annotation_too(cli: Cli) -> None:
    """Where neither a hub nor a repository is named it says so, to the run's page as well."""
    refused = cli("actions", "worker", *QUICK)
    assert 2 == refused.code
    assert "no hub was named" in obeyed(refused.out).annotations[0].message
