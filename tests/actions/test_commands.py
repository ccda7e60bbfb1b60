"""What records say gives no command to a runner, breaks no file of it, and is no markup in its summary."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from ghcoord.coord.workers.tick import Beat, Finished, Reply, Returned
from ghcoord.errors import UsageError
from ghcoord.faces.actions.annotations import SHOWN, Annotations
from ghcoord.faces.actions.commands import JobLog, command, harmless
from ghcoord.faces.actions.environment import JobEnvironment, hidden, write_outputs
from ghcoord.faces.actions.summary import MAX_BYTES, Summary, code, table
from ghcoord.faces.actions.workerreport import MAX_ROWS, WorkerReport
from ghcoord.model.task import TaskResult
from ghcoord.testing.clock import ManualRuntime
from tests.actions.commands import Obeyed, read_pairs

HOSTILE = (
    "::error::x",
    "  ::set-output name=a::b",
    "a\n::add-mask::e\n##[group]x",
    "\r::stop-commands::x\r",
    "##[error]x",
    "x ##[add-path]/evil",
    "\x1b]0;title\x07\u202e",
    "100%25 %0A::error::",
    ":" * 9,
    "::quoted-" + "0" * 32 + "::",
    "\u2028::error::x\x85::error::y\x0b::error::z",
)


def obeyed(text: str) -> Obeyed:
    """What a runner does with everything that was written; it ends lines at a carriage return too."""
    found = Obeyed()
    for line in re.split(r"\r\n|\r|\n", text):
        found.line(line)
    return found


@settings(max_examples=50)
@given(some.text(), some.text(alphabet=":,%=;]\r\nab") | some.sampled_from(HOSTILE))
def test_a_command_reaches_the_runner_as_it_was_meant(title: str, message: str) -> None:
    """Escapes survive the runner's reading, with every character in data and properties."""
    line = command("warning", message, title=title.strip())
    assert 1 == len(re.split(r"\r\n|\r|\n", line))
    (one,) = obeyed(line).annotations
    assert message == one.message
    assert title.strip() == one.properties.get("title", "")


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_quoted_gives_no_command(text: str) -> None:
    """Lines and quotations of records are obeyed by nobody, and commands work again afterwards."""
    written: list[str] = []
    log = JobLog(written.append, ManualRuntime().randbits)
    log.line(text)
    log.quote(text)
    with log.group(text):
        log.quote(f"{text}\n{text}")
    log.annotate("error", "mine", text)
    found = obeyed("".join(written))
    assert (1, 1, 0, None) == (len(found.groups), len(found.annotations), found.open_groups, found.stopped)
    assert ([], [], "mine") == (found.masks, found.others, found.annotations[0].properties["title"])
    assert not set("\x1b\x07\u202e\x85\x0b\u2028") & set("".join(written))


@settings(max_examples=50)
@given(some.text())
def test_no_line_of_a_record_is_a_command(text: str) -> None:
    """Whatever the text, a line of it is one line, and none that a runner obeys."""
    line = harmless(text)
    assert "\n" not in line
    assert not Obeyed().line(line)
    assert not Obeyed().line(f"12:00:00 info  {line}")


def test_what_is_quoted_cannot_know_the_end_of_its_quotation() -> None:
    """Every quotation has a token of its own, out of 128 bits of chance."""
    written: list[str] = []
    log = JobLog(written.append, ManualRuntime().randbits)
    for _ in range(3):
        log.quote("x")
    tokens = re.findall(r"::stop-commands::(\S+)", "".join(written))
    assert 3 == len(set(tokens))
    assert all(re.fullmatch(r"quoted-[0-9a-f]{32}", one) for one in tokens)


def test_annotations_keep_within_what_is_shown() -> None:
    """Of 25 errors nine are shown and one says how many more; a tenth alone is shown itself."""
    written: list[str] = []
    annotations = Annotations(JobLog(written.append, ManualRuntime().randbits))
    for number in range(25):
        annotations.add("error", f"task {number}", "x" * 5000)
    for number in range(SHOWN):
        annotations.add("warning", f"task {number}", "y")
    annotations.close()
    found = obeyed("".join(written)).annotations
    errors = [one.properties["title"] for one in found if one.level == "error"]
    assert [*[f"task {number}" for number in range(9)], "16 more tasks"] == errors
    assert [f"task {number}" for number in range(10)] == [
        one.properties["title"] for one in found if one.level == "warning"
    ]
    assert max(len(one.message) for one in found) == 2000


@settings(max_examples=50)
@given(some.lists(some.text() | some.sampled_from((*HOSTILE, "EOF", "a<<b", "=", "\n\n")), max_size=4))
def test_outputs_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, values: list[str]) -> None:
    """No value ends its output early or begins another."""
    file = tmp_path_factory.mktemp("output") / "output"
    given = {f"v{at}": value for at, value in enumerate(values)}
    write_outputs(file, {**given, "last": True}, ManualRuntime().randbits)
    assert {**given, "last": "true"} == read_pairs(file)


