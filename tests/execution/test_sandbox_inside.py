"""What a command may do to the sandbox itself: its first process, its limits, its set-up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ghcoord.clock import SystemRuntime
from ghcoord.execution import process
from ghcoord.execution.process import Completed
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.execution.sandbox.job import Job
from ghcoord.execution.sandbox.orphans import end_orphans
from ghcoord.model.limits import Limits
from tests.processes import matching, until

RUNTIME = SystemRuntime()
AS_ROOT = os.geteuid() == 0


def run(sandbox: Sandbox, workspace: Path, argv: list[str], **limits: int) -> Completed:
    """Run ``argv`` under limits by name."""
    return process.run(sandbox, argv, workspace=workspace, runtime=RUNTIME, limits=Limits.model_validate(limits))


_FIRST_PROCESS = r"""
import ctypes, os, signal, sys
first = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
status = dict(line.split(":\t", 1) for line in open(f"/proc/{first}/status").read().splitlines() if ":\t" in line)
print("capabilities", status["CapPrm"], status["CapBnd"])
print("filter", status["Seccomp"])
print("traced", libc.ptrace(0x4206, first, 0, 0) == 0)
print("taken", libc.syscall(438, os.pidfd_open(first), 0, 0) >= 0)
os.kill(first, signal.SIGSTOP)
os.kill(first, signal.SIGKILL)
for name in sorted(os.listdir(f"/proc/{first}/fd")):
    try: print("file", os.readlink(f"/proc/{first}/fd/{name}").partition(":")[0])
    except OSError: print("file hidden")
sys.exit(7)
"""


def test_the_first_process_inside_is_worth_nothing(bwrap: Sandbox, workspace: Path) -> None:
    """Bubblewrap's own process, which the command may read, has no right and no file that the command has not.

    It cannot be traced, stopped or ended, so the exit code is the command's own.
    """
    assert bwrap.python is not None
    done = run(bwrap, workspace, [bwrap.python, "-c", _FIRST_PROCESS, "1"])
    lines = done.stdout.splitlines()
    none = "0" * 16
    assert 7 == done.exit_code, done
    assert [f"capabilities {none} {none}", "filter 2", "traced False", "taken False"] == lines[:4]
    # Its streams, and the event by which it tells the exit: that cannot be opened again from its name.
    assert {"file /dev/null", "file pipe", "file anon_inode"} >= set(lines[4:]), lines
    with subprocess.Popen(["/bin/sleep", "30"]) as victim:
        argv = [sys.executable, "-c", _FIRST_PROCESS, str(victim.pid)]
        free = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert 0 > victim.wait(5)
    assert {"filter 0", "traced True", "taken True"} <= set(free.stdout.splitlines()), free


_RAISING = """
import resource
for name in ("NPROC", "NOFILE", "CORE", "FSIZE", "CPU"):
    which = getattr(resource, f"RLIMIT_{name}")
    soft, hard = resource.getrlimit(which)
    for wanted in (hard + 1, resource.RLIM_INFINITY):
        try:
            resource.setrlimit(which, (wanted, wanted))
            print(name, "raised")
        except (ValueError, OSError):
            print(name, hard)
"""


def test_limits_cannot_be_raised_from_within(bwrap: Sandbox, workspace: Path) -> None:
    """Each limit that the kernel keeps is the most that there is, for any process of the command."""
    assert bwrap.python is not None
    done = run(bwrap, workspace, [bwrap.python, "-c", _RAISING], processes=10, file_mb=1, cpu_seconds=4)
    wanted = {"NPROC 11", "NOFILE 4096", "CORE 0", f"FSIZE {1024 * 1024}", "CPU 6"}
    assert wanted == set(done.stdout.splitlines()), done.stderr


def test_one_process_is_enough_for_a_command(bwrap: Sandbox, workspace: Path) -> None:
    """The sandbox's own process is not counted, and with a limit of one nothing more can be started."""
    assert 0 == run(bwrap, workspace, ["/bin/true"], processes=1).exit_code
    assert 0 != run(bwrap, workspace, ["/bin/sh", "-c", "/bin/true; exit $?"], processes=1).exit_code
    assert 0 == run(bwrap, workspace, ["/bin/sh", "-c", "/bin/true; exit $?"], processes=2).exit_code


def test_file_systems_in_memory_are_no_larger_than_memory(bwrap: Sandbox, workspace: Path) -> None:
    """A small limit of memory makes /tmp and /dev/shm small."""
    done = run(bwrap, workspace, ["/bin/sh", "-c", "stat -f -c '%b %S' /tmp /dev/shm"], memory_mb=32)
    sizes = [int(blocks) * int(size) for blocks, size in map(str.split, done.stdout.splitlines())]
    assert [32 * 1024 * 1024] * 2 == sizes


def test_a_setuid_program_gains_nothing(bwrap: Sandbox, workspace: Path) -> None:
    """A program of another user with the bit set, in the workspace, runs as who starts it."""
    program = workspace / "who"
    shutil.copy("/usr/bin/id", program)
    if AS_ROOT:
        os.chown(program, 0, 0)
        program.chmod(0o6755)
        workspace.chmod(0o755)
        free = subprocess.run([program, "-u"], user=65533, group=65533, capture_output=True, check=True)
        assert b"0\n" == free.stdout
    program.chmod(0o6755)
    assert "1000\n" == run(bwrap, workspace, ["/workspace/who", "-u"]).stdout


def test_the_kernel_ends_a_command_before_its_worker(bwrap: Sandbox, workspace: Path) -> None:
    """When the machine has no memory left, a command goes first."""
    assert "1000\n" == run(bwrap, workspace, ["/bin/cat", "/proc/self/oom_score_adj"]).stdout


def test_a_sandbox_without_its_worker_never_starts_the_command(bwrap: Sandbox, workspace: Path) -> None:
    """Set up for a worker that is dead already, bubblewrap waits for ever and is ended as a leftover."""
    marker = f"300.{RUNTIME.randbits(50)}"
    launch = bwrap.command(Job(["/bin/sleep", marker], workspace))
    become = launch.identity
    parent = subprocess.Popen(
        ["/bin/sh", "-c", '"$@" & echo $!', "sh", *launch.argv],
        env=dict(launch.env),
        pass_fds=launch.pass_fds,
        stdout=subprocess.PIPE,
        user=become.uid if become else None,
        group=become.gid if become else None,
        extra_groups=[] if become else None,
    )
    assert parent.stdout is not None
    outer = int(parent.stdout.readline())
    parent.stdout.close()
    parent.wait(5)
    for fd in launch.pass_fds:
        os.close(fd)
    children = Path(f"/proc/{outer}/task/{outer}/children")
    until(lambda: children.read_text().strip(), 5)
    launch.close()
    RUNTIME.sleep(0.2)
    assert not matching(f"/bin/sleep {marker}$")
    end_orphans()  # another test's worker may have been faster
    until(lambda: not matching(marker), 5)
