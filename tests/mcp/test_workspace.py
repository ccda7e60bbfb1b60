"""Tools that work in a session: arguments as the workers check them, pages, long output, failures in both forms."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, validate

from ghcoord.faces.mcp.answer import Answer, Failure
from ghcoord.faces.mcp.call import Call, Services
from ghcoord.faces.mcp.catalog import all_tools
from ghcoord.faces.mcp.tools import workspacetext
from ghcoord.faces.mcp.tools.workspace import workspace_tools
from ghcoord.faces.mcp.tools.workspacespec import READ_BYTES
from ghcoord.model.task import TaskResult
from ghcoord.testing.worker_client import FakeCall, FakeWorkerClient
from ghcoord.testing.worker_client_contract import ClientUnderTest
from tests.mcp.agents import ANN, Agent, agent_of
from tests.mcp.benches import local_bench, open_hub

LISTED = ["fs_read", "fs_write", "fs_list", "run_python", "shell", "pkg_install", "test_run", "echo"]


@pytest.fixture
def agent(services: Services) -> Agent:
    return Agent(services)


def checked(agent: Agent, name: str, /, **arguments: Any) -> Answer:
    """The answer, whose data suits the tool's schema and whose form is short enough."""
    answer = agent(name, **arguments)
    validate(json.loads(json.dumps(answer.data)), dict(agent.specs[name].returns))
    assert len(answer.text.encode()) <= 48 * 1024
    assert len(json.dumps(answer.data, ensure_ascii=False).encode()) <= 96 * 1024
    return answer


def printing(workers: FakeWorkerClient, tool: str = "shell", **result: Any) -> None:
    """Have ``tool`` end like that; what it prints is told while it runs."""

    def run(call: FakeCall) -> TaskResult:
        for name in ("stdout", "stderr"):
            call.log(name, str(result.get("data", {}).get(name, "")))
        return TaskResult(**{"success": True, **result})

    workers.on(tool, run)


def test_agents_get_these(workers: FakeWorkerClient) -> None:
    """The reference's names, all arguments described, the session first; nothing else of what workers have."""
    specs = workspace_tools(workers.tools())
    assert LISTED == [one.name for one in specs]
    assert "fs.read" == specs[0].dotted
    for one in specs:
        for schema in (one.arguments, one.returns):
            Draft202012Validator.check_schema(dict(schema))
        assert "session_id" == next(iter(one.arguments["properties"]))
        assert all("description" in each for each in one.arguments["properties"].values()), one.name
        assert {"success", "exit_code", "duration_s", "truncated"} <= {*one.returns["properties"]}
    assert ["fs_read"] == [one.name for one in workspace_tools([t for t in workers.tools() if t.name == "fs.read"])]


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("echo", {"message": "x"}, "session_create first"),
        ("echo", {"session_id": 7, "message": "x"}, "session_id must be"),
        ("echo", {"session_id": "s", "message": 7}, "message must be a string"),
        ("echo", {"session_id": "s", "massage": "x"}, "no argument 'massage'"),
        ("echo", {"session_id": "s"}, "needs the argument message"),
        ("echo", {"session_id": "s", "message": "x", "timeout_s": "7"}, "timeout_s"),
        ("echo", {"session_id": "s", "message": "x", "timeout_s": True}, "timeout_s"),
        ("echo", {"session_id": "s", "message": "x", "timeout_s": 0}, "timeout_s"),
        ("echo", {"session_id": "s", "message": "x", "timeout_s": 4000}, "at most 3600"),
        ("fs_read", {"session_id": "s", "path": "f", "limit": READ_BYTES + 1}, "limit must be"),
        ("fs_read", {"session_id": "s", "path": "f", "limit": "7"}, "limit must be"),
        ("fs_read", {"session_id": "s", "path": "../f"}, "path traversal"),
        ("fs_read", {"session_id": "s", "path": "f", "offset": -1}, "offset must be at least 0"),
        ("fs_list", {"session_id": "s", "limit": 0}, "limit must be"),
        ("fs_list", {"session_id": "s", "offset": 1.5}, "offset must be"),
        ("shell", {"session_id": "s", "command": "\ud800"}, "It takes"),
        ("run_python", {"session_id": "s", "code": "1", "env": {"A": 1}}, "env"),
        ("run_python", {"session_id": "s", "code": {"a": float("nan")}}, "It takes"),
    ],
)
def test_wrong_arguments_are_a_sentence(agent: Agent, name: str, arguments: dict[str, Any], says: str) -> None:
    """Nothing unknown is dropped, nothing is converted, and what the tool takes is told."""
    with pytest.raises(Failure, match=says) as why:
        agent.specs[name].check(arguments)
    assert why.value.next_step


