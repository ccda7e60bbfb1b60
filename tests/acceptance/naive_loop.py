"""The reference's worker loop, written naively over the contents API: what a task costs without this project.

After «Complete Worker Implementation» in the distributed-execution reference:
list the pending tasks, take the task's lock, count it up in the worker's
record, run it, store the result, count it down, release the lock; and the
task's file goes.  Each step is a read for the ``sha`` and a write.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import requests


class NaiveWorker:
    """Works on ``owner/name`` at ``api``, the base of the REST API. ``calls`` and ``writes`` count its requests."""

    def __init__(self, api: str, repository: str, token: str, worker: str = "worker-1") -> None:
        self._base = f"{api}/repos/{repository}/contents"
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {token}"
        self._worker = worker
        self.calls = 0
        self.writes = 0

    def _send(self, verb: str, path: str, body: dict[str, Any] | None = None) -> Any:
        self.calls += 1
        self.writes += verb != "GET"
        answer = self._session.request(verb, f"{self._base}/{path}", json=body, timeout=30)
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
        return answer.json()

    def put(self, path: str, value: Any) -> None:
        """Read for the ``sha``, then write."""
        found = self._send("GET", path)
        text = base64.b64encode(json.dumps(value).encode()).decode()
        known = {"sha": found["sha"]} if found is not None else {}
        self._send("PUT", path, {"message": f"update {path}", "content": text, **known})

    def delete(self, path: str) -> None:
        """Read for the ``sha``, then delete."""
        found = self._send("GET", path)
        self._send("DELETE", path, {"message": f"delete {path}", "sha": found["sha"]})

    def one_task(self) -> str | None:
        """Run one task; its id, or ``None`` when there is none."""
        pending = self._send("GET", "tasks/pending") or []
        if not pending:
            return None
        task = str(pending[0]["name"]).removesuffix(".json")
        self.put(f"locks/{task}.json", {"owner": self._worker})
        self.put(f"workers/{self._worker}.json", {"status": "busy", "active": 1})
        self.put(f"memory/tasks/task-{task}-result.json", {"status": "completed"})
        self.delete(f"tasks/pending/{task}.json")
        self.delete(f"locks/{task}.json")
        self.put(f"workers/{self._worker}.json", {"status": "active", "active": 0})
        return task
