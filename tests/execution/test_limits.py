"""Each limit of a command is kept, whatever the command does to get around it. Real processes throughout."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import SandboxError, UsageError
from ghcoord.execution import process
from ghcoord.execution.process import Completed
from ghcoord.execution.sandbox.base import Sandbox, check_mounts, current_identity
from ghcoord.execution.sandbox.job import LimitSupport, Mount
from ghcoord.execution.sandbox.none import NoSandbox
from ghcoord.model.limits import Limits

RUNTIME = SystemRuntime()

Run = Callable[..., Completed]


def runner(sandbox: Sandbox, workspace: Path) -> Run:
    """Run Python code or, with ``shell``, a shell command, with limits by name."""

    def run(code: str, *, shell: bool = False, options: dict[str, Any] | None = None, **limits: object) -> Completed:
        argv = ["/bin/sh", "-c", code] if shell else [str(sandbox.python), "-c", code]
        given = Limits.model_validate(limits)
        return process.run(
            sandbox, argv, workspace=workspace, runtime=RUNTIME, limits=given, timeout=20.0, **(options or {})
        )

    return run


@pytest.fixture
def run(sandbox: Sandbox, workspace: Path) -> Run:
    """As :func:`runner`, under each driver."""
    return runner(sandbox, workspace)


@pytest.fixture
def boxed(bwrap: Sandbox, workspace: Path) -> Run:
    """As :func:`runner`, under bubblewrap."""
    return runner(bwrap, workspace)


def some(cases: dict[str, str], *fast: str) -> list[object]:
    """Names of cases, those that are not ``fast`` for the slow run."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in cases]


MEMORY_BOMBS = {
    "one process": "parts = []\nwhile True: parts.append(b'x' * 4_000_000)",
    "many processes": (
        "import os, time\n"
        "for _ in range(9):\n"
        "    if os.fork() == 0:\n"
        "        keep = b'x' * 20_000_000; time.sleep(30)\n"
        "time.sleep(30)"
    ),
    "shared between processes": (
        "import mmap, os\npage = mmap.mmap(-1, 400_000_000)\n"
        "for at in range(0, 400_000_000, 4096): page[at] = 1\nimport time; time.sleep(30)"
    ),
    "orphans": (
        "import os, time\n"
        "for _ in range(9):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork() == 0: keep = b'x' * 20_000_000; time.sleep(30)\n"
        "        os._exit(0)\n"
        "time.sleep(30)"
    ),
}


@pytest.mark.parametrize("bomb", some(MEMORY_BOMBS, "one process", "shared between processes"))
def test_memory_is_bounded(run: Run, bomb: str) -> None:
    """A tree that takes more than its memory is ended, soon after it passed the limit, and nothing of it is left."""
    done = run(MEMORY_BOMBS[bomb], memory_mb=100)
    assert ("memory", None, False) == (done.stopped, done.exit_code, done.leftover)
    assert done.usage.memory_mb is not None
    assert 50 < done.usage.memory_mb < 1500  # how far it comes between two looks depends on what else runs


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
def test_files_in_memory_count(boxed: Run, folder: str) -> None:
    """What a command writes to the file systems in memory is its memory, mapped by nobody."""
    code = (
        f"import time\nkeep = b'x' * 60_000_000\n"
        f"with open('{folder}/big', 'wb') as file:\n    for _ in range(59): file.write(b'x' * 1_000_000)\n"
        "time.sleep(30)"
    )
    assert "memory" == boxed(code, memory_mb=100).stopped


@pytest.mark.slow
def test_a_million_empty_files_in_memory_count(boxed: Run) -> None:
    """Names without content cost the kernel memory too."""
    code = "for n in range(10_000_000): open(f'/tmp/{n}', 'w').close()"
    assert "memory" == boxed(code, memory_mb=50).stopped


def test_pages_that_are_shared_count_once(run: Run) -> None:
    """Eight processes that share 60 MB stay within 200 MB, as they do in truth, mapped files in memory included."""
    code = (
        "import os, time\nkeep = b'x' * 40_000_000\n"
        "import mmap\n"
        "with open('/dev/shm/part', 'w+b') as file:\n"
        "    file.truncate(40_000_000); page = mmap.mmap(file.fileno(), 40_000_000)\n"
        "os.unlink('/dev/shm/part')\n"
        "for at in range(0, 40_000_000, 4096): page[at] = 1\n"
        "children = []\n"
        "for _ in range(8):\n"
        "    pid = os.fork()\n"
        "    if pid == 0: sum(page[::4096]); time.sleep(0.3); os._exit(0)\n"
        "    children.append(pid)\n"
        "for each in children: os.waitpid(each, 0)\n"
        "print('done')"
    )
    done = run(code, memory_mb=200)
    assert ("", "done\n") == (done.stopped, done.stdout), done


