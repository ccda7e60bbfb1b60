"""Contents by digest: put in bounded commits, read back verified, and never taken for whole when they are not."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghcoord.coord import layout
from ghcoord.coord.files.content import CHUNK, LEFT_AFTER, Contents
from ghcoord.coord.layout import FILES
from ghcoord.errors import Conflict, Corrupt, NotFound, OutcomeUnknown, TooLarge, UsageError
from ghcoord.hub import Hub
from ghcoord.store.base import Capabilities
from ghcoord.store.inmemory import MemoryStore
from ghcoord.store.wrappers import WrappedStore
from ghcoord.testing.faults import CommitFault
from tests.coord.world import World

SMALL = 1000
"""Bytes of a chunk in most of these tests."""


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def item(data: bytes) -> tuple[str, bytes]:
    return digest(data), data


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def contents(hub: Hub, chunk: int = SMALL) -> Contents:
    return Contents(hub._context, chunk=chunk)


def read(stored: Contents, data: bytes, folder: str = "f") -> bytes:
    return b"".join(stored.read(folder, digest(data)))


class Narrow(WrappedStore):
    """Takes little in one commit, and counts the bytes of the largest."""

    def __init__(self, inner: MemoryStore, most: int) -> None:
        super().__init__(inner)
        self._most = most
        self.sent: list[int] = []

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(max_commit_bytes=self._most)

    def commit(self, expected, changes, op):  # type: ignore[no-untyped-def]
        self.sent.append(sum(len(data or b"") for change in changes.values() for data in change.values()))
        return super().commit(expected, changes, op)


class Slow(io.RawIOBase):
    """A stream that gives less than it is asked for, and tells how much it gave."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = io.BytesIO(data)
        self.given = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        piece = self._data.read(min(size, 333))
        self.given += len(piece)
        return piece


# -- what went in comes out


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 3 * SMALL + 1), max_size=6), streamed=st.booleans())
def test_whatever_is_put_is_read_back(sizes: list[int], streamed: bool) -> None:
    """Any sizes around the chunks' borders, as bytes and as streams that give little at a time."""
    world = World()
    stored = contents(world.open())
    given_ = [noise(size, seed) for seed, size in enumerate(sizes)]
    stored.put("f", ((digest(one), Slow(one) if streamed else one) for one in given_))
    assert given_ == [read(stored, one) for one in given_]
    assert (
        {digest(one) for one in given_} == stored.has("f", {digest(one) for one in given_}) == set(stored.digests("f"))
    )
    for one in given_:
        assert all(len(piece) <= SMALL for piece in stored.read("f", digest(one)))
    stored.drop("f")
    assert [layout.FILES] == [space for space in [layout.FILES] if set(world.files(space)) <= {"space.json"}]
    world.close()


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_the_real_chunks_borders(both: World, size: int) -> None:
    """No object is larger than a chunk, and binary content is what it was."""
    stored = both.open().contents
    data = noise(size)
    stored.put("f", [item(data)])
    assert data == read(stored, data)
    assert CHUNK >= max(map(len, both.files(FILES).values()))


def test_a_hub_without_contents_has_no_space_for_them(hub: Hub) -> None:
    """Looking, dropping and cleaning makes nothing and commits nothing."""
    before, stored = hub.commits, hub.contents
    assert (set(), [], 0, 0) == (stored.has("f", [digest(b"")]), stored.names("f"), stored.drop("f"), stored.clean("f"))
    assert None is stored.read_file("f", "x.json")
    stored.put("f", [])
    assert before == hub.commits
    assert FILES not in hub.heads()


def test_what_is_there_is_not_read_or_sent_again(hub: Hub) -> None:
    """Neither small nor large; the same content twice in one put is taken once."""
    stored, data = contents(hub), noise(5 * SMALL)
    stored.put("f", [item(b"small"), item(data), item(data)])
    before, again = hub.commits, Slow(data)
    stored.put("f", [(digest(data), again), (digest(b"small"), Slow(b"small"))])
    assert (0, before) == (again.given, hub.commits)


def test_names_and_drop(both: World) -> None:
    """Small files come with the last content, go on request, and are listed without the contents."""
    stored = contents(both.open())
    stored.put("s/ab", [item(b"1"), item(noise(3 * SMALL))], extra={"manifests/m1.json": b"{}", "top.json": b"[]"})
    assert ["manifests/m1.json", "top.json"] == stored.names("s/ab")
    assert (b"{}", None) == (stored.read_file("s/ab", "manifests/m1.json"), stored.read_file("s/ab", "m2.json"))
    stored.put("s/ab", [], extra={"manifests/m2.json": b"2"}, drop=["manifests/m1.json", digest(b"1")])
    assert ["manifests/m2.json", "top.json"] == stored.names("s/ab")
    assert [digest(noise(3 * SMALL))] == list(stored.digests("s/ab"))
    assert 1 == stored.drop("s/ab", [digest(noise(3 * SMALL)), digest(b"missing")])
    assert 0 == stored.drop("s/ab")
    assert {"space.json"} == set(both.files(FILES))


