"""``ghcoord lock`` with --fair, --shared, --permits, --token and --paths, and its figures."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cli.running import Cli, command, environment
from tests.processes import until

pytestmark = pytest.mark.usefixtures("hub")


def waiting(cli: Cli) -> list[str]:
    """Who stands in the queue of x."""
    shown = cli("lock", "show", "x", "--json")
    return [one["owner"] for one in shown.json["waiters"]] if shown.code == 0 else []


def start(owner: str, *args: object) -> subprocess.Popen[str]:
    """A process that waits for x in its queue."""
    return subprocess.Popen(
        command("lock", "acquire", "x", "--owner", owner, "--fair", "--wait", "60s", "--json", *args),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


@pytest.mark.slow
def test_fair_is_first_come_first_served(cli: Cli) -> None:
    """Processes get it in the order in which they queued; nobody who does not queue gets past them."""
    cli("lock", "acquire", "x", "--owner", "holder")
    processes = []
    for number, owner in enumerate(("b", "a")):
        processes.append(start(owner))
        until(lambda number=number: len(waiting(cli)) > number)  # type: ignore[misc]
    assert ["b", "a"] == waiting(cli)
    shown = cli("lock", "show", "x").out
    assert "PLACE" in shown
    assert shown.index(" b ") < shown.index(" a ")
    refused = cli("lock", "acquire", "x", "--owner", "c")
    assert 4 == refused.code
    assert "2 wait in its queue" in refused.error
    cli("lock", "release", "x", "--owner", "holder")
    assert 0 == processes[0].wait(20)
    assert "b" == cli("lock", "show", "x", "--json").json["owner"]
    assert None is processes[1].poll()
    cli("lock", "release", "x", "--owner", "b")
    assert 0 == processes[1].wait(20)
    for process in processes:
        process.communicate()


def test_fair_needs_a_wait(cli: Cli) -> None:
    """--fair without --wait would mean nothing: it is a usage error, and so is what does not go together."""
    assert "how long to wait" in cli("lock", "acquire", "x", "--fair").error
    assert "either shared or has permits" in cli("lock", "acquire", "x", "--shared", "--permits", "2").error
    assert 2 == cli("lock", "acquire", "x", "--permits", "0").code
    assert "neither a queue nor permits" in cli("lock", "acquire", "--paths", "a", "--fair", "--wait", "1s").error
    assert "one of the two" in cli("lock", "acquire", "x", "--paths", "a").error
    assert 2 == cli("lock", "acquire").code


def test_a_wait_that_is_interrupted_leaves_the_queue(cli: Cli) -> None:
    """Ctrl-C gives up the place: 130, and nobody has to step over it."""
    cli("lock", "acquire", "x", "--owner", "holder")
    process = start("b")
    until(lambda: waiting(cli) == ["b"])
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert 130 == process.returncode
    assert [] == waiting(cli)


def test_permits(cli: Cli) -> None:
    """Two may hold it, the third exits 4; another number exits 2; each is released and forced by its token."""
    first, second = (cli("lock", "acquire", "x", "--owner", "a", "--permits", 2, "--json").json for _ in range(2))
    assert ("permit", 2) == (first["mode"], first["permits"])
    refused = cli("lock", "acquire", "x", "--owner", "b", "--permits", 2)
    assert 4 == refused.code
    assert "and 1 more" in refused.error
    assert "in use with 2 permits" in cli("lock", "acquire", "x", "--permits", 3).error
    assert 2 == len(cli("lock", "list", "--json").json)
    assert "1 of 2" in cli("lock", "list").out
    assert [first["token"], second["token"]] == [
        one["token"] for one in cli("lock", "show", "x", "--json").json["holders"]
    ]
    assert "name the token" in cli("lock", "release", "x", "--owner", "a").error
    assert 0 == cli("lock", "renew", "x", "--owner", "a", "--token", second["token"]).code
    assert 0 == cli("lock", "release", "x", "--owner", "a", "--token", first["token"]).code
    assert 3 == cli("lock", "force-unlock", "x", "--token", first["token"], "--yes").code
    assert (
        f"x taken from a (token {second['token']})\n"
        == cli("lock", "force-unlock", "x", "--token", second["token"], "--yes").out
    )


def test_shared(cli: Cli) -> None:
    """Readers hold it together; a writer is refused until all have gone."""
    for owner in ("a", "b"):
        assert "shared" in cli("lock", "acquire", "x", "--owner", owner, "--shared").out
    assert 4 == cli("lock", "acquire", "x", "--owner", "c").code
    for owner in ("a", "b"):
        assert 0 == cli("lock", "release", "x", "--owner", owner).code
    assert 0 == cli("lock", "acquire", "x", "--owner", "c").code
    assert 4 == cli("lock", "acquire", "x", "--owner", "a", "--shared").code


def test_entering_again(cli: Cli) -> None:
    """With the token the holder goes one deeper and releases as often, or with --all at once."""
    token = cli("lock", "acquire", "x", "--owner", "a", "--json").json["token"]
    assert 2 == cli("lock", "acquire", "x", "--owner", "a", "--token", token, "--json").json["depth"]
    assert "depth" in cli("lock", "show", "x").out
    assert 5 == cli("lock", "acquire", "x", "--owner", "a", "--token", 5).code
    assert 4 == cli("lock", "acquire", "x", "--owner", "b", "--token", token).code
    assert 2 == cli("lock", "acquire", "x", "--owner", "a", "--token", token, "--wait", "1s").code
    assert "x is still held, 1 deep\n" == cli("lock", "release", "x", "--owner", "a").out
    assert "x released\n" == cli("lock", "release", "x", "--owner", "a").out
    token = cli("lock", "acquire", "x", "--owner", "a", "--json").json["token"]
    cli("lock", "acquire", "x", "--owner", "a", "--token", token)
    assert "x released\n" == cli("lock", "release", "x", "--owner", "a", "--all").out


def test_paths(cli: Cli) -> None:
    """What overlaps is refused and shown, what does not is granted; released and forced by patterns."""
    taken = cli("lock", "acquire", "--paths", "src/**", "--paths", "README.md", "--owner", "a", "--json").json
    assert ["README.md", "src/**"] == taken["paths"]
    refused = cli("lock", "acquire", "--paths", "src/a.py", "--owner", "b")
    assert 4 == refused.code
    assert "the path lock 'src/a.py' is held by 'a' (on 'README.md src/**'" in refused.error
    assert 0 == cli("lock", "acquire", "--paths", "docs/**", "--owner", "b").code
    assert "paths, exclusive" in cli("lock", "list").out
    assert "a" == cli("lock", "show", "--paths", "**/x.py", "--json").json["owner"]
    assert 3 == cli("lock", "show", "--paths", "tests/**").code
    assert 2 == cli("lock", "acquire", "--paths", "/etc/passwd").code
    assert 0 == cli("lock", "renew", "--paths", "README.md", "--paths", "src/**", "--owner", "a").code
    assert 3 == cli("lock", "release", "--paths", "src/**", "--owner", "a").code
    assert 0 == cli("lock", "release", "--paths", "src/**", "--paths", "README.md", "--owner", "a").code
    assert "--yes" in cli("lock", "force-unlock", "--paths", "docs/a").error
    assert "docs/** taken from b" in cli("lock", "force-unlock", "--paths", "docs/a", "--yes").out
    assert "no locks\n" == cli("lock", "list").out


@pytest.mark.parametrize(
    "args",
    [
        ["--paths", "src/**", "--"],
        ["--paths", "src/**"],
        ["--paths=src/**", "--shared", "--ttl", "1m"],
    ],
)
def test_a_command_runs_under_paths(cli: Cli, args: list[str]) -> None:
    """With --paths there is no NAME: the first word is the command's."""
    assert 0 == cli("lock", "run", *args, "sh", "-c", 'echo "$GHCOORD_LOCK" > ran').code
    assert "src/**\n" == Path("ran").read_text()
    assert 3 == cli("lock", "show", "--paths", "src/a").code


