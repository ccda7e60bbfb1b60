"""Timetables: every due time once and in order, also when the clocks change; nonsense refused in one sentence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghcoord.errors import UsageError
from ghcoord.model.cron import MAX_EXPRESSION, parse, zone

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def times(text: str, since: datetime = NOON, count: int = 3, timezone: str = "UTC") -> list[str]:
    """The next due times, local, as texts."""
    table = parse(text, timezone, NOON)
    return [f"{at.astimezone(zone(timezone)):%Y-%m-%d %H:%M %Z}" for at in islice(table.after(since), count)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*/15 * * * *", ["2026-11-21 12:15 UTC", "2026-11-21 12:30 UTC", "2026-11-21 12:45 UTC"]),
        ("0 12 * * *", ["2026-11-22 12:00 UTC", "2026-11-23 12:00 UTC", "2026-11-24 12:00 UTC"]),
        ("0 0 29 2 *", ["2028-02-29 00:00 UTC", "2032-02-29 00:00 UTC", "2036-02-29 00:00 UTC"]),
        ("0 9 * * MON-FRI", ["2026-11-23 09:00 UTC", "2026-11-24 09:00 UTC", "2026-11-25 09:00 UTC"]),
        ("@hourly", ["2026-11-21 13:00 UTC", "2026-11-21 14:00 UTC", "2026-11-21 15:00 UTC"]),
        ("@Daily", ["2026-11-22 00:00 UTC", "2026-11-23 00:00 UTC", "2026-11-24 00:00 UTC"]),
        ("@weekly", ["2026-11-22 00:00 UTC", "2026-11-29 00:00 UTC", "2026-12-06 00:00 UTC"]),
        ("@monthly", ["2026-12-01 00:00 UTC", "2027-01-01 00:00 UTC", "2027-02-01 00:00 UTC"]),
        ("@yearly", ["2027-01-01 00:00 UTC", "2028-01-01 00:00 UTC", "2029-01-01 00:00 UTC"]),
        ("every 90m", ["2026-11-21 13:30 UTC", "2026-11-21 15:00 UTC", "2026-11-21 16:30 UTC"]),
        ("  0   0  L *  * ", ["2026-11-30 00:00 UTC", "2026-12-31 00:00 UTC", "2027-01-31 00:00 UTC"]),
    ],
)
def test_due_times(text: str, expected: list[str]) -> None:
    """Five fields, the usual names for common ones, and plain intervals from the anchor; the start itself is past."""
    assert expected == times(text)


def test_an_hour_that_does_not_exist() -> None:
    """In spring what is due at 02:30 comes at once at 03:00; what is due every half hour just goes on."""
    before = datetime(2026, 3, 28, 23, 0, tzinfo=UTC)
    once = times("30 2 * * *", before, 2, "Europe/Berlin")
    assert ["2026-03-29 03:00 CEST", "2026-03-30 02:30 CEST"] == once
    often = times("*/30 * * * *", before + timedelta(hours=1), 4, "Europe/Berlin")
    assert ["2026-03-29 01:30 CET", "2026-03-29 03:00 CEST", "2026-03-29 03:30 CEST"] == often[:3]


def test_an_hour_that_comes_twice() -> None:
    """In autumn what is due at 02:30 comes once, wherever one starts; what is due every half hour comes each time."""
    before = datetime(2026, 10, 24, 23, 0, tzinfo=UTC)
    once = ["2026-10-25 02:30 CEST", "2026-10-26 02:30 CET", "2026-10-27 02:30 CET"]
    assert once == times("30 2 * * *", before, 3, "Europe/Berlin")
    for minutes in (91, 100, 119, 120, 149, 151):  # between the two 02:30 and after
        assert once[1:] == times("30 2 * * *", before + timedelta(minutes=minutes), 2, "Europe/Berlin")
    often = times("*/30 * * * *", before + timedelta(minutes=59), 4, "Europe/Berlin")
    assert ["2026-10-25 02:00 CEST", "2026-10-25 02:30 CEST", "2026-10-25 02:00 CET", "2026-10-25 02:30 CET"] == often


@pytest.mark.parametrize(
    ("text", "timezone", "why"),
    [
        ("", "UTC", "no schedule"),
        ("* * * *", "UTC", "five cron fields"),
        ("* * * * * *", "UTC", "five cron fields"),
        ("60 * * * *", "UTC", "minute is wrong"),
        ("* 24 * * *", "UTC", "hour is wrong"),
        ("* * * 13 *", "UTC", "month is wrong"),
        ("*/0 * * * *", "UTC", "minute is wrong"),
        ("5-1 * * * *", "UTC", "minute is wrong"),
        ("0 0 30 2 *", "UTC", "is wrong"),
        ("0 0 31 4,6 *", "UTC", "is wrong"),
        ("* * */20 * 1L", "UTC", "never comes"),
        ("9" * 5000 + " * * * *", "UTC", "at most 200"),
        ("1" * 190 + " * * * *", "UTC", "minute is wrong"),
        ("* * * * ²", "UTC", "five cron fields"),
        ("@fortnightly", "UTC", "no schedule"),
        ("every", "UTC", "no schedule"),
        ("every soon", "UTC", "bad duration"),
        ("every 0", "UTC", "at least one"),
        ("every 1.5s", "UTC", "whole seconds"),
        ("* * * * *", "Europe/Nowhere", "no time zone 'Europe/Nowhere'"),
        ("* * * * *", "../../etc/passwd", "no time zone"),
        ("* * * * *", "/etc/localtime", "no time zone"),
        ("* * * * *", "localtime", "no time zone"),
        ("* * * * *", "Europe", "no time zone"),
        ("* * * * *", "", "no time zone"),
        ("* * * * *", "U\0TC", "no time zone"),
        ("* * * * *", "x" * 100_000, "no time zone"),
    ],
)
def test_nonsense_is_refused(text: str, timezone: str, why: str) -> None:
    """Each mistake is named in a line that shows no more than the beginning of what was given."""
    with pytest.raises(UsageError, match=why) as caught:
        parse(text, timezone, NOON)
    assert 200 > len(caught.value.message)


FIELDS = st.one_of(st.just("*"), st.sampled_from(["*/7", "*/20", "0", "1", "30", "59", "1,2", "15,45"]))
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"])


@settings(deadline=None, max_examples=150)
@given(
    minute=FIELDS,
    hour=st.sampled_from(["*", "*/3", "1", "2", "3", "1,2", "23"]),
    days=st.sampled_from(["* *", "1 *", "L *", "* 1-5", "29 2"]),
    timezone=ZONES,
    start=st.integers(0, 3 * 365 * 24 * 60),
    hours=st.integers(1, 80),
)
def test_every_due_time_once_wherever_one_starts(
    minute: str, hour: str, days: str, timezone: str, start: int, hours: int
) -> None:
    """The times grow, do not depend on where the look begins, and the newest ones are the last of them."""
    dom, dow = (days.split()[0], days.split()[1]) if not days.startswith("29") else ("29", "*")
    text = f"{minute} {hour} {dom} * {dow}"
    table = parse(text, timezone, NOON)
    since = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=start)
    until = since + timedelta(hours=hours)
    found = table.newest(since, until, 10_000)
    assert all(earlier < later for earlier, later in pairwise(found))
    assert all(since < at <= until for at in found)
    middle = since + (until - since) / 2
    assert [at for at in found if at > middle] == table.newest(middle, until, 10_000)
    assert found[-3:] == table.newest(since, until, 3)


def test_a_long_sleep_is_looked_through_quickly() -> None:
    """The newest due times of years are found without walking through all of them."""
    table = parse("* * * * *", "Europe/Berlin", NOON)
    found = table.newest(datetime(1970, 1, 1, tzinfo=UTC), NOON, 501)
    assert (501, NOON, NOON - timedelta(minutes=500)) == (len(found), found[-1], found[0])
    every = parse("every 1s", "UTC", datetime(1970, 1, 1, tzinfo=UTC))
    assert [NOON - timedelta(seconds=1), NOON] == every.newest(datetime(1970, 1, 1, tzinfo=UTC), NOON, 2)
    rare = parse("0 0 1 1 *", "UTC", NOON)
    assert 3 == len(rare.newest(datetime(2024, 1, 1, tzinfo=UTC), datetime(2027, 6, 1, tzinfo=UTC), 501))


def test_a_period_of_years_is_looked_back_for() -> None:
    """Five hundred of them would begin before the calendar does."""
    table = parse("every 3650d", "UTC", datetime(2020, 1, 1, tzinfo=UTC))
    due = table.newest(datetime(2020, 1, 1, tzinfo=UTC), datetime(2035, 1, 1, tzinfo=UTC), 501)
    assert [datetime(2029, 12, 29, tzinfo=UTC)] == due


def test_the_end_of_the_calendar() -> None:
    """Nothing is due in years that could not be shown, and asking for it is no error."""
    late = datetime(9998, 12, 31, 23, 59, tzinfo=UTC)
    for text in ("* * * * *", "0 0 1 1 *", "every 3650d", "every 1s"):
        for timezone in ("UTC", "Pacific/Kiritimati", "America/New_York"):
            assert len(list(islice(parse(text, timezone, NOON).after(late), 100))) < 100


def test_long_expressions_have_a_limit() -> None:
    """Up to the limit they are read."""
    minutes = ",".join(str(n % 60) for n in range(100))[: MAX_EXPRESSION - 8].rpartition(",")[0]
    assert times(f"{minutes} * * * *")
