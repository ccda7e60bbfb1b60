"""A task's output as a follower sees it: continued, with every hole marked and nothing shown twice."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ghcoord.errors import Corrupt, NewerSchema, NotFound, UsageError
from ghcoord.model.artifact import LOG_NAME, LOG_TYPE, Artifact
from ghcoord.model.task import Progress, Task

if TYPE_CHECKING:
    from ghcoord.coord.artifacts.artifacts import Artifacts

MEMORY = 8000
"""Characters of what was shown that a follower remembers, to find its place in the final output."""

READINGS = 64
"""Ways in which what was shown may divide into the two streams that are kept in mind."""

OVERLAP = 200
"""Characters that must agree for the final output to be continued from there."""


class FullLogs:
    """The whole outputs of tasks whose records keep only a part: artifacts that their workers stored."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts

    def of(self, task: Task) -> Iterator[str] | None:
        """The output of the last attempt of ``task`` in pieces; ``None`` where only its record has it.

        Both streams, as they came.  Asks nothing for a task whose record has all.
        """
        if task.result is None or not task.result.truncated or not task.result.artifacts:
            return None
        found = self._log(task, task.result.artifacts[-1])
        if found is None:
            return None
        try:
            return _decoded(self._artifacts.open(found.id))
        except (Corrupt, NotFound, UsageError):
            return None  # the record still has its part

    def _log(self, task: Task, artifact_id: str) -> Artifact | None:
        try:
            found = self._artifacts.get(artifact_id)
        except (Corrupt, NewerSchema, UsageError):
            return None
        ours = found is not None and (found.name, found.content_type, found.task_id) == (LOG_NAME, LOG_TYPE, task.id)
        return found if ours else None


def _decoded(pieces: Iterator[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in pieces:
        yield decoder.decode(piece)
    if rest := decoder.decode(b"", final=True):
        yield rest


def kept_output(task: Task) -> tuple[str, str]:
    """What the result keeps of standard output and standard error."""
    if task.result is None:
        return "", ""
    data = task.result.data
    return str(data.get("stdout", task.result.output)), str(data.get("stderr", ""))


def whole_output(task: Task) -> str:
    """The output of the last attempt: what its result keeps, or the tail that its worker last published."""
    if task.result is not None and (task.ended or task.progress is None):
        return "".join(_ended(part) for part in kept_output(task))
    return task.progress.tail if task.progress is not None else ""


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


class Follower:
    """Turns successive states of a task into what to print next; ``full`` has whole outputs."""

    def __init__(self, full: FullLogs | None = None) -> None:
        self._full = full
        self._attempt = 0
        self._printed = 0
        self._joined = 0
        self._missed = False
        self._shown = ""

    def next(self, task: Task) -> str:
        """What is new in ``task`` since the last call."""
        text = ""
        if task.progress is not None and not task.ended:
            if self._attempt not in (0, task.attempt):
                text = f"\n[… attempt {task.attempt} …]\n"
                self._printed = self._joined = 0
            self._attempt = task.attempt
            text += self._continued(task.progress)
        elif task.ended:
            text = self._rest(task)
        self._shown = (self._shown + text)[-MEMORY:]
        return text

    def _continued(self, progress: Progress) -> str:
        begins = progress.seen - len(progress.tail)
        missed, known = begins - self._printed, self._printed - begins
        self._printed = max(self._printed, progress.seen)
        if missed > 0:
            self._joined = len(progress.tail)
            self._missed = True
            return f"\n[… {missed} characters were missed …]\n{progress.tail}"
        self._joined += len(progress.tail[known:])
        return progress.tail[known:]

    def _rest(self, task: Task) -> str:
        whole = self._full.of(task) if self._full is not None else None
        if whole is not None:
            return self._rest_of_whole("".join(whole), task)
        if not self._shown:
            return whole_output(task)
        output, errors = kept_output(task)
        at = self._shown_of(output, errors, task)
        if at is not None:
            return self._joined_rest(output[at:], errors[len(self._shown) - at :])
        last = self._shown[-OVERLAP:]
        at = output.rfind(last)
        rest = output[at + len(last) :] if at >= 0 else ""
        if at < 0 and output[-OVERLAP:] not in self._shown:
            rest = f"\n[… more was printed: 'ghcoord task logs {task.id}' shows what was kept …]\n"
        return self._joined_rest(rest, errors if errors[-OVERLAP:] not in self._shown else "")

    def _joined_rest(self, rest: str, errors: str) -> str:
        return _ended(self._shown + rest)[len(self._shown) :] + errors if errors else rest

    def _shown_of(self, output: str, errors: str, task: Task) -> int | None:
        """How much of ``output`` was shown, the rest being of ``errors``; ``None`` where that cannot be told.

        What was shown is both in the order in which they came; where they
        agree either reading has the same text left.
        """
        if self._missed or self._joined != len(self._shown) or self._attempt not in (0, task.attempt):
            return None
        places = {0}
        for seen, letter in enumerate(self._shown):
            of_output = {at + 1 for at in places if output[at : at + 1] == letter}
            of_errors = {at for at in places if errors[seen - at : seen - at + 1] == letter}
            places = set(sorted(of_output | of_errors)[-READINGS:])
        return max(places, default=None)

    def _rest_of_whole(self, text: str, task: Task) -> str:
        """What comes after the part of ``text`` that was shown: both streams in the order in which they came."""
        if self._attempt not in (0, task.attempt):
            return f"\n[… attempt {task.attempt} …]\n{_ended(text)}"
        last = self._shown[-min(OVERLAP, self._joined) :] if self._joined else ""
        at = self._printed - len(last)
        if at < 0 or text[at : self._printed] != last:
            at = text.rfind(last)  # something was left out before it
        if at >= 0:
            rest = _ended(text[at + len(last) :])
            return rest + f"[… all of it: 'ghcoord task logs {task.id}' …]\n" if self._missed else rest
        return f"\n[… more was printed: 'ghcoord task logs {task.id}' shows it …]\n"
