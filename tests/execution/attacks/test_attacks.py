"""Every attempt succeeds without a sandbox and fails in one, for a worker that is root and for one that is not."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ghcoord.execution.sandbox.base import Sandbox, current_identity
from ghcoord.execution.sandbox.bwrap import BwrapSandbox, find_bwrap
from ghcoord.execution.sandbox.landlock import LandlockSandbox
from tests.execution.attacks.attempt import Attempt
from tests.execution.attacks.attempts import ATTEMPTS
from tests.execution.attacks.harness import PYTHON, Outcome, as_worker, sandboxed, unsandboxed
from tests.execution.attacks.stage import staged

ORDINARY = 31337
IN_CI = bool(os.environ.get("GHCOORD_CI"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run workers of both kinds"),
]


def _bwrap() -> Sandbox:
    program = find_bwrap()
    assert program is not None
    return BwrapSandbox(program, current_identity(), Path(PYTHON))


def _landlock() -> Sandbox:
    return LandlockSandbox(current_identity(), Path(PYTHON))


@dataclass(frozen=True)
class Worker:
    """Who runs the attempts."""

    name: str
    uid: int

    def attempts(self) -> list[Attempt]:
        """Those that mean something for such a worker."""
        return [one for one in ATTEMPTS if not (one.root and self.uid)]


WORKERS = {"root": Worker("root", 0), "ordinary": Worker("ordinary", ORDINARY)}
DRIVERS: dict[str, Callable[[], Sandbox]] = {"bwrap": _bwrap, "landlock": _landlock}


@pytest.fixture
def outcome(tmp_path: Path) -> Callable[[str, str], Outcome]:
    """What became of all attempts of one kind of worker in one driver, or without any."""
    if find_bwrap() is None:
        (pytest.fail if IN_CI else pytest.skip)("bubblewrap is not installed")

    def run(worker: str, driver: str) -> Outcome:
        who = WORKERS[worker]
        for folder in (tmp_path, *tmp_path.parents):
            if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o111)
        workspaces = tmp_path / "workspaces"
        workspaces.mkdir()
        os.chown(workspaces, who.uid, who.uid)
        runner = sandboxed(DRIVERS[driver]) if driver else unsandboxed
        with staged(tmp_path, who.uid) as stage:
            return as_worker(who.uid, lambda: runner(stage, who.attempts()), 300)

    return run


def test_there_are_enough() -> None:
    """At least forty attempts, each with a name of its own and a line that says what it proves."""
    assert len({one.name for one in ATTEMPTS}) == len(ATTEMPTS) >= 40
    assert all(one.proves for one in ATTEMPTS)


@pytest.mark.parametrize("worker", WORKERS)
def test_each_works_without_a_sandbox(worker: str, outcome: Callable[[str, str], Outcome]) -> None:
    """The attempts are real ones: on this machine each succeeds when nothing holds it."""
    found = outcome(worker, "")
    assert {} == {name: said for name, (succeeded, said) in found.items() if not succeeded}
    assert len(found) >= 40


@pytest.mark.parametrize("worker", WORKERS)
def test_bwrap_holds_all(worker: str, outcome: Callable[[str, str], Outcome]) -> None:
    """The full sandbox lets nothing of it happen."""
    found = outcome(worker, "bwrap")
    assert {} == {name: said for name, (succeeded, said) in found.items() if succeeded}
    assert {} == _failed(found)
    assert {} == {name: said for name, (_, said) in found.items() if "processes are left" in said}


@pytest.mark.parametrize("worker", WORKERS)
def test_landlock_holds_all_but_what_its_docs_say(worker: str, outcome: Callable[[str, str], Outcome]) -> None:
    """The partial sandbox lets exactly those by that are marked, and named in the docs."""
    found = outcome(worker, "landlock")
    marked = {one.name for one in WORKERS[worker].attempts() if worker in one.partial}
    assert marked == {name for name, (succeeded, _) in found.items() if succeeded}
    assert {} == _failed(found)


def _failed(found: Outcome) -> dict[str, str]:
    """Attempts that were never made, because the sandbox could not be set up."""
    return {name: said for name, (_, said) in found.items() if "the sandbox failed" in said}


def test_the_docs_name_the_exceptions() -> None:
    """docs/security.md lists each attempt that the partial sandbox lets by."""
    text = (Path(__file__).parents[3] / "docs" / "security.md").read_text()
    for one in ATTEMPTS:
        if one.partial:
            assert one.name in text, one.name
