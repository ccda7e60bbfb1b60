"""Tasks as their submitters see them: submit, look, wait, change."""

from __future__ import annotations

from ghcoord.coord.context import Context
from ghcoord.coord.tasks.bulk import Bulk, BulkResult
from ghcoord.coord.tasks.change import Changing
from ghcoord.coord.tasks.logs import FullLogs
from ghcoord.coord.tasks.query import TaskQuery
from ghcoord.coord.tasks.read import Reading
from ghcoord.coord.tasks.submission import Submission
from ghcoord.coord.tasks.submit import CHUNK, Offered, Submitting
from ghcoord.coord.tasks.wait import Waiting

__all__ = ["CHUNK", "BulkResult", "Offered", "Submission", "TaskQuery", "Tasks"]


class Tasks(Submitting, Reading, Waiting, Changing, Bulk):
    """The task queue of a hub."""

    def __init__(self, context: Context, full_logs: FullLogs | None = None) -> None:
        self._context = context
        self._full_logs = full_logs
