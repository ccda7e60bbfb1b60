"""What workers say of themselves, what they remember, and which times go together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ghcoord.errors import UsageError
from ghcoord.model.codec import decode, encode, stamp
from ghcoord.model.health import Vitals, assess
from ghcoord.model.lease import GIVE_UP_AT, MAX_TTL, MIN_TTL, RENEW_AT
from ghcoord.model.requirements import Need, Requirements
from ghcoord.model.timing import grace_for, poll_for
from ghcoord.model.worker import MAX_RECENT, MAX_TYPE, RECENT_TOTAL, Capabilities, Health, Worker, note_types

AT = stamp(1_700_000_000)
WELL = Vitals(load=0.5, memory_mb=80.0, free_mb=90_000.0)


def worker(**more: object) -> Worker:
    return Worker(id="w1", token=1, registered_at=AT, last_heartbeat=AT, renewal=1, ttl=15.0, **more)  # type: ignore[arg-type]


# -- capabilities


@pytest.mark.parametrize(("given_mb", "kept"), [(7, 7), (7.0, 7), (8191.99, 8191), (0.9, 0)])
def test_memory_is_whole_mebibytes(given_mb: float, kept: int) -> None:
    """A float is rounded down, in Python and in a record that was edited by hand."""
    assert kept == Capabilities(memory_mb=given_mb).memory_mb  # type: ignore[arg-type]
    assert kept == Capabilities.model_validate_json(f'{{"memory_mb": {given_mb}}}').memory_mb


@pytest.mark.parametrize("wrong", [-1, -0.5, "many", float("nan"), float("inf"), 2**60])
def test_memory_that_is_no_size_is_refused(wrong: object) -> None:
    """What cannot be rounded down to a size is an error."""
    with pytest.raises(ValidationError):
        Capabilities(memory_mb=wrong)  # type: ignore[arg-type]


def test_a_task_fits_by_tool_type_size_and_capability() -> None:
    """A type needs the tool as well; a capability is a label, with or without its value, or a type."""
    offer = Capabilities(
        cpu_cores=4, memory_mb=1024, supported_task_types=("build", "shell"), tools=("shell",), labels={"gpu": "a100"}
    ).offer._replace(sandbox="full")

    def fits(type_: str, tool: str, cores: int = 0, memory: int = 0, *needed: str) -> bool:
        wants = Requirements(min_cpu_cores=cores, min_memory_mb=memory, required_capabilities=needed)
        return Need.of(type_, tool, wants).met_by(offer)

    assert fits("", "shell", 4, 1024, "gpu", "gpu=a100", "build")
    assert fits("build", "shell")
    assert not fits("build", "build"), "build is a type here, not a tool"
    assert not fits("test", "shell")
    assert not fits("", "shell", 5)
    assert not fits("", "shell", 0, 1025)
    assert not fits("", "shell", 0, 0, "gpu=h100")
    assert not fits("", "shell", 0, 0, "os")


# -- what it ran


def test_recent_types_are_counted() -> None:
    """By type; nothing ended changes nothing; what is no name is left out."""
    first = note_types(worker(), ["build", "test", "build"])
    assert {"build": 2, "test": 1} == first.recent_types
    assert {"build": 3, "test": 1} == note_types(first, ["build", "", "x" * (MAX_TYPE + 1)]).recent_types
    assert first is note_types(first, [])
    assert first == decode(Worker, encode(first), "worker")


def test_the_past_fades() -> None:
    """What was run long ago is forgotten in the end, and a new type always gets in."""
    ran = note_types(worker(), ["old"] * 500)
    for _ in range(10):
        ran = note_types(ran, ["new"] * 500)
    assert {"new"} == set(ran.recent_types)
    full = note_types(worker(), [f"t{n}" for n in range(MAX_RECENT)] * 3)
    assert "latest" in note_types(full, ["latest"]).recent_types


@given(st.lists(st.lists(st.sampled_from([f"t{n}" for n in range(60)]), max_size=200), max_size=12))
def test_the_memory_is_bounded(ticks: list[list[str]]) -> None:
    """At most 32 types, about a thousand tasks, no count under one; what was run last is in it."""
    ran = worker()
    for ended in ticks:
        ran = note_types(ran, ended)
        assert len(ran.recent_types) <= MAX_RECENT
        assert sum(ran.recent_types.values()) <= RECENT_TOTAL + MAX_RECENT
        assert min(ran.recent_types.values(), default=1) >= 1
        assert min(len(set(ended)), MAX_RECENT) <= len(set(ended) & set(ran.recent_types))


def test_a_hostile_memory_is_cut() -> None:
    """Thousands of types with huge counts, written by hand, are bounded by the next tick."""
    hostile = worker(recent_types={f"x{n}": 2**53 for n in range(5000)})
    kept = note_types(hostile, ["mine"]).recent_types
    assert "mine" in kept
    assert len(kept) <= MAX_RECENT


# -- health


@pytest.mark.parametrize(
    ("vitals", "counts", "verdict", "reason"),
    [
        (WELL, {}, "healthy", ""),
        (Vitals(), {}, "healthy", ""),
        (WELL._replace(load=8.0), {}, "healthy", ""),
        (WELL._replace(load=8.1), {}, "degraded", "load 8.1 on 4 cores"),
        (WELL._replace(free_mb=511.0), {}, "degraded", "511 MiB free for workspaces"),
        (WELL._replace(free_mb=63.0), {}, "unhealthy", "63 MiB free for workspaces"),
        (WELL, {"faults": 1}, "degraded", "1 faults of this machine in a row"),
        (WELL, {"faults": 3}, "unhealthy", "3 faults of this machine in a row"),
        (WELL, {"failures": 4}, "healthy", ""),
        (WELL, {"failures": 5}, "degraded", "5 tasks failed in a row"),
        (WELL._replace(load=99), {"faults": 3}, "unhealthy", "3 faults of this machine in a row, load 99.0 on 4 cores"),
    ],
)
def test_the_verdict_follows_from_rules(vitals: Vitals, counts: dict[str, int], verdict: str, reason: str) -> None:
    """Each rule at its bound, the worst one counts, and every reason is named."""
    found = assess(vitals, cores=4, active_tasks=2, **counts)
    assert (verdict, reason) == (found.health_status, found.reason)
    assert (vitals.load, vitals.memory_mb, 2) == (found.cpu, found.memory, found.active_tasks)


def test_a_silent_worker_counts_as_healthy() -> None:
    """A worker that publishes nothing is given tasks."""
    assert "healthy" == worker().health_status
    assert "degraded" == worker(health=Health(health_status="degraded")).health_status


# -- timing


@given(st.floats(MIN_TTL, MAX_TTL))
def test_the_defaults_go_with_every_ttl(ttl: float) -> None:
    """Two looks before a renewal is due; all that runs has ended between giving up and the end of the lease."""
    poll, grace = poll_for(ttl, None, 1.0), grace_for(ttl, None)
    assert 0 < 2 * poll <= ttl * RENEW_AT * 1.000001
    assert 0 < ttl * GIVE_UP_AT + grace <= ttl * 1.000001
    assert (poll, grace) == (poll_for(ttl, poll, 1.0), grace_for(ttl, grace)), "what is the default may be given"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: poll_for(15.0, 5.0, 1.0),
            "a poll interval of 5 s is too long for a ttl of 15 s: give at most 2.5 s (1/6 of the ttl), "
            "or a ttl of at least 30 s",
        ),
        (
            lambda: grace_for(2.0, 1.0),
            "a grace of 1 s is too long for a ttl of 2 s: give at most 0.66 s (1/3 of the ttl), "
            "or a ttl of at least 3 s",
        ),
        (lambda: poll_for(15.0, 0.0, 1.0), "the poll interval must be more than 0"),
        (lambda: grace_for(15.0, -1.0), "the grace must not be negative"),
        (lambda: poll_for(0.5, None, 1.0), "a ttl of 0.5 s is out of range: give 1 s to 30 days"),
        (lambda: grace_for(0.5, None), "a ttl of 0.5 s is out of range: give 1 s to 30 days"),
    ],
)
def test_times_that_do_not_go_together(call: object, message: str) -> None:
    """One sentence that names the bound and both ways out."""
    with pytest.raises(UsageError) as refused:
        call()  # type: ignore[operator]
    assert message == refused.value.message


@given(st.floats(MIN_TTL, 500_000.0), st.floats(0.001, 200_000.0))
def test_what_a_refusal_names_is_accepted(ttl: float, poll: float) -> None:
    """The bounds in the message work as written."""
    try:
        poll_for(ttl, poll, 1.0)
    except UsageError as refused:
        words = refused.message.split("give at most ")[1].split()
        if float(words[0]) > 0:
            poll_for(ttl, float(words[0]), 1.0)
        poll_for(max(MIN_TTL, float(refused.message.split()[-2])), poll, 1.0)
