"""The action ``lock``: one job at a time, released whatever becomes of the job, and no lock that is lost in silence."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.actions.locking import (
    LOCK,
    TOKEN,
    Place,
    beside,
    children,
    folder_of,
    holder_of,
    kill,
    place,
    state_of,
)
from tests.actions.runner import RUNTIME_TOKEN, Done, Job
from tests.processes import GHCOORD, needs_program, until

pytestmark = pytest.mark.slow

KINDS = ("local", "twin")


@pytest.fixture(autouse=True)
def _node() -> None:
    needs_program("node")


@pytest.fixture
def here(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A hub, on this machine unless the test says otherwise; holders that a failed test leaves are killed."""
    with place(getattr(request, "param", "local"), tmp_path, monkeypatch) as found:
        try:
            yield found
        finally:
            for file in tmp_path.glob("*/work/_temp/ghcoord-lock-*/holder.pid"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(file.read_text()), signal.SIGKILL)


everywhere = pytest.mark.parametrize("here", KINDS, indirect=True)


def finish(job: Job) -> Done:
    """The post step of the job's only action."""
    (done,) = job.finish()
    return done


@everywhere
def test_holds_from_its_step_to_the_end_of_the_job(here: Place) -> None:
    """Later steps have the token for fenced writes and the program; the post step releases the lock."""
    job = here.job("one")
    taken = here.take(job)
    assert ("success", "true") == (taken.outcome, taken.outputs["acquired"]), taken.text
    held = here.now().locks.get("deploy")
    assert held is not None
    assert (str(held.token), held.owner) == (taken.outputs["token"], taken.outputs["owner"])
    assert f"{job.github['server_url']}/me/hub/actions/runs/4242" == held.metadata["run"]
    write = 'ghcoord memory set deployed 1.4 --fence "$GHCOORD_LOCK:$GHCOORD_FENCING_TOKEN"'
    done = job.run(write, env={"GH_TOKEN": TOKEN})
    assert 0 == done.code, done.text
    assert "1.4" == here.now().memory.get("deployed")
    released = finish(job)
    assert "success" == released.outcome, released.text
    assert not here.now().locks.is_locked("deploy")
    until(lambda: not holder_of(job).alive)


@everywhere
def test_two_jobs_never_hold_it_together(here: Place) -> None:
    """Three jobs wait for one another in the queue, and their guarded steps never overlap."""
    inside = here.folder / "inside"
    told: list[str] = []

    def work(name: str) -> None:
        job = here.job(name)
        taken = here.take(job, wait="60s")
        step = job.run(f"mkdir '{inside}'; sleep 0.4; rmdir '{inside}'")
        told.append(f"{taken.outcome} {step.outcome} {finish(job).outcome}")

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two", "three")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert ["success success success"] * 3 == told
    stats = here.now().locks.stats("deploy")
    assert stats is not None
    assert (3, 0) == (stats.acquisitions, stats.left)


@everywhere
def test_cancelled_while_it_waits(here: Place) -> None:
    """A job that is cancelled in the queue leaves it, within the time that the runner gives."""
    holder = here.hub.locks.acquire("deploy", "someone", ttl=600)
    assert holder is not None
    job = here.job("waits")
    with beside(here.take, job) as results:
        until(lambda: here.hub.locks.waiters("deploy"))
        until(lambda: "someone" in state_of(job)["message"])
        job.cancel()
    assert ("cancelled", "SIGINT") == (results[0].outcome, results[0].ended_by), results[0].text
    assert "waiting: held by 'someone'" in results[0].text
    assert "success" == finish(job).outcome
    assert [] == here.now().locks.waiters("deploy")
    until(lambda: not holder_of(job).alive)
    here.hub.locks.release("deploy", "someone")
    assert not here.now().locks.is_locked("deploy")


