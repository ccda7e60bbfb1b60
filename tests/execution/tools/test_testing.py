"""``test.run``: results test by test, and a report that the tests may have forged."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from ghcoord.errors import UsageError
from ghcoord.execution.environment.make import make_environment
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.execution.tools import testing
from ghcoord.execution.tools.kit import Kit
from ghcoord.execution.tools.registry import builtin_tools
from ghcoord.model.tool import Tool, ToolResult
from tests.execution.tools.conftest import RUNTIME, Call, Context, named

SUITE = """
import pytest

def test_good():
    print("said")

def test_bad():
    assert 1 == 2, "because"

@pytest.mark.skip(reason="not today")
def test_skipped(): ...

@pytest.mark.xfail(reason="known")
def test_expected():
    assert False

@pytest.fixture
def broken():
    raise ValueError("no set-up")

def test_error(broken): ...

@pytest.fixture
def late():
    yield
    raise ValueError("no tear-down")

def test_late(late): ...
"""


@pytest.fixture(scope="module")
def packages() -> Iterator[Path]:
    """pytest and what it needs, copied from here, since nothing is downloaded."""
    folder = Path(tempfile.mkdtemp(prefix="ghcoord-test-"))
    folder.chmod(0o755)
    for name in ("pytest", "pluggy", "iniconfig", "packaging", "pygments"):
        for file in distribution(name).files or ():
            if ".." not in file.parts:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(file.locate()), folder / file)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def run(session: Context, kit: Kit, bwrap: Sandbox, packages: Path) -> Call:
    """Run the tests of a session in which pytest is installed."""
    target = next(make_environment(session.workspace, bwrap, RUNTIME).glob("lib/python*/site-packages"))
    shutil.copytree(packages, target, copy_function=os.link, dirs_exist_ok=True)
    tool = named(builtin_tools(replace(kit, sandbox=bwrap)))["test.run"]
    return lambda **args: tool.run(args, session)


def test_each_test_has_its_result(run: Call, session: Context) -> None:
    """Name, outcome, duration and message; counts; the tool's own files are gone afterwards."""
    (session.workspace / "test_it.py").write_text(SUITE)
    result = run()
    data = result.data
    assert (False, 1) == (result.success, result.exit_code)
    assert (
        "3 of 7 tests did not pass: test_it.py::test_bad, test_it.py::test_error, test_it.py::test_late" == result.error
    )
    assert (2, 1, 2, 2) == (data["passed"], data["failed"], data["errors"], data["skipped"])
    assert [
        ("test_good", "passed", ""),
        ("test_bad", "failed", "AssertionError: because\nassert 1 == 2"),
        ("test_skipped", "skipped", "Skipped: not today"),
        ("test_expected", "skipped", "expected to fail: known"),
        ("test_error", "error", "ValueError: no set-up"),
        ("test_late", "passed", ""),
        ("test_late", "error", "ValueError: no tear-down"),
    ] == [(test["name"].removeprefix("test_it.py::"), test["outcome"], test["message"]) for test in data["tests"]]
    assert all(0 <= test["duration"] < 10 for test in data["tests"])
    assert "test_it.py .Fs" in result.output
    assert [] == [path.name for path in session.workspace.iterdir() if path.name.startswith(".ghcoord")]


@pytest.mark.slow
def test_paths_and_options_choose(run: Call, session: Context) -> None:
    """Node ids, options, variables; a folder whose name looks like an option is a folder."""
    (session.workspace / "test_it.py").write_text(SUITE)
    (session.workspace / "-x").mkdir()
    (session.workspace / "-x/test_env.py").write_text("import os\ndef test_env(): assert os.environ['A'] == 'b'\n")
    result = run(paths=["test_it.py::test_good"])
    assert (True, "", 1, 0) == (result.success, result.error, result.data["passed"], result.data["failed"])
    assert ["test_it.py::test_good"] == [test["name"] for test in run(args=["-k", "good"]).data["tests"]]
    assert ["-x/test_env.py::test_env"] == [test["name"] for test in run(paths=["-x"], env={"A": "b"}).data["tests"]]


@pytest.mark.parametrize(
    ("files", "args", "error"),
    [
        ({}, {}, "no tests were found: name files with paths, or call them test_*.py"),
        ({"test_a.py": "import nothing"}, {}, "1 of 1 tests did not pass: test_a.py"),
        pytest.param({}, {"paths": ["no.py"]}, "ERROR: file or directory not found: no.py", marks=pytest.mark.slow),
        pytest.param({}, {"args": ["--no-such"]}, "unrecognized arguments: --no-such", marks=pytest.mark.slow),
    ],
)
def test_what_is_no_failed_test(
    run: Call, session: Context, files: dict[str, str], args: dict[str, Any], error: str
) -> None:
    """Nothing found, a file that cannot be imported, and mistakes in the call each say so."""
    for name, text in files.items():
        (session.workspace / name).write_text(text)
    result = run(**args)
    assert (False, True) == (result.success, error in result.error), result.error


