"""What the state machines have in common: a world for several users, in memory and on disk."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.coord.world import World

MARGIN = {"memory": 0.5, "local": 2.0}


class Machine(RuleBasedStateMachine):
    """A world in memory, or on disk."""

    where = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp()) if self.where == "local" else None
        self.world = World(self.folder / "hub.git" if self.folder else None)
        self.hubs = {actor: self.world.open(actor) for actor in ("a", "b", "c")}

    @property
    def now(self) -> float:
        return self.world.runtime.now()

    def teardown(self) -> None:
        self.world.close()
        if self.folder is not None:
            shutil.rmtree(self.folder)


def on_disk(machine: type[Machine]) -> type[Machine]:
    return type(f"Local{machine.__name__}", (machine,), {"where": "local"})


def run(machine: type[Machine], examples: int, steps: int) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
