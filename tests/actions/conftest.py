"""A twin of GitHub with the repository ``me/hub``, and jobs in it that have what GITHUB_TOKEN has."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ghcoord.hub import Hub
from ghcoord.twin.server import Twin
from tests.actions.runner import ROOT, Job
from tests.cli.conftest import cli

__all__ = ["cli"]

Jobs = Callable[..., Job]


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub on this machine, named by GHCOORD_HUB."""
    from ghcoord.bootstrap import create

    path = tmp_path / "hub.git"
    create(path)[0].close()
    monkeypatch.setenv("GHCOORD_HUB", str(path))
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Twin]:
    """Listens on loopback, without limits."""
    with Twin(tmp_path / "twin") as made:
        made.repository("me", "hub", empty=False)
        yield made


@pytest.fixture
def token(twin: Twin) -> str:
    """What a job's token is with ``permissions: contents: write``, and nothing else."""
    twin.grant("github-actions[bot]", "me/hub", contents="write")
    allowed: Any = {"contents": "write", "metadata": "read"}
    return twin.user("github-actions[bot]", "ghs_twin1", kind="actions", permissions=allowed, repositories=["me/hub"])


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with a program ``ghcoord``: this code, so that no test but one waits for pip."""
    folder = tmp_path / "installed"
    folder.mkdir()
    program = folder / "ghcoord"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    program.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} -m ghcoord "$@"\n')
    program.chmod(0o755)
    return folder


@pytest.fixture
def jobs(tmp_path: Path, twin: Twin, token: str, installed: Path) -> Jobs:
    """Makes jobs, each on a runner of its own."""
    count = iter(range(1, 100))

    def make(**more: Any) -> Job:
        env = {"GHCOORD_INSTALLED": str(installed), **more.pop("env", {})}
        return Job(tmp_path / f"runner{next(count)}", api_url=f"{twin.url}/api/v3", token=token, env=env, **more)

    return make


@pytest.fixture
def hub(twin: Twin, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub in ``me/hub``, as somebody sees it who has the same token."""
    from ghcoord.bootstrap import create

    monkeypatch.setenv("GH_TOKEN", token)
    monkeypatch.setenv("GHCOORD_GITHUB_API", f"{twin.url}/api/v3")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with create("github:me/hub")[0] as made:
        yield made