def test_a_command_runs_under_every_kind_of_lock(cli: Cli) -> None:
    """The flags are passed on: beside another permit, beside a reader, in the queue; without a command is an error."""
    for name, flags in (("s", ["--permits", "2"]), ("r", ["--shared"])):
        cli("lock", "acquire", name, "--owner", "other", *flags)
        assert 0 == cli("lock", "run", name, *flags, "--", "true").code
        assert 0 != cli("lock", "run", name, "--", "true").code
    assert 0 == cli("lock", "run", "x", "--fair", "--wait", "5s", "--", "true").code
    assert "how long to wait" in cli("lock", "run", "x", "--fair", "--", "true").error
    for line in (["x"], ["--paths", "a"]):
        assert "say what to run" in cli("lock", "run", *line).error


def test_stats(cli: Cli) -> None:
    """Each lock with its figures; one alone in full; one that was never used exits 3."""
    assert "no lock was used in the last day\n" == cli("lock", "stats").out
    for _ in range(2):
        cli("lock", "acquire", "x", "--owner", "a")
        cli("lock", "release", "x", "--owner", "a")
    cli("lock", "acquire", "y", "--owner", "b")
    assert [("x", 2), ("y", 1)] == [(one["name"], one["acquisitions"]) for one in cli("lock", "stats", "--json").json]
    assert "LAST OWNER" in cli("lock", "stats").out
    assert "2 times, 0 after waiting" in cli("lock", "stats", "x").out
    assert "a" == cli("lock", "stats", "x", "--json").json["last_owner"]
    assert 3 == cli("lock", "stats", "z").code


