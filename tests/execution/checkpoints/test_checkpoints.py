"""Saving a session and restoring it, on the same worker and on another one."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ghcoord.coord import layout
from ghcoord.errors import Corrupt, LeaseLost, NotFound, SandboxError, UsageError
from ghcoord.execution.checkpoints.checkpoints import Checkpoints
from ghcoord.execution.tools.kit import Kit
from ghcoord.hub import Hub
from ghcoord.model.limits import DEFAULT_LIMITS, Limits
from ghcoord.model.session import Session
from tests.execution.checkpoints.conftest import RUNTIME, Desk, desk
from tests.execution.checkpoints.trees import fill, tree


def again(here: Desk, session: Session) -> Session:
    """The session's record as it is now."""
    found = here.hub.sessions.get(session.id)
    assert found is not None
    return found


def hub_contents(hub: Hub, session: str = "s1") -> set[str]:
    """Digests of the contents that the hub has of the session's checkpoints."""
    return set(hub.contents.digests(layout.checkpoints_folder(session)))


def hub_manifests(hub: Hub, session: str = "s1") -> list[str]:
    """Ids of the manifests that the hub has."""
    names = hub.contents.names(layout.checkpoints_folder(session))
    return [name.removeprefix("manifests/").removesuffix(".json") for name in names]


FILES: dict[str, bytes | str] = {
    "a.txt": "hello\n",
    "empty": "",
    "folder/": "",
    "folder/b": b"\0\xff" * 1000,
    "folder/ü n\n": "odd",
    "deep/er/still": "x",
    "link -> a.txt": "",
    "dangling -> ../../nowhere": "",
    "absolute -> /etc/passwd": "",
}


def test_restored_on_another_worker(here: Desk, there: Desk) -> None:
    """What one worker saved and published another one restores: files, modes, times, links, settings, journal."""
    session = here.session(metadata={"k": [1]}, env={"A": "b"})
    folder = here.open(session)
    fill(folder.workspace, FILES)
    os.chmod(folder.workspace / "folder", 0o550)
    os.chmod(folder.workspace / "a.txt", 0o755)
    os.utime(folder.workspace / "a.txt", ns=(10**18, 10**18 + 123_456_000))
    folder.journal_path.write_bytes(b'{"forgotten": 3}\n')
    made = here.checkpoints.save(session, folder, here.kit.sandbox, name="first")
    assert (4 + 1, "first", True, "w1") == (made.files, made.name, made.published, made.worker)
    assert made.size == 6 + 2000 + 3 + 1

    moved = again(here, session)
    assert (made,) == moved.checkpoints
    restored = there.restore(moved, made.id)
    assert tree(folder.workspace) == tree(restored.workspace)
    assert b'{"forgotten": 3}\n' == restored.journal_path.read_bytes()
    assert (restored.workspace / ".venv/bin/python").is_symlink()
    assert sorted(["journal.jsonl", "workspace"]) == sorted(each.name for each in restored.root.iterdir())
    manifest = here.hub.sessions.read_manifest("s1", made.id)
    assert ({"k": [1]}, {"A": "b"}) == (manifest.record.metadata, manifest.record.env)
    if here.kit.sandbox is not None and here.kit.sandbox.identity is not None:
        assert here.kit.sandbox.identity.uid == (restored.workspace / "folder/b").stat().st_uid


NAMES = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=12
).filter(lambda name: name not in (".", "..", ".cache", "__pycache__") and not name.startswith((".venv", ".ghcoord-")))


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.binary(max_size=200), max_size=8))
def test_any_tree_comes_back(here: Desk, files: dict[str, bytes]) -> None:
    """Whatever names and contents there are, they are the same afterwards."""
    name = f"s{RUNTIME.randbits(60):x}"
    session = here.session(name)
    try:
        folder = here.open(session)
        for path, data in files.items():
            where = folder.workspace / path
            try:
                where.parent.mkdir(parents=True, exist_ok=True)
                where.write_bytes(data)
            except OSError:
                continue  # one of the names is a file's and a folder's
        before = tree(folder.workspace)
        made = here.checkpoints.save(session, folder, here.kit.sandbox)
        folder.root.rename(folder.root.with_name(f"{name}-before"))
        assert before == tree(here.restore(again(here, session), made.id).workspace)
    finally:
        here.hub.sessions.destroy(name)


def test_only_what_changed_is_written(here: Desk) -> None:
    """The second checkpoint reads, stores and publishes what changed, and nothing else."""
    session = here.session()
    folder = here.open(session)
    fill(folder.workspace, {f"f{n}": f"content {n // 2}" for n in range(40)})
    for each in folder.workspace.iterdir():
        os.utime(each, (1e9, 1e9))
    RUNTIME.sleep(0.15)  # older than what a change could hide in
    here.checkpoints.save(session, folder, here.kit.sandbox)
    assert 20 == len(hub_contents(here.hub))
    before = hub_contents(here.hub)
    fill(folder.workspace, {"f7": "another", "f8": "content 3"})

    store = here.checkpoints.store("s1")
    here.checkpoints.store = lambda session_id: store  # type: ignore[method-assign]
    made = here.checkpoints.save(again(here, session), folder, here.kit.sandbox)
    assert ("f7", "f8") == made.modified
    assert 1 == store.written
    assert store.written_bytes < 100
    assert 1 == len(hub_contents(here.hub) - before)


