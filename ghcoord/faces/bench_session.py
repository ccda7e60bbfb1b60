"""``ghcoord bench session`` behind the command line: what a session costs on this machine.

Everything happens in a hub, a worker and a package index of its own, which are
gone afterwards; nothing leaves the machine.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from ghcoord.clock import Runtime
from ghcoord.errors import SandboxError, Unavailable
from ghcoord.execution.environment.settings import PackageSettings
from ghcoord.execution.session.pool import SessionPool
from ghcoord.execution.worker import WorkerDaemon
from ghcoord.faces.bench_index import PACKAGES, serve_index
from ghcoord.hub import Hub
from ghcoord.model.session import Session

FILES = 300
"""Files of the workspace that is checkpointed."""

FILE_BYTES = 8 * 1024 * 1024 // FILES
"""Bytes of each: 8 MiB in all, half of it text and half of it noise."""

STEPS = 13
"""Kinds of measurements, for a progress bar."""

BARE = "bare interpreter"

READY = 20.0
"""Seconds that the worker may take to register."""

AIMS: dict[str, float] = {
    "create": 50,
    "destroy": 100,
    "status": 1,
    "echo": 1,
    "fs.read": 5,
    "fs.write": 10,
    "checkpoint": 200,
    "checkpoint again": 50,
    "restore": 300,
}
"""Milliseconds that each may take at most (reference: wk:275), as far as there is a figure."""


@dataclass(slots=True)
class Figures:
    """Seconds of each round by operation, and what a session takes: MiB of memory and of disk."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory_mb: float | None = None
    disk_mb: float | None = None
    sandbox: str = ""


