"""Unpacking a tar stream inside a sandbox, into a folder that nothing else uses yet."""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from ghcoord.clock import Runtime
from ghcoord.coord.sessions import tarstream
from ghcoord.coord.sessions.manifests import quota
from ghcoord.errors import Corrupt, SandboxError
from ghcoord.execution import process
from ghcoord.execution.checkpoints import extractor
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.model.limits import Limits

TIMEOUT = 600.0
"""Seconds that unpacking may take."""

MEMORY = 512
"""MiB that the extractor may take, and processes: it is ours, and what a session is held to could be too little."""

PROCESSES = 64

PIPE = 1 << 20
"""Bytes of the pipe to the extractor: what an unprivileged process may ask for (fs.pipe-max-size)."""

_FUTURE = "from __future__ import annotations\n"
_IMPORT = "from ghcoord.coord.sessions.tarstream import FOLDER, LINK, Member, Refused, Tar\n"


@cache
def program() -> str:
    """The extractor as one text: the line that imports the reader gives way to the reader."""
    reader, main = inspect.getsource(tarstream), inspect.getsource(extractor)
    assert _IMPORT in main
    return _FUTURE + main.replace(_FUTURE, "").replace(_IMPORT, reader.replace(_FUTURE, ""))


def unpack(
    stream: Iterable[bytes],
    target: Path,
    sandbox: Sandbox,
    runtime: Runtime,
    *,
    limits: Limits,
    timeout: float = TIMEOUT,
) -> None:
    """Unpack ``stream`` into the empty folder ``target``, in ``sandbox``.

    ``limits.archive_files`` and ``archive_mb`` are kept by the extractor,
    ``file_mb`` and ``workspace_mb`` by the sandbox.  What ``stream`` raises
    comes through.  Raises ``Corrupt`` for an archive that is refused and
    :class:`SandboxError` when the extractor could not do its work here; what
    was unpacked until then is left to the caller.
    """
    if sandbox.python is None:
        raise SandboxError(
            f"files are unpacked by a Python inside the sandbox, and {sandbox.name} has none: install python3"
        )
    most = quota(limits)
    argv = [sandbox.python, "-I", "-S", "-c", program(), str(most.archive_files), str((most.archive_mb or 0) << 20)]
    theirs, ours = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, PIPE)
    feeder = _Feeder(stream, ours)
    thread = runtime.spawn(feeder.run, "ghcoord-unpack")
    try:
        done = process.run(
            sandbox,
            argv,
            workspace=target,
            runtime=runtime,
            limits=Limits(
                file_mb=limits.file_mb, workspace_mb=limits.workspace_mb, memory_mb=MEMORY, processes=PROCESSES
            ),
            stdin_fd=theirs,
            timeout=timeout,
            cancelled=feeder.failed,
        )
    finally:
        # The reading end is closed by now, so that a feeder that still writes ends.
        thread.join(timeout)
    if feeder.error is not None:
        raise feeder.error
    if done.stopped == "workspace":
        raise Corrupt(f"the checkpoint cannot be unpacked: more than {limits.workspace_mb} MiB (limit workspace_mb)")
    if done.stopped:
        raise SandboxError(f"the checkpoint was not unpacked: stopped ({done.stopped})")
    if done.exit_code:
        said = done.stderr.strip().rpartition("\n")[2][:500] or f"exit code {done.exit_code}"
        if done.exit_code != extractor.REFUSED:
            raise SandboxError(f"the checkpoint was not unpacked: {said}")
        raise Corrupt(f"the checkpoint cannot be unpacked: {said}")


class _Feeder:
    """Writes the stream into the pipe, and keeps what went wrong."""

    def __init__(self, stream: Iterable[bytes], fd: int) -> None:
        self._stream = stream
        self._fd = fd
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for piece in self._stream:
                view = memoryview(piece)
                while view:
                    view = view[os.write(self._fd, view) :]
        except BrokenPipeError:
            pass  # the extractor has ended, and says why
        except BaseException as error:
            self.error = error
        finally:
            os.close(self._fd)

    def failed(self) -> bool:
        return self.error is not None
