"""``ghcoord task``: every verb, once with success and once without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ghcoord.model.task import State
from tests.cli.running import Cli, spawn
from tests.test_tracing import GOOD

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
        (["--type", "a b"], "task type"),
        (["--estimate", "long"], "1h30m"),
        (["--min-cores", "few"], "whole number"),
        (["--min-cores", "-1"], "min_cpu_cores"),
        (["--require", ""], "capability is empty"),
        (["--not-before", "soon"], "'soon' is no time"),
        (["--delay", "-5m"], "'-5m' is no time"),
        (["--if-failed", "panic"], "one of cancel, run, wait"),
        (["--key", "k"], "give concurrency, rate or both"),
        (["--concurrency", "2"], "a limit needs a key"),
        (["--key", "k", "--rate", "fast"], "write 10/1m"),
        (["--key", "k", "--rate", "0/1m"], "number of a rate"),
        (["--unique-states", "running"], "'running' is unknown"),
        (["--unique-for", "soon"], "1h30m"),
        (["--worker", "w1", "--prefer", "w2"], "worker or prefer"),
        (["--meta", "x"], "key=value"),
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
        ('{"tool": "echo", "after": "x", "after": 7}', "after must be a list"),
        ('{"tool": "echo", "rate": 7, "key": "k"}', "write 10/1m"),
        ('{"tool": "echo", "not_before": true}', "not_before must be"),
        ('{"tool": "echo", "requirements": []}', "requirements must be a JSON object"),
        ('{"tool": "echo", "min_cores": "few"}', "min_cpu_cores"),
        ('{"tool": "echo", "unique_states": ["x"]}', "'x' is unknown"),
        ('{"tool": "echo", "meta": {}, "metadata": {}}', "given twice"),
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
    look = "'ghcoord task list{}' shows them, --json prints their ids"
    line = '{"tool": "echo"}\n'
    named = cli("task", "submit", "--batch", "-", "--batch-id", "night-1", stdin=line)
    assert f"1 tasks submitted as batch night-1: {look.format(' --batch-id night-1')}\n" == named.out
    assert f"1 tasks submitted: {look.format('')}\n" == cli("task", "submit", "--batch", "-", stdin=line).out


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


# -- options


def test_show_says_why_a_task_waits(cli: Cli) -> None:
    """For people and in JSON; a tier that is none and a session that is not there are refused."""
    cli("task", "submit", "shell", "--id", "t1", "-a", "command=true")
    assert "waits     no worker is alive: start one with 'ghcoord worker start'" in cli("task", "show", "t1").out
    cli("worker", "register", "w1", "--type", "shell")
    assert (
        "needs a full sandbox; the workers offer: w1 none: start a worker with bubblewrap or submit with "
        "--sandbox partial" == cli("task", "show", "t1", "--json").json["waiting_because"]
    )
    task = cli("task", "submit", "shell", "-a", "command=true", "--sandbox", "none", "--json").json
    assert ("none", None) == (task["requirements"]["sandbox"], task["session"])
    assert None is cli("task", "show", task["id"], "--json").json["waiting_because"]
    refused = cli("task", "submit", "shell", "-a", "command=true", "--sandbox", "strong")
    assert (2, True) == (refused.code, "one of full, partial, none" in refused.err)
    refused = cli("task", "submit", "echo", "--session", "s1")
    assert (3, True) == (refused.code, "there is no session 's1'" in refused.err)


def test_all_options_of_submit(cli: Cli) -> None:
    """Each flag is in the task, in JSON and for people."""
    cli("worker", "register", "w1")
    first = cli("task", "submit", "echo", "--arg", "message=x").out.strip()
    task = cli(
        *("task", "submit", "echo", "--type", "small", "--estimate", "90s", "--min-cores", "2", "--min-memory", "512"),
        *("--require", "gpu", "--require", "os=linux", "--prefer", "w1", "--prefer-for", "1m", "--after", first),
        *("--if-failed", "run", "--not-before", "2h", "--key", "api", "--concurrency", "3", "--rate", "10/m"),
        *("--unique-key", "k", "--unique-for", "1h", "--unique-states", "queued,leased", "--meta", "x=1", "--json"),
        *("--sandbox", "partial", "--trace", GOOD),
    ).json
    expected = {
        "type": "small",
        "state": "blocked",
        "estimated_duration": 90.0,
        "requirements": {
            "min_cpu_cores": 2,
            "min_memory_mb": 512,
            "required_capabilities": ["gpu", "os=linux"],
            "sandbox": "partial",
        },
        "worker": "w1",
        "after": [first],
        "waiting_for": [first],
        "if_failed": "run",
        "key": "api",
        "concurrency": 3,
        "rate": [10, 60.0],
        "metadata": {"x": "1"},
        "trace": GOOD,
        "duplicate": False,
    }
    assert expected.items() <= task.items()
    assert (3600.0, ["leased", "queued"]) == (task["unique"]["period"], sorted(task["unique"]["states"]))
    shown = cli("task", "show", task["id"]).out
    for part in (
        "type        small",
        "state       blocked",
        "needs       2 cores, 512 MiB, a partial sandbox, gpu, os=linux",
        "estimate    1m30s",
        f"after       {first} (if one fails: run), waits for {first}",
        "limit       api: 3 at a time, 10 in 1m00s",
        "unique      while leased, queued for 1h00m",
        f"trace       {GOOD}",
    ):
        assert part in shown
    assert f"after {first}" in cli("task", "list", "--state", "blocked").out


def test_the_trace_of_the_process_goes_on(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRACEPARENT counts where --trace is not given, in batches as well; a bad one is none."""
    other = GOOD.replace("01", "00")
    monkeypatch.setenv("TRACEPARENT", GOOD)
    given = [cli("task", "submit", "echo", *more, "--json").json["trace"] for more in ([], ["--trace", other])]
    assert [GOOD, other] == given
    lines = f'{{"tool": "echo"}}\n{{"tool": "echo", "trace": "{other}"}}\n'
    ids = cli("task", "submit", "--batch", "-", "--json", stdin=lines).json["ids"]
    assert [GOOD, other] == [cli("task", "show", one, "--json").json["trace"] for one in ids]
    monkeypatch.setenv("TRACEPARENT", "nonsense")
    assert None is cli("task", "submit", "echo", "--json").json["trace"]
    refused = cli("task", "submit", "echo", "--trace", "nonsense")
    assert (2, True) == (refused.code, "no W3C traceparent" in refused.error)


