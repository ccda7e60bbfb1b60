"""The supervisor of one command under Landlock and seccomp: a program of its own, also imported for its constants.

Run as ``python -I -S landlock_launcher.py SPEC FILTER CONTROL STATUS`` (four
descriptors).  It keeps its own user and supervises as
:mod:`ghcoord.execution.sandbox.launcher` does; its child becomes the task's
user, gives up every privilege, lets Landlock take away the file system, TCP,
abstract sockets and signals to the outside, makes its folder for temporary
files, lets the seccomp filter take away the rest, and becomes the command.
What is left in that folder at the end is removed by another such child, so
that no link that the command made there leads anywhere.

SPEC holds, separated by NUL: uid or empty, gid or empty, ``held`` or empty, the
workspace, the number of rules and the rules (``RIGHTS PATH``), limits as ``NUMBER:SOFT:HARD``
separated by blanks, the number of arguments and the arguments, then
``NAME=value`` variables, to which TMPDIR is added.  FILTER holds a classic BPF
program.  STATUS gets ``error TEXT`` when the command could
not be started, else ``exit N`` at the end.  One that is held first reports
``child PID``, and starts when CONTROL says ``G``: by then it is in its cgroup.

It imports nothing of ghcoord but the launcher beside it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import stat
import struct
import sys

TYPE_CHECKING = False  # importing typing costs 3 ms at each start, and the enumerations of signal 5 ms
if TYPE_CHECKING:
    import signal
    from typing import Any, NoReturn
else:
    import _signal as signal

MIN_ABI = 3
"""The first version of Landlock that can forbid truncating files (Linux 6.2)."""

SCOPES_ABI = 6
"""The first version that keeps signals and abstract sockets inside (Linux 6.12)."""

# linux/landlock.h
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK, _REFER, _TRUNCATE, _IOCTL_DEV = 1 << 6, 1 << 11, 1 << 13, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_UP_TO_ABI_3 = (1 << 15) - 1
_NET = 3  # LANDLOCK_ACCESS_NET_BIND_TCP, _CONNECT_TCP
_SCOPES = 3  # LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, _SIGNAL

READ = _EXECUTE | _READ_FILE | _READ_DIR
"""To read, list and execute."""

DEVICE = _READ_FILE | _WRITE_FILE
"""To use an existing device, without its ioctls."""

WRITE = _UP_TO_ABI_3 & ~(_MAKE_CHAR | _MAKE_BLOCK)
"""Everything but to make devices."""

TEMPORARY = b".tmp"
"""The folder in a workspace that holds the folders for temporary files of the commands that run."""

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every architecture
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 1, 22, 24
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_SECCOMP_MODE_FILTER = 2
_CLEANING_SECONDS = 3


def landlock_abi() -> int:
    """The version of Landlock that the kernel has; otherwise ``-errno``, for why it has none that can be used."""
    version = int(_libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION))
    return version if version > 0 else -ctypes.get_errno()


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _prctl(option: int, value: int, pointer: Any = None) -> None:
    zero = ctypes.c_ulong(0)
    _check(_libc().prctl(option, ctypes.c_ulong(value), pointer or zero, zero, zero), f"prctl {option}")


class Spec:
    """What SPEC says."""

    def __init__(self, data: bytes) -> None:
        fields = iter(data.split(b"\0"))
        self.uid, self.gid, self.held, self.workspace = (next(fields) for _ in range(4))
        self.rules = [next(fields).split(b" ", 1) for _ in range(int(next(fields)))]
        self.limits = [tuple(map(int, each.split(b":"))) for each in next(fields).split()]
        self.argv = [next(fields) for _ in range(int(next(fields)))]
        self.env = dict(each.split(b"=", 1) for each in fields)
        self.temporary = b"%s/%d" % (TEMPORARY, os.getpid())
        """No two commands that run have the same."""
        self.env.setdefault(b"TMPDIR", self.workspace + b"/" + self.temporary)


def _drop(spec: Spec, parent: int) -> None:
    """Become the task's user, without a way back, and end with the supervisor."""
    if spec.uid:
        uid, gid = int(spec.uid), int(spec.gid)
        for capability in range(64):
            if _libc().prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), *[ctypes.c_ulong(0)] * 3) != 0:
                break  # past the last one, or root itself may not: then they cannot be gained either
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(125)


