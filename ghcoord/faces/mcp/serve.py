"""Standard input and output as the transport: one client, one message a line.

In the SDK's own transport a thread waits for the next line of input that
nothing can interrupt, so that a process told to end does not.  Here it does:
the threads that read and write do not keep it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

import anyio
import mcp_types
from mcp.shared.message import SessionMessage

from ghcoord.clock import Runtime
from ghcoord.faces.mcp.running import call_soon, in_thread

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from ghcoord.faces.mcp.server import McpServer

Received = SessionMessage | Exception


class Stop:
    """Ends what serves, from any thread and any number of times; also before it has begun."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._asked = False
        self._act: Callable[[], None] | None = None

    def __call__(self) -> None:
        with self._mutex:
            self._asked = True
            act = self._act
        if act is not None:
            act()

    @contextmanager
    def ending(self, act: Callable[[], None]) -> Iterator[None]:
        """``act`` is what ends it, within the context."""
        with self._mutex:
            self._act = act
            asked = self._asked
        if asked:
            act()
        try:
            yield
        finally:
            with self._mutex:
                self._act = None


def serve_stdio(server: McpServer, stop: Stop) -> None:
    """Serve the client on standard input and output until it closes them, or ``stop`` is called.

    Calls that still run are cancelled then; nobody waits for them.
    """
    with _claimed() as (reading, writing):
        asyncio.run(_serve(server, stop, reading, writing))


async def _serve(server: McpServer, stop: Stop, reading: BinaryIO, writing: BinaryIO) -> None:
    loop = asyncio.get_running_loop()
    runtime = server.services.runtime
    received_in, received = anyio.create_memory_object_stream[Received](0)
    to_send, to_send_out = anyio.create_memory_object_stream[SessionMessage](0)
    scope = anyio.CancelScope()
    with stop.ending(lambda: call_soon(loop, scope.cancel)), scope:
        async with anyio.create_task_group() as group:
            runtime.spawn(lambda: _read(reading, loop, received_in), "ghcoord-mcp-stdin")
            group.start_soon(_write, writing, to_send_out, runtime, scope)
            lowlevel = server.lowlevel
            await lowlevel.run(received, to_send, lowlevel.create_initialization_options())
            group.cancel_scope.cancel()


def _read(reading: BinaryIO, loop: asyncio.AbstractEventLoop, out: MemoryObjectSendStream[Received]) -> None:
    """Pass on each line, in a thread, when the one before was taken; the end of input closes ``out``."""
    with suppress(OSError, RuntimeError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        for line in reading:
            message = _parse(line)
            if message is not None:
                asyncio.run_coroutine_threadsafe(out.send(message), loop).result()
    call_soon(loop, out.close)


def _parse(line: bytes) -> Received | None:
    if not line.strip():
        return None
    try:
        return SessionMessage(mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as problem:
        return problem


async def _write(
    writing: BinaryIO, messages: MemoryObjectReceiveStream[SessionMessage], runtime: Runtime, scope: anyio.CancelScope
) -> None:
    """Write each message as a line; a client that does not listen any more ends it all."""
    async with messages:
        async for one in messages:
            line = one.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
            try:
                await in_thread(runtime, partial(_put, writing, line))
            except OSError:
                scope.cancel()
                return


def _put(writing: BinaryIO, line: bytes) -> None:
    writing.write(line)
    writing.flush()


@contextmanager
def _claimed() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Standard input and output for the protocol alone.

    Meanwhile whatever else this process or a child of it reads there is empty,
    and what it prints goes to standard error.
    """
    sys.stdout.flush()
    wire_in, wire_out = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    try:
        # Never closed: a thread may still wait for either when this has ended.
        yield os.fdopen(wire_in, "rb", closefd=False), os.fdopen(wire_out, "wb", closefd=False)
    finally:
        sys.stdout.flush()
        os.dup2(wire_in, 0)
        os.dup2(wire_out, 1)