def test_outputs_without_a_file_are_nothing_and_a_bad_file_is_an_error(tmp_path: Path) -> None:
    """Outside of a job there is no file; one that cannot be written is named."""
    write_outputs(None, {"a": 1}, ManualRuntime().randbits)
    with pytest.raises(UsageError, match="GITHUB_OUTPUT cannot be written"):
        write_outputs(tmp_path, {"a": 1}, ManualRuntime().randbits)
    with pytest.raises(UsageError, match="GITHUB_STEP_SUMMARY cannot be written"):
        Summary(tmp_path).write(["x"])


@settings(max_examples=50)
@given(some.text(min_size=1) | some.sampled_from(HOSTILE))
def test_no_text_is_markup_in_the_summary(text: str) -> None:
    """In code only letters, digits, blanks and numbered characters are left: no table, link, tag or mention."""
    inside = code(text, 50).removeprefix("<code>").removesuffix("</code>")
    assert re.fullmatch(r"(?:[A-Za-z0-9 ]|&#\d+;)*", inside)


def test_a_summary_keeps_what_stood_there_and_within_its_size(tmp_path: Path) -> None:
    """What others wrote stays, what this process wrote is replaced, and too much is cut between parts."""
    file = tmp_path / "summary"
    file.write_text("before\n")
    summary = Summary(file)
    summary.write(["old and long\n"])
    summary.write(["new\n"])
    assert "before\nnew\n" == file.read_text()
    summary.write(table(("a", "b"), (("x" * 1000, code("|")) for _ in range(5000))))
    assert MAX_BYTES - 2000 < file.stat().st_size <= MAX_BYTES
    assert file.read_text().endswith("\n*There is more than a summary can show.*\n")
    Summary(None).write(["nowhere"])


def test_what_a_job_knows_of_itself() -> None:
    """The hub is that of the repository, on its own server; the run names worker and actor; outside nothing does."""
    job = JobEnvironment.of({"GITHUB_REPOSITORY": "me/hub", "GITHUB_RUN_ID": "7", "GITHUB_ACTOR": "ann"})
    assert ("github:me/hub", "https://github.com/me/hub/actions/runs/7", "ann@run-7.1", "run-7-1-x") == (
        job.hub,
        job.run_url,
        job.who,
        job.worker_id("x"),
    )
    own = JobEnvironment.of({"GITHUB_REPOSITORY": "me/hub", "GITHUB_SERVER_URL": "https://git.example.org"})
    assert "github://git.example.org/me/hub" == own.hub
    outside = JobEnvironment.of({})
    assert (None, None, None, None, {}) == (
        outside.hub,
        outside.run_url,
        outside.who,
        outside.worker_id("x"),
        outside.labels(),
    )
    assert None is JobEnvironment.of({"GITHUB_RUN_ID": "7; rm"}).worker_id("x")
    names = ["GITHUB_ENV", "GITHUB_TOKEN", "ACTIONS_RUNTIME_TOKEN", "PATH", "GITHUB_STEP_SUMMARY"]
    assert ["GITHUB_ENV", "ACTIONS_RUNTIME_TOKEN", "GITHUB_STEP_SUMMARY"] == hidden(names)


def test_a_report_of_very_many_tasks() -> None:
    """Everything is counted; listed are the first that failed and the latest of the others, failed ones first."""
    written: list[str] = []
    report = WorkerReport(JobLog(written.append, ManualRuntime().randbits), "w1")
    for number in range(2 * MAX_ROWS):
        ended = [
            Finished(f"good{number}", 1, TaskResult(success=True, output="::error::no", duration=0.5)),
            Finished(f"bad{number}", 1, TaskResult(success=False, error=f"reason {number}")),
            Finished(f"late{number}", 1, TaskResult(success=True)),
        ]
        back = [Returned(f"back{number}", 1, "its worker\n::error::was stopped")]
        report.on_tick(
            Beat("w1", 1, finished=ended, returned=back), Reply(refused={f"late{number}": "the lease is lost"})
        )
    report.close()
    many = 2 * MAX_ROWS
    assert {"succeeded": many, "failed": many, "refused": many} == dict(report.counts)
    assert many == report.returned
    text = "".join(report.parts("The hub is idle", 61.0, 1))
    assert f"{many} succeeded; {many} failed; {many} refused; {many} given back. The hub is idle, after 1m01s." in text
    assert "\n1 commit\n" in text
    assert f"\n{many * 3 - 2 * MAX_ROWS} more are not listed.\n" in text
    assert 2 * MAX_ROWS == text.count("\n| <code>")
    assert text.index("<code>bad0<") < text.index(f"good{many - 1}<")
    found = obeyed("".join(written))
    assert {"error": 10, "warning": 10} == {
        level: sum(one.level == level for one in found.annotations) for level in ("error", "warning")
    }
    assert (0, []) == (found.open_groups, found.others)
