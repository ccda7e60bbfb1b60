"""The worker daemon as a process: signals, log lines, a summary."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from ghcoord.clock import Runtime
from ghcoord.config import PackageSource, SandboxSettings
from ghcoord.errors import GhcoordError
from ghcoord.execution.environment.settings import PackageSettings
from ghcoord.execution.sandbox.container import ContainerSettings
from ghcoord.execution.worker import WorkerDaemon
from ghcoord.faces.cli.common import parse_pairs
from ghcoord.faces.cli.context import open_hub, start_tracing
from ghcoord.faces.cli.output import clean, note
from ghcoord.hub import Hub

_RANK = {"debug": 0, "info": 1, "warn": 2, "error": 3}


def run_worker(
    *,
    worker_id: str | None,
    slots: int | None,
    ttl: float | None,
    poll: float | None,
    until_idle: float | None,
    max_runtime: float | None,
    workspace: Path | None,
    types: Collection[str],
    labels: dict[str, str],
    max_sessions: int | None,
    checkpoint_dir: Path | None,
    max_checkpoints: int | None,
    publish: bool,
    limits: dict[str, Any],
    sandbox: str | None,
    unsafe_no_sandbox: bool,
    commands: bool,
    log_level: str,
) -> dict[str, Any]:
    """Run a worker until it ends and return what it did. ``None`` stands for the setting or its default."""
    start_tracing()
    with open_hub() as hub:
        daemon = make_worker(
            hub,
            worker_id=worker_id,
            slots=slots,
            ttl=ttl,
            poll=poll,
            until_idle=until_idle,
            max_runtime=max_runtime,
            workspace=workspace,
            types=types,
            labels=labels,
            max_sessions=max_sessions,
            checkpoint_dir=checkpoint_dir,
            max_checkpoints=max_checkpoints,
            publish=publish,
            limits=limits,
            sandbox=sandbox,
            unsafe_no_sandbox=unsafe_no_sandbox,
            commands=commands,
            log=log_lines(hub, log_level),
        )
        with on_signals(hub.runtime, lambda: _drain(daemon), daemon.cancel):
            return asdict(daemon.run())


def make_worker(
    hub: Hub,
    *,
    worker_id: str | None = None,
    slots: int | None = None,
    ttl: float | None = None,
    poll: float | None = None,
    until_idle: float | None = None,
    max_runtime: float | None = None,
    workspace: Path | None = None,
    types: Collection[str] = (),
    labels: Mapping[str, str] | None = None,
    max_sessions: int | None = None,
    checkpoint_dir: Path | None = None,
    max_checkpoints: int | None = None,
    publish: bool = True,
    stale_after: float | None = None,
    limits: Mapping[str, Any] | None = None,
    sandbox: str | None = None,
    unsafe_no_sandbox: bool = False,
    commands: bool | None = None,
    grace: float | None = None,
    log: Callable[[str, str], None],
) -> WorkerDaemon:
    """A worker of ``hub`` that has not begun. ``None`` stands for the setting or its default."""
    settings = hub.settings
    chosen = settings.worker
    return WorkerDaemon(
        hub,
        worker_id,
        slots=chosen.slots if slots is None else slots,
        ttl=ttl,
        poll=poll,
        until_idle=until_idle,
        max_runtime=max_runtime,
        workspace=workspace,
        types=types,
        labels=labels,
        max_sessions=chosen.max_sessions if max_sessions is None else max_sessions,
        checkpoint_dir=_folder(chosen.checkpoint_dir) if checkpoint_dir is None else checkpoint_dir,
        max_checkpoints=chosen.max_checkpoints if max_checkpoints is None else max_checkpoints,
        publish=publish and chosen.publish,
        stale_after=chosen.stale_after if stale_after is None else stale_after,
        limits={**parse_pairs(chosen.limit, "worker.limit"), **(limits or {})},
        sandbox=settings.sandbox.driver if sandbox is None else sandbox,
        unsafe_no_sandbox=unsafe_no_sandbox,
        commands=commands,
        container=_container(settings.sandbox),
        packages=_packages(settings.packages),
        grace=chosen.grace if grace is None else grace,
        log=log,
    )


def _folder(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _container(given: SandboxSettings) -> ContainerSettings | None:
    if given.image is None:
        return None
    return ContainerSettings(given.image, given.engine, given.options)


def _packages(given: PackageSource) -> PackageSettings:
    chosen: dict[str, Any] = asdict(given)
    return PackageSettings(**{name: value for name, value in chosen.items() if value is not None})


def _drain(daemon: WorkerDaemon) -> None:
    """Stop the daemon and, if that will take a while, say at once what it waits for."""
    daemon.stop()
    try:
        worker = daemon.hub.workers.get(daemon.worker_id)
    except GhcoordError:
        note("draining: a second signal stops what runs")
        return
    # What it holds beyond its slots has not started and goes back.
    running = 0 if worker is None else min(worker.capacity.active_tasks, worker.capacity.max_tasks)
    if running:
        note(f"draining: {running} task{'s' if running > 1 else ''} still running; a second signal stops them")


def log_lines(hub: Hub, threshold: str) -> Callable[[str, str], None]:
    """What prints (level, text) on standard error with the time, from the level ``threshold`` on."""
    least = _RANK[threshold]

    def log(level: str, message: str) -> None:
        if _RANK.get(level, 1) >= least:
            at = hub.now().strftime("%H:%M:%S")
            print(f"{at} {level:<5} {clean(message)}", file=sys.stderr, flush=True)

    return log


@contextmanager
def on_signals(runtime: Runtime, first: Callable[[], None], second: Callable[[], None]) -> Iterator[None]:
    """On SIGTERM or SIGINT call ``first``, on another one ``second``; a third interrupts.

    The calls come from a thread, not from the signal handler: what they lock
    may be held by the very code that the handler interrupts.
    """
    reading, writing = os.pipe()
    seen = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        if seen > 2:
            raise KeyboardInterrupt
        os.write(writing, b"!")

    def watch() -> None:
        for act in (first, second):
            if os.read(reading, 1) != b"!":
                return
            act()

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    watcher = runtime.spawn(watch, "ghcoord-signals")
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(writing, b"..")
        watcher.join(timeout=5.0)
        os.close(reading)
        os.close(writing)