def test_nothing_is_read_again(here: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that did not change is known by its inode, size and times."""
    session = here.session()
    folder = here.open(session)
    fill(folder.workspace, {"a": "1", "b": "2"})
    RUNTIME.sleep(0.15)
    here.checkpoints.save(session, folder, here.kit.sandbox)
    fill(folder.workspace, {"b": "3"})
    os.utime(folder.workspace / "b", (1e9, 1e9))  # whatever a task claims of its time
    read: list[str] = []
    original = type(folder.files).open_read
    monkeypatch.setattr(
        type(folder.files), "open_read", lambda self, path: (read.append(path), original(self, path))[1]
    )
    here.checkpoints.save(again(here, session), folder, here.kit.sandbox)
    assert ["b"] == read


def test_a_change_right_after_a_checkpoint_is_seen(here: Desk) -> None:
    """A file of the same size that is changed within the clock's tick of the last look is read again."""
    session = here.session()
    folder = here.open(session)
    for n in range(6):
        fill(folder.workspace, {"a": f"{n:05d}"})
        made = here.checkpoints.save(session, folder, here.kit.sandbox)
        (digest,) = [e.sha256 for e in here.hub.sessions.read_manifest("s1", made.id).files.values()]
        assert f"{n:05d}".encode() == b"".join(here.hub.sessions.read_content("s1", digest))


def test_the_last_n_are_kept(hub: Hub, tmp_path: Path, kit: Kit, here: Desk) -> None:
    """Older checkpoints go, with the contents that only they had; what is left can be restored."""
    few = desk(hub, tmp_path / "few", kit, keep=2)
    session = few.session()
    folder = few.open(session)
    made = []
    for n in range(4):
        fill(folder.workspace, {"always": "the same", "now": f"version {n}"})
        made.append(few.checkpoints.save(session, folder, kit.sandbox))
    assert [one.id for one in made[2:]] == [one.id for one in hub.sessions.checkpoints("s1")]
    store = few.checkpoints.store("s1")
    assert sorted(one.id for one in made[2:]) == store.ids() == sorted(hub_manifests(hub))
    assert 3 == len(hub_contents(hub))
    assert 3 == sum(1 for path in store.folder.glob("objects/*/*"))
    folder.root.rename(folder.root.with_name("before"))
    restored = few.restore(again(few, session), made[2].id)
    assert "version 2" == (restored.workspace / "now").read_text()
    with pytest.raises(NotFound):
        few.checkpoints.restore(again(few, session), made[0].id, restored, kit)


def test_deleting(here: Desk) -> None:
    """A deleted checkpoint goes with what only it had, here and in the hub."""
    session = here.session()
    folder = here.open(session)
    fill(folder.workspace, {"a": "one"})
    first = here.checkpoints.save(session, folder, here.kit.sandbox)
    fill(folder.workspace, {"a": "two"})
    second = here.checkpoints.save(session, folder, here.kit.sandbox)
    here.checkpoints.delete("s1", first.id)
    assert [second.id] == hub_manifests(here.hub) == here.checkpoints.store("s1").ids()
    assert 1 == len(hub_contents(here.hub))
    with pytest.raises(NotFound):
        here.checkpoints.delete("s1", first.id)
    here.checkpoints.forget("s1")
    assert not here.checkpoints.store("s1").folder.exists()
    here.checkpoints.forget("s1")


def test_without_publication_only_this_worker_restores(hub: Hub, tmp_path: Path, kit: Kit, here: Desk) -> None:
    """A checkpoint that is kept here is known in the hub, whose contents it does not touch."""
    private = desk(hub, tmp_path / "private", kit, publish=False)
    session = private.session()
    folder = private.open(session)
    fill(folder.workspace, FILES)
    made = private.checkpoints.save(session, folder, kit.sandbox)
    assert not made.published
    assert set() == hub_contents(hub)
    before = tree(folder.workspace)
    folder.root.rename(folder.root.with_name("before"))
    assert before == tree(private.restore(again(private, session), made.id).workspace)
    with pytest.raises(NotFound, match="w1 only"):
        hub.sessions.read_manifest("s1", made.id)
    with pytest.raises(NotFound):
        here.restore(again(private, session), made.id)


def test_a_worker_that_lost_the_session_is_refused(here: Desk, there: Desk) -> None:
    """Who was paused while the session moved on saves nothing, also when it had begun; nothing is left of it."""
    session = here.session()
    folder = here.open(session)
    fill(folder.workspace, {"a": "one"})
    good = here.checkpoints.save(session, folder, here.kit.sandbox)
    publish = here.hub.sessions.publish

    def moved_meanwhile(manifest: object, content: object) -> None:
        publish(manifest, content)  # type: ignore[arg-type]
        here.hub.sessions.restore("s1", good.id, worker="w2")

    fill(folder.workspace, {"a": "two"})
    here.hub.sessions.publish = moved_meanwhile  # type: ignore[method-assign]
    with pytest.raises(LeaseLost):
        here.checkpoints.save(again(here, session), folder, here.kit.sandbox)
    del here.hub.sessions.publish
    with pytest.raises(LeaseLost):
        here.checkpoints.save(session, folder, here.kit.sandbox)
    assert [good.id] == [one.id for one in here.hub.sessions.checkpoints("s1")]
    assert [good.id] == here.checkpoints.store("s1").ids()
    assert 2 == len(hub_manifests(here.hub))  # the refused one waits for the next clean-up
    present = again(here, session)
    other = there.restore(present, good.id)
    there.checkpoints.save(present, other, there.kit.sandbox)
    assert 1 == here.hub.sessions.prune("s1")
    assert 2 == len(hub_manifests(here.hub))
    assert 1 == len(hub_contents(here.hub))


def test_concurrent_saves_take_turns(here: Desk) -> None:
    """Saves of one session at the same time each make a whole checkpoint."""
    session = here.session()
    folder = here.open(session)
    fill(folder.workspace, {f"f{n}": f"{n}" for n in range(30)})
    errors: list[BaseException] = []

    def run() -> None:
        try:
            here.checkpoints.save(session, folder, here.kit.sandbox)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [] == errors
    saved = here.hub.sessions.checkpoints("s1")
    assert 4 == len(saved) == len({one.id for one in saved})
    assert all(30 == len(here.hub.sessions.read_manifest("s1", one.id).files) for one in saved)


def test_quotas(here: Desk) -> None:
    """A workspace beyond the limits is not saved, and says which limit; a checkpoint beyond them is not restored."""
    session = here.session()
    folder = here.open(session, Limits(archive_files=5, archive_mb=1))
    fill(folder.workspace, {f"f{n}": "x" for n in range(6)})
    with pytest.raises(UsageError, match="archive_files"):
        here.checkpoints.save(session, folder, here.kit.sandbox)
    (folder.workspace / "f5").unlink()
    with open(folder.workspace / "f4", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(UsageError, match="archive_mb"):
        here.checkpoints.save(session, folder, here.kit.sandbox)
    (folder.workspace / "f4").unlink()
    made = here.checkpoints.save(session, folder, here.kit.sandbox)
    folder.root.rename(folder.root.with_name("before"))
    with pytest.raises(Corrupt, match="archive_files"):
        here.restore(again(here, session), made.id, Limits(archive_files=3))


def test_restoring_needs_a_sandbox(here: Desk) -> None:
    """A worker without a sandbox unpacks nothing; a long name and a strange id are the caller's mistakes."""
    session = here.session()
    folder = here.open(session)
    made = here.checkpoints.save(session, folder, here.kit.sandbox)
    with pytest.raises(SandboxError):
        here.checkpoints.restore(again(here, session), made.id, folder, Kit(None, RUNTIME))
    with pytest.raises(UsageError):
        here.checkpoints.save(session, folder, here.kit.sandbox, name="x" * 201)
    with pytest.raises(UsageError):
        here.checkpoints.restore(session, "../../etc", folder, here.kit)
    with pytest.raises(UsageError):
        Checkpoints(folder.root, here.hub, keep=0)


def test_diff(here: Desk) -> None:
    """Two checkpoints, and a checkpoint and the workspace, are compared; comparing keeps nothing."""
    session = here.session()
    folder = here.open(session)
    fill(folder.workspace, {"a": "1\n", "b": "2\n"})
    first = here.checkpoints.save(session, folder, here.kit.sandbox)
    fill(folder.workspace, {"a": "one\n", "c": "3\n"})
    (folder.workspace / "b").unlink()
    here.hub.sessions.merge_metadata("s1", {"new": True})
    session = again(here, session)
    found = here.checkpoints.diff(session, folder, first.id, text=True)
    assert ("a", "b", "c") == (found.changed[0].path, found.removed[0].path, found.added[0].path)
    assert (None, ("new",)) == (found.b, found.metadata.added)
    assert found.changed[0].text is not None
    assert "-1\n+one\n" in found.changed[0].text
    assert 2 == len(hub_contents(here.hub)) == len(list(here.checkpoints.store("s1").folder.glob("objects/*/*")))
    second = here.checkpoints.save(session, folder, here.kit.sandbox)
    session = again(here, session)
    assert here.checkpoints.diff(session, folder, second.id).empty
    local = here.checkpoints.diff(session, folder, first.id, second.id, text=True)
    assert local == here.hub.sessions.diff("s1", first.id, second.id, text=True)
    assert found.changed == local.changed


def test_limits_are_the_sessions_own(here: Desk) -> None:
    """A session's limit on a call's time does not end its restoration."""
    session = here.session(limits=Limits(timeout=0.001))
    folder = here.open(session)
    fill(folder.workspace, FILES)
    made = here.checkpoints.save(session, folder, here.kit.sandbox)
    folder.root.rename(folder.root.with_name("before"))
    assert 5 == len(
        [1 for each in tree(here.restore(again(here, session), made.id).workspace).values() if each[0] == "file"]
    )
    assert DEFAULT_LIMITS.archive_files == 100_000
