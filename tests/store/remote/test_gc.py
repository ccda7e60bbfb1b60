"""``hub.gc`` where history is written again: at least an hour stays, and the report is right."""

from __future__ import annotations

from pathlib import Path

from ghcoord.bootstrap import open_hub
from ghcoord.config import Settings
from ghcoord.store.heads import walk
from ghcoord.store.remote.driver import RemoteStore
from ghcoord.testing.clock import ManualRuntime
from tests.store.gitrepo import DEFAULT_PREFIX, fsck
from tests.store.remote.hubs import ENVIRONMENT, make_bare

HOUR = 3600.0


def test_an_hour_stays(tmp_path: Path) -> None:
    """Whatever the retention; tokens go on, the audit log says what happened, and does so once."""
    path = make_bare(tmp_path / "hub.git")
    runtime = ManualRuntime()
    store = RemoteStore(
        f"git+file://{path}",
        runtime,
        DEFAULT_PREFIX,
        cache=tmp_path / "cache",
        budget=None,
        environment=ENVIRONMENT,
    )
    hub = open_hub(store, runtime, Settings(), actor="me", state=tmp_path / "state", make=True)
    for n in range(4):
        hub.memory.set("key", n)
        runtime.advance(HOUR / 2)
    lock = hub.locks.acquire("a", wait=0)
    assert lock is not None
    space = next(space for space in store.heads() if space.startswith("memory/"))
    before = [info.time for info, _ in walk(store, store.heads()[space])]
    told = hub.gc(0.0, dry_run=True)
    assert (HOUR + store.capabilities.clock_margin, True) == (told.retention, told.dry_run)
    done = hub.gc(0.0)
    assert (told.commits_cut, told.commits) == (done.commits_cut, done.commits)
    assert done.commits_cut >= 1
    assert "" == done.postponed
    heads = store.heads()
    _, *rest = walk(store, heads[space])
    assert [time for time in before if time >= done.since[space].timestamp()] == [info.time for info, _ in rest]
    assert 3 == hub.memory.get("key")
    assert any(event.kind == "history collected" for event in hub.audit.log(limit=50))
    assert heads == store.heads(), "gc itself is not written down a second time"
    again = hub.locks.acquire("b", wait=0)
    assert again is not None
    assert again.token > lock.token
    assert 0 == hub.gc(0.0).commits_cut
    hub.close()
    fsck(path)
