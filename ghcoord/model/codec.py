"""Records as JSON that people can read, and back, with every defect named."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, TypeVar

import pydantic_core
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from ghcoord.errors import Corrupt, NewerSchema, TooLarge, UsageError

FORMAT = 1
"""Version that new records carry."""

MAX_RECORD = 1_000_000
"""Largest record in bytes: GitHub recommends objects under 1 MB (facts/github.md)."""

MAX_DEPTH = 64
"""Deepest nesting accepted in values that users bring."""

MAX_NUMBER = 2**53
"""Largest number in a record: what every JSON reader keeps exact. Revisions stay below it."""

MAX_ATTEMPT = 10**9
"""Largest number of an attempt, which is part of file names, and of any count of them."""

_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime(9999, 12, 30, tzinfo=UTC)


def sane(moment: datetime) -> datetime:
    """``moment`` if it can be shown in every time zone and counted with; raises ``ValueError``."""
    if not _FIRST <= moment <= _LAST:
        raise ValueError("the date is not between 1970 and 9999-12-30")
    return moment


Moment = Annotated[AwareDatetime, Field(ge=_FIRST, le=_LAST)]
"""A point in time that can be shown in every time zone and counted with."""

Number = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
"""A place in an order, or a size."""

Count = Annotated[int, Field(ge=0, le=MAX_ATTEMPT)]
"""How often something happened."""

Token = Annotated[int, Field(ge=1, le=MAX_NUMBER)]
"""The revision of a transaction."""


class Record(BaseModel):
    """A file in a space. Keys that people add by hand are kept.

    ``shown`` names the fields that are written also when they have their
    default, where the others then are not; ``None`` stands for all.  A default
    that is not written is part of the format: a new one needs a new ``FORMAT``.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    shown: ClassVar[tuple[str, ...] | None] = None

    format: int = FORMAT


AnyRecord = TypeVar("AnyRecord", bound=Record)


def stamp(seconds: float) -> datetime:
    """``seconds`` since the epoch as an aware datetime, to the millisecond."""
    return datetime.fromtimestamp(round(seconds, 3), UTC)


def ms_of(seconds: float) -> int:
    """``seconds`` since the epoch in whole milliseconds, as records and events keep times."""
    return round(seconds * 1000)


def to_json(value: Any) -> str:
    """Sorted and indented, with a final newline: diffs well and reads well.

    Raises ``TypeError`` and ``ValueError`` for what JSON has no word for.
    """
    return _dump(value).decode()


def _dump(value: Any) -> bytes:
    # The json module indents in pure Python: seven times slower.
    data = pydantic_core.to_json(_ordered(value), indent=2) + b"\n"
    if b"NaN" in data or b"Infinity" in data:
        _check_finite(value)
    return data


_ATOMS = frozenset({str, int, float, bool, type(None)})


def _ordered(value: Any) -> Any:
    """``value`` with the keys of every object in order; raises ``TypeError`` for what is not JSON."""
    kind = type(value)
    if kind is dict or isinstance(value, dict):
        return {key: one if type(one := value[key]) in _ATOMS else _ordered(one) for key in sorted(value)}
    if kind is list or isinstance(value, list | tuple):
        return [one if type(one) in _ATOMS else _ordered(one) for one in value]
    if value is not None and not isinstance(value, str | int | float):
        raise TypeError(f"a {kind.__name__} is no JSON value")
    return value


def _check_finite(value: Any) -> None:
    """Raise ``ValueError`` for a number that JSON has no word for, or one such as 1e999, read as infinite."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is no JSON number")
    elif isinstance(value, dict):
        for one in value.values():
            _check_finite(one)
    elif isinstance(value, list | tuple):
        for one in value:
            _check_finite(one)


def encode(record: Record) -> bytes:
    """The file's content; raises ``TooLarge``."""
    shown = record.shown
    fields = record.model_dump(mode="json", exclude_none=True, exclude_defaults=shown is not None)
    for name in shown or ():
        fields[name] = getattr(record, name)
    data = _dump(fields)
    if len(data) > MAX_RECORD:
        raise TooLarge(f"a record of {len(data)} bytes: at most {MAX_RECORD} are accepted, keep large data elsewhere")
    return data


def decode(kind: type[AnyRecord], data: bytes, path: str) -> AnyRecord:
    """The record in ``data``; raises ``Corrupt`` naming ``path`` and the defect, or ``NewerSchema``."""
    if len(data) > MAX_RECORD:
        raise Corrupt(f"{path} has {len(data)} bytes: a record has at most {MAX_RECORD}")
    try:
        value = pydantic_core.from_json(data, allow_inf_nan=False)
        if _may_overflow(data):
            _check_finite(value)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{path} is not JSON: {_defect(data) or error}") from None
    if isinstance(value, dict) and isinstance(value.get("format"), int) and value["format"] > FORMAT:
        raise NewerSchema(f"{path} has format {value['format']}: upgrade ghcoord to read it")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the record"
        raise Corrupt(f"{path} is not a valid {kind.__name__.lower()}: {where}: {first['msg']}") from None


_FLAT = bytes.maketrans(b"123456789E", b"000000000e")


def _may_overflow(data: bytes) -> bool:
    """Whether ``data`` may hold a number beyond every float: with an exponent, or of hundreds of digits."""
    flat = data.translate(_FLAT)
    return b"0e0" in flat or b"0e+" in flat or b"0" * 300 in flat


def _defect(data: bytes) -> str:
    """What is wrong with ``data`` in the words of the json module, which name the constant or the number."""
    try:
        json.loads(data, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        return str(error)
    return ""


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number there")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} is beyond every number")
    return number


def check_value(value: Any, what: str) -> Any:
    """``value`` if it is plain JSON of sane depth and size; raises ``UsageError`` or ``TooLarge``."""
    _check_depth(value, what, 0)
    try:
        size = len(to_json([[value]]).encode())  # indented as deep as in the records
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the {what} is not JSON: {error}") from None
    if size > MAX_RECORD - 10_000:
        raise TooLarge(f"the {what} has {size} bytes: at most {MAX_RECORD - 10_000} are accepted")
    return value


def _check_depth(value: Any, what: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise UsageError(f"the {what} is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        for key, below in value.items():
            if not isinstance(key, str):
                raise UsageError(f"the {what} has a key that is not a string: {key!r}")
            _check_depth(below, what, depth + 1)
    elif isinstance(value, list | tuple):
        for below in value:
            _check_depth(below, what, depth + 1)
