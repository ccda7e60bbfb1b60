"""What the twin knows of GitHub Actions: workflows that can be dispatched, and their runs. It runs nothing itself.

A repository's workflows are those that the twin was told of in Python; one of
which it was told none has those of its default branch, whose runs stay queued.
``on_dispatch`` is called with each run that was accepted: a test starts a
"runner" there, or does not, and tells with :meth:`Actions.begin` and
:meth:`Actions.complete` what became of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from threading import Lock
from typing import Literal

from ghcoord.twin.objects import Oid

Status = Literal["queued", "in_progress", "completed"]

_INPUT = re.compile(r"\$\{\{.*?\binputs\.([\w-]+).*?\}\}")
"""An expression; of any other than ``inputs.NAME`` alone the first input that it names is taken."""


@dataclass(frozen=True, slots=True)
class Described:
    """What a workflow file says: its name in its folder, and the rest as :class:`Workflow` has it."""

    file: str
    inputs: Mapping[str, str | None] = field(default_factory=dict)
    run_name: str | None = None
    dispatchable: bool = False


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow file on the default branch; ``repository`` is ``owner/name``, ``file`` the name in its folder.

    ``inputs`` tells of each input of ``workflow_dispatch`` its default, ``None``
    where it must be given.  ``run_name`` may hold ``${{ inputs.NAME }}``.
    Without ``dispatchable`` it has no such trigger.  One ``from_file`` goes
    when its file does.
    """

    number: int
    repository: str
    file: str
    inputs: Mapping[str, str | None] = field(default_factory=dict)
    run_name: str | None = None
    dispatchable: bool = True
    state: str = "active"
    from_file: bool = False

    @property
    def path(self) -> str:
        """Where it lies in the repository."""
        return f".github/workflows/{self.file}"

    def title(self, inputs: Mapping[str, str]) -> str:
        """The title of a run with these inputs."""
        return _INPUT.sub(lambda found: inputs.get(found[1], ""), self.run_name or self.file)


@dataclass(slots=True)
class WorkflowRun:
    """One run: ``inputs`` as the workflow sees them, times in seconds since the epoch."""

    number: int
    workflow: Workflow
    run_number: int
    ref: str
    sha: Oid
    login: str
    inputs: Mapping[str, str]
    created: float
    updated: float
    status: Status = "queued"
    conclusion: str | None = None

    @property
    def title(self) -> str:
        """What lists of runs show."""
        return self.workflow.title(self.inputs)


Hook = Callable[[WorkflowRun], object]


@dataclass
class Actions:
    """All workflows and runs of a twin. Thread-safe.

    ``on_dispatch`` and ``on_cancel`` are called in the request's thread, after
    the run was made and before the answer leaves.
    """

    workflows: list[Workflow] = field(default_factory=list)
    runs: list[WorkflowRun] = field(default_factory=list)
    on_dispatch: Hook | None = None
    on_cancel: Hook | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: count(1001))
    _known: dict[tuple[str, str], int] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def workflow(
        self,
        repository: str,
        file: str,
        inputs: Mapping[str, str | None] | None = None,
        *,
        run_name: str | None = None,
        dispatchable: bool = True,
        state: str = "active",
    ) -> Workflow:
        """Tell of a workflow of ``owner/name``, whatever its default branch has; one of the same name is replaced."""
        place = repository.lower()
        with self._lock:
            made = Workflow(self._number(place, file), place, file, dict(inputs or {}), run_name, dispatchable, state)
            gone = [
                each for each in self.workflows if each.repository == place and (each.from_file or each.file == file)
            ]
            self.workflows = [each for each in self.workflows if each not in gone] + [made]
            return made

    def read(self, repository: str, files: Iterable[Described]) -> None:
        """Take over what the default branch of ``owner/name`` has now, unless workflows of it were told."""
        place = repository.lower()
        with self._lock:
            if any(each.repository == place and not each.from_file for each in self.workflows):
                return
            found = [
                Workflow(
                    self._number(place, one.file),
                    place,
                    one.file,
                    one.inputs,
                    one.run_name,
                    one.dispatchable,
                    from_file=True,
                )
                for one in files
            ]
            self.workflows = [each for each in self.workflows if each.repository != place] + found

    def _number(self, place: str, file: str) -> int:
        """The number of a workflow, the same whenever it is there."""
        if (place, file) not in self._known:
            self._known[place, file] = next(self._numbers)
        return self._known[place, file]

    def find(self, repository: str, which: str) -> Workflow | None:
        """The workflow of that file name or number."""
        for each in self.workflows:
            if each.repository == repository.lower() and which in (each.file, str(each.number)):
                return each
        return None

    def of(self, repository: str) -> list[WorkflowRun]:
        """The runs of ``owner/name``, newest first."""
        with self._lock:
            return [each for each in reversed(self.runs) if each.workflow.repository == repository.lower()]

    def dispatch(
        self, workflow: Workflow, *, ref: str, sha: Oid, login: str, inputs: Mapping[str, str], now: float
    ) -> WorkflowRun:
        """Make a run, queued."""
        with self._lock:
            mine = sum(each.workflow.number == workflow.number for each in self.runs)
            made = WorkflowRun(next(self._numbers), workflow, mine + 1, ref, sha, login, inputs, now, now)
            self.runs.append(made)
        if self.on_dispatch is not None:
            self.on_dispatch(made)
        return made

    def begin(self, run: WorkflowRun, now: float) -> None:
        """A runner has taken it up."""
        with self._lock:
            if run.status == "queued":
                run.status, run.updated = "in_progress", now

    def complete(self, run: WorkflowRun, conclusion: str, now: float) -> bool:
        """It is over: ``success``, ``failure``, ``cancelled`` …; ``False`` where it was before."""
        with self._lock:
            if run.status == "completed":
                return False
            run.status, run.conclusion, run.updated = "completed", conclusion, now
            return True

    def cancel(self, run: WorkflowRun, now: float) -> bool:
        """Cancel a run; ``False`` where it was over."""
        if not self.complete(run, "cancelled", now):
            return False
        if self.on_cancel is not None:
            self.on_cancel(run)
        return True
