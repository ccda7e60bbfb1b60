"""The composite actions, every step of them run as a runner does, against the twin and with a job's own token."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from ghcoord.hub import Hub
from ghcoord.twin.limits import Limiter, TwinLimits
from ghcoord.twin.server import Twin
from tests.actions.conftest import Jobs
from tests.actions.runner import ACTIONS, RUNTIME_TOKEN, Done, Job
from tests.processes import needs_program, until

pytestmark = pytest.mark.slow

WORKER, SUBMIT = ACTIONS / "worker", ACTIONS / "submit"

PRY = """
cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'
for place in {files}; do echo 'EVIL=1' >> "$place" && echo "wrote $place"; cat "$place" && echo "read $place"; done
find / -name '_runner_file_commands' 2>/dev/null
echo '::add-mask::e'; echo '::stop-commands::x'; printf 'no newline ##[error]y'; exit 3
"""


@pytest.fixture(autouse=True)
def _programs() -> None:
    needs_program("bwrap")


class Running:
    """An action that runs in a thread of its own, so that its job can be cancelled."""

    def __init__(self, job: Job, action: Path, given: dict[str, str]) -> None:
        self.done: Done | None = None
        self.job = job
        self._thread = threading.Thread(target=self._run, args=(action, given), daemon=True)
        self._thread.start()

    def _run(self, action: Path, given: dict[str, str]) -> None:
        self.done = self.job.use(action, given)

    def end(self, timeout: float = 60.0) -> Done:
        """Wait for it."""
        self._thread.join(timeout)
        assert self.done is not None, "it goes on and on"
        return self.done


def clean(hub: Hub) -> bool:
    """Whether no worker is registered, nothing is leased, and no record is broken."""
    return not (hub.workers.list() or hub.broken() or [task for task in hub.tasks.list() if task.lease is not None])


def test_fifty_tasks(hub: Hub, twin: Twin, jobs: Jobs) -> None:
    """A runner finishes 50 queued tasks, writes its summary, and leaves the hub clean; no limit is ever exceeded."""
    ids = [
        hub.tasks.submit(*(("echo", {"message": f"n{n}"}) if n % 5 else ("shell", {"command": f"echo n{n}"}))).id
        for n in range(49)
    ]
    ids.append(hub.tasks.submit("shell", {"command": "exit 7"}).id)
    twin.limiter = twin.dispatcher.limiter = Limiter(TwinLimits.published(), twin.switches)
    job = jobs()
    done = job.use(WORKER, {"slots": "4", "until-idle": "2s", "job-limit": "60m", "labels": " gpu=yes \n\nzone"})
    job.finish()
    assert ("success", "49", "1", "0") == (
        done.outcome,
        done.outputs["succeeded"],
        done.outputs["failed"],
        done.outputs["returned"],
    )
    assert {"succeeded": 49, "dead": 1} == {
        state: [hub.tasks.get(one).state for one in ids].count(state) for state in ("succeeded", "dead")
    }
    assert "49 succeeded; 1 failed. The hub is idle, after" in job.summary
    assert 50 == job.summary.count("\n| <code>")
    assert [("error", "exit code 7")] == [(one.level, one.message) for one in done.annotations]
    assert clean(hub)
    assert [] == twin.violations
    assert int(done.outputs["commits"]) <= 25
    assert hub.tasks.get(ids[0]).worker == done.outputs["worker-id"]


@pytest.mark.parametrize("sandbox", ["bwrap", "landlock"])
def test_a_hostile_task_learns_and_changes_nothing(hub: Hub, jobs: Jobs, token: str, sandbox: str) -> None:
    """It sees no variable of the runner and no token, its writes reach no file of the runner, its lines do nothing."""
    job = jobs()
    folder = job.temp / "_runner_file_commands"
    files = " ".join(str(folder / f"github_{kind}_{n}") for kind in ("env", "output", "path") for n in (1, 2, 3))
    task = hub.tasks.submit("shell", {"command": PRY.replace("{files}", files)}, sandbox="partial")
    done = job.use(WORKER, {"until-idle": "1s", "sandbox": sandbox})
    ended = hub.tasks.get(task.id)
    assert ("success", "dead", 3) == (done.outcome, ended.state, ended.result.exit_code)
    said = ended.result.output
    assert "##[error]y" in said  # it ran to its end
    for secret in (RUNTIME_TOKEN, token, "ACTIONS_", "GITHUB_OUTPUT", "GH_TOKEN"):
        assert secret not in said
    assert str(job.temp) not in said
    assert ({"GHCOORD_INSTALLED"}, []) == (set(job.env), job.path)
    work = done.step("work").obeyed
    assert ([], [], 1) == (work.masks, work.others, len(work.annotations))


def test_a_cancelled_job_gives_back_and_saves(hub: Hub, jobs: Jobs) -> None:
    """SIGINT is enough: what runs goes back to the queue, sessions have their checkpoint, and no worker is left."""
    running = Running(jobs(), WORKER, {"until-idle": "60s", "slots": "2", "quiet": "true"})
    until(lambda: hub.workers.list("active"), 60.0)
    session = hub.sessions.create()
    hub.sessions.call(session.id, "fs.write", {"path": "kept.txt", "contents": "kept"})
    task = hub.tasks.submit("shell", {"command": "sleep 300"})
    until(lambda: hub.tasks.get(task.id).state == "leased", 60.0)
    time.sleep(1.0)
    began = time.monotonic()
    running.job.cancel()
    done = running.end()
    assert ("cancelled", "SIGINT") == (done.outcome, done.step("work").ended_by)
    assert time.monotonic() - began < 7.5
    assert ("queued", 0) == (hub.tasks.get(task.id).state, hub.tasks.get(task.id).failures)
    assert clean(hub)
    saved = hub.sessions.get(session.id)
    assert saved is not None
    assert saved.worker_id is None
    assert saved.checkpoints
    assert "The job was cancelled, after" in running.job.summary
    assert "1 given back" in running.job.summary
    assert "1 session" in running.job.summary


def test_the_end_of_the_jobs_time(hub: Hub, jobs: Jobs) -> None:
    """After max-runtime nothing is taken, and what outlasts drain goes back: the next runner has it."""
    long = hub.tasks.submit("shell", {"command": "sleep 300"})
    job = jobs()
    done = job.use(WORKER, {"job-limit": "1m", "max-runtime": "6s", "drain": "1s", "until-idle": "30s"})
    assert ("success", "1", "its time is over") == (done.outcome, done.outputs["returned"], done.outputs["ended"])
    assert done.took < 20
    assert ("queued", True) == (hub.tasks.get(long.id).state, clean(hub))
    assert "Its time is over, after" in job.summary


def test_the_action_brings_what_it_needs(hub: Hub, jobs: Jobs) -> None:
    """From nothing but the checkout and a package index it gets to a worker that runs Python in a sandbox."""
    task = hub.tasks.submit("run.python", {"code": "import sys; print(sys.flags.isolated)"})
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    done = jobs(env={**pip, "GHCOORD_INSTALLED": ""}).use(WORKER, {"until-idle": "1s"})
    assert "success" == done.outcome, done.text
    assert "succeeded" == hub.tasks.get(task.id).state


def test_a_first_run_makes_the_hub(twin: Twin, jobs: Jobs) -> None:
    """In a repository without a hub the worker makes it, with the job's own token, and a second job finds it."""
    assert "success" == jobs().use(WORKER, {"until-idle": "1s", "commands": "false"}).outcome
    done = jobs().use(SUBMIT, {"tool": "echo", "args": '{"message": "hi"}', "wait": "false"})
    assert ("success", "queued") == (done.outcome, done.outputs["state"])
    assert "made a hub" not in done.text


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"token": "ghs_wrong"}, "token"),
        ({"slots": "$(touch pwned)"}, "'$(touch pwned)' is not a whole number"),
        ({"quiet": "perhaps"}, "the input quiet is neither true nor false"),
        ({"commands": "1"}, "the input commands is neither true nor false"),
        ({"job-limit": "10m", "max-runtime": "10m"}, "leaves"),
        ({"hub": "github:me/hub; echo"}, "names no repository"),
    ],
)
def test_wrong_inputs_fail_the_step(hub: Hub, jobs: Jobs, given: dict[str, str], why: str) -> None:
    """Each is said, and no shell ever reads an input."""
    job = jobs()
    done = job.use(WORKER, given)
    assert ("failure", True) == (done.outcome, why in done.text)
    assert not [*job.folder.rglob("pwned")]


