"""Artifacts: stored once, found by their owners, gone when nobody needs them, whoever holds the content."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghcoord.bootstrap import create
from ghcoord.config import ArtifactSettings, parse_settings
from ghcoord.coord import layout
from ghcoord.coord.artifacts import records, sources
from ghcoord.coord.artifacts.sources import IN_MEMORY
from ghcoord.coord.context import ARTIFACT_TABLE
from ghcoord.coord.files.content import CHUNK
from ghcoord.coord.layout import FILES
from ghcoord.errors import (
    Corrupt,
    Denied,
    InvalidName,
    NewerSchema,
    NotFound,
    OutcomeUnknown,
    TooLarge,
    Unavailable,
    UsageError,
)
from ghcoord.hub import Hub
from ghcoord.model.artifact import Artifact, plain_name
from ghcoord.model.codec import encode
from ghcoord.testing.faults import CommitFault
from tests.coord.world import World

BINARY = bytes(range(256)) * 10


def content(hub: Hub, artifact: Artifact) -> bytes:
    return b"".join(hub.artifacts.open(artifact.id))


def check_index(world: World) -> dict[str, Artifact]:
    """The index is what the records say, and no content is there that no record has; the artifacts by id."""
    snapshot = world.snapshot(FILES)
    found = {one.id: one for one in ARTIFACT_TABLE.scan(snapshot)}
    wanted = {path for one in found.values() for path in records.index_paths(one)}
    there = {path for folder in layout.ARTIFACT_INDEX for path, _ in snapshot.walk(folder)}
    assert wanted == there
    stored = {path.split("/")[4] for path, _ in snapshot.walk(f"{layout.STORED}/{layout.DATA}")}
    assert {one.sha256 for one in found.values() if one.where == "hub"} == stored
    return found


def holding(world: World, folder: Path, **more: object) -> Hub:
    return world.open(artifacts=ArtifactSettings(where="directory", directory=str(folder), **more))  # type: ignore[arg-type]


# -- put, get, list, delete


def test_a_stored_file_is_what_it_was(both: World) -> None:
    """Name, size, digest, type by name, owners and maker are in the record; the content is binary and whole."""
    hub = both.open("anna")
    made = hub.artifacts.put("data/report.PDF", BINARY, session_id="s1", task_id="t1")
    assert made == hub.artifacts.get(made.id)
    assert ("data/report.PDF", 2560, hashlib.sha256(BINARY).hexdigest()) == (made.name, made.size, made.sha256)
    assert ("application/pdf", "anna", "s1", "t1", "hub") == (
        made.content_type,
        made.created_by,
        made.session_id,
        made.task_id,
        made.where,
    )
    assert None is made.expires_at
    assert BINARY == content(hub, made)
    assert {made.id} == set(check_index(both))


@pytest.mark.parametrize("size", [0, 1, IN_MEMORY + 1])
def test_bytes_files_and_streams_are_the_same(hub: Hub, tmp_path: Path, size: int) -> None:
    """All three ways give the same content, and the stream goes on from where it stands."""
    data = os.urandom(size)
    file = tmp_path / "x.bin"
    file.write_bytes(data)
    stream = io.BytesIO(b"skipped" + data)
    stream.seek(7)
    made = [hub.artifacts.put("x", source) for source in (data, file, stream)]
    assert 1 == len({one.sha256 for one in made})
    assert [data] * 3 == [content(hub, one) for one in made]


def test_a_pipe_is_read_to_its_end(hub: Hub) -> None:
    """What cannot be read twice is kept meanwhile."""
    inner, outer = os.pipe()
    os.write(outer, b"through a pipe")
    os.close(outer)
    with os.fdopen(inner, "rb") as source:
        assert b"through a pipe" == content(hub, hub.artifacts.put("x", source))


def test_the_same_content_is_kept_once(world: World) -> None:
    """Until the last artifact that has it is deleted."""
    hub = world.open()
    big = os.urandom(CHUNK + 5)
    first, second = (hub.artifacts.put(name, big) for name in ("a", "b"))
    assert 2 == len([path for path in world.files(FILES) if "/data/" in path and not path.endswith("whole.json")])
    assert hub.artifacts.delete(first.id)
    assert big == content(hub, second)
    check_index(world)
    assert hub.artifacts.delete(second.id)
    assert not hub.artifacts.delete(second.id)
    assert {"space.json"} == set(world.files(FILES))


def test_putting_what_is_just_deleted(world: World) -> None:
    """The content goes between the look and the commit: it is stored again."""
    hub, other = world.open(), world.open("other")
    first = hub.artifacts.put("a", b"same")

    snapshot = hub._context.snapshot
    calls = []

    def looked(space: str):  # type: ignore[no-untyped-def]
        found = snapshot(space)
        calls.append(space)
        if len(calls) == 1:
            other.artifacts.delete(first.id)
        return found

    hub.artifacts._contents._context = _Looking(hub._context, looked)  # type: ignore[assignment]
    second = hub.artifacts.put("b", b"same")
    assert b"same" == content(hub, second)
    assert {second.id} == set(check_index(world))


class _Looking:
    """A context whose snapshots are watched."""

    def __init__(self, inner, snapshot) -> None:  # type: ignore[no-untyped-def]
        self._inner, self.snapshot = inner, snapshot

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
        return getattr(self._inner, name)


def test_lists_by_owner_and_name(both: World) -> None:
    """Newest first; an owner's are found without reading others'."""
    hub = both.open()
    made = []
    for number, (session, task) in enumerate([("s1", None), ("s1", "t1"), (None, "t1"), ("s2", None)]):
        both.runtime.advance(1)
        made.append(hub.artifacts.put(f"n{number % 2}", b"%d" % number, session_id=session, task_id=task).id)
    a, b, c, d = made
    assert [d, c, b, a] == [one.id for one in hub.artifacts.list()]
    assert [b, a] == [one.id for one in hub.artifacts.list("s1")]
    assert [c, b] == [one.id for one in hub.artifacts.list(task_id="t1")]
    assert [b] == [one.id for one in hub.artifacts.list("s1", "t1")]
    assert [d, b] == [one.id for one in hub.artifacts.list(name="n1")]
    assert [] == hub.artifacts.list("s9")
    check_index(both)


def test_the_audit_trail_tells(hub: Hub) -> None:
    """Storing and deleting are events of the hub."""
    made = hub.artifacts.put("x", b"1", task_id="t7")
    hub.artifacts.delete(made.id)
    kinds = [(one.kind, one.fields["artifact"]) for one in hub.audit.log() if one.space == FILES]
    assert [("artifact deleted", made.id), ("artifact stored", made.id)] == kinds
    assert "artifact stored" in [one.kind for one in hub.audit.log(task="t7")]


def test_types_by_name_and_given(hub: Hub) -> None:
    """A packed file is not what is in it; an unknown end is bytes."""
    kinds = {name: hub.artifacts.put(name, b"").content_type for name in ("a.txt", "b.tar.gz", "c.json", "d.what", "e")}
    assert ["text/plain", "application/gzip", "application/json", *["application/octet-stream"] * 2] == [
        *kinds.values()
    ]
    assert "image/x-own; v=1" == hub.artifacts.put("x", b"", content_type="image/x-own; v=1").content_type
    for wrong in ("text", "text/", "a/b\nc: d", "é/x", "a/" + "b" * 300):
        with pytest.raises(UsageError, match="content type"):
            hub.artifacts.put("x", b"", content_type=wrong)


@pytest.mark.parametrize("name", ["", "a\nb", "../x", "/x", "a/../b", " x", "x" * 257, "\x1b[31m"])
def test_hostile_names_are_refused(hub: Hub, name: str) -> None:
    """Before anything is written."""
    with pytest.raises(InvalidName):
        hub.artifacts.put(name, b"1")
    assert FILES not in hub.heads()


@pytest.mark.parametrize("wrong", ["", "../x", "a b", "x" * 200])
def test_hostile_ids_are_refused(hub: Hub, wrong: str) -> None:
    """In every call that takes one."""
    for call in (hub.artifacts.get, hub.artifacts.open, hub.artifacts.delete, hub.artifacts.list):
        with pytest.raises(InvalidName):
            call(wrong)


def test_what_is_not_there(hub: Hub, tmp_path: Path) -> None:
    """Artifacts, files and folders that are named and are none."""
    assert None is hub.artifacts.get("a1")
    assert not hub.artifacts.delete("a1")
    assert FILES not in hub.heads()
    with pytest.raises(NotFound):
        hub.artifacts.open("a1")
    with pytest.raises(NotFound, match="there is no file"):
        hub.artifacts.put("x", tmp_path / "none")
    with pytest.raises(UsageError, match="Is a directory"):
        hub.artifacts.put("x", tmp_path)


def test_the_cap_of_an_artifact(world: World, tmp_path: Path) -> None:
    """One byte more than the settings allow is refused, from every source, and nothing is stored."""
    hub = world.open(artifacts=ArtifactSettings(max_mb=1))
    data = b"x" * (1024 * 1024 + 1)
    (tmp_path / "f").write_bytes(data)
    for source in (data, io.BytesIO(data), tmp_path / "f"):
        with pytest.raises(TooLarge, match="max_mb") as refused:
            hub.artifacts.put("x", source)
        assert "QUOTA_EXCEEDED" == refused.value.code
    assert FILES not in hub.heads()
    assert 1024 * 1024 == hub.artifacts.put("x", data[1:]).size


def test_progress_is_told(hub: Hub) -> None:
    """Up to all of it."""
    told: list[int] = []
    hub.artifacts.put("x", b"1" * 3000, tell=told.append)
    assert 3000 == told[-1]
    assert sorted(told) == told


# -- retention


def test_what_is_over_is_cleaned(both: World) -> None:
    """By the artifact's own retention, else that of the settings; 0 keeps it; nothing to do commits nothing."""
    hub = both.open(artifacts=ArtifactSettings(retention=3600.0))
    assert 0 == hub.artifacts.clean()
    ids = [hub.artifacts.put("x", b"same", retention=given).id for given in (10, None, 0)]
    assert [10.0, 3600.0] == [
        (one.expires_at - one.created_at).total_seconds()
        for one in map(hub.artifacts.get, ids)
        if one is not None and one.expires_at is not None
    ]
    removed = []
    for seconds in (0, 11, 0, 3600, 0, 1_000_000):
        both.runtime.advance(seconds)
        before = hub.commits
        removed.append(hub.artifacts.clean())
        assert removed[-1] == hub.commits - before
    assert [0, 1, 0, 1, 0, 0] == removed
    assert {ids[2]} == set(check_index(both))
    assert b"same" == b"".join(hub.artifacts.open(ids[2]))
    assert 2 == sum(one.kind == "artifact expired" for one in hub.audit.log())
    for wrong in (-1.0, 1e12, float("nan")):
        with pytest.raises(UsageError):
            hub.artifacts.put("x", b"", retention=wrong)


