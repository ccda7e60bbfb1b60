"""A real sshd on loopback, with keys and settings of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Sshd:
    """Where it listens, and the options with which the client knows it and is known."""

    port: int
    folder: Path

    def url(self, path: Path) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{path}"

    @property
    def options(self) -> str:
        return (
            f"-F none -i {self.folder}/client -o IdentitiesOnly=yes -o UserKnownHostsFile={self.folder}/known "
            "-o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes"
        )

    def environment(self, *replace: tuple[str, str], shared: bool = False) -> dict[str, str]:
        """As a user's ``~/.ssh/config`` does it: an ssh that adds the options, each of ``replace`` replaced.

        ``shared``: one connection for all calls, ended when it has not been used for some seconds.
        """
        options = self.options
        for old, new in replace:
            options = options.replace(old, new)
        if shared:
            options += f" -o ControlMaster=auto -o ControlPath={self.folder}/%C -o ControlPersist=5"
        tools = self.folder / f"bin-{len(list(self.folder.iterdir()))}"
        tools.mkdir()
        ssh = tools / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} {options} "$@"\n')
        ssh.chmod(0o755)
        return {"PATH": f"{tools}:{os.environ['PATH']}"}


def find_sshd() -> str:
    """The program; skips where it is not installed, fails in CI."""
    found = shutil.which("sshd", path=f"/usr/sbin:/sbin:/usr/local/sbin:{os.environ['PATH']}")
    missing = [name for name in ("ssh", "ssh-keygen") if shutil.which(name) is None]
    if found is None or missing:
        reason = "sshd is not installed (Debian: openssh-server)"
        if os.environ.get("GHCOORD_CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Sshd]:
    """An sshd that accepts the key in ``folder`` for the present user, ended afterwards."""
    program = find_sshd()
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "authorized").write_bytes((folder / "client.pub").read_bytes())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        "StrictModes no\nUsePAM no\nPidFile none\nAcceptEnv GIT_PROTOCOL\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nPermitRootLogin yes\nMaxStartups 100\nMaxSessions 100\nPrintMotd no\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    log = (folder / "log").open("wb")
    process = subprocess.Popen([program, "-D", "-e", "-f", folder / "config"], stdout=log, stderr=log)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None:
                pytest.fail(f"sshd does not start: {(folder / 'log').read_text()}")
            time.sleep(0.02)
        yield Sshd(port, folder)
    finally:
        process.terminate()
        process.wait(10)
        log.close()
