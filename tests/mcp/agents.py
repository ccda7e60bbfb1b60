"""An agent as tests see one: calls tools as plain functions, by their listed names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ghcoord.faces.mcp.answer import Answer
from ghcoord.faces.mcp.call import Call, Services
from ghcoord.faces.mcp.caller import Caller
from ghcoord.faces.mcp.outputs import Outputs
from ghcoord.faces.mcp.owners import Owners
from ghcoord.faces.mcp.tools import sessions
from ghcoord.faces.mcp.tools.workspace import workspace_tools
from ghcoord.faces.mcp.toolspec import ToolSpec
from ghcoord.testing.worker_client_contract import ClientUnderTest

ANN = Caller("ann", "work", "one")
BOB = Caller("bob", "work", "two")


@dataclass
class Agent:
    """Calls the tools for sessions and what works in them."""

    services: Services
    caller: Caller = ANN
    told: list[str] = field(default_factory=list)

    @property
    def specs(self) -> dict[str, ToolSpec]:
        """The tools by name."""
        return {one.name: one for one in (*sessions.TOOLS, *workspace_tools(self.services.workers.tools()))}

    def __call__(self, name: str, /, *, cancelled: Callable[[], bool] = lambda: False, **arguments: Any) -> Answer:
        """Check the arguments and run the tool; raises what it raises."""
        spec = self.specs[name]
        call = Call(self.caller, self.services, cancelled=cancelled, progress=lambda part, text: self.told.append(text))
        return spec.run(call, spec.check(arguments))

    def session(self) -> str:
        """A new session's id."""
        return str(self("session_create").data["session_id"])

    def other(self, caller: Caller = BOB) -> Agent:
        """Another user of the same server."""
        return Agent(self.services, caller)


def agent_of(bench: ClientUnderTest, caller: Caller = ANN) -> Agent:
    """An agent whose sessions the bench's client runs."""
    return Agent(Services(bench.hub, bench.client, Outputs(bench.hub), Owners(bench.hub)), caller)
