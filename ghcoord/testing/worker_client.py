"""A way to workers that runs nothing: sessions are real records of the hub, their files a dictionary."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ghcoord.bootstrap import describe_tools
from ghcoord.coord.workers.tick import Beat
from ghcoord.errors import NoCapacity, NotFound, SessionLost, UsageError
from ghcoord.faces.mcp.caller import Caller
from ghcoord.faces.mcp.clients import common
from ghcoord.faces.mcp.clients.base import Executed, Progressed, Said
from ghcoord.faces.mcp.clients.places import Places
from ghcoord.hub import Hub
from ghcoord.ids import new_op_id
from ghcoord.model.codec import stamp
from ghcoord.model.session import CallNote, Checkpoint, Session, SessionReport, SessionState, SessionStatus
from ghcoord.model.task import TaskResult
from ghcoord.model.tool import Tool
from ghcoord.model.worker import SandboxInfo

TTL = 3600.0
"""Seconds that the worker counts as alive: nobody renews its lease."""


@dataclass(frozen=True)
class FakeCall:
    """What a handler is given of a call; ``files`` are the session's, by path, to be changed in place."""

    session_id: str
    args: dict[str, Any]
    files: dict[str, str]
    timeout: float | None
    trace: str
    log: Said
    progress: Progressed
    cancelled: Callable[[], bool]


@dataclass
class _Open:
    """A session's files under one placement."""

    epoch: int
    files: dict[str, str] = field(default_factory=dict)
    calls: list[CallNote] = field(default_factory=list)


Handler = Callable[[FakeCall], TaskResult]


