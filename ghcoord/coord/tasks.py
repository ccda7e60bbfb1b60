"""Tasks as their submitters see them: submit, look, wait, change."""

from __future__ import annotations

from ghcoord.coord.context import Context
from ghcoord.coord.submission import Submission
from ghcoord.coord.task_bulk import Bulk, BulkResult
from ghcoord.coord.task_change import Changing
from ghcoord.coord.task_query import TaskQuery
from ghcoord.coord.task_read import Reading
from ghcoord.coord.task_submit import CHUNK, Offered, Submitting
from ghcoord.coord.task_wait import Waiting

__all__ = ["CHUNK", "BulkResult", "Offered", "Submission", "TaskQuery", "Tasks"]


class Tasks(Submitting, Reading, Waiting, Changing, Bulk):
    """The task queue of a hub."""

    def __init__(self, context: Context) -> None:
        self._context = context
