"""Small parts of execution that larger tests reach only through other processes."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import SandboxError, UsageError
from ghcoord.execution.environment import relay_inside
from ghcoord.execution.offer import collect_tools
from ghcoord.execution.sandbox.base import closing_on_error, data_fd
from ghcoord.execution.tools.kit import Kit
from tests.coord.world import World


def test_a_worker_offers_only_what_it_is_told_to() -> None:
    """Registered functions are among its tools; with ``only`` no others than those, and each must be there."""
    with World().open() as hub:

        @hub.tools.register("build")
        def build() -> int:
            return 1

        kit = Kit(None, SystemRuntime())
        assert {"build", "echo"} <= set(collect_tools(hub, kit))
        assert ["build"] == list(collect_tools(hub, kit, ["build"]))
        with pytest.raises(UsageError, match="no tool 'shell'"):
            collect_tools(hub, kit, ["echo", "shell"])


@pytest.mark.parametrize(("error", "becomes"), [(OSError("no room"), SandboxError), (ValueError("x"), ValueError)])
def test_what_cannot_be_opened_leaves_nothing_open(error: Exception, becomes: type[Exception]) -> None:
    """All descriptors are closed; what the system refused is a fault of the sandbox, anything else passes."""
    fds = [data_fd(b"x"), data_fd(b"y")]
    with pytest.raises(becomes), closing_on_error(fds):
        raise error
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


class _Ended(BaseException):
    """The relay's process would end here."""


def test_the_relay_serves_while_its_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program sends to its proxy reaches the socket and back; its exit code is the relay's."""
    heard: list[bytes] = []
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as outside:
        outside.bind(path)
        outside.listen()
        serving = threading.Thread(target=_answer, args=(outside, heard))
        serving.start()
        parent, leave = os.getpid(), os._exit

        def end(code: int) -> None:
            if os.getpid() != parent:
                leave(code)
            raise _Ended(code)

        monkeypatch.setattr(os, "_exit", end)
        before: Callable[..., object] | int | None = signal.getsignal(signal.SIGTERM)
        code = (
            "import os, socket, sys\n"
            "host, port = os.environ['https_proxy'].removeprefix('http://').split(':')\n"
            "s = socket.create_connection((host, int(port))); s.sendall(b'hello'); s.shutdown(1)\n"
            "sys.exit(3 if s.recv(9) == b'welcome' else 4)"
        )
        try:
            with pytest.raises(_Ended) as ended:
                relay_inside.main(path, sys.executable, "-c", code)
        finally:
            signal.signal(signal.SIGTERM, before)
        serving.join(5.0)
    assert ((3,), [b"hello"]) == (ended.value.args, heard)


def _answer(listener: socket.socket, heard: list[bytes]) -> None:
    connection, _ = listener.accept()
    with connection:
        heard.append(connection.recv(100))
        connection.sendall(b"welcome")