def test_folders_are_apart(hub: Hub) -> None:
    """What one has another has not, and dropping one leaves the other."""
    stored = hub.contents
    stored.put("one", [item(b"x")])
    stored.put("other", [item(b"x")])
    assert 1 == stored.drop("one")
    assert b"x" == read(stored, b"x", "other")
    with pytest.raises(NotFound):
        stored.read("one", digest(b"x"))


@pytest.mark.parametrize("folder", ["", "/a", "a//b", "../x", "a/../b", ".git", "A", "a/" * 9 + "a", "a b", "a\n"])
def test_hostile_folders_are_refused(hub: Hub, folder: str) -> None:
    """No name leads elsewhere."""
    with pytest.raises(UsageError):
        hub.contents.put(folder, [item(b"x")])
    with pytest.raises(UsageError):
        hub.contents.names(folder)


@pytest.mark.parametrize("name", ["", "/a", "../x", "a/../b", "data/x", "uploads/x", ".x", "a" + "/a" * 4, "a\x00"])
def test_hostile_names_are_refused(hub: Hub, name: str) -> None:
    """Nor into the contents."""
    with pytest.raises(UsageError):
        hub.contents.put("f", [], extra={name: b""})
    with pytest.raises(UsageError):
        hub.contents.read_file("f", name)


@pytest.mark.parametrize("wrong", ["", "abc", "A" * 64, "../" + "a" * 61, "a" * 65])
def test_what_is_no_digest_is_refused(hub: Hub, wrong: str) -> None:
    """Before anything is read."""
    for call in (lambda: hub.contents.has("f", [wrong]), lambda: hub.contents.put("f", [(wrong, b"")])):
        with pytest.raises(UsageError):
            call()


def test_another_content_than_its_digest_is_refused(hub: Hub) -> None:
    """Small: nothing is written. Large: what was sent is not taken for the content, and goes."""
    stored, data = contents(hub), noise(9 * SMALL)
    with pytest.raises(UsageError, match="changed while it was read"):
        stored.put("f", [(digest(b"x"), b"y")])
    assert FILES not in hub.heads()
    with pytest.raises(UsageError):
        stored.put("f", [(digest(data), data[:-1])])
    assert set() == stored.has("f", [digest(data)])


# -- commits


def test_commits_are_bounded_and_the_last_has_the_extra() -> None:
    """A quarter of what the store takes; names come when all contents are there."""
    world = World()
    narrow = Narrow(MemoryStore(world.runtime.now), 40_000)
    hub = world.open(store=narrow)
    before = hub.commits
    stored, large = contents(hub), noise(35 * SMALL + 7)
    slow = Slow(large)
    many = [noise(700, seed) for seed in range(30)]
    narrow.sent.clear()
    stored.put("f", [(digest(large), slow), *map(item, many)], extra={"m.json": b"{}"})
    assert 10_000 + SMALL > max(narrow.sent)
    assert 6 <= hub.commits - before <= 7
    assert large == read(stored, large)
    assert [*many] == [read(stored, one) for one in many]
    world.close()