def test_processes_are_bounded(sandbox: Sandbox, run: Run) -> None:
    """A fork bomb meets an error where the kernel keeps the limit, and its end where it is watched."""
    code = (
        "import os, time\nmade = 0\n"
        "try:\n"
        "    while made < 300:\n"
        "        if os.fork() == 0: time.sleep(2); os._exit(0)\n"
        "        made += 1\n"
        "except BlockingIOError: print('refused after', made, flush=True); os._exit(0)\n"
        "time.sleep(30)"
    )
    done = run(code, processes=40)
    if sandbox.limits.processes == "hard":
        assert ("", "refused after 39\n") == (done.stopped, done.stdout), done
    else:
        assert "processes" == done.stopped


def test_threads_count_as_processes(sandbox: Sandbox, run: Run) -> None:
    """A thread is one more, as the kernel counts."""
    code = (
        "import threading, time\nmade = 0\n"
        "try:\n"
        "    for made in range(200): threading.Thread(target=time.sleep, args=(5,), daemon=True).start()\n"
        "except RuntimeError: print('refused after', made, flush=True)\n"
        "else: time.sleep(30)"
    )
    done = run(code, processes=30)
    if sandbox.limits.processes == "hard":
        assert ("", "refused after 29\n") == (done.stopped, done.stdout), done
    else:
        assert "processes" == done.stopped


