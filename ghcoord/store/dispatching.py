"""Starting workers elsewhere: what a server of workflows is asked, whatever it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RemoteRun:
    """A run that the server knows: ``title`` names its worker, ``conclusion`` is told once it is ``over``.

    ``created`` is in seconds since the epoch, by the server's clock.
    """

    id: int
    title: str
    status: str
    conclusion: str | None
    created: float
    url: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing of it runs or will run."""
        return self.status == "completed"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A dispatch that the server took: the run's id and page, where it told them."""

    run_id: int | None = None
    url: str = ""


class Dispatcher(Protocol):
    """Starts runs of one workflow, each with a worker of a given id. Sends nothing twice."""

    @property
    def place(self) -> str:
        """The workflow and where it is, for people."""
        ...

    def check(self) -> None:
        """Raise what :meth:`start` would for a workflow that is not there or is switched off; starts nothing."""
        ...

    def start(self, worker_id: str, inputs: Mapping[str, str]) -> Accepted:
        """Start a run whose worker is to be called ``worker_id``.

        Raises ``OutcomeUnknown`` where it may have been started, else it was
        not: ``Denied``, ``NotFound``, ``UsageError`` for what will not work
        later either, ``Throttled``, ``Unavailable`` for what may.
        """
        ...

    def runs(self, since: float) -> list[RemoteRun]:
        """The runs made since then (seconds since the epoch), newest first. Raises what :meth:`start` does."""
        ...

    def cancel(self, run_id: int) -> bool:
        """Have a run cancelled; ``False`` where it was over or is unknown."""
        ...

    def ready_in(self) -> float:
        """Seconds until the server's limits let a dispatch leave; 0 when they do."""
        ...

    def close(self) -> None: ...
