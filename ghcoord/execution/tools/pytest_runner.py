"""Runs pytest inside the sandbox and reports each test as a line of JSON. Started as a file: report, then arguments.

It runs under the environment's interpreter, whichever that is, and imports
nothing of ghcoord.  What lies in the workspace must not stand in for modules of
the standard library that this file needs, so they are imported first.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pytest

HERE = sys.path.pop(0)

import json  # noqa: E402
import os  # noqa: E402

sys.path.insert(0, HERE)

MESSAGE = 2000
"""Characters of a test's message that are reported."""


class Report:
    """A plug-in of pytest that writes what comes of each test."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND)

    def say(self, **fields: object) -> None:
        """Write one line."""
        os.write(self.fd, (json.dumps(fields) + "\n").encode())

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be collected is an error of its own."""
        if report.failed:
            self.say(name=report.nodeid, outcome="error", duration=0.0, message=_message(report))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One line a test, and another when what follows it fails."""
        if report.when != "call" and report.passed:
            return
        outcome = "error" if report.when != "call" and report.failed else report.outcome
        self.say(name=report.nodeid, outcome=outcome, duration=round(report.duration, 6), message=_message(report))


def _message(report: pytest.CollectReport | pytest.TestReport) -> str:
    if getattr(report, "wasxfail", ""):
        return "expected to fail: " + str(report.wasxfail)[:MESSAGE]
    if report.outcome == "passed":
        return ""
    what = report.longrepr
    if isinstance(what, tuple):
        return str(what[-1])[:MESSAGE]
    crash = getattr(what, "reprcrash", None)
    return str(crash.message if crash is not None else what)[:MESSAGE]


def main() -> int:
    """Run; the exit code is pytest's."""
    report = Report(sys.argv[1])
    try:
        import pytest
    except ImportError as why:
        report.say(missing=str(why))
        return 4
    return int(pytest.main(sys.argv[2:], plugins=[report]))


if __name__ == "__main__":
    sys.exit(main())
