"""``ghcoord task``: every verb, once with success and once without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ghcoord.model.task import State
from tests.cli.running import Cli, spawn

pytestmark = pytest.mark.usefixtures("hub")


def _work(cli: Cli, *options: str) -> None:
    """Run a worker until the hub is idle."""
    done = cli("worker", "start", "--id", "w1", "--slots", "2", "--until-idle", "50ms", "--poll", "50ms", *options)
    assert 0 == done.code, done.err


def test_submit_prints_the_id(cli: Cli) -> None:
    """The plain output is the id alone; arguments are texts, or JSON after ':='."""
    done = cli(
        "task", "submit", "echo", "--arg", "message=a=b", "--arg", "n:=[1]", "--priority", "9", "--timeout", "5m"
    )
    task = cli("task", "show", done.out.strip(), "--json").json
    assert {"message": "a=b", "n": [1]} == task["args"]
    assert ("queued", 9, 300.0, None) == (task["state"], task["priority"], task["timeout"], task["worker"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--arg", "message"], "key=value"),
        (["--arg", "n:=oops"], "not JSON"),
        (["--args-json", "[1]"], "JSON object"),
        (["--args-json", "{"], "not JSON"),
        (["--args-json", '{"x": NaN}'], "NaN"),
        (["--priority", "10"], "0 to 9"),
        (["--retries", "-1"], "retries"),
        (["--timeout", "soon"], "1h30m"),
        (["--id", "a/b"], "task id"),
        (["--wait-timeout", "5s"], "--wait"),
        (["--batch-id", "b"], "--batch"),
        (["--batch", "-"], "from the file"),
    ],
)
def test_submit_refuses(cli: Cli, options: list[str], said: str) -> None:
    """Each wrong option exits 2 with a line that says what is wanted, and queues nothing."""
    refused = cli("task", "submit", "echo", *options)
    assert 2 == refused.code
    assert said in refused.error
    assert [] == cli("task", "list", "--json").json


def test_args_json_and_arg_add_up(cli: Cli) -> None:
    """--arg adds to --args-json and wins."""
    task = cli("task", "submit", "echo", "--args-json", '{"a": 1, "b": 2}', "--arg", "b=3", "--json").json
    assert {"a": 1, "b": "3"} == task["args"]


def test_an_id_is_submitted_once(cli: Cli) -> None:
    """The same id and content again changes nothing; another content is refused."""
    for _ in range(2):
        assert "t1\n" == cli("task", "submit", "echo", "--id", "t1", "--arg", "message=a").out
    assert 1 == len(cli("task", "list", "--json").json)
    assert 2 == cli("task", "submit", "echo", "--id", "t1", "--arg", "message=b").code


def test_batch(cli: Cli, tmp_path: Path) -> None:
    """Lines become tasks in their order, with defaults from the command line; a batch id makes repeating harmless."""
    lines = [
        {"tool": "echo", "args": {"message": "a"}, "priority": 3, "timeout": "1h30m"},
        {"tool": "echo", "retries": 2, "metadata": {"x": 1}, "id": "mine", "backoff": 1},
    ]
    file = tmp_path / "batch"
    file.write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    for _ in range(2):
        made = cli("task", "submit", "--batch", file, "--batch-id", "b1", "--priority", "7", "--json").json
    assert (2, "b1", "mine") == (made["submitted"], made["batch_id"], made["ids"][1])
    first, second = (cli("task", "show", task_id, "--json").json for task_id in made["ids"])
    assert 2 == len(cli("task", "list", "--json").json)
    assert (3, 5400.0, 0) == (first["priority"], first["timeout"], first["retries"])
    assert (7, None, 2, {"x": 1}, 1) == tuple(
        second[key] for key in ("priority", "timeout", "retries", "metadata", "backoff")
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ("{}", "'tool' is missing"),
        ('{"tool": 1}', "tool must be a text"),
        ('{"tool": "a/b"}', "tool name"),
        ('{"tool": "echo", "colour": 1}', "'colour'"),
        ('{"tool": "echo", "args": []}', "JSON object"),
        ('{"tool": "echo", "priority": "high"}', "priority"),
        ('{"tool": "echo", "timeout": "soon"}', "1h30m"),
        ('{"tool": "echo", "timeout": true}', "duration"),
        ('{"tool": "echo", "id": 7}', "id must be a text"),
    ],
)
def test_a_bad_line_is_named(cli: Cli, line: str, said: str) -> None:
    """The error carries the line's number, and no task of the batch is queued."""
    refused = cli("task", "submit", "--batch", "-", stdin=f'{{"tool": "echo"}}\n\n{line}\n')
    assert 2 == refused.code
    assert "line 3: " in refused.error
    assert said in refused.error
    assert [] == cli("task", "list", "--json").json


