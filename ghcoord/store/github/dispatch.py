"""Runs of a workflow on GitHub: started by ``workflow_dispatch``, found again by the worker's id in their title."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn
from urllib.parse import quote

from ghcoord.errors import NotFound, OutcomeUnknown, Unavailable, UsageError
from ghcoord.store.dispatching import Accepted, RemoteRun
from ghcoord.store.github.api import Answer, Api
from ghcoord.store.github.refusals import say

WORKER_INPUT = "worker-id"
"""The input that a workflow of workers gives its worker as id; its ``run-name`` shows it."""

MAX_INPUTS = 25
"""Inputs that GitHub takes of one dispatch, this one among them (facts/github.md)."""

PAGE = 100
"""Runs that one request lists at most."""

PAGES = 5
"""Pages of runs that are looked through: older ones were started long before."""

_FILE = re.compile(r"[\w.-]{1,200}\.ya?ml|[0-9]{1,18}", re.ASCII)
_REF = re.compile(r"[^\s~^:?*\[\\\x00-\x1f\x7f]{1,200}")


class GithubDispatcher:
    """See :class:`ghcoord.store.dispatching.Dispatcher`: the workflow in ``file`` (or with that number), at ``ref``.

    Raises ``UsageError`` for what can be neither.  Closing it closes ``api``.
    """

    def __init__(self, api: Api, file: str, ref: str) -> None:
        file = file.removeprefix(".github/workflows/")
        if not _FILE.fullmatch(file):
            raise UsageError(f"{file[:60]!r} is no workflow: name its file, as in --workflow worker.yml")
        if not _REF.fullmatch(ref):
            raise UsageError(f"{ref[:60]!r} is no branch or tag: name one, as in --ref main")
        self._api = api
        self._file = file
        self._ref = ref

    @property
    def place(self) -> str:
        return f"{self._file} of {self._api.repo.url}"

    @property
    def _path(self) -> str:
        return f"{self._api.repo.path}/actions/workflows/{quote(self._file)}"

    def check(self) -> None:
        answer = self._api.rest("GET", self._path, expect=(404,))
        if answer.status == 404:
            raise self._missing()
        state = _text(answer.body.get("state")) if isinstance(answer.body, Mapping) else ""
        if state not in ("", "active"):
            raise UsageError(f"{self.place} is switched off ({state[:40]}): enable it on its page under Actions")

    def start(self, worker_id: str, inputs: Mapping[str, str]) -> Accepted:
        given = {**inputs, WORKER_INPUT: worker_id}
        if len(given) > MAX_INPUTS:
            raise UsageError(f"a workflow takes {MAX_INPUTS} inputs, {WORKER_INPUT} among them: leave out some --input")
        body = {"ref": self._ref, "inputs": given, "return_run_details": True}
        answer = self._api.rest("POST", f"{self._path}/dispatches", body, kind="write", expect=(404, 422))
        if answer.status >= 400:
            self._refused(answer)
        told = answer.body if isinstance(answer.body, Mapping) else {}
        run_id = told.get("workflow_run_id")
        if answer.status == 200 and not isinstance(run_id, int):
            raise OutcomeUnknown(f"{self._api.repo.host} did not say which run it started: look for it")
        return Accepted(run_id if isinstance(run_id, int) else None, _text(told.get("html_url")))

    def _refused(self, answer: Answer) -> NoReturn:
        """Raise the reason in the words of somebody who can change it."""
        repo, text = self._api.repo, say(answer.body)
        if answer.status == 404:
            raise self._missing()
        raise UsageError(f"{repo.host} does not start {self.place} at {self._ref}: {text or 'it is not accepted'}")

    def _missing(self) -> NotFound:
        return NotFound(
            f"there is no workflow {self.place}, or the token may not see it: it must be on the default branch, "
            "and a token needs actions: write"
        )

    def runs(self, since: float) -> list[RemoteRun]:
        found: list[RemoteRun] = []
        for page in range(1, PAGES + 1):
            path = f"{self._path}/runs?event=workflow_dispatch&per_page={PAGE}&page={page}"
            body = self._api.rest("GET", path).body
            listed = body.get("workflow_runs") if isinstance(body, Mapping) else None
            if not isinstance(listed, list):
                raise Unavailable(f"{self._api.repo.host} does not list the runs of {self.place}: try again later")
            read = [run for run in map(_read, listed) if run is not None]
            found += [run for run in read if run.created >= since]
            if len(listed) < PAGE or (read and read[-1].created < since):
                break
        return found

    def cancel(self, run_id: int) -> bool:
        path = f"{self._api.repo.path}/actions/runs/{run_id}/cancel"
        return self._api.rest("POST", path, kind="write", expect=(404, 409)).status == 202

    def ready_in(self) -> float:
        return self._api.budget.write_ready_in()

    def close(self) -> None:
        self._api.close()


def _read(one: Any) -> RemoteRun | None:
    """A run as the server lists it; ``None`` for what is none."""
    if not isinstance(one, Mapping) or not isinstance(one.get("id"), int):
        return None
    try:
        created = datetime.fromisoformat(_text(one.get("created_at"))).timestamp()
    except (ValueError, OverflowError):
        return None
    conclusion = one.get("conclusion")
    return RemoteRun(
        one["id"],
        _text(one.get("display_title")),
        _text(one.get("status")),
        conclusion if isinstance(conclusion, str) else None,
        created,
        _text(one.get("html_url")),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