def test_many_that_are_over_go_in_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them."""
    monkeypatch.setattr("ghcoord.coord.artifacts.artifacts.PAGE", 3)
    hub = world.open()
    for number in range(8):
        hub.artifacts.put("x", b"%d" % number, retention=1)
    world.runtime.advance(5)
    assert 8 == hub.artifacts.clean()
    assert {"space.json"} == set(world.files(FILES))


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["put", "delete", "wait"]), st.integers(0, 4), st.sampled_from([None, 5.0, 0.0])),
        max_size=14,
    )
)
def test_any_order_of_putting_deleting_and_expiring(steps: list[tuple[str, int, float | None]]) -> None:
    """The index follows from the records, contents are those that records have, and all of them can be read."""
    world = World()
    hub = world.open()
    alive: dict[str, tuple[bytes, float | None]] = {}
    for what, number, retention in steps:
        if what == "put":
            data = bytes([number % 3]) * 10
            made = hub.artifacts.put("x", data, retention=retention, task_id=f"t{number % 2}")
            alive[made.id] = data, world.runtime.now() + retention if retention else None
        elif what == "delete" and alive:
            gone = sorted(alive)[number % len(alive)]
            del alive[gone]
            assert hub.artifacts.delete(gone)
        else:
            world.runtime.advance(number)
            over = {one for one, (_, until) in alive.items() if until is not None and until <= world.runtime.now()}
            assert len(over) == hub.artifacts.clean()
            alive = {one: kept for one, kept in alive.items() if one not in over}
        assert set(alive) == set(check_index(world))
    for one, (data, _) in alive.items():
        assert data == b"".join(hub.artifacts.open(one))
    world.close()


def test_threads_that_put_and_delete_the_same(tmp_path: Path) -> None:
    """Whoever holds an artifact can read it, whatever others delete meanwhile."""
    with create(tmp_path / "hub.git")[0] as hub:
        data, wrong = os.urandom(3000), []

        def work() -> None:
            for _ in range(6):
                made = hub.artifacts.put("x", data)
                if data != content(hub, made):
                    wrong.append(made)
                hub.artifacts.delete(made.id)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert [] == wrong
        assert [] == hub.artifacts.list()
        assert [] == list(hub.contents.digests(layout.STORED))


# -- faults


@pytest.mark.parametrize(
    "fault", [CommitFault.REPLY_LOST, CommitFault.REQUEST_LOST, CommitFault.CONFLICT_AFTER_LANDING]
)
def test_lost_answers_make_one_artifact(world: World, fault: CommitFault) -> None:
    """Neither none nor two."""
    hub, faulty = world.open_faulty()
    faulty.fail_commits(fault)
    made = hub.artifacts.put("x", b"1")
    assert {made.id} == set(check_index(world))
    faulty.fail_commits(fault)
    assert hub.artifacts.delete(made.id)
    assert {} == check_index(world)


# -- what people do to records


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"[]",
        b'{"id": "a2"}',
        b'{"format": 9}',
        b'{"id": "a1", "name": "x", "sha256": "../../etc/passwd", "size": 1, "created_at": "2025-01-01T00:00:00Z"}',
        b'{"id": "a1", "name": "x", "sha256": "' + b"a" * 64 + b'", "size": -1, "created_at": "2025-01-01T00:00:00Z"}',
        b'{"id": "other", "name": "x", "sha256": "'
        + b"a" * 64
        + b'", "size": 1, "created_at": "2025-01-01T00:00:00Z"}',
    ],
)
def test_a_broken_record_blocks_nobody(world: World, record: bytes) -> None:
    """It is told to who asks for it, left out of lists, and set aside by the next write."""
    hub = world.open()
    good = hub.artifacts.put("good", b"1", task_id="t1")
    world.put(FILES, {layout.artifact_path("a1"): record, layout.artifacts_of("index/tasks", "t1") + "/ab/a1": b"{}"})
    world.runtime.advance(1)
    with pytest.raises((Corrupt, NewerSchema)):
        hub.artifacts.get("a1")
    assert [good.id] == [one.id for one in hub.artifacts.list()]
    assert [good.id] == [one.id for one in hub.artifacts.list(task_id="t1")]
    assert [layout.artifact_path("a1")] == [one["path"] for one in hub.broken()]
    other = hub.artifacts.put("more", b"2")
    assert None is hub.artifacts.get("a1")
    assert {good.id, other.id} == set(check_index(world))


@pytest.mark.parametrize("owner", ["", "a/b", "..", "x" * 129, "\x00", "é" * 100, "a.lock"])
def test_strange_owners_lead_nowhere(world: World, owner: str) -> None:
    """A record that a person wrote is indexed below its owner's encoded name, or is no record; writing goes on."""
    hub = world.open()
    made = hub.artifacts.put("x", b"1")
    path = layout.artifact_path(made.id)
    for field in ("task_id", "session_id"):
        world.put(FILES, {path: encode(made).replace(b'"where"', f'"{field}": {json.dumps(owner)}, "where"'.encode())})
        world.runtime.advance(2)
        check = hub.artifacts.put("y", b"2")
        assert check.id in check_index(world)
        hub.repair()
        assert check.id in check_index(world)
        assert all(part not in ("", ".", "..") for one in world.files(FILES) for part in one.split("/"))


