"""The twin's Actions API: dispatches, runs, cancellations, refusals. All exchanges are held to GitHub's description."""

from __future__ import annotations

import pytest

from ghcoord.testing.clock import ManualRuntime
from ghcoord.twin.actions import WorkflowRun
from ghcoord.twin.server import Twin
from ghcoord.twin.switches import Switches
from tests.twin.asking import HUB, Asking

WORKFLOW = f"{HUB}/actions/workflows/worker.yml"
TITLE = "worker ${{ inputs.worker-id }}"


@pytest.fixture
def workflow(me: Asking, twin: Twin) -> None:
    twin.actions.workflow("me/hub", "worker.yml", {"worker-id": None, "slots": "2"}, run_name=TITLE)


def body(**inputs: object) -> dict[str, object]:
    return {"ref": "main", "inputs": inputs, "return_run_details": True}


@pytest.mark.usefixtures("workflow")
def test_a_dispatch_makes_a_run_that_can_be_followed(me: Asking, twin: Twin, runtime: ManualRuntime) -> None:
    """The answer names the run; lists and the run itself show title, state and end; the hook hears of it once."""
    heard: list[WorkflowRun] = []
    twin.actions.on_dispatch = heard.append
    told = me("POST", f"{WORKFLOW}/dispatches", body(**{"worker-id": "w-1"}))
    assert 200 == told.status
    (run,) = heard
    assert (run.number, {"worker-id": "w-1", "slots": "2"}) == (told.body["workflow_run_id"], run.inputs)
    page = me("GET", f"{WORKFLOW}/runs?event=workflow_dispatch&per_page=5").body
    assert (1, "worker w-1", "queued") == (
        page["total_count"],
        page["workflow_runs"][0]["display_title"],
        page["workflow_runs"][0]["status"],
    )
    twin.actions.begin(run, runtime.now())
    assert "in_progress" == me("GET", f"{HUB}/actions/runs/{run.number}").body["status"]
    twin.actions.complete(run, "success", runtime.now())
    shown = me("GET", f"{HUB}/actions/runs/{run.number}").body
    assert ("completed", "success") == (shown["status"], shown["conclusion"])
    assert [] == me("GET", f"{WORKFLOW}/runs?status=queued").body["workflow_runs"]
    assert 1 == me("GET", f"{HUB}/actions/runs").body["total_count"]
    assert "worker.yml" == me("GET", WORKFLOW).body["name"]


@pytest.mark.usefixtures("workflow")
def test_a_run_is_cancelled_once(me: Asking, twin: Twin) -> None:
    """202 and its end, then 409; an unknown one is 404."""
    number = me("POST", f"{WORKFLOW}/dispatches", body(**{"worker-id": "w"})).body["workflow_run_id"]
    assert 202 == me("POST", f"{HUB}/actions/runs/{number}/cancel").status
    assert "cancelled" == twin.actions.runs[0].conclusion
    assert 409 == me("POST", f"{HUB}/actions/runs/{number}/cancel").status
    assert 404 == me("POST", f"{HUB}/actions/runs/7/cancel").status


@pytest.mark.usefixtures("workflow")
def test_an_older_server_tells_no_run_and_lists_lag(me: Asking, twin: Twin, runtime: ManualRuntime) -> None:
    """204 without details, asked for or not; the run shows up in lists after a while."""
    assert 204 == me("POST", f"{WORKFLOW}/dispatches", {"ref": "main", "inputs": {"worker-id": "a"}}).status
    twin.switches = Switches(dispatch_tells_run=False, run_lag=5.0)
    assert 204 == me("POST", f"{WORKFLOW}/dispatches", body(**{"worker-id": "b"})).status
    assert 0 == me("GET", f"{WORKFLOW}/runs").body["total_count"]
    runtime.advance(5)
    assert ["worker b", "worker a"] == [
        one["display_title"] for one in me("GET", f"{WORKFLOW}/runs").body["workflow_runs"]
    ]


