"""What a daemon has done, counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ghcoord.coord.workers.tick import Beat, Reply

Log = Callable[[str, str], None]


@dataclass(slots=True)
class Summary:
    """What a daemon did in its life."""

    worker_id: str
    leased: int = 0
    succeeded: int = 0
    failed: int = 0
    returned: int = 0
    refused: int = 0
    recovered: int = 0
    commits: int = 0

    def count(self, request: Beat, reply: Reply, log: Log) -> None:
        """Add a tick, and tell ``log`` what was leased, refused and failed."""
        self.leased += len(reply.leased)
        self.returned += len(request.returned)
        for one in request.finished:
            if one.task_id in reply.refused:
                self.refused += 1
                log("warn", f"the result of task {one.task_id} was refused: {reply.refused[one.task_id]}")
            elif one.result.success:
                self.succeeded += 1
            else:
                self.failed += 1
                log("warn", f"task {one.task_id} failed: {one.result.error[:200]}")
        for task in reply.leased:
            log("info", f"task {task.id} ({task.tool}) attempt {task.attempt}")
