"""The journal of a session's calls: first results, remembered across restarts, in bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from ghcoord.errors import UsageError
from ghcoord.execution.session import journal as journals
from ghcoord.execution.session.journal import Journal, call_name, content_of
from ghcoord.model.task import TaskResult


def result(text: str) -> TaskResult:
    return TaskResult(success=True, output=text, data={"n": 1})


def test_a_call_is_found_again_also_by_another_process(tmp_path: Path) -> None:
    """What was noted comes back whole, from this object and from one that reads the file."""
    first = Journal(tmp_path / "j")
    assert first.find("key:a", "d") is None
    first.note("key:a", "d", result("one"))
    for journal in (first, Journal(tmp_path / "j")):
        assert result("one") == journal.find("key:a", "d")


def test_another_call_under_the_same_name_is_refused(tmp_path: Path) -> None:
    """The message names the key."""
    journal = Journal(tmp_path / "j")
    journal.note("key:a", content_of("t", {"x": 1}), result("one"))
    with pytest.raises(UsageError, match="another call was made with the key a"):
        journal.find("key:a", content_of("t", {"x": 2}))


def test_a_line_that_was_not_finished_is_passed_over(tmp_path: Path) -> None:
    """The calls around it stay, and what is noted next is read by the next process."""
    path = tmp_path / "j"
    journal = Journal(path)
    journal.note("key:a", "d", result("one"))
    with path.open("ab") as file:
        file.write(b'{"name":"key:b","dig')
    journal = Journal(path)
    journal.note("key:c", "d", result("three"))
    for one in (journal, Journal(path)):
        assert result("one") == one.find("key:a", "d")
        assert one.find("key:b", "d") is None
        assert result("three") == one.find("key:c", "d")


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"{}",
        b"null",
        b"\xff\xfe",
        b'{"forgotten":"x"}',
        b'{"name":1,"digest":"d","result":{"success":true}}',
        b'{"name":"key:x","digest":"d","result":7}',
        b'{"name":"other","digest":"d","result":{"success":true}}',
    ],
)
def test_strange_lines_do_no_harm(tmp_path: Path, line: bytes) -> None:
    """A journal comes out of checkpoints too, which strangers may have written."""
    path = tmp_path / "j"
    path.write_bytes(line + b"\n")
    journal = Journal(path)
    assert 0 == len(journal)
    journal.note("key:a", "d", result("one"))
    assert result("one") == Journal(path).find("key:a", "d")


def test_the_last_calls_are_kept_and_older_numbers_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the oldest goes; its sequence number is refused, not run again, also after a restart."""
    monkeypatch.setattr(journals, "MOST_CALLS", 10)
    journal = Journal(tmp_path / "j")
    for number in range(25):
        journal.note(f"sequence:{number}", "d", result(str(number)))
    for one in (journal, Journal(tmp_path / "j")):
        assert 10 == len(one)
        assert result("24") == one.find("sequence:24", "d")
        assert one.find("sequence:25", "d") is None
        with pytest.raises(UsageError, match=r"14 is older than .* above 24"):
            one.find("sequence:14", "d")


def test_the_file_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is forgotten leaves the file too, and forgotten numbers are still refused by who reads it then."""
    monkeypatch.setattr(journals, "MOST_CALLS", 5)
    path = tmp_path / "j"
    journal = Journal(path)
    for number in range(60):
        journal.note(f"sequence:{number}", "d", result("x" * 20_000))
    assert path.stat().st_size < 700_000
    again = Journal(path)
    assert result("x" * 20_000) == again.find("sequence:57", "d")
    with pytest.raises(UsageError, match="older"):
        again.find("sequence:3", "d")


def test_bytes_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large results push out older ones before there are too many calls."""
    monkeypatch.setattr(journals, "MOST_BYTES", 50_000)
    journal = Journal(tmp_path / "j")
    for number in range(8):
        journal.note(f"key:{number}", "d", result("x" * 20_000))
    assert 2 == len(journal)
    assert journal.find("key:7", "d") is not None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"key": "a", "sequence": 1}, "not both"),
        ({"key": ""}, "1 to 256"),
        ({"key": "x" * 257}, "1 to 256"),
        ({"key": "a\n"}, "printable"),
        ({"key": None, "sequence": -1}, "whole number"),
        ({"key": None, "sequence": True}, "whole number"),
    ],
)
def test_bad_names_of_calls_are_refused(given: dict[str, object], says: str) -> None:
    """One sentence says what is wrong."""
    with pytest.raises(UsageError, match=says):
        call_name(given.get("key"), given.get("sequence"))  # type: ignore[arg-type]


def test_names_of_calls() -> None:
    """A key that looks like a number is another name than the number."""
    assert ("key:7", "sequence:7", None) == (call_name("7", None), call_name(None, 7), call_name(None, None))


def test_a_line_that_is_nested_without_end_is_passed_over(tmp_path: Path) -> None:
    """A checkpoint's journal may be a stranger's: one line of it spoils no other."""
    journal = Journal(tmp_path / "j")
    journal.note("key:a", "d", result("a"))
    with open(tmp_path / "j", "ab") as file:
        file.write(b'{"name": "key:b", "digest": "d", "result": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n")
    assert 1 == len(Journal(tmp_path / "j"))


def test_calls_through_the_hub_are_remembered_for_a_while(tmp_path: Path) -> None:
    """They do not fill the journal, which travels with each checkpoint, and push out no others."""
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.note("key:mine", "d", TaskResult(success=True, output="mine"))
    for number in range(300):
        journal.note(f"task:{number}:7", "d", TaskResult(success=True, output="x" * 60_000))
    for one in (journal, Journal(path)):
        assert 0 < len(one) <= 101
        assert "mine" == getattr(one.find("key:mine", "d"), "output", None)
        assert one.find("task:299:7", "d") is not None
        assert one.find("task:0:7", "d") is None
    assert path.stat().st_size < 10 * 1024 * 1024