class FakeWorkerClient:
    """A ``WorkerClient`` for tests (reference: ``NewMockWorkerClient``). May be shared between threads.

    It registers a worker in ``hub`` with room for ``max_sessions`` sessions.
    ``echo`` and ``fs.read``, ``fs.write`` and ``fs.list`` work on files in
    memory; other tools answer ``{}`` and succeed, unless :meth:`on` says what
    they do.  :attr:`calls` are the calls made, in order.
    """

    def __init__(self, hub: Hub, *, worker_id: str = "fake", max_sessions: int = 5) -> None:
        self.hub = hub
        self.worker_id = worker_id
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self._token = hub.workers.register(
            worker_id, max_sessions=max_sessions, ttl=TTL, sandbox=SandboxInfo(driver="fake", tier="full")
        ).token
        self._places = Places()
        self._mutex = threading.Lock()
        self._open: dict[str, _Open] = {}
        self._saved: dict[tuple[str, str], dict[str, str]] = {}
        self._handlers: dict[str, Handler] = {
            "echo": _echo,
            "fs.read": _read,
            "fs.write": _write,
            "fs.list": _list,
        }
        self._tools = _tools()
        self._closed = threading.Event()

    def on(self, tool: str, handler: Handler) -> None:
        """Have ``handler`` do what ``tool`` does."""
        self._handlers[tool] = handler

    # -- the port

    def tools(self) -> list[Tool]:
        """Those that a worker of this version has."""
        return [self._tools[name] for name in sorted(self._tools)]

    def create(
        self,
        caller: Caller,
        *,
        metadata: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        limits: Mapping[str, Any] | None = None,
        allow: Sequence[str] = (),
    ) -> Session:
        """A session on the worker of this client. Raises ``NoCapacity`` when it is full."""

        def make(session_id: str, **settings: Any) -> Session:
            return self.hub.sessions.create(session_id, worker=self.worker_id, **settings)

        session = common.create(
            self.hub, make, caller, metadata=metadata, env=env, limits=limits, allow=allow, sandbox="full"
        )
        self._places.know(session)
        self._enter(session.id)
        return session

    def execute(
        self,
        session_id: str,
        tool: str,
        args: Mapping[str, Any],
        *,
        timeout: float | None = None,
        trace: str = "",
        log: Said | None = None,
        progress: Progressed | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Executed:
        """Have the tool's handler answer. Raises ``UsageError``, ``NotFound``, ``SessionLost``, ``NoCapacity``."""
        found = self._tools.get(tool)
        if found is not None:
            found.check(dict(args))
        elif tool not in self._handlers:
            raise UsageError(f"this worker has no tool {tool[:64]!r}: one of {', '.join(sorted(self._tools))}")
        entry = self._enter(session_id)
        self.calls.append((session_id, tool, dict(args)))
        began = self.hub.runtime.monotonic()
        result = self._handlers.get(tool, _nothing)(
            FakeCall(
                session_id,
                dict(args),
                entry.files,
                timeout,
                trace,
                log or (lambda stream, text: None),
                progress or (lambda fraction, message: None),
                lambda: cancelled() or self._closed.is_set(),
            )
        )
        now = stamp(self.hub.now().timestamp())
        duration = round(self.hub.runtime.monotonic() - began, 3)
        result = result.model_copy(update={"completed_at": now, "duration": duration})
        entry.calls.append(CallNote(tool=tool, success=result.success, at=now, duration=duration, error=result.error))
        session = self._need(session_id)
        return Executed(result, self._places.answered(session))

    def status(self, session_id: str) -> SessionStatus:
        """What the hub knows, and the calls made here. Raises ``NotFound``."""
        status = self.hub.sessions.status(session_id)
        with self._mutex:
            entry = self._open.get(session_id)
            calls = [] if entry is None else list(entry.calls)
        return status.model_copy(update={"calls": len(calls), "tasks": tuple(calls[-10:])})

    def destroy(self, session_id: str) -> None:
        """End the session. Raises ``NotFound``."""
        common.destroy(self.hub, self.hub.sessions.destroy, session_id)
        self._places.forget(session_id)
        with self._mutex:
            self._open.pop(session_id, None)

    def checkpoint(self, session_id: str, name: str = "") -> Checkpoint:
        """Keep a copy of the files. Raises as :meth:`execute`."""
        entry = self._enter(session_id)
        made = Checkpoint(
            id=f"c{new_op_id(self.hub.runtime.randbits)[:12]}",
            created_at=stamp(self.hub.now().timestamp()),
            name=name,
            files=len(entry.files),
            size=sum(map(len, entry.files.values())),
            epoch=entry.epoch,
            worker=self.worker_id,
        )
        self._saved[session_id, made.id] = dict(entry.files)
        self.hub.sessions.record_checkpoint(session_id, entry.epoch, made)
        return made

    def restore(self, session_id: str, checkpoint: str | None = None, *, new_id: str | None = None) -> Session:
        """Start it again from a copy. Raises ``NotFound``."""

        def make(session_id: str, checkpoint: str | None, *, new_id: str | None) -> Session:
            return self.hub.sessions.restore(session_id, checkpoint, new_id=new_id, worker=self.worker_id)

        session = common.restore(self.hub, make, session_id, checkpoint, new_id)
        self._places.know(session)
        self._enter(session.id)
        return session

    def close(self) -> None:
        """Cancel the calls that run."""
        self._closed.set()

    # -- what may happen to a worker

    def lose(self, session_id: str) -> None:
        """The worker loses the session's files, as when it dies: the last checkpoint is left, if there is one."""
        with self._mutex:
            entry = self._open.pop(session_id)
        told = SessionReport(id=session_id, epoch=entry.epoch, calls=len(entry.calls), recent=tuple(entry.calls))
        self.hub.beat(Beat(self.worker_id, self._token, renew=True, sessions=[told]))
        self.hub.sessions.park(self.worker_id, {session_id: entry.epoch})

    # -- files

    def _need(self, session_id: str) -> Session:
        session = self.hub.sessions.get(session_id)
        if session is None:
            raise NotFound(f"there is no session {session_id[:128]!r}, or it has ended")
        return session

    def _enter(self, session_id: str) -> _Open:
        """The session's files, brought here first when no worker has it."""
        session = self._need(session_id)
        self._places.know_first(session)
        if session.state is SessionState.LOST:
            raise SessionLost(f"the session {session_id} was lost: {session.lost_because}", session_id)
        if session.worker_id is None and session.checkpoints:
            session = self.hub.sessions.restore(session_id, session.restore_from, worker=self.worker_id)
        if session.worker_id != self.worker_id:
            raise NoCapacity(f"the session {session_id} is with worker {session.worker_id} now", self.worker_id)
        with self._mutex:
            entry = self._open.get(session_id)
            if entry is not None and entry.epoch == session.epoch:
                return entry
            entry = self._open[session_id] = _Open(session.epoch, dict(self._start(session)))
        report = SessionReport(
            id=session_id, epoch=session.epoch, opened=True, restored_from=session.restore_from, calls=session.calls
        )
        self.hub.beat(Beat(self.worker_id, self._token, renew=True, sessions=[report]))
        return entry

    def _start(self, session: Session) -> dict[str, str]:
        if session.restore_from is None:
            return {}
        checkpoint = session.checkpoint(session.restore_from)
        origin = checkpoint.origin if checkpoint is not None and checkpoint.origin else session.id
        return self._saved[origin, session.restore_from]


@cache
def _tools() -> dict[str, Tool]:
    return {tool.name: tool for tool in describe_tools()}


def _nothing(call: FakeCall) -> TaskResult:
    return TaskResult(success=True)


def _echo(call: FakeCall) -> TaskResult:
    return TaskResult(success=True, output=call.args["message"], data={"message": call.args["message"]})


def _write(call: FakeCall) -> TaskResult:
    path, text = call.args["path"], call.args["contents"]
    call.files[path] = call.files.get(path, "") + text if call.args.get("append") else text
    size = len(text.encode())
    return TaskResult(success=True, output=f"{size} bytes\n", data={"path": path, "bytes_written": size})


def _read(call: FakeCall) -> TaskResult:
    path = call.args["path"]
    if path not in call.files:
        return TaskResult(success=False, error=f"no such file: {path}")
    whole = call.files[path].encode()
    offset, limit = call.args.get("offset", 0), call.args.get("limit")
    end = len(whole) if limit is None else min(len(whole), offset + limit)
    text = whole[offset:end].decode(errors="replace")
    data = {
        "path": path,
        "contents": text,
        "size": len(whole),
        "encoding": "utf-8",
        "offset": offset,
        "next_offset": end if end < len(whole) else None,
    }
    return TaskResult(success=True, output=text, data=data)


def _list(call: FakeCall) -> TaskResult:
    names = sorted(call.files)
    data = {"path": call.args.get("path", "."), "entries": names}
    return TaskResult(success=True, output="".join(f"{name}\n" for name in names), data=data)
