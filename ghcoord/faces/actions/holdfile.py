"""The folder through which the steps of a job and the process that holds its lock speak.

The holder writes ``state.json``, whoever starts it ``holder.pid``, and whoever
wants it to end makes the file ``stop``.  The steps of one job belong to one
user: the folder keeps others out, and is no wall between steps.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from ghcoord.errors import UsageError
from ghcoord.faces.actions.jobprocess import Process, find

Stage = Literal["waiting", "held", "released", "refused", "stopped", "lost", "failed"]
"""What became of the lock. ``refused``: it was not to be had; ``stopped``: told to end before that."""

OVER: tuple[Stage, ...] = ("released", "refused", "stopped", "lost", "failed")

NEVER_HELD: tuple[Stage, ...] = ("refused", "stopped", "failed")
"""Of these, without a token, nothing was held."""

STATE = "state.json"
STOP = "stop"
PID = "holder.pid"


@dataclass(frozen=True, slots=True)
class HoldState:
    """The lock of one step; ``pid`` and ``started`` are the holder's, ``code`` the exit code that fits."""

    state: Stage
    name: str
    owner: str
    pid: int = 0
    started: int = 0
    token: int | None = None
    ttl: float | None = None
    code: int = 0
    message: str = ""

    @property
    def holder(self) -> Process:
        """The process that wrote it."""
        return Process(self.pid, self.started)

    def view(self) -> dict[str, object]:
        """As JSON shows it."""
        return asdict(self)


NOTHING: dict[str, None] = dict.fromkeys(field.name for field in fields(HoldState))
"""What JSON shows where no lock was asked for."""


class HoldFolder:
    """Reads and writes the files of one hold."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Make the folder unless it is there. Raises ``UsageError``, also for that of a lock that was held or may be.

        One whose lock was never had is used again, whoever was told to stop there.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise UsageError(f"the folder {self.path} cannot be made ({error.strerror}): name another one") from None
        state = self.read()
        if state is None:
            return
        if state.state not in NEVER_HELD or state.token is not None:
            raise UsageError(f"the folder {self.path} is that of an earlier lock: name a new one")
        for name in (STOP, STATE):
            (self.path / name).unlink(missing_ok=True)

    def write(self, state: HoldState) -> None:
        """Say how it stands, whole or not at all."""
        new = self.path / f"{STATE}.new"
        new.write_text(json.dumps(state.view()) + "\n")
        new.replace(self.path / STATE)

    def read(self) -> HoldState | None:
        """How it stands; ``None`` when nothing was said yet. Raises ``UsageError`` for a file that is no such state."""
        try:
            found = json.loads((self.path / STATE).read_text())
            known = {field.name for field in fields(HoldState)}
            state = HoldState(**{key: value for key, value in found.items() if key in known})
            ok = state.state in get_args(Stage) and isinstance(state.pid, int) and isinstance(state.started, int)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"{self.path / STATE} cannot be read: {error}") from None
        if not ok:
            raise UsageError(f"{self.path / STATE} says nothing of a lock: it was changed by something else")
        return state

    def ask_to_stop(self) -> None:
        """Tell the holder to end."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / STOP).touch()

    @property
    def asked_to_stop(self) -> bool:
        """Whether somebody told the holder to end; also when the folder is gone."""
        return os.path.exists(self.path / STOP) or not os.path.isdir(self.path)

    def starting(self) -> Process | None:
        """The holder that was started and may have said nothing yet; ``None`` when there is none."""
        try:
            return find(int((self.path / PID).read_text()))
        except (OSError, ValueError):
            return None
