"""The parts that look at a running command: processes, memory, the folder that fills, limits of one process."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ghcoord.errors import SandboxError
from ghcoord.execution.sandbox import filling, rlimits, tree
from ghcoord.execution.sandbox.base import Identity
from ghcoord.execution.sandbox.cgroup import Groups
from ghcoord.execution.sandbox.filling import Filling
from ghcoord.execution.sandbox.tree import children_of, read_process, read_tree, unshared_memory
from ghcoord.execution.sandbox.watch import INTERVAL, SLOWEST, Watch
from ghcoord.model.limits import Limits

MIB = 1024 * 1024
NOBODY = 2**22 - 1
"""A process id above any that the kernel gives."""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits, of ours."""
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        yield process
        process.kill()


def test_a_process_and_its_tree_are_read(child: subprocess.Popen[bytes]) -> None:
    """This process has threads, memory, time and children; one that is not there has nothing."""
    me = read_process(os.getpid())
    assert me is not None
    assert me.threads >= 1
    assert me.resident > 5 * MIB
    assert me.own_cpu > 0.0
    assert {os.getpid(), child.pid} <= {each.pid for each in read_tree(os.getpid())}
    assert read_process(NOBODY) is None
    assert [] == read_tree(NOBODY)
    assert [] == children_of(NOBODY, threads=2)


