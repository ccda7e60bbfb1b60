"""W3C trace context: what is read, what is refused, and what a new trace looks like."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghcoord import tracing
from ghcoord.errors import UsageError

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_a_traceparent_is_read_and_written() -> None:
    """Its parts are those of the specification's example, and it comes back as it was."""
    assert tracing.TraceParent(TRACE, SPAN, 1) == tracing.parse(GOOD)
    assert GOOD == tracing.valid(GOOD) == tracing.checked(GOOD) == tracing.EXAMPLE
    assert TRACE == tracing.trace_id_of(GOOD)
    assert [True, False] == [one.sampled for flags in ("01", "00") if (one := tracing.parse(GOOD[:-2] + flags))]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (f"00-{TRACE}-{SPAN}-ff", f"00-{TRACE}-{SPAN}-03"),
        (f"cc-{TRACE}-{SPAN}-01", GOOD),
        (f"cc-{TRACE}-{SPAN}-01-what the future brings".replace(" ", "_"), GOOD),
    ],
)
def test_unknown_flags_and_later_versions(given: str, expected: str) -> None:
    """Flags that nobody knows are not passed on, and a later version is read as this one, as the standard says."""
    assert expected == tracing.valid(given)


HOSTILE: list[Any] = [
    "",
    None,
    5,
    True,
    ["00"],
    {"trace": GOOD},
    b"00",
    GOOD.upper(),
    f" {GOOD}",
    f"{GOOD}\n",
    f"{GOOD}-more",
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE[:-1]}g-{SPAN}-01",
    f"00-{TRACE[:-1]}٣-{SPAN}-01",
    f"cc-{TRACE}-{SPAN}-01-\x1b[31m",
    f"cc-{TRACE}-{SPAN}-01-" + "x" * 300,
    "00-" * 1_000_000,
    "\ud800",
]


@pytest.mark.parametrize("bad", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_none_is_as_good_as_none(bad: Any) -> None:
    """Anything else is no trace, and refused with an example where a person gave it."""
    assert None is tracing.parse(bad)
    assert ("", "") == (tracing.valid(bad), tracing.trace_id_of(bad))
    if bad != "":
        with pytest.raises(UsageError, match=r"no W3C traceparent: write it as in 00-0af7"):
            tracing.checked(bad)


@settings(max_examples=40, deadline=None)
@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.{0,3}"))
def test_what_is_accepted_is_accepted_again(text: str) -> None:
    """The normal form is short, plain, and its own normal form."""
    found = tracing.valid(text)
    assert found in ("", tracing.valid(found))
    assert len(found) in (0, 55)


def test_a_new_trace_begins_where_there_was_none() -> None:
    """A caller's trace goes on; otherwise one begins that is never all zeros."""
    assert GOOD == tracing.continued(GOOD, lambda bits: 0)
    assert f"00-{'0' * 31}1-{'0' * 15}1-01" == tracing.continued("nonsense", lambda bits: 0)
    assert f"00-{'f' * 32}-{'f' * 16}-01" == tracing.new_trace(lambda bits: 2**bits - 1)
