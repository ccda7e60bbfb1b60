"""Which system calls a sandboxed command may make: a seccomp filter, assembled here.

A list of what is refused, each with the error that makes programs fall back or
say why.  A program of another architecture is killed, as its calls have other
numbers.  Calls that are newer than this list do not exist for the command.

The filter is classic BPF over ``struct seccomp_data``: every block below ends
in a verdict, so the accumulator holds the number of the call wherever a block
begins.  Only the low word of an argument is looked at where the kernel itself
takes 32 bits or fewer.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ghcoord.errors import SandboxError
from ghcoord.execution.sandbox import syscalls_aarch64, syscalls_x86_64

MACHINES = {
    "x86_64": (syscalls_x86_64.AUDIT_ARCH, syscalls_x86_64.NUMBERS),
    "aarch64": (syscalls_aarch64.AUDIT_ARCH, syscalls_aarch64.NUMBERS),
}
"""The architectures that have a table, as ``uname -m`` names them."""

NEWEST = 462
"""``mseal`` of Linux 6.10, the last call that was looked at; numbers are the same everywhere from 424 on."""

X32 = 0x40000000
"""On x86_64 the bit of a call's number that selects the x32 interface."""

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000

NAMESPACES = 0x7E020000
"""``CLONE_NEW…`` of all namespaces but that of time, which only unshare and clone3 make."""

NEW_TIME = 0x80

_REFUSED = {
    errno.EPERM: """
        ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_getfd setns
        bpf perf_event_open userfaultfd fanotify_init keyctl add_key request_key
        mount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr
        name_to_handle_at open_by_handle_at quotactl quotactl_fd swapon swapoff
        kexec_load kexec_file_load init_module finit_module delete_module
        create_module get_kernel_syms query_module reboot acct syslog
        settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname
        iopl ioperm modify_ldt vhangup move_pages migrate_pages
    """.split(),
    errno.ENOSYS: """
        clone3 io_uring_setup io_uring_enter io_uring_register memfd_secret
        lookup_dcookie nfsservctl uselib ustat sysfs _sysctl
    """.split(),
}
"""Refused whatever the arguments; ENOSYS where programs have another way, as glibc has ``clone`` for ``clone3``."""