def _confine(spec: Spec) -> None:
    """Leave of the file system what the rules say and go to the workspace."""
    libc, abi = _libc(), landlock_abi()
    if abi < MIN_ABI:
        raise OSError(errno.EOPNOTSUPP, f"Landlock's version is {abi}, {MIN_ABI} is needed")
    attributes = [_UP_TO_ABI_3 | (_IOCTL_DEV if abi >= 5 else 0)]
    if abi >= 4:
        attributes.append(_NET)
    if abi >= SCOPES_ABI:
        attributes.append(_SCOPES)
    packed = struct.pack(f"={len(attributes)}Q", *attributes)
    ruleset = _check(libc.syscall(_CREATE_RULESET, packed, ctypes.c_size_t(len(packed)), 0), "landlock_create_ruleset")
    workspace = os.open(spec.workspace, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    os.fchdir(workspace)
    _allow(libc, ruleset, workspace, WRITE)
    for rights, path in spec.rules:
        fd = os.open(path, os.O_PATH)
        _allow(libc, ruleset, fd, int(rights))
        os.close(fd)
    _check(libc.syscall(_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    os.close(workspace)
    os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, fd: int, rights: int) -> None:
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        rights &= _OF_FILES
    rule = struct.pack("=Qi", rights, fd)
    _check(libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0), "landlock_add_rule")


def _make_temporary(spec: Spec) -> None:
    """What an earlier command put in the place of the folder goes; Landlock keeps this inside the workspace."""
    if os.path.islink(TEMPORARY) or (os.path.lexists(TEMPORARY) and not os.path.isdir(TEMPORARY)):
        os.unlink(TEMPORARY)
    if os.path.lexists(spec.temporary):
        _remove(spec.temporary)  # of a supervisor that was killed, with the same process id
    for _ in range(100):
        try:
            os.makedirs(spec.temporary, 0o700, exist_ok=True)
            return
        except FileNotFoundError:
            continue  # the last of the other commands has just removed what holds it


def _filter_calls(program: bytes) -> None:
    instructions = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(fprog))


def _become_command(spec: Spec, program: bytes, parent: int, gate: int) -> NoReturn:
    if spec.held and not os.read(gate, 1):
        os._exit(125)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    for which, soft, hard in spec.limits:
        most = resource.getrlimit(which)[1]
        hard = hard if most == resource.RLIM_INFINITY else min(hard, most)
        resource.setrlimit(which, (min(soft, hard), hard))
    _drop(spec, parent)
    _confine(spec)
    _make_temporary(spec)
    _filter_calls(program)
    os.execve(spec.argv[0], spec.argv, spec.env)


# -- after the end


def _clean(spec: Spec) -> None:
    """Remove the folder for temporary files, and the one that holds them when this was the last."""
    holder = os.path.join(spec.workspace, TEMPORARY)
    try:
        folder = os.open(holder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return  # the command removed it, or something else stands there
    try:
        os.rmdir(os.path.basename(spec.temporary), dir_fd=folder)
    except OSError:
        _clean_confined(spec)
    finally:
        os.close(folder)
    try:
        os.rmdir(holder)
    except OSError:
        return  # others run


def _clean_confined(spec: Spec) -> None:
    """As the command was confined, and for no longer than the worker waits."""
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(_CLEANING_SECONDS)
            _drop(spec, parent)
            _confine(spec)
            _remove(spec.temporary)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _remove(top: bytes) -> None:
    """The tree at ``top``; of folders that their owner closed as well. No recursion: its depth is hostile."""
    stack = [top]
    while stack:
        below = []
        try:
            os.chmod(stack[-1], 0o700)
            with os.scandir(stack[-1]) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        below.append(entry.path)
                    else:
                        os.unlink(entry.path)
            if not below:
                os.rmdir(stack[-1])
        except OSError:
            return  # it goes with the workspace
        if below:
            stack += below
        else:
            stack.pop()


def main(argv: list[str]) -> int:
    """Run the command that the descriptors in ``argv`` describe; the status goes to STATUS."""
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    launcher = __import__("launcher")
    numbers = [int(each) for each in argv]
    for fd in numbers:
        os.set_inheritable(fd, False)
    spec_fd, filter_fd, control, status = numbers
    spec, program = Spec(launcher._read_all(spec_fd)), launcher._read_all(filter_fd)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    gate, gate_write = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            os.close(gate_write)
            _become_command(spec, program, parent, gate)
        except BaseException as why:
            os.write(status, f"error {why}\n".encode(errors="replace"))
        finally:
            os._exit(127)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if spec.held:
        os.write(status, f"child {child}\n".encode())
        if os.read(control, 1) == b"G":
            os.write(gate_write, b"G")
    os.close(gate_write)
    code = launcher._supervise(child, control, wake)
    _clean(spec)
    os.write(status, f"exit {137 if code is None else code}\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
