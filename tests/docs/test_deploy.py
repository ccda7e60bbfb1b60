"""The deployment examples pass the linters of their formats, and name options and variables that exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
IN_CI = bool(os.environ.get("GHCOORD_CI"))


def _need(program: str) -> str:
    """The program's path; without it the test is skipped, in CI it fails."""
    found = shutil.which(program)
    if found is None:
        (pytest.fail if IN_CI else pytest.skip)(f"{program} is not installed")
    return str(found)


def test_the_dockerfile_passes_hadolint() -> None:
    """No warning of the usual linter for Dockerfiles."""
    done = subprocess.run([_need("hadolint"), DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stdout)


def test_the_manifest_is_what_kubernetes_takes() -> None:
    """Each object fits the schema of the API's version that the file names, with no field unknown."""
    validator = pytest.importorskip("kubernetes_validate")
    yaml = pytest.importorskip("yaml")
    text = (DEPLOY / "kubernetes" / "worker.yaml").read_text()
    named = re.search(r"Kubernetes (\d+\.\d+)", text)
    assert named is not None
    found = list(yaml.safe_load_all(text))
    assert ["ServiceAccount", "Deployment", "NetworkPolicy"] == [one["kind"] for one in found]
    for one in found:
        assert validator.validate(one, named[1], strict=True)


def test_the_unit_is_what_systemd_takes() -> None:
    """systemd-analyze finds nothing wrong but that the program is not installed here."""
    unit = DEPLOY / "ghcoord-worker.service"
    done = subprocess.run(
        [_need("systemd-analyze"), "verify", unit], capture_output=True, text=True, check=False, timeout=60
    )
    said = [line for line in done.stderr.splitlines() if unit.name in line]
    assert [] == [line for line in said if "is not executable" not in line]


def test_the_entrypoint_hands_on_the_token_and_nothing_else(tmp_path: Path) -> None:
    """The token of the file is in the environment of ghcoord, not among its arguments, and the file's name is gone."""
    shown = tmp_path / "ghcoord"
    shown.write_text('#!/bin/sh\necho "$@"\nenv\n')
    shown.chmod(0o755)
    token = tmp_path / "token"
    token.write_text("ghp_secret\n")
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "GHCOORD_TOKEN_FILE": str(token)}
    command = ["/bin/sh", DEPLOY / "entrypoint.sh", "worker", "start"]
    arguments, *variables = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()
    assert "worker" == arguments
    assert "GH_TOKEN=ghp_secret" in variables
    assert not any(one.startswith("GHCOORD_TOKEN_FILE") for one in variables)
    missing = subprocess.run(command, env={**env, "GHCOORD_TOKEN_FILE": "/none"}, capture_output=True, check=False)
    assert missing.returncode != 0


def test_all_options_and_variables_are_there() -> None:
    """What the files pass to 'ghcoord worker start' is in the reference of the command line, and each variable too."""
    reference = (DEPLOY.parents[1] / "docs" / "cli.md").read_text()
    start = reference.partition("### ghcoord worker start")[2].partition("\n### ")[0]
    settings = (DEPLOY.parents[1] / "docs" / "settings.md").read_text()
    for name in ("Dockerfile", "compose.yaml", "kubernetes/worker.yaml", "ghcoord-worker.service", "README.md"):
        text = (DEPLOY / name).read_text()
        for line in text.splitlines():
            if "worker start" in line or re.search(r"\[\s*worker, start", line):
                for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line):
                    assert option in start, f"{name}: {option}"
        for variable in set(re.findall(r"GHCOORD_[A-Z_]+", text)) - {"GHCOORD_TOKEN_FILE"}:
            assert variable in settings, f"{name}: {variable}"
