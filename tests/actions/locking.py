"""Jobs that take a lock by the action, on a hub on this machine and on the twin."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ghcoord.bootstrap as bootstrap
from ghcoord.faces.actions.jobprocess import Process
from ghcoord.hub import Hub
from ghcoord.twin.server import Twin
from tests.actions.runner import ACTIONS, Done, Job
from tests.processes import until

TOKEN = "ghp_v3rySecretTokenOfMine0123456789"
LOCK = ACTIONS / "lock"


def installed() -> str:
    """The folder of the program ghcoord that belongs to the interpreter of the tests."""
    found = shutil.which("ghcoord", path=str(Path(sys.executable).parent)) or shutil.which("ghcoord")
    assert found is not None, "install the project first: pip install -e ."
    return str(Path(found).parent)


@dataclass
class Place:
    """A hub, and jobs that use it."""

    folder: Path
    url: str
    hub: Hub
    twin: Twin | None
    opened: ExitStack

    def job(self, name: str, **env: str) -> Job:
        """A job on a runner of its own, in a repository that is the hub if that is on the twin."""
        api = {} if self.twin is None else {"api_url": f"{self.twin.url}/api/v3"}
        return Job(self.folder / name, token=TOKEN, env={"GHCOORD_INSTALLED": installed(), **env}, **api)

    def now(self) -> Hub:
        """The hub as it is: what was opened before may go by a poll of seconds ago."""
        fresh = bootstrap.connect(self.url)
        self.opened.callback(fresh.close)
        return fresh

    def take(self, job: Job, name: str = "deploy", **given: str) -> Done:
        """Run the action's main step. On the twin it finds the hub by itself."""
        hub = {"hub": self.url} if self.twin is None else {}
        return job.use(LOCK, {"name": name, **hub, **{key.replace("_", "-"): value for key, value in given.items()}})


@contextmanager
def place(kind: str, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A hub that is ``local`` or on a ``twin``."""
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    patch.setenv("XDG_STATE_HOME", str(folder / "state"))
    with ExitStack() as stack:
        twin, url = None, str(folder / "hub.git")
        if kind == "twin":
            twin = stack.enter_context(Twin(folder / "twin"))
            twin.repository("me", "hub")
            patch.setenv("GH_TOKEN", twin.user("me", TOKEN))
            url = f"github://{twin.url.removeprefix('http://')}/me/hub"
        hub, _ = bootstrap.create(url)
        yield Place(folder, url, stack.enter_context(hub), twin, stack)


@contextmanager
def beside(run: Any, *args: Any, **more: Any) -> Iterator[list[Any]]:
    """Run something in a thread; its result is in the list afterwards."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(run(*args, **more)))
    thread.start()
    try:
        yield results
    finally:
        thread.join(60)
        assert not thread.is_alive()


def folder_of(job: Job) -> Path:
    """Where the steps of the job's lock and its holder speak; waits for it."""
    until(lambda: list(job.temp.glob("ghcoord-lock-*/state.json")))
    return next(job.temp.glob("ghcoord-lock-*"))


def state_of(job: Job) -> dict[str, Any]:
    """What the holder says."""
    found: dict[str, Any] = json.loads((folder_of(job) / "state.json").read_text())
    return found


def holder_of(job: Job) -> Process:
    """The process that holds the job's lock, or waits for it."""
    state = state_of(job)
    return Process(state["pid"], state["started"])


def children(pid: int) -> list[int]:
    """The processes that ``pid`` started."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if int(parent) == pid:
                found.append(int(folder.name))
    return found


def kill(process: Process, number: int) -> None:
    """Send a signal, unless it is another process by now."""
    assert process.alive
    os.kill(process.pid, number)
