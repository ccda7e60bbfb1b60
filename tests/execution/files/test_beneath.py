"""Reading and writing in a workspace: what works, what is refused, and in which words."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ghcoord.errors import GhcoordError, NotFound, PathRefused, SandboxError, UsageError
from ghcoord.execution.files.beneath import ENTRY_BYTES, MAX_READ, Files
from ghcoord.execution.files.opening import Opener, best_opener, openat2, walk_open
from ghcoord.execution.sandbox.base import Identity

MIB = 1024 * 1024


def fill(files: Files, path: str, piece: Callable[[], object]) -> None:
    """Write 100 pieces as a stream."""
    with files.open_new(path) as file:
        file.write(b"begun")
        for _ in range(100):
            data = piece()
            assert isinstance(data, bytes)
            file.write(data)


def test_what_is_written_is_read(files: Files, root: Path) -> None:
    """A file is made with the folders above it, replaced, and read in whole and in parts."""
    assert 5 == files.write("a/b/c.txt", b"hello")
    assert (b"hello", 5) == files.read("a/b/c.txt")
    assert (b"ell", 5) == files.read("a//b/./c.txt", 1, 3)
    assert (b"", 5) == files.read("a/b/c.txt", 9)
    assert 2 == files.write("a/b/c.txt", b"hi")
    assert "hi" == (root / "a/b/c.txt").read_text()
    assert ["a"] == os.listdir(root)


def test_a_file_keeps_its_mode_unless_one_is_given(files: Files, root: Path) -> None:
    """0644 for a new file, what was there for an old one, and never a set-user-id bit."""
    files.write("a", b"")
    assert 0o644 == (root / "a").stat().st_mode & 0o7777
    (root / "a").chmod(0o4755)
    files.write("a", b"")
    assert 0o755 == (root / "a").stat().st_mode & 0o7777
    files.write("a", b"", mode=0o6700)
    assert 0o700 == (root / "a").stat().st_mode & 0o7777


def test_appending(files: Files, root: Path) -> None:
    """A file is made when it is missing and grows by what is appended; its mode stays unless one is given."""
    assert 2 == files.write("d/log", b"ab", append=True)
    (root / "d/log").chmod(0o600)
    files.write("d/log", b"cd", append=True)
    assert (b"abcd", 4) == files.read("d/log")
    assert 0o600 == (root / "d/log").stat().st_mode & 0o7777
    files.write("d/log", b"", append=True, mode=0o640)
    assert 0o640 == (root / "d/log").stat().st_mode & 0o7777


def test_without_parents_a_missing_folder_is_an_error(files: Files) -> None:
    """The caller may ask for no folders to be made."""
    with pytest.raises(NotFound):
        files.write("no/such", b"", make_parents=False)
    assert [] == files.list()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_makes_belongs_to_the_task(root: Path, opener: Opener) -> None:
    """Files and the folders made for them are the task's, however they were made."""
    with Files(root, Identity(65533, 65533), opener=opener) as files:
        files.write("a/b/c", b"1")
        files.write("a/d", b"1", append=True)
        with files.private(b"x") as name:
            assert 65533 == (root / name).stat().st_uid
    for path in ("a", "a/b", "a/b/c", "a/d"):
        assert (65533, 65533) == ((root / path).stat().st_uid, (root / path).stat().st_gid), path


