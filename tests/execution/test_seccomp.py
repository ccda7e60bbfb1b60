"""The system call filter: as a program, against libseccomp's tables, and on real processes."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import json
import os
import platform
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import SandboxError
from ghcoord.execution import process
from ghcoord.execution.sandbox.base import Sandbox, system_python
from ghcoord.execution.sandbox.seccomp import ALLOW, ERRNO, KILL, MACHINES, NEWEST, X32, Policy, filter_bytes
from ghcoord.model.limits import Limits

RUNTIME = SystemRuntime()

BY_ARGUMENT = {"clone", "unshare", "socket", "socketpair", "ioctl", "personality", "mknod", "mknodat", "madvise"}
MEMORY = {"memfd_create", "shmget", "msgget", "semget"}
MISSING = {
    *("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register", "memfd_secret"),
    *("lookup_dcookie", "nfsservctl", "uselib", "ustat", "sysfs", "_sysctl"),
}
OTHERS = {
    *("mq_open", "mq_unlink", "prlimit64", "sched_setaffinity", "sched_setattr", "sched_setparam"),
    *("sched_setscheduler", "setpriority", "ioprio_set", "inotify_init", "inotify_init1"),
}
"""Calls to other processes, message queues and watched folders: refused to a command without namespaces of its own."""


def evaluate(program: bytes, arch: int, number: int, *args: int) -> int:
    """What the kernel would answer: classic BPF over ``struct seccomp_data``."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *args, *[0] * (6 - len(args)))
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at = value = 0
    for _ in range(len(code)):
        what, if_true, if_false, k = code[at]
        at += 1
        if what == 0x20:
            (value,) = struct.unpack_from("=I", data, k)
        elif what == 0x54:
            value &= k
        elif what == 0x06:
            return int(k)
        else:
            test = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[what]
            at += if_true if test else if_false
    raise AssertionError("the program has no end")


def refused(number: int) -> int:
    """The filter's answer that makes the call fail with this error."""
    return ERRNO | number


@pytest.fixture(params=sorted(MACHINES))
def machine(request: pytest.FixtureRequest) -> str:
    """Each architecture in turn."""
    return str(request.param)


def answer(machine: str, name: str, *args: int, policy: Policy | None = None) -> int:
    """What the filter says to a call by its name."""
    arch, numbers = MACHINES[machine]
    return evaluate(filter_bytes(policy or Policy(), machine), arch, numbers[name], *args)


def test_the_tables_are_libseccomps(machine: str) -> None:
    """Every number of both tables is the one that libseccomp's resolver gives, and every name that it has is there."""
    found = ctypes.util.find_library("seccomp")
    if found is None:
        if os.environ.get("GHCOORD_CI"):
            pytest.fail("CI needs libseccomp2 to check the tables")
        pytest.skip("libseccomp2 is not installed")
    resolve = ctypes.CDLL(found).seccomp_syscall_resolve_name_arch
    resolve.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    arch, numbers = MACHINES[machine]
    every = {name for _, table in MACHINES.values() for name in table}
    resolved = {name: resolve(arch, name.encode()) for name in every}
    assert {name: number for name, number in resolved.items() if number >= 0} == numbers


def test_what_is_refused_and_nothing_else(machine: str) -> None:
    """Over all numbers: the table's calls have their error, those that depend on arguments pass here, others pass."""
    arch, numbers = MACHINES[machine]
    names = {number: name for name, number in numbers.items()}
    program = filter_bytes(Policy(), machine)
    harmless = {"socket": (1, 1), "socketpair": (1, 1), "ioctl": (0, 0x5401)}
    for number in range(NEWEST + 1):
        name = names.get(number, "")
        free = not name or name in BY_ARGUMENT | MEMORY | OTHERS
        expected = ALLOW if free else refused(errno.ENOSYS if name in MISSING else errno.EPERM)
        assert expected == evaluate(program, arch, number, *harmless.get(name, ())), name or number