def test_a_command_that_fails_says_all_twice(agent: Agent, workers: FakeWorkerClient) -> None:
    """Output, errors and exit code are in the text and in the data: some clients show only the one."""
    printing(
        workers,
        success=False,
        exit_code=3,
        error="exit code 3",
        output="out\n",
        data={"stdout": "out\n", "stderr": "wrong\n", "exit_code": 3},
    )
    answer = checked(agent, "shell", session_id=agent.session(), command="x")
    assert (True, "out\n[stderr]\nwrong\n[exit code 3]") == (answer.failed, answer.text)
    wanted = {"success": False, "exit_code": 3, "stdout": "out\n", "stderr": "wrong\n", "error": "exit code 3"}
    assert wanted == {name: answer.data[name] for name in wanted}


def test_a_call_without_its_own_fields_suits_its_schema(agent: Agent) -> None:
    """A file that is not there has no contents."""
    answer = checked(agent, "fs_read", session_id=agent.session(), path="missing")
    assert (True, "no such file: missing. fs_list shows what is there.") == (answer.failed, answer.text)


def test_what_is_too_long_is_kept_whole(agent: Agent, workers: FakeWorkerClient) -> None:
    """The answer has its beginning and end, and where to read the rest."""
    text = "begin\n" + "x" * 300_000 + "\nend\n"
    session_id = agent.session()
    printing(workers, output=text, data={"stdout": text, "stderr": "e" * 100_000, "exit_code": 0})
    answer = checked(agent, "shell", session_id=session_id, command="x")
    assert answer.text.startswith("begin")
    assert answer.data["stdout"].endswith("end\n")
    assert True is answer.data["truncated"]
    uri = answer.data["full_output"]
    assert uri in answer.text
    kept = agent.services.outputs.find(ANN, uri)
    assert kept is not None
    assert f"{text}[stderr]\n{'e' * 100_000}" == kept.text
    assert agent.services.outputs.find(agent.other().caller, uri) is None
    printing(workers, output=text[-60_000:], truncated=True, artifacts=("a1",), data={"stdout": text[-60_000:]})
    assert "ghcoord://artifacts/a1" == checked(agent, "shell", session_id=session_id, command="x").data["full_output"]


@pytest.mark.parametrize("text", ["\0\1\2" * 30_000, "\ud7ff€🦄" * 9000, '\\"' * 40_000])
def test_no_output_is_too_long_for_an_answer(agent: Agent, workers: FakeWorkerClient, text: str) -> None:
    """However much room its characters take."""
    data = {"stdout": text, "stderr": text, "exit_code": 1}
    printing(workers, success=False, output=text, exit_code=1, error="exit code 1", data=data)
    assert checked(agent, "shell", session_id=agent.session(), command="x").failed


def test_a_file_comes_in_pages(agent: Agent) -> None:
    """next_offset leads through all of it."""
    session_id, text = agent.session(), "".join(f"line {number}\n" for number in range(9000))
    agent("fs_write", session_id=session_id, path="f", contents=text)
    parts, offset = [], 0
    while offset is not None:
        page = checked(agent, "fs_read", session_id=session_id, path="f", offset=offset).data
        parts.append(page["contents"])
        offset = page["next_offset"]
    assert text == "".join(parts)
    assert 1 < len(parts) <= 4
    assert False is page["truncated"]


def test_a_file_of_escapes_comes_in_smaller_pages(agent: Agent) -> None:
    """As JSON each of its bytes takes six: the page shrinks instead of being cut."""
    session_id, text = agent.session(), "\1" * 50_000
    agent("fs_write", session_id=session_id, path="f", contents=text)
    parts, offset = [], 0
    while offset is not None:
        page = checked(agent, "fs_read", session_id=session_id, path="f", offset=offset).data
        parts.append(page["contents"])
        offset = page["next_offset"]
    assert text == "".join(parts)


def test_what_an_empty_read_means_is_said(agent: Agent) -> None:
    """An empty text would look like a fault."""
    session_id = agent.session()
    agent("fs_write", session_id=session_id, path="f", contents="")
    assert "[the file is empty]" == agent("fs_read", session_id=session_id, path="f").text
    agent("fs_write", session_id=session_id, path="g", contents="x")
    assert "nothing is left" in agent("fs_read", session_id=session_id, path="g", offset=5).text
    assert "[nothing is there]" == agent("fs_list", session_id=agent.session()).text


