"""The supervisor of one unsandboxed command: a program of its own, also imported for its look at ``/proc``.

Run as ``python -I -S launcher.py SPEC CONTROL STATUS`` (three descriptors).
Being a *subreaper*, every process that the command leaves behind becomes its
child, so a daemon that made its own session is found and killed as well.  It
ends the whole tree when the command ends, when told to on CONTROL, and when
CONTROL closes because the worker died, by SIGKILL too.

Under root it keeps root, so that the command cannot harm it; otherwise a
hostile command of the same user can kill it, and processes that had made their
own session then survive.

It imports nothing of ghcoord: it starts without site packages in about 15 ms.
SPEC holds, separated by NUL: uid or empty, gid or empty, limits as
``NUMBER:SOFT:HARD`` separated by blanks, the directory, the number of
arguments, the arguments, then ``NAME=value`` variables.  STATUS gets ``error
TEXT`` when the command could not be started, else ``exit N`` at the end.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without its enumerations, which cost 5 ms at each start

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_KILL_ROUNDS = 1000
_TOLD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def parent_of(pid: int) -> int:
    """The parent's process id; 0 when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name before it is in parentheses and may contain anything.
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def descendants(root: int) -> list[int]:
    """The processes below ``root``, itself not included, as ``/proc`` shows them now."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            children.setdefault(parent_of(int(name)), []).append(int(name))
    found: list[int] = []
    queue = [root]
    while queue:
        below = children.pop(queue.pop(), [])
        found += below
        queue += below
    return found


def _prctl(libc: ctypes.CDLL, option: int, value: int) -> None:
    if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")


def _read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 65536):
        parts.append(part)
    os.close(fd)
    return b"".join(parts)


def _become_command(libc: ctypes.CDLL, fields: list[bytes], parent: int) -> None:
    """Drop every privilege and become the command. Returns only by an exception."""
    uid, gid, limits, directory, count = *fields[:4], int(fields[4])
    argv = fields[5 : 5 + count]
    env = dict(each.split(b"=", 1) for each in fields[5 + count :])
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (*_TOLD, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    for limit in limits.split():
        which, soft, hard = (int(each) for each in limit.split(b":"))
        _, most = resource.getrlimit(which)
        hard = hard if most == resource.RLIM_INFINITY else min(hard, most)
        resource.setrlimit(which, (min(soft, hard), hard))
    if uid:
        os.setgroups([])
        os.setresgid(int(gid), int(gid), int(gid))
        os.setresuid(int(uid), int(uid), int(uid))
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
    _prctl(libc, _PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(125)
    os.chdir(directory)
    os.execve(argv[0], argv, env)


def _reap(child: int, code: int | None) -> tuple[int | None, bool]:
    """Collect ended processes: the command's exit code if known, and whether any process is left."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code, False
        if pid == 0:
            return code, True
        if pid == child:
            number = os.waitstatus_to_exitcode(status)
            code = number if number >= 0 else 128 - number


def _signal_all(number: int) -> None:
    for pid in descendants(os.getpid()):
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def _supervise(child: int, control: int, wake: int) -> int | None:
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(wake, select.POLLIN)
    code: int | None = None
    while code is None:
        ready = dict(poll.poll())
        if wake in ready:
            os.read(wake, 4096)
        code, _ = _reap(child, code)
        if code is None and control in ready:
            order = os.read(control, 64)
            if not order or b"K" in order:
                break
            _signal_all(signal.SIGTERM)
    for _ in range(_KILL_ROUNDS):
        _signal_all(signal.SIGKILL)
        code, left = _reap(child, code)
        if not left:
            return code
        select.select([], [], [], 0.005)
    return code


def main(argv: list[str]) -> int:
    """Run the command that the descriptors in ``argv`` describe; the status goes to STATUS."""
    spec, control, status = (int(each) for each in argv)
    for fd in (spec, control, status):
        os.set_inheritable(fd, False)
    fields = _read_all(spec).split(b"\0")
    libc = ctypes.CDLL(None, use_errno=True)
    _prctl(libc, _PR_SET_CHILD_SUBREAPER, 1)
    wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    for number in _TOLD:
        signal.signal(number, signal.SIG_IGN)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            _become_command(libc, fields, parent)
        except BaseException as why:
            os.write(status, f"error {why}\n".encode())
        finally:
            os._exit(127)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    code = _supervise(child, control, wake)
    os.write(status, f"exit {137 if code is None else code}\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
