"""Checkpoints as archives: written for people, and taken from strangers."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

import ghcoord.bootstrap as bootstrap
from ghcoord.coord.sessions import archive as archives
from ghcoord.coord.sessions.archive import MANIFEST, Archive
from ghcoord.coord.sessions.tarstream import END, FILE, FOLDER, LINK, Member, header, padding
from ghcoord.errors import Corrupt, NotFound, UsageError
from ghcoord.hub import Hub
from ghcoord.model.limits import DEFAULT_LIMITS, Limits
from ghcoord.model.worker import SandboxInfo
from tests.execution.checkpoints.conftest import Desk
from tests.execution.checkpoints.test_checkpoints import FILES, again, hub_contents, hub_manifests
from tests.execution.checkpoints.trees import fill, tree


def exported(here: Desk, form: str = "tar.zst", session: str = "s1") -> bytes:
    """The session's latest checkpoint as an archive."""
    out = io.BytesIO()
    here.hub.sessions.export_checkpoint(session, here.hub.sessions.checkpoints(session)[-1].id, out, form)
    return out.getvalue()


@pytest.mark.parametrize("form", ["tar.zst", "tar.gz"])
def test_round_trip(here: Desk, there: Desk, form: str) -> None:
    """An archive of one session is the start of another: files, packages and journal; its settings are not applied."""
    session = here.session(env={"SECRET": "1"})
    folder = here.open(session)
    fill(folder.workspace, {**FILES, "large": bytes(range(256)) * 20_000})
    folder.journal_path.write_bytes(b"journal\n")
    made = here.checkpoints.save(session, folder, here.kit.sandbox, name="mine")
    data = exported(here, form)
    out = io.BytesIO()
    here.checkpoints.export(again(here, session), made.id, out, form)
    assert data == out.getvalue()

    other = here.hub.sessions.create("s2", worker="w2")
    taken = here.hub.sessions.import_checkpoint("s2", io.BytesIO(data))
    assert ("mine", made.files, made.size, True) == (taken.name, taken.files, taken.size, taken.published)
    assert {} == other.env
    restored = there.restore(again(here, other), taken.id)
    assert tree(folder.workspace) == tree(restored.workspace)
    assert b"journal\n" == restored.journal_path.read_bytes()
    assert [taken.id] == hub_manifests(here.hub, "s2")
    back = here.hub.sessions.restore("s2", taken.id)
    assert taken.id == back.restore_from


def test_the_program_tar_unpacks_an_export(here: Desk, tmp_path: Path) -> None:
    """The files of an export are there without us; the manifest comes first."""
    session = here.session()
    folder = here.open(session)
    fill(folder.workspace, FILES)
    here.checkpoints.save(session, folder, here.kit.sandbox)
    data = exported(here, "tar.gz")
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "-xzf", "-", "-C", str(out)], input=data, check=True)
    (out / MANIFEST).unlink()
    assert _timeless(folder.workspace) == _timeless(out)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert MANIFEST == tar.getnames()[0]


def _timeless(root: Path) -> dict[str, tuple[object, ...]]:
    """A tree without the times of folders, which tar keeps only when it is asked to."""
    return {path: each[:2] if each[0] == "folder" else each for path, each in tree(root).items()}


