"""What is cut and cleaned before it is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghcoord.faces.mcp.shown import bounded, cut, json_line, line, page_of

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=60),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=10), inner, max_size=6),
    max_leaves=20,
)


@given(_JSON)
@settings(max_examples=20, deadline=None)
def test_what_is_small_is_left_as_it_is(value: Any) -> None:
    """Nothing is changed of what has room."""
    assert value == bounded(value)


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, ["x" * 3000] * 1000, {str(n) * 200: "y" * 500 for n in range(2000)}, [[n] for n in range(10**5)]],
)
def test_what_is_large_gets_small_and_says_so(value: Any) -> None:
    """Long texts, many texts, many keys and long lists come out near the room there is, of the same kind."""
    found = bounded(value, 5_000, 1_000)
    assert len(json.dumps(found, ensure_ascii=False)) < 8_000
    assert type(value) is type(found)
    assert "more" in json.dumps(found)


def test_deep_nesting_ends() -> None:
    """A value nested deeper than a record may be is shown to a depth."""
    deep: Any = "x"
    for _ in range(900):
        deep = [deep]
    assert "… 1 more" in json.dumps(bounded(deep), ensure_ascii=False)


def test_lines_are_lines() -> None:
    """Line feeds, escapes and reordering marks show as escapes, and a line is cut."""
    assert r"a\nb\x1b\u202ec" == line("a\nb\x1b\u202ec")
    assert "aaaa… (6 more characters)" == cut("a" * 10, 4)
    assert "\n" not in json_line({"a": "\n\u2028"})
    assert len(json_line({"a": "b" * 10**6}, 100)) < 150


@given(st.text(max_size=50), st.integers(-60, 60), st.integers(1, 20), st.integers(1, 7))
@settings(max_examples=50, deadline=None)
def test_pages_are_parts_of_the_text(text: str, offset: int, limit: int, size: int) -> None:
    """Whatever pieces a text comes in, a page is that part of it and says truly where it goes on."""
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    page = page_of(pieces, offset, limit)
    start = offset if offset >= 0 else max(0, len(text) + offset)
    assert text[start : start + limit] == page.text
    assert start == page.start
    assert (start + limit if start + limit < len(text) else None) == page.next_offset