@everywhere
def test_cancelled_in_a_later_step(here: Place) -> None:
    """The post step runs in a cancelled job too, and releases."""
    job = here.job("works")
    here.take(job)
    with beside(job.run, "exec sleep 60") as results:
        time.sleep(0.3)
        job.cancel()
    assert "cancelled" == results[0].outcome
    assert "success" == finish(job).outcome
    assert not here.now().locks.is_locked("deploy")


def test_cancelled_while_it_installs(here: Place) -> None:
    """A job that is cancelled before ghcoord is there ends soon too, and its post step has nothing to do."""
    program = here.folder / "slow" / "ghcoord"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\ntouch started\nsleep 60\n")
    program.chmod(0o755)
    job = here.job("installs", GHCOORD_INSTALLED=str(program.parent))
    with beside(here.take, job) as results:
        until(lambda: (job.temp / "started").exists())
        job.cancel()
    assert ("cancelled", "SIGINT") == (results[0].outcome, results[0].ended_by)
    assert [] == results[0].annotations
    assert "nothing was taken" in finish(job).text


def killed_main(here: Place, job: Job, wait_for: str) -> None:
    """Kill the main step and all that it started, as the runner does in the end, once the holder is so far."""
    with beside(here.take, job):
        until(lambda: wait_for == state_of(job)["state"])
        holder = holder_of(job)
        node = int((Path("/proc") / str(holder.pid) / "stat").read_text().rpartition(")")[2].split()[1])
        os.kill(node, signal.SIGSTOP)
        for child in children(node):
            os.kill(child, signal.SIGKILL)
        os.kill(node, signal.SIGKILL)
    until(lambda: not holder.alive)


def test_all_killed_while_it_waits(here: Place) -> None:
    """After SIGKILL to main step and holder the post step has nothing to release, and the queue moves on."""
    here.hub.locks.acquire("deploy", "someone", ttl=600)
    job = here.job("waits")
    killed_main(here, job, "waiting")
    job.cancel()
    done = finish(job)
    assert "success" == done.outcome, done.text
    assert "the process that waited for it ended" in done.text
    here.hub.locks.release("deploy", "someone")
    assert here.hub.locks.acquire("deploy", "next", wait=10, fair=True) is not None


def test_main_killed_and_the_holder_not(here: Place) -> None:
    """A holder whose step has ended leaves the queue by itself."""
    here.hub.locks.acquire("deploy", "someone", ttl=600)
    job = here.job("waits")
    with beside(here.take, job):
        until(lambda: "waiting" == state_of(job)["state"])
        holder = holder_of(job)
        node = int((Path("/proc") / str(holder.pid) / "stat").read_text().rpartition(")")[2].split()[1])
        os.kill(node, signal.SIGKILL)
    until(lambda: not holder.alive)
    assert "the step that asked has ended" in state_of(job)["message"]
    assert [] == here.hub.locks.waiters("deploy")


@everywhere
def test_holder_killed_while_it_holds(here: Place) -> None:
    """The post step releases what a dead holder held, while nobody else had it."""
    job = here.job("works")
    here.take(job)
    kill(holder_of(job), signal.SIGKILL)
    done = finish(job)
    assert "success" == done.outcome, done.text
    assert "the process that held it had ended" in done.text
    assert not here.now().locks.is_locked("deploy")


def test_lost_lock_fails_the_job(here: Place) -> None:
    """A lock that was taken away is an error of the post step, and what another holds now stays his."""
    job = here.job("works")
    here.take(job)
    here.hub.locks.force_unlock("deploy")
    assert here.hub.locks.acquire("deploy", "another") is not None
    done = finish(job)
    assert "failure" == done.outcome
    (error,) = done.annotations
    assert ("error", "Lock lost") == (error.level, error.properties["title"])
    assert "'deploy' was lost" in error.message
    assert "another" == here.hub.locks.holders("deploy")[0].owner


