"""Patterns of paths: what they mean, and whether two of them have a path in common, against brute force."""

from __future__ import annotations

import itertools
import re
import time
from functools import cache

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ghcoord.errors import InvalidName, UsageError
from ghcoord.model.lock_globs import check_pattern, check_patterns, overlap


def regex(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression over paths that end in a slash: another way to the same meaning."""
    parts = []
    for segment in pattern.split("/"):
        if segment == "**":
            parts.append("(?:[^/]+/)*")
            continue
        for token in re.findall(r"\[!?.[^\]]*\]|.", segment):
            if token == "*":
                parts.append("[^/]*")
            elif token == "?":
                parts.append("[^/]")
            elif len(token) > 1:
                inner = token[1:-1]
                parts.append(f"(?!/)[{'^' + inner[1:] if inner[0] == '!' else inner}]")
            else:
                parts.append(re.escape(token))
        parts.append("/")
    return re.compile("".join(parts) + r"\Z")


def paths(letters: str, segments: int, length: int) -> list[str]:
    names = ["".join(name) for n in range(1, length + 1) for name in itertools.product(letters, repeat=n)]
    return ["/".join(path) + "/" for n in range(1, segments + 1) for path in itertools.product(names, repeat=n)]


FOLDERS = paths("ab", 3, 2)
"""Three segments of up to two letters: two patterns of so few parts share one of these paths, or none at all."""

NAMES = paths("abcd", 1, 5)
"""One segment; the sets in the patterns name three letters, the fourth stands for all others."""


@cache
def matching(pattern: str, among: str) -> frozenset[str]:
    expression = regex(pattern)
    return frozenset(path for path in (FOLDERS if among == "folders" else NAMES) if expression.match(path))


def check(one: str, other: str, among: str) -> None:
    expected = not matching(one, among).isdisjoint(matching(other, among))
    assert expected is overlap(check_pattern(one), check_pattern(other))
    assert expected is overlap(other, one)


piece = st.sampled_from(["a", "b", "*", "?", "[ab]", "[!a]"])
segment = st.lists(piece, min_size=1, max_size=2).map("".join).filter(lambda text: "**" not in text)
folders = st.lists(st.just("**") | segment, min_size=1, max_size=3).map("/".join)
letter = st.sampled_from(["a", "b", "c", "*", "?", "[a-b]", "[!b]", "[!a-b]", "[ac]"])
names = st.lists(letter, min_size=1, max_size=3).map("".join).filter(lambda text: "**" not in text)


def segments(pattern: str) -> int:
    return sum(text != "**" for text in pattern.split("/"))


def relaxed(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
    )


def try_folders(examples: int) -> None:
    @relaxed(examples)
    @given(folders, folders)
    def run(one: str, other: str) -> None:
        assume(segments(one) + segments(other) <= 3)
        check(one, other, "folders")

    run()


def try_names(examples: int) -> None:
    @relaxed(examples)
    @given(names, names)
    def run(one: str, other: str) -> None:
        check(one, other, "names")

    run()


def test_folders_overlap_as_brute_force_says() -> None:
    """Whole paths, with ``**`` anywhere: as an enumeration of the paths says."""
    try_folders(120)


def test_names_overlap_as_brute_force_says() -> None:
    """Within one segment: stars, single characters, sets and what they leave out."""
    try_names(120)


@pytest.mark.slow
def test_far_more_patterns() -> None:
    """The same, longer."""
    try_folders(1000)
    try_names(1000)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("src/**", "src/a.py", True),
        ("src/**", "src", True),
        ("src/**", "src/a/b/c.py", True),
        ("src/*", "src/a/b.py", False),
        ("src/*.py", "src/a.md", False),
        ("src/*.py", "src/a*", True),
        ("**", "anything/at/all", True),
        ("**/test_*.py", "src/**", True),
        ("**/test_*.py", "docs/*.md", False),
        ("src/**/a.py", "src/a.py", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "b/**/a", False),
        ("Src/a", "src/a", False),
        ("caf\u00e9", "cafe\u0301", True),
        ("[[]id].tsx", "[[]id].tsx", True),
        ("[[]id].tsx", "i.tsx", False),
        ("[!a-y]", "[a-y]", False),
        ("[!a-x]", "[a-y]", True),
        ("[]a]", "[]]", True),
        ("[+-9]", "[!+-.]", True),
        ("a*b*c", "ac", False),
        ("a*b*c", "axbyc", True),
    ],
)
def test_what_patterns_mean(one: str, other: str, expected: bool) -> None:
    """By example."""
    one, other = check_pattern(one), check_pattern(other)
    assert (expected, expected) == (overlap(one, other), overlap(other, one))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("/etc/passwd", "absolute"),
        ("a\\b", "backslash"),
        ("src/", "ends with '/'"),
        ("a//b", "empty, '.' or '..'"),
        ("../a", "empty, '.' or '..'"),
        ("./a", "empty, '.' or '..'"),
        ("src/{a,b}.py", "give several patterns"),
        ("a**", "within a name"),
        ("***", "within a name"),
        ("[ab", "without ']'"),
        ("[]", "without ']'"),
        ("[z-a]", "turn it round"),
        ("[" + "ab" * 40 + "]", "at most 64"),
        ("a\nb", "unprintable"),
        ("", "empty"),
        ("x" * 257, "at most 256"),
    ],
)
def test_bad_patterns_are_refused(text: str, why: str) -> None:
    """Each with what is wrong, above all what would silently mean something else."""
    with pytest.raises(InvalidName, match=re.escape(why)):
        check_pattern(text)


def test_lists_of_patterns() -> None:
    """Sorted, each once, so many at most, and not a single text by mistake."""
    assert ("a", "b") == check_patterns(["b", "a", "b"], 2)
    for wrong in ([], ["a", "b", "c"], "ab"):
        with pytest.raises(UsageError):
            check_patterns(wrong, 2)


HOSTILE = [
    "*a" * 127 + "*",
    "a*" * 127 + "b",
    "?*" * 120 + "c",
    "**/*a/" * 40 + "**/b",
    "[!a-z0-9]*" * 25,
    "*/" * 127 + "x",
]


def test_hostile_patterns_cost_little() -> None:
    """The longest patterns of the worst shapes, each with each, take milliseconds, not ages."""
    made = [check_pattern(text) for text in HOSTILE]
    began = time.perf_counter()
    for one, other in itertools.product(made, repeat=2):
        overlap(one, other)
    assert time.perf_counter() - began < 2.0
