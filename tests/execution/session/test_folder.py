"""Folders of sessions on disk: the marker, the lock on a worker's folder, and what is put away."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ghcoord.errors import Denied, InvalidName
from ghcoord.execution.session.folder import (
    MAX_MARKER,
    Marker,
    SessionFolder,
    SessionsHome,
    hub_folder,
    read_marker,
    write_marker,
)
from ghcoord.execution.workspace import remove_tree
from ghcoord.model.codec import stamp
from ghcoord.model.session import Session


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A session's folder with a marker."""
    session = Session(id="s1", created_at=stamp(0), last_active=stamp(0), epoch=3)
    folder = SessionFolder(session, tmp_path / "s1")
    folder.make()
    folder.mark()
    return folder.root


def test_a_marker_is_read_as_it_was_written(root: Path) -> None:
    """The id and the epoch; private to the worker."""
    assert Marker("s1", 3) == read_marker(root)
    assert 0o600 == (root / "session.json").stat().st_mode & 0o777


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"id": "s2", "epoch": 3}', '{"id": "s1", "epoch": "3"}', "\0"])
def test_a_marker_that_says_nothing_right_is_none(root: Path, content: str) -> None:
    """Another id, another type, no JSON."""
    (root / "session.json").write_text(content)
    assert read_marker(root) is None


def test_a_marker_that_is_no_plain_file_is_none(root: Path, tmp_path: Path) -> None:
    """No link is followed, no pipe waited for, nothing huge read; and a folder without a workspace has none."""
    marker = root / "session.json"
    good = tmp_path / "good"
    marker.rename(good)
    marker.symlink_to(good)
    assert read_marker(root) is None
    marker.unlink()
    os.mkfifo(marker)
    assert read_marker(root) is None
    marker.unlink()
    marker.write_text(" " * MAX_MARKER + good.read_text())
    assert read_marker(root) is None
    write_marker(root, Marker("s1", 4))
    (root / "workspace").rename(root / "elsewhere")
    assert read_marker(root) is None


def test_files_and_kept_folders(root: Path, tmp_path: Path) -> None:
    """Files come anew after a close; a kept folder's name cannot leave the session."""
    session = Session(id="s1", created_at=stamp(0), last_active=stamp(0), epoch=3)
    folder = SessionFolder(session, root)
    folder.files.write("f", b"x")
    folder.close()
    assert (b"x", 1) == folder.files.read("f")
    folder.close()
    assert root / "keep" / "uv" == folder.keep("uv")
    with pytest.raises(InvalidName):
        folder.keep("../x")


def test_a_folder_is_held_by_one_process(tmp_path: Path) -> None:
    """Another one is told so; when the holder is gone it gets it, and an empty folder leaves nothing behind."""
    one = SessionsHome(tmp_path, "hub-1", "w1")
    assert one.hold()
    assert one.hold()
    code = (
        "from pathlib import Path; from ghcoord.execution.session.folder import SessionsHome; import sys;"
        "print(SessionsHome(Path(sys.argv[1]), 'hub-1', 'w1').hold())"
    )

    def other() -> str:
        return subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
        ).stdout.strip()

    assert "False" == other()
    one.close()
    assert not (tmp_path / "sessions").exists()
    assert "True" == other()


def test_hubs_on_one_machine_are_kept_apart(tmp_path: Path) -> None:
    """The same worker id of two hubs has two folders."""
    one, two = SessionsHome(tmp_path, "Hub-1", "w1"), SessionsHome(tmp_path, "hub-2", "w1")
    assert one.hold()
    assert two.hold()
    assert one.folder != two.folder
    assert ("hub1", "hub", "aaaaaaaaaa") == (hub_folder("Hub-1"), hub_folder("—"), hub_folder("a" * 40))
    one.close()
    two.close()


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """Not followed, and the message names the option."""
    (tmp_path / "target").mkdir()
    (tmp_path / "sessions").symlink_to(tmp_path / "target")
    with pytest.raises(Denied, match="--workspace"):
        SessionsHome(tmp_path, "h", "w1").hold()
    (tmp_path / "sessions").unlink()
    (tmp_path / "sessions").write_text("")
    with pytest.raises(Denied, match="cannot use"):
        SessionsHome(tmp_path, "h", "w1").hold()


def test_what_is_set_aside_is_gone_at_once(tmp_path: Path) -> None:
    """And what a killed worker did not get to remove goes when the folder is held again."""
    home = SessionsHome(tmp_path, "h", "w1")
    home.hold()
    (home.root("s1") / "workspace").mkdir(parents=True)
    assert home.set_aside("s9") is None
    gone = home.set_aside("s1")
    assert gone is not None
    assert gone.exists()
    assert not home.root("s1").exists()
    assert [] == home.unfinished()
    (home.root("s2") / "workspace").mkdir(parents=True)
    home.close()
    assert gone.exists()
    again = SessionsHome(tmp_path, "h", "w1")
    again.hold()
    assert not gone.exists()
    assert ["s2"] == again.unfinished()
    again.close()


@pytest.mark.slow
def test_a_tree_of_a_thousand_levels_is_removed(tmp_path: Path) -> None:
    """Too deep for a recursion and too long for a path."""
    (tmp_path / "deep").mkdir()
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tmp_path / "deep")
        for _ in range(1500):
            os.mkdir("d" * 20)
            os.chdir("d" * 20)
    finally:
        os.fchdir(before)
        os.close(before)
    remove_tree(tmp_path / "deep")
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["closed", "held", "link", "file", "nothing"])
def test_whatever_a_task_left_is_removed(tmp_path: Path, how: str) -> None:
    """Folders that their owner closed or may not write, and what is no folder; what a link names stays."""
    left, other = tmp_path / "left", tmp_path / "other"
    (other / "kept").mkdir(parents=True)
    if how == "link":
        left.symlink_to(other)
    elif how == "file":
        left.write_text("x")
    elif how != "nothing":
        (left / "a" / "b").mkdir(parents=True)
        (left / "a" / "b" / "file").touch()
        (left / "a" / "link").symlink_to(other)
        for folder in (left / "a" / "b", left / "a", left):
            folder.chmod(0 if how == "closed" else 0o500)
        if os.geteuid() == 0:
            for path in (left, left / "a", left / "a/b", left / "a/b/file"):
                os.chown(path, 65533, 65533)
    in_child(tmp_path, lambda: remove_tree(Path("left")))
    assert ["other"] == os.listdir(tmp_path)
    assert ["kept"] == os.listdir(other)


def in_child(folder: Path, work: Callable[[], None]) -> None:
    """``work`` in ``folder``, by a user whom modes hold."""
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(folder)
            if os.geteuid() == 0:
                os.chown(folder, 65533, 65533)
                os.setresgid(65533, 65533, 65533)
                os.setresuid(65533, 65533, 65533)
            work()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