def test_a_batch_that_cannot_be_read(cli: Cli, tmp_path: Path) -> None:
    """A missing file, a folder and what is not text exit 2 with one line."""
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name in ("missing", ".", "bytes"):
        refused = cli("task", "submit", "--batch", name)
        assert 2 == refused.code
        assert name in refused.error


def test_wait_for_success_and_failure(cli: Cli) -> None:
    """After a run: success prints the output and exits 0, failure exits 8 with the reason, also with --json."""
    good = cli("task", "submit", "echo", "--arg", "message=hello").out.strip()
    bad = cli("task", "submit", "echo", "--arg", "nonsense=1").out.strip()
    waited = cli("task", "wait", good, "--timeout", "100ms")
    assert 9 == waited.code
    assert f"error: task {good} is still queued after 0.1s" == waited.err.splitlines()[-1]
    _work(cli)
    assert (0, "hello\n") == (cli("task", "wait", good).code, cli("task", "wait", good).out)
    failed = cli("task", "wait", bad)
    assert 8 == failed.code
    assert "dead" in failed.error
    in_json = cli("task", "wait", bad, "--json")
    assert (8, "", False) == (in_json.code, in_json.err, in_json.json["result"]["success"])
    assert 3 == cli("task", "wait", "nosuch").code


def test_submit_and_wait(cli: Cli) -> None:
    """--wait gives up after --wait-timeout with 9; a batch reports how many succeeded and exits 8 unless all did."""
    assert 9 == cli("task", "submit", "echo", "--wait", "--wait-timeout", "50ms").code
    lines = '{"tool": "echo", "id": "a1", "args": {"message": "x"}}\n{"tool": "echo", "id": "a2"}\n'
    cli("task", "submit", "--batch", "-", stdin=lines)
    cli("task", "cancel", "a2")
    _work(cli)
    done = cli("task", "submit", "--batch", "-", "--wait", stdin=lines)
    assert (8, "1 succeeded, 0 dead, 1 cancelled\n") == (done.code, done.out)


def test_list(cli: Cli) -> None:
    """Tasks are filtered by state, tool and number, and shown with the keys that scripts rely on."""
    for number in range(3):
        cli("task", "submit", "echo", "--id", f"t{number}", "--arg", f"message={number}")
    cli("task", "submit", "other")
    cli("task", "cancel", "t1")
    assert ["t0", "t2"] == [
        task["id"] for task in cli("task", "list", "--state", "queued", "--tool", "echo", "--json").json
    ]
    assert ["t1"] == [task["id"] for task in cli("task", "list", "-s", "cancelled", "--json").json]
    assert 1 == len(cli("task", "list", "--limit", "1", "--json").json)
    assert 5 == len(cli("task", "list").out.splitlines())
    assert "no tasks\n" == cli("task", "list", "--state", "dead").out
    refused = cli("task", "list", "--state", "pending")
    assert (2, f"--state 'pending' is unknown: one of {', '.join(State)}") == (refused.code, refused.error)


def test_show(cli: Cli) -> None:
    """A task is shown with its arguments; an unknown one exits 3."""
    cli("task", "submit", "echo", "--id", "t1", "--arg", "message=hello")
    assert 'args      {"message": "hello"}' in cli("task", "show", "t1").out
    assert 3 == cli("task", "show", "t2").code


