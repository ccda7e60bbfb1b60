"""The relay's inner end, and what is said where there can be none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import SandboxError, UsageError
from ghcoord.execution.environment import relay_inside
from ghcoord.execution.environment.network import network_of, open_network
from ghcoord.execution.environment.settings import Reach
from tests.execution.environment.context import Context

RUNTIME = SystemRuntime()
NOTHING = Reach(frozenset())


@dataclass(frozen=True)
class Box:
    """As much of a sandbox as is looked at before anything is made."""

    name: str = "bwrap"
    tier: str = "full"
    python: str | None = "/usr/bin/python3"
    identity: None = None


def test_a_partial_sandbox_has_none(tmp_path: Path) -> None:
    """The message says which worker is needed."""
    box = Box(name="landlock", tier="partial")
    with pytest.raises(UsageError, match="whose sandbox is full"), open_network(box, tmp_path, NOTHING, RUNTIME):  # type: ignore[arg-type]
        pass


def test_it_needs_a_python_inside(tmp_path: Path) -> None:
    """Without one the relay has no inner end: the message names the fix."""
    with pytest.raises(SandboxError, match="python3"), open_network(Box(python=None), tmp_path, NOTHING, RUNTIME):  # type: ignore[arg-type]
        pass


def test_it_needs_a_folder_beside_the_workspace(tmp_path: Path) -> None:
    """A workspace whose folder is gone is a fault of the machine."""
    workspace = tmp_path / "gone" / "workspace"
    with pytest.raises(SandboxError, match="no folder"), open_network(Box(), workspace, NOTHING, RUNTIME):  # type: ignore[arg-type]
        pass


def test_a_session_without_hosts_has_none(tmp_path: Path) -> None:
    """Its commands are started as they are, in any sandbox; a bad host is told, in any too."""
    with network_of(Box(tier="partial"), Context(tmp_path), RUNTIME) as network:  # type: ignore[arg-type]
        assert (["a", "b"], ()) == (network.argv(["a", "b"]), network.mounts)
    context = Context(tmp_path, allow=("127.0.0.1",))
    with pytest.raises(UsageError, match="no host to allow"), network_of(Box(), context, RUNTIME):  # type: ignore[arg-type]
        pass


def test_bytes_pass_both_ways_until_both_ends_are_done(tmp_path: Path) -> None:
    """The end of one direction is passed on and does not end the other."""
    path = tmp_path / "socket"
    ours, theirs = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as listener, ours:
        listener.bind(str(path))
        listener.listen(1)
        thread = threading.Thread(target=relay_inside.carry, args=(theirs, str(path)))
        thread.start()
        outside, _ = listener.accept()
        with outside:
            ours.sendall(b"question")
            ours.shutdown(socket.SHUT_WR)
            assert b"question" == outside.recv(100)
            assert b"" == outside.recv(100)
            outside.sendall(b"answer")
        assert b"answer" == ours.recv(100)
        assert b"" == ours.recv(100)
        thread.join(5)
        assert not thread.is_alive()


def test_a_broken_connection_ends_both(tmp_path: Path) -> None:
    """A socket that is not there, and an end that breaks off, leave nothing waiting."""
    ours, theirs = socket.socketpair()
    relay_inside.carry(theirs, str(tmp_path / "none"))
    assert b"" == ours.recv(1)
    ours.close()
    left, left_end = socket.socketpair()
    right, right_end = socket.socketpair()
    right_end.close()
    left_end.sendall(b"x")
    relay_inside.copy(left, right)
    assert b"" == left_end.recv(1)
    for each in (left, left_end, right):
        each.close()


def test_the_program_may_take_its_time(tmp_path: Path) -> None:
    """SIGTERM, which every process of a sandbox gets, does not end the relay before the program that it is for."""
    program = Path(relay_inside.__file__).read_text()
    shell = "trap 'sleep 0.2; echo done; exit 4' TERM; echo ready; while :; do sleep 0.01; done"
    command = [sys.executable, "-I", "-S", "-c", program, str(tmp_path / "none"), "sh", "-c", shell]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout
        assert b"ready\n" == process.stdout.readline()
        os.killpg(process.pid, 15)
        assert b"done\n" == process.stdout.readline()
        assert 4 == process.wait(5)
