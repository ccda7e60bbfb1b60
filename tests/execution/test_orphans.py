"""What a worker's death in the middle of a sandbox's set-up leaves is ended, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ghcoord.execution.sandbox.orphans import MARK, end_orphans
from tests.processes import until


def program(folder: Path, name: str) -> str:
    """The program ``name``, called ``bwrap``."""
    found = shutil.which(name)
    assert found is not None
    folder.mkdir()
    return str(shutil.copy(found, str(folder / "bwrap")))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("ours", [True, False])
def test_only_our_orphans_are_ended(tmp_path: Path, ours: bool) -> None:
    """A pid namespace's first process whose parent has died is ended if it is ours; with its parent alive it is not.

    Whatever it has closed, and whatever runs inside by then.
    """
    inside = [program(tmp_path / "inner", "sh"), "-c", "sleep 60; :", *(MARK if ours else ("--setenv", "OTHER", "1"))]
    command = [program(tmp_path / "outer", "unshare"), "--user", "--map-root-user", "--pid", "--fork", *inside]
    outer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
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
        until(lambda: f"\nPPid:\t{outer.pid}\n" not in Path(f"/proc/{inner}/status").read_text(), 5)
        end_orphans()
        if ours:
            until(lambda: not alive(inner), 5)
        else:
            assert alive(inner)
            os.kill(inner, 9)
    finally:
        outer.kill()
        outer.wait()
