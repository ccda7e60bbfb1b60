"""The supervisor of one container: a program of its own, so that a container never outlives its worker.

Run as ``python -I -S container_launcher.py SPEC VARIABLES CONTROL STATUS`` (four
descriptors).  It starts the engine's client, passes orders on to the container
by its name, and always removes the container at the end, before it reports.

SPEC holds, separated by NUL: the engine's program, the container's name, the
number of variables for the client and the variables, then what follows the
program's name; an argument that is :data:`VARIABLES_HERE` becomes the path under
which the client reads VARIABLES.  STATUS gets ``refused CODE`` when the engine
did not start the container, ``memory`` when the kernel ended it for its memory,
and ``exit N`` at the end.

It imports nothing of ghcoord.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

VARIABLES_HERE = "\x01variables"
"""Cannot be an argument of ours otherwise: the engine knows no such option."""

REFUSED = 125
"""With this code the client says that the engine failed; a command can end with it as well."""

KILLED = 137

_CALL_SECONDS = 10
_CLIENT_SECONDS = 2.0
_SETTLE_SECONDS = 0.3
"""For how long a container may still appear whose client was killed while it asked for it."""


class _Engine:
    def __init__(self, program: str, name: str, env: dict[str, str]) -> None:
        self._program, self._name, self._env = program, name, env
        self._calls: list[subprocess.Popen[bytes]] = []

    def call(self, *arguments: str) -> str | None:
        """What the engine answers; ``None`` when it refuses or does not answer."""
        try:
            done = subprocess.run(
                [self._program, *arguments, self._name],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_CALL_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None

    def ask(self, *arguments: str) -> None:
        """Tell the engine something and do not wait."""
        null = subprocess.DEVNULL
        self._calls.append(
            subprocess.Popen(
                [self._program, *arguments, self._name], env=self._env, stdin=null, stdout=null, stderr=null
            )
        )

    def exists(self) -> bool:
        return self.call("container", "inspect", "--format", "{{.State.Status}}") is not None

    def remove(self) -> None:
        self.call("rm", "--force")

    def close(self) -> None:
        for each in self._calls:
            try:
                each.wait(_CALL_SECONDS)
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()


def _serve(engine: _Engine, client: subprocess.Popen[bytes], control: int) -> None:
    """Pass orders on until the client has ended."""
    ended = os.pidfd_open(client.pid)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(ended, select.POLLIN)
    while client.poll() is None:
        ready = dict(poll.poll())
        if ended in ready or control not in ready:
            continue
        order = os.read(control, 64)
        if not order or b"K" in order:
            _kill(engine, client)
        else:
            engine.ask("kill", "--signal", "TERM")
    os.close(ended)


def _kill(engine: _Engine, client: subprocess.Popen[bytes]) -> None:
    engine.remove()
    try:
        client.wait(_CLIENT_SECONDS)
        return
    except subprocess.TimeoutExpired:
        client.kill()
        client.wait()
    select.select([], [], [], _SETTLE_SECONDS)


def _report(engine: _Engine, code: int) -> str:
    if code == REFUSED:
        started = engine.call("container", "inspect", "--format", "{{.State.ExitCode}} {{.State.StartedAt}}")
        # One that was never started has the year 1.
        if started is None or not started.startswith(f"{REFUSED} ") or started.split()[1].startswith("0001-"):
            return f"refused {code}\n"
    if code == KILLED and engine.call("container", "inspect", "--format", "{{.State.OOMKilled}}") == "true":
        return f"memory\nexit {code}\n"
    return f"exit {code}\n"


def main(argv: list[str]) -> int:
    """Run the container that the descriptors in ``argv`` describe; the status goes to STATUS."""
    spec, variables, control, status = (int(each) for each in argv)
    for fd in (spec, control, status):
        os.set_inheritable(fd, False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)  # unlike SIG_IGN, the client does not inherit it
    with open(spec, "rb") as file:
        program, name, count, *rest = os.fsdecode(file.read()).split("\0")
    env = dict(each.split("=", 1) for each in rest[: int(count)])
    arguments = [f"/dev/fd/{variables}" if each == VARIABLES_HERE else each for each in rest[int(count) :]]
    engine = _Engine(program, name, env)
    try:
        client = subprocess.Popen([program, *arguments], env=env, pass_fds=[variables], start_new_session=True)
    except OSError as why:
        os.write(status, f"error {program}: {why.strerror}\n".encode())
        return 0
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    try:
        _serve(engine, client, control)
        code = client.returncode
        report = _report(engine, code if code >= 0 else 128 - code)
    finally:
        engine.remove()
        if engine.exists():
            engine.remove()
        engine.close()
    os.write(status, report.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
