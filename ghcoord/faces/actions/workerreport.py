"""What a worker on a runner tells of its tasks: in the log, as annotations, and in the job's summary."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ghcoord.faces.actions.annotations import MAX_MESSAGE, Annotations, cut
from ghcoord.faces.actions.commands import JobLog, Level
from ghcoord.faces.actions.summary import code, table
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from ghcoord.coord.workers.tick import Beat, Finished, Reply
    from ghcoord.model.task import Task

MAX_ROWS = 500
"""Tasks of each kind that the summary lists: the failed ones from the first on, of the others the latest."""

OUTCOMES = ("succeeded", "failed", "failed, to be retried", "cancelled", "refused")


@dataclass(frozen=True, slots=True)
class Ended:
    """How one attempt ended, as the summary lists it."""

    task_id: str
    tool: str
    attempt: int
    outcome: str
    seconds: float
    error: str


class WorkerReport:
    """Hears of each tick of a daemon (``on_tick``) and tells of what ended. Used by the daemon's thread alone."""

    def __init__(self, log: JobLog, worker_id: str, *, quote: bool = True) -> None:
        self.worker_id = worker_id
        self.counts: Counter[str] = Counter()
        self.returned = 0
        self._log = log
        self._quote = quote
        self._annotations = Annotations(log)
        self._leased: dict[str, Task] = {}
        self._cancelled: set[str] = set()
        self._failed: list[Ended] = []
        self._others: deque[Ended] = deque(maxlen=MAX_ROWS)
        self._sessions: set[str] = set()

    def on_tick(self, request: Beat, reply: Reply) -> None:
        """Take what the hub has taken."""
        self._sessions.update(reply.sessions)
        for finished in request.finished:
            self._end(finished, reply.refused.get(finished.task_id))
        for returned in request.returned:
            self.returned += 1
            self._leased.pop(returned.task_id, None)
            self._log.line(f"task {returned.task_id} goes back to the queue: {returned.reason}")
        # A task that failed may be leased again in the same tick.
        self._leased.update((task.id, task) for task in reply.leased)
        self._cancelled.update(reply.cancel)

    @property
    def failed(self) -> int:
        """Tasks that failed for good."""
        return self.counts["failed"]

    def close(self) -> None:
        """Tell what was kept back. Call it once, at the end."""
        self._annotations.close()

    def _end(self, finished: Finished, refused: str | None) -> None:
        task = self._leased.pop(finished.task_id, None)
        result = finished.result
        if refused is not None:
            outcome = "refused"
        elif result.success:
            outcome = "succeeded"
        elif finished.task_id in self._cancelled:
            outcome = "cancelled"
        elif task is not None and task.failures + 1 < task.max_failures:
            outcome = "failed, to be retried"
        else:
            outcome = "failed"
        self._cancelled.discard(finished.task_id)
        error = refused if refused is not None else result.error
        ended = Ended(
            finished.task_id,
            "" if task is None else task.tool,
            0 if task is None else task.attempt,
            outcome,
            result.duration,
            cut(error, MAX_MESSAGE),
        )
        self.counts[outcome] += 1
        self._tell(ended, result.output)

    def _tell(self, ended: Ended, output: str) -> None:
        what = f"task {ended.task_id}{f' ({ended.tool})' if ended.tool else ''}"
        with self._log.group(f"{what} {ended.outcome} in {format_duration(ended.seconds)}"):
            said = [output.removesuffix("\n")] if self._quote and output else []
            if said or ended.error:
                self._log.quote("\n".join([*said, *([f"error: {ended.error}"] if ended.error else [])]))
        if ended.outcome in ("succeeded", "cancelled"):
            self._others.append(ended)
            return
        level: Level = "error" if ended.outcome == "failed" else "warning"
        self._annotations.add(level, f"{what} {ended.outcome}", ended.error or "no reason was given")
        if len(self._failed) < MAX_ROWS:
            self._failed.append(ended)

    # -- the summary

    def parts(self, why: str, seconds: float, commits: int) -> Iterator[str]:
        """The summary in pieces, the most important first; ``why`` says why the worker ended, in words of ours."""
        yield f"### Worker {code(self.worker_id)}\n\n"
        told = [f"{self.counts[outcome]} {outcome}" for outcome in OUTCOMES if self.counts[outcome]]
        told += [f"{self.returned} given back"] if self.returned else []
        yield f"{'; '.join(told) or 'No task was there to run'}. {why}, after {format_duration(round(seconds))}.\n"
        extra = [f"{commits} commit{'' if commits == 1 else 's'}"]
        if self._sessions:
            extra.append(f"{len(self._sessions)} session{'' if len(self._sessions) == 1 else 's'}")
        yield f"\n{', '.join(extra)}\n"
        yield from _rows(self._failed)
        left = sum(self.counts.values()) - len(self._failed) - len(self._others)
        if left:
            yield f"\n{left} more are not listed.\n"
        yield from _rows(list(self._others))


def _rows(ended: list[Ended]) -> Iterator[str]:
    yield from table(
        ("task", "tool", "outcome", "attempt", "took", "error"),
        (
            (
                code(one.task_id),
                code(one.tool),
                one.outcome,
                str(one.attempt or ""),
                format_duration(one.seconds),
                code(one.error),
            )
            for one in ended
        ),
    )
