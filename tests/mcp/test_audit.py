"""The audit of tool calls: each call and its end, without secrets, whatever clients send, and never in the way."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ghcoord.errors import Denied, NotFound, UsageError
from ghcoord.faces.mcp.adapter import trace_of
from ghcoord.faces.mcp.answer import Answer, Failure
from ghcoord.faces.mcp.audited import Audited, call_trace
from ghcoord.faces.mcp.auditlog import open_sink
from ghcoord.faces.mcp.caller import Caller
from ghcoord.hub import Hub
from tests.coord.test_audit_calls import Switch
from tests.coord.world import World
from tests.test_tracing import GOOD, TRACE

SECRET = "ghp_0123456789abcdefghijABCDEFGHIJ012345"
ANN = Caller("ann", "proj", "mcp-1", client="cursor 2.1")
KEYS = {
    "timestamp", "session_id", "user_id", "tool_name", "arguments", "result", "error_msg", "trace_id", "workspace_id"
}  # fmt: skip


@pytest.fixture
def world() -> Iterator[World]:
    """A hub in memory."""
    made = World()
    yield made
    made.close()


@pytest.fixture
def hub(world: World) -> Hub:
    return world.open("server")


def entries(hub: Hub, **filters: Any) -> list[tuple[str, dict[str, Any]]]:
    """What is recorded, oldest first: kind and fields."""
    hub.audit.flush()
    return [(event.kind, event.fields) for event in hub.audit.log(oldest_first=True, kind="tool ", **filters)]


def raising(error: BaseException) -> Callable[[], Answer]:
    def run() -> Answer:
        raise error

    return run


def test_a_call_and_its_result_are_recorded(world: World, hub: Hub) -> None:
    """With time, session, user, workspace, client, tool, arguments, result and trace."""

    def run() -> Answer:
        world.runtime.advance(1.5)
        return Answer("out", {"stdout": "out", "exit_code": 0, "truncated": True}, notices=("It was restored.",))

    arguments = {"session_id": "s1", "code": "print('out')"}
    assert "out" == Audited(hub).run("run_python", ANN, arguments, GOOD, run).text
    (called, before), (ended, after) = entries(hub)
    assert ("tool call", "tool result") == (called, ended)
    about = {
        "session_id": "s1",
        "user_id": "ann",
        "workspace_id": "proj",
        "client": "cursor 2.1",
        "tool_name": "run_python",
        "arguments": arguments,
        "trace_id": TRACE,
    }
    for fields in (before, after):
        assert {*KEYS, "client"} == set(fields)
        assert about.items() <= fields.items()
    assert (None, "", "") == (before["result"], before["error_msg"], after["error_msg"])
    kept = {"success": True, "output": "It was restored.\nout", "exit_code": 0, "duration": 1.5, "truncated": True}
    assert kept.items() <= after["result"].items()
    assert before["timestamp"] < after["timestamp"]
    assert [TRACE, TRACE] == [
        fields["trace_id"] for _, fields in entries(hub, user="ann", trace=TRACE, tool="run_python")
    ]


def test_a_made_session_is_in_the_result(hub: Hub) -> None:
    """The call cannot know it yet."""
    Audited(hub).run("session_create", ANN, {}, "", lambda: Answer("made", {"session_id": "s7"}))
    assert ["", "s7"] == [fields["session_id"] for _, fields in entries(hub)]


def test_a_failed_answer_is_an_error(hub: Hub) -> None:
    """A command that ends with an exit code was called, and failed."""
    Audited(hub).run("shell", ANN, {}, "", lambda: Answer("exit code 3", {"exit_code": 3}, failed=True))
    (_, fields) = entries(hub)[1]
    assert ("exit code 3", False, 3) == (
        fields["error_msg"],
        fields["result"]["success"],
        fields["result"]["exit_code"],
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Failure("there is no tool 'rm'", "The tools are: shell."), "there is no tool 'rm'. The tools are: shell."),
        (NotFound("there is no session 's1'"), "there is no session 's1'"),
        (ValueError(f"password={SECRET}"), "password=[redacted]"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_a_call_that_is_refused_or_breaks_is_recorded(hub: Hub, error: BaseException, said: str) -> None:
    """With the reason; the error itself passes through as it is."""
    with pytest.raises(type(error)) as raised:
        Audited(hub).run("rm", ANN, {"x": 1}, GOOD, raising(error))
    assert error is raised.value
    (called, _), (ended, fields) = entries(hub)
    assert ("tool call", "tool result", None, said) == (called, ended, fields["result"], fields["error_msg"])


def test_a_call_that_outlives_the_server_has_an_end(hub: Hub) -> None:
    """Closing records that nobody waited for it, once: what it answers later is in no hub any more."""
    audited = Audited(hub)

    def run() -> Answer:
        audited.close()
        return Answer("late")

    assert "late" == audited.run("shell", ANN, {}, GOOD, run).text
    audited.close()
    (_, fields) = entries(hub)[-1]
    assert (2, None) == (len(entries(hub)), fields["result"])
    assert ("the server ended before the call did", TRACE) == (fields["error_msg"], fields["trace_id"])


def test_no_secret_is_recorded(hub: Hub) -> None:
    """By name and by look: in arguments, in a session's variables, in output, data and errors."""
    given = {
        "env": {"API_KEY": "hunter2", "PLAIN": SECRET},
        "password": "hunter2",
        "key": "db_password",
        "value": "hunter2",
        "argv": ["curl", "--token", "hunter2", f"Authorization: Bearer {SECRET}"],
    }
    audited = Audited(hub)
    audited.run("session_create", ANN, given, "", lambda: Answer(f"token={SECRET}", {"nested": {"secret": "hunter2"}}))
    with pytest.raises(Failure):
        audited.run("shell", ANN, {}, "", raising(Failure(f"cannot reach https://me:hunter2@host/ with {SECRET}")))
    kept = json.dumps(entries(hub))
    assert SECRET not in kept
    assert "hunter2" not in kept
    assert '"PLAIN": "[redacted]"' in kept