@pytest.mark.usefixtures("workflow")
def test_what_cannot_be_dispatched_is_refused(me: Asking, twin: Twin) -> None:
    """Unknown workflow 404; ref, inputs, trigger and state 422 with GitHub's words; nothing was made."""
    path = f"{WORKFLOW}/dispatches"
    assert 404 == me("POST", f"{HUB}/actions/workflows/no.yml/dispatches", body()).status
    assert "No ref found" in me("POST", path, {"ref": "no", "inputs": {"worker-id": "a"}}).body["message"]
    assert "Unexpected inputs provided: ['x']" == me("POST", path, body(x="1")).body["message"]
    assert "Required input 'worker-id' not provided" == me("POST", path, body()).body["message"]
    many = {f"i{n}": "1" for n in range(26)}
    assert "up to 25" in me("POST", path, body(**many)).body["message"]
    twin.actions.workflow("me/hub", "ci.yml", dispatchable=False)
    twin.actions.workflow("me/hub", "off.yml", state="disabled_manually")
    assert "trigger" in me("POST", f"{HUB}/actions/workflows/ci.yml/dispatches", body()).body["message"]
    assert "disabled" in me("POST", f"{HUB}/actions/workflows/off.yml/dispatches", body()).body["message"]
    assert [] == twin.actions.runs


@pytest.mark.usefixtures("workflow")
def test_dispatching_needs_actions_write(me: Asking, twin: Twin) -> None:
    """Contents write is not enough, and the refusal names what is missing; reading needs actions: read."""
    weak = Asking(twin, twin.user("me", kind="actions", permissions={"contents": "write", "metadata": "read"}))
    refused = weak("POST", f"{WORKFLOW}/dispatches", body(**{"worker-id": "w"}))
    assert (403, "actions=write") == (refused.status, refused.headers["x-accepted-github-permissions"])
    twin.hosting.repositories["me/hub"].private = True
    assert 403 == weak("GET", f"{WORKFLOW}/runs").status


FILE = """
name: worker
run-name: ${{ inputs.worker-id && format('worker {0}', inputs.worker-id) || 'worker' }}
on:
  workflow_dispatch:
    inputs:
      worker-id: {required: true}
      slots: {default: 4}
      fast: {type: boolean, default: true}
      note:
"""
BY_HAND = {"a": "on: workflow_dispatch", "b": "on: [push, workflow_dispatch]", "c": '"on": {workflow_dispatch: }'}
NEVER = {"d": "on: push", "e": "", "f": "on: [", "g": "- on", "h": "on: 7", "i": "x: 2026-99-99", "j": "[" * 5000}


def test_workflows_are_those_of_the_default_branch(me: Asking, twin: Twin) -> None:
    """A file that is there can be dispatched, with its inputs and title; changed or gone it is so at once."""
    assert 404 == me("GET", WORKFLOW).status
    put = me.put(".github/workflows/worker.yml", FILE)
    assert 201 == put.status
    told = me("POST", f"{WORKFLOW}/dispatches", body(**{"worker-id": "w-1"}))
    (run,) = twin.actions.runs
    assert (200, "queued", "w-1") == (told.status, run.status, run.title)
    assert {"worker-id": "w-1", "slots": "4", "fast": "true", "note": ""} == run.inputs
    assert "Required input 'worker-id'" in me("POST", f"{WORKFLOW}/dispatches", body()).body["message"]
    number = me("GET", WORKFLOW).body["id"]
    sha = put.body["content"]["sha"]
    assert 200 == me.put(".github/workflows/worker.yml", "on: push", sha=sha).status
    assert "trigger" in me("POST", f"{HUB}/actions/workflows/{number}/dispatches", body()).body["message"]
    assert 1 == me("GET", f"{WORKFLOW}/runs").body["total_count"]
    twin.actions.workflow("me/hub", "other.yml")
    assert 404 == me("GET", WORKFLOW).status


@pytest.mark.slow
def test_files_that_have_no_trigger_or_are_broken(me: Asking) -> None:
    """Every way to write the trigger counts; whatever else lies there is refused as GitHub does."""
    for name, text in {**BY_HAND, **NEVER}.items():
        assert 201 == me.put(f".github/workflows/{name}.yml", text).status
    me.put(".github/workflows/readme.md", "on: workflow_dispatch")

    def status(name: str) -> int:
        return me("POST", f"{HUB}/actions/workflows/{name}/dispatches", {"ref": "main"}).status

    assert dict.fromkeys(BY_HAND, 204) == {name: status(f"{name}.yml") for name in BY_HAND}
    assert dict.fromkeys(NEVER, 422) == {name: status(f"{name}.yml") for name in NEVER}
    assert 404 == status("readme.md")
