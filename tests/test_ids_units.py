"""Names, ids, path components and durations."""

from __future__ import annotations

import random
import re
import subprocess
import unicodedata

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from ghcoord.errors import InvalidName, UsageError
from ghcoord.ids import (
    MAX_NAME,
    check_id,
    check_name,
    decode_component,
    encode_component,
    fan_out,
    new_op_id,
    new_suffix,
    new_task_id,
)
from ghcoord.units import MAX_DURATION, format_duration, parse_duration

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Other work on the machine must not fail a test."""

ODD = [
    "a",
    "A",
    "Ab",
    "aB",
    ".hidden",
    "a.b",
    "a..b",
    "a.",
    "x.lock",
    "x.LOCK",
    ".lock",
    "a.lock.lock",
    "@",
    "@{x",
    "a@{b",
    "-a",
    "--all",
    "a b",
    "a~b^c:d?e*f[g\\h",
    "a/b",
    "ä",
    "straße",
    "STRASSE",
    "名前",
    "🦊" * 40,
    "!a",
    "%61",
    "a%",
    "x" * 256,
    "X" * 256,
    "名" * 59 + "a",
    "名" * 59 + "b",
    "con",
    "HEAD",
    "ﬁ",
    "K",
]

plain_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=70)


def checked(text: str) -> str:
    """``text`` as an accepted name, or the example is thrown away."""
    try:
        return check_name(text, "name")
    except InvalidName:
        assume(False)
        raise


@relaxed
@given(plain_text)
@example("x.lock")
@example("a..b")
@example("aB!c%")
def test_components_are_reversible(name: str) -> None:
    """A component gives its name back, or says that only its record knows it."""
    encoded = encode_component(name)
    assert len(encoded) <= 180
    assert decode_component(encoded) == (None if "%-" in encoded else name)
    assert re.fullmatch(r"[a-z0-9_\-.!%]+", encoded)


@relaxed
@given(plain_text, plain_text)
@example("a", "A")
@example("straße", "STRASSE")
@example("ab", "aB")
@example("x" * 200, "x" * 201)
@example("名" * 59 + "a", "名" * 59 + "b")
def test_distinct_names_stay_distinct_where_case_does_not_count(one: str, other: str) -> None:
    """Two names never meet in one file or ref, also on file systems that ignore case or normalise Unicode."""
    assume(one != other)
    first, second = encode_component(one), encode_component(other)
    assert first.casefold() != second.casefold()
    assert unicodedata.normalize("NFD", first) != unicodedata.normalize("NFD", second)


def test_odd_names_are_all_different() -> None:
    """The names that break things elsewhere all have their own component."""
    assert len(ODD) == len({encode_component(name).casefold() for name in ODD})


def accepted_by_git(refs: list[str]) -> list[bool]:
    """What ``git check-ref-format`` says to each, asked in one go by a shell loop."""
    script = 'while IFS= read -r ref; do git check-ref-format "$ref" && echo y || echo n; done'
    asked = "".join(f"{ref}\n" for ref in refs)
    done = subprocess.run(["sh", "-c", script], input=asked, capture_output=True, text=True, check=True)
    return [line == "y" for line in done.stdout.split()]


def test_components_are_ref_components() -> None:
    """Git accepts every one, for a sample of what people might type."""
    source = random.Random(5)
    alphabet = "aAzZ09._-@{}~^:?*[]\\ !%/lock名🦊é'\""
    names = ODD + ["".join(source.choices(alphabet, k=source.randint(1, 12))) for _ in range(250)]
    refs = [f"refs/heads/ghcoord/memory/{encode_component(name)}" for name in names]
    wrong = [name for name, fine in zip(names, accepted_by_git(refs), strict=True) if not fine]
    assert [] == wrong


@pytest.mark.parametrize("foreign", ["100%", "a%zz", "a!", "!1", "FOO", "a b", "%6", "%41", "x%ff", "名", "a.lock", ""])
def test_what_is_no_component_of_ours_has_no_name(foreign: str) -> None:
    """A branch or file that a person named is not taken for ours, and nothing is raised."""
    assert None is decode_component(foreign)


@relaxed
@given(st.text(st.characters(categories=["L", "M", "N", "P", "S"], exclude_characters="/."), min_size=1, max_size=70))
def test_accepted_names_are_settled(text: str) -> None:
    """Checking twice is checking once, and equal-looking spellings become one name."""
    name = checked(text)
    assume(len(name) <= MAX_NAME)
    assert name == check_name(name, "name")
    assert name == checked(unicodedata.normalize("NFD", name))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("x" * 257, "has 257 characters: at most 256"),
        ("x" * 10_000, "has 10000 characters"),
        ("a\nb", "unprintable"),
        ("a\0", "unprintable"),
        ("a\u200bb", "unprintable"),
        ("a\u00a0b", "unprintable"),
        ("\ud800", "not valid UTF-8"),
        (" a", "starts or ends with a space"),
        ("a ", "starts or ends with a space"),
        ("..", "segment"),
        ("a/../b", "segment"),
        ("./a", "segment"),
        ("/a", "segment"),
        ("a/", "segment"),
        ("a//b", "segment"),
    ],
)
def test_names_that_are_refused(text: str, why: str) -> None:
    """One clear printable line with the reason."""
    with pytest.raises(InvalidName, match=why) as caught:
        check_name(text, "lock name")
    assert caught.value.message.isprintable()
    assert caught.value.message.startswith("the lock name")
    assert len(caught.value.message) < 150


@pytest.mark.parametrize("text", ["a", "deploy/prod", "Ärger mit Umlauten", "名前", "a..b", "-x", "a.lock", "x" * 256])
def test_names_that_are_accepted(text: str) -> None:
    """Any script, spaces inside and slashes."""
    assert text == check_name(text, "name")


@pytest.mark.parametrize("text", ["a", "A1", "build-7", "a.b_c-d", "x" * 128, "0"])
def test_ids_that_are_accepted(text: str) -> None:
    """Letters, digits, dots, dashes, underscores."""
    assert text == check_id(text, "id")


@pytest.mark.parametrize("text", ["", "-a", "a-", ".a", "a.", "a..b", "a/b", "a b", "ä", "a\n", "x" * 129, "٣", "_a"])
def test_ids_that_are_refused(text: str) -> None:
    """What could be an option, a path, or unreadable."""
    with pytest.raises(InvalidName, match="the task id"):
        check_id(text, "task id")


def test_made_ids_are_accepted_and_different() -> None:
    """New ids are valid ids of their length, and random."""
    bits = random.Random(3).getrandbits
    for make, length in ((new_op_id, 20), (new_task_id, 13), (new_suffix, 4)):
        made = {check_id(make(bits), "id") for _ in range(200)}
        assert {length} == {len(one) for one in made}
        assert len(made) > 190
    assert "t" + "0" * 12 == new_task_id(lambda bits: 0)
    assert "z" * 20 == new_op_id(lambda bits: 2**bits - 1)


def test_fan_out_is_even() -> None:
    """20,000 names spread so that no directory gets many."""
    filled: dict[tuple[str, str], int] = {}
    for number in range(20_000):
        place = fan_out(f"t{number}")
        filled[place] = filled.get(place, 0) + 1
    assert 256 == len({first for first, _ in filled})
    assert max(filled.values()) <= 6


# -- durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0),
        ("90s", 90.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("250ms", 0.25),
        ("1.5h", 5400.0),
        ("2d", 172800.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("30M", 1800.0),
        ("1m1m", 120.0),
        (15, 15.0),
        (0.5, 0.5),
    ],
)
def test_durations_that_people_write(text: str | float, seconds: float) -> None:
    """Numbers, units and sums of them."""
    assert seconds == parse_duration(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "x",
        "5x",
        "m",
        "-5",
        "-5s",
        "1e3",
        "5 m",
        "1h 30m",
        "nan",
        "inf",
        "٣s",
        "1,5s",
        ".5s",
        "5.",
        "1h30",
        "9" * 400,
        "400000d",
        float("nan"),
        float("inf"),
        -1,
    ],
)
def test_what_is_no_duration(text: str | float) -> None:
    """One line that shows how to write it, however long the input."""
    with pytest.raises(UsageError, match="duration") as caught:
        parse_duration(text)
    assert len(caught.value.message) < 120


@relaxed
@given(st.floats(0, MAX_DURATION))
def test_a_formatted_duration_reads_back(seconds: float) -> None:
    """The short form is itself a duration, close to the one it stands for: within a twentieth and 0.1 s."""
    shown = format_duration(seconds)
    assert len(shown) <= 8
    assert abs(parse_duration(shown) - seconds) <= max(0.1, seconds / 20 + 0.5 if seconds >= 10 else 0.1)


@relaxed
@given(st.integers(0, 10**8), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_every_number_and_unit_is_read(number: int, unit: str) -> None:
    """A number with a unit means that many of it, up to ten years."""
    seconds = number * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    if seconds > MAX_DURATION:
        with pytest.raises(UsageError):
            parse_duration(f"{number}{unit}")
    else:
        assert parse_duration(f"{number}{unit}") == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (0.44, "0.4s"),
        (9, "9s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (250, "4m10s"),
        (3599.7, "1h00m"),
        (7500, "2h05m"),
        (86400 * 3 + 4 * 3600, "3d04h"),
        (-5, "-5s"),
    ],
)
def test_the_short_form(seconds: float, shown: str) -> None:
    """Two units at most, carried over when rounding fills one."""
    assert shown == format_duration(seconds)