def test_lost_while_it_is_held(here: Place) -> None:
    """The holder notices at its next renewal, and the job fails though the lock is free by then."""
    job = here.job("works")
    here.take(job, ttl="1s")
    here.hub.locks.force_unlock("deploy")
    until(lambda: "lost" == state_of(job)["state"])
    done = finish(job)
    assert ("failure", "Lock lost") == (done.outcome, done.annotations[0].properties["title"])


def test_lost_with_its_holder(here: Place) -> None:
    """The same when the holder died first and the lease ended."""
    job = here.job("works")
    here.take(job, ttl="1s")
    kill(holder_of(job), signal.SIGKILL)
    assert here.hub.locks.acquire("deploy", "another", wait=10) is not None
    done = finish(job)
    assert ("failure", "Lock lost") == (done.outcome, done.annotations[0].properties["title"])
    assert here.hub.locks.is_locked("deploy")


def test_is_renewed(here: Place) -> None:
    """A job that takes longer than the lease keeps the lock."""
    job = here.job("works")
    here.take(job, ttl="1s")
    assert "success" == job.run("sleep 4").outcome
    assert here.hub.locks.acquire("deploy", "another") is None
    assert "success" == finish(job).outcome


def test_held_by_another(here: Place) -> None:
    """Without a wait it fails and names the holder; with ``required: false`` the job goes on and is told."""
    here.hub.locks.acquire("deploy", "someone", ttl=600)
    job = here.job("one")
    refused = here.take(job, wait="0")
    assert ("failure", "false") == (refused.outcome, refused.outputs["acquired"])
    assert "the lock 'deploy' is held by 'someone'" in refused.annotations[0].message
    assert "success" == finish(job).outcome
    other = here.job("two")
    skipped = here.take(other, wait="1s", required="false")
    assert ("success", "false") == (skipped.outcome, skipped.outputs["acquired"])
    assert "notice" == skipped.annotations[0].level
    assert "success" == finish(other).outcome
    assert "GHCOORD_FENCING_TOKEN" not in other.env
    assert "someone" == here.hub.locks.holders("deploy")[0].owner


def test_makes_the_hub(here: Place) -> None:
    """The first job of a repository needs nobody who makes the hub."""
    job = here.job("first")
    where = str(here.folder / "new.git")
    done = job.use(LOCK, {"name": "deploy", "hub": where})
    assert "success" == done.outcome, done.text
    assert "made a hub" in (folder_of(job) / "holder.log").read_text()
    assert "success" == finish(job).outcome


def test_hub_gone_at_the_end(here: Place) -> None:
    """What cannot be released is a warning that says so, not a failure of the job: the lease ends by itself."""
    job = here.job("works")
    here.take(job)
    (here.folder / "hub.git").rename(here.folder / "elsewhere.git")
    done = finish(job)
    assert ("success", "Lock not released") == (done.outcome, done.annotations[0].properties["title"])
    until(lambda: not holder_of(job).alive)
    (here.folder / "elsewhere.git").rename(here.folder / "hub.git")


@pytest.mark.parametrize("here", ["twin"], indirect=True)
def test_no_secret_anywhere(here: Place) -> None:
    """The token is masked first, then in no command line, file or line; the holder does not get the runner's own."""
    job = here.job("one", RUNNER_DEBUG="1")
    taken = here.take(job)
    assert f"::add-mask::{TOKEN}" == taken.lines[0]
    holder = holder_of(job)
    assert TOKEN not in Path(f"/proc/{holder.pid}/cmdline").read_text()
    seen = Path(f"/proc/{holder.pid}/environ").read_text()
    assert RUNTIME_TOKEN not in seen
    assert "INPUT_" not in seen
    for file in folder_of(job).iterdir():
        assert TOKEN not in file.read_text(), file.name
    assert 0o700 == folder_of(job).stat().st_mode & 0o777
    done = finish(job)
    assert "success" == done.outcome
    assert 1 == done.text.count(TOKEN)
    assert 1 == taken.text.count(TOKEN)


