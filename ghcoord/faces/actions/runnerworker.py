"""A worker whose machine is taken from it: at the end of a job, or when the job is cancelled."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from ghcoord.clock import Runtime
from ghcoord.errors import UsageError
from ghcoord.faces.actions.commands import JobLog
from ghcoord.faces.actions.summary import Summary
from ghcoord.faces.actions.workerreport import WorkerReport

if TYPE_CHECKING:
    from ghcoord.execution.summary import Summary as Done
    from ghcoord.execution.worker import WorkerDaemon

_RANK = {"debug": 0, "info": 1, "warn": 2, "error": 3}
_DRAINING = "draining: "


class RunnerWorker:
    """Runs a daemon and tells of it in ``log`` and ``summary``.

    After ``max_runtime`` seconds it takes nothing new, and ``drain`` seconds
    later what still runs is stopped and given back.  ``warn`` takes what is not
    worth an error.
    """

    report: WorkerReport

    def __init__(
        self,
        runtime: Runtime,
        log: JobLog,
        summary: Summary,
        *,
        max_runtime: float,
        drain: float,
        warn: Callable[[str], object],
    ) -> None:
        self._runtime = runtime
        self._log = log
        self._summary = summary
        self._max_runtime = max_runtime
        self._drain = drain
        self._warn = warn
        self._why = ""
        self._over = runtime.event()
        self._began = runtime.monotonic()

    def take(self, daemon: WorkerDaemon, *, quote: bool) -> None:
        """The daemon to run; ``quote`` repeats in the log what its tasks say."""
        self._daemon = daemon
        self.report = WorkerReport(self._log, daemon.worker_id, quote=quote)
        daemon.on_tick = self.report.on_tick

    def log_lines(self, now: Callable[[], datetime], threshold: str) -> Callable[[str, str], None]:
        """What a daemon tells (level, text)."""
        least = _RANK[threshold]

        def log(level: str, message: str) -> None:
            if message.startswith(_DRAINING):
                self._why = self._why or message.removeprefix(_DRAINING)
            if _RANK.get(level, 1) >= least:
                self._log.line(f"{now():%H:%M:%S} {level:<5} {message}")

        return log

    def run(self) -> Done:
        """Work until the end. Whatever happens, the summary is written."""
        watch = self._runtime.spawn(self._end_in_time, "ghcoord-job-limit")
        try:
            return self._daemon.run()
        finally:
            self._over.set()
            watch.join(timeout=5.0)
            self.report.close()
            self._write()

    def job_cancelled(self) -> None:
        """The runner wants this step to end: called in a thread of its own.

        It sends SIGINT, SIGTERM after 7.5 s, and kills 2.5 s later (documentation
        of cancelling a workflow run).  Ending processes, giving back, and saving
        sessions have to fit, with a second between two writes to GitHub: so
        tasks are not given any time.
        """
        self._why = self._why or "the job was cancelled"
        self._log.line("the job was cancelled: what runs goes back to the queue, sessions are saved")
        self._daemon.cancel()

    def outputs(self) -> dict[str, object]:
        """The outputs of the step."""
        counts = self.report.counts
        return {
            "worker-id": self.report.worker_id,
            "succeeded": counts["succeeded"],
            "failed": counts["failed"],
            "retried": counts["failed, to be retried"],
            "cancelled": counts["cancelled"],
            "refused": counts["refused"],
            "returned": self.report.returned,
            "commits": self._daemon.summary.commits,
            "ended": self._why,
        }

    def _end_in_time(self) -> None:
        if self._over.wait(self._max_runtime):
            return
        self._why = self._why or "its time is over"
        self._log.line("the job's time is nearly over: nothing new is taken")
        self._daemon.stop()
        if not self._over.wait(self._drain):
            self._log.line("time is up: what still runs is stopped and goes back to the queue")
            self._daemon.cancel()

    def _write(self) -> None:
        why = (self._why or "It failed")[:1].upper() + (self._why or "It failed")[1:]
        seconds = self._runtime.monotonic() - self._began
        try:
            self._summary.write(self.report.parts(why, seconds, self._daemon.summary.commits))
        except UsageError as error:
            self._warn(error.message)