def test_a_large_listing_travels_along(here: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive whose manifest has its entries in a content of its own is whole."""
    monkeypatch.setattr("ghcoord.coord.sessions.manifests.INLINE", 10)
    session = here.session()
    folder = here.open(session)
    fill(folder.workspace, FILES)
    made = here.checkpoints.save(session, folder, here.kit.sandbox)
    assert here.hub.sessions.read_manifest("s1", made.id).record.listing is not None
    here.hub.sessions.create("s2", worker="w2")
    taken = here.hub.sessions.import_checkpoint("s2", io.BytesIO(exported(here)))
    assert here.hub.sessions.read_manifest("s2", taken.id).files == here.hub.sessions.read_manifest("s1", made.id).files
    assert here.hub.sessions.prune("s1") == here.hub.sessions.prune("s2") == 0


def test_forms(here: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown form, a strange checkpoint and a missing library are told in one sentence."""
    session = here.session()
    made = here.checkpoints.save(session, here.open(session), here.kit.sandbox)
    with pytest.raises(UsageError, match=r"tar\.zst or tar\.gz"):
        here.hub.sessions.export_checkpoint("s1", made.id, io.BytesIO(), "zip")
    with pytest.raises(NotFound):
        here.hub.sessions.export_checkpoint("s1", "c" + "0" * 12, io.BytesIO())
    with pytest.raises(NotFound):
        here.hub.sessions.export_checkpoint("nobody", made.id, io.BytesIO())
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(UsageError, match="pip install"):
        here.hub.sessions.export_checkpoint("s1", made.id, io.BytesIO())


# -- strangers'


SHA = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc"


def manifest(**more: Any) -> bytes:
    """A manifest of one file ``a`` with the content ``abc``."""
    base = {"format": 1, "id": "c" + "1" * 12, "session": "x", "epoch": 5, "created_at": "2026-11-21T00:00:00Z"}
    return json.dumps({**base, "files": {"a": f"644 3 0 {SHA}"}, **more}).encode()


def member(path: str, content: bytes = b"", kind: str = FILE, target: str = "") -> bytes:
    """A member with its content."""
    return header(Member(path, kind, 0o644, 0, len(content), target)) + content + padding(len(content))


def gz(*parts: bytes) -> bytes:
    """The parts as a packed archive."""
    packer = zlib.compressobj(1, wbits=31)
    return packer.compress(b"".join(parts)) + packer.flush()


GOOD = (member(MANIFEST, manifest()), member("a", b"abc"), END)

HOSTILE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "no archive": lambda: b"plain text",
    "no tar": lambda: gz(b"plain text" * 100),
    "no manifest": lambda: gz(member("a", b"abc"), END),
    "manifest later": lambda: gz(member("a", b"abc"), member(MANIFEST, manifest()), END),
    "manifest is a link": lambda: gz(member(MANIFEST, kind=LINK, target="/etc/passwd"), END),
    "broken manifest": lambda: gz(member(MANIFEST, b"{"), END),
    "huge manifest": lambda: gz(member(MANIFEST, b" " * 1_100_000), END),
    "another content": lambda: gz(member(MANIFEST, manifest()), member("a", b"abd"), END),
    "another size": lambda: gz(member(MANIFEST, manifest()), member("a", b"abcd"), END),
    "another file": lambda: gz(*GOOD[:2], member("b", b"abc"), END),
    "twice": lambda: gz(*GOOD[:2], member("a", b"abc"), END),
    "two manifests": lambda: gz(member(MANIFEST, manifest()), *GOOD),
    "a folder that is not there": lambda: gz(*GOOD[:2], member("d", kind=FOLDER), END),
    "a link that is not there": lambda: gz(*GOOD[:2], member("l", kind=LINK, target="x"), END),
    "another link": lambda: gz(
        member(MANIFEST, manifest(files={}, links={"l": "x"})), member("l", b"", LINK, "y"), END
    ),
    "missing": lambda: gz(member(MANIFEST, manifest()), END),
    "traversing": lambda: gz(*GOOD[:2], member("../b", b"abc"), END),
    "hard link": lambda: gz(*GOOD[:2], member("h", b"abc").replace(b"0\0", b"1\0", 1), END),
    "cut off": lambda: gz(*GOOD)[:-20],
    "cut off tar": lambda: gz(*GOOD[:2]),
    "damaged gzip": lambda: gz(*GOOD)[:60] + b"\xff" * 40,
    "damaged zstd": lambda: zstandard.compress(b"".join(GOOD))[:40] + b"\xff" * 40,
    "cut off zstd": lambda: zstandard.compress(b"".join(GOOD))[:-10],
    "listing is missing": lambda: gz(member(MANIFEST, manifest(listing={"sha256": SHA, "size": 3})), END),
    "a bomb": lambda: gz(member(MANIFEST, manifest()), header(Member("a", FILE, 0o644, 0, 2**41)), b"\0" * 2**22),
    "zstd with a huge window": lambda: b"\x28\xb5\x2f\xfd\x00\xf8" + b"\x01\x00\x00" + b"x" * 20,
}


def test_the_archive_that_they_are_made_from_is_taken(here: Desk) -> None:
    """The hostile ones are refused for what is hostile in them."""
    here.session()
    assert 1 == here.hub.sessions.import_checkpoint("s1", io.BytesIO(gz(*GOOD)), name="named").files
    assert "named" == here.hub.sessions.checkpoints("s1")[0].name


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with the session ``s1``, for what changes nothing."""
    made, _ = bootstrap.create(tmp_path_factory.mktemp("shared") / "hub")
    with made:
        made.workers.register("w1", sandbox=SandboxInfo(driver="bwrap", tier="full"))
        made.sessions.create("s1")
        yield made


@pytest.mark.parametrize("name", HOSTILE)
def test_a_strangers_archive_is_refused(name: str, shared: Hub) -> None:
    """A hostile or damaged archive makes no checkpoint."""
    with pytest.raises(Corrupt):
        shared.sessions.import_checkpoint("s1", io.BytesIO(HOSTILE[name]()))
    assert [] == shared.sessions.checkpoints("s1")
    assert [] == hub_manifests(shared)


def test_a_bomb_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that unpacks to a lot is read a piece at a time, and refused by the quota."""
    pieces: list[int] = []
    original = archives._Unpacked.read

    def watched(self: Any, size: int) -> bytes:
        data = original(self, size)
        pieces.append(len(self._held) + len(data))
        return data

    monkeypatch.setattr(archives._Unpacked, "read", watched)
    zeros = b"\0" * 2**24
    data = zstandard.compress(
        b"".join((member(MANIFEST, manifest(files={"a": f"644 {2**24} 0 {SHA}"})), member("a", zeros), END))
    )
    assert len(data) < 10_000
    with pytest.raises(Corrupt, match="archive_mb"):
        Archive(io.BytesIO(data), Limits(archive_mb=1)).manifest()
    archive = Archive(io.BytesIO(data), DEFAULT_LIMITS)
    archive.manifest()
    for _, _, stream in archive.contents():
        while stream.read(1 << 16):
            pass
    assert max(pieces) <= archives.PIECE


def test_imports_share_contents(here: Desk) -> None:
    """An archive that is taken twice is there once, as far as its contents go."""
    here.session()
    for _ in range(2):
        here.hub.sessions.import_checkpoint("s1", io.BytesIO(gz(*GOOD)))
    assert {SHA} == hub_contents(here.hub)
    assert 2 == len(hub_manifests(here.hub))