def forged(base: Artifact, **changes: object) -> bytes:
    return encode(base.model_copy(update=changes))


def test_lies_about_size_and_digest(world: World) -> None:
    """The reader is told; nothing else breaks; deleting it leaves the others' contents."""
    hub = world.open()
    true, other = hub.artifacts.put("x", b"12345"), hub.artifacts.put("y", b"another")
    path = layout.artifact_path(true.id)
    for change in ({"size": 4}, {"size": 6}, {"sha256": other.sha256}, {"sha256": "a" * 64}):
        world.put(FILES, {path: forged(true, **change)})
        hub._context.transactor.known.forget()
        with pytest.raises((Corrupt, NotFound)):
            content(hub, true)
    assert hub.artifacts.delete(true.id)
    assert b"another" == content(hub, other)
    assert {other.id} == set(check_index(world))


def test_an_unknown_holder_and_unknown_fields(world: World) -> None:
    """Of another version: named, kept, deletable only by who knows it."""
    hub = world.open()
    made = hub.artifacts.put("x", b"1")
    world.put(FILES, {layout.artifact_path(made.id): forged(made, where="moon")})
    with pytest.raises(UsageError, match="moon"):
        content(hub, made)


def test_people_delete_records_by_hand(world: World) -> None:
    """The index follows with the next write."""
    hub = world.open()
    first, second = (hub.artifacts.put(name, name.encode(), task_id="t") for name in "ab")
    world.put(FILES, {layout.artifact_path(first.id): None})
    assert [second.id] == [one.id for one in hub.artifacts.list(task_id="t")]
    third = hub.artifacts.put("c", b"c")
    assert {second.id, third.id} == set(check_index(world))