HOSTILE: list[dict[str, Any]] = [
    {"session_id": 5},
    {"session_id": "\ud800" * 10_000},
    {"\ud800": "\udfff"},
    {"x" * 100_000: "y" * 1_000_000},
    {"deep": eval("[" * 80 + "]" * 80)},
    {"n": 10**400, "f": float("nan")},
    {str(n): n for n in range(20_000)},
    {"text": "\x1b[31m\r\n{}"},
]


@pytest.mark.parametrize("arguments", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_a_client_sends_is_recorded(hub: Hub, arguments: dict[str, Any]) -> None:
    """The call runs, both entries are there, and they are small."""
    answer = Answer("\ud800" + "o" * 1_000_000, {"data": "d" * 1_000_000, "list": [1] * 50_000})
    name = next(iter(arguments))
    assert answer is Audited(hub).run(name, ANN, arguments, "00-bad", lambda: answer)
    found = entries(hub)
    assert ["tool call", "tool result"] == [kind for kind, _ in found]
    assert all(40_000 > len(json.dumps(fields)) for _, fields in found)
    assert found[0][1]["tool_name"] in (name[:500], "?")


def test_output_is_recorded_once(hub: Hub) -> None:
    """Long texts of the data are in the text already."""
    output = "o" * 3000
    Audited(hub).run("shell", ANN, {}, "", lambda: Answer(output, {"stdout": output, "exit_code": 0}))
    result = entries(hub)[1][1]["result"]
    assert (output, {"exit_code": 0}) == (result["output"], result["data"])


def test_calls_cost_one_commit_an_interval(world: World, hub: Hub) -> None:
    """However many there are: 100 within a tick of five seconds are 200 entries in one commit."""
    audited = Audited(hub)
    before = hub.commits
    for number in range(100):
        audited.run("echo", ANN, {"n": number}, "", lambda: Answer("x"))
        world.runtime.advance(0.04)
    world.runtime.advance(5)
    assert (0, 1) == (hub.audit.pending, hub.commits - before)
    assert 200 == len(entries(hub))


def test_a_call_goes_on_when_it_cannot_be_recorded(world: World) -> None:
    """The owner of the server is told once, and again when it is another trouble or comes back."""
    switch = Switch(world.store())
    hub = world.open(store=switch)
    said: list[str] = []
    audited = Audited(hub, warn=said.append)

    def call() -> None:
        assert "x" == audited.run("echo", ANN, {}, "", lambda: Answer("x")).text

    for off in (True, True, False, True):
        switch.off = off
        call()
        world.runtime.advance(300)
        call()
    assert ["tool calls are not recorded: switched off"] * 2 == said
    with pytest.raises(Denied):
        hub.close()
    call()
    assert "the hub is closed" in said[-1]
    assert 3 == len(said)


def test_the_log_file_has_a_line_for_each_entry(hub: Hub, tmp_path: Path) -> None:
    """As JSON in ASCII, for its owner's eyes, redacted, appended to, and made again when it was moved away."""
    file = tmp_path / "audit.jsonl"
    file.write_text('{"older": true}\n')
    file.chmod(0o600)
    audited = Audited(hub, open_sink(str(file), pytest.fail))
    audited.run("echo", ANN, {"password": "hunter2", "text": "ü\x1b\n"}, GOOD, lambda: Answer("x"))
    hub.audit.flush()
    older, call, result = map(json.loads, file.read_text().splitlines())
    assert {"older": True} == older
    assert ({"password": "[redacted]", "text": "ü\x1b\n"}, TRACE) == (call["arguments"], call["trace_id"])
    assert ("tool call", "tool result", True) == (call["kind"], result["kind"], result["result"]["success"])
    assert file.read_text().isascii()
    file.rename(tmp_path / "audit.1")
    audited.run("echo", ANN, {}, "", lambda: Answer("x"))
    hub.audit.flush()
    assert 2 == len(file.read_text().splitlines())
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)