def test_times(cli: Cli) -> None:
    """A delay counts from now, a time without a zone is local; both are shown in UTC."""
    later = cli("task", "submit", "echo", "--delay", "1h", "--json").json
    assert ("scheduled", later["due_at"]) == (later["state"], later["not_before"])
    fixed = cli("task", "submit", "echo", "--not-before", "2100-01-01T00:00+01:00", "--json").json
    assert "2099-12-31T23:00:00.000Z" == fixed["due_at"]
    assert "due 2099-12-31T23:00:00.000Z" in cli("task", "list", "--state", "scheduled").out
    assert "queued" == cli("task", "submit", "echo", "--not-before", "2001-01-01", "--json").json["state"]


def test_a_unique_task_is_submitted_once(cli: Cli) -> None:
    """The second time the first one's id is printed, with exit code 0 and a remark."""
    first = cli("task", "submit", "echo", "--unique", "--arg", "message=a").out
    again = cli("task", "submit", "echo", "--unique", "--arg", "message=a")
    assert (0, first) == (again.code, again.out)
    assert f"task {first.strip()} is there already: it is queued" in again.err
    assert cli("task", "submit", "echo", "--unique", "--arg", "message=a", "--json").json["duplicate"]
    assert first != cli("task", "submit", "echo", "--unique", "--arg", "message=b").out
    made = cli("task", "submit", "--batch", "-", "--unique", stdin='{"tool": "echo", "args": {"message": "a"}}\n' * 2)
    assert made.out.startswith("2 tasks submitted, 2 of them there already: ")


def test_whom_a_task_waits_for_must_exist(cli: Cli) -> None:
    """An unknown id exits 3, as does a worker that is not there."""
    refused = cli("task", "submit", "echo", "--after", "nobody")
    assert (3, "there is no task 'nobody' to wait for: submit it first") == (refused.code, refused.error)
    assert 3 == cli("task", "submit", "echo", "--worker", "nobody").code


