"""The contract of the sandbox port, second part: what is kept apart, and the limits."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from ghcoord.execution.process import Completed
from ghcoord.execution.sandbox.canaries import leaks, run_canaries
from ghcoord.execution.sandbox.landlock_launcher import SCOPES_ABI, landlock_abi
from ghcoord.model.limits import Limits
from ghcoord.testing.sandbox_contract import outside
from ghcoord.testing.sandbox_under_test import PROMPT, SandboxUnderTest, command_lines, survivors

MIB = 1024 * 1024

_PLACES = (
    "/",
    "/etc",
    "/usr",
    "/usr/local",
    "/usr/bin",
    "/var/tmp",
    "/tmp",
    "/dev",
    "/dev/shm",
    "/run",
    "/home",
    "/opt",
)

_REACH = """if True:
    import socket, sys
    for family, kind, address in (
        (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", int(sys.argv[1]))),
        (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", int(sys.argv[2]))),
        (socket.AF_UNIX, socket.SOCK_STREAM, "\\0" + sys.argv[3]),
        (socket.AF_UNIX, socket.SOCK_STREAM, sys.argv[4]),
    ):
        try:
            with socket.socket(family, kind) as made:
                made.settimeout(2)
                made.connect(address)
                made.send(b"escaped")
        except OSError as why:
            print(why)"""

_GROW = """if True:
    held = []
    for _ in range(40):
        held.append(bytearray(b"x") * (16 * 1024 * 1024))
    print("allocated")"""

_FORKS = """if True:
    import os, time
    started = 0
    for _ in range(200):
        try:
            if os.fork() == 0:
                time.sleep(30)
                os._exit(0)
        except OSError:
            break
        started += 1
    time.sleep(0.5)
    print("started", started)"""


class SandboxWalls:
    """What a driver keeps apart by its tier, and each limit by its support."""

    # -- files

    def test_nothing_else_can_be_written(self, bench: SandboxUnderTest) -> None:
        """Not the system's folders, nor a folder of the host that is open to everybody."""
        if not bench.confines:
            return
        name = f"ghcoord-escaped-{bench.runtime.randbits(60)}"
        places = [str(outside(bench)), str(bench.base), *_PLACES]
        bench.sh('name=$1; shift; for each; do : > "$each/$name"; mkdir "$each/$name.d"; done', name, *places)
        made = [path for place in places for end in ("", ".d") if (path := Path(place, name + end)).exists()]
        for path in made:
            path.rmdir() if path.is_dir() else path.unlink()
        assert [] == made
        secret = outside(bench) / "secret"
        bench.sh('echo x > "$1"; : >> "$1"; truncate -s 0 "$1"; rm -f "$1"; mv "$1" here; ln "$1" hard', str(secret))
        assert "not-to-be-seen" == secret.read_text()

    def test_nothing_else_can_be_read(self, bench: SandboxUnderTest) -> None:
        """Not a file open to everybody, not another workspace, neither by a link nor through /proc."""
        if not bench.confines:
            return
        other = bench.workspace()
        bench.sh("echo not-to-be-seen > secret; chmod 777 . ; chmod 666 secret", workspace=other)
        other.chmod(0o777)
        for path in (outside(bench) / "secret", other / "secret"):
            for where in (path, Path(f"/proc/1/root{path}"), Path(f"/proc/self/root{path}"), Path("/proc/1/cwd", path)):
                done = bench.sh('cat "$1"; ln -s "$1" link; cat link; cp "$1" copy; cat copy', str(where))
                assert "not-to-be-seen" not in done.stdout

    def test_files_of_root_cannot_be_read(self, bench: SandboxUnderTest) -> None:
        """With any driver: under root, a task is somebody else."""
        assert 0 != bench.sh("cat /etc/shadow").exit_code

    def test_the_workers_secrets_are_not_seen(self, bench: SandboxUnderTest) -> None:
        """Neither its variables nor its arguments, by no process that can be looked at."""
        if not bench.confines:
            return
        own = {
            f"{name}={value}" for name, value in os.environ.items() if len(value) > 8 and name not in ("PATH", "LANG")
        }
        done = bench.sh("cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'; :", cap=4 * MIB)
        assert set() == own & set(done.stdout.splitlines())

    def test_given_variables_do_not_show_outside(self, bench: SandboxUnderTest) -> None:
        """While the command runs, no command line of the machine holds the value of its variables."""
        secret, seen = f"secret-{bench.runtime.randbits(60)}", []
        bench.sh(
            '[ -n "$KEY" ] && echo ready && sleep 0.2',
            env={"KEY": secret},
            log=lambda stream, text: seen.append(secret.encode() in command_lines()),
        )
        assert [False] == seen

    def test_no_descriptor_reaches_the_command(self, bench: SandboxUnderTest) -> None:
        """It has its three streams."""
        code = """if True:
            import os
            def is_open(fd):
                try:
                    os.fstat(fd)
                except OSError:
                    return False
                return True
            print([fd for fd in range(1024) if is_open(fd)])"""
        with open("/etc/passwd", "rb") as held:
            os.set_inheritable(held.fileno(), True)
            assert "[0, 1, 2]\n" == bench.python(code).stdout

    def test_there_is_no_terminal(self, bench: SandboxUnderTest) -> None:
        """None to push input into."""
        assert 0 != bench.sh("exec 3<>/dev/tty").exit_code

    # -- network, processes, kernel

    def test_no_socket_of_the_host_can_be_reached(self, bench: SandboxUnderTest) -> None:
        """TCP and UDP on its loopback, abstract sockets and those in folders."""
        if not bench.confines:
            return
        name, path = f"ghcoord-{bench.runtime.randbits(60)}", outside(bench) / "s"
        with (
            socket.create_server(("127.0.0.1", 0)) as tcp,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            socket.socket(socket.AF_UNIX) as abstract,
            socket.socket(socket.AF_UNIX) as by_path,
        ):
            udp.bind(("127.0.0.1", 0))
            abstract.bind(f"\0{name}")
            by_path.bind(str(path))
            path.chmod(0o777)
            for each in (tcp, udp, abstract, by_path):
                each.setblocking(False)
            for each in (tcp, abstract, by_path):
                each.listen()
            done = bench.python(_REACH, str(tcp.getsockname()[1]), str(udp.getsockname()[1]), name, str(path))
            assert 0 == done.exit_code, done.stderr
            reached = [
                kind for kind, each in (("tcp", tcp), ("abstract", abstract), ("path", by_path)) if _accepts(each)
            ]
            assert [] == [*reached, *(["udp"] if _receives(udp) else [])]
        path.unlink()

    def test_the_canaries_are_held(self, bench: SandboxUnderTest) -> None:
        """All that the driver promises, as at the start of a worker."""
        if not bench.confines:
            return
        escaped, python = run_canaries(bench.sandbox, bench.runtime)
        assert (set(), True) == (leaks(bench.sandbox, escaped), python)

    def test_no_other_process_can_be_signalled(self, bench: SandboxUnderTest) -> None:
        """Not one of the worker's own user, where the kernel or the driver's namespaces keep signals inside."""
        if not bench.confines or (not bench.is_full and landlock_abi() < SCOPES_ABI):
            return
        neighbour = subprocess.Popen(["/bin/sleep", "60"])
        try:
            bench.sh('kill -TERM "$1"', str(neighbour.pid))
            with pytest.raises(subprocess.TimeoutExpired):
                neighbour.wait(0.2)
        finally:
            neighbour.kill()
            neighbour.wait()

    # -- limits

    def test_file_size(self, bench: SandboxUnderTest) -> None:
        """A file does not grow beyond its limit."""
        if bench.sandbox.limits.file_size == "none":
            return
        workspace = bench.workspace()
        done = bench.sh("head -c 5000000 /dev/zero > big", limits=Limits(file_mb=1), workspace=workspace)
        assert 0 != done.exit_code
        assert MIB == (workspace / "big").stat().st_size

    def test_memory(self, bench: SandboxUnderTest) -> None:
        """A command that takes ten times what it may does not get it, and it is said why."""
        if bench.sandbox.limits.memory == "none":
            return
        done = bench.python(_GROW, limits=Limits(memory_mb=64))
        assert "allocated" not in done.stdout
        assert done.stopped == "memory" or (bench.sandbox.limits.memory == "hard" and done.exit_code != 0)

    def test_memory_within_the_limit(self, bench: SandboxUnderTest) -> None:
        """One that stays below is left alone."""
        done = bench.python(_GROW, limits=Limits(memory_mb=1024))
        assert (0, "allocated\n", "") == (done.exit_code, done.stdout, done.stopped)

    def test_processes(self, bench: SandboxUnderTest) -> None:
        """More than are allowed cannot be started, or end it."""
        if bench.sandbox.limits.processes == "none":
            return
        done = bench.python(_FORKS, limits=Limits(processes=20), timeout=20.0)
        assert done.stopped == "processes" or _number(done) <= 20

    def test_processes_within_the_limit(self, bench: SandboxUnderTest) -> None:
        """What is allowed can be started."""
        code = "import os, time\nfor _ in range(8):\n  if os.fork() == 0: time.sleep(0.3); os._exit(0)\nprint('all')"
        done = bench.python(code, limits=Limits(processes=12))
        assert (0, "all\n") == (done.exit_code, done.stdout), done.stderr

    def test_cpu_time(self, bench: SandboxUnderTest) -> None:
        """A loop without end is ended."""
        if bench.sandbox.limits.cpu == "none":
            return
        done = bench.sh("while :; do :; done", limits=Limits(cpu_seconds=0.5), timeout=30.0)
        assert "cpu" == done.stopped

    def test_cpu_time_of_many(self, bench: SandboxUnderTest) -> None:
        """Shared among processes, it is as much."""
        if bench.sandbox.limits.cpu == "none":
            return
        script = 'for _ in 1 2 3 4; do sh -c "while :; do :; done" & done; wait'
        assert "cpu" == bench.sh(script, limits=Limits(cpu_seconds=0.8), timeout=30.0).stopped

    def test_workspace_size(self, bench: SandboxUnderTest) -> None:
        """Many files together count as one large one does."""
        if bench.sandbox.limits.workspace == "none":
            return
        script = "for n in $(seq 120); do head -c 1000000 /dev/zero > $n; sleep 0.01; done; echo filled"
        done = bench.sh(script, limits=Limits(workspace_mb=8), timeout=30.0)
        assert "workspace" == done.stopped
        assert "filled" not in done.stdout

    def test_wall_time(self, bench: SandboxUnderTest) -> None:
        """The limit of a call's time is one more timeout."""
        started = bench.runtime.monotonic()
        assert "timeout" == bench.sh("sleep 60", limits=Limits(timeout=0.3)).stopped
        assert bench.runtime.monotonic() - started < PROMPT

    def test_kept_output(self, bench: SandboxUnderTest) -> None:
        """No more than the limit of output is kept."""
        done = bench.sh("head -c 100000 /dev/zero | tr '\\0' x", limits=Limits(output_kb=4))
        assert done.truncated
        assert len(done.stdout) < 5000

    def test_limits_end_the_whole_tree(self, bench: SandboxUnderTest) -> None:
        """What passes a limit leaves nothing behind."""
        marker = bench.marker()
        script = 'setsid sleep "$1" & head -c 50000000 /dev/zero > big; sleep "$1"'
        done = bench.sh(script, marker, limits=Limits(workspace_mb=8), timeout=20.0)
        assert done.stopped in ("workspace", "timeout")
        assert not done.leftover
        assert [] == survivors(marker)


def _accepts(listener: socket.socket) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def _receives(receiver: socket.socket) -> bool:
    try:
        receiver.recv(16)
    except BlockingIOError:
        return False
    return True


def _number(done: Completed) -> int:
    words = done.stdout.split()
    return int(words[1]) if words[:1] == ["started"] else 0