def test_a_stream_appears_when_it_is_whole(files: Files, root: Path) -> None:
    """Until the block ends the old file is there; when it raises the old one stays, and nothing else is left."""
    files.write("a", b"old")
    with files.open_new("a") as file:
        file.write(b"new" * 100_000)
        assert b"old" == (root / "a").read_bytes()
        assert ["a"] == [entry.path for entry in files.list()]
    assert b"new" * 100_000 == (root / "a").read_bytes()
    with pytest.raises(ZeroDivisionError):
        fill(files, "a", lambda: 1 // 0)
    assert 300_000 == (root / "a").stat().st_size
    assert ["a"] == os.listdir(root)


def test_a_private_file_goes_away(files: Files, root: Path) -> None:
    """It is there while the block runs, in no listing, and gone afterwards, also when somebody was faster."""
    with files.private(b"code", ".py") as name:
        assert (b"code", True) == ((root / name).read_bytes(), name.endswith(".py"))
        assert ([], [], (0, 0)) == (files.list(), files.list(recursive=True), files.usage())
        (root / name).unlink()
    assert [] == os.listdir(root)


# -- refusals


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/etc/passwd", "path must be relative to workspace root, got absolute path: /etc/passwd"),
        ("../secret", "path traversal not allowed: ../secret"),
        ("a/../../secret", "path traversal not allowed: a/../../secret"),
        ("", "the path is empty: name a file, or '.' for the workspace"),
        ("a\0b", "the path contains a NUL character: 'a\\x00b'"),
        ("x" * 256, "a name in the path has 256 bytes: at most 255 are possible"),
        ("\ud800", "the path is not valid UTF-8"),
        ("a/" * 4001, "the path has 4001 parts: at most 4000 are accepted"),
    ],
)
def test_paths_that_are_refused(files: Files, path: str, message: str) -> None:
    """Every operation refuses a bad path in the same words, and does nothing."""
    every: list[Callable[[], object]] = [
        lambda: files.read(path),
        lambda: files.open_read(path),
        lambda: files.write(path, b""),
        lambda: files.write(path, b"", append=True),
        lambda: files.list(path),
        lambda: files.stat(path),
        lambda: files.delete(path, recursive=True),
        lambda: files.move(path, "b"),
        lambda: files.move("b", path),
        lambda: files.open_new(path).__enter__(),
    ]
    for operation in every:
        with pytest.raises(PathRefused) as refusal:
            operation()
        assert message == refusal.value.message
    assert [] == files.list()


def test_the_workspace_itself_is_no_file(files: Files) -> None:
    """It is neither read nor written, removed or moved."""
    for operation in (
        files.read,
        files.delete,
        lambda path: files.write(path, b""),
        lambda path: files.move(path, "a"),
    ):
        with pytest.raises(PathRefused, match=r"not the path of a file: '\./\.'"):
            operation("./.")


def test_odd_names_are_names(files: Files, root: Path) -> None:
    """Backslashes, spaces, dots, newlines, a leading dash and other scripts mean nothing special."""
    for name in ("a\\b", "...", "..a", " ", "-rf", "new\nline", "ü", "日本"):
        files.write(name, name.encode())
        assert name.encode() == files.read(name)[0]
        assert (root / name).exists()
        assert 1 == files.delete(name)


def test_names_that_are_not_utf8(files: Files, root: Path) -> None:
    """They are listed with surrogates, and can be read and removed by these."""
    with open(os.fsencode(root) + b"/\xff", "wb") as file:
        file.write(b"1")
    assert ["\udcff"] == [entry.path for entry in files.list()]
    assert (b"1", 1) == files.read("\udcff")
    assert 1 == files.delete("\udcff")


def test_links_are_followed_inside_only(files: Files, root: Path) -> None:
    """A link to a file or folder of the workspace works, also by way of its parent; one that leads out is refused."""
    files.write("d/e/real", b"1")
    (root / "d/link").symlink_to("e/real")
    (root / "folder").symlink_to("d")
    (root / "d/e/back").symlink_to("../../d/e/real")
    for path in ("d/link", "folder/link", "folder/e/back"):
        assert b"1" == files.read(path)[0]
    files.write("folder/link", b"22")
    assert ("22", True) == ((root / "d/e/real").read_text(), (root / "d/link").is_symlink())
    files.write("folder/e/back", b"3", append=True)
    assert "223" == (root / "d/e/real").read_text()
    files.write("folder/new", b"")
    assert (root / "d/new").exists()

    (root / "out").symlink_to("../secret")
    (root / "absolute").symlink_to(root.parent / "secret")
    (root / "outside").symlink_to("../outside")
    (root / "up").symlink_to("..")
    (root / "proc").symlink_to("/proc/self/root")
    for path in ("out", "absolute", "outside/kept", "up/secret", "proc/etc/passwd", "outside/new"):
        for operation in (
            files.read,
            lambda path: files.write(path, b"x"),
            lambda path: files.write(path, b"", append=True),
        ):
            with pytest.raises(PathRefused, match="the path leads out of the workspace"):
                operation(path)
    for path in ("outside", "up"):
        with pytest.raises(PathRefused):
            files.list(path)
        with pytest.raises(PathRefused):
            files.delete(f"{path}/kept", recursive=True)
    assert 1 == files.delete("outside", recursive=True)
    assert ("secret", ["kept"]) == ((root.parent / "secret").read_text(), os.listdir(root.parent / "outside"))


def test_links_in_a_circle_and_to_nothing(files: Files, root: Path) -> None:
    """Neither makes the worker wait; a link to nothing is written through."""
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    (root / "d").symlink_to("no/such")
    (root / "e").symlink_to("new")
    for operation in (files.read, lambda path: files.write(path, b"")):
        with pytest.raises(PathRefused, match="links lead in a circle"):
            operation("a")
        with pytest.raises(NotFound):
            operation("d")
    files.write("e", b"1")
    assert "1" == (root / "new").read_text()
    (root / "f").symlink_to("./..")
    with pytest.raises(UsageError):
        files.write("f", b"")


