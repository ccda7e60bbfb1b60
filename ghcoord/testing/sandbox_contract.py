"""The contract of the sandbox port, as tests that every driver must pass.

A driver's test file subclasses :class:`SandboxContract` (and
:class:`ghcoord.testing.sandbox_walls.SandboxWalls`) and provides the fixture
``bench``.  Every test takes the bench alone, so that the same methods can be
run by hand against a driver that is wrong on purpose.  What is asked depends on
the driver's tier and on how it says that it keeps each limit.
"""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from ghcoord.errors import SandboxError, UsageError
from ghcoord.execution.sandbox.base import MAX_STRING, MAX_STRINGS
from ghcoord.execution.sandbox.job import Job, Mount
from ghcoord.model.limits import Limits
from ghcoord.model.tier import check_tier
from ghcoord.testing.sandbox_under_test import PROMPT, SandboxUnderTest, open_descriptors, survivors
from ghcoord.testing.under_test import in_threads

__all__ = ["SandboxContract", "SandboxUnderTest"]

_USUAL = {"PATH", "HOME", "LANG", "TMPDIR", "PWD", "SHLVL", "_", "OLDPWD", "HOSTNAME", "VIRTUAL_ENV", "container"}
_AWKWARD = ("", " ", "ünïcødé ✓ 世界 🦄", "a'b\"c\\d", "two\nlines", "$HOME `id` $(id)", "-n", "*", "\ttab", "a=b")

_DAEMONS = """
setsid sh -c 'trap "" TERM HUP INT; sleep "$1"' sh "$1" >/dev/null 2>&1 &
(setsid setsid sleep "$1" >/dev/null 2>&1 &)
nohup sleep "$1" >/dev/null 2>&1 &
sh -c 'trap "" TERM; sleep "$1"; sleep "$1"' sh "$1" &
"""