def test_a_batch_with_every_option(cli: Cli) -> None:
    """A line spells options as the command does, with _ or -; the command's hold where it does not."""
    lines = [
        {"tool": "echo", "id": "one", "delay": "1h", "estimate": "2m", "require": "gpu", "unique": True},
        {
            "tool": "echo",
            "id": "two",
            "after": ["one"],
            "if-failed": "wait",
            "key": "k",
            "rate": "5/1s",
            "min_cores": 3,
        },
        {"tool": "echo", "id": "six", "not_before": 60, "requirements": {"min_memory_mb": 9}, "rate": [2, "1m"]},
    ]
    stdin = "\n".join(map(json.dumps, lines))
    done = cli(
        "task",
        "submit",
        "--batch",
        "-",
        "--type",
        "small",
        "--min-cores",
        "1",
        "--key",
        "d",
        "--rate",
        "1/1s",
        stdin=stdin,
    )
    assert 0 == done.code, done.err
    one, two, six = (cli("task", "show", task_id, "--json").json for task_id in ("one", "two", "six"))
    assert ("scheduled", 120.0, "small", ["gpu"], 1, "d", [1, 1.0]) == (
        one["state"],
        one["estimated_duration"],
        one["type"],
        one["requirements"]["required_capabilities"],
        one["requirements"]["min_cpu_cores"],
        one["key"],
        one["rate"],
    )
    assert ("blocked", ["one"], "wait", "k", [5, 1.0], 3) == (
        two["state"],
        two["after"],
        two["if_failed"],
        two["key"],
        two["rate"],
        two["requirements"]["min_cpu_cores"],
    )
    assert (9, [2, 60.0], "scheduled") == (six["requirements"]["min_memory_mb"], six["rate"], six["state"])


# -- filters, and waiting for many


def test_list_filters(cli: Cli) -> None:
    """Each filter takes away what does not meet it; wrong ones exit 2."""
    cli(
        "task", "submit", "echo", "--id", "a", "--type", "small", "--meta", "team=x", "--key", "k", "--concurrency", "1"
    )
    cli("task", "submit", "--batch", "-", "--batch-id", "b1", stdin='{"tool": "other", "id": "b"}')
    for options, expected in (
        (["--type", "small"], ["a"]),
        (["--meta", "team=x"], ["a"]),
        (["--key", "k"], ["a"]),
        (["--batch-id", "b1"], ["b"]),
        (["--by", "nobody"], []),
        (["--older-than", "1h"], []),
        (["--older-than", "0"], ["a", "b"]),
        (["--ended-before", "0s"], []),
        (["--schedule", "s"], []),
        (["--worker", "w1"], []),
    ):
        assert expected == [task["id"] for task in cli("task", "list", *options, "--json").json], options
    assert 2 == cli("task", "list", "--meta", "team").code
    assert 2 == cli("task", "list", "--ended-before", "never").code


def test_wait_for_many(cli: Cli) -> None:
    """All of them, or the first with --any; exits 8 unless all succeeded, 9 when it takes too long."""
    for name, option in (("g1", "message=a"), ("g2", "message=b"), ("bad", "nonsense=1")):
        cli("task", "submit", "echo", "--id", name, "--arg", option)
    late = cli("task", "wait", "g1", "g2", "--timeout", "50ms")
    assert (9, "error: 2 of 2 tasks have not ended after 0.1s: g1 is queued") == (late.code, late.err.splitlines()[-1])
    _work(cli)
    good = cli("task", "wait", "g1", "g2", "g1")
    assert (0, "2 succeeded") == (good.code, good.out.splitlines()[-1])
    mixed = cli("task", "wait", "g1", "bad", "--json")
    assert (8, ["g1", "bad"]) == (mixed.code, [task["id"] for task in mixed.json])
    cli("task", "submit", "other", "--id", "open")
    first = cli("task", "wait", "g1", "open", "--any")
    assert (0, "1 succeeded") == (first.code, first.out.splitlines()[-1])
    assert 3 == cli("task", "wait", "g1", "nobody").code
