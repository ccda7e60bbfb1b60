"""Races for a path with the worker's own tools: each is lost by a careless way of doing it."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ghcoord.errors import GhcoordError
from ghcoord.execution.files.beneath import Files
from ghcoord.execution.workspace import remove_tree
from tests.execution.attacks import naive

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

LOST = 30.0
"""Seconds in which a careless way must have lost its race, on a busy machine."""

HELD = 2.0
"""Seconds for which ours is raced with."""

SWAPPER = """
import os, sys
os.chdir(sys.argv[1])
print("ready", flush=True)
while os.getppid() != 1:
    for _ in range(100):
        os.rename("folder", "hidden")
        os.symlink("../outside", "folder")
        os.unlink("folder")
        os.rename("hidden", "folder")
"""

FLIPPER = """
import contextlib, os, sys
os.chdir(sys.argv[1])
print("ready", flush=True)
while os.getppid() != 1:
    for number in range(4):
        file, link = f"file{number}", f"link{number}"
        with contextlib.suppress(OSError):
            os.symlink(sys.argv[2], link)
        with contextlib.suppress(OSError):
            os.close(os.open(file, os.O_CREAT | os.O_EXCL, 0o666)); os.chmod(file, 0o666)
        for _ in range(50):
            with contextlib.suppress(OSError):
                os.rename(file, "other"); os.rename(link, file); os.rename("other", link)
                os.rename(link, "other"); os.rename(file, link); os.rename("other", file)
"""


@contextlib.contextmanager
def racing(code: str, *args: object) -> Iterator[None]:
    """Another process at work meanwhile."""
    with subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE) as racer:
        assert racer.stdout is not None
        racer.stdout.readline()
        try:
            yield
        finally:
            racer.kill()


def repeated(attempt: Callable[[], object], lost: Callable[[], bool], seconds: float) -> bool:
    """Whether ``lost`` becomes true while ``attempt`` is repeated."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(20):
            with contextlib.suppress(OSError, ValueError, GhcoordError):
                attempt()
            if lost():
                return True
    return False


def test_reading_while_a_folder_becomes_a_link(files: Files, root: Path) -> None:
    """A path that was compared before it was opened leads outside by then."""
    seen: set[object] = set()
    with racing(SWAPPER, root):
        assert repeated(lambda: seen.add(naive.read(root, "folder/secret")), lambda: b"secret" in seen, LOST)
        seen.clear()
        assert not repeated(lambda: seen.add(files.read("folder/secret")[0]), lambda: b"secret" in seen, HELD)
    assert {b"inside"} == seen


def test_writing_while_a_folder_becomes_a_link(files: Files, root: Path, outside: Path) -> None:
    """The same for what is written, in its place or at its end."""
    target = outside / "written"
    with racing(SWAPPER, root):
        assert repeated(lambda: naive.write(root, "folder/written", b"x"), target.exists, LOST)
        target.unlink()
        assert not repeated(lambda: files.write("folder/written", b"x"), target.exists, HELD)
        assert not repeated(lambda: files.write("folder/written", b"x", append=True), target.exists, HELD)
        assert not repeated(lambda: files.write("folder/written/deep", b"x"), target.exists, HELD)


def test_listing_while_a_folder_becomes_a_link(files: Files, root: Path, outside: Path) -> None:
    """Names of the outside are told nobody, by a list, by going through everything or by counting."""
    (outside / "private").touch()
    seen: set[object] = set()
    with racing(SWAPPER, root):
        assert repeated(lambda: seen.update(naive.names(root, "folder")), lambda: "private" in seen, LOST)
        seen.clear()
        assert not repeated(lambda: seen.update(e.path for e in files.list("folder")), lambda: "private" in seen, HELD)
        walk = lambda: seen.update(e.path.rpartition("/")[2] for e in files.walk())  # noqa: E731
        assert not repeated(walk, lambda: "private" in seen, HELD)


def test_deleting_while_a_folder_becomes_a_link(files: Files, root: Path, outside: Path) -> None:
    """A file outside of the same name stays."""
    target = outside / "kept"

    def prepare() -> None:
        target.touch()
        with contextlib.suppress(FileNotFoundError):
            (root / "folder" / "kept").touch()

    def careless() -> None:
        prepare()
        naive.delete(root, "folder/kept")

    def gone() -> bool:
        return not target.exists()

    with racing(SWAPPER, root):
        assert repeated(careless, gone, LOST)
        target.touch()
        assert not repeated(lambda: files.delete("folder/kept"), gone, HELD)
        assert not repeated(lambda: files.delete("folder", recursive=True), gone, HELD)


def test_moving_while_a_folder_becomes_a_link(files: Files, root: Path, outside: Path) -> None:
    """Nothing comes in from outside, nothing goes there."""
    (root / "mine").write_text("mine")

    def careless() -> None:
        with contextlib.suppress(OSError):
            os.rename(root / "folder/mine", root / "mine")
        os.rename(naive.checked(root, "mine"), naive.checked(root, "folder/mine"))

    target = outside / "mine"
    with racing(SWAPPER, root):
        assert repeated(careless, target.exists, LOST)
        target.rename(root / "mine")
        assert not repeated(lambda: files.move("mine", "folder/mine"), target.exists, HELD / 2)
        assert not repeated(lambda: files.move("folder/secret", "stolen", overwrite=True), target.exists, HELD / 2)
    assert "secret" == (outside / "secret").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="the worker is root, or it could change nothing of anybody else's")
def test_removing_while_a_file_becomes_a_link(base: Path) -> None:
    """A root worker that gives files back to their owner by name gives away the machine's."""
    victim = base / "shadow"
    victim.write_text("root:x")
    victim.chmod(0o600)
    folder = base / "left"
    folder.mkdir()

    def given_away() -> bool:
        return 0o600 != stat.S_IMODE(victim.stat().st_mode)

    def ours() -> None:
        remove_tree(folder)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()

    with racing(FLIPPER, folder, victim):
        assert repeated(lambda: naive.clear(folder), given_away, LOST)
    victim.chmod(0o600)
    with racing(FLIPPER, folder, victim):
        assert not repeated(ours, given_away, HELD)
    assert "root:x" == victim.read_text()
