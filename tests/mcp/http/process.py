"""``ghcoord mcp --http`` as a process of its own, with a worker and real sandboxes."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ghcoord.clock import SystemRuntime
from ghcoord.faces.mcp.http.tokens import TokenFile
from tests.cli.running import environment
from tests.processes import GHCOORD, needs_program, until


@dataclass
class Served:
    """A server that runs: its URL, its hub, and a way to tokens for it."""

    url: str
    hub: Path
    tokens: TokenFile
    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    def token(self, user: str, workspace: str = "", read_only: bool = False) -> str:
        """A new token of this user's for this server."""
        made = self.tokens.create(user, workspace=workspace, resource=self.url, lasts=3600, read_only=read_only)
        return made.secret


@contextmanager
def sandbox_folder() -> Iterator[Path]:
    """A folder for sessions: not below pytest's own, which the user in a sandbox may not enter."""
    folder = Path(tempfile.mkdtemp(prefix="ghcoord-http-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def served(hub: Path, *args: str, auth: bool = True) -> Iterator[Served]:
    """The server of ``hub`` on a free port, ended with SIGTERM; fails when that takes longer than it may."""
    needs_program("bwrap")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with sandbox_folder() as folder:
        tokens = TokenFile(folder / "tokens.json", SystemRuntime())
        tokens.create("nobody", resource="http://127.0.0.1:1/mcp", lasts=1)
        how = ["--token-file", str(tokens.path)] if auth else ["--no-auth"]
        process = subprocess.Popen(
            [*GHCOORD, "--hub", str(hub), "mcp", "--http", f"127.0.0.1:{port}", *how, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment({"GHCOORD_BASE_WORKSPACE": str(folder)}),
            start_new_session=True,
        )
        one = Served(f"http://127.0.0.1:{port}/mcp", hub, tokens, process)
        out = process.stdout
        assert out is not None
        reader = threading.Thread(target=lambda: one.said.extend(iter(out.readline, "")), daemon=True)
        reader.start()
        try:
            until(lambda: any("serving on" in line for line in one.said) or process.poll() is not None, 30)
            assert process.poll() is None, "".join(one.said)
            yield one
            process.send_signal(signal.SIGTERM)
            assert 0 == process.wait(15), "".join(one.said)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(10)
            reader.join(10)
            out.close()


@contextmanager
def killed_client(one: Served, mode: str, token: str, command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A client as a process of its own that runs ``command`` in a session and waits; for the test to kill."""
    script = Path(__file__).with_name("client.py")
    process = subprocess.Popen(
        [sys.executable, str(script), one.url, mode, token],
        # Not as an argument: the test looks for the command in those of all processes.
        env=environment({"RUN": command}),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
