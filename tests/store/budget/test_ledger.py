"""The counts that the processes of one machine share, whatever becomes of their file."""

from __future__ import annotations

import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ghcoord.config import BudgetSettings
from ghcoord.errors import Throttled
from ghcoord.store.budget.governor import Governor
from ghcoord.store.budget.ledger import ledger_name
from ghcoord.store.budget.limits import Limits
from ghcoord.testing.clock import ManualRuntime

ACCOUNT = "github.com/mona"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the counts are, in a folder that is not there yet."""
    return tmp_path / "state" / "budget" / "mona.json"


def _governor(file: Path | None, runtime: ManualRuntime, **settings: float) -> Governor:
    return Governor(ACCOUNT, runtime, Limits.github(), file=file, settings=BudgetSettings(**settings))  # type: ignore[arg-type]


def _used(governor: Governor) -> int:
    return {one.name: one.used for one in governor.report().usage}["writes an hour"]


def test_processes_share_counts_blocks_and_workers(file: Path) -> None:
    """What one sends or is told holds for the others, also for those that start later."""
    runtime = ManualRuntime()
    one, other = _governor(file, runtime), _governor(file, runtime)
    one.admit("write")
    assert 1.0 == other.write_ready_in()
    one.share(12)
    assert 12 == other.pace().workers
    one.block(runtime.now() + 30, "because")
    with pytest.raises(Throttled, match="because"):
        _governor(file, runtime, patience=10.0).admit("poll")
    other.admit("poll")
    assert 1030.0 == runtime.monotonic()


def test_workers_that_are_gone_are_forgotten(file: Path) -> None:
    """One that ends says so; one that was killed is not counted after a quarter of an hour; who lives on is."""
    runtime = ManualRuntime()
    ended, killed, living = (_governor(file, runtime) for _ in range(3))
    ended.share(9)
    killed.share(8)
    living.share(2)
    ended.share(0)
    assert 8 == living.pace().workers
    for _ in range(4):
        runtime.advance(300)
        living.admit("poll")
    assert 2 == _governor(file, runtime).pace().workers


def test_only_the_owner_reads_it(file: Path) -> None:
    """Mode 0600 in a folder of mode 0700, small, and without anything but counts."""
    runtime = ManualRuntime()
    governor = _governor(file, runtime, patience=1e9)
    for _ in range(500):
        governor.admit("write")
    assert (0o600, 0o700) == (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode))
    assert 10_000 > file.stat().st_size
    assert {
        "version",
        "boot",
        "wall",
        "writes",
        "pushes",
        "refusals",
        "points",
        "blocked",
        "primary",
        "workers",
    } == set(json.loads(file.read_text()))


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"{\n",
        b"\xff\xfe\n",
        b'{"version": 1}\n',
        b'{"version": 99, "writes": []}\n',
        b"[" * 100_000 + b"\n",
        b"x" * 2_000_000,
    ],
)
def test_a_broken_file_counts_as_empty(file: Path, damage: bytes) -> None:
    """It is written anew with the next request."""
    runtime = ManualRuntime()
    file.parent.mkdir(parents=True)
    file.write_bytes(damage)
    governor = _governor(file, runtime)
    governor.admit("write")
    assert 1 == _used(_governor(file, runtime))
    assert 1 == len(json.loads(file.read_text())["writes"])


@pytest.mark.parametrize(
    "key", ["writes", "pushes", "refusals", "points", "blocked", "primary", "workers", "boot", "wall"]
)
@pytest.mark.parametrize("value", [None, 7, "x", [None], [[1]], {"a": 1}, [1e400, float("nan")], [10**400]])
def test_strange_values_are_no_harm(file: Path, key: str, value: object) -> None:
    """Whatever stands in the file, requests go on."""
    runtime = ManualRuntime()
    governor = _governor(file, runtime)
    governor.admit("write")
    state = json.loads(file.read_text())
    state["boot"] = "another"
    file.write_text(json.dumps({**state, key: value}) + "\n")
    governor.admit("write")
    assert _used(governor) in (1, 2)
    governor.pace()


def test_what_was_left_of_a_longer_line_is_ignored(file: Path) -> None:
    """A process that was killed between writing and cutting leaves the end of the older line."""
    runtime = ManualRuntime()
    governor = _governor(file, runtime)
    governor.admit("write")
    with file.open("a") as rest:
        rest.write("0,1700000000]}\n")
    assert 1 == _used(_governor(file, runtime))


def test_times_of_the_future_are_dropped(file: Path) -> None:
    """A copied or damaged file blocks nobody for ever."""
    runtime = ManualRuntime()
    governor = _governor(file, runtime)
    governor.admit("write")
    state = json.loads(file.read_text())
    state |= {"writes": [10**12], "blocked": [10**13, "x"], "workers": {"1-a": [99, 10**13]}}
    state["primary"] = {"core": [5000, 0, 10**13]}
    file.write_text(json.dumps(state) + "\n")
    began = runtime.monotonic()
    governor.admit("write")
    assert (began, 1) == (runtime.monotonic(), governor.pace().workers)


@pytest.mark.parametrize("number", [10**400, -(10**400)], ids=["huge", "negative"])
def test_numbers_that_cannot_be_in_the_file(file: Path, number: int) -> None:
    """They are no reason to fail, and neither to wait nor to send without counting."""
    runtime = ManualRuntime()
    governor = _governor(file, runtime)
    governor.admit("write")
    state = json.loads(file.read_text())
    soon = int(runtime.monotonic() * 1000) + 50_000
    state |= {"points": [[int(runtime.monotonic()), number]], "workers": {"1-a": [number, soon]}}
    state["primary"] = {"core": [5000, number, soon], "graphql": [number, 5000, soon]}
    file.write_text(json.dumps(state) + "\n")
    began = runtime.monotonic()
    governor.admit("read")
    assert (began, 1) == (runtime.monotonic(), governor.pace().workers)
    governor.report()


def test_a_step_of_the_wall_clock_changes_nothing(file: Path) -> None:
    """The counts go by the clock since the boot: setting the time neither forgets writes nor prolongs a block."""
    runtime = ManualRuntime()
    governor = _governor(file, runtime)
    governor.admit("write")
    governor.block(runtime.now() + 60, "because")
    for step in (-7200, 100_000):
        runtime.jump_wall(step)
        assert 1 == _used(_governor(file, runtime))
    began = runtime.monotonic()
    governor.admit("poll")
    assert 60.0 == runtime.monotonic() - began


def test_a_reboot_keeps_the_counts(file: Path) -> None:
    """The clock since the boot begins anew: the wall clock carries times over."""
    before = ManualRuntime()
    governor = _governor(file, before)
    governor.admit("write")
    governor.block(before.now() + 600, "because")
    after = ManualRuntime(start=before.now() + 100, boot_id="second")
    after.advance(50)
    again = _governor(file, after)
    assert 1 == _used(again)
    began = after.monotonic()
    again.admit("poll")
    assert 450.0 == round(after.monotonic() - began, 2)


@pytest.mark.parametrize("kind", ["folder is a file", "file is a folder", "file is a link", "file is a pipe"])
def test_without_a_file_that_can_be_used_the_process_counts_itself(tmp_path: Path, kind: str) -> None:
    """The limits are kept nevertheless; nothing is written through a link."""
    file = tmp_path / "x" / "y.json"
    if kind == "folder is a file":
        file.parent.write_text("")
    else:
        file.parent.mkdir()
    if kind == "file is a folder":
        file.mkdir()
    elif kind == "file is a link":
        (tmp_path / "precious").write_text("mine")
        file.symlink_to(tmp_path / "precious")
    elif kind == "file is a pipe":
        os.mkfifo(file)
    runtime = ManualRuntime()
    governor = _governor(file, runtime)
    for _ in range(3):
        governor.admit("write")
    assert (1002.0, 3) == (runtime.monotonic(), _used(governor))
    if kind == "file is a link":
        assert "mine" == (tmp_path / "precious").read_text()


def test_counts_of_a_time_without_the_file_are_added(tmp_path: Path) -> None:
    """Once the folder can be used, what was sent meanwhile is there for others."""
    runtime = ManualRuntime()
    folder = tmp_path / "x"
    folder.write_text("in the way")
    governor = _governor(folder / "y.json", runtime)
    governor.admit("write")
    folder.unlink()
    governor.admit("write")
    assert 2 == _used(_governor(folder / "y.json", runtime))


def test_accounts_have_files_of_their_own() -> None:
    """Readable, without what a file system takes amiss, and different ones even if they look alike."""
    names = [ledger_name(one) for one in ("github.com/mona", "github.com-mona", "../../etc", "", "é" * 300)]
    assert "github.com-mona-" == names[0][:16]
    assert len(names) == len({*names})
    assert all(len(name) < 80 and "/" not in name and not name.startswith(".") for name in names)


WRITER = """
import sys
from pathlib import Path
from ghcoord.clock import SystemRuntime
from ghcoord.store.budget.governor import Governor
from ghcoord.store.budget.limits import Limits