def test_tables_are_narrow(cli: Cli) -> None:
    """80 columns hold every table of locks, also with long names of owners."""
    for owner in ("o" * 60, "p" * 60):
        cli("lock", "acquire", "deploy/production", "--owner", owner, "--shared")
    cli("lock", "acquire", "--paths", "src/**", "--owner", "o" * 60)
    for args in (("list",), ("show", "deploy/production"), ("stats",)):
        assert max(map(len, cli("lock", *args).out.splitlines())) <= 80, args


def test_many_locks_are_counted_before_they_end(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, releasing all and forcing several says how many and which, and a no changes nothing."""
    for name in ("x", "y"):
        cli("lock", "acquire", name, "--owner", "a", "--shared")
    cli("lock", "acquire", "x", "--owner", "b", "--shared")
    asked: list[str] = []

    def refuse(question: str, **how: object) -> bool:
        asked.append(question)
        return False

    monkeypatch.setattr("typer.confirm", refuse)
    terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("ghcoord.faces.cli.common.sys", terminal)
    assert 130 == cli("lock", "release", "--all", "--owner", "a").code
    assert 130 == cli("lock", "force-unlock", "x").code
    assert ["Release 2 locks (x by 'a', y by 'a') of 'a'?", "End 2 locks (x by 'a', x by 'b'), each of 'x'?"] == asked
    assert 3 == len(cli("lock", "list", "--json").json)
    assert 0 == cli("lock", "release", "--all", "--owner", "a", "--yes").code
    assert ["b"] == [lock["owner"] for lock in cli("lock", "list", "--json").json]


# -- killed


@pytest.mark.slow
def test_a_waiter_that_is_killed_at_the_head_costs_two_polls(cli: Cli) -> None:
    """SIGKILL while it waits: once the lock is free the next has it after at most two poll intervals and a look."""
    cli("lock", "acquire", "x", "--owner", "holder", "--ttl", "10m")
    dead = start("dead")
    until(lambda: waiting(cli) == ["dead"])
    following = start("next")
    until(lambda: waiting(cli) == ["dead", "next"])
    os.kill(dead.pid, signal.SIGKILL)
    dead.communicate()
    freed = time.monotonic()
    cli("lock", "release", "x", "--owner", "holder")
    assert 0 == following.wait(30)
    following.communicate()
    delay = time.monotonic() - freed
    assert delay < 2 * 1.0 + 1.0, "two polls of 1 s, and the time of the commands"
    assert 1 == cli("lock", "stats", "x", "--json").json["left"]


@pytest.mark.slow
def test_a_holder_that_is_killed_costs_its_lease(cli: Cli, tmp_path: Path) -> None:
    """SIGKILL just after it was granted: the next has it after the lease, its margin and at most two poll intervals."""
    ttl, margin = 3.0, 2.0
    cli("lock", "acquire", "x", "--owner", "holder", "--ttl", "10m")
    script = f"echo $$ > {tmp_path}/granted; exec sleep 100"
    dead = subprocess.Popen(
        command(
            "lock", "run", "x", "--owner", "dead", "--ttl", ttl, "--fair", "--wait", "60s", "--", "sh", "-c", script
        ),
        stderr=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,
    )
    until(lambda: waiting(cli) == ["dead"])
    following = [start(f"next{number}") for number in range(2)]
    until(lambda: len(waiting(cli)) == 3)
    cli("lock", "release", "x", "--owner", "holder")
    until(lambda: (tmp_path / "granted").exists() and (tmp_path / "granted").read_text(), every=0.005)
    os.kill(dead.pid, signal.SIGKILL)
    killed = time.monotonic()
    dead.wait()
    os.kill(int((tmp_path / "granted").read_text()), signal.SIGKILL)
    until(lambda: any(process.poll() == 0 for process in following), timeout=30, every=0.01)
    delay = time.monotonic() - killed
    assert delay < ttl + margin + 2 * 1.0
    owner = cli("lock", "show", "x", "--json").json["owner"]
    cli("lock", "release", "x", "--owner", owner)
    for process in following:
        assert 0 == process.wait(20)
        process.communicate()