def test_show_of_a_task_that_ran(cli: Cli) -> None:
    """Attempts are counted in words, what failed says why once, and the end of a wait points to the output."""
    cli("task", "submit", "echo", "--id", "t1", "--arg", "nonsense=1", "--retries", "1", "--backoff", "10ms")
    assert "attempts  none yet, 2 allowed\n" in cli("task", "show", "t1").out
    _work(cli)
    shown = cli("task", "show", "t1").out
    assert "attempts  2, 2 failed of 2 allowed\n" in shown
    assert "  try 1 on w1: failed: " in shown
    assert cli("task", "wait", "t1").error.endswith("(see 'ghcoord task logs t1')")


def test_show_of_a_cancelled_task(cli: Cli) -> None:
    """The reason stands there once, and nothing about attempts that will not come."""
    cli("task", "submit", "echo", "--id", "t1")
    cli("task", "cancel", "t1", "--reason", "wrong input")
    lines = [line.split(None, 1) for line in cli("task", "show", "t1").out.splitlines()]
    assert ["state", "cancelled"] in lines
    assert ["attempts", "none"] in lines
    assert ["reason", "wrong input"] in lines
    assert "task t1 is cancelled: wrong input" == cli("task", "wait", "t1").error
    assert "wrong input" in cli("task", "list").out


def test_a_batch_says_how_to_find_it(cli: Cli) -> None:
    """The plain output has the number, the batch id when there is one, and where the ids are."""
    look = "'ghcoord task list' shows them, --json prints their ids"
    line = '{"tool": "echo"}\n'
    named = cli("task", "submit", "--batch", "-", "--batch-id", "night-1", stdin=line)
    assert f"1 tasks submitted as batch night-1: {look}\n" == named.out
    assert f"1 tasks submitted: {look}\n" == cli("task", "submit", "--batch", "-", stdin=line).out


def test_cancel_and_retry(cli: Cli) -> None:
    """A queued task is cancelled with the reason kept; a retry queues it again; the wrong state exits 4."""
    cli("task", "submit", "echo", "--id", "t1")
    assert 4 == cli("task", "retry", "t1").code
    cancelled = cli("task", "cancel", "t1", "--reason", "wrong input", "--json").json
    assert ("cancelled", "wrong input") == (cancelled["state"], cancelled["cancel_reason"])
    assert 4 == cli("task", "cancel", "t1").code
    assert 8 == cli("task", "wait", "t1").code
    assert "queued" == cli("task", "retry", "t1", "--json").json["state"]
    assert 3 == cli("task", "cancel", "t2").code
    assert 3 == cli("task", "retry", "t2").code


def test_logs(cli: Cli) -> None:
    """The output is printed, as an object with --json and as lines with --follow; an unknown task exits 3."""
    cli("task", "submit", "echo", "--id", "t1", "--arg", "message=hello")
    assert "" == cli("task", "logs", "t1").out
    assert 9 == cli("task", "logs", "t1", "--follow", "--timeout", "50ms").code
    _work(cli)
    assert "hello\n" == cli("task", "logs", "t1").out
    assert {"id": "t1", "text": "hello\n"} == cli("task", "logs", "t1", "--json").json
    assert {"id": "t1", "text": "hello\n"} == cli("task", "logs", "t1", "--follow", "--json").json
    assert 3 == cli("task", "logs", "t2").code
    assert 2 == cli("task", "logs", "t1", "--timeout", "1s").code


def test_a_reader_that_leaves_is_no_error(cli: Cli) -> None:
    """With a pipe that closes early there is neither a traceback nor a message."""
    cli("task", "submit", "--batch", "-", stdin='{"tool": "echo"}\n' * 100)
    script = (
        "import subprocess as s, sys; p = s.Popen(sys.argv[1:], stdout=s.PIPE); p.stdout.close(); sys.exit(p.wait())"
    )
    from tests.cli.running import command

    done = spawn(argv=[command()[0], "-c", script, *command("task", "list", "--json")])
    assert (141, "") == (done.code, done.err)