def test_a_folder_comes_in_pages(agent: Agent, workers: FakeWorkerClient) -> None:
    """Each name once; long names make short pages; the environment's files are left out of a recursive list."""
    names = [f"{'n' * 200}{number:04}" for number in range(1200)]
    data = {"path": ".", "entries": [".venv", ".venv/a", ".venv/b", *names]}
    printing(workers, "fs.list", data=data)
    session_id, seen, offset = agent.session(), [], 0
    while offset is not None:
        page = checked(agent, "fs_list", session_id=session_id, recursive=True, offset=offset, limit=2000)
        assert "2 in .venv" in page.text
        seen += page.data["entries"]
        offset = page.data["next_offset"]
    assert [".venv", *names] == seen
    assert 1201 == page.data["total"]
    assert [".venv", ".venv/a"] == agent("fs_list", session_id=session_id, limit=2).data["entries"]
    assert [] == agent("fs_list", session_id=session_id, offset=9999).data["entries"]
    rows = [{"path": n, "kind": "file", "size": 1, "mode": "0644", "mtime": 1.0, "target": ""} for n in names]
    printing(workers, "fs.list", data={"path": ".", "entries": names, "details": rows}, truncated=True)
    page = checked(agent, "fs_list", session_id=session_id, details=True, offset=1150)
    assert names[1150:] == [one["path"] for one in page.data["details"]] == page.data["entries"]
    assert "more than 1200" in page.text


def test_what_installers_and_tests_say_first(agent: Agent, workers: FakeWorkerClient) -> None:
    """What was installed, how many tests passed."""
    session_id = agent.session()
    data = {"installed": ["idna==3.10"], "stdout": "noise", "stderr": "", "lock": ["idna==3.10"]}
    printing(workers, "pkg.install", output="noise", data=data)
    assert "Installed: idna==3.10." == checked(agent, "pkg_install", session_id=session_id, requirements="idna").text
    counts = {"passed": 3, "failed": 1, "errors": 0, "skipped": 0, "tests": []}
    failed = {"stdout": "E assert\n", "stderr": "", "exit_code": 1, **counts}
    printing(workers, "test.run", success=False, exit_code=1, error="exit code 1", data=failed)
    answer = checked(agent, "test_run", session_id=session_id)
    assert (True, "3 passed, 1 failed") == (answer.failed, answer.text[:18])


def test_a_call_passes_on_what_it_was_given(agent: Agent, workers: FakeWorkerClient) -> None:
    """Its timeout, trace and cancellation to the worker; the last line of output and progress to the client."""
    seen: list[FakeCall] = []

    def run(call: FakeCall) -> TaskResult:
        seen.append(call)
        call.log("stdout", "one\ntwo\n")
        call.progress(0.5, "half")
        return TaskResult(success=not call.cancelled())

    workers.on("shell", run)
    session_id, told = agent.session(), []
    spec = agent.specs["shell"]
    call = Call(ANN, agent.services, trace="00-a", cancelled=lambda: True, progress=lambda *said: told.append(said))
    answer = spec.run(call, spec.check({"session_id": session_id, "command": "x", "timeout_s": 7}))
    assert (7.0, "00-a", True, {"command": "x"}) == (
        seen[0].timeout,
        seen[0].trace,
        seen[0].cancelled(),
        seen[0].args,
    )
    assert [(None, "two"), (0.5, "half")] == told
    assert answer.failed


@pytest.mark.parametrize("name", ["run_python", "shell", "test_run"])
def test_a_missing_module_names_the_tool_that_installs(agent: Agent, workers: FakeWorkerClient, name: str) -> None:
    """One line at the end, once, and only when the call failed."""
    session_id, arguments = agent.session(), {} if name == "test_run" else {"code" if "_" in name else "command": "x"}
    said = "ModuleNotFoundError: No module named 'idna'"
    dotted = name.replace("_", ".")
    printing(workers, dotted, success=False, exit_code=1, error=said, data={"stdout": "", "stderr": said})
    last = "[There is no module idna: install its package with pkg_install; pip is not there.]"
    assert last == checked(agent, name, session_id=session_id, **arguments).text.splitlines()[-1]
    printing(workers, dotted, data={"stdout": said, "stderr": ""})
    assert said == checked(agent, name, session_id=session_id, **arguments).text
    assert "Install packages" in agent.specs[name].description
    assert "pip is not there" in agent.specs[name].description


def test_names_of_tools_are_those_that_are_listed(agent: Agent, workers: FakeWorkerClient) -> None:
    """In what workers say, not in what commands print or in names of files."""
    session_id = agent.session()
    error = "pytest is not installed here: call pkg.install with pytest first"
    printing(workers, "test.run", success=False, error=error)
    answer = checked(agent, "test_run", session_id=session_id)
    assert error.replace("pkg.install", "pkg_install") == answer.data["error"]
    assert "pkg_install" in answer.text
    printing(workers, success=False, exit_code=1, error="no run.python here", data={"stderr": "no run.python here\n"})
    answer = checked(agent, "shell", session_id=session_id, command="x")
    assert ("no run.python here", True) == (answer.data["error"], "no run.python here" in answer.text)
    with pytest.raises(Failure, match="run_python needs the argument code or file"):
        agent("run_python", session_id=session_id)
    assert "no such file: a/fs.read.txt" == workspacetext.plain_names("no such file: a/fs.read.txt")