def test_submit_waits_and_hands_over(hub: Hub, jobs: Jobs) -> None:
    """Its outputs are what the task said, to the letter; a failure is an annotation and fails the step if it may."""
    running = Running(jobs(), WORKER, {"until-idle": "60s", "slots": "4"})
    said = "$(touch pwned)\n::set-output name=state::x\nEOF"
    job = jobs()
    done = job.use(SUBMIT, {"tool": "echo", "args": json.dumps({"message": said})}, id="good")
    assert ("success", "succeeded", "true", said) == (
        done.outcome,
        done.outputs["state"],
        done.outputs["success"],
        done.outputs["output"].removesuffix("\n"),
    )
    failing = {
        "tool": "shell",
        "args": '{"command": "echo no >&2; exit 4"}',
        "options": '{"id": "bad", "timeout": "1m"}',
    }
    done = job.use(SUBMIT, {**failing, "allow-failure": "true"})
    assert ("success", "dead", "4", "bad") == (
        done.outcome,
        done.outputs["state"],
        done.outputs["exit-code"],
        done.outputs["task-id"],
    )
    assert ["task bad (shell) is dead"] == [one.properties["title"] for one in done.annotations]
    (job.workspace / "tasks.jsonl").write_text('{"tool": "echo"}\n' * 2)
    done = job.use(SUBMIT, {"batch": "tasks.jsonl", "batch-id": "b"})
    assert ("failure", "2", "2", "false") == (
        done.outcome,
        done.outputs["submitted"],
        done.outputs["failed"],
        done.outputs["success"],
    )
    assert 3 == job.summary.count("### Tasks")
    assert not [*job.folder.rglob("pwned")]
    running.job.cancel()
    assert "cancelled" == running.end().outcome


@pytest.mark.parametrize(("keep", "state"), [("false", "cancelled"), ("true", "queued")])
def test_a_cancelled_job_cancels_what_it_submitted(hub: Hub, jobs: Jobs, keep: str, state: str) -> None:
    """Unless they are to be kept, the tasks of a job that is cancelled do not run for nobody."""
    options = json.dumps({"id": "t1", "require": ["gpu"]})
    running = Running(jobs(), SUBMIT, {"tool": "echo", "options": options, "keep": keep})
    until(lambda: hub.tasks.get("t1") is not None, 60.0)
    time.sleep(1.0)
    running.job.cancel()
    done = running.end()
    assert ("cancelled", "SIGINT") == (done.outcome, done.step("submit").ended_by)
    assert state == hub.tasks.get("t1").state