def test_modules_of_the_workspace_do_not_stand_in_for_ours(run: Call, session: Context) -> None:
    """A file called json.py beside the tests breaks neither the report nor the run."""
    (session.workspace / "test_it.py").write_text("def test_good(): ...\n")
    (session.workspace / "json.py").write_text("raise ValueError('not the real one')\n")
    result = run()
    assert (True, 1) == (result.success, result.data["passed"]), result


@pytest.mark.slow
def test_the_report_may_be_gone(run: Call, session: Context) -> None:
    """A test that removes it, or puts something else there, fails the call in words and is not waited for."""
    for act in ("unlink()", "unlink() or os.mkfifo(path)", "unlink() or path.symlink_to('/etc/passwd')"):
        (session.workspace / "test_it.py").write_text(
            f"import os, pathlib\ndef test_a():\n    path = next(pathlib.Path().glob('.ghcoord-*l'))\n    path.{act}\n"
        )
        result = run()
        assert (False, True) == (result.success, result.error.startswith("the report is gone: ")), result


def test_without_pytest_the_way_to_it_is_told(session: Context, kit: Kit, bwrap: Sandbox) -> None:
    """The error names the tool that installs it."""
    tool = named(builtin_tools(replace(kit, sandbox=bwrap)))["test.run"]
    assert (
        "pytest is not installed here (No module named 'pytest'): call pkg.install with pytest first"
        == tool.run({}, session).error
    )


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"paths": "a"}, "paths must be a list of strings, not a string"),
        ({"paths": ["/a.py"]}, "path must be relative to workspace root, got absolute path: /a.py"),
        ({"paths": ["a/../../b.py::test"]}, "path traversal not allowed: a/../../b.py"),
        ({"args": ["a\0"]}, "an argument contains a NUL character"),
        ({"args": [1]}, "each of args must be a string, not a number"),
        ({"env": {"A=": ""}}, "bad environment variable 'A='"),
        ({"verbose": True}, "test.run has no argument 'verbose': it takes paths, args, env"),
    ],
)
def test_bad_arguments(plain: dict[str, Tool], ctx: Context, args: dict[str, Any], error: str) -> None:
    """Each is told in a sentence."""
    with pytest.raises(UsageError) as refusal:
        plain["test.run"].check(args)
    assert error in refusal.value.message
    assert ToolResult(False, error=refusal.value.message) == plain["test.run"].run(args, ctx)


# -- a forged report


def line(**fields: object) -> dict[str, object]:
    """A line of a report."""
    return {"name": "a", "outcome": "passed", "duration": 0.5, "message": "", **fields}


def test_only_lines_of_the_right_types_count() -> None:
    """Anything else that a task may write into the report is left out."""
    lines = [
        line(),
        line(name=5),
        line(outcome="splendid"),
        line(outcome=["passed"]),
        line(duration="1"),
        line(duration=-1),
        line(duration=True),
        line(duration=float("nan")),
        line(message=["x"], name="\ud800"),
        [],
        "text",
    ]
    text = b"\xff\n{\n" + b"[" * 100_000 + b"\n" + "\n".join(map(json.dumps, lines)).encode()
    found = [test for each in testing._lines(text) if (test := testing._test(each)) is not None]
    assert [("a", ""), ("?", "")] == [(test["name"], test["message"]) for test in found]


def test_long_lists_are_cut_to_what_failed() -> None:
    """Of what does not fit, failures stay; names and messages are bounded."""
    tests = [
        testing._test(line(name=f"{at}", message="m" * 5000, outcome="failed" if at > 900 else "passed"))
        for at in range(1000)
    ]
    kept = testing._fitting([test for test in tests if test is not None])
    assert 0 < len(json.dumps(kept)) <= testing.MOST_BYTES
    assert {"failed"} == {test["outcome"] for test in kept}
    assert 2000 == len(kept[0]["message"])


def test_a_report_is_read_line_by_line() -> None:
    """All tests count, few are kept, and the failed ones go first; what is no line of the runner's costs nothing."""
    line = {"name": "t", "outcome": "passed", "duration": 0}
    good, bad = json.dumps(line).encode(), json.dumps({**line, "outcome": "failed"}).encode()
    lines = [good] * (testing._FITTING + 10) + [
        b"{}",
        b"[" * 500,
        b'["name"',
        b'["name"]',
        b'"name"',
        bad + b" " * 70_000,
    ]
    found = testing._read_report(b"\n".join([*lines, bad]))
    assert (testing._FITTING + 10, 1) == (found.counts["passed"], found.counts["failed"])
    assert testing._FITTING + 1 == len(found.tests)
    assert "failed" in [test["outcome"] for test in testing._fitting(found.tests)]
    assert f"1 of {testing._FITTING + 11} tests did not pass: t" == testing._error(found, 1, "")
    surrogate = testing._read_report(b'{"missing": "\\ud800"}\n{"missing": "later"}')
    assert "?" == surrogate.missing