@pytest.mark.parametrize(
    ("name", "arguments", "step"),
    [
        ("fs_read", {}, "Call session_create first"),
        ("fs_read", {"session_id": 7, "path": "x"}, "Call session_create first"),
        ("fs_read", {"session_id": "s", "path": "../x"}, "Give a path relative to the workspace"),
        ("fs_read", {"session_id": "s", "path": "x", "limit": 0}, "Correct that argument"),
        ("fs_read", {"session_id": "s", "path": "x", "foo": 1}, "It takes: session_id, path, offset"),
        ("fs_read", {"session_id": "s"}, "It takes: session_id, path, offset"),
    ],
)
def test_the_next_step_helps(agent: Agent, name: str, arguments: dict[str, Any], step: str) -> None:
    """What the tool takes is told where that helps, and once."""
    with pytest.raises(Failure) as why:
        agent(name, **arguments)
    assert why.value.next_step.startswith(step)
    assert str(why.value).lower().count("it takes") <= 1


def test_files_say_where_and_what_next(agent: Agent, workers: FakeWorkerClient) -> None:
    """fs_write names the path; a folder that is read names fs_list."""
    session_id = agent.session()
    assert "Wrote 3 bytes to a/b." == agent("fs_write", session_id=session_id, path="a/b", contents="xyz").text
    added = agent("fs_write", session_id=session_id, path="a/b", contents="z", append=True)
    assert "Added 1 bytes to a/b." == added.text
    printing(workers, "fs.read", success=False, error="is a folder, not a file: a")
    said = agent("fs_read", session_id=session_id, path="a").text
    assert "is a folder, not a file: a. Use fs_list for what is in it." == said


def test_schemas_are_for_models(workers: FakeWorkerClient) -> None:
    """No markup, no lists of types, and the network is mentioned."""
    for spec in (*workspace_tools(workers.tools()), *all_tools([])):
        told = json.dumps([spec.arguments, spec.returns], ensure_ascii=False)
        assert "``" not in told, spec.name
        assert '"type": [' not in told, spec.name
        assert "description" not in spec.arguments, spec.name
    for name in ("shell", "run_python", "session_create"):
        found = next(one for one in all_tools(workers.tools()) if one.name == name)
        assert "No network except the hosts in allow" in found.description


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[ClientUnderTest]:
    with open_hub(tmp_path) as hub, local_bench(hub, tmp_path) as made:
        yield made


@pytest.mark.slow
def test_real_commands(bench: ClientUnderTest) -> None:
    """A shell, Python, files with letters of several bytes at the page's end, and a timeout, in a sandbox."""
    agent = agent_of(bench)
    session_id = str(agent("session_create", env={"COLOUR": "blue"}).data["session_id"])
    answer = checked(agent, "shell", session_id=session_id, command="echo $COLOUR; echo bad >&2; exit 4")
    assert "blue\n[stderr]\nbad\n[exit code 4]" == answer.text
    text = "x" + "€" * 20_000
    code = "open('f', 'w').write('x' + '€' * 20000); print('done')"
    assert "done" == checked(agent, "run_python", session_id=session_id, code=code).text
    parts, offset = [], 0
    while offset is not None:
        page = checked(agent, "fs_read", session_id=session_id, path="f", offset=offset).data
        parts.append(page["contents"])
        offset = page["next_offset"]
    assert text == "".join(parts)
    long = checked(agent, "shell", session_id=session_id, command="seq 1 100000")
    assert long.text.startswith("1\n2\n3\n")
    assert "\n100000\n[This is not all" in long.text
    assert len(long.text) > 47_000
    kept = agent.services.outputs.find(ANN, long.data["full_output"])
    assert kept is not None
    assert "".join(f"{n}\n" for n in range(1, 100_001)) == kept.text
    pip = checked(agent, "shell", session_id=session_id, command="pip install idna")
    assert (True, 1) == (pip.failed, pip.data["exit_code"])
    assert "use pkg_install" in pip.text
    late = checked(agent, "shell", session_id=session_id, command="sleep 60", timeout_s=0.3)
    assert late.failed
    assert "timed out" in late.text
    assert ".venv" in checked(agent, "fs_list", session_id=session_id).data["entries"]
    names = checked(agent, "fs_list", session_id=session_id, recursive=True).data["entries"]
    assert [] == [name for name in names if name.startswith(".venv/")]
