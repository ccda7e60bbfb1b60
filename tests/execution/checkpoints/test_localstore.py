"""The local store, and saves that end at any step."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ghcoord.coord.sessions.manifests import NO_QUOTA
from ghcoord.errors import Conflict, Corrupt, Denied, NotFound, OutcomeUnknown, Unavailable, UsageError
from ghcoord.execution.checkpoints import localstore
from ghcoord.execution.checkpoints.localstore import SMALL, LocalStore
from ghcoord.model.session import Session
from tests.execution.checkpoints.conftest import RUNTIME, Desk
from tests.execution.checkpoints.test_checkpoints import again, hub_manifests
from tests.execution.checkpoints.trees import fill

ID = "c123456789abc"


def objects(store: LocalStore) -> list[Path]:
    """Every file among the contents."""
    return sorted(each for each in store.folder.glob("objects/**/*") if each.is_file())


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """An empty store."""
    return LocalStore(tmp_path / "store", RUNTIME)


@pytest.mark.parametrize("size", [0, 1, 100, SMALL, SMALL + 1, 2 * SMALL])
def test_contents(store: LocalStore, size: int) -> None:
    """A content of any size is there once, and read as it was."""
    data = (b"some text %d " % size * (size // 10 + 1))[:size]
    with store.held():
        digest, count = store.add(io.BytesIO(data), size)
        assert (digest, size) == store.add(io.BytesIO(data + b"more"), size)
        assert size == count
        assert store.has(digest)
        assert data == b"".join(store.read(digest))
        assert 1 == len(objects(store)) == store.written
        with pytest.raises(NotFound):
            store.read("0" * 64)
        assert 1 == store.keep_only([])
        assert not store.has(digest)


def test_other_users_see_nothing_of_it(store: LocalStore) -> None:
    """Names, sizes and digests of a session's files are nobody else's business."""
    with store.held():
        store.note_known({"a": (1, 2, 3, 4, 5)})
    assert 0o700 == stat.S_IMODE(store.folder.stat().st_mode)


def test_without_zstandard(store: LocalStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Contents are kept plain without the library; those that are packed say what is missing."""
    with store.held():
        packed, _ = store.add(io.BytesIO(b"packed" * 100), 600)
    monkeypatch.setattr(localstore, "_zstandard", lambda: None)
    plain = LocalStore(store.folder, RUNTIME)
    with plain.held():
        for size in (10, SMALL + 1):
            digest, _ = plain.add(io.BytesIO(b"\x28\xb5\x2f\xfd" + b"x" * (size - 4)), size)
            assert size == len(b"".join(plain.read(digest)))
        with pytest.raises(UsageError, match="pip install"):
            list(plain.read(packed))


def test_damage_is_found(store: LocalStore) -> None:
    """What is not what its name says is never taken for it."""
    with store.held():
        digest, _ = store.add(io.BytesIO(b"content" * 100), 700)
        other, _ = store.add(io.BytesIO(b"another" * 100), 700)
        (path,) = [each for each in objects(store) if each.name.startswith(digest)]
        (second,) = [each for each in objects(store) if each.name.startswith(other)]
        for data in (b"", path.read_bytes()[:-3], second.read_bytes(), b"\xff" * 100):
            path.write_bytes(data)
            with pytest.raises(Corrupt):
                list(store.read(digest))


def test_a_power_cut_spoils_no_later_checkpoint(store: LocalStore) -> None:
    """After a restart of the machine contents that were not written out are gone, and the others are there."""
    with store.held():
        good, _ = store.add(io.BytesIO(b"good"), 4)
        bad, _ = store.add(io.BytesIO(b"bad!"), 4)
        store.note_known({"a": (1, 2, 3, 4, int(good, 16))})
    for each in objects(store):
        if each.name.startswith(bad):
            each.write_bytes(b"")
    (store.folder / "objects" / "new-1-1").write_bytes(b"half")
    (store.folder / "objects" / "ab").mkdir(exist_ok=True)
    (store.folder / "objects" / "ab" / "strange").write_bytes(b"")
    with store.held():
        assert store.has(bad)  # nobody looks while the machine runs
    (store.folder / "boot").write_text("another boot")
    with store.held():
        assert store.has(good)
        assert not store.has(bad)
        assert {} == store.known()
        assert 1 == len(objects(store))


def test_what_is_known_of_files(store: LocalStore) -> None:
    """Notes are read as they were written; damaged ones are none."""
    with store.held():
        known = {"ü\n": (1, 2**62, 3, 4, 5)}
        store.note_known(known)
        assert known == store.known()
        for text in ("", "{", "[]", '{"a": 1}', '{"a": []}', '{"a": ["x"]}'):
            (store.folder / "stat.json").write_text(text)
            assert {} == store.known()