class SessionBench:
    """Measures sessions of a worker with ``driver`` as its sandbox, ``rounds`` times each.

    ``folder`` is where workspaces and checkpoints lie; ``done`` is told the
    steps done so far.
    """

    def __init__(self, hub: Hub, folder: Path, driver: str, rounds: int, done: Callable[[int], None]) -> None:
        self._hub = hub
        self._runtime: Runtime = hub.runtime
        self._folder = folder
        self._driver = driver
        self._rounds = rounds
        self._done = done
        self._steps = 0
        self._figures = Figures()

    def run(self) -> Figures:
        """Measure. Raises ``SandboxError`` where the sandbox does not work."""
        with serve_index(self._runtime) as url:
            for publish, suffix in ((False, ""), (True, " into the hub")):
                with self._worker(url, publish) as pool:
                    if not publish:
                        self._lives(pool)
                        self._calls(pool)
                    self._checkpoints(pool, suffix)
        return self._figures

    @contextmanager
    def _worker(self, index: str, publish: bool) -> Iterator[SessionPool]:
        daemon = WorkerDaemon(
            self._hub,
            f"bench-{'publishing' if publish else 'local'}",
            slots=1,
            sandbox=self._driver,
            commands=True,
            workspace=self._folder,
            max_sessions=self._rounds + 5,
            packages=PackageSettings(index=index, hosts=()),
            publish=publish,
        )
        sandbox = daemon.sandbox
        self._figures.sandbox = "" if sandbox is None else f"{sandbox.name} ({sandbox.tier})"
        running = self._runtime.spawn(lambda: _run(daemon), "ghcoord-bench-worker")
        try:
            self._await_registration(daemon.worker_id)
            yield daemon.sessions
        finally:
            for session in self._hub.sessions.list(worker=daemon.worker_id):
                self._hub.sessions.destroy(session.id)
            daemon.stop()
            running.join(READY)

    def _await_registration(self, worker_id: str) -> None:
        deadline = self._runtime.monotonic() + READY
        while self._hub.workers.get(worker_id) is None:
            if self._runtime.monotonic() > deadline:
                raise Unavailable("the bench's worker did not register in time")
            self._runtime.sleep(0.02)

    def _time(self, name: str, act: Callable[[], Any]) -> Any:
        started = self._runtime.monotonic()
        result = act()
        self._figures.seconds.setdefault(name, []).append(self._runtime.monotonic() - started)
        return result

    def _step(self) -> None:
        self._steps += 1
        self._done(min(self._steps, STEPS))

    # -- what is measured

    def _lives(self, pool: SessionPool) -> None:
        """A session from nothing to the end of its first command, and its end."""
        made: list[Session] = []

        def create() -> None:
            session = pool.create()
            _call(pool, session, "shell", command="true")
            made.append(session)

        for _ in range(self._rounds):
            self._time("create", create)
        self._step()
        self._measure_size(pool, made[-1])
        for session in made:
            self._time("destroy", partial(pool.destroy, session.id))
        self._step()

    def _measure_size(self, pool: SessionPool, session: Session) -> None:
        with pool.enter(session.id, tool="", task_id="") as folder:
            disk, _ = folder.files.usage()
        self._figures.disk_mb = round(disk / 1048576, 3)
        self._figures.memory_mb = pool.status(session.id).memory

    def _calls(self, pool: SessionPool) -> None:
        session = pool.create()
        _call(pool, session, "fs.write", path="small.txt", contents="x" * 4096)
        tools: list[tuple[str, dict[str, Any]]] = [
            ("echo", {"message": "x"}),
            ("fs.read", {"path": "small.txt"}),
            ("fs.write", {"path": "out/written.txt", "contents": "x" * 4096}),
            ("run.python", {"code": "pass"}),
        ]
        python = pool.kit.sandbox.python if pool.kit.sandbox is not None else None
        if python is None:
            raise SandboxError("the sandbox reaches no Python: see 'ghcoord doctor'")
        for name, args in tools:
            _call(pool, session, name, **args)
            for _ in range(self._rounds):
                self._time(name, partial(_call, pool, session, name, **args))
                if name == "run.python":  # in turn, so that both meet the same load
                    self._time(BARE, partial(subprocess.run, [python, "-c", "pass"], check=True))
            self._step()
        for _ in range(self._rounds * 10):
            self._time("status", partial(pool.status, session.id))
        self._step()
        pool.destroy(session.id)

    def _checkpoints(self, pool: SessionPool, suffix: str) -> None:
        """Of 8 MiB in 300 files beside an environment with two packages that are in the session's cache."""
        rounds = max(3, self._rounds // 4)
        for number in range(rounds):
            session = pool.create()
            with pool.enter(session.id, tool="", task_id="") as folder:
                for at in range(FILES):
                    folder.files.write(f"d{at % 20}/f{at}.txt", _content(self._runtime, at))
            if suffix == "":
                _call(pool, session, "pkg.install", requirements=" ".join(PACKAGES))
            self._time("checkpoint" + suffix, partial(pool.checkpoint, session.id))
            _call(pool, session, "fs.write", path="d1/f1.txt", contents=f"changed {number}")
            latest = self._time("checkpoint again" + suffix, partial(pool.checkpoint, session.id))
            self._time("restore" + suffix, partial(pool.restore, session.id, latest.id))
            pool.destroy(session.id)
        self._step()


def view(figures: Figures, rounds: int) -> dict[str, Any]:
    """As the command prints it; milliseconds."""
    medians = {name: median(values) * 1000 for name, values in figures.seconds.items()}
    bare = medians.pop(BARE, None)
    rows = [
        {
            "operation": name,
            "median_ms": round(value, 3),
            "worst_ms": round(max(figures.seconds[name]) * 1000, 3),
            "aim_ms": AIMS.get(name),
            "times": len(figures.seconds[name]),
        }
        for name, value in medians.items()
    ]
    ratio = None if bare is None or "run.python" not in medians else round(medians["run.python"] / bare, 2)
    return {
        "sandbox": figures.sandbox,
        "rounds": rounds,
        "operations": rows,
        "bare_interpreter_ms": None if bare is None else round(bare, 3),
        "run_python_ratio": ratio,
        "session_memory_mb": figures.memory_mb,
        "session_disk_mb": figures.disk_mb,
    }


def _run(daemon: WorkerDaemon) -> None:
    daemon.run()


def _call(pool: SessionPool, session: Session, tool: str, **args: Any) -> None:
    result = pool.call(session.id, tool, args)
    if not result.success:
        raise SandboxError(f"{tool} failed: {result.error}")


def _content(runtime: Runtime, number: int) -> bytes:
    if number % 2:
        return runtime.randbits(8 * FILE_BYTES).to_bytes(FILE_BYTES, "big")
    line = f"line of file {number}: all work and no play\n".encode()
    return (line * (FILE_BYTES // len(line) + 1))[:FILE_BYTES]