_OF_HOST = ("mq_open", "mq_unlink", "inotify_init", "inotify_init1")
_OF_PROCESSES = ("prlimit64", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler")
"""Their first argument is a process; 0 is the caller."""

_UNCOUNTED = ("memfd_create", "shmget", "msgget", "semget")

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_STREAM_OR_DATAGRAM = (1, 2)
_CONNECTED_FOR_EVER = (1, 5)  # a pair of datagram sockets can still send to, and connect to, any other
_INTERNET_PROTOCOLS = (0, 1, 6, 17, 58)  # by default, ICMP, TCP, UDP, ICMPv6
_NETLINK_ROUTE = 0
_TERMINAL_COMMANDS = (0x5412, 0x541C, 0x541D, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD
_PERSONALITIES = (0xFFFFFFFF, 0)  # reading it, and the plain one
_PAGE_OUT = 21  # MADV_PAGEOUT: memory in swap is not resident
_DEVICES = (0x2000, 0x6000)

_Instruction = tuple[int, int, int, int]
_LD, _AND, _JEQ, _JGE, _JSET, _RET = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06


@dataclass(frozen=True, slots=True)
class Policy:
    """What differs between drivers.

    ``network``: sockets of the internet families, for a command in a network
    namespace of its own.  ``unix``: sockets of AF_UNIX by ``socket``;
    ``socketpair`` makes them always, of datagrams only with this.  ``uncounted_memory``: memory that no look
    at processes and their file systems finds (memfd, System V IPC, what is put
    into swap on purpose), which only a cgroup counts.  ``apart``: namespaces
    keep the host's processes, files and message queues out of sight; without
    them, what changes other processes of the same user is refused, and to watch
    folders, which needs no file to be opened.
    """

    network: bool = True
    unix: bool = True
    uncounted_memory: bool = True
    apart: bool = True


@lru_cache
def filter_bytes(policy: Policy, machine: str | None = None) -> bytes:
    """The filter, as ``bwrap --seccomp`` and ``seccomp(2)`` take it; ``machine`` is this one's unless given.

    Raises :class:`SandboxError` for an architecture without a table.
    """
    machine = machine or platform.machine()
    if machine not in MACHINES:
        raise SandboxError(f"there is no system call filter for {machine}: only for {' and '.join(MACHINES)}")
    return b"".join(struct.pack("=HBBI", *each) for each in _program(policy, machine))


def _program(policy: Policy, machine: str) -> list[_Instruction]:
    arch, numbers = MACHINES[machine]
    program = [(_LD, 0, 0, 4), (_JEQ, 1, 0, arch), (_RET, 0, 0, KILL), (_LD, 0, 0, 0)]
    if machine == "x86_64":
        program += [(_JGE, 0, 1, X32), (_RET, 0, 0, KILL)]
    program += [(_JGE, 0, 1, NEWEST + 1), _error(errno.ENOSYS)]
    blocks: dict[str, list[_Instruction]] = {
        name: [_error(number)] for number, names in _REFUSED.items() for name in names
    }
    blocks |= _blocks_by_argument(policy)
    if not policy.apart:
        blocks |= _blocks_of_processes()
    if not policy.uncounted_memory:
        blocks |= {name: [_error(errno.ENOSYS)] for name in _UNCOUNTED}
        blocks["madvise"] = _if_in(2, (_PAGE_OUT,), [_error(errno.EINVAL)], [(_RET, 0, 0, ALLOW)])
    for name, block in blocks.items():
        if name in numbers:
            program += [(_JEQ, 0, len(block), numbers[name]), *block]
    return [*program, (_RET, 0, 0, ALLOW)]


def _blocks_by_argument(policy: Policy) -> dict[str, list[_Instruction]]:
    allow, refuse = [(_RET, 0, 0, ALLOW)], [_error(errno.EPERM)]
    no_family = [_error(errno.EAFNOSUPPORT)]
    internet = _if_in(1, _STREAM_OR_DATAGRAM, _if_in(2, _INTERNET_PROTOCOLS, allow, no_family), no_family, mask=0xF)
    families: list[_Instruction] = no_family
    if policy.network:
        families = _if_in(0, (_AF_NETLINK,), _if_in(2, (_NETLINK_ROUTE,), allow, no_family), families)
        families = _if_in(0, (_AF_INET, _AF_INET6), internet, families)
    pairs = allow
    if policy.unix:
        families = _if_in(0, (_AF_UNIX,), allow, families)
    else:
        pairs = _if_in(1, _CONNECTED_FOR_EVER, allow, no_family, mask=0xF)
    return {
        "clone": [_argument(0), (_JSET, 0, 1, NAMESPACES), *refuse, *allow],
        "unshare": [_argument(0), (_JSET, 0, 1, NAMESPACES | NEW_TIME), *refuse, *allow],
        "socket": families,
        "socketpair": _if_in(0, (_AF_UNIX,), pairs, no_family),
        "ioctl": _if_in(1, _TERMINAL_COMMANDS, refuse, allow),
        "personality": _if_in(0, _PERSONALITIES, allow, refuse),
        "mknod": _if_in(1, _DEVICES, refuse, allow, mask=0xF000),
        "mknodat": _if_in(2, _DEVICES, refuse, allow, mask=0xF000),
    }


def _blocks_of_processes() -> dict[str, list[_Instruction]]:
    allow, refuse = [(_RET, 0, 0, ALLOW)], [_error(errno.EPERM)]
    own = _if_in(0, (0,), allow, refuse)
    # Of a process or a group, the caller's; never of all that a user has.
    return {
        **{name: [_error(errno.ENOSYS)] for name in _OF_HOST},
        **dict.fromkeys(_OF_PROCESSES, own),
        "setpriority": _if_in(0, (0, 1), _if_in(1, (0,), allow, refuse), refuse),
        "ioprio_set": _if_in(0, (1, 2), _if_in(1, (0,), allow, refuse), refuse),
    }


def _if_in(
    argument: int,
    values: Sequence[int],
    then: list[_Instruction],
    otherwise: list[_Instruction],
    *,
    mask: int | None = None,
) -> list[_Instruction]:
    """``then`` when the argument is one of ``values``; both end in a verdict."""
    tests = [(_JEQ, len(values) - 1 - at, 0, value) for at, value in enumerate(values)]
    code, _, _, last = tests.pop()
    tests.append((code, 0, len(then), last))
    masking = [] if mask is None else [(_AND, 0, 0, mask)]
    return [_argument(argument), *masking, *tests, *then, *otherwise]


def _argument(number: int) -> _Instruction:
    return (_LD, 0, 0, 16 + 8 * number)


def _error(number: int) -> _Instruction:
    return (_RET, 0, 0, ERRNO | number)