def test_only_plain_files_are_touched(files: Files, root: Path) -> None:
    """FIFOs, sockets and hard links are refused at once for reading, writing and appending, and can be removed."""
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(root, os.O_RDONLY)
        os.chdir(root)
        try:
            server.bind("socket")
        finally:
            os.chdir("/")
            os.close(here)
        os.link(root.parent / "secret", root / "hard")
        for path in ("fifo", "socket", "hard"):
            for operation in (
                files.read,
                lambda path: files.write(path, b"x"),
                lambda path: files.write(path, b"x", append=True),
            ):
                with pytest.raises(PathRefused, match=r"not a regular file|has 2 names \(hard links\)"):
                    operation(path)
    assert {"fifo": "other", "socket": "other", "hard": "file"} == {each.path: each.kind for each in files.list()}
    for path in ("fifo", "socket", "hard"):
        assert 1 == files.delete(path)
    assert "secret" == (root.parent / "secret").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
def test_devices_are_refused(files: Files, root: Path) -> None:
    """A device node that root left in the workspace is not read."""
    os.mknod(root / "zero", 0o20666, os.makedev(1, 5))
    for operation in (files.read, lambda path: files.write(path, b"x")):
        with pytest.raises(PathRefused, match="not a regular file"):
            operation("zero")


@pytest.mark.parametrize(
    ("operation", "kind", "message"),
    [
        (lambda files: files.read("no"), NotFound, "no such file or folder: no"),
        (lambda files: files.read("folder"), UsageError, "is a folder, not a file: folder"),
        (lambda files: files.write("folder", b""), UsageError, "is a folder, not a file: folder"),
        (lambda files: files.write("folder", b"", append=True), UsageError, "is a folder, not a file: folder"),
        (lambda files: files.read("file/x"), UsageError, "not a folder, or below what is none: file/x"),
        (lambda files: files.write("file/x", b""), UsageError, "not a folder, or below what is none: file/x"),
        (lambda files: files.list("file"), UsageError, "not a folder, or below what is none: file"),
        (lambda files: files.list("no"), NotFound, "no such file or folder: no"),
        (lambda files: files.delete("no"), NotFound, "no such file or folder: no"),
        (lambda files: files.delete("folder"), UsageError, "the folder folder is not empty: pass recursive"),
        (lambda files: files.move("no", "x"), NotFound, "no such file or folder: no"),
        (
            lambda files: files.move("file", "folder/inner"),
            UsageError,
            "something is there already: folder/inner; pass",
        ),
        (lambda files: files.move("folder", "folder/x/y"), UsageError, "a folder cannot be moved into itself"),
        (lambda files: files.move("file", "folder", overwrite=True), UsageError, "is a folder, not a file: folder"),
        (lambda files: files.read("file", -1), UsageError, "offset and limit must not be negative"),
        (lambda files: files.list(glob=""), UsageError, "a pattern has 1 to 250 characters, this one has 0"),
    ],
)
def test_mistakes_are_told(
    files: Files, operation: Callable[[Files], object], kind: type[GhcoordError], message: str
) -> None:
    """Every mistake of a caller has its kind and its words."""
    files.write("file", b"1")
    files.write("folder/inner", b"1")
    with pytest.raises(GhcoordError) as refusal:
        operation(files)
    assert (kind, True) == (type(refusal.value), message in refusal.value.message)


def test_moving(files: Files, root: Path) -> None:
    """Files, folders and links move as they are, over something only when asked to."""
    files.write("a", b"1")
    files.write("d/e", b"2")
    (root / "l").symlink_to("../secret")
    files.move("a", "new/b")
    files.move("d", "new/d")
    files.move("l", "new/l")
    assert ["b", "d", "d/e", "l"] == [entry.path for entry in files.list("new", recursive=True)]
    files.move("new/d/e", "new/b", overwrite=True)
    assert (b"2", 1) == files.read("new/b")
    assert "../secret" == files.stat("new/l").target


