"""REST: workflows, their runs, and starting one by ``workflow_dispatch``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ghcoord.twin import shapes
from ghcoord.twin.actions import Workflow, WorkflowRun
from ghcoord.twin.repository import Repository
from ghcoord.twin.rest import Call, Refused, Reply, number, route
from ghcoord.twin.workflow_files import described

ACTIONS = "/repos/{owner}/{repo}/actions"
MAX_INPUTS = 25
"""Inputs of one dispatch [D]."""


@route("GET", ACTIONS + "/workflows/{workflow_id}")
def get_workflow(call: Call) -> Reply:
    """A workflow, by its number or the name of its file."""
    repository = call.repository(permission="actions")
    return Reply(200, workflow_shape(repository, _workflow(call, repository), call.api))


@route("POST", ACTIONS + "/workflows/{workflow_id}/dispatches", content=True)
def dispatch(call: Call) -> Reply:
    """Start a run. The answer tells which only to those that ask for it; 204 alone proves no run."""
    repository = call.repository("write", "actions")
    workflow = _workflow(call, repository)
    ref = call.text("ref")
    sha = _head(call, repository, ref)
    if not workflow.dispatchable:
        raise Refused(422, "Workflow does not have 'workflow_dispatch' trigger")
    if workflow.state != "active":
        raise Refused(422, "Cannot trigger a 'workflow_dispatch' on a disabled workflow")
    context = call.context
    run = context.hosting.actions.dispatch(
        workflow, ref=ref, sha=sha, login=context.login, inputs=_inputs(call, workflow), now=context.now
    )
    if not (call.flag("return_run_details") and context.switches.dispatch_tells_run):
        return Reply(204)
    url = _run_url(repository, run, call.api)
    html = f"{context.base_url}/{repository.full_name}/actions/runs/{run.number}"
    return Reply(200, {"workflow_run_id": run.number, "run_url": url, "html_url": html})


@route("GET", ACTIONS + "/workflows/{workflow_id}/runs")
def workflow_runs(call: Call) -> Reply:
    """The runs of one workflow, newest first."""
    repository = call.repository(permission="actions")
    workflow = _workflow(call, repository)
    return _listed(call, repository, lambda run: run.workflow.number == workflow.number)


@route("GET", ACTIONS + "/runs")
def repository_runs(call: Call) -> Reply:
    """The runs of all workflows, newest first."""
    return _listed(call, call.repository(permission="actions"), lambda run: True)


@route("GET", ACTIONS + "/runs/{run_id}")
def get_run(call: Call) -> Reply:
    """One run."""
    repository = call.repository(permission="actions")
    return Reply(200, run_shape(repository, _run(call, repository), call))


@route("POST", ACTIONS + "/runs/{run_id}/cancel")
def cancel(call: Call) -> Reply:
    """Cancel a run that is not over."""
    repository = call.repository("write", "actions")
    if not call.context.hosting.actions.cancel(_run(call, repository), call.context.now):
        raise Refused(409, "Cannot cancel a workflow run that is completed.")
    return Reply(202, {})


def _workflow(call: Call, repository: Repository) -> Workflow:
    actions = call.context.hosting.actions
    actions.read(repository.full_name, described(repository))
    found = actions.find(repository.full_name, call.args["workflow_id"])
    if found is None:
        raise Refused(404, "Not Found")
    return found


def _run(call: Call, repository: Repository) -> WorkflowRun:
    for each in _seen(call, repository):
        if str(each.number) == call.args["run_id"]:
            return each
    raise Refused(404, "Not Found")


def _seen(call: Call, repository: Repository) -> list[WorkflowRun]:
    """The runs that reads find by now."""
    context = call.context
    born_before = context.now - context.switches.run_lag
    return [each for each in context.hosting.actions.of(repository.full_name) if each.created <= born_before]


def _head(call: Call, repository: Repository, ref: str) -> str:
    refs = repository.refs()
    for name in (ref, f"refs/heads/{ref}", f"refs/tags/{ref}"):
        if name in refs:
            return refs[name]
    raise Refused(422, f"No ref found for: {ref}")


def _inputs(call: Call, workflow: Workflow) -> Mapping[str, str]:
    """What the workflow gets, its defaults included. Refused with 422 as GitHub does."""
    given = call.body.get("inputs") or {}
    if not isinstance(given, dict):
        raise Refused(422, "Invalid request.\n\n'inputs' is not an object.")
    if len(given) > MAX_INPUTS:
        raise Refused(422, f"you may only define up to {MAX_INPUTS} `inputs` for a `workflow_dispatch` event")
    unknown = [name for name in given if name not in workflow.inputs]
    if unknown:
        raise Refused(422, f"Unexpected inputs provided: {unknown}")
    found = {}
    for name, default in workflow.inputs.items():
        value = given.get(name, default)
        if value is None:
            raise Refused(422, f"Required input '{name}' not provided")
        found[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


def _listed(call: Call, repository: Repository, wanted: Any) -> Reply:
    query = call.context.query
    found = [
        each
        for each in _seen(call, repository)
        if wanted(each)
        and query.get("status") in (None, each.status, each.conclusion)
        and query.get("event") in (None, "workflow_dispatch")
        and query.get("branch") in (None, each.ref)
    ]
    size, page = number(query.get("per_page"), 30), number(query.get("page"), 1)
    headers: dict[str, str] = {}
    if len(found) > size * page:
        headers["link"] = f'<{call.api}{call.context.path}?per_page={size}&page={page + 1}>; rel="next"'
    shown = found[size * (page - 1) : size * page]
    runs = [run_shape(repository, each, call) for each in shown]
    return Reply(200, {"total_count": len(found), "workflow_runs": runs}, headers)


def _run_url(repository: Repository, run: WorkflowRun, api: str) -> str:
    return f"{api}/repos/{repository.full_name}/actions/runs/{run.number}"


def workflow_shape(repository: Repository, workflow: Workflow, api: str) -> dict[str, Any]:
    """A workflow."""
    url = f"{api}/repos/{repository.full_name}/actions/workflows/{workflow.number}"
    html = f"{api.removesuffix('/api/v3')}/{repository.full_name}"
    born = shapes.stamp(1_600_000_000)
    return {
        "id": workflow.number,
        "node_id": f"W_twin{workflow.number}",
        "name": workflow.file,
        "path": workflow.path,
        "state": workflow.state,
        "created_at": born,
        "updated_at": born,
        "url": url,
        "html_url": f"{html}/blob/{repository.default_branch}/{workflow.path}",
        "badge_url": f"{html}/workflows/{workflow.file}/badge.svg",
    }


def run_shape(repository: Repository, run: WorkflowRun, call: Call) -> dict[str, Any]:
    """A run."""
    context, api = call.context, call.api
    accounts = context.hosting.accounts
    url = _run_url(repository, run, api)
    html = f"{context.base_url}/{repository.full_name}"
    whole = shapes.repository(repository, accounts.user(repository.owner), api, {"pull": True})
    actor = shapes.user(accounts.user(run.login), api)
    data = repository.commit(run.sha)
    assert data is not None  # a ref was at it
    people = [{"name": one.name, "email": one.email} for one in (data.author, data.committer)]
    commit = {
        "id": data.oid,
        "tree_id": data.tree,
        "message": data.message,
        "timestamp": shapes.stamp(data.committer.time),
        "author": people[0],
        "committer": people[1],
    }
    return {
        "id": run.number,
        "name": run.workflow.file,
        "node_id": f"WFR_twin{run.number}",
        "head_branch": run.ref,
        "head_sha": run.sha,
        "path": run.workflow.path,
        "run_number": run.run_number,
        "run_attempt": 1,
        "event": "workflow_dispatch",
        "display_title": run.title,
        "status": run.status,
        "conclusion": run.conclusion,
        "workflow_id": run.workflow.number,
        "url": url,
        "html_url": f"{html}/actions/runs/{run.number}",
        "pull_requests": [],
        "created_at": shapes.stamp(run.created),
        "updated_at": shapes.stamp(run.updated),
        "run_started_at": shapes.stamp(run.created),
        "actor": actor,
        "triggering_actor": actor,
        **{f"{name}_url": f"{url}/{name}" for name in ("jobs", "logs", "cancel", "rerun", "artifacts")},
        "check_suite_url": f"{api}/repos/{repository.full_name}/check-suites/{run.number}",
        "workflow_url": f"{api}/repos/{repository.full_name}/actions/workflows/{run.workflow.number}",
        "previous_attempt_url": None,
        "head_commit": commit,
        "repository": whole,
        "head_repository": whole,
    }
