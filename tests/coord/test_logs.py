"""Following a task's output: continued, holes marked, nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from ghcoord.coord.tasks.logs import Follower, FullLogs, whole_output
from ghcoord.model import steps as model
from ghcoord.model.codec import stamp
from ghcoord.model.task import Progress, Task, TaskResult


def running(attempt: int = 1, **progress: Any) -> Task:
    task = model.lease(Task(id="t", tool="shell", created_at=stamp(0), attempt=attempt - 1), "w", now=1, revision=1)
    return task.model_copy(update={"progress": Progress(at=stamp(1), **progress)}) if progress else task


def ended(stdout: str, stderr: str = "") -> Task:
    result = TaskResult(success=True, output=stdout, data={"stdout": stdout, "stderr": stderr})
    return model.finish(running(tail="x", seen=1), result, now=2)


def test_a_tail_that_continues_is_continued() -> None:
    """Only what is new is printed, however the tail has moved on."""
    follower = Follower()
    assert "" == follower.next(running())
    assert "abc" == follower.next(running(tail="abc", seen=3))
    assert "" == follower.next(running(tail="abc", seen=3))
    assert "def" == follower.next(running(tail="cdef", seen=6))


def test_a_hole_is_marked_with_its_size() -> None:
    """What passed between two publications is counted, not glued over."""
    follower = Follower()
    follower.next(running(tail="abc", seen=3))
    assert "\n[… 7 characters were missed …]\nxyz" == follower.next(running(tail="xyz", seen=13))


def test_a_late_follower_says_what_it_missed() -> None:
    """Who begins in the middle is told how much came before."""
    assert "\n[… 10 characters were missed …]\nxyz" == Follower().next(running(tail="xyz", seen=13))


def test_the_end_continues_where_the_tail_stopped() -> None:
    """The result's output is printed from there on, and not again from its start."""
    follower = Follower()
    follower.next(running(tail="line 1\nline 2\n", seen=14))
    assert "line 3\n" == follower.next(ended("line 1\nline 2\nline 3\n"))


def test_the_end_of_two_streams_continues_each() -> None:
    """What was shown of both, mixed as it came, is not repeated, and what is left of each is printed."""
    follower = Follower()
    follower.next(running(tail="o\ne\n", seen=4))
    assert "o2\ne2\n" == follower.next(ended("o\no2\n", "e\ne2\n"))


def test_an_end_that_cannot_be_joined_is_marked() -> None:
    """When the result does not hold what was shown last, a line says where to find what was kept."""
    follower = Follower()
    follower.next(running(tail="line 1\n", seen=7))
    assert "more was printed" in follower.next(ended("something else\n"))


def test_errors_are_shown_once() -> None:
    """Standard error that was not part of the tail comes at the end; what was shown is not repeated."""
    first, second = Follower(), Follower()
    first.next(running(tail="out\n", seen=4))
    assert "oops\n" == first.next(ended("out\n", "oops\n"))
    second.next(running(tail="out\noops\n", seen=9))
    assert "" == second.next(ended("out\n", "oops\n"))


def test_another_attempt_is_announced() -> None:
    """A retry's output begins anew, with a line that says so."""
    follower = Follower()
    follower.next(running(tail="first\n", seen=6))
    assert "\n[… attempt 2 …]\nagain\n" == follower.next(running(2, tail="again\n", seen=6))


def test_without_following_all_that_was_kept_is_shown() -> None:
    """An ended task shows both streams, a running one its tail."""
    assert "out\nerr\n" == whole_output(ended("out", "err"))
    assert "tail" == whole_output(running(tail="tail", seen=4))


class _Stored:
    """Has the whole output of every task."""

    def __init__(self, text: str) -> None:
        self._text = text

    def of(self, task: Task) -> Iterator[str] | None:
        return iter([self._text[:5], self._text[5:]])


def whole(text: str) -> FullLogs:
    return cast(FullLogs, _Stored(text))


LINES = "".join(f"line {number}\n" for number in range(100))


def test_a_whole_output_is_continued_exactly() -> None:
    """Both streams in the order in which they came, from the character that was shown last."""
    for seen in (0, 7, 350, len(LINES)):
        follower = Follower(whole(LINES))
        first = follower.next(running(tail=LINES[:seen][-300:], seen=seen)) if seen else ""
        rest = follower.next(ended("cut", "elsewhere"))
        pointer = "[… all of it: 'ghcoord task logs t' …]\n"
        assert LINES[seen:] + (pointer if seen > 300 else "") == rest
        assert (
            LINES == first + rest if seen <= 300 else LINES.endswith(first.partition("…]\n")[2] + rest[: -len(pointer)])
        )


def test_the_rest_after_what_was_left_out() -> None:
    """Where the middle of the whole output is gone, what was shown last is looked for; else a line tells."""
    cut = LINES[:100] + "\n[… 500 bytes left out …]\n" + LINES[-150:]
    follower = Follower(whole(cut))
    follower.next(running(tail=LINES[-60:-30], seen=len(LINES) - 30))
    assert follower.next(ended("cut")).startswith(LINES[-30:] + "[… all of it")
    lost = Follower(whole(cut))
    lost.next(running(tail=LINES[200:260], seen=260))
    assert "more was printed" in lost.next(ended("cut"))


def test_the_whole_output_of_another_attempt() -> None:
    """Is announced and shown from its beginning."""
    follower = Follower(whole(LINES))
    follower.next(running(tail="first\n", seen=6))
    last = ended("cut").model_copy(update={"attempt": 2})
    assert f"\n[… attempt 2 …]\n{LINES}" == follower.next(last)