def test_doctor_repairs_the_index(world: World) -> None:
    """And takes no chunk for a record."""
    hub = world.open()
    made = hub.artifacts.put("x", os.urandom(CHUNK + 1), task_id="t", retention=99)
    assert ([], []) == (hub.broken(), hub.repair(dry_run=True))

    def spoil(tx) -> None:  # type: ignore[no-untyped-def]
        for path in list(tx.walk(FILES, "index")):
            tx.delete(FILES, path)

    hub._context.transact((FILES,), spoil)
    assert ["index"] == [one.check for one in hub.repair()]
    assert {made.id} == set(check_index(world))
    assert [] == hub.repair()


# -- a directory


def test_a_directory_holds_the_contents(world: World, tmp_path: Path) -> None:
    """The hub has the record only; every artifact has a file of its own, which goes with it."""
    hub = holding(world, tmp_path / "shared")
    first, second = hub.artifacts.put("a", BINARY), hub.artifacts.put("b", BINARY, retention=5)
    assert "directory" == first.where
    assert not any("/data/" in path for path in world.files(FILES))
    assert BINARY == content(hub, first)
    files = {path.name for path in (tmp_path / "shared").rglob("*") if path.is_file()}
    assert {first.id, second.id} == files
    world.runtime.advance(10)
    assert 1 == hub.artifacts.clean()
    assert hub.artifacts.delete(first.id)
    assert [] == [path for path in (tmp_path / "shared").rglob("*") if path.is_file()]


