"""gc beside eight writers for a minute, and a hub after a million records."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ghcoord.bootstrap import create, import_hub, open_hub
from ghcoord.config import Settings
from ghcoord.coord.care import care
from ghcoord.ids import fan_out
from ghcoord.store.local import LocalStore
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.tx import Tx
from ghcoord.testing.clock import ManualRuntime
from tests.store.gitrepo import fsck, git

pytestmark = pytest.mark.slow

WRITERS = 8
MINUTE = 60.0

_WRITER = """
import json, sys, time
from ghcoord.bootstrap import connect
hub_path, me, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
end = time.monotonic() + seconds
log = open(sys.argv[4], "w")
with connect(hub_path, actor=f"writer-{me}") as hub:
    n = 0
    while time.monotonic() < end:
        n += 1
        revision = hub.memory.set(f"{me}/{n % 40}", {"n": n, "text": "x" * (n % 500)}).revision
        token = None
        if n % 3 == 0:
            lock = hub.locks.acquire("shared", wait=0)
            if lock is not None:
                token = lock.token
                hub.locks.release("shared", f"writer-{me}", token)
        if n % 5 == 0:
            hub.tasks.submit("echo", {"n": n}, id=f"task-{me}-{n}")
        log.write(json.dumps([n, revision, token]) + "\\n")
        log.flush()
"""


def test_a_minute_beside_eight_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every acknowledged write is there, revisions and tokens only rise, fsck is content, and history is short."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(care, "FLOOR", 2.0)
    path = tmp_path / "hub.git"
    hub, _ = create(path)
    logs = [tmp_path / f"{n}.log" for n in range(WRITERS)]
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(path), str(n), str(MINUTE), str(logs[n])])
        for n in range(WRITERS)
    ]
    reports = []
    try:
        while any(writer.poll() is None for writer in writers):
            reports.append(hub.gc(2.0))
            time.sleep(0.5)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    assert [0] * WRITERS == [writer.returncode for writer in writers]
    said = [[json.loads(line) for line in log.read_text().splitlines()] for log in logs]
    fsck(path)
    tokens: list[int] = []
    for me, lines in enumerate(said):
        revisions = [revision for _, revision, _ in lines]
        assert revisions == sorted(set(revisions)), "revisions rise"
        own = [token for _, _, token in lines if token is not None]
        assert own == sorted(set(own)), "tokens rise"
        tokens += own
        newest = {n % 40: n for n, _, _ in lines}
        for slot, n in newest.items():
            assert {"n": n, "text": "x" * (n % 500)} == hub.memory.get(f"{me}/{slot}")
        for n, _, _ in lines:
            if n % 5 == 0:
                assert hub.tasks.get(f"task-{me}-{n}") is not None
    assert len(tokens) == len(set(tokens)), "no token twice"
    assert [] == hub.repair(dry_run=True)
    assert sum(report.commits_cut for report in reports) > 500
    hub.gc(0)
    hub.close()
    kept = len(git(path, "rev-list", "--all").split())
    done = sum(map(len, said))
    print(f"\n{len(reports)} runs of gc beside {done} rounds of {WRITERS} writers; {kept} commits kept")
    assert len(reports) > 5
    assert done > 1000


# -- a million records

KEYS = 50_000
BATCH = 1000
COMMITS = 1000
A_DAY = 50
"""Commits a day: gc runs once a day, and keeps half a day."""


def size(path: Path) -> int:
    """Bytes of a repository's objects."""
    return sum(file.stat().st_size for file in (path / "objects").rglob("*") if file.is_file())


@pytest.mark.timeout(900)
def test_a_million_records(tmp_path: Path) -> None:
    """Written over 20 days: after each gc the hub stays within 3 × a fresh copy, and commits do not slow down."""
    (tmp_path / "state").mkdir()
    path = tmp_path / "hub.git"
    create(path, state=tmp_path / "state")[0].close()
    runtime = ManualRuntime()
    hub = open_hub(LocalStore(path, runtime), runtime, Settings(), actor="writer", state=tmp_path / "state")
    transactor = hub._context.transactor
    dice = random.Random(7)
    places = ["keys/{}/{}/{}.json".format(*fan_out(str(n)), n) for n in range(KEYS)]
    seconds: list[float] = []
    after_gc: list[int] = []
    peak = 0
    for commit in range(COMMITS):
        first = commit * BATCH
        chosen = range(first, first + BATCH) if first < KEYS else dice.sample(range(KEYS), BATCH)

        def write(tx: Tx, commit: int = commit, chosen: range | list[int] = chosen) -> None:
            for n in chosen:
                value = {"key": f"key-{n}", "value": {"n": commit, "by": f"worker-{n % 17}"}, "revision": tx.revision}
                tx.write("memory/many", places[n], json.dumps(value, indent=2).encode())

        started = time.perf_counter()
        transactor.transact(["memory/many"], write)
        seconds.append(time.perf_counter() - started)
        runtime.advance(86400 / A_DAY)
        if (commit + 1) % A_DAY == 0:
            peak = max(peak, size(path))
            hub.gc(86400 / 2)
            after_gc.append(size(path))
    fsck(path)
    hub.export(tmp_path / "x.bundle", history=False)
    import_hub(tmp_path / "x.bundle", tmp_path / "fresh.git", Settings(), state=tmp_path / "state").close()
    git(tmp_path, "clone", "-q", "--bare", "--depth", "1", "--no-single-branch", f"file://{path}", "clone.git")
    fresh, clone = size(tmp_path / "fresh.git"), size(tmp_path / "clone.git")
    store = LocalStore(path, runtime)
    assert KEYS == sum(1 for _ in Snapshot(store, "memory/many", store.heads()["memory/many"]).walk("keys"))
    full = seconds[2 * A_DAY :]  # once all keys are there
    tenth = len(full) // 10
    before, after = statistics.median(full[:tenth]), statistics.median(full[-tenth:])
    print(
        f"\n{COMMITS * BATCH:,} records in {sum(seconds):.0f} s; MB after gc at most {max(after_gc) / 1e6:.1f}, "
        f"before it {peak / 1e6:.1f}, fresh copy {fresh / 1e6:.1f}, git clone --depth 1 {clone / 1e6:.1f}; "
        f"commit of {BATCH}: {before * 1000:.0f} ms at first, {after * 1000:.0f} ms at last"
    )
    assert max(after_gc) <= 3 * fresh
    assert max(after_gc) <= 3 * clone
    assert after <= 1.3 * before
    hub.close()