def test_moving_where_the_system_cannot_refuse_to_replace(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without renameat2 the target is looked at first."""
    monkeypatch.setattr("ctypes.CDLL", lambda *args, **kwargs: object())
    files.write("a", b"1")
    files.write("b", b"2")
    with pytest.raises(UsageError, match="something is there already"):
        files.move("a", "b")
    files.move("a", "c")
    assert ["b", "c"] == [entry.path for entry in files.list()]


# -- limits


def test_a_file_that_is_too_large_is_refused(make: Callable[..., Files], root: Path) -> None:
    """Before it is written where its size is known, while it is written where not, and when appended to."""
    files = make(file_mb=1)
    files.write("a", b"x" * MIB)
    for path, data, append in (("b", b"x" * (MIB + 1), False), ("a", b"x", True)):
        with pytest.raises(UsageError, match="the limit file_mb allows 1 MiB"):
            files.write(path, data, append=append)
    with pytest.raises(UsageError, match="grows beyond 1 MiB, the limit file_mb"):
        fill(files, "c", lambda: b"x" * 65536)
    assert ["a"] == os.listdir(root)


def test_a_full_workspace_takes_no_more(make: Callable[..., Files], root: Path) -> None:
    """What lies there counts, also what a task wrote; what was deleted does not."""
    files = make(workspace_mb=2)
    files.write("a", b"x" * MIB)
    (root / "task").write_bytes(b"x" * (MIB // 2))
    assert 3 * MIB // 2 == files.usage()[0]
    with pytest.raises(UsageError, match="more are too many: the limit workspace_mb allows 2 MiB; delete something"):
        files.write("b", b"x" * MIB)
    with pytest.raises(UsageError, match="grows beyond 2 MiB, the limit workspace_mb"):
        fill(files, "c", lambda: b"x" * 65536)
    files.delete("a")
    files.write("b", b"x" * MIB)
    assert ["b", "task"] == sorted(os.listdir(root))


def test_reading_has_a_limit(files: Files, root: Path) -> None:
    """A huge file is read in pieces only."""
    with open(root / "huge", "wb") as file:
        file.truncate(MAX_READ + 1)
    with pytest.raises(UsageError, match="give a limit"):
        files.read("huge")
    assert (b"\0\0", MAX_READ + 1) == files.read("huge", MAX_READ - 1, 2)


def test_usage_counts_what_is_on_disk(files: Files, root: Path) -> None:
    """A hole takes no room; folders and links count as entries."""
    assert (0, 0) == files.usage()
    files.write("a/b", b"x" * 100_000)
    with open(root / "hole", "wb") as file:
        file.truncate(MIB * 1000)
    size, count = files.usage()
    assert (True, 3) == (100_000 <= size < 300_000, count)
    assert size + 3 * ENTRY_BYTES == files.known


@pytest.mark.slow
def test_a_crowd_of_small_files_hides_no_large_one(make: Callable[..., Files], root: Path) -> None:
    """However many entries lie before it in the folder, a file counts; and every entry takes some room."""
    files = make(workspace_mb=40)
    for number in range(60_000):
        os.close(os.open(root / f"{number}", os.O_CREAT | os.O_WRONLY))
    (root / "large").write_bytes(b"x" * (20 * MIB))
    with pytest.raises(UsageError, match="workspace_mb"):
        files.write("more", b"x" * MIB)


# -- the folder


def test_a_missing_workspace_is_the_infrastructures_fault(tmp_path: Path) -> None:
    """Neither a missing folder nor a link to one is opened."""
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("no", "link"):
        with pytest.raises(SandboxError, match="cannot be used"):
            Files(tmp_path / name)


def test_no_descriptor_is_left(root: Path, opener: Opener) -> None:
    """Whatever is done, also what fails, nothing stays open."""
    before = len(os.listdir("/proc/self/fd"))
    (root / "out").symlink_to("../outside")
    (root / "loop").symlink_to("loop")
    for _ in range(3):
        with Files(root, opener=opener) as files:
            files.write("a/b", b"1")
            files.write("a/b", b"1", append=True)
            files.read("a/b")
            list(files.walk())
            files.move("a/b", "a/c")
            for path in ("out/kept", "loop", "no/no", "a"):
                for operation in (files.read, lambda path: files.write(path, b"", make_parents=False), files.delete):
                    try:
                        operation(path)
                    except GhcoordError:
                        continue
            files.delete("a", recursive=True)
        files.close()
    assert before == len(os.listdir("/proc/self/fd"))


def test_the_best_way_of_opening_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """openat2 where it works, the walk where a container's filter refuses it."""
    best_opener.cache_clear()
    assert openat2 is best_opener()

    def refused(*args: object, **kwargs: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("ghcoord.execution.files.opening.openat2", refused)
    best_opener.cache_clear()
    try:
        assert walk_open is best_opener()
    finally:
        best_opener.cache_clear()