governor = Governor("github.com/mona", SystemRuntime(), Limits(write_gap=0.02), file=Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    governor.admit("write")
    print(SystemRuntime().monotonic())
"""


def test_no_two_processes_take_the_same_slot(file: Path) -> None:
    """Four processes at once: the gap lies between any two writes, and each is counted."""
    children = [
        subprocess.Popen([sys.executable, "-c", WRITER, file, "12"], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = [child.communicate(timeout=60)[0] for child in children]
    assert [12] * 4 == [len(one.split()) for one in said]
    writes = json.loads(file.read_text())["writes"]
    assert 48 == len(writes)
    assert 20 <= min(late - early for early, late in itertools.pairwise(writes))


def test_a_stopped_process_with_the_lock_stops_nobody(file: Path) -> None:
    """Whoever cannot get the file's lock goes on by its own counts."""
    held = (
        "import fcntl,os,sys,time; f=open(sys.argv[1],'a'); fcntl.flock(f,2); print('held',flush=True); time.sleep(60)"
    )
    runtime = ManualRuntime()
    governor = _governor(file, runtime)
    governor.admit("write")
    holder = subprocess.Popen([sys.executable, "-c", held, file], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert "held" == holder.stdout.readline().strip()
        began = time.monotonic()
        governor.admit("write")
        assert 10 > time.monotonic() - began
        assert 2 == _used(governor)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    governor.admit("poll")
    assert 2 == _used(_governor(file, runtime))
