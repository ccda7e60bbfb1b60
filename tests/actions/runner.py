"""A job on a GitHub Actions runner, for tests: runs the steps of composite and JavaScript actions as documented.

A step gets the runner's variables, fresh files for GITHUB_ENV, GITHUB_OUTPUT, GITHUB_PATH, GITHUB_STATE and
GITHUB_STEP_SUMMARY, its inputs with their defaults, and for ``run:`` bash as ``bash --noprofile --norc -eo pipefail``.
Commands in what it prints are obeyed and kept.  Cancelling sends SIGINT to the step's first process alone, SIGTERM
after 7.5 s, and kills all of its processes 2.5 s later.  After that only steps whose ``if:`` asks for it run, and
the post steps of JavaScript actions in reverse order::

    job = Job(tmp_path, api_url=twin.url + "/api/v3", token=token, repository="me/hub")
    done = job.use(ACTIONS / "worker", {"until-idle": "1s"})
    job.finish()
    assert "success" == done.outcome
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from tests.actions.commands import DISABLED, SUMMARY_LIMIT, read_pairs
from tests.actions.expressions import condition, interpolate
from tests.actions.steps import Done, execute

__all__ = ["ACTIONS", "ROOT", "RUNTIME_TOKEN", "Done", "Job"]

ROOT = Path(__file__).resolve().parents[2]
ACTIONS = ROOT / ".github" / "actions"

FILES = ("GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STATE", "GITHUB_STEP_SUMMARY")
RUNTIME_TOKEN = "runtime-token-that-no-task-may-see"


@dataclass
class _Post:
    action: Path
    main: dict[str, Any]
    given: dict[str, str]
    state: dict[str, str]
    name: str


class Job:
    """One job. ``folder`` gets its workspace and temporary folder; ``env`` is the job's ``env:``."""

    def __init__(
        self,
        folder: Path,
        *,
        api_url: str = "https://api.github.com",
        server_url: str | None = None,
        repository: str = "me/hub",
        token: str = "ghs_none",
        env: Mapping[str, str] | None = None,
        github: Mapping[str, Any] | None = None,
        path: str | None = None,
    ) -> None:
        self.folder = folder
        self.workspace = folder / "work" / "repository" / "repository"
        self.temp = folder / "work" / "_temp"
        self.home = folder / "home"
        for each in (self.workspace, self.temp / "_runner_file_commands", self.home, folder / "toolcache"):
            each.mkdir(parents=True, exist_ok=True)
        parts = urlsplit(api_url)
        server = server_url or ("https://github.com" if parts.netloc == "api.github.com" else f"http://{parts.netloc}")
        self.status = "success"
        self.summary = ""
        self.env = dict(env or {})
        self.path: list[str] = []
        self._base_path = path or os.environ.get("PATH", os.defpath)
        self.github: dict[str, Any] = {
            "token": token,
            "actor": "octocat",
            "api_url": api_url,
            "server_url": server,
            "graphql_url": api_url.removesuffix("/v3") + "/graphql",
            "repository": repository,
            "repository_owner": repository.partition("/")[0],
            "run_id": "4242",
            "run_number": "7",
            "run_attempt": "1",
            "job": "work",
            "workflow": "worker",
            "event_name": "workflow_dispatch",
            "ref": "refs/heads/main",
            "ref_name": "main",
            "sha": "a" * 40,
            "triggering_actor": "octocat",
            "workspace": str(self.workspace),
            **(github or {}),
        }
        self._posts: list[_Post] = []
        self._number = 0
        self._cancelled = threading.Event()
        self._steps: dict[str, Any] = {}

    # -- what a workflow does

    def use(
        self,
        action: Path,
        given: Mapping[str, str] | None = None,
        *,
        id: str = "",
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run an action: all steps of a composite, or the main step of a JavaScript action."""
        found = _load(action)
        contexts = self._contexts(action, {}, {})
        if self.status != "success":
            return Done(id or action.name, "skipped")
        inputs = self._inputs(found, given or {}, contexts)
        done = self._action(action, found, inputs, id or action.name, dict(env or {}))
        self._note(done)
        self._steps[id or action.name] = {"outputs": done.outputs, "outcome": done.outcome, "conclusion": done.outcome}
        return done

    def run(
        self,
        script: str,
        *,
        id: str = "run",
        condition_: str = "",
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """A ``run:`` step of the workflow itself, with bash."""
        contexts = self._contexts(None, {}, self._steps)
        done = self._run_step(
            {"run": script, "shell": "bash", "id": id, "if": condition_, "env": dict(env or {})}, contexts, {}
        )
        self._note(done)
        return done

    def cancel(self) -> None:
        """Cancel the job, from another thread than the one that runs its step."""
        self._cancelled.set()

    def finish(self) -> list[Done]:
        """Run the post steps, the last first."""
        ended = []
        while self._posts:
            post = self._posts.pop()
            runs = post.main["runs"]
            if not condition(runs.get("post-if", "always()"), self._contexts(post.action, post.given, {})):
                continue
            done = self._node(post.action, runs["post"], post.given, f"post {post.name}", {}, post.state)
            self._note(done)
            ended.append(done)
        return ended

    # -- actions

    def _note(self, done: Done) -> None:
        self.summary += done.summaries
        if self._cancelled.is_set():
            self.status = "cancelled"
        elif done.outcome == "failure":
            self.status = "failure"

    def _inputs(
        self, found: Mapping[str, Any], given: Mapping[str, str], contexts: Mapping[str, Any]
    ) -> dict[str, str]:
        known = found.get("inputs") or {}
        for name in given:
            assert name in known, f"{name} is no input of {found['name']}"
        for name, one in known.items():
            assert name in given or not one.get("required") or "default" in one, f"the input {name} is required"
        return {
            name: str(given[name]) if name in given else interpolate(one.get("default"), contexts)
            for name, one in known.items()
        }

    def _action(
        self, action: Path, found: Mapping[str, Any], inputs: dict[str, str], name: str, env: dict[str, str]
    ) -> Done:
        using = found["runs"]["using"]
        if using == "composite":
            return self._composite(action, found, inputs, name, env)
        assert re.fullmatch(r"node\d+", using), f"{using} is not known"
        state: dict[str, str] = {}
        done = self._node(action, found["runs"]["main"], inputs, name, env, state)
        if "post" in found["runs"]:
            self._posts.append(_Post(action, dict(found), inputs, state, name))
        return done

    def _composite(
        self, action: Path, found: Mapping[str, Any], inputs: dict[str, str], name: str, env: dict[str, str]
    ) -> Done:
        whole = Done(name)
        steps: dict[str, Any] = {}
        failed = False
        began = time.monotonic()
        for number, step in enumerate(found["runs"]["steps"]):
            contexts = self._contexts(action, inputs, steps, failed=failed)
            key = step.get("id") or step.get("name") or f"step-{number + 1}"
            if "uses" in step:
                done = self._nested(action, step, contexts, key)
            else:
                assert step.get("shell"), f"the step {key} of a composite action names no shell"
                done = self._run_step({**step, "id": key}, contexts, env, action=action)
            whole.steps.append(done)
            conclusion = done.outcome
            if done.outcome == "failure" and step.get("continue-on-error"):
                conclusion = "success"
            if step.get("id"):
                steps[step["id"]] = {"outputs": done.outputs, "outcome": done.outcome, "conclusion": conclusion}
            failed = failed or conclusion == "failure"
            if conclusion != "skipped" and (failed or self._cancelled.is_set()) and whole.outcome == "success":
                whole.outcome, whole.code = ("cancelled" if self._cancelled.is_set() else "failure"), done.code
        contexts = self._contexts(action, inputs, steps)
        for output, one in (found.get("outputs") or {}).items():
            whole.outputs[output] = interpolate(one["value"], contexts)
        whole.took = time.monotonic() - began
        return whole

    def _nested(
        self,
        action: Path,
        step: Mapping[str, Any],
        contexts: Mapping[str, Any],
        key: str,
    ) -> Done:
        if not condition(step.get("if"), contexts):
            return Done(key, "skipped")
        where = step["uses"]
        assert where.startswith(("./", "$/")), f"only actions of this repository run here, not {where}"
        inner = ROOT / where[2:]
        found = _load(inner)
        given = {name: interpolate(value, contexts) for name, value in (step.get("with") or {}).items()}
        return self._action(inner, found, self._inputs(found, given, contexts), key, {})

    # -- steps

    def _run_step(
        self, step: Mapping[str, Any], contexts: dict[str, Any], env: Mapping[str, str], action: Path | None = None
    ) -> Done:
        key = step["id"]
        if not condition(step.get("if"), contexts):
            return Done(key, "skipped")
        assert step["shell"] == "bash", f"the shell {step['shell']} is not known here"
        variables = {name: interpolate(value, contexts) for name, value in (step.get("env") or {}).items()}
        contexts["env"] = {**contexts["env"], **variables}
        self._number += 1
        script = self.temp / f"{self._number}-{key}.sh"
        script.write_text(interpolate(step["run"], contexts))
        cwd = interpolate(step.get("working-directory") or str(self.workspace), contexts)
        argv = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
        return self._process(key, argv, {**env, **variables}, Path(cwd), action, {})

    def _node(
        self,
        action: Path,
        script: str,
        inputs: Mapping[str, str],
        name: str,
        env: Mapping[str, str],
        state: dict[str, str],
    ) -> Done:
        variables = {"INPUT_" + key.replace(" ", "_").upper(): value for key, value in inputs.items()}
        variables |= {f"STATE_{key}": value for key, value in state.items()}
        self._number += 1
        return self._process(name, ["node", str(action / script)], {**env, **variables}, self.workspace, action, state)

    def _process(
        self,
        key: str,
        argv: list[str],
        variables: Mapping[str, str],
        cwd: Path,
        action: Path | None,
        state: dict[str, str],
    ) -> Done:
        files = {name: self.temp / "_runner_file_commands" / f"{name.lower()}_{self._number}" for name in FILES}
        for file in files.values():
            file.touch()
        environment = {**self._variables(action), **variables, **{name: str(file) for name, file in files.items()}}
        done = execute(Done(key), argv, cwd, environment, self._cancelled)
        self._take_files(files, done, state)
        assert not [name for name, _ in done.obeyed.others if name in DISABLED], done.obeyed.others
        assert 0 == done.obeyed.open_groups, "a group was left open"
        return done

    def _take_files(self, files: Mapping[str, Path], done: Done, state: dict[str, str]) -> None:
        done.outputs = read_pairs(files["GITHUB_OUTPUT"])
        state |= read_pairs(files["GITHUB_STATE"])
        for name, value in read_pairs(files["GITHUB_ENV"]).items():
            assert name != "NODE_OPTIONS", "the runner refuses NODE_OPTIONS"
            self.env[name] = value
        self.path = [line for line in reversed(files["GITHUB_PATH"].read_text().splitlines()) if line] + self.path
        summary = files["GITHUB_STEP_SUMMARY"].read_bytes()
        assert len(summary) <= SUMMARY_LIMIT, f"the summary has {len(summary)} bytes: the runner does not show it"
        done.summary = summary.decode()
        for file in files.values():
            file.unlink()

    # -- what steps see

    def _variables(self, action: Path | None) -> dict[str, str]:
        github = {f"GITHUB_{name.upper()}": str(value) for name, value in self.github.items() if name != "token"}
        if action is not None:
            github["GITHUB_ACTION_PATH"] = str(action)
            github["GITHUB_ACTION"] = f"__{action.name}"
        return {
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "XDG_STATE_HOME": str(self.home / ".state"),
            "XDG_CACHE_HOME": str(self.home / ".cache"),
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "RUNNER_OS": "Linux",
            "RUNNER_ARCH": "X64",
            "RUNNER_NAME": "GitHub Actions 2",
            "RUNNER_ENVIRONMENT": "github-hosted",
            "RUNNER_TEMP": str(self.temp),
            "RUNNER_TOOL_CACHE": str(self.folder / "toolcache"),
            "RUNNER_TRACKING_ID": "github_4242",
            "ACTIONS_RUNTIME_TOKEN": RUNTIME_TOKEN,
            "ACTIONS_RUNTIME_URL": "https://pipelines.invalid/",
            "ACTIONS_CACHE_URL": "https://cache.invalid/",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": RUNTIME_TOKEN,
            "ACTIONS_ID_TOKEN_REQUEST_URL": "https://token.invalid/",
            **github,
            **self.env,
            "PATH": os.pathsep.join([*self.path, self._base_path]),
        }

    def _contexts(
        self, action: Path | None, inputs: Mapping[str, str], steps: Mapping[str, Any], *, failed: bool = False
    ) -> dict[str, Any]:
        status = "cancelled" if self._cancelled.is_set() else "failure" if failed else self.status
        github = {**self.github, **({} if action is None else {"action_path": str(action)})}
        return {
            "github": github,
            "inputs": dict(inputs),
            "steps": dict(steps),
            "env": dict(self.env),
            "job": {"status": status},
            "runner": {"temp": str(self.temp), "os": "Linux", "arch": "X64", "environment": "github-hosted"},
        }


def _load(action: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((action / "action.yml").read_text())
    return found
