"""Every number in ``docs/limits.md`` is that of the code."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from importlib import import_module

import pytest

import ghcoord
from ghcoord.coord.layout import memory_space
from ghcoord.errors import TooLarge, UsageError
from ghcoord.hub import Submission
from ghcoord.ids import check_id
from ghcoord.model.codec import check_value, to_json
from tests.docs.pages import ROOT

_UNITS = {
    "": 1,
    "bytes": 1,
    "KiB": 1024,
    "MiB": 1024**2,
    "characters": 1,
    "levels": 1,
    "s": 1,
    "days": 86400,
}
_ROW = re.compile(
    r"^\| (?P<what>.+) \| (?P<number>[\d,.]+) ?(?P<unit>\w*) \| `(?P<where>ghcoord[^`]+)` \|$", re.MULTILINE
)
_PLACE = re.compile(r"([a-z0-9_.]+)\.(\w+)(\(\))?(?:\.(\w+))?")
"""A module, a constant or a class without arguments, and a field of it."""


def _submission(field: str, number: int) -> None:
    one = Submission("echo", **{field: number})  # type: ignore[arg-type]
    one.check()


def _register(number: int) -> None:
    with ghcoord.connect("memory:") as hub:
        hub.workers.register("w1", capacity=number)


TRIED: dict[str, Callable[[int], object]] = {
    "ghcoord.coord.layout.memory_space": lambda number: memory_space("a" * number),
    "ghcoord.ids.check_id": lambda number: check_id("a" * number, "id"),
    "ghcoord.model.codec.check_value": lambda number: check_value("a" * (number - len(to_json([[""]]))), "value"),
    **{
        f"ghcoord.coord.tasks.tasks.Submission({field})": partial(_submission, field)
        for field in ("priority", "retries", "backoff", "backoff_cap")
    },
    "ghcoord.coord.workers.workers.Workers.register(capacity)": _register,
}
"""Limits without a constant of their own: the number is taken, one more is refused."""


def rows() -> list[tuple[str, float, str]]:
    """What, number in its base unit, where."""
    text = (ROOT / "docs" / "limits.md").read_text()
    found = []
    for row in _ROW.finditer(text):
        number = float(row["number"].replace(",", "")) * _UNITS[row["unit"]]
        found.append((row[1], number, row["where"]))
    return found


@pytest.mark.parametrize(("what", "number", "where"), rows(), ids=[where for _, _, where in rows()])
def test_limit_is_as_documented(what: str, number: float, where: str) -> None:
    """The number equals the constant, or is the last that is accepted."""
    if where in TRIED:
        TRIED[where](int(number))
        with pytest.raises((UsageError, TooLarge)):
            TRIED[where](int(number) + 1)
        return
    module, constant, called, field = _PLACE.fullmatch(where).groups()  # type: ignore[union-attr]
    found = getattr(import_module(module), constant)
    if called:
        found = found()
    assert number == (getattr(found, field) if field else found)


def test_every_row_is_tested() -> None:
    """No row of the page has a form that the test above would miss, and no trial is unused."""
    text = (ROOT / "docs" / "limits.md").read_text()
    tabled = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| limit ")]
    assert len(tabled) == len(rows())
    assert set() == set(TRIED) - {where for _, _, where in rows()}
