"""What there is to steal, to reach and to break around a sandbox, and how to tell that it happened."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECRET = "s3cr3t-of-the-worker-8d1f"
VARIABLE = "GHCOORD_ATTACK_TOKEN"

_IPC_CREAT, _IPC_RMID = 0o1000, 0


@dataclass
class Stage:
    """A machine with a worker, its secrets, its neighbours and its services."""

    base: Path
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def heard(self) -> Path:
        """A file for each service at which something arrived; the services run in another process than the worker."""
        return self.base / "heard"

    def forget(self) -> None:
        """Before another attempt."""
        for name in self.heard.iterdir():
            name.unlink()

    def await_heard(self, what: str, seconds: float = 0.3) -> bool:
        """Whether ``what`` arrived, now or soon."""
        return self.await_file(self.heard / what, seconds)

    def await_file(self, path: Path, seconds: float) -> bool:
        """Whether there is such a file, now or soon."""
        deadline = time.monotonic() + seconds
        while not path.exists():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def survivors(self) -> list[int]:
        """Processes that an attempt left: they carry the stage's mark in their command line."""
        mark = str(self.facts["mark"]).encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if mark in (entry / "cmdline").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found

    def kill_survivors(self) -> None:
        for pid in self.survivors():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def staged(base: Path, uid: int) -> Iterator[Stage]:
    """A stage in ``base``, whose victims run as ``uid``, as the worker does."""
    stage = Stage(base)
    with contextlib.ExitStack() as stack:
        _files(stage, uid)
        _services(stage, stack)
        _victim(stage, stack, uid)
        _memory(stage, stack)
        yield stage
        stage.kill_survivors()


def _files(stage: Stage, uid: int) -> None:
    base = stage.base
    base.chmod(0o755)
    heard = base / "heard"
    heard.mkdir()
    heard.chmod(0o777)
    outside = base / "outside"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    secret = outside / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o644)
    other = base / "other-session"
    other.mkdir()
    (other / "notes").write_text(SECRET)
    cache = base / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    wheel = cache / "idna.whl"
    wheel.write_text("wheel")
    wheel.chmod(0o666)
    commands = outside / "github_env"
    commands.write_text("")
    commands.chmod(0o666)
    program = outside / "become-root"
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o4755)
    for path in (secret, other, other / "notes"):
        os.chown(path, uid, uid)
    stage.facts |= {
        "outside": str(outside),
        "secret_file": str(secret),
        "terces": SECRET[::-1],
        "variable": VARIABLE,
        "other": str(other),
        "cache": str(wheel),
        "github_env": str(commands),
        "setuid": str(program),
        "prefix": str(Path(sys.base_prefix)),
        "mark": f"attack-{os.getpid()}-{base.name}",
        "uid": uid,
    }


def _services(stage: Stage, stack: contextlib.ExitStack) -> None:
    """A port, a datagram port that answers as a name server might, and local sockets; each notes what arrives."""
    tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    udp.bind(("127.0.0.1", 0))
    six = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_STREAM))
    with contextlib.suppress(OSError):
        six.bind(("::1", 0))
        six.listen()
    abstract = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    name = f"ghcoord-attack-{os.getpid()}-{stage.base.name}"
    abstract.bind("\0" + name)
    abstract.listen()
    local = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    path = stage.base / "outside" / "engine.sock"
    local.bind(str(path))
    path.chmod(0o666)
    local.listen()
    datagrams = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    letters = stage.base / "outside" / "log.sock"
    datagrams.bind(str(letters))
    letters.chmod(0o666)
    stage.facts |= {
        "tcp": tcp.getsockname()[1],
        "udp": udp.getsockname()[1],
        "tcp6": six.getsockname()[1] if six.getsockname()[1] else 0,
        "abstract": name,
        "unix": str(path),
        "unix_datagram": str(letters),
    }
    for what, sock in (("tcp", tcp), ("tcp6", six), ("abstract", abstract), ("unix", local)):
        threading.Thread(target=_accept, args=(stage, what, sock), daemon=True).start()
    for what, sock in (("udp", udp), ("unix_datagram", datagrams)):
        threading.Thread(target=_receive, args=(stage, what, sock), daemon=True).start()


def _accept(stage: Stage, what: str, sock: socket.socket) -> None:
    while True:
        try:
            connection, _ = sock.accept()
        except OSError:
            return
        (stage.heard / what).touch()
        connection.close()


def _receive(stage: Stage, what: str, sock: socket.socket) -> None:
    while True:
        try:
            _, sender = sock.recvfrom(2048)
        except OSError:
            return
        (stage.heard / what).touch()
        if what == "udp":
            with contextlib.suppress(OSError):
                sock.sendto(b"answer", sender)


def _victim(stage: Stage, stack: contextlib.ExitStack, uid: int) -> None:
    """A process of the worker's user, with a secret in its environment, its arguments and its memory."""
    code = (
        "import ctypes, signal, sys, time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: open(sys.argv[2], 'w').close())\n"
        "ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(2**64 - 1), 0, 0, 0)\n"  # whoever may, may trace it
        "print('ready', flush=True)\n"
        "while True: time.sleep(0.05)\n"
    )
    signalled = stage.base / "outside" / "signalled"
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    victim = subprocess.Popen(
        [python, "-c", code, f"--token={SECRET}", str(signalled)],
        env={VARIABLE: SECRET, "PATH": "/usr/bin:/bin"},
        cwd="/",
        stdout=subprocess.PIPE,
        user=uid,
        group=uid,
        extra_groups=[],
    )

    def end() -> None:
        victim.kill()
        victim.wait()
        assert victim.stdout is not None
        victim.stdout.close()

    stack.callback(end)
    assert victim.stdout is not None
    victim.stdout.readline()
    stage.facts |= {"victim": victim.pid, "signalled": str(signalled), "worker": os.getpid()}


def _memory(stage: Stage, stack: contextlib.ExitStack) -> None:
    """Shared memory of System V and of POSIX that anybody may read."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    key = 0x47480000 | (os.getpid() & 0xFFFF)
    segment = libc.shmget(key, 4096, _IPC_CREAT | 0o666)
    if segment >= 0:
        stack.callback(libc.shmctl, segment, _IPC_RMID, None)
        address = libc.shmat(segment, None, 0)
        ctypes.memmove(address, SECRET.encode(), len(SECRET))
        libc.shmdt(ctypes.c_void_p(address))
    shared = Path("/dev/shm") / f"ghcoord-{os.getpid()}"
    shared.write_text(SECRET)
    shared.chmod(0o666)
    stack.callback(shared.unlink, missing_ok=True)
    stage.facts |= {"shm_key": key, "shm_file": str(shared)}
