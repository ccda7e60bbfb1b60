"""What a worker's death in the middle of a sandbox's set-up leaves is ended, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghcoord.execution.sandbox.orphans import end_orphans
from tests.processes import until


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program called ``bwrap`` that only waits."""
    found = shutil.which("sleep")
    assert found is not None
    return Path(shutil.copy(found, tmp_path / "bwrap"))


@pytest.fixture(params=["ours", "another's"])
def marked(request: pytest.FixtureRequest) -> Iterator[tuple[int, bool]]:
    """A file in memory that marks our launches, or one that does not."""
    ours = request.param == "ours"
    fd = os.memfd_create("ghcoord" if ours else "other")
    yield fd, ours
    os.close(fd)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_only_our_orphans_are_ended(program: Path, marked: tuple[int, bool]) -> None:
    """A pid namespace's first process whose parent has died is ended if it is ours; with its parent alive it is not."""
    fd, ours = marked
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", str(program), "60"]
    outer = subprocess.Popen(command, pass_fds=(fd,), stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    try:
        until(lambda: outer.poll() is not None or children.read_text().strip(), 5)
        if outer.poll() is not None:
            pytest.skip("namespaces are refused here")
        inner = int(children.read_text().split()[0])
        until(lambda: "bwrap" in Path(f"/proc/{inner}/comm").read_text(), 5)
        end_orphans()
        assert alive(inner)
        outer.kill()
        outer.wait()
        until(lambda: "\nPPid:\t1\n" in Path(f"/proc/{inner}/status").read_text(), 5)
        end_orphans()
        if ours:
            until(lambda: not alive(inner), 5)
        else:
            assert alive(inner)
            os.kill(inner, 9)
    finally:
        outer.kill()
        outer.wait()
