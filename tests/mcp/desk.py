"""Tools called as plain functions on a hub in manual time, by several users; whatever they answer is checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from jsonschema import Draft202012Validator

from ghcoord.faces.mcp.answer import Answer
from ghcoord.faces.mcp.call import Call, Services
from ghcoord.faces.mcp.caller import Caller
from ghcoord.faces.mcp.outputs import Outputs
from ghcoord.faces.mcp.owners import Owners
from ghcoord.faces.mcp.present import output_schema, success
from ghcoord.faces.mcp.tools import artifacts, hub, locks, memory, tasks, workers
from ghcoord.faces.mcp.toolspec import ToolSpec
from ghcoord.model.task import Task, TaskResult
from ghcoord.store.base import Store
from ghcoord.testing.worker_client import FakeWorkerClient
from tests.coord.world import Daemon, World, enqueue

SPECS: dict[str, ToolSpec] = {
    spec.name: spec for module in (tasks, locks, memory, workers, artifacts, hub) for spec in module.TOOLS
}
MAX_SENT = 200_000
"""Bytes of an answer: far below the 1 MiB that breaks clients."""

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_HOSTILE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Desk:
    """A hub, a worker that nobody renews, and users who call tools."""

    def __init__(self, world: World, store: Store | None = None) -> None:
        self.world = world
        self.hub = world.open("server", store=store)
        self.workers = FakeWorkerClient(self.hub)
        self.services = Services(self.hub, self.workers, Outputs(self.hub), Owners(self.hub))
        self.progress: list[tuple[float | None, str]] = []

    def call_of(
        self, user: str = "ann", *, crowded: bool = False, cancelled: Callable[[], bool] = lambda: False
    ) -> Call:
        caller = Caller(user, "home", "server-1", "test", crowded)
        return Call(
            caller, self.services, TRACE, cancelled, lambda fraction, text: self.progress.append((fraction, text))
        )

    def __call__(self, name: str, user: str = "ann", /, *, crowded: bool = False, **arguments: Any) -> Answer:
        """Call a tool as the adapter does."""
        return self.run(self.call_of(user, crowded=crowded), name, **arguments)

    def run(self, call: Call, name: str, /, **arguments: Any) -> Answer:
        spec = SPECS[name]
        answer = spec.run(call, spec.check(arguments))
        Draft202012Validator(spec.returns).validate(answer.data)
        sent = success(answer, call.caller, name, self.services.outputs)
        Draft202012Validator(output_schema(spec.returns)).validate(sent.structured_content)
        assert len(sent.model_dump_json()) < MAX_SENT
        assert _HOSTILE.search(answer.text) is None
        return answer

    def session(self, user: str = "ann") -> str:
        """A new session of that user."""
        return self.workers.create(self.call_of(user).caller).id

    def task(self, task_id: str, *, state: str = "queued", result: TaskResult | None = None, **fields: Any) -> Task:
        """A task put straight into the queue, by the CLI so to speak."""
        ended = {"ended_at": self.hub.now()} if state in ("succeeded", "dead", "cancelled") else {}
        (made,) = enqueue(self.hub, task_id, state=state, result=result, **ended, **fields)
        return made

    def daemon(self, *tools: str, **options: Any) -> Daemon:
        """Another worker, which ticks when told to."""
        return Daemon(self.hub, tools=tools or ("echo",), **options)
