"""Listing, going through and removing trees, whatever a stranger has built."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ghcoord.errors import GhcoordError, PathRefused
from ghcoord.execution.files import tree
from ghcoord.execution.files.beneath import Files
from ghcoord.execution.files.opening import Opener


def build(root: Path, depth: int, name: str) -> None:
    """Folders within each other, deeper than a path can say, with a file at the end."""
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("end", os.O_WRONLY | os.O_CREAT, dir_fd=at))
    os.close(at)


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """A process that may open few files."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 50, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_listing(files: Files, root: Path) -> None:
    """A folder's own names, or all below it; kinds, sizes, modes and targets as they are."""
    files.write("a/b.txt", b"123", mode=0o640)
    files.write("a/c/d.py", b"")
    (root / "a/link").symlink_to("no such")
    assert ["a"] == [entry.path for entry in files.list()]
    assert ["b.txt", "c", "link"] == [entry.path for entry in files.list("a")]
    assert ["a", "a/b.txt", "a/c", "a/c/d.py", "a/link"] == [entry.path for entry in files.list(recursive=True)]
    assert ["c/d.py"] == [entry.path for entry in files.list("a", recursive=True, glob="*.py")]
    assert ["a", "a/b.txt"] == [entry.path for entry in files.list(recursive=True, limit=2)]
    first = files.list("a")[0]
    assert ("file", 3, 0o640, "", 1) == (first.kind, first.size, first.mode, first.target, first.links)
    assert ("link", "no such") == (files.stat("a/link").kind, files.stat("a/link").target)
    assert first.mtime_ns == (root / "a/b.txt").stat().st_mtime_ns
    assert ("folder", ".") == (files.stat(".").kind, files.stat(".").path)


def test_walking_leaves_out_what_it_is_told(files: Files) -> None:
    """Names to skip are left out wherever they lie, folders come before what they hold."""
    for path in ("a/.venv/x", "a/b/c", ".venv/y", "d"):
        files.write(path, b"")
    found = [entry.path for entry in files.walk(skip={".venv"})]
    assert ["a", "a/b", "a/b/c", "d"] == sorted(found)
    assert found.index("a") < found.index("a/b") < found.index("a/b/c")


def test_a_huge_folder_is_not_read_whole(files: Files, root: Path) -> None:
    """A list ends at its limit, however much there is."""
    for number in range(700):
        (root / f"{number:04}").touch()
    assert 100 == len(files.list(limit=100))
    assert 700 == files.usage()[1]


@pytest.mark.usefixtures("few_descriptors")
@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("d", 200),
        pytest.param("d", 1500, marks=pytest.mark.slow),
        pytest.param("n" * 250, 1500, marks=pytest.mark.slow),
    ],
    ids=["200", "1500", "long"],
)
def test_deep_trees(files: Files, root: Path, name: str, depth: int) -> None:
    """1,500 folders within each other are counted, listed, read and removed, with few descriptors."""
    build(root, depth, name)
    found = list(files.walk())
    assert (depth + 1, f"{name}/" * depth + "end") == (len(found), found[-1].path)
    assert depth + 1 == files.usage()[1]
    assert found[-1].path in [entry.path for entry in files.list(recursive=True)]
    assert (b"", 0) == files.read(found[-1].path)
    files.write(found[-1].path, b"deep")
    assert (b"deep", 4) == files.read(found[-1].path)
    assert depth + 1 == files.delete(name, recursive=True)
    assert [] == os.listdir(root)