def test_a_changed_or_missing_file_is_told(world: World, tmp_path: Path) -> None:
    """Wrong bytes are no content, whoever held them."""
    hub = holding(world, tmp_path)
    made = hub.artifacts.put("a", b"right")
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    for wrong in (b"wrong", b"", b"right and more"):
        file.write_bytes(wrong)
        with pytest.raises(Corrupt):
            content(hub, made)
    file.unlink()
    with pytest.raises(NotFound):
        content(hub, made)
    assert hub.artifacts.delete(made.id)


def test_a_file_that_changes_while_it_is_stored(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is refused, in the hub and in a directory, and leaves nothing."""
    source = tmp_path / "f"

    class Changing(io.FileIO):
        """Is rewritten between the two times that it is read."""

        def seek(self, offset: int, whence: int = 0, /) -> int:
            source.write_bytes(b"after!")
            return super().seek(offset, whence)

    monkeypatch.setattr(sources, "_open_file", Changing)
    for hub in (world.open(), holding(world, tmp_path / "d")):
        source.write_bytes(b"before")
        with pytest.raises(UsageError, match="changed while it was"):
            hub.artifacts.put("x", source)
    assert FILES not in world.store().heads()
    assert [] == [path for path in (tmp_path / "d").rglob("*") if path.is_file()]


def test_a_directory_that_cannot_be_used(world: World, tmp_path: Path) -> None:
    """One sentence, and no record."""
    (tmp_path / "file").write_text("")
    hub = holding(world, tmp_path / "file" / "below")
    with pytest.raises(Unavailable, match="cannot be written to: Not a directory"):
        hub.artifacts.put("x", b"1")
    assert FILES not in hub.heads()


@pytest.mark.parametrize(
    ("number", "expected"), [(errno.EACCES, Denied), (errno.ENOSPC, TooLarge), (errno.EIO, Unavailable)]
)
def test_what_a_directory_refuses(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[Exception]
) -> None:
    """No permission, no room and no disk are errors of their own, in every operation; no record is left."""
    hub = holding(world, tmp_path / "d")
    made = hub.artifacts.put("x", b"1")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    for name in ("open", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    for call in (
        lambda: hub.artifacts.put("y", b"2"),
        lambda: hub.artifacts.open(made.id),
        lambda: hub.artifacts.delete(made.id),
    ):
        with pytest.raises(expected):
            call()
    assert [made] == hub.artifacts.list()


def test_a_record_that_cannot_be_written_leaves_no_file(world: World, tmp_path: Path) -> None:
    """The content is taken back; of an unknown outcome it stays, for the record may be there."""
    _, faulty = world.open_faulty()
    hub = world.open(store=faulty, artifacts=ArtifactSettings(where="directory", directory=str(tmp_path)))
    faulty.fail_commits(*[CommitFault.UNAVAILABLE] * 500)
    with pytest.raises(Unavailable):
        hub.artifacts.put("x", b"1")
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file()]
    faulty._commit_faults.clear()
    faulty.fail_commits(*[CommitFault.DELAYED] * 500)
    with pytest.raises(OutcomeUnknown):
        hub.artifacts.put("x", b"1")
    faulty._commit_faults.clear()
    assert 1 == len([path for path in tmp_path.rglob("*") if path.is_file()])
    faulty.land_delayed()
    (one,) = world.open("other", artifacts=hub.settings.artifacts).artifacts.list()
    assert b"1" == content(hub, one)


def test_one_that_cannot_be_released_does_not_stop_the_cleaning(world: World, tmp_path: Path) -> None:
    """What a process without the directory finds over stays, is told at the end, and all others go."""
    made = holding(world, tmp_path).artifacts.put("a", b"1", retention=1)
    hub = world.open("other")
    hub.artifacts.put("b", b"2", retention=2)
    world.runtime.advance(10)
    with pytest.raises(UsageError, match=r"artifacts\.directory"):
        hub.artifacts.clean()
    assert [made.id] == [one.id for one in hub.artifacts.list()]


# -- names of files, settings


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("report.pdf", "report.pdf"),
        ("a/b/c.txt", "c.txt"),
        ("..\\..\\evil.exe", "evil.exe"),
        (".bashrc", "bashrc"),
        ("-rf", "rf"),
        ("a b;rm -rf ~", "a_b_rm_-rf_"),
        ("\u202egnp.exe", "_gnp.exe"),
        ("...", "artifact"),
        ("é.txt", "é.txt"),
        ("x" * 300 + ".tar", "x" * 116 + ".tar"),
    ],
)
def test_file_names_lead_nowhere(name: str, expected: str) -> None:
    """One component, visible, no option, no control characters, short enough for every file system."""
    assert expected == plain_name(name)
    assert len(plain_name(name).encode()) <= 255


def test_settings_of_artifacts() -> None:
    """Parsed from TOML; wrong ones are named."""
    text = '[artifacts]\nwhere = "s3"\nbucket = "b"\nretention = "30d"\nmax_mb = 5\n'
    found = parse_settings(text).artifacts
    assert ("s3", "b", 30 * 86400.0, 5) == (found.where, found.bucket, found.retention, found.max_mb)
    with pytest.raises(UsageError, match="hub, directory, s3"):
        parse_settings('[artifacts]\nwhere = "moon"\n')
    with pytest.raises(UsageError, match="max_mb"):
        parse_settings("[artifacts]\nmax_mb = 0\n")