def test_without_namespaces_other_processes_cannot_be_changed(machine: str) -> None:
    """Limits, priorities and processors of the caller alone; no message queue, which would be the host's."""
    policy = Policy(apart=False)
    for name in ("prlimit64", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler"):
        assert ALLOW == answer(machine, name, 0, policy=policy)
        assert refused(errno.EPERM) == answer(machine, name, 4711, policy=policy)
    for name, kinds in (("setpriority", (0, 1, 2)), ("ioprio_set", (1, 2, 3))):
        of_user = kinds[-1]
        for kind in kinds:
            own = refused(errno.EPERM) if kind == of_user else ALLOW
            assert [own, refused(errno.EPERM)] == [answer(machine, name, kind, who, policy=policy) for who in (0, 4711)]
    for name in ("mq_open", "inotify_init1"):
        assert refused(errno.ENOSYS) == answer(machine, name, policy=policy)


def test_newer_calls_do_not_exist(machine: str) -> None:
    """What the list does not know yet is unknown to the command too."""
    arch, _ = MACHINES[machine]
    for number in (NEWEST + 1, 467, 600, 100_000):
        assert refused(errno.ENOSYS) == evaluate(filter_bytes(Policy(), machine), arch, number)


def test_other_architectures_are_killed(machine: str) -> None:
    """A 32-bit program, another machine's, and on x86_64 the x32 numbers end the process."""
    program = filter_bytes(Policy(), machine)
    foreign = [0x40000003, 0x40000028, *(arch for name, (arch, _) in MACHINES.items() if name != machine)]
    assert {KILL} == {evaluate(program, arch, 1) for arch in foreign}
    if machine == "x86_64":
        assert KILL == evaluate(program, MACHINES[machine][0], X32 | 101)


def test_an_unknown_machine_has_no_filter() -> None:
    """Rather none than one with wrong numbers."""
    with pytest.raises(SandboxError, match="no system call filter for riscv64"):
        filter_bytes(Policy(), "riscv64")


@pytest.mark.parametrize("flag", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000])
def test_no_namespace_is_made(machine: str, flag: int) -> None:
    """clone and unshare make no namespace; threads and processes they make."""
    for name in ("clone", "unshare"):
        assert refused(errno.EPERM) == answer(machine, name, flag | 17)
        assert ALLOW == answer(machine, name, 0x3D0F00)  # what glibc starts a thread with
    assert refused(errno.EPERM) == answer(machine, "unshare", 0x80)
    assert ALLOW == answer(machine, "clone", 0x80 | 17)


@pytest.mark.parametrize(
    ("args", "allowed"),
    [
        ((1, 1, 0), {"network", "local", "unix"}),
        ((1, 2 | 0o2000000, 0), {"network", "local", "unix"}),
        ((2, 1, 0), {"network"}),
        ((2, 1 | 0o4000, 6), {"network"}),
        ((10, 2, 17), {"network"}),
        ((10, 2, 58), {"network"}),
        ((2, 3, 1), set()),  # raw
        ((2, 5, 0), set()),  # SCTP
        ((2, 1, 132), set()),  # SCTP again
        ((2, 1, 262), set()),  # MPTCP
        ((16, 3, 0), {"network"}),  # netlink, for the list of interfaces
        ((16, 3, 12), set()),  # netfilter
        ((16, 3, 16), set()),  # generic netlink
        ((17, 3, 0), set()),  # packet
        ((38, 5, 0), set()),  # AF_ALG
        ((40, 1, 0), set()),  # vsock
        ((44, 2, 0), set()),  # XDP
        ((30, 5, 0), set()),  # TIPC
        ((1 << 32 | 40, 1, 0), set()),
    ],
)
def test_sockets_of_few_families(machine: str, args: tuple[int, ...], allowed: set[str]) -> None:
    """Only what a network namespace covers; without one only AF_UNIX, or nothing."""
    policies = {"network": Policy(), "local": Policy(network=False), "none": Policy(network=False, unix=False)}
    for name, policy in policies.items():
        expected = ALLOW if name in allowed else refused(errno.EAFNOSUPPORT)
        assert expected == answer(machine, "socket", *args, policy=policy)
    for kind, alone in [(1, ALLOW), (5 | 0o2000000, ALLOW), (2, refused(errno.EAFNOSUPPORT))]:
        assert ALLOW == answer(machine, "socketpair", 1, kind, policy=policies["local"])
        assert alone == answer(machine, "socketpair", 1, kind, policy=policies["none"])
    assert refused(errno.EAFNOSUPPORT) == answer(machine, "socketpair", 30, 1)


