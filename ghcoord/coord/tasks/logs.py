"""A task's output as a follower sees it: continued, with every hole marked and nothing shown twice."""

from __future__ import annotations

from ghcoord.model.task import Progress, Task

MEMORY = 8000
"""Characters of what was shown that a follower remembers, to find its place in the final output."""

OVERLAP = 200
"""Characters that must agree for the final output to be continued from there."""


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
    """Turns successive states of a task into what to print next."""

    def __init__(self) -> None:
        self._attempt = 0
        self._printed = 0
        self._shown = ""

    def next(self, task: Task) -> str:
        """What is new in ``task`` since the last call."""
        text = ""
        if task.progress is not None and not task.ended:
            if self._attempt not in (0, task.attempt):
                text = f"\n[… attempt {task.attempt} …]\n"
                self._printed = 0
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
            return f"\n[… {missed} characters were missed …]\n{progress.tail}"
        return progress.tail[known:]

    def _rest(self, task: Task) -> str:
        if not self._shown:
            return whole_output(task)
        output, errors = kept_output(task)
        last = self._shown[-OVERLAP:]
        at = output.rfind(last)
        rest = output[at + len(last) :] if at >= 0 else ""
        if at < 0 and output[-OVERLAP:] not in self._shown:
            rest = f"\n[… more was printed: 'ghcoord task logs {task.id}' shows what was kept …]\n"
        if errors and errors[-OVERLAP:] not in self._shown:
            rest = _ended(self._shown + rest)[len(self._shown) :] + errors
        return rest
