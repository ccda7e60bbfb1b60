"""A session's record that this version cannot read: nothing that it may need is removed."""

from __future__ import annotations

import hashlib
import json

from ghcoord.coord import layout
from ghcoord.coord.sessions import records
from ghcoord.hub import Hub
from ghcoord.store.tx import Tx
from tests.coord.sessions.checks import active, found, saved, worker
from tests.coord.world import World


def test_the_contents_of_a_fork_that_cannot_be_read_stay(world: World, hub: Hub) -> None:
    """Neither the end of the session that it was made of removes them, nor a clean-up, nor a dropped checkpoint."""
    active(hub, worker(hub, "w1"), "s1")
    session = found(hub, "s1")
    hub.sessions.record_checkpoint("s1", session.epoch, saved(session, "c1"), 10)
    digest = hashlib.sha256(b"x").hexdigest()
    folder = layout.checkpoints_folder("s1")
    manifest = json.dumps({"epoch": session.epoch, "files": digest}).encode()
    hub.contents.put(folder, [(digest, b"x")], extra={layout.manifest_name("c1"): manifest})
    hub.sessions.create("fork", checkpoint=("s1", "c1"))
    _newer(hub, "fork")
    hub.sessions.prune("s1", gone=["c1"])
    assert {digest} == hub.contents.has(folder, [digest])
    hub.sessions.destroy("s1")
    hub.sessions.clean(0)
    assert {digest} == hub.contents.has(folder, [digest])
    _gone(hub, "fork")
    hub.sessions.clean(0)
    assert set() == hub.contents.has(folder, [digest])


def _newer(hub: Hub, session_id: str) -> None:
    """A newer version has written the record."""
    path = layout.session_path(session_id)
    data = json.loads(hub._context.snapshot(layout.FLEET).read(path) or b"")
    changed = json.dumps({**data, "format": 99}).encode()
    hub._context.transact((layout.FLEET,), lambda tx: tx.write(layout.FLEET, path, changed))


def _gone(hub: Hub, session_id: str) -> None:
    path = layout.session_path(session_id)
    hub._context.transact((layout.FLEET,), lambda tx: tx.delete(layout.FLEET, path))


def test_a_record_that_was_set_aside_counts_until_it_is_back(world: World, hub: Hub) -> None:
    """What people broke and what is restored are told apart; a stray file of theirs stops nothing."""
    for name in ("s1", "s2"):
        active(hub, worker(hub, f"w-{name}"), name)
    path = layout.session_path("s1")
    snapshot = hub._context.snapshot

    def put(files: dict[str, bytes | None]) -> list[str] | None:
        def run(tx: Tx) -> None:
            for name, data in files.items():
                tx.delete(layout.FLEET, name) if data is None else tx.write(layout.FLEET, name, data)

        hub._context.transact((layout.FLEET,), run)
        every = records.every(snapshot(layout.FLEET))
        return None if every is None else sorted(one.id for one in every)

    data = snapshot(layout.FLEET).read(path)
    assert ["s1", "s2"] == put({"broken/sessions/notes.txt": b"x", "broken/sessions/notes.txt.reason.json": b"{}"})
    assert ["s1", "s2"] == put({f"broken/{path}": b"{", f"broken/{path}.reason.json": b"{}"}), "it was restored"
    assert None is put({path: None})
    assert ["s1", "s2"] == put({path: data})
    assert None is put({path: b"{"})
