"""The race for the path: folders are swapped for links to the outside while the worker is at work."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ghcoord.errors import GhcoordError
from ghcoord.execution.files.beneath import Files

SWAPPER = """
import os, sys
os.chdir(sys.argv[1])
print("ready", flush=True)
while True:
    for _ in range(100):
        os.rename("d", "hidden")
        os.symlink("../outside", "d")
        os.unlink("d")
        os.rename("hidden", "d")
        os.rename("d/e", "d/hidden")
        os.symlink("../../outside", "d/e")
        os.unlink("d/e")
        os.rename("d/hidden", "d/e")
    if os.getppid() == 1:
        break
"""
"""Runs as a process of its own, so that the two really go on at once. The folder is a folder half of the time."""


@pytest.fixture
def swapping(root: Path) -> Iterator[None]:
    """Swap ``d`` and ``d/e`` with links to ``outside``, which has the same names as they have."""
    (root / "d/e").mkdir(parents=True)
    for folder in (root / "d", root / "d/e"):
        (folder / "kept").write_text("inside")
    outside = root.parent / "outside"
    (outside / "e").mkdir()
    (outside / "e" / "kept").write_text("kept")
    with subprocess.Popen([sys.executable, "-c", SWAPPER, str(root)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.kill()


@pytest.mark.usefixtures("swapping")
@pytest.mark.parametrize("seconds", [0.4, pytest.param(15.0, marks=pytest.mark.slow)], ids=["short", "long"])
def test_nothing_outside_is_ever_touched(files: Files, root: Path, seconds: float) -> None:
    """Thousands of reads, writes, listings, moves and removals under the swap: none reaches the outside."""
    outside = root.parent / "outside"
    before = {str(path): path.read_text() if path.is_file() else "" for path in outside.rglob("*")}
    seen: set[object] = set()
    done = refused = 0
    operations: list[Callable[[], object]] = [
        lambda: seen.update([files.read("d/kept")[0]]),
        lambda: seen.update([files.read("d/e/kept")[0]]),
        lambda: files.write("d/new", b"inside"),
        lambda: files.write("d/e/new", b"inside", append=True),
        lambda: files.write("d/e/deep/new", b"inside"),
        lambda: files.move("d/e/new", "d/moved", overwrite=True),
        lambda: seen.update(entry.size for entry in files.list("d") if entry.path == "kept"),
        lambda: list(files.walk()),
        lambda: files.delete("d/e/deep", recursive=True),
        lambda: files.delete("d/moved"),
    ]
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for operation in operations:
            try:
                operation()
                done += 1
            except GhcoordError:
                refused += 1
    assert {b"inside", 6} >= seen
    assert before == {str(path): path.read_text() if path.is_file() else "" for path in outside.rglob("*")}
    assert done > 100 * seconds
    assert refused > 10 * seconds


@pytest.mark.usefixtures("swapping")
def test_a_folder_is_removed_under_the_swap(files: Files, root: Path) -> None:
    """Removing all of the workspace again and again never follows a link that has just taken a folder's place."""
    outside = root.parent / "outside"
    for _ in range(100):
        with contextlib.suppress(GhcoordError):
            files.delete("d", recursive=True)
        for folder in ("d", "d/e"):
            with contextlib.suppress(OSError):
                os.mkdir(root / folder)
    assert ["e", "kept"] == sorted(os.listdir(outside))
    assert ["kept"] == os.listdir(outside / "e")