def test_the_log_on_standard_error(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    """``-`` writes lines there and nothing to standard output, which is the protocol's."""
    Audited(hub, open_sink("-", pytest.fail)).run("echo", ANN, {}, "", lambda: Answer("x"))
    hub.audit.flush()
    done = capsys.readouterr()
    assert ("", ["tool call", "tool result"]) == (done.out, [json.loads(one)["kind"] for one in done.err.splitlines()])


def test_a_log_file_that_cannot_be_written(hub: Hub, tmp_path: Path) -> None:
    """Refused at the start; later the calls go on and the server's owner is told once."""
    with pytest.raises(UsageError, match=r"the audit log .*missing/log cannot be written: No such file"):
        open_sink(str(tmp_path / "missing" / "log"), pytest.fail)
    folder = tmp_path / "folder"
    folder.mkdir()
    said: list[str] = []
    audited = Audited(hub, open_sink(str(folder / "log"), said.append))
    (folder / "log").unlink()
    folder.rmdir()
    for _ in range(3):
        audited.run("echo", ANN, {}, "", lambda: Answer("x"))
    hub.audit.flush()
    assert [f"the audit log {folder / 'log'} cannot be written: No such file or directory"] == said


def test_where_a_request_says_its_trace() -> None:
    """In its metadata, or else in a header of HTTP; whatever else stands there is none."""
    header = SimpleNamespace(headers={"traceparent": GOOD})
    asked: list[Any] = [
        SimpleNamespace(meta={"traceparent": GOOD}, request=SimpleNamespace(headers={"traceparent": "x"})),
        SimpleNamespace(meta={"traceparent": 5}, request=header),
        SimpleNamespace(meta=None, request=header),
        SimpleNamespace(meta=None, request=None),
    ]
    assert [GOOD, GOOD, GOOD, ""] == [trace_of(one) for one in asked]


def test_the_trace_of_a_call() -> None:
    """As the client gives it; a new one where it gives none, or a bad one."""
    assert GOOD == call_trace(GOOD, lambda bits: 0)
    for bad in ("", None, "x", 5):
        assert f"00-{'0' * 31}1-{'0' * 15}1-01" == call_trace(bad, lambda bits: 0)