def test_a_kernel_that_keeps_no_list_of_children(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All processes of the machine are looked through instead."""
    monkeypatch.setattr(tree, "_CHILDREN", "/proc/{pid}/task/{task}/none")
    assert [] == children_of(os.getpid())
    assert os.getpid() == read_tree(os.getpid())[0].pid
    assert child.pid in [each.pid for each in read_tree(os.getpid())]
    assert [] == read_tree(NOBODY)


def test_children_of_every_thread_are_found() -> None:
    """A process belongs to the thread that started it; all of them are asked."""
    started, done = threading.Event(), threading.Event()
    found: list[int] = []

    def start() -> None:
        with subprocess.Popen(["/bin/sleep", "60"]) as process:
            found.append(process.pid)
            started.set()
            done.wait(10)
            process.kill()

    thread = threading.Thread(target=start)
    thread.start()
    assert started.wait(10)
    try:
        me = read_process(os.getpid())
        assert me is not None
        assert found[0] in children_of(me.pid, me.threads)
    finally:
        done.set()
        thread.join()


def test_memory_is_told_without_what_is_counted_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapped file in memory is part of it, unless its file system is counted as a whole."""
    with open("/dev/shm/ghcoord-test", "w+b") as file:
        os.unlink(file.name)
        file.truncate(20 * MIB)
        with mmap.mmap(file.fileno(), 20 * MIB) as page:
            for at in range(0, 20 * MIB, 4096):
                page[at] = 1
            device = os.fstat(file.fileno()).st_dev
            everything = unshared_memory(os.getpid(), lambda number: False)
            less = unshared_memory(os.getpid(), lambda number: number == device)
            assert everything is not None
            assert less is not None
            assert 20 * MIB == pytest.approx(everything - less, abs=MIB)
            monkeypatch.setattr(tree, "_MOST_MAPPINGS", 1000)
            strange = unshared_memory(os.getpid(), lambda number: number == device)
            assert strange is not None
            assert strange > less + 10 * MIB
    assert unshared_memory(NOBODY, lambda number: False) is None


def measured(folder: Path, limit: int, **steps: int) -> tuple[Filling, bool]:
    """A whole pass over ``folder`` after it was empty at the start, and whether it found too much."""
    watched = Filling(folder, limit)
    watched.size = 0
    over, now = watched.look(0.0, [os.getpid()]), 0.0
    while watched._pass is not None:
        now += 0.02
        over = watched.look(now, [os.getpid()])
    return watched, over


def test_a_folder_is_measured_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many entries take many looks, and the sum is that of all of them, each content once."""
    monkeypatch.setattr(filling, "STEP", 10)
    for number in range(50):
        (tmp_path / f"folder{number % 3}").mkdir(exist_ok=True)
        (tmp_path / f"folder{number % 3}" / f"{number}").write_bytes(b"x" * 4096)
    os.link(tmp_path / "folder0" / "0", tmp_path / "other-name")
    (tmp_path / "link").symlink_to("/usr")
    watched = Filling(tmp_path, MIB)
    assert not watched.look(0.0, [])
    assert watched.size is None
    looks = 1
    while watched.size is None:
        looks += 1
        assert not watched.look(looks * 0.02, [])
    assert looks >= 5
    assert 50 * 4096 <= watched.size <= 56 * 4096 + 60 * filling.ENTRY_BYTES
    assert not watched.look(looks * 0.02 + 0.01, [])  # nothing is due yet
    watched.close()


def test_a_pass_that_has_begun_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing in the middle leaves no descriptor."""
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(filling, "FIRST_STEP", 2)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").touch()
    watched = Filling(tmp_path, MIB)
    watched.begin()
    assert watched.size is None
    watched.close()
    assert before == len(os.listdir("/proc/self/fd"))


def test_what_was_deleted_and_is_open_counts(tmp_path: Path) -> None:
    """A file without a name takes its room for as long as a process holds it."""
    with open(tmp_path / "big", "wb") as file:
        file.write(b"x" * 3 * MIB)
        file.flush()
        os.fsync(file.fileno())
        os.unlink(file.name)
        watched, over = measured(tmp_path, 2 * MIB)
        assert over
        watched.close()
    watched, over = measured(tmp_path, 2 * MIB)
    assert not over
    watched.close()


MAPPER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
if "shy" in sys.argv: libc.prctl(4, 0, 0, 0, 0)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.write(fd, b"x" * (3 << 20)); os.fsync(fd); os.unlink(sys.argv[1])
if "open" not in sys.argv: libc.mmap(None, 4096, 1, 1, fd, ctypes.c_long(0)); os.close(fd)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["mapped", "mapped shy", "open shy"])
@pytest.mark.parametrize("may_look", [True, False])
def test_what_was_deleted_and_is_held_elsewhere_counts(
    how: str, may_look: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapping holds a file too; where nobody may look at what is held, what the disk has lost counts."""
    watched = Filling(tmp_path, 2 * MIB)
    watched.begin()
    argv = [sys.executable, "-c", MAPPER, str(tmp_path / "big"), *how.split()]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        if not may_look:
            refuse(monkeypatch, f"/proc/{holder.pid}/" + ("map_files" if how == "mapped" else "fd"))
        over = False
        for step in range(1, 40):
            over = over or watched.look(step * 0.3, [holder.pid])
        holder.kill()
    watched.close()
    assert over


def refuse(monkeypatch: pytest.MonkeyPatch, below: str) -> None:
    """As an ordinary worker is refused."""
    for name in ("stat", "listdir"):
        real = getattr(os, name)

        def refusing(path: object, *args: object, real: Any = real, **named: object) -> object:
            if str(path).startswith(below):
                raise PermissionError(errno.EACCES, "no")
            return real(path, *args, **named)

        monkeypatch.setattr(os, name, refusing)


def test_a_list_of_mappings_that_is_too_long_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not read of it counts as what the disk has lost."""
    monkeypatch.setattr(filling, "MOST_MAPPINGS", 100)
    monkeypatch.setattr(filling, "_TURN", 10)
    watched = Filling(tmp_path, MIB)
    watched.begin()
    watched.look(1.0, [os.getpid()])
    assert watched._closed
    watched.close()


def test_a_folder_that_is_too_deep_is_too_much(tmp_path: Path) -> None:
    """What cannot be measured is over the limit."""
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(filling.MAX_DEPTH + 2):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    watched, over = measured(tmp_path, 100 * MIB)
    assert over
    watched.close()


def test_a_folder_that_cannot_be_entered_is_skipped(tmp_path: Path) -> None:
    """Neither a folder that is gone by now nor one that is closed ends the look."""
    (tmp_path / "closed").mkdir(mode=0o000)
    watched = Filling(tmp_path, MIB)
    watched.begin()
    assert watched.size is not None
    watched.close()


def test_a_workspace_that_is_none_is_a_sandbox_error(tmp_path: Path) -> None:
    """And no cgroup stays behind."""
    with pytest.raises(SandboxError, match="cannot be measured"):
        Watch(Limits(workspace_mb=1), tmp_path / "missing", groups=Groups(tmp_path))
    assert [] == list(tmp_path.iterdir())


def test_looks_are_rare_while_much_memory_is_left(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    """The nearer the limit, the closer the looks; without a process to follow there is nothing to see."""
    watch = Watch(Limits(memory_mb=100_000), tmp_path)
    assert "" == watch.look(1.0)
    assert 1.0 + INTERVAL == watch.due
    watch.follow(child.pid)
    assert "" == watch.look(2.0)
    assert 2.0 + SLOWEST == watch.due
    near = Watch(Limits(memory_mb=16), tmp_path)
    near.follow(child.pid)
    assert "" == near.look(3.0)
    assert 3.0 + INTERVAL == pytest.approx(near.due)
    near.close()
    watch.close()


def test_limits_of_a_process(child: subprocess.Popen[bytes]) -> None:
    """They are set on a running one, none above our own; one that has ended is left in peace."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    rlimits.apply_limits(child.pid, {resource.RLIMIT_NOFILE: (most * 2, most * 2), resource.RLIMIT_CORE: (0, 0)}, None)
    assert (most, most) == resource.prlimit(child.pid, resource.RLIMIT_NOFILE)
    assert (0, 0) == resource.prlimit(child.pid, resource.RLIMIT_CORE)
    rlimits.apply_limits(NOBODY, {resource.RLIMIT_CORE: (0, 0)}, None)


def test_limits_that_cannot_be_set_are_a_sandbox_error(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by us nor as the other user: the command does not start without them."""
    wanted = {resource.RLIMIT_CORE: (0, 0)}

    def refuse(*args: object) -> None:
        raise PermissionError

    monkeypatch.setattr(resource, "prlimit", refuse)
    with pytest.raises(SandboxError, match="not permitted"):
        rlimits.apply_limits(child.pid, wanted, None)
    strange = Identity(2**32 - 2, 2**32 - 2)  # may change nobody's limits
    with pytest.raises(SandboxError, match="could not be set"):
        rlimits.apply_limits(child.pid, wanted, strange)
    rlimits.apply_limits(NOBODY, wanted, strange)
    monkeypatch.setattr(rlimits, "_SEARCH", {"PATH": "/nowhere"})
    with pytest.raises(SandboxError, match="could not be set"):
        rlimits.apply_limits(child.pid, wanted, strange)
