"""The options of a task as people spell them, on the command line and in batch lines, and what they mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import typer

from ghcoord.errors import UsageError
from ghcoord.faces.cli.common import duration, number
from ghcoord.units import parse_duration

Arg = Annotated[
    list[str] | None,
    typer.Option("--arg", "-a", metavar="K=V", help="An argument as a text; k:=json for any other value."),
]
ArgsJson = Annotated[
    str | None, typer.Option("--args-json", metavar="JSON", help="All arguments as one JSON object; --arg adds.")
]
Type = Annotated[
    str | None, typer.Option("--type", metavar="T", help="What workers must declare to serve; else the tool's name.")
]
Priority = Annotated[int | None, number("--priority", "-p", help="0 to 9, higher first; default 0.")]
Retries = Annotated[int | None, number("--retries", help="Tries after the first failure; default 0.")]
Timeout = Annotated[float | None, duration("--timeout", help="Ends an attempt that takes longer.")]
Backoff = Annotated[float | None, duration("--backoff", help="Before the first retry, doubled with each; default 2s.")]
BackoffCap = Annotated[float | None, duration("--backoff-cap", help="Longest back-off; default 5m.")]
Estimate = Annotated[float | None, duration("--estimate", help="How long it will take, for placement.")]
MinCores = Annotated[int | None, number("--min-cores", help="Cores that the worker must have.")]
MinMemory = Annotated[int | None, number("--min-memory", metavar="MB", help="MiB that the worker must have.")]
Require = Annotated[
    list[str] | None,
    typer.Option("--require", metavar="CAP", help="A label (gpu, os=linux) or type the worker must have; several."),
]
Worker = Annotated[
    str | None, typer.Option("--worker", metavar="ID", help="The only worker that may run it while it is alive.")
]
Prefer = Annotated[str | None, typer.Option("--prefer", metavar="ID", help="The worker that may have it first.")]
PreferFor = Annotated[
    float | None, duration("--prefer-for", help="How long --prefer keeps it from the others; default 30s.")
]
Sandbox = Annotated[
    str | None,
    typer.Option(
        "--sandbox", metavar="TIER", help="Least sandbox the worker must have: full, partial or none; else by the tool."
    ),
]
Session = Annotated[
    str | None, typer.Option("--session", metavar="ID", help="Run it in this session, on the worker that has it.")
]
Trace = Annotated[
    str | None,
    typer.Option("--trace", metavar="T", help="W3C traceparent for its commands and the audit log; else TRACEPARENT."),
]
Key = Annotated[
    str | None, typer.Option("--key", metavar="K", help="The key whose tasks share --concurrency and --rate.")
]
Concurrency = Annotated[int | None, number("--concurrency", help="Tasks of --key that run at a time.")]
Rate = Annotated[
    str | None, typer.Option("--rate", metavar="N/PERIOD", help="Tasks of --key that start in a period, as in 10/1m.")
]
Unique = Annotated[bool, typer.Option("--unique", help="Not beside another of the same type, tool and arguments.")]
UniqueKey = Annotated[
    str | None, typer.Option("--unique-key", metavar="K", help="Not beside another with this key, whatever it does.")
]
UniqueFor = Annotated[
    float | None, duration("--unique-for", help="Count others for so long, also those that succeeded.")
]
UniqueStates = Annotated[
    list[str] | None,
    typer.Option("--unique-states", metavar="S", help="Count others in these states: queued,leased …"),
]
Meta = Annotated[
    list[str] | None, typer.Option("--meta", metavar="K=V", help="Metadata; k:=json for other values than texts.")
]

SPELLINGS = {
    "meta": "metadata",
    "delay": "not_before",
    "estimate": "estimated_duration",
    "min_memory_mb": "min_memory",
    "min_cpu_cores": "min_cores",
    "required_capabilities": "require",
}
"""Other names that batch lines may use."""

DURATIONS = ("timeout", "backoff", "backoff_cap", "estimated_duration", "unique_for", "prefer_for")
LISTS = ("after", "unique_states", "require")
REQUIREMENTS = {"min_cores": "min_cpu_cores", "min_memory": "min_memory_mb", "require": "required_capabilities"}

KEYS = (
    *("priority", "retries", "timeout", "backoff", "backoff_cap", "metadata", "type", "estimate"),
    *("min_cores", "min_memory", "require", "requirements", "worker", "prefer", "prefer_for", "sandbox", "session"),
    "trace",
    *("not_before", "after"),
    *("if_failed", "key", "concurrency", "rate", "unique", "unique_key", "unique_for", "unique_states"),
)
"""Names of all options of a task, as a batch line takes them."""

_RATE = re.compile(r"\s*(\d{1,9})\s*/\s*(\S+)\s*", re.ASCII)
_DURATION = re.compile(r"[0-9.]+|([0-9.]+(ms|s|m|h|d))+", re.ASCII)


def given(**options: Any) -> dict[str, Any]:
    """The options that were given on the command line."""
    return {name: value for name, value in options.items() if value is not None and value is not False}


def meaning(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by the names and values that a submission takes; raises ``UsageError`` naming the option.

    Values are as the command line has parsed them, or as a JSON line has them.
    """
    found = {name: value for name, value in options.items() if value is not None}
    for name in DURATIONS:
        if name in found:
            found[name] = _seconds(name, found[name])
    for name in LISTS:
        if name in found:
            found[name] = _list(name, found[name])
    if "not_before" in found:
        found["not_before"] = parse_time(found["not_before"])
    if "rate" in found:
        found["rate"] = parse_rate(found["rate"])
    requirements = found.pop("requirements", {})
    if not isinstance(requirements, Mapping):
        raise UsageError("requirements must be a JSON object")
    apart = {full: found.pop(name) for name, full in REQUIREMENTS.items() if name in found}
    if requirements or apart:
        found["requirements"] = {**requirements, **apart}
    return found


def parse_time(value: Any) -> datetime | float:
    """``5m`` from now, in seconds, or an ISO time, local where it names no zone; raises ``UsageError``."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return parse_duration(value)
    if not isinstance(value, str):
        raise UsageError("not_before must be a duration from now, or a time such as 2026-11-21T10:00Z")
    plain = value.strip()
    if _DURATION.fullmatch(plain.lower()):
        return parse_duration(plain)
    try:
        return datetime.fromisoformat(plain).astimezone()
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"{plain[:40]!r} is no time: write 5m for in five minutes, or 2026-11-21T10:00Z") from None


def parse_rate(value: Any) -> tuple[int, float]:
    """``10/1m``, ``10/m`` or ``[10, 60]`` as (number, seconds); raises ``UsageError``."""
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is not None:
        period = match[2] if match[2][0].isdigit() else f"1{match[2]}"
        return int(match[1]), parse_duration(period)
    if isinstance(value, list | tuple) and len(value) == 2:
        return value[0], _seconds("rate", value[1])
    raise UsageError(f"the rate {str(value)[:40]!r} is not understood: write 10/1m for ten a minute")


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UsageError(f'{name} must be a duration: 90, "90s", "5m" or "1h30m"')
    return parse_duration(value)


def _list(name: str, value: Any) -> tuple[str, ...]:
    """Several texts, or one with commas; a capability may have some itself."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(one, str) for one in texts):
        raise UsageError(f"{name} must be a list of texts")
    if name == "require":
        return tuple(texts)
    return tuple(part.strip() for one in texts for part in one.split(",") if part.strip())
