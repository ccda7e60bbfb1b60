"""``test.run``: pytest in the sandbox, its results test by test.

The report that the tests leave behind is hostile input like everything in the
workspace: lines of JSON, read up to a cap, of which only what has the right
types is believed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from ghcoord.errors import GhcoordError, UsageError
from ghcoord.execution.files.beneath import Files
from ghcoord.execution.files.paths import folder_path
from ghcoord.execution.sandbox.base import check_strings
from ghcoord.execution.tools.arguments import Arguments, Returns, Variables, declare, failed
from ghcoord.execution.tools.executing import CommandResult, Commands, exit_error, result_of
from ghcoord.execution.tools.kit import Kit
from ghcoord.model.tool import Tool, ToolContext, ToolResult

REPORT_BYTES = 16 * 1024 * 1024
"""Bytes of a report that are read."""

LINE_BYTES = 64 * 1024
"""Bytes of the longest line of a report that is read: what the runner writes of one test is shorter."""

MOST_BYTES = 128 * 1024
"""Bytes of JSON that the list of tests may have in a result; those that failed go first when not all fit."""

_RUNNER = Path(__file__).with_name("pytest_runner.py")
_FITTING = MOST_BYTES // 60
"""Tests that could fit into a result, at most."""

_COUNTED = {"passed": "passed", "failed": "failed", "error": "errors", "skipped": "skipped"}
_BAD = ("failed", "error")
_NO_TESTS = 5


def _paths(paths: list[str]) -> list[str]:
    for each in paths:
        try:
            folder_path(each.partition("::")[0])
        except UsageError as mistake:
            raise ValueError(mistake.message) from None
    return paths


def _options(args: list[str]) -> list[str]:
    try:
        check_strings(["-", *args], {})
    except UsageError as mistake:
        raise ValueError(mistake.message) from None
    return args


class _Run(Arguments):
    paths: Annotated[list[str], AfterValidator(_paths)] = Field(
        default_factory=list, description="Files, folders or node ids such as tests/test_a.py::test_b; all by default."
    )
    args: Annotated[list[str], AfterValidator(_options)] = Field(
        default_factory=list, description='Options of pytest, such as ["-k", "fast", "-x"].'
    )
    env: Variables = Field(default_factory=dict)


class _Test(Returns):
    name: str
    outcome: str = Field(description="passed, failed, error or skipped; an expected failure counts as skipped.")
    duration: float
    message: str


class _Tested(CommandResult):
    passed: int
    failed: int
    errors: int
    skipped: int
    tests: list[_Test]


def tools(kit: Kit) -> list[Tool]:
    """``test.run``, for a worker with a sandbox that has a Python."""
    if kit.sandbox is None or kit.sandbox.python is None:
        return []
    run = partial(_run, Commands(kit, kit.sandbox))
    return [declare("test.run", "Run pytest in the workspace.", _Run, run, returns=_Tested, sandboxed=True)]


def _run(commands: Commands, args: _Run, ctx: ToolContext) -> ToolResult:
    python = commands.needed_python(ctx)
    home = commands.sandbox.inside(ctx.workspace)
    paths = [f"./{path}" if path.startswith("-") else path for path in args.paths]
    with (
        Files(ctx.workspace, commands.sandbox.identity) as files,
        files.private(_RUNNER.read_bytes(), ".py") as runner,
        files.private(b"", ".jsonl") as report,
    ):
        argv = [python, "-u", f"{home}/{runner}", f"{home}/{report}", "--color=no", *args.args, *paths]
        done = commands.run(ctx, argv, env=args.env)
        try:
            text, size = files.read(report, limit=REPORT_BYTES)
        except GhcoordError as why:
            return replace(result_of(done, ctx, exit_error), success=False, error=f"the report is gone: {why.message}")
    found = _read_report(text)
    if found.missing:
        return failed(f"pytest is not installed here ({found.missing}): call pkg.install with pytest first")
    kept = _fitting(found.tests)
    result = result_of(done, ctx, partial(_error, found))
    return replace(
        result,
        data={**result.data, **{name: found.counts[name] for name in _COUNTED.values()}, "tests": kept},
        truncated=result.truncated or len(kept) < found.counts.total() or size > len(text),
    )


@dataclass
class _Found:
    """What a report says: ``counts`` of all tests, and of them those of which some may go into a result."""

    counts: Counter[str] = field(default_factory=Counter)
    tests: list[dict[str, Any]] = field(default_factory=list)
    missing: str = ""


def _read_report(text: bytes) -> _Found:
    """Line by line, as a report of small lines takes forty times its size once all of it is read."""
    found = _Found()
    room = {True: _FITTING, False: _FITTING}
    for line in _lines(text):
        if "missing" in line and not found.missing:
            found.missing = _clean(str(line["missing"]), 200)
        test = _test(line)
        if test is None:
            continue
        found.counts[_COUNTED[test["outcome"]]] += 1
        bad = test["outcome"] in _BAD
        if room[bad]:
            room[bad] -= 1
            found.tests.append(test)
    return found


def _lines(text: bytes) -> Iterator[dict[str, Any]]:
    at = 0
    while at < len(text):
        end = text.find(b"\n", at)
        start, at = at, len(text) if end < 0 else end + 1
        if at - start > LINE_BYTES:
            continue
        line = text[start:at]
        if b'"name"' not in line and b'"missing"' not in line:
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def _test(line: dict[str, Any]) -> dict[str, Any] | None:
    """One test's result; ``None`` for a line that is none."""
    name, outcome, duration = line.get("name"), line.get("outcome"), line.get("duration")
    if not isinstance(name, str) or not isinstance(outcome, str) or outcome not in _COUNTED:
        return None
    if isinstance(duration, bool) or not isinstance(duration, int | float) or not 0 <= duration < 1e9:
        return None
    message = line.get("message")
    return {
        "name": _clean(name, 1000),
        "outcome": outcome,
        "duration": duration,
        "message": _clean(message, 2000) if isinstance(message, str) else "",
    }


def _clean(text: str, most: int) -> str:
    return text[:most].encode(errors="replace").decode()


def _fitting(tests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As many tests as a result takes, in their order."""
    sizes = [len(json.dumps(test)) + 2 for test in tests]
    if sum(sizes) <= MOST_BYTES:
        return tests
    left = MOST_BYTES
    kept = set()
    for at in sorted(range(len(tests)), key=lambda at: tests[at]["outcome"] not in _BAD):
        left -= sizes[at]
        if left < 0:
            break
        kept.add(at)
    return [test for at, test in enumerate(tests) if at in kept]


def _error(found: _Found, exit_code: int, stderr: str) -> str:
    bad = found.counts["failed"] + found.counts["errors"]
    if bad:
        first = [test["name"] for test in found.tests if test["outcome"] in _BAD][:3]
        names = ", ".join(first) + (", …" if bad > 3 else "")
        return f"{bad} of {found.counts.total()} tests did not pass: {names}"
    if exit_code == _NO_TESTS:
        return "no tests were found: name files with paths, or call them test_*.py"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    told = [line for line in lines if "error:" in line.lower()]
    return (told or lines or [exit_error(exit_code, stderr)])[-1]