def test_devices_terminals_and_personalities(machine: str) -> None:
    """No device node, no input pushed into a terminal, no other personality; pipes, files and reading pass."""
    mode_at = {"mknod": (0,), "mknodat": (0, 0)}
    for name in mode_at.keys() & MACHINES[machine][1].keys():
        for mode, expected in [(0o20600, errno.EPERM), (0o60600, errno.EPERM), (0o10600, 0), (0o100600, 0)]:
            assert (refused(expected) if expected else ALLOW) == answer(machine, name, *mode_at[name], mode)
    for command, expected in [(0x5412, errno.EPERM), (0x541C, errno.EPERM), (0x5413, 0)]:
        for word in (command, 1 << 32 | command):  # the kernel takes 32 bits
            assert (refused(expected) if expected else ALLOW) == answer(machine, "ioctl", 0, word)
    assert ALLOW == answer(machine, "personality", 0xFFFFFFFF)
    assert refused(errno.EPERM) == answer(machine, "personality", 0x0040000)


def test_memory_that_nobody_counts(machine: str) -> None:
    """Where no cgroup counts it, memory outside of processes and file systems is not to be had."""
    for name in MEMORY:
        assert ALLOW == answer(machine, name)
        assert refused(errno.ENOSYS) == answer(machine, name, policy=Policy(uncounted_memory=False))
    page_out, free = (0, 4096, 21), (0, 4096, 8)
    assert ALLOW == answer(machine, "madvise", *page_out)
    assert refused(errno.EINVAL) == answer(machine, "madvise", *page_out, policy=Policy(uncounted_memory=False))
    assert ALLOW == answer(machine, "madvise", *free, policy=Policy(uncounted_memory=False))


_ATTEMPTS = r"""
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
numbers = json.loads(sys.argv[1])
def call(name, *args):
    # in a child: some of it changes or ends the process when it works
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        ctypes.set_errno(0)
        result = libc.syscall(ctypes.c_long(numbers[name]), *[ctypes.c_long(each) for each in args])
        os.write(write, str(ctypes.get_errno() if result == -1 else 0).encode())
        os._exit(0)
    os.close(write)
    said = os.read(read, 100)
    os.close(read)
    os.waitpid(pid, 0)
    return errno.errorcode.get(int(said or -1), "ok") if said != b"0" else "ok"
buffer = ctypes.addressof(ctypes.create_string_buffer(4096))
tries = {
    "ptrace": (0,), "process_vm_readv": (os.getpid(), 0, 0, 0, 0, 0), "process_vm_writev": (os.getpid(), 0, 0, 0, 0, 0),
    "kcmp": (os.getpid(), os.getpid(), 1, 0, 0), "pidfd_getfd": (-1, 0, 0), "setns": (-1, 0), "clone3": (0, 0),
    "clone": (0x10000000 | 17,), "unshare": (0x10000000,), "io_uring_setup": (0, 0), "keyctl": (0, -2, 1),
    "add_key": (0, 0, 0, 0, 0), "request_key": (0, 0, 0, 0), "bpf": (0, 0, 0), "perf_event_open": (0, 0, 0, 0, 0),
    "userfaultfd": (1,), "fanotify_init": (0xffff, 0), "personality": (0x40000,), "name_to_handle_at": (-1, 0, 0, 0, 0),
    "mount": (0, 0, 0, 0, 0), "umount2": (0, 0), "pivot_root": (0, 0), "chroot": (0,), "open_tree": (-1, 0, 0xffff),
    "move_mount": (-1, 0, -1, 0, 0), "fsopen": (0, 0), "fsmount": (-1, 0, 0), "fspick": (-1, 0, 0),
    "mount_setattr": (-1, 0, 0, 0, 0), "open_by_handle_at": (-1, 0, 0), "quotactl": (0, 0, 0, 0), "swapon": (0, 0),
    "swapoff": (0,), "kexec_load": (0, 99, 0, 0), "init_module": (0, 0, 0), "finit_module": (-1, 0, 0),
    "delete_module": (0, 0), "reboot": (0, 0, 0, 0), "syslog": (99, 0, 0), "settimeofday": (1, 0),
    "clock_settime": (99, 0), "clock_adjtime": (99, 0), "adjtimex": (0,), "sethostname": (0, -1),
    "socket": (40, 1, 0), "socketpair": (38, 5, 0, buffer), "mknodat": (-100, buffer, 0o20600, 0x103),
    "ioctl": (0, 0x5412, 0), "memfd_create": (buffer, 0), "shmget": (0x7FFF1234, 0, 0), "msgget": (0x7FFF1234, 0),
    "semget": (0x7FFF1234, 0, 0), "memfd_secret": (0xffff,),
}
print(json.dumps({name: call(name, *args) for name, args in tries.items() if name in numbers}))
"""