@pytest.mark.slow
def test_the_processes_of_another_command_do_not_count(boxed: Run) -> None:
    """Two commands at the same time each have all of their processes."""
    code = "import os, time\nfor _ in range(15):\n    if os.fork() == 0: time.sleep(0.5); os._exit(0)\nos.wait()"
    found: list[Completed] = []
    threads = [threading.Thread(target=lambda: found.append(boxed(code, processes=20))) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [0, 0, 0] == [each.exit_code for each in found], found


CPU_BURNERS = {
    "one process": "while True: pass",
    "two processes": "import os\nos.fork()\nwhile True: pass",
    "short-lived children": (
        "import os, time\n"
        "while True:\n"
        "    if os.fork() == 0:\n"
        "        end = time.process_time() + 0.05\n"
        "        while time.process_time() < end: pass\n"
        "        os._exit(0)\n"
        "    os.wait()"
    ),
    "children that nobody waits for": (
        "import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "while True:\n"
        "    if os.fork() == 0:\n"
        "        end = time.process_time() + 0.3\n"
        "        while time.process_time() < end: pass\n"
        "        os._exit(0)\n"
        "    time.sleep(0.3)"
    ),
}


@pytest.mark.parametrize("burner", some(CPU_BURNERS, "short-lived children"))
def test_cpu_time_is_summed_over_the_tree(run: Run, burner: str) -> None:
    """However the work is spread over processes, its sum ends the command."""
    began = time.monotonic()
    done = run(CPU_BURNERS[burner], cpu_seconds=0.5)
    assert ("cpu", None) == (done.stopped, done.exit_code)
    assert done.usage.cpu_seconds is not None
    assert 0.5 <= done.usage.cpu_seconds < 1.5
    assert time.monotonic() - began < 8.0


def test_sleeping_costs_no_cpu_time(run: Run) -> None:
    """Waiting is free."""
    assert 0 == run("sleep 0.4", shell=True, cpu_seconds=0.2).exit_code


def test_a_file_may_grow_to_its_limit(run: Run) -> None:
    """The write that would make a file larger than allowed fails with its signal."""
    done = run("head -c 3000000 /dev/zero > big; echo $?; stat -c %s big", shell=True, file_mb=1)
    assert f"{128 + 25}\n{1024 * 1024}\n" == done.stdout


def test_no_core_is_dumped_and_descriptors_are_bounded(run: Run) -> None:
    """Whatever the worker's own limits are."""
    assert "0 0 1024 4096" == run("echo $(ulimit -Sc; ulimit -Hc; ulimit -Sn; ulimit -Hn)", shell=True).stdout.strip()


WORKSPACE_BOMBS = {
    "one file": "head -c 100000000 /dev/zero > big; sleep 20",
    "many files": ("i=0; while [ $i -lt 100 ]; do head -c 1000000 /dev/zero > f$i; i=$((i+1)); done; sleep 20"),
    "hidden in folders": "mkdir -p a/b/.c; head -c 100000000 /dev/zero > a/b/.c/big; sleep 20",
    "deleted and still open": "exec 3> big; rm big; head -c 100000000 /dev/zero >&3; sleep 20",
    "in a closed folder": "mkdir a; cd a; head -c 100000000 /dev/zero > big; cd ..; chmod 0 a; sleep 20",
    "very deep": "i=0; while [ $i -lt 150 ]; do mkdir d; cd -P d; i=$((i+1)); done; sleep 20",
}


@pytest.mark.parametrize("bomb", some(WORKSPACE_BOMBS, "deleted and still open", "in a closed folder"))
def test_the_workspace_is_bounded(run: Run, bomb: str) -> None:
    """What fills the workspace is ended soon after it passed the limit."""
    began = time.monotonic()
    done = run(WORKSPACE_BOMBS[bomb], shell=True, workspace_mb=20)
    assert ("workspace", None) == (done.stopped, done.exit_code)
    assert time.monotonic() - began < 10.0


@pytest.mark.slow
def test_empty_files_fill_the_workspace(boxed: Run) -> None:
    """A name costs something, or a million of them would cost nothing."""
    assert "workspace" == boxed("for n in range(10**7): open(f'{n}', 'w').close()", workspace_mb=1).stopped


def test_links_out_of_the_workspace_do_not_count(boxed: Run, workspace: Path) -> None:
    """A link to a full disk is as small as it is, and a file with two names counts once."""
    (workspace / "usr").symlink_to("/usr")
    done = boxed("head -c 12000000 /dev/zero > a; ln a b; ln a c; sleep 0.4", shell=True, workspace_mb=20)
    assert ("", 0) == (done.stopped, done.exit_code)
    assert done.usage.disk_mb is not None
    assert 11 < done.usage.disk_mb < 13


def test_a_sparse_file_counts_what_it_takes(boxed: Run) -> None:
    """Size without content is no disk space."""
    assert 0 == boxed("truncate -s 1G sparse; sleep 0.4", shell=True, workspace_mb=20).exit_code


@pytest.mark.slow
def test_an_overfull_workspace_can_be_cleared_and_not_filled(run: Run, workspace: Path) -> None:
    """A command that finds the workspace over its limit may remove files, not add more."""
    (workspace / "big").write_bytes(b"x" * 30_000_000)
    assert "workspace" == run("head -c 10000000 /dev/zero > more; sleep 20", shell=True, workspace_mb=20).stopped
    (workspace / "more").unlink()
    assert 0 == run("sleep 0.4; rm -f big; sleep 0.4", shell=True, workspace_mb=20).exit_code


def test_usage_is_reported(run: Run) -> None:
    """A command under limits says what it used."""
    code = (
        "import time\nkeep = b'x' * 50_000_000\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    )
    usage = run(code, memory_mb=1000, workspace_mb=100, processes=50).usage
    assert usage.memory_mb is not None
    assert usage.cpu_seconds is not None
    assert 50 < usage.memory_mb < 120
    assert 0.1 <= usage.cpu_seconds < 1.0
    assert usage.processes in (1, 2)


def test_cpu_time_is_known_without_limits(workspace: Path) -> None:
    """Where the first process waits for all others the kernel tells it at the end."""
    run = runner(NoSandbox(current_identity()), workspace)
    code = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    assert 0.2 <= (run(code).usage.cpu_seconds or 0.0) < 1.0


def test_the_limits_timeout_and_output_are_kept(run: Run) -> None:
    """The nearer of two timeouts counts, and so does the smaller of two caps."""
    done = run("echo ready; sleep 20", shell=True, timeout=0.3, options={"grace": 0.1})
    assert ("timeout", "ready\n") == (done.stopped, done.stdout)
    done = run("head -c 100000 /dev/zero | tr '\\0' x", shell=True, output_kb=1)
    assert done.truncated
    assert len(done.stdout) < 1100
    assert not run("head -c 500000 /dev/zero | tr '\\0' x", shell=True, output_kb=1000).truncated


def test_limits_cost_no_thread(sandbox: Sandbox, run: Run) -> None:
    """Watching is done by the thread that waits for the command."""
    before = threading.active_count()
    seen: list[int] = []
    options = {"cancelled": lambda: seen.append(threading.active_count())}
    run("sleep 0.3", shell=True, memory_mb=100, workspace_mb=10, cpu_seconds=5, processes=20, options=options)
    assert {before} == set(seen)


# -- mounts and input


def test_a_mount_is_seen_and_not_written(sandbox: Sandbox, workspace: Path) -> None:
    """A folder, a file and a socket of the host are there by name, in the way that was asked for."""
    outside = workspace.parent / "outside"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    (outside / "given").write_text("from the host")
    (outside / "given").chmod(0o644)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(outside / "door"))
        (outside / "door").chmod(0o666)
        listener.listen()
        mounts = (
            Mount(outside, "folder", writable=True),
            Mount(outside, "shown"),
            Mount(outside / "given", "file.txt"),
            Mount(outside / "door", "door"),
        )
        places = [sandbox.where(workspace, each) for each in mounts]
        code = (
            "import socket, sys\nwritable, shown, file, door = sys.argv[1:]\n"
            "print(open(file).read(), open(shown + '/given').read())\n"
            "open(writable + '/made', 'w').write('x')\n"
            "try: open(shown + '/other', 'w'); print('wrote')\n"
            "except OSError: print('refused')\n"
            "s = socket.socket(socket.AF_UNIX); s.connect(door); print('connected')"
        )
        argv = [str(sandbox.python), "-c", code, *places]
        done = process.run(sandbox, argv, workspace=workspace, runtime=RUNTIME, mounts=mounts)
    written = "refused" if sandbox.name == "bwrap" else "wrote"  # none keeps nothing apart
    assert f"from the host from the host\n{written}\nconnected\n" == done.stdout, done.stderr
    assert (outside / "made").exists()


def test_a_mount_from_a_closed_folder_is_staged(bwrap: Sandbox, workspace: Path, tmp_path: Path) -> None:
    """Root's tasks see a file whose folder they could not enter."""
    (tmp_path / "given").write_text("from the host")
    mount = Mount(tmp_path / "given", "given")
    argv = ["/bin/cat", bwrap.where(workspace, mount)]
    done = process.run(bwrap, argv, workspace=workspace, runtime=RUNTIME, mounts=(mount,))
    assert (0, "from the host") == (done.exit_code, done.stdout), done.stderr


@pytest.mark.parametrize("names", [["../x"], ["a/b"], [""], [".."], ["a", "a"], ["a\n"]])
def test_names_of_mounts_are_checked(names: list[str]) -> None:
    """A name is one plain component, once."""
    with pytest.raises(UsageError):
        check_mounts([Mount(Path("/usr"), name) for name in names])


def test_a_mount_that_is_missing_is_a_sandbox_error(bwrap: Sandbox, workspace: Path) -> None:
    """The command does not start without it."""
    mount = Mount(workspace / "missing", "missing")
    with pytest.raises(SandboxError):
        process.run(bwrap, ["/bin/true"], workspace=workspace, runtime=RUNTIME, mounts=(mount,))


def test_input_from_a_descriptor(sandbox: Sandbox, workspace: Path) -> None:
    """A stream of any length comes from the caller's other end, and the given end is closed whatever happens."""
    read, write = os.pipe()

    def feed() -> None:
        with open(write, "wb") as file:
            for _ in range(50):
                file.write(b"x" * 100_000)

    thread = threading.Thread(target=feed)
    thread.start()
    done = process.run(
        sandbox, ["/bin/sh", "-c", "wc -c < /dev/stdin"], workspace=workspace, runtime=RUNTIME, stdin_fd=read
    )
    thread.join()
    assert "5000000" == done.stdout.strip(), done.stderr
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read)
    read, write = os.pipe()
    os.close(write)
    with pytest.raises(UsageError):
        process.run(sandbox, [], workspace=workspace, runtime=RUNTIME, stdin_fd=read)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read)


def test_what_is_kept_is_told(bwrap: Sandbox) -> None:
    """A worker's record can say how each limit is kept."""
    assert "hard" == bwrap.limits.processes
    assert bwrap.limits is bwrap.limits
    assert {"memory", "processes", "cpu", "file_size", "workspace", "by"} == set(LimitSupport().summary())
    assert "soft" == NoSandbox(None).limits.processes