class SandboxContract:
    """What every driver promises about a command's life."""

    # -- what it says of itself

    def test_it_says_what_it_is(self, bench: SandboxUnderTest) -> None:
        """The tier is one that there is, and each limit is hard, soft or none, by something."""
        sandbox = bench.sandbox
        assert sandbox.name
        assert sandbox.tier == check_tier(sandbox.tier)
        said = sandbox.limits.summary()
        assert {"hard", "soft", "none"} >= {value for name, value in said.items() if name != "by"}
        assert said["by"]
        if os.geteuid() == 0:
            assert sandbox.identity is not None, "a root worker's tasks are another user's"

    # -- streams and codes

    def test_stdout_and_stderr_stay_apart(self, bench: SandboxUnderTest) -> None:
        """Each stream arrives whole, in the right place, and as it comes in the log."""
        logged: list[tuple[str, str]] = []
        done = bench.sh("echo out; echo err >&2; printf end", log=lambda stream, text: logged.append((stream, text)))
        assert (0, "out\nend", "err\n", "") == (done.exit_code, done.stdout, done.stderr, done.stopped)
        for name, text in (("stdout", "out\nend"), ("stderr", "err\n")):
            assert text == "".join(part for stream, part in logged if stream == name)

    def test_stdin_reaches_the_command(self, bench: SandboxUnderTest) -> None:
        """All bytes, any values, then the end of the file; nothing given is an empty input."""
        content = bytes(range(256)) * 4096
        done = bench.sh("cat > got; cat", stdin=content, workspace=(workspace := bench.workspace()))
        assert 0 == done.exit_code
        assert content == (workspace / "got").read_bytes()
        assert "" == bench.sh("cat").stdout

    def test_stdin_that_nobody_reads(self, bench: SandboxUnderTest) -> None:
        """More than a pipe holds, to a command that ends without reading it."""
        assert 7 == bench.sh("exit 7", stdin=b"x" * 1_000_000).exit_code

    def test_stdin_from_a_descriptor(self, bench: SandboxUnderTest) -> None:
        """A pipe's end is the command's input, and is closed here afterwards."""
        ours, theirs = os.pipe()
        os.write(theirs, b"through a pipe")
        os.close(theirs)
        assert "through a pipe" == bench.sh("cat", stdin_fd=ours).stdout
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(ours)

    @pytest.mark.parametrize("code", [0, 1, 2, 3, 100, 125, 126, 127, 128, 200, 255])
    def test_exit_codes(self, bench: SandboxUnderTest, code: int) -> None:
        """Whatever the command ends with is its exit code; none means that the sandbox failed."""
        assert code == bench.sh(f"exit {code}").exit_code

    @pytest.mark.parametrize(("name", "number"), [("KILL", 9), ("TERM", 15), ("SEGV", 11), ("ABRT", 6)])
    def test_signals(self, bench: SandboxUnderTest, name: str, number: int) -> None:
        """A command that a signal ended has 128 more than its number."""
        assert 128 + number == bench.sh(f"kill -{name} $$; sleep 5").exit_code

    def test_arguments_are_passed_as_they_are(self, bench: SandboxUnderTest) -> None:
        """Empty ones, blanks, quotes, line breaks and what is not ASCII."""
        done = bench.sh('for each; do printf "%s\\0" "$each"; done', *_AWKWARD)
        assert [*_AWKWARD, ""] == done.stdout.split("\0")

    def test_arguments_that_cannot_be_passed(self, bench: SandboxUnderTest) -> None:
        """Too long, too many or with a NUL: refused with a sentence, and nothing is started."""
        workspace = bench.workspace()
        for argv in (
            ["/bin/sh", "-c", ": > ran", "x" * (MAX_STRING + 1)],
            ["/bin/sh", "-c", ": > ran", *["y" * 100_000] * (MAX_STRINGS // 100_000 + 1)],
            ["/bin/sh", "-c", ": > ran", "a\0b"],
            [],
        ):
            with pytest.raises(UsageError):
                bench.run(argv, workspace=workspace)
        for env in ({"A B": "x"}, {"A": "x\0y"}, {"A": "x" * (MAX_STRING + 1)}):
            with pytest.raises(UsageError):
                bench.sh(": > ran", env=env, workspace=workspace)
        assert not (workspace / "ran").exists()

    def test_arguments_as_long_as_can_be(self, bench: SandboxUnderTest) -> None:
        """100 KB in one argument, and in one variable."""
        done = bench.sh('printf "%s%s" "$1" "$LONG" | wc -c', "x" * 100_000, env={"LONG": "y" * 100_000})
        assert 200_000 == int(done.stdout)

    def test_binary_output(self, bench: SandboxUnderTest) -> None:
        """Bytes that are no text are replaced; what is text around them stays."""
        done = bench.sh("printf 'before\\377\\000\\300after'")
        assert "before\ufffd\0\ufffdafter" == done.stdout

    def test_a_flood_of_output(self, bench: SandboxUnderTest) -> None:
        """Of 30 MB on both streams the first and the last bytes are kept, and the command ends as if all were read."""
        script = "echo first; head -c 30000000 /dev/zero; echo last; head -c 30000000 /dev/zero >&2; exit 3"
        done = bench.sh(script, cap=10_000)
        assert (3, True) == (done.exit_code, done.truncated)
        assert done.stdout.startswith("first\n")
        assert done.stdout.endswith("last\n")
        assert len(done.stdout) < 11_000
        assert len(done.stderr) < 11_000

    # -- surroundings

    def test_the_environment_is_only_what_is_given(self, bench: SandboxUnderTest) -> None:
        """PATH, HOME, LANG, TMPDIR and what the job says; nothing of this process's own."""
        names = set(os.environ) - _USUAL - bench.known
        assert names, "this process has no variable that could be passed on"
        given = {"GIVEN": "äöü = $HOME", "PLAIN": "1", "EMPTY": "", "LINES": "a\nb"}
        done = bench.sh("env -0", env=given)
        seen = dict(each.split("=", 1) for each in done.stdout.split("\0") if each)
        assert given.items() <= seen.items()
        assert {"PATH", "HOME", "LANG", "TMPDIR"} <= set(seen)
        assert set() == set(seen) - _USUAL - bench.known - set(given)

    def test_the_workspace_is_where_it_starts(self, bench: SandboxUnderTest) -> None:
        """It is the current folder and HOME, its path inside is the one that is said, and it is private outside."""
        workspace = bench.workspace()
        workspace.chmod(0o777)
        (workspace / "before").write_text("there")
        done = bench.sh('pwd; echo "$HOME"; cat before; mkdir -p a/b; echo kept > a/b/file', workspace=workspace)
        inside = bench.sandbox.inside(workspace)
        assert f"{inside}\n{inside}\nthere" == done.stdout
        assert "kept\n" == (workspace / "a/b/file").read_text()
        info, made = workspace.stat(), (workspace / "a/b/file").stat()
        wanted = bench.sandbox.identity.uid if bench.sandbox.identity else os.geteuid()
        assert (0o700, wanted, wanted) == (stat.S_IMODE(info.st_mode), info.st_uid, made.st_uid)

    def test_files_can_be_used_in_every_way(self, bench: SandboxUnderTest) -> None:
        """Renamed over folders, linked, truncated, made executable and run, removed."""
        script = """set -e
        mkdir one two; echo 123456 > one/file; mv one/file two/file; ln -s file two/soft; ln two/file two/hard
        truncate -s 3 two/file; test "$(cat two/soft two/hard)" = 123123; mkfifo pipe; rm pipe two/hard
        printf '#!/bin/sh\\necho ran\\n' > program; chmod 755 program; ./program; rm -r one two program"""
        workspace = bench.workspace()
        done = bench.sh(script, workspace=workspace)
        assert (0, "ran\n", "") == (done.exit_code, done.stdout, done.stderr)
        assert [] == list(workspace.iterdir())

    def test_devices_are_there(self, bench: SandboxUnderTest) -> None:
        """/dev/null, zero and urandom, and the three streams by their names."""
        script = (
            "echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; echo err > /dev/stderr"
        )
        done = bench.sh(script)
        assert (0, ["3", "3"], "err\n") == (done.exit_code, done.stdout.split(), done.stderr)

    def test_temporary_files(self, bench: SandboxUnderTest) -> None:
        """TMPDIR can be written; where files are kept apart, what was in it is gone with the command."""
        workspace = bench.workspace()
        done = bench.sh('f=$(mktemp) && echo kept > "$f" && cat "$f" && rm "$f"', workspace=workspace)
        assert "kept\n" == done.stdout, done.stderr
        if bench.confines:
            script = 'cd "$TMPDIR" && mkdir -p a/b && echo x > a/b/file && ln -s /etc link && chmod 0 a'
            assert 0 == bench.sh(script, workspace=workspace).exit_code
            assert [] == list(workspace.iterdir())
            assert "" == bench.sh('ls -A "$TMPDIR"', workspace=workspace).stdout

    def test_python_works(self, bench: SandboxUnderTest) -> None:
        """With its standard library and extension modules, threads, processes and temporary files."""
        code = """if True:
            import ctypes, hashlib, json, sqlite3, ssl, subprocess, sys, tempfile, threading
            thread = threading.Thread(target=print, args=("in a thread",)); thread.start(); thread.join()
            subprocess.run([sys.executable, "-c", "print('in a process')"], check=True)
            with tempfile.NamedTemporaryFile() as file: file.write(b"x")
            print(sqlite3.connect(":memory:").execute("select 1").fetchall())"""
        done = bench.run([bench.sandbox.python or "", "-u", "-c", code])
        assert "in a thread\nin a process\n[(1,)]\n" == done.stdout, done.stderr

    def test_mounts(self, bench: SandboxUnderTest) -> None:
        """A folder and a file of the host are seen where it is said, to be read; a writable one can be written."""
        shared, file, open_to = bench.base / "shared", bench.base / "file.txt", bench.base / "open"
        for folder in (shared, open_to):
            folder.mkdir()
        (shared / "inner").write_text("of a folder")
        file.write_text("of a file")
        shared.chmod(0o777)
        open_to.chmod(0o777)
        mounts = (Mount(shared, "shared"), Mount(file, "file"), Mount(open_to, "open", writable=True))
        workspace = bench.workspace()
        where = [bench.sandbox.where(workspace, each) for each in mounts]
        script = 'cat "$1/inner" "$2"; echo escaped > "$1/new"; echo escaped > "$2"; echo written > "$3/new"'
        done = bench.sh(script, *where, workspace=workspace, mounts=mounts)
        assert "of a folderof a file" == done.stdout, done.stderr
        assert "written\n" == (open_to / "new").read_text()
        if bench.confines:
            assert ["inner"] == [each.name for each in shared.iterdir()]
            assert "of a file" == file.read_text()

    def test_mounts_with_bad_names(self, bench: SandboxUnderTest) -> None:
        """Names that are no single component, or are there twice, are refused."""
        for names in (["../x"], ["a/b"], [""], ["."], ["same", "same"]):
            with pytest.raises(UsageError):
                bench.sh(":", mounts=tuple(Mount(bench.base, name) for name in names))

    # -- ends

    def test_nothing_is_left_of_a_command_that_ended(self, bench: SandboxUnderTest) -> None:
        """Daemons with sessions of their own end with it."""
        marker = bench.marker()
        done = bench.sh(_DAEMONS + "exit 4", marker)
        assert (4, False) == (done.exit_code, done.leftover)
        assert [] == survivors(marker)

    def test_a_timeout_ends_the_whole_tree(self, bench: SandboxUnderTest) -> None:
        """Also what ignores SIGTERM and what has its own session, and soon."""
        marker, started = bench.marker(), bench.runtime.monotonic()
        done = bench.sh(_DAEMONS + 'echo started; sleep "$1"', marker, timeout=1.0)
        assert (None, "timeout", "started\n") == (done.exit_code, done.stopped, done.stdout)
        assert not done.leftover
        assert bench.runtime.monotonic() - started < PROMPT
        assert [] == survivors(marker)

    def test_cancelling_ends_the_whole_tree(self, bench: SandboxUnderTest) -> None:
        """As soon as it is asked for."""
        marker, seen = bench.marker(), threading.Event()
        done = bench.sh(
            _DAEMONS + 'echo started; sleep "$1"', marker, cancelled=seen.is_set, log=lambda stream, text: seen.set()
        )
        assert (None, "cancelled") == (done.exit_code, done.stopped)
        assert not done.leftover
        assert [] == survivors(marker)

    def test_a_command_may_end_well_when_asked_to(self, bench: SandboxUnderTest) -> None:
        """SIGTERM comes first, and there is time to answer it."""
        script = "trap 'echo saved; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
        seen = threading.Event()
        done = bench.sh(script, cancelled=seen.is_set, grace=10.0, log=lambda stream, text: seen.set())
        assert ("cancelled", "ready\nsaved\n") == (done.stopped, done.stdout)

    def test_an_error_in_the_worker_ends_the_command(self, bench: SandboxUnderTest) -> None:
        """What a log raises comes through, and nothing is left."""
        marker = bench.marker()

        def fail(stream: str, text: str) -> None:
            raise RuntimeError("of the log")

        with pytest.raises(RuntimeError, match="of the log"):
            bench.sh('echo x; sleep "$1"', marker, log=fail)
        assert [] == survivors(marker)

    def test_no_descriptor_is_left_open(self, bench: SandboxUnderTest) -> None:
        """Not after commands that end, fail, are stopped or never start."""
        bench.sh(":")
        before = open_descriptors()
        bench.sh(":", stdin=b"x", limits=Limits(memory_mb=512, workspace_mb=64))
        bench.sh("sleep 60", timeout=0.3)
        with pytest.raises(SandboxError):
            bench.run(["/bin/true"], workspace=bench.base / "missing")
        with pytest.raises(UsageError):
            bench.sh("x" * (MAX_STRING + 1))
        assert before == open_descriptors()

    # -- failures

    def test_a_workspace_that_cannot_be_used(self, bench: SandboxUnderTest) -> None:
        """Missing, a file, or a link to elsewhere: the sandbox's failure, and nothing is touched through the link."""
        (bench.base / "plain").write_text("x")
        target = bench.workspace()
        target.chmod(0o755)
        (bench.base / "link").symlink_to(target)
        for name in ("missing", "plain", "link"):
            with pytest.raises(SandboxError):
                bench.run(["/bin/true"], workspace=bench.base / name)
        assert 0o755 == stat.S_IMODE(target.stat().st_mode)

    def test_a_program_that_is_not_there(self, bench: SandboxUnderTest) -> None:
        """Never a success, and never taken for the command's own failure without a word."""
        try:
            done = bench.run(["/no/such/program"])
        except SandboxError as why:
            code, said = 127, why.message
        else:
            code, said = done.exit_code or 0, done.stderr
        assert 127 == code
        assert "No such file" in said or "not found" in said

    def test_a_launch_that_is_never_started(self, bench: SandboxUnderTest) -> None:
        """Closing it lets go of everything."""
        before = open_descriptors()
        launch = bench.sandbox.command(Job(["/bin/true"], bench.workspace()))
        for fd in launch.pass_fds:
            os.close(fd)
        launch.close()
        assert before == open_descriptors()

    # -- together

    def test_many_at_a_time(self, bench: SandboxUnderTest) -> None:
        """Commands in parallel, in one workspace and in others, each get their own input, output and code."""
        shared = bench.workspace()

        def one(number: int) -> None:
            workspace = shared if number % 2 else bench.workspace()
            for turn in range(3):
                script = f'echo "$TMPDIR" > "$TMPDIR/{number}"; cat; cat "$TMPDIR/{number}" >&2; exit {number + turn}'
                done = bench.sh(script, stdin=f"{number} {turn}".encode(), workspace=workspace)
                assert (number + turn, f"{number} {turn}") == (done.exit_code, done.stdout), done.stderr

        in_threads(*(lambda number=number: one(number) for number in range(6)))

    def test_many_after_each_other(self, bench: SandboxUnderTest) -> None:
        """In one workspace; files stay, processes do not."""
        workspace, marker = bench.workspace(), bench.marker()
        for number in range(8):
            assert 0 == bench.sh('echo $2 >> log; sleep "$1" &', marker, str(number), workspace=workspace).exit_code
        assert [str(number) for number in range(8)] == (workspace / "log").read_text().split()
        assert [] == survivors(marker)


def outside(bench: SandboxUnderTest) -> Path:
    """A folder of the host beside the workspaces, open to everybody, with a secret that everybody may read."""
    folder = bench.base / "outside"
    if not folder.exists():
        folder.mkdir()
        (folder / "secret").write_text("not-to-be-seen")
        (folder / "secret").chmod(0o666)
        folder.chmod(0o777)
    return folder
