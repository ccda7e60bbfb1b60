"""Workspaces, archives and contents of strangers."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghcoord.coord.sessions.archive import tar_of
from ghcoord.coord.sessions.manifests import FileEntry, FolderEntry, Manifest, ManifestRecord
from ghcoord.coord.sessions.tarstream import END, FILE, FOLDER, LINK, Member, header, padding
from ghcoord.errors import Corrupt, SandboxError
from ghcoord.execution.checkpoints import extractor
from ghcoord.execution.checkpoints.unpack import program, unpack
from ghcoord.execution.sandbox.base import prepare_workspace
from ghcoord.execution.tools.kit import Kit
from ghcoord.model.codec import stamp
from ghcoord.model.limits import DEFAULT_LIMITS, Limits
from tests.execution.checkpoints.conftest import RUNTIME, Desk
from tests.execution.checkpoints.test_checkpoints import again
from tests.execution.checkpoints.trees import fill, tree


def file(path: str, content: bytes = b"x", mode: int = 0o644) -> bytes:
    """A file in a stream."""
    return header(Member(path, FILE, mode, 0, len(content))) + content + padding(len(content))


def link(path: str, target: str) -> bytes:
    """A symbolic link in a stream."""
    return header(Member(path, LINK, 0o777, 0, 0, target))


def folder(path: str, mode: int = 0o755) -> bytes:
    """A folder in a stream."""
    return header(Member(path, FOLDER, mode, 0))


@pytest.fixture
def target(here: Desk, kit: Kit) -> Path:
    """An empty folder to unpack into, with a secret beside it."""
    here.base.mkdir(mode=0o711)
    (here.base / "secret").write_text("secret")
    made = here.base / "target"
    made.mkdir()
    assert kit.sandbox is not None
    prepare_workspace(made, kit.sandbox.identity)
    return made


def run(stream: bytes | Iterator[bytes], target: Path, kit: Kit, limits: Limits = DEFAULT_LIMITS) -> None:
    """Unpack ``stream`` in the sandbox."""
    assert kit.sandbox is not None
    pieces = iter([stream]) if isinstance(stream, bytes) else stream
    unpack(pieces, target, kit.sandbox, RUNTIME, limits=limits, timeout=60)


# -- streams


def test_links_are_made_last(target: Path, kit: Kit) -> None:
    """A file cannot be written through a link of the same stream: its name is taken, or its folder is none."""
    with pytest.raises(Corrupt):
        run(link("out", "../secret") + file("out") + END, target, kit)
    assert "secret" == (target.parent / "secret").read_text()


STREAMS = {
    "through a link": link("out", "..") + file("out/secret") + END,
    "two files": file("a") + file("a") + END,
    "two folders": folder("a") + folder("a") + END,
    "file and folder": file("a") + folder("a") + END,
    "file and link": file("a") + link("a", "b") + END,
    "below a file": file("a") + file("a/b") + END,
    "a path beyond PATH_MAX": file("/".join(["d" * 200] * 40)) + END,
    "a name beyond NAME_MAX": file("x" * 300) + END,
    "traversing": file("../secret") + END,
    "absolute": file("/tmp/ghcoord-out") + END,
    "cut off": file("cut off")[:-600],
    "empty": b"",
    "no tar": b"no tar at all" * 100,
}


@pytest.mark.parametrize("name", STREAMS)
def test_what_a_stream_cannot_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not even without a sandbox does a stream reach anything outside; the refusal says why."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "target").mkdir()
    monkeypatch.chdir(tmp_path / "target")
    assert 1 == _main(STREAMS[name], tmp_path)
    assert 1 == capfd.readouterr().err.count("\n")
    assert "secret" == (tmp_path / "secret").read_text()
    assert not Path("/tmp/ghcoord-out").exists()


def _main(stream: bytes, tmp_path: Path) -> int:
    """The extractor in this process."""
    (tmp_path / "stream").write_bytes(stream)
    before, mask = os.dup(0), os.umask(0)
    try:
        with open(tmp_path / "stream", "rb") as source:
            os.dup2(source.fileno(), 0)
        return extractor.main(["", "1000", "1000000"])
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.umask(mask)


def test_what_it_can_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Folders, files and links, with modes and times, and an account of them."""
    (tmp_path / "target").mkdir()
    monkeypatch.chdir(tmp_path / "target")
    stream = folder("d", 0o751) + file("d/a", b"content", 0o604) + link("d/l", "../../x") + END
    assert 0 == _main(stream, tmp_path)
    assert "1 files, 1 folders, 1 links, 7 bytes\n" == capfd.readouterr().out
    assert {
        "d": ("folder", 0o751, 0),
        "d/a": ("file", 0o604, 0, b"content"),
        "d/l": ("link", "../../x"),
    } == tree(tmp_path / "target")