def test_two_processes_take_turns(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process writes nobody else does; one that never ends is named."""
    monkeypatch.setattr(localstore, "LOCK_WAIT", 0.05)
    with store.held():
        child = os.fork()
        if child == 0:
            try:
                with LocalStore(store.folder, RUNTIME).held():
                    os._exit(1)
            except Unavailable:
                os._exit(0)
            os._exit(2)
        assert 0 == os.waitpid(child, 0)[1]
    with store.held():
        assert [] == store.ids()


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """A file in the place of the folder is told as such."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Denied, match="checkpoints"), LocalStore(tmp_path / "file" / "s", RUNTIME).held():
        pass
    assert [] == LocalStore(tmp_path / "none", RUNTIME).ids()


# -- a save that ends at any step


class Killed(BaseException):
    """What a process that is killed would not even see."""


def _steps(here: Desk) -> list[tuple[Any, str]]:
    """Everything that a save writes with, in order."""
    return [
        (LocalStore, "add"),
        (LocalStore, "put"),
        (LocalStore, "note_known"),
        (LocalStore, "put_manifest"),
        (here.hub.sessions, "publish"),
        (here.hub.sessions, "record_checkpoint"),
        (LocalStore, "keep_only"),
        (here.hub.sessions, "prune"),
    ]


@pytest.mark.parametrize("step", range(-1, 8))
def test_killed_at_any_step(here: Desk, there: Desk, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Whenever a worker dies, what the record names can be restored, and the next save works."""
    here.checkpoints._keep = 2
    session = here.session()
    folder = here.open(session)
    for n in range(2):
        fill(folder.workspace, {"a": f"{n}", "b": "same"})
        here.checkpoints.save(session, folder, here.kit.sandbox)
    fill(folder.workspace, {"a": "third", "c": "new"})
    owner, name = _steps(here)[max(step, 0)]
    original = getattr(owner, name)

    def killed(*args: Any, **options: Any) -> Any:
        if step >= 0:
            original(*args, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(Killed):
            here.checkpoints.save(session, folder, here.kit.sandbox)
    present = again(here, session)
    assert len(present.checkpoints) == 2
    for one in present.checkpoints:
        assert b"same" == _whole(there, present, one.id)["b"]
    made = here.checkpoints.save(present, folder, here.kit.sandbox)
    for desk in (here, there):
        assert {"a": b"third", "b": b"same", "c": b"new"} == _whole(desk, again(here, session), made.id)
    kept = sorted(one.id for one in again(here, session).checkpoints)
    assert set(kept) <= set(hub_manifests(here.hub))
    assert kept == here.checkpoints.store("s1").ids()


def _whole(desk: Desk, session: Session, checkpoint_id: str) -> dict[str, bytes]:
    """Every file that a restoration there would unpack."""
    sources = desk.checkpoints._sources(session, checkpoint_id)
    return {path: sources.file(path, entry) for path, entry in sources.manifest(NO_QUOTA).files.items()}


@pytest.mark.parametrize("landed", [False, True])
def test_an_unknown_outcome_keeps_what_there_may_be(here: Desk, landed: bool) -> None:
    """When no answer came to the last step, the checkpoint stays here: the record may name it."""
    session = here.session()
    folder = here.open(session)
    fill(folder.workspace, {"a": "1"})
    original = here.hub.sessions.record_checkpoint

    def lost(*args: Any, **options: Any) -> Any:
        if landed:
            original(*args, **options)
        raise OutcomeUnknown("no answer")

    here.hub.sessions.record_checkpoint = lost  # type: ignore[method-assign]
    with pytest.raises(OutcomeUnknown):
        here.checkpoints.save(session, folder, here.kit.sandbox)
    del here.hub.sessions.record_checkpoint
    assert 1 == len(here.checkpoints.store("s1").ids())
    assert landed == bool(again(here, session).checkpoints)


def test_a_failed_clean_up_does_not_fail_the_save(here: Desk) -> None:
    """The checkpoint is made when its record is; what could not be removed goes with a later one."""
    here.checkpoints._keep = 1
    session = here.session()
    folder = here.open(session)
    fill(folder.workspace, {"a": "1"})
    here.checkpoints.save(session, folder, here.kit.sandbox)

    def unavailable(*args: Any, **options: Any) -> Any:
        raise Unavailable("the hub went away")

    here.hub.sessions.prune = unavailable  # type: ignore[method-assign]
    fill(folder.workspace, {"a": "2"})
    made = here.checkpoints.save(session, folder, here.kit.sandbox)
    assert [made.id] == [one.id for one in again(here, session).checkpoints]
    del here.hub.sessions.prune
    assert 2 == len(hub_manifests(here.hub))
    here.hub.sessions.prune("s1")


def test_contents_that_go_while_they_are_relied_on(here: Desk) -> None:
    """A clean-up elsewhere that takes contents which a publication counts on makes it start again."""
    session = here.session()
    folder = here.open(session)
    fill(folder.workspace, {"a": "1", "b": "2"})
    here.checkpoints.save(session, folder, here.kit.sandbox)
    put: Callable[..., None] = here.hub.contents.put
    tries: list[int] = []

    def racing(target: str, items: Any, **options: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            here.hub.contents.drop(target)
            raise Conflict("a content was removed")
        put(target, items, **options)

    here.hub.contents.put = racing  # type: ignore[method-assign]
    fill(folder.workspace, {"c": "3"})
    made = here.checkpoints.save(session, folder, here.kit.sandbox)
    del here.hub.contents.put
    assert 2 == len(tries)
    assert 3 == len(here.hub.sessions.read_manifest("s1", made.id).files)
    here.hub.contents.put = lambda *args, **options: (_ for _ in ()).throw(Unavailable("always"))  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        here.checkpoints.save(again(here, session), folder, here.kit.sandbox)
