"""The local driver under SIGKILL, at every system call and at random, and what is on disk when it says done."""

from __future__ import annotations

import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.store.base import Operation
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.transact import Transactor
from ghcoord.testing.transact_contract import increment, value_of
from tests.store.gitrepo import DEFAULT_PREFIX, fsck, locks_left, make_hub, open_store, under_test

ROOT = Path(__file__).resolve().parents[2]
CALLS = ("open", "write", "fsync", "rename", "replace", "link", "unlink", "mkdir", "close", "scandir", "stat")
"""Everything of ``os`` that the driver changes or looks at files with; ``pathlib`` goes through the same names."""


KILLS = 24
"""Processes killed at random."""


def die_at(count: int, *, torn: bool) -> None:
    """Let this process be killed at the ``count``-th call; ``torn`` lets half of a write through first."""
    left = count

    def wrap(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            nonlocal left
            if not left:
                if torn and name == "write":
                    fd, data = args
                    real(fd, bytes(data)[: len(bytes(data)) // 2])  # type: ignore[call-overload]
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return real(*args, **options)

        return call

    for name in CALLS:
        setattr(os, name, wrap(name, getattr(os, name)))


def forked(run: Callable[[int], None]) -> tuple[int, int]:
    """Run ``run`` in a forked child, with the writing end of a pipe; returns its id and the reading end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            run(writing)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    return child, reading


def drained(reading: int) -> bytes:
    """All that a child wrote."""
    with os.fdopen(reading, "rb") as file:
        return file.read()


@pytest.mark.parametrize(
    ("spaces", "born", "torn"),
    [
        pytest.param(("fleet",), False, True, id="one old, torn writes", marks=pytest.mark.slow),
        pytest.param(("fleet", "locks"), True, False, id="two new, between calls", marks=pytest.mark.slow),
        pytest.param(("fleet", "locks"), False, True, id="two old, torn writes", marks=pytest.mark.slow),
        pytest.param(("fleet",), True, False, id="one new, between calls", marks=pytest.mark.slow),
        pytest.param(("fleet",), True, True, id="one new, torn writes", marks=pytest.mark.slow),
        pytest.param(("fleet",), False, False, id="one old, between calls", marks=pytest.mark.slow),
        pytest.param(("fleet", "locks"), True, True, id="two new, torn writes", marks=pytest.mark.slow),
        pytest.param(("fleet", "locks"), False, False, id="two old, between calls", marks=pytest.mark.slow),
    ],
)
def test_killed_at_every_step(tmp_path: Path, spaces: tuple[str, ...], born: bool, torn: bool) -> None:
    """A commit killed at any step is all or nothing, never blocks others, and never undoes what was acknowledged."""
    step, outcomes, path = 0, set(), tmp_path
    while True:
        if born or step == 0:
            path = make_hub(tmp_path / f"{step}.git")
        hub = under_test(path)
        store = hub.open()
        if not born and step == 0:
            for space in spaces:
                hub.put(store, space, {"n": b"start"})
        before = {space: store.heads().get(space) for space in spaces}
        text, op = b"step %d" % step, hub.op(step + 1)

        def commit(
            pipe: int,
            path: Path = path,
            before: dict[str, str | None] = before,
            text: bytes = text,
            step: int = step,
            op: Operation = op,
        ) -> None:
            store, write = open_store(path), os.write
            die_at(step, torn=torn)
            store.commit(before, {space: {"n": text, "d/e": text} for space in spaces}, op)
            write(pipe, b"done")

        child, pipe = forked(commit)
        acknowledged = drained(pipe) == b"done"
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL)
        for reader in (store, open_store(path)):
            heads = reader.heads()
            moved = {heads.get(space) != before[space] for space in spaces}
            assert 1 == len(moved), f"step {step}: {before} became {heads}"
            for space in spaces:
                expected = text if moved == {True} else before[space] and Snapshot(store, "", before[space]).read("n")
                assert expected == Snapshot(reader, "", heads.get(space)).read("n"), f"step {step}"
        if acknowledged:
            assert {True} == moved, f"step {step}: acknowledged and not there"
        started = time.monotonic()
        hub.put(open_store(path), "audit", {"after": text})
        hub.put(store, "fleet", {"n": text + b" after"})
        assert time.monotonic() - started < 5, f"step {step}"
        assert [] == locks_left(path), f"step {step}"
        assert ["lock"] == sorted(os.listdir(path / "ghcoord")), f"step {step}"
        assert [] == [p.name for p in (path / "objects" / "pack").iterdir() if p.name.startswith("ghcoord-")]
        outcomes.add((acknowledged, moved == {True}))
        if step % 12 == 0 or status == 0:
            fsck(path)
        if status == 0:
            break
        step += 1
    assert step > 20, "the child was hardly ever killed"
    assert {(False, False), (False, True), (True, True)} == outcomes


@pytest.mark.slow
def test_recovery_killed_at_every_step(tmp_path: Path) -> None:
    """The recovery of a half-done commit over two spaces may itself be killed at any step."""
    spaces = ("fleet", "locks")
    template = make_hub(tmp_path / "template.git")
    hub = under_test(template)
    before: dict[str, str | None] = {space: hub.put(hub.open(), space, {"n": b"old"}) for space in spaces}

    def half(pipe: int) -> None:
        store, rename, moved = open_store(template), os.rename, 0

        def renaming(source: Path, target: Path) -> None:
            nonlocal moved
            if "refs" in str(target):
                if moved:
                    os.kill(os.getpid(), signal.SIGKILL)
                moved = 1
            rename(source, target)

        os.rename = renaming  # type: ignore[assignment]
        store.commit(before, {space: {"n": b"new"} for space in spaces}, hub.op(2))

    child, pipe = forked(half)
    assert b"" == drained(pipe)
    assert -signal.SIGKILL == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    step, status = 0, -1
    while status != 0:
        path = tmp_path / f"{step}.git"
        # ``cp -a`` keeps the hard links by which our own locks are known.
        subprocess.run(["cp", "-a", str(template), str(path)], check=True)

        def recover(pipe: int, path: Path = path, step: int = step) -> None:
            store = open_store(path)
            die_at(step, torn=True)
            store.heads()

        child, pipe = forked(recover)
        drained(pipe)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL)
        store = open_store(path)
        assert [b"new", b"new"] == [Snapshot(store, "", store.heads()[space]).read("n") for space in spaces], step
        assert [] == locks_left(path)
        assert ["lock"] == os.listdir(path / "ghcoord")
        shutil.rmtree(path)
        step += 1
    assert step > 10


def counting(path: Path, times: int) -> Callable[[int], None]:
    """A child that increments ``times`` times and says ``s`` before and ``a`` after each."""

    def run(pipe: int) -> None:
        transactor = Transactor(open_store(path), SystemRuntime())
        for _ in range(times):
            os.write(pipe, b"s")
            transactor.transact(["fleet"], increment, timeout=60)
            os.write(pipe, b"a")

    return run


def race(path: Path, times: int) -> float:
    """Eight processes increment one key ``times`` times each; returns the seconds that took."""
    started = time.monotonic()
    children = [forked(counting(path, times)) for _ in range(8)]
    said = [drained(pipe) for _, pipe in children]
    assert [0] * 8 == [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child, _ in children]
    assert [b"sa" * times] * 8 == said
    assert 8 * times == value_of(open_store(path))
    fsck(path)
    return time.monotonic() - started


def test_eight_processes_count_exactly(tmp_path: Path) -> None:
    """Eight processes that increment one key end at exactly their number."""
    race(make_hub(tmp_path / "hub.git"), 25)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_eight_processes_count_to_1600(tmp_path: Path) -> None:
    """8 × 200 increments of one key end at exactly 1,600."""
    race(make_hub(tmp_path / "hub.git"), 200)


def test_random_kills(tmp_path: Path) -> None:
    """With processes killed at random the count lies between acknowledged and acknowledged plus in doubt."""
    path = make_hub(tmp_path / "hub.git")
    dice = random.Random(20_251)
    children: dict[int, int] = {}
    log: dict[int, bytes] = {}
    pids: dict[int, int] = {}

    def start() -> None:
        child, pipe = forked(counting(path, 100_000))
        children[child] = pipe
        log[pipe] = b""
        pids[pipe] = child

    def listen(seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for pipe in select.select(list(children.values()), [], [], left)[0]:
                log[pipe] += os.read(pipe, 65536)

    said: list[bytes] = []
    for _ in range(8):
        start()
    for turn in range(KILLS):
        listen(dice.uniform(0.01, 0.08))
        victims = list(children) if turn == KILLS - 1 else [dice.choice(list(children))]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            pipe = children.pop(victim)
            said.append(log[pipe] + drained(pipe))
            if turn < KILLS - 1:
                start()
    assert all(text in (b"sa" * (len(text) // 2), b"sa" * (len(text) // 2) + b"s") for text in said)
    acknowledged = sum(text.count(b"a") for text in said)
    in_doubt = sum(text.count(b"s") for text in said) - acknowledged
    started = time.monotonic()
    total = Transactor(open_store(path), SystemRuntime()).transact(["fleet"], increment) - 1
    assert time.monotonic() - started < 5
    assert acknowledged > 20
    assert acknowledged <= total <= acknowledged + in_doubt
    assert [] == locks_left(path)
    fsck(path)


_ONE_COMMIT = """
import os, sys
from pathlib import Path
from ghcoord.clock import SystemRuntime
from ghcoord.store.base import Operation
from ghcoord.store.local import LocalStore
store = LocalStore(Path(sys.argv[1]), SystemRuntime())
spaces = sys.argv[2].split(",")
os.write(1, b"begin")
store.commit({s: None for s in spaces}, {s: {"a/b": b"1"} for s in spaces}, Operation(ids=("x",), revision=1, time=1))
os.write(1, b"acknowledged")
"""


@pytest.mark.parametrize("spaces", [["fleet"], ["fleet", "locks", "memory/x"]])
def test_on_disk_before_acknowledged(tmp_path: Path, spaces: list[str]) -> None:
    """strace: pack, index and their folder are flushed before a ref moves, refs and folders before the answer."""
    strace = shutil.which("strace")
    if strace is None:
        if os.environ.get("CI") or os.environ.get("GHCOORD_CI"):
            pytest.fail("strace is missing: install it in CI")
        pytest.skip("strace is not installed")
    path = make_hub(tmp_path / "hub.git")
    out = tmp_path / "trace"
    calls = "trace=fsync,fdatasync,rename,renameat,renameat2,link,linkat,write"
    subprocess.run(
        [
            *(strace, "-f", "-y", "-s", "400", "-e", calls, "-o", str(out)),
            *(sys.executable, "-c", _ONE_COMMIT, str(path), ",".join(spaces)),
        ],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        timeout=60,
    )
    lines = out.read_text(errors="replace").splitlines()

    def at(pattern: str, *, last: bool = False) -> int:
        found = [n for n, line in enumerate(lines) if re.search(pattern, line)]
        assert found, f"no {pattern} in the trace:\n" + "\n".join(lines)
        return found[-1 if last else 0]

    def moves(ref: str) -> int:
        return at(rf'rename\w*\(.*{re.escape(ref)}\.lock", .*{re.escape(ref)}"')

    refs = [DEFAULT_PREFIX + space for space in spaces]
    first = min(moves(ref) for ref in refs)
    folder = re.escape(str(path / "objects" / "pack"))
    for suffix in ("pack", "idx"):
        flushed = at(rf"fsync\(\d+<{folder}/ghcoord-pack-g0-\w+\.{suffix}\.tmp>\)\s+= 0")
        named = at(rf'rename\w*\(.*ghcoord-pack-g0-\w+\.{suffix}\.tmp"')
        assert flushed < named < at(rf"fsync\(\d+<{folder}>\)\s+= 0", last=True) < first
    answer = at(r"write\(1<.*acknowledged")
    for ref in refs:
        file, place = re.escape("ref-" + ref.replace("/", ":")), re.escape(str((path / ref).parent))
        assert at(rf"fsync\(\d+<{path}/ghcoord/{file}>\)\s+= 0") < moves(ref)
        assert moves(ref) < at(rf"fsync\(\d+<{place}>\)\s+= 0", last=True) < answer
    if len(spaces) > 1:
        own = re.escape(str(path / "ghcoord"))
        written = at(rf"fsync\(\d+<{own}/intent\.tmp>\)\s+= 0")
        assert written < at(r'rename\w*\(.*intent\.json"') < at(rf"fsync\(\d+<{own}>\)\s+= 0", last=True) < first