def test_modes_are_no_more_than_permissions(target: Path, kit: Kit) -> None:
    """Set-user-id and sticky bits do not come back; a folder that may not be written is filled all the same."""
    block = bytearray(file("suid", mode=0o755))
    block[100:108] = b"0006777\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    run(folder("closed", 0o500) + file("closed/a", mode=0) + bytes(block) + END, target, kit)
    assert 0o777 == (target / "suid").stat().st_mode & 0o7777
    assert 0o500 == (target / "closed").stat().st_mode & 0o7777
    assert 0 == (target / "closed/a").stat().st_mode & 0o7777


def test_quotas_of_members_and_bytes(target: Path, kit: Kit) -> None:
    """What claims to be larger than the limits is refused before it is written."""
    many = b"".join(file(f"f{n}", b"") for n in range(30)) + END
    with pytest.raises(Corrupt, match="archive_files"):
        run(many, target, kit, DEFAULT_LIMITS.model_copy(update={"archive_files": 20}))
    with pytest.raises(Corrupt, match="archive_mb"):
        run(header(Member("bomb", FILE, 0o644, 0, 2**40)), target, kit)
    assert not (target / "bomb").exists()


@pytest.mark.slow
def test_a_hundred_thousand_members(target: Path, kit: Kit) -> None:
    """As many members as the usual limit allows are unpacked, one more is not."""

    def stream(count: int) -> Iterator[bytes]:
        for n in range(100):
            yield folder(f"{n}")
        for n in range(count - 100):
            yield file(f"{n % 100}/{n}", b"")
        yield END

    run(stream(100_000), target, kit)
    assert 100_000 - 100 == sum(len(os.listdir(target / f"{n}")) for n in range(100))
    other = target.with_name("other")
    other.mkdir()
    assert kit.sandbox is not None
    prepare_workspace(other, kit.sandbox.identity)
    with pytest.raises(Corrupt, match="archive_files"):
        run(stream(100_001), other, kit)


def test_an_error_of_the_stream_comes_through(target: Path, kit: Kit) -> None:
    """What the source of a stream raises is what unpacking raises, and nothing hangs."""

    def broken() -> Iterator[bytes]:
        yield file("a")
        raise Corrupt("its content is gone")

    with pytest.raises(Corrupt, match="its content is gone"):
        run(broken(), target, kit)
    before = threading.active_count()

    def endless() -> Iterator[bytes]:
        while True:
            yield b"no tar" * 10_000

    with pytest.raises(Corrupt, match="cannot be unpacked"):
        run(endless(), target, kit)
    assert before == threading.active_count()


def test_without_python_nothing_is_unpacked(target: Path, kit: Kit) -> None:
    """A sandbox without an interpreter is told, not worked around."""

    class Bare:
        name = "bare"
        python = None

    with pytest.raises(SandboxError, match="python3"):
        unpack(iter([END]), target, Bare(), RUNTIME, limits=DEFAULT_LIMITS)  # type: ignore[arg-type]


def test_the_program_stands_alone() -> None:
    """What runs inside needs nothing of ours, nor anything that is slow to import."""
    imports = [line for line in program().splitlines() if line.startswith(("import ", "from "))]
    assert {
        "from __future__ import annotations",
        "from collections.abc import Callable",
        "import errno",
        "import os",
        "import sys",
    } == set(imports)


# -- workspaces


def test_a_hostile_workspace(here: Desk) -> None:
    """Nothing is followed, waited for or read from elsewhere; what cannot be kept is named."""
    session = here.session()
    place = here.open(session)
    root = place.workspace
    outside = here.base / "outside"
    outside.write_text("outside")
    fill(root, {"good": "good", "up -> ../../outside": "", "folder -> /etc": "", "d/e": "e"})
    os.mkfifo(root / "fifo")
    os.link(outside, root / "hard")
    server = socket.socket(socket.AF_UNIX)
    here_was = os.open(".", os.O_RDONLY)
    os.chdir(root)
    try:
        server.bind("socket")
    finally:
        os.fchdir(here_was)
        os.close(here_was)
    os.mkdir(os.fsencode(root) + b"/\xff")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff/inside")).write_text("x")
    (root / ".venv/lib/python3.11/site-packages/x-1.0.dist-info").mkdir(parents=True)
    fill(root, {"d/__pycache__/x.pyc": "x", ".cache/pip/x": "x", ".ghcoord-task.py": "x", ".venv/bin/python": "x"})
    deep = "/".join(["n" * 250] * 13)
    os.makedirs(root / deep)
    made = here.checkpoints.save(session, place, here.kit.sandbox)
    server.close()
    manifest = here.hub.sessions.read_manifest("s1", made.id)
    assert {"good", "d/e"} == manifest.files.keys()
    assert {"up": "../../outside", "folder": "/etc"} == manifest.links
    assert "d" in manifest.folders
    assert not any(".venv" in path or "__pycache__" in path or ".cache" in path for path in manifest.folders)
    assert ("x==1.0",) == made.packages
    left = {each.path[:5]: each.why for each in manifest.record.left_out}
    assert {"fifo", "hard", "socke", "\\xff", "\\xff/", "nnnnn"} == left.keys()
    assert "hard links" in left["hard"]
    assert 7 == manifest.record.left_out_count  # with the last of the deep folders


