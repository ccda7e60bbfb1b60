"""A session outlives its worker with files, package and metadata; and many run side by side."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ghcoord.hub import Hub
from tests.execution.environment.index import serve, wheel
from tests.processes import needs_program, until, workers
from tests.worker.test_sessions import base, registered, shell

__all__ = ["base"]

FAST = ("--ttl", "1.5", "--poll", "0.1s")
ALPHA = wheel("alpha", "1.2", {"alpha/__init__.py": "name = 'alpha 1.2'"}, requires="beta>=2")
BETA = wheel("beta", "2.0", {"beta.py": "name = 'beta 2.0'"})


@pytest.fixture(autouse=True)
def _needs() -> None:
    needs_program("bwrap")


@contextmanager
def configured(folder: Path, index: str) -> Iterator[tuple[str, ...]]:
    """What starts a worker that gets packages from ``index``."""
    folder.mkdir()
    (folder / "ghcoord.toml").write_text(f'[packages]\nindex = "{index}"\nhosts = []\n')
    yield ("env", f"--chdir={folder}")


@pytest.mark.slow
def test_a_session_outlives_its_worker_with_files_package_and_metadata(
    hub: Hub,
    base: Path,
    tmp_path: Path,
) -> None:
    """A is killed with SIGKILL after a checkpoint: the next call finds all of it on B."""
    program = "import alpha, beta; print(alpha.name, beta.name, open('notes.txt').read())"
    with (
        serve(ALPHA, BETA) as index,
        configured(tmp_path / "settings", index.url) as before,
        workers(hub.url, "a", args=(*FAST, "--workspace", str(base)), before=before) as [first],
    ):
        registered(hub, "a")
        hub.sessions.create("s1", metadata={"project": "x"}, env={"COLOUR": "blue"})
        installed = hub.sessions.call("s1", "pkg.install", {"requirements": "alpha"}, wait=120)
        assert installed.success, installed.error
        assert ["alpha==1.2", "beta==2.0"] == sorted(installed.data["installed"])
        shell(hub, "s1", "echo remember >notes.txt; mkdir -p deep/er; printf x >deep/er/file; ln -s notes.txt link")
        saved = hub.sessions.checkpoint("s1", "before the end")
        assert ("alpha==1.2", "beta==2.0") == saved.packages
        with workers(hub.url, "b", args=(*FAST, "--workspace", str(tmp_path / "other")), before=before):
            registered(hub, "b")
            first.signal(signal.SIGKILL)
            result = hub.sessions.call("s1", "run.python", {"code": program}, wait=120)
            assert "alpha 1.2 beta 2.0 remember\n\n" == result.output, result.error
            assert "xremember\nblue\n" == shell(hub, "s1", "cat deep/er/file link; echo $COLOUR")
            found = hub.sessions.get("s1")
            assert found is not None
            assert ("b", {"project": "x"}, saved.id) == (found.worker_id, found.metadata, found.restored_from)


SESSIONS = 20


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [1.0, pytest.param(120.0, marks=pytest.mark.slow)])
def test_many_sessions_side_by_side(hub: Hub, base: Path, seconds: float) -> None:
    """20 sessions with mixed tools: no error, every result right, each sees its own files only, memory bounded."""
    # A log of every task would fill the pipe that nobody reads meanwhile.
    many = ("--ttl", "15", "--poll", "0.1s", "--slots", "8", "--max-sessions", "20", "--log-level", "warn")
    with workers(
        hub.url,
        "w1",
        args=(*many, "--workspace", str(base)),
    ) as [worker]:
        registered(hub, "w1")
        for number in range(SESSIONS):
            hub.sessions.create(f"s{number}")
        wrong: list[str] = []
        counts = [0] * SESSIONS
        deadline = time.monotonic() + seconds
        sizes: list[int] = []
        threads = [
            threading.Thread(target=_use, args=(hub, number, deadline, wrong, counts)) for number in range(SESSIONS)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            sizes.append(_resident(worker.process.pid))
            time.sleep(0.25)
        assert [] == wrong
        assert min(counts) >= 1
        settled = sizes[len(sizes) // 3]
        assert max(sizes[len(sizes) // 3 :]) < settled + 100, sizes
        found = {session.id: session for session in hub.sessions.list()}
        until(lambda: all(one.calls >= 1 for one in hub.sessions.list()))
        assert SESSIONS == len(found)


def _use(hub: Hub, number: int, deadline: float, wrong: list[str], counts: list[int]) -> None:
    """Call one tool after the other in one session, and check each answer."""
    session, turn = f"s{number}", 0

    def call(tool: str, **args: object) -> dict[str, object]:
        result = hub.sessions.call(session, tool, args, wait=120)
        if not result.success:
            raise ValueError(f"{session} {tool}: {result.error}")
        return result.data

    try:
        while turn == 0 or time.monotonic() < deadline:
            text = f"{session} turn {turn}\n"
            checks = (
                (call("fs.write", path="own.txt", contents=text)["bytes_written"], len(text)),
                (call("fs.read", path="own.txt")["contents"], text),
                (call("shell", command="cat own.txt")["stdout"], text),
                (call("echo", message=session)["message"], session),
                (call("run.python", code=f"print({turn} * 7)")["stdout"], f"{turn * 7}\n"),
                (call("fs.list", path=".")["entries"], [".venv", "own.txt"]),
            )
            wrong += [f"{session} turn {turn}: {got!r} is not {right!r}" for got, right in checks if got != right]
            counts[number] += len(checks)
            turn += 1
    except Exception as error:
        wrong.append(f"{session}: {type(error).__name__}: {error}")


def _resident(pid: int) -> int:
    """MiB that a process has in memory."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // (1024 * 1024)