def test_many_files_are_several_commits(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small they are."""
    monkeypatch.setattr("ghcoord.coord.files.sending.MAX_FILES", 10)
    before = hub.commits
    hub.contents.put("f", [item(b"%d" % number) for number in range(25)])
    assert 3 == hub.commits - before


def test_no_directory_is_wide(world: World) -> None:
    """Two levels below 256 each: 2,000 contents lie in directories of at most 256 entries."""
    hub = world.open()
    hub.contents.put("f", [item(b"%d" % number) for number in range(2000)])
    assert 256 >= world.widest(FILES)
    assert 2000 == len(list(hub.contents.digests("f")))


def test_a_content_of_too_many_chunks_is_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as that is known: a stream without an end is not read for ever."""
    monkeypatch.setattr("ghcoord.coord.files.sending.MAX_CHUNKS", 5)
    endless = Slow(noise(100 * SMALL))
    with pytest.raises(TooLarge, match="5,000 bytes"):
        contents(hub).put("f", [("a" * 64, endless)])
    assert 8 * SMALL > endless.given
    assert FILES not in hub.heads()


# -- interruptions


def interrupted(world: World, data: bytes, after: int) -> Hub:
    """A hub to which an upload in small commits was made whose commit ``after`` was never sent."""
    store = world.store()
    assert isinstance(store, MemoryStore)
    hub = world.open(store=Narrow(store, 8 * SMALL))

    class Killed(BaseException):
        """Stands for the end of the process."""

    class Dying(Slow):
        def read(self, size: int = -1, /) -> bytes:
            if self.given >= after * SMALL:
                raise Killed
            return super().read(size)

    with pytest.raises(Killed):
        contents(hub).put("f", [(digest(data), Dying(data))])
    return hub


@pytest.mark.parametrize("after", [1, 4, 7, 8])
def test_an_interrupted_upload_is_gone_on_with(world: World, after: int) -> None:
    """It is not there until then; only what is missing is sent; and no note of it is left."""
    data = noise(10 * SMALL)
    hub = interrupted(world, data, after)
    stored = contents(hub)
    assert set() == stored.has("f", [digest(data)])
    present = len([path for path in world.files(FILES) if "/data/" in path])
    if present:
        with pytest.raises(Corrupt, match="interrupted"):
            read(stored, data)
    narrow = hub._context.transactor.store
    while not isinstance(narrow, Narrow):
        assert isinstance(narrow, WrappedStore)
        narrow = narrow.inner
    narrow.sent.clear()
    stored.put("f", [item(data)])
    assert (10 - present) * SMALL < sum(narrow.sent) < (10 - present + 1) * SMALL + 1500
    assert data == read(stored, data)
    assert not any("uploads" in path for path in world.files(FILES))


def test_what_nobody_goes_on_with_is_cleaned(world: World) -> None:
    """After a day, not before; what is whole stays."""
    hub = interrupted(world, noise(10 * SMALL), 8)
    stored, other = contents(hub), noise(3 * SMALL, 2)
    stored.put("f", [item(other)])
    assert 0 == stored.clean("f")
    world.runtime.advance(LEFT_AFTER + 1)
    assert 1 == stored.clean("f")
    assert 0 == stored.clean("f")
    assert [digest(other)] == list(stored.digests("f"))
    assert other == read(stored, other)
    assert not any("uploads" in path for path in world.files(FILES))


def test_cleaning_in_the_middle_of_an_upload_is_noticed(world: World) -> None:
    """The last commit finds chunks missing and says so; putting it again makes it whole."""
    hub = world.open(store=Narrow(world.store(), 8 * SMALL))  # type: ignore[arg-type]
    stored, data = contents(hub), noise(10 * SMALL)

    class Disturbed(Slow):
        def read(self, size: int = -1, /) -> bytes:
            if self.given >= 9 * SMALL:
                world.runtime.advance(LEFT_AFTER + 1)
                contents(world.open("cleaner")).clean("f")
            return super().read(size)

    with pytest.raises(Conflict):
        stored.put("f", [(digest(data), Disturbed(data))])
    assert set() == stored.has("f", [digest(data)])
    stored.put("f", [item(data)])
    assert data == read(stored, data)


def test_a_drop_between_looking_and_the_last_commit_is_noticed(world: World) -> None:
    """A content that was relied on is gone: the names that need it are not written."""
    hub, other = world.open(), world.open("other")
    stored = contents(hub)
    for data in (b"small", noise(3 * SMALL)):
        stored.put("f", [item(data)])

        def items(data: bytes = data):  # type: ignore[no-untyped-def]
            yield item(data)
            assert 1 == contents(other).drop("f", [digest(data)])
            yield item(b"new")

        with pytest.raises(Conflict):
            stored.put("f", items(), extra={"m.json": b"{}"})
        assert [] == stored.names("f")


@pytest.mark.parametrize(
    "fault", [CommitFault.REPLY_LOST, CommitFault.REQUEST_LOST, CommitFault.CONFLICT_AFTER_LANDING]
)
def test_lost_answers_change_nothing(world: World, fault: CommitFault) -> None:
    """Each commit of an upload meets the fault in turn, and the content is whole afterwards."""
    for number in range(3):
        faulty_hub, faulty = world.open_faulty()
        store = Narrow(faulty, 8 * SMALL)  # type: ignore[arg-type]
        hub = world.open(store=store)
        stored, data = contents(hub), noise(5 * SMALL, number)
        faulty.fail_commits(*[None] * number, fault)
        stored.put("f", [item(data)], extra={f"m{number}.json": b"{}"})
        assert data == read(stored, data)
        faulty_hub.close()
    assert ["m0.json", "m1.json", "m2.json"] == stored.names("f")


def test_an_unknown_outcome_is_repeatable(world: World) -> None:
    """When the answer stays out for good the put fails, and the same put again succeeds, whatever became of it."""
    hub, faulty = world.open_faulty()
    stored, data = contents(hub), noise(3 * SMALL)
    faulty.fail_commits(*[CommitFault.DELAYED] * 200)
    with pytest.raises(OutcomeUnknown):
        stored.put("f", [item(data)])
    faulty._commit_faults.clear()
    faulty.land_delayed()
    stored.put("f", [item(data)])
    assert data == read(stored, data)


# -- what people do to it


Break = Callable[[str, dict[str, bytes]], dict[str, bytes | None]]


def _at(path: str, content: bytes | None) -> Break:
    return lambda top, files: {f"{top}/{path}": content}


@pytest.mark.parametrize(
    "broken",
    [
        _at("0001", None),
        _at("0001", b""),
        _at("0001", noise(SMALL, 9)),
        _at("0001", noise(SMALL + 1)),
        _at("0002", noise(SMALL)),
        _at("0001/deep", b"a folder"),
        _at("whole.json", None),
        _at("whole.json", b"{"),
        _at("whole.json", b"[" * 5000),
        _at("whole.json", b'{"size": 1e999, "chunk": 1000}'),
        _at("whole.json", b'{"size": 2500, "chunk": 0}'),
        _at("whole.json", b'{"size": 2500, "chunk": -1}'),
        _at("whole.json", b'{"size": 2500, "chunk": true}'),
        _at("whole.json", b'{"size": 2499, "chunk": 1000}'),
        _at("whole.json", b'{"size": 9999999999999, "chunk": 1000}'),
        _at("whole.json", b'{"size": 4000000, "chunk": 1}'),
        _at("whole.json", b'{"size": 2500, "chunk": 5000}'),
    ],
)
def test_a_broken_large_content_is_never_read_as_whole(world: World, broken: Break) -> None:
    """Missing, short, long, foreign chunks and lies about the size: the reader is told, and other contents are fine."""
    hub = world.open()
    stored, data = contents(hub), noise(2 * SMALL + 500)
    stored.put("f", [item(data), item(b"other")])
    top = layout.data_path("f", digest(data))
    world.put(FILES, broken(top, world.files(FILES)))
    with pytest.raises(Corrupt):
        read(stored, data)
    assert b"other" == read(stored, b"other")
    stored.drop("f", [digest(data)])
    stored.put("f", [item(data)])
    assert data == read(stored, data)


def test_a_large_content_that_lost_a_chunk_is_healed_by_putting_it(world: World) -> None:
    """It counts as missing."""
    hub = world.open()
    stored, data = contents(hub), noise(3 * SMALL)
    stored.put("f", [item(data)])
    world.put(FILES, {layout.chunk_path("f", digest(data), 1): None})
    assert set() == stored.has("f", [digest(data)])
    stored.put("f", [item(data)])
    assert data == read(stored, data)


def test_a_forged_small_content_is_told(world: World) -> None:
    """Other bytes under the digest's name are not given out."""
    hub = world.open()
    hub.contents.put("f", [item(b"true")])
    world.put(FILES, {layout.data_path("f", digest(b"true")): b"false"})
    pieces = []
    with pytest.raises(Corrupt):
        pieces.extend(hub.contents.read("f", digest(b"true")))
    assert [] == pieces


def test_strange_files_are_in_nobodys_way(world: World) -> None:
    """Names that are no digests, files where folders belong: passed over, and gone with the folder."""
    hub = world.open()
    hub.contents.put("f", [item(b"x")])
    world.put(FILES, {"f/data/README": b"?", "f/data/ab/cd": b"?", "f/uploads/zz": b"?", "f/uploads/ab/c.json": b"{"})
    world.runtime.advance(LEFT_AFTER + 1)
    assert [digest(b"x")] == list(hub.contents.digests("f"))
    assert 0 == hub.contents.clean("f")
    assert 1 == hub.contents.drop("f")
    assert {"space.json"} == set(world.files(FILES))


def test_symlinks_are_not_followed(tmp_path: Path) -> None:
    """A link that a person commits in a content's place is no content."""
    world = World(tmp_path / "hub.git")
    hub = world.open()
    hub.contents.put("f", [item(b"x")])
    world.symlink(FILES, layout.data_path("f", digest(b"y")), "../../../../space.json")
    assert set() == hub.contents.has("f", [digest(b"y")])
    with pytest.raises(NotFound):
        hub.contents.read("f", digest(b"y"))
    world.close()
