"""What a tool answers: text for the model, the same as data, and failures that say the next step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended.

    ``text`` and ``data`` both say everything important: some clients show only
    the one, some only the other.  ``data`` follows the tool's output schema.
    ``failed`` marks a call that was made and went wrong, such as a command with
    an exit code; ``notices`` are sentences that the caller has to know, such as
    that its session was restored; they come first in the text.
    """

    text: str
    data: dict[str, Any] = field(default_factory=dict)
    failed: bool = False
    notices: tuple[str, ...] = ()


class Failure(Exception):
    """A call that could not be made: ``message`` says why, ``next_step`` what to do now (a tool to call, an argument).

    ``code`` is that of the error tree (:mod:`ghcoord.errors`), ``retryable`` whether the same call may succeed later.
    """

    def __init__(self, message: str, next_step: str = "", *, code: str = "USAGE", retryable: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        self.code = code
        self.retryable = retryable

    def __str__(self) -> str:
        return f"{self.message.rstrip('.')}. {self.next_step}".strip() if self.next_step else self.message