def test_names_that_look_like_commands(here: Place) -> None:
    """What others called their locks and themselves is text for the runner, in lines, messages and files."""
    hostile = "::add-mask::x ##[error]boo %0A::warning::y"
    assert here.hub.locks.acquire(hostile, hostile, ttl=600) is not None
    job = here.job("one")
    refused = here.take(job, hostile, wait="1s")
    assert [TOKEN] == refused.obeyed.masks
    assert ["error"] == [one.level for one in refused.annotations]
    assert [] == refused.obeyed.others
    assert [TOKEN] == finish(job).obeyed.masks
    mine = here.job("two")
    taken = here.take(mine, f"{hostile} 2", owner=hostile)
    assert (hostile, f"{hostile} 2") == (taken.outputs["owner"], taken.outputs["name"])
    done = finish(mine)
    assert ([TOKEN], []) == (done.obeyed.masks, done.annotations)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"wait": "soon"}, "soon"),
        ({"required": "maybe"}, "the input required is true or false"),
        ({"permits": "0"}, "--permits"),
        ({"hub": "gopher://x"}, "gopher:// is no hub's"),
    ],
)
def test_wrong_inputs(here: Place, given: dict[str, str], told: str) -> None:
    """A mistake in an input fails the step and names it."""
    job = here.job("one")
    done = job.use(LOCK, {"name": "deploy", "hub": here.url, **given})
    assert "failure" == done.outcome
    assert told in done.text
    assert "success" == finish(job).outcome


def test_settings_of_what_is_checked_out(here: Place) -> None:
    """A ghcoord.toml of the checkout, which may be a stranger's pull request, counts only when ``folder`` names it."""
    job = here.job("one")
    (job.workspace / "ghcoord.toml").write_text("[locks]\nttl = 77\n")
    (job.workspace / "venv.py").write_text("raise SystemExit('imported')\n")
    here.take(job)
    assert 77 != state_of(job)["ttl"]
    finish(job)
    other = here.job("two")
    (other.workspace / "ghcoord.toml").write_text("[locks]\nttl = 77\n")
    here.take(other, folder=".")
    assert 77 == state_of(other)["ttl"]
    finish(other)


def test_the_runner_ends(here: Place) -> None:
    """When the program of the runner that runs the job is gone, the lock is renewed no longer, and not released."""
    runner = here.folder / "Runner.Worker"
    runner.symlink_to("/bin/bash")
    folder = here.folder / "held"
    args = ["actions", "lock", "deploy", "--folder", str(folder), "--owner", "job", "--hub", here.url]
    command = " ".join([*GHCOORD, *args])
    with subprocess.Popen(
        [runner, "-c", f"{command} & wait"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as worker:
        until(lambda: here.hub.locks.is_locked("deploy"))
        worker.kill()
    until(lambda: "the runner of the job has ended" in (folder / "state.json").read_text())
    assert here.hub.locks.is_locked("deploy")


def test_install(tmp_path: Path) -> None:
    """The script installs ghcoord from the checkout, once in a job, and prints where; the checkout stays as it was."""
    script = LOCK.parent / "lib" / "install.sh"
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "RUNNER_TEMP": str(tmp_path / "temp"), "GH_TOKEN": TOKEN}
    env |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    for name in ("venv", "pip", "ensurepip"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the folder of the job')\n")
    first = subprocess.run([script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert 0 == first.returncode, first.stderr
    program = Path(first.stdout.strip()) / "ghcoord"
    done = subprocess.run(
        [program, "actions", "unlock", "--folder", "none"], capture_output=True, text=True, check=True
    )
    assert "no lock was asked for\n" == done.stdout
    again = subprocess.run([script], env=env, capture_output=True, text=True, check=True)
    assert (first.stdout, "") == (again.stdout, again.stderr)
    assert not (LOCK.parents[2] / "build").exists()
