"""``ghcoord demo``: it really happens, it checks itself, and it leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ghcoord.execution.sandbox.landlock_launcher import MIN_ABI, landlock_abi
from ghcoord.faces.cli import demo as demo_cli
from ghcoord.faces.demo_report import Facts, claims
from ghcoord.faces.demo_tasks import FLAKY_ID, submissions
from ghcoord.model.task import Attempt, State, Task
from tests.cli.running import Cli, command, environment
from tests.cli.terminal import Terminal

NOW = datetime(2025, 1, 1, tzinfo=UTC)
LIMIT = 60.0
"""Seconds that a demo may take in a test; alone on two cores it takes 13."""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, that a root worker's tasks can pass through; must be empty at the end."""
    folder = Path(tempfile.mkdtemp(prefix="ghcoord-test-"))
    folder.chmod(0o711)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    shutil.rmtree(folder)


def processes_of(folder: Path) -> list[str]:
    """Command lines of living processes that name ``folder``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and entry.parent.name != str(os.getpid()):
            found.append(line)
    return found


def nothing_left(folder: Path) -> bool:
    """Whether no file and no process of a demo is left; dying processes get a moment."""
    deadline = time.monotonic() + 5.0
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [] == processes_of(folder)
    assert [] == [path.name for path in folder.iterdir()]
    return True


# -- for real


@pytest.mark.slow
def test_it_happens(temporary: Path, tmp_path: Path) -> None:
    """Two processes, 28 tasks, a crash and a fenced lock: exit code 0, every claim true, nothing left behind."""
    done = subprocess.run(
        command("demo", "--json"), capture_output=True, text=True, timeout=LIMIT, env=environment(), check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert [] == [claim for claim in report["claims"] if not claim["ok"]]
    assert 7 == len(report["claims"])
    assert 28 == report["tasks"] == report["succeeded"]
    assert report["attempts"] == 28 + report["lost"] + report["retried"] + report["given_back"]
    assert len(report["killed"]["held"]) == report["lost"] > 0
    assert 1 == report["retried"]
    assert report["seconds"] < 30
    assert report["commits"] > len(report["history"]) > 0
    assert report["history"][0].endswith(
        " fleet: worker deregistered " + ({"alpha", "beta"} - {report["killed"]["worker"]}).pop()
    )
    assert any("SIGKILL" in line for line in done.stderr.splitlines())
    assert nothing_left(temporary)
    assert not (tmp_path / "state").exists()


@pytest.mark.slow
def test_ending_it_ends_everything(temporary: Path) -> None:
    """SIGTERM in the middle: exit code 130, workers and files are gone."""
    process = subprocess.Popen(
        command("demo"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "worker processes are up" in line:
                break
        assert processes_of(temporary)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (130, "") == (process.returncode, errors)
    assert nothing_left(temporary)


@pytest.mark.slow
def test_on_a_terminal(temporary: Path) -> None:
    """The live view shows workers with their bars while it goes on, and the summary stays."""
    with Terminal("demo", rows=24, columns=80) as terminal:
        terminal.wait_for("offline", LIMIT)
        assert 0 == terminal.end(LIMIT)
    assert "█" in terminal.seen
    assert "git log --oneline" in terminal.seen
    assert "✗" not in terminal.seen
    assert nothing_left(temporary)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide bwrap in a mount namespace of its own")
def test_without_bubblewrap(temporary: Path) -> None:
    """It says that there is no sandbox, or only what the kernel has, and runs its own tasks all the same."""
    program = shutil.which("bwrap") or "/usr/bin/bwrap"
    script = 'test ! -e "$0" || mount --bind /dev/null "$0"; exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, program, *command("demo")],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=environment(),
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    if landlock_abi() >= MIN_ABI:
        assert "a partial sandbox here (landlock works" in done.stdout
        assert "bwrap does not: bubblewrap is not installed" in done.stdout
    else:
        assert "no sandbox here (bubblewrap is not installed)" in done.stdout
    assert nothing_left(temporary)


# -- it checks itself


def attempt(number: int, outcome: str, worker: str, token: int) -> Attempt:
    start = NOW + timedelta(seconds=token)
    return Attempt(
        attempt=number, worker=worker, token=token, started_at=start, ended_at=start, outcome=outcome, error=""
    )


def task(name: str, priority: int, *history: Attempt, state: State = State.SUCCEEDED) -> Task:
    failed = sum(one.outcome == "failed" for one in history)
    lost = sum(one.outcome == "lost" for one in history)
    return Task(
        id=name,
        tool="echo",
        priority=priority,
        state=state,
        created_at=NOW,
        attempt=len(history),
        failures=failed,
        lost=lost,
        history=history,
    )


URGENT = task("urgent-1", 9, attempt(1, "succeeded", "beta", 10))
HELD = task("search-1", 5, attempt(1, "lost", "alpha", 11), attempt(2, "succeeded", "beta", 20))
FLAKY = task(FLAKY_ID, 5, attempt(1, "failed", "beta", 12), attempt(2, "succeeded", "beta", 21))
GOOD = Facts(
    submitted=3,
    tasks=[URGENT, HELD, FLAKY],
    victim="alpha",
    survivor="beta",
    held=("search-1",),
    recovered_after=5.5,
    tokens=(100, 200),
    refused_with=5,
    allowed_with=0,
    kept="new",
    survivor_exit=0,
    commits=7,
    seconds=12.0,
    history=["1234567 fleet: worker deregistered beta"],
)

TWICE = task("urgent-1", 9, attempt(1, "succeeded", "beta", 10), attempt(2, "succeeded", "alpha", 13))
LATE = task("urgent-1", 9, attempt(1, "succeeded", "beta", 15))
AT_ONCE = task(FLAKY_ID, 5, attempt(1, "succeeded", "beta", 12))
BY_THE_DEAD = task("search-1", 5, attempt(1, "lost", "alpha", 11), attempt(2, "succeeded", "alpha", 20))
UNDONE = task("search-1", 5, attempt(1, "lost", "alpha", 11), state=State.QUEUED)


def test_what_was_seen_is_claimed() -> None:
    """Facts as they should be make every claim true."""
    assert [] == [claim for claim in claims(GOOD) if not claim.ok]
    assert 7 == len(claims(GOOD))


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"tasks": [TWICE, HELD, FLAKY]}, {"exactly once"}),
        ({"tasks": [URGENT, UNDONE, FLAKY]}, {"exactly once", "lost them"}),
        ({"tasks": [URGENT, HELD]}, {"exactly once", "higher priorities", "tried again"}),
        ({"tasks": [LATE, HELD, FLAKY]}, {"higher priorities"}),
        ({"tasks": [URGENT, HELD, AT_ONCE]}, {"tried again"}),
        ({"tasks": [URGENT, BY_THE_DEAD, FLAKY]}, {"lost them"}),
        ({"held": ()}, {"lost them"}),
        ({"tokens": (200, 100)}, {"one after the other"}),
        ({"tokens": (100,)}, {"one after the other"}),
        ({"refused_with": 0}, {"was refused"}),
        ({"allowed_with": 5}, {"was refused"}),
        ({"kept": "old"}, {"was refused"}),
        ({"survivor_exit": 1}, {"exit code 0"}),
        ({"stuck": "the workers did not register"}, {"came to its end"}),
    ],
)
def test_what_did_not_happen_is_not_claimed(changes: dict[str, Any], wrong: set[str]) -> None:
    """Each fact that is not as it should be makes just its claims false."""
    false = [claim.text for claim in claims(replace(GOOD, **changes)) if not claim.ok]
    assert len(wrong) == len(false)
    assert all(any(part in text for text in false) for part in wrong), false


def test_nothing_seen_proves_nothing() -> None:
    """A demo that got nowhere claims nothing."""
    assert [] == [claim.text for claim in claims(Facts()) if claim.ok]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_false_claim_exits_with_1(cli: Cli, temporary: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    """What did not happen is named, and the exit code says so."""
    monkeypatch.setattr(demo_cli, "_play", lambda folder: replace(GOOD, refused_with=0))
    run = cli("demo", *(["--json"] if as_json else []))
    assert 1 == run.code
    if as_json:
        assert run.json["ok"] is False
    else:
        assert "✗ the write with the old token was refused" in run.out
        assert "not so: exit codes 0 and 0" in run.out
    assert [] == list(temporary.iterdir())


def test_keep(cli: Cli, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--keep leaves the hub and says where, without it the folder is gone."""
    monkeypatch.setattr(demo_cli, "_play", lambda folder: GOOD)
    assert 0 == cli("demo").code
    assert [] == list(temporary.iterdir())
    run = cli("demo", "--keep")
    (folder,) = temporary.iterdir()
    assert f"ghcoord status -H {folder}/hub.git" in run.out


def test_workers_that_do_not_start(cli: Cli, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that end at once make it fail soon, saying which and why, and cleaned up."""
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    run = cli("demo")
    assert 1 == run.code
    assert "alpha ended with exit code 1" in run.out
    assert nothing_left(temporary)


def test_there_are_enough_tasks() -> None:
    """At least 24, of several kinds and priorities, the urgent ones submitted last."""
    tasks = submissions()
    assert 28 == len(tasks)
    assert {"echo", "run.python"} == {one.tool for one in tasks}
    assert {1, 5, 9} == {one.priority for one in tasks}
    assert 9 == tasks[-1].priority


@pytest.mark.parametrize("mistake", [["now"], ["--hub", "./hub.git"]])
def test_demo_takes_neither_arguments_nor_a_hub(cli: Cli, mistake: list[str]) -> None:
    """A mistake is one line and exit code 2; a hub that is named is not passed over."""
    run = cli("demo", *mistake)
    assert 2 == run.code
    assert run.error