def test_files_that_change_while_they_are_read(here: Desk) -> None:
    """A file that grows, shrinks, goes or becomes something else is kept as it was read, or left out."""
    session = here.session()
    place = here.open(session)
    root = place.workspace
    fill(root, {f"f{n:02d}": "x" * 1000 for n in range(60)})
    ends = threading.Event()

    def churn() -> None:
        turn = 0
        while not ends.is_set():
            turn += 1
            path = root / f"f{turn % 60:02d}"
            try:
                if turn % 4 == 0:
                    path.write_bytes(b"y" * (turn % 3000))
                elif turn % 4 == 1:
                    path.unlink()
                elif turn % 4 == 2:
                    path.symlink_to("/etc/passwd")
                else:
                    os.replace(root / f"f{(turn + 7) % 60:02d}", path)
            except OSError:
                pass

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        saved = [here.checkpoints.save(session, place, here.kit.sandbox) for _ in range(3)]
    finally:
        ends.set()
        thread.join()
    for each in saved:
        manifest = here.hub.sessions.read_manifest("s1", each.id)
        for entry in manifest.files.values():
            content = b"".join(here.hub.sessions.read_content("s1", entry.sha256))
            assert entry.size == len(content)
            assert not content.startswith(b"root:")


# -- contents


def _spoil(store_folder: Path, how: bytes) -> None:
    for path in store_folder.glob("objects/*/*"):
        path.write_bytes(how)


def test_a_spoilt_local_store_is_passed_over_for_the_hub(here: Desk) -> None:
    """Contents that are damaged on this machine come from the hub; without them there nothing half is restored."""
    session = here.session()
    place = here.open(session)
    fill(place.workspace, {"a": "content", "b": b"\1" * 3_000_000})
    before = tree(place.workspace)
    made = here.checkpoints.save(session, place, here.kit.sandbox)
    _spoil(here.checkpoints.store("s1").folder, b"damaged")
    present = again(here, session)
    place.root.rename(place.root.with_name("before"))
    restored = here.restore(present, made.id)
    assert before == tree(restored.workspace)

    fill(restored.workspace, {"mine": "as it was"})
    for digest in {entry.sha256 for entry in here.hub.sessions.read_manifest("s1", made.id).files.values()}:
        here.hub.contents.drop(_folder(), [digest])
    with pytest.raises(Corrupt):
        here.checkpoints.restore(present, made.id, restored, here.kit)
    assert "as it was" == (restored.workspace / "mine").read_text()
    assert ["workspace"] == [each.name for each in restored.root.iterdir()]


def _folder() -> str:
    from ghcoord.coord import layout

    return layout.checkpoints_folder("s1")


def test_a_spoilt_manifest_is_passed_over_for_the_hub(here: Desk) -> None:
    """A manifest on this machine that cannot be read, or is another's, is read from the hub."""
    session = here.session()
    place = here.open(session)
    fill(place.workspace, {"a": "content"})
    made = here.checkpoints.save(session, place, here.kit.sandbox)
    store = here.checkpoints.store("s1")
    present = again(here, session)
    for data in (b"{", (store.manifest(made.id) or b"").replace(b'"s1"', b'"s2"')):
        (store.folder / "manifests" / f"{made.id}.json").write_bytes(data)
        place.root.rename(place.root.with_name(f"before-{len(data)}"))
        place = here.restore(present, made.id)
        assert "content" == (place.workspace / "a").read_text()


def test_a_content_of_another_size_is_refused() -> None:
    """A manifest whose sizes are not those of its contents gives no stream that ends."""
    record = ManifestRecord.model_validate({"id": "c" + "1" * 12, "session": "s", "epoch": 1, "created_at": stamp(1)})
    for size in (2, 4):
        manifest = Manifest(record, {"d/a": FileEntry(0o644, size, 0, "ab" * 32)}, {"d": FolderEntry(0o755, 0)})
        with pytest.raises(Corrupt, match="bytes"):
            list(tar_of(manifest, lambda digest: iter([b"abc"]), with_manifest=False))