def test_trees_that_are_too_deep_are_refused(files: Files, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a bound to the work that a stranger can cause."""
    monkeypatch.setattr(tree, "MAX_DEPTH", 20)
    build(root, 30, "d")
    every: list[Callable[[], object]] = [
        lambda: list(files.walk()),
        files.usage,
        lambda: files.delete("d", recursive=True),
        lambda: files.list(recursive=True),
    ]
    for operation in every:
        with pytest.raises(PathRefused, match="more than 20 deep"):
            operation()


def test_a_path_of_4096_bytes(files: Files, root: Path) -> None:
    """What Linux takes no longer in one call works all the same."""
    path = "/".join(["n" * 255] * 16)
    assert 4095 == len(path)
    for each in (path, path.replace("n", "m") + "/x", path.replace("n", "o") + "/y/z"):
        files.write(each, b"1")
        assert b"1" == files.read(each)[0]
    multibyte = "/".join(["ü" * 127] * 20)
    files.write(multibyte, b"2")
    assert (b"2", 1) == files.read(multibyte)
    files.move(multibyte, "short")
    assert 1 == files.delete("short")


def test_removing_follows_no_link(files: Files, root: Path) -> None:
    """What a link in a removed folder leads to stays."""
    files.write("a/b/c", b"")
    (root / "a/out").symlink_to("../../outside")
    (root / "a/b/root").symlink_to("/")
    os.mkfifo(root / "a/fifo")
    assert 6 == files.delete("a", recursive=True)
    assert ["kept"] == os.listdir(root.parent / "outside")


def test_a_folder_that_keeps_filling_is_told(files: Files, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removing gives up after some passes instead of going on for ever."""
    files.write("a/b", b"")
    rmdir = os.rmdir

    def refill(name: str, *, dir_fd: int) -> None:
        (root / "a/new").touch()
        rmdir(name, dir_fd=dir_fd)

    monkeypatch.setattr("os.rmdir", refill)
    with pytest.raises(Exception, match="files keep appearing in a"):
        files.delete("a", recursive=True)


def test_what_vanishes_meanwhile_is_left_out(files: Files, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that goes, or turns into something else, between being listed and opened is no error."""
    for name in ("a", "b", "c"):
        files.write(f"{name}/x", b"")
    found = []
    for entry in files.walk():
        found.append(entry.path)
        if len(found) == 3:
            (root / "a/x").unlink()
            (root / "a").rmdir()
            (root / "b").rename(root / "moved")
            (root / "b").symlink_to("../outside")
    assert ["a", "b", "c", "c/x"] == sorted(found)


def test_folders_that_move_meanwhile(files: Files, root: Path) -> None:
    """When the way up leads elsewhere the rest of the folder above is found by its name, or left out."""
    for name in ("a/b/c/x", "a/d/y", "a/e/z", "f/g"):
        files.write(name, b"")
    moved = False
    found = []
    for entry in files.walk():
        found.append(entry.path)
        if entry.path == "a/b/c" and not moved:
            moved = True
            (root / "a/b").rename(root / "b")
    assert {"a/d/y", "a/e/z", "f/g", "a/b/c/x"} <= set(found)

    moved = False
    found = []
    for entry in files.walk():
        found.append(entry.path)
        if entry.path in ("a/d/y", "a/e/z") and not moved:
            moved = True
            (root / "a" / entry.path.split("/")[1]).rename(root / "moved")
            (root / "a").rename(root / "gone")
            (root / "a").mkdir()
    assert {"f/g", "b/c/x"} <= set(found)
    assert 1 == len({"a/d/y", "a/e/z"} & set(found))


@pytest.mark.parametrize("change", ["moved", "replaced", "refilled", "gone"])
def test_removing_what_changes_meanwhile(
    files: Files, root: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Folders that are moved, replaced by a link or a file, or filled again end in a removed folder or a clear end."""
    for name in ("a/b/c/x", "a/d/y"):
        files.write(name, b"")
    rmdir = os.rmdir
    once: list[str] = []

    def first(name: str, *, dir_fd: int) -> None:
        if not once:
            once.append(name)
            if change == "moved":
                (root / "a/b").rename(root / "elsewhere") if name != "d" else (root / "a/d").rename(root / "elsewhere")
            elif change == "replaced":
                rmdir(name, dir_fd=dir_fd)
                os.symlink("../../outside", name, dir_fd=dir_fd)
            elif change == "refilled":
                os.mkdir(name + "/new", dir_fd=dir_fd)
            else:
                rmdir(name, dir_fd=dir_fd)
        rmdir(name, dir_fd=dir_fd)

    monkeypatch.setattr("os.rmdir", first)
    files.delete("a", recursive=True)
    assert set(os.listdir(root)) <= {"elsewhere"}
    assert ["kept"] == os.listdir(root.parent / "outside")


def as_task(root: Path, act: Callable[[Path], list[object]]) -> list[str]:
    """What ``act`` returns, run in a child that is not root."""
    if os.geteuid() != 0:
        here = os.open(".", os.O_PATH)
        os.chdir(root)
        try:
            return [str(each) for each in act(Path("."))]
        finally:
            os.fchdir(here)
            os.close(here)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.fchdir(os.open(root, os.O_PATH))
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65533)
                os.setuid(65533)
            said = [str(each) for each in act(Path("."))]
        except BaseException as failure:
            said = [repr(failure)]
        os.write(theirs, json.dumps(said).encode())
        os._exit(0)
    os.close(theirs)
    with open(ours) as answer:
        found: list[str] = json.load(answer)
    os.waitpid(child, 0)
    return found


def told(operation: Callable[[], object]) -> object:
    """What it returns, or its error's message."""
    try:
        return operation()
    except GhcoordError as error:
        return error.message


def test_permissions_that_a_task_took_away(root: Path, opener: Opener) -> None:
    """A worker reads and removes what its own user closed: files and folders without any permission."""

    def act(root: Path) -> list[object]:
        (root / "own/d/e").mkdir(parents=True)
        root /= "own"
        (root / "d/e/f").write_text("1")
        (root / "file").write_text("2")
        for path in ("d/e/f", "d/e", "d", "file"):
            (root / path).chmod(0)
        with Files(root, opener=opener) as files:
            said: list[object] = [files.read("file"), oct((root / "file").stat().st_mode)]
            said += [files.usage()[1], [entry.path for entry in files.list(recursive=True)]]
            said += [told(lambda: files.read("d/e/f")), told(lambda: files.list("d"))]
            said.append(sorted(entry.path for entry in files.walk()))
            (root / "d").chmod(0)
            said += [files.delete("d", recursive=True), os.listdir(root)]
            root.chmod(0)
            said += [told(files.list), [entry.path for entry in files.walk()], files.read("file")]
        return said

    root.chmod(0o777)
    assert [
        "(b'2', 1)",
        "0o100000",
        "2",
        "['d', 'file']",
        "its permissions forbid that: d/e/f",
        "its permissions forbid that: d",
        "['d', 'd/e', 'd/e/f', 'file']",
        "3",
        "['file']",
        "its permissions forbid that: .",
        "['file']",
        "(b'2', 1)",
    ] == as_task(root, act)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root reads what is another user's")
def test_what_is_somebody_elses_stays_closed(root: Path, opener: Opener) -> None:
    """Nothing is done to the permissions of what belongs to another user."""
    (root / "file").write_text("1")
    (root / "file").chmod(0o600)
    root.chmod(0o755)

    def act(root: Path) -> list[object]:
        with Files(root, opener=opener) as files:
            return [
                told(lambda: files.read("file")),
                told(lambda: files.write("new", b"")),
                told(lambda: files.delete("file")),
            ]

    assert [f"its permissions forbid that: {name}" for name in ("file", "new", "file")] == as_task(root, act)
    assert 0o600 == (root / "file").stat().st_mode & 0o777
