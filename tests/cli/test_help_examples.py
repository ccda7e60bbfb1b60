"""The examples at the end of each command's help work as written."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from ghcoord.faces.cli.main import root_command
from ghcoord.hub import Hub
from tests.cli.running import Cli
from tests.cli.test_help import commands
from tests.processes import needs_program

NOT_RUN = (
    "ghcoord demo",  # takes long, and has its own tests
    "ghcoord init github:",  # needs a token: the page about GitHub runs it
    "ghcoord doctor --probe",  # so does this, which has tests of its own
    "ghcoord twin",  # goes on, and has its own tests
    "ghcoord status --watch",  # goes on
    "ghcoord worker start",  # goes on, or for seconds
    "ghcoord worker reap --stale-after",  # goes on
    "ghcoord memory watch",  # waits for somebody else
    "ghcoord memory set release",  # the reader has another token
    "ghcoord memory apply",  # changes.json is the reader's
    "ghcoord memory set-many values.json",  # so is values.json
    "ghcoord artifact put report.pdf",  # so is this file
    "ghcoord artifact get",  # and the reader has other ids
    "ghcoord artifact delete",
    "ghcoord session shell",  # waits for somebody who types
    "ghcoord session create --from",  # the archive is the reader's, and so are these files
    "ghcoord session get",
    "ghcoord session exec s42 --timeout 5m --follow -- make",
    "ghcoord session exec s42 -- python -m pytest",
    "ghcoord session checkpoint s42 --export c1",
    "ghcoord session restore s42 c1",
    "ghcoord session diff s42 c1",
    "ghcoord session create --id try-2 --from build:c1",
    "ghcoord lock run",  # ./deploy.sh is the reader's
    "ghcoord actions worker",  # goes on for seconds, and has its own tests
    "ghcoord actions submit run.python",  # waits for a worker
    "ghcoord actions lock",  # goes on until it is told to stop, and has its own tests
    "ghcoord actions unlock",  # tells that one
    "ghcoord mcp token revoke",  # the reader's token has another id
    "ghcoord mcp --",  # goes on, and has its own tests
    "ghcoord autoscale --max",  # goes on, and has its own tests
    "ghcoord autoscale --once",  # needs a token
    "ghcoord autoscale --dry-run",  # so does this
    "ghcoord leader run",  # and so is ./scheduler
)
"""Beginnings of examples that are only taken apart."""

TASK = "task submit echo -a message=hi --id t0123456789ab"
JOB = "task submit echo -a message=hi --id t42"
JOBS = [JOB, *(f"task submit echo -a message=hi --id {one}" for one in ("t43", "t44"))]
SCHEDULE = "schedule add nightly @daily echo"
WORK = "worker start --until-idle 50ms --poll 50ms"
HELD = "lock acquire deploy --owner ci-7"
READY = {
    "worker list": ["worker register w1 --label zone=eu"],
    "worker show": ["worker register w1"],
    "worker drain": ["worker register w1"],
    "worker heartbeat": ["worker register builder-1"],
    "worker status": ["worker register builder-1"],
    "worker deregister": ["worker register builder-1"],
    "task show": [JOB],
    "task wait": [*JOBS, WORK],
    "task cancel": [JOB],
    "task retry": [JOB, "task cancel t42"],
    "task assign": ["worker register w1 --type echo", JOB],
    "task unassign": [JOB],
    "task logs": [JOB, WORK],
    **{f"schedule {verb}": [SCHEDULE] for verb in ("show", "next", "pause", "resume", "remove", "run")},
    "balance next": ["worker register w1 --type echo", TASK],
    "balance select": ["worker register w1 --type echo", TASK],
    "lock renew": [HELD],
    "lock release": [HELD],
    "lock show": [HELD, "lock acquire --paths src/** --owner ci-7"],
    "lock stats": [HELD],
    "leader show": ["lock acquire leader/scheduler"],
    "leader resign": ["lock acquire leader/scheduler"],
    "lock force-unlock": [HELD],
    "import": ["export hub.bundle"],
    "audit blame": [TASK, "memory set color blue"],
    "memory get": ["memory set color blue"],
    "memory delete": ["memory set color blue"],
    "memory history": ["memory set color blue"],
    "memory delete-many": ["memory set color blue", "memory set config/size 3"],
    "memory drop": ["memory set k 1 -n scratch"],
    "memory export": ["memory set color blue"],
    "memory import": ["memory set color blue", "memory export backup.jsonl"],
}
"""What must have been done before the examples of a command."""

EXAMPLES = [
    (name, line.strip()) for name, command in commands() for line in command.epilog.replace("\\\n", "").splitlines()[1:]
]


def _parse(words: list[str]) -> None:
    """Take a command line apart as ``main`` would; raises what is wrong with it."""
    root: Any = root_command()
    command, context = root, None
    while hasattr(command, "get_command") and words and not words[0].startswith("-"):
        context = typer.Context(command, parent=context)
        command = command.get_command(context, words.pop(0))
    command.make_context("example", words, parent=context)


@pytest.fixture
def in_session(living: Hub) -> Iterator[None]:
    """The session s42, on a worker that runs, with a checkpoint; a file to put there."""
    Path("data.csv").write_text("1,2\n")
    living.sessions.create("s42")
    living.sessions.checkpoint("s42")
    yield
    for one in living.sessions.list():
        if one.id.startswith("s42"):
            living.sessions.destroy(one.id)


LONG = ("ghcoord bench",)
"""Beginnings of examples that take more than a second or two."""


@pytest.mark.parametrize(
    ("name", "line"),
    [
        pytest.param(name, line, marks=pytest.mark.slow if line.startswith(LONG) else (), id=line)
        for name, line in EXAMPLES
    ],
)
def test_an_example_works(cli: Cli, hub: Path, name: str, line: str, request: pytest.FixtureRequest) -> None:
    """Its options and arguments exist, and once what it speaks of is there it exits 0; its tasks succeed."""
    shell, _, last = line.rpartition(" | ")
    words = shlex.split(last.partition(" || ")[0].removesuffix(" &"))
    assert "ghcoord" == words.pop(0)
    if line.startswith(NOT_RUN):
        _parse(words)
        return
    if "run.python" in words:
        needs_program("bwrap")
    if name.startswith("session ") or name == "tool call":
        request.getfixturevalue("in_session")
    for before in READY.get(name, []):
        assert 0 == cli(*before.split()).code
    piped = '{"tool": "echo", "args": {"message": "a"}}\n' if shell.startswith("printf ") else ""
    if name == "task submit":
        words = [word for word in words if word != "--wait"]  # the worker comes afterwards
    done = cli(*words, stdin=piped)
    assert 0 == done.code, done.err
    if name == "task submit":
        assert 0 == cli(*WORK.split()).code
        assert ["succeeded"] == [task["state"] for task in cli("task", "list", "--json").json]