_EXPECTED = {
    **dict.fromkeys(MISSING | MEMORY, "ENOSYS"),
    **dict.fromkeys(("socket", "socketpair"), "EAFNOSUPPORT"),
}


@pytest.mark.skipif(platform.machine() not in MACHINES, reason="no table for this machine")
def test_each_call_is_refused_to_a_command(bwrap: Sandbox, workspace: Path) -> None:
    """In the sandbox every attempt has the filter's error; without it most have another answer, as any user."""
    numbers = MACHINES[platform.machine()][1]
    assert bwrap.python is not None
    argv = [bwrap.python, "-c", _ATTEMPTS, json.dumps(numbers)]
    limits = Limits(memory_mb=512)
    done = process.run(bwrap, argv, workspace=workspace, runtime=RUNTIME, limits=limits)
    assert 0 == done.exit_code, done.stderr
    inside = json.loads(done.stdout)
    if bwrap.limits.memory == "hard":
        inside = {name: said for name, said in inside.items() if name not in MEMORY}
    assert {name: _EXPECTED.get(name, "EPERM") for name in inside} == inside
    # The same attempts without a filter. They are made so that none does harm where it works.
    free = subprocess.run([sys.executable, *argv[1:]], capture_output=True, check=True, stdin=subprocess.DEVNULL)
    outside = json.loads(free.stdout)
    differing = {name for name in inside if outside[name] != inside[name]}
    assert {"ptrace", "process_vm_readv", "kcmp", "personality", "shmget"} <= differing
    if os.geteuid() == 0:
        assert len(differing) > len(inside) / 2, {name: outside[name] for name in inside}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86_64 machine code")
def test_the_32_bit_door_is_closed(bwrap: Sandbox, workspace: Path) -> None:
    """``int 0x80`` reaches the kernel by other numbers: the process is killed, not asked."""
    assert bwrap.python is not None
    code = (
        "import ctypes, mmap\n"
        "page = mmap.mmap(-1, 4096, prot=7)\n"
        "page.write(bytes.fromhex('b814000000' 'cd80' 'c3'))\n"  # mov eax, 20 (getpid); int 0x80; ret
        "address = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
        "print(ctypes.CFUNCTYPE(ctypes.c_int)(address)())"
    )
    done = process.run(bwrap, [bwrap.python, "-c", code], workspace=workspace, runtime=RUNTIME)
    assert (128 + 31, "") == (done.exit_code, done.stdout)
    free = subprocess.run([str(system_python() or sys.executable), "-c", code], capture_output=True, check=False)
    if free.returncode == 0:  # a kernel without IA32 emulation has no such door
        assert int(free.stdout) > 0


def test_threads_and_processes_still_work(bwrap: Sandbox, workspace: Path) -> None:
    """What programs need is there: threads by the fallback from clone3, processes, sockets, name look-ups."""
    assert bwrap.python is not None
    code = (
        "import threading, subprocess, socket, multiprocessing\n"
        "ran = []\n"
        "t = threading.Thread(target=lambda: ran.append(1)); t.start(); t.join()\n"
        "subprocess.run(['/bin/true'], check=True)\n"
        "socket.getaddrinfo('localhost', 80); socket.if_nameindex(); socket.socketpair()\n"
        "s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())\n"
        "p = multiprocessing.Process(target=print, args=('child',), kwargs={'flush': True}); p.start(); p.join()\n"
        "print(ran)"
    )
    done = process.run(bwrap, [bwrap.python, "-c", code], workspace=workspace, runtime=RUNTIME)
    assert (0, "child\n[1]\n") == (done.exit_code, done.stdout), done.stderr
