"""What is saved can be restored, whoever removes what meanwhile, and what was interrupted leaves nothing for ever."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

import pytest

from ghcoord.coord import layout
from ghcoord.errors import Conflict, Unavailable, UsageError
from tests.execution.checkpoints.conftest import Desk, desk
from tests.execution.checkpoints.test_archives import GOOD, gz
from tests.execution.checkpoints.test_checkpoints import hub_contents, hub_manifests
from tests.execution.checkpoints.trees import fill


def before_the_end(here: Desk, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], times: int = 1) -> list[int]:
    """Have ``act`` happen in the middle of the next ``times`` publications, once it was looked what is there."""
    contents = type(here.hub.contents)
    put: Callable[..., None] = contents.put
    done: list[int] = []

    def disturbed(self: Any, folder: str, items: Any, **given: Any) -> None:
        def some() -> Any:
            yield from items
            if len(done) < times:
                done.append(1)
                act()

        put(self, folder, some(), **given)

    monkeypatch.setattr(contents, "put", disturbed)
    return done


def test_a_deletion_beside_a_checkpoint_costs_neither(here: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the new one relied on is stored again, and it can be restored from the hub alone."""
    session = here.session()
    place = here.open(session)
    other = here.checkpoints.save(session, place, here.kit.sandbox)
    fill(place.workspace, {"f": "same"})
    first = here.checkpoints.save(session, place, here.kit.sandbox)
    done = before_the_end(here, monkeypatch, lambda: here.hub.sessions.delete_checkpoint("s1", first.id))
    second = here.checkpoints.save(session, place, here.kit.sandbox)
    assert [1] == done
    assert [other.id, second.id] == [one.id for one in here.hub.sessions.checkpoints("s1")]
    manifest = here.hub.sessions.read_manifest("s1", second.id)
    assert b"same" == b"".join(here.hub.sessions.read_content("s1", manifest.files["f"].sha256))


def test_who_removes_again_and_again_is_named(here: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends after a few tries, and says what to do."""
    session = here.session()
    place = here.open(session)
    tries: list[int] = []

    def removed(*args: object, **given: object) -> None:
        tries.append(1)
        raise Conflict("it was removed: put all of it again")

    monkeypatch.setattr(type(here.hub.contents), "put", removed)
    with pytest.raises(Unavailable, match="put all of it again"):
        here.checkpoints.save(session, place, here.kit.sandbox)
    assert [1, 1, 1] == tries


def test_what_a_killed_worker_left_in_the_hub_goes(here: Desk, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next worker's process removes it with the first checkpoint that is dropped."""
    session = here.session()
    place = here.open(session)
    left = hashlib.sha256(b"left").hexdigest()
    here.hub.contents.put(layout.checkpoints_folder("s1"), [(left, b"left")])
    next_one = desk(here.hub, tmp_path / "a", here.kit, keep=1)
    for text in ("1", "2"):
        assert left in hub_contents(here.hub)
        fill(place.workspace, {"f": text})
        next_one.checkpoints.save(session, place, here.kit.sandbox)
    assert left not in hub_contents(here.hub)
    assert 1 == len(hub_manifests(here.hub))


def test_an_import_of_a_session_that_moves_is_refused_and_leaves_nothing(
    here: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what it needs could be gone by the time that it counts."""
    session = here.session()
    place = here.open(session)
    fill(place.workspace, {"f": "same"})
    made = here.checkpoints.save(session, place, here.kit.sandbox)
    contents, manifests = hub_contents(here.hub), hub_manifests(here.hub)
    before_the_end(here, monkeypatch, lambda: here.hub.sessions.restore("s1", made.id))
    with pytest.raises(Unavailable, match="import it again"):
        here.hub.sessions.import_checkpoint("s1", io.BytesIO(gz(*GOOD)))
    assert (contents, manifests) == (hub_contents(here.hub), hub_manifests(here.hub))


def test_a_link_with_a_long_strange_target_is_restored(here: Desk) -> None:
    """One link must not make a checkpoint that was acknowledged impossible to restore."""
    session = here.session()
    place = here.open(session)
    target = "a" * 99 + "ä" * 50
    (place.workspace / "link").symlink_to(target)
    made = here.checkpoints.save(session, place, here.kit.sandbox)
    saved = here.hub.sessions.get("s1")
    assert saved is not None
    place.root.rename(place.root.with_name("old"))
    back = here.restore(saved, made.id)
    assert target == (back.workspace / "link").readlink().as_posix()


def test_what_could_not_be_restored_is_not_acknowledged(here: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of files beyond what is read again, for one: better no checkpoint than one that loses the session."""
    session = here.session()
    place = here.open(session)
    fill(place.workspace, {f"f{n}": "1" for n in range(20)})
    monkeypatch.setattr("ghcoord.coord.sessions.manifests.INLINE", 100)
    monkeypatch.setattr("ghcoord.coord.sessions.manifests.MAX_LISTING", 200)
    with pytest.raises(UsageError, match=r"cannot be saved: .* at most 200 are read"):
        here.checkpoints.save(session, place, here.kit.sandbox)
    assert [] == here.hub.sessions.checkpoints("s1")
    assert [] == here.checkpoints.store("s1").ids()
