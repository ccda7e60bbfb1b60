"""What a session or a task may use at most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ghcoord.errors import UsageError
from ghcoord.units import parse_duration


class Limits(BaseModel):
    """Limits of each command, and of a session as a whole. ``None``: as the worker has it.

    ``timeout``: seconds that one call may take.  ``memory_mb``: MiB of all its
    processes together.  ``processes``: processes and threads at a time.
    ``cpu_seconds``: seconds of CPU time of one command, all its processes
    together.  ``file_mb``: MiB of the largest file it may write.
    ``workspace_mb``: MiB of everything in the workspace.  ``output_kb``: KiB
    kept of each of stdout and stderr.  ``active_tasks``: calls of a session at a
    time.  ``archive_mb`` and ``archive_files``: what an archive or a checkpoint
    may hold when it is unpacked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    timeout: float | None = Field(default=None, gt=0, le=7 * 86400)
    memory_mb: int | None = Field(default=None, ge=16, le=16 * 1024 * 1024)
    processes: int | None = Field(default=None, ge=1, le=1_000_000)
    cpu_seconds: float | None = Field(default=None, gt=0, le=30 * 86400)
    file_mb: int | None = Field(default=None, ge=1, le=16 * 1024 * 1024)
    workspace_mb: int | None = Field(default=None, ge=1, le=64 * 1024 * 1024)
    output_kb: int | None = Field(default=None, ge=1, le=64 * 1024)
    active_tasks: int | None = Field(default=None, ge=1, le=1000)
    archive_mb: int | None = Field(default=None, ge=1, le=16 * 1024 * 1024)
    archive_files: int | None = Field(default=None, ge=1, le=10_000_000)

    def under(self, ceiling: Limits) -> Limits:
        """These limits, each at most that of ``ceiling``, which also stands in for what is not given."""
        return Limits(**{name: _least(getattr(self, name), getattr(ceiling, name)) for name in Limits.model_fields})

    def or_else(self, usual: Limits) -> Limits:
        """These limits, and those of ``usual`` where none is given."""
        return usual.model_copy(update=self.model_dump(exclude_none=True))


def _least(own: Any, most: Any) -> Any:
    return most if own is None else own if most is None else min(own, most)


DEFAULT_LIMITS = Limits(
    memory_mb=2048,
    processes=512,
    file_mb=1024,
    workspace_mb=2048,
    output_kb=256,
    active_tasks=4,
    archive_mb=2048,
    archive_files=100_000,
)
"""What a worker allows unless it is told otherwise; time is up to each call."""


def parse_limits(given: Mapping[str, Any]) -> Limits:
    """Limits from names and values, as options and JSON give them: ``{"timeout": "5m", "memory_mb": "512"}``.

    Raises :class:`UsageError` naming what is wrong.
    """
    values: dict[str, Any] = {}
    for name, value in given.items():
        field = Limits.model_fields.get(name)
        if field is None:
            raise UsageError(f"{str(name)[:40]!r} is no limit: one of {', '.join(Limits.model_fields)}")
        if isinstance(value, str):
            value = parse_duration(value) if float in get_args(field.annotation) else _whole(name, value)
        values[name] = value
    try:
        return Limits.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        wrong = first["msg"].removeprefix("Input should be ")
        raise UsageError(f"the limit {'.'.join(map(str, first['loc']))} must be {wrong}") from None


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"the limit {name} must be a whole number, not {text[:40]!r}") from None
