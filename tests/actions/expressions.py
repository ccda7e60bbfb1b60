"""Expressions of GitHub Actions, ``${{ … }}``: what the documentation describes of them, and an error for the rest.

Contexts are plain dicts.  As on GitHub a property that is not there is null, names and texts compare without
case, and a text is compared with a number as a number.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_TOKEN = re.compile(
    r"\s*(?:(?P<number>-?(?:0x[0-9a-fA-F]+|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?))|'(?P<text>(?:[^']|'')*)'"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_-]*)|(?P<sign>&&|\|\||==|!=|<=|>=|[!<>().\[\],*]))"
)
_HOLE = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
STATUS = ("success", "failure", "always", "cancelled")


class ExpressionError(Exception):
    """An expression that GitHub would refuse, or one that this evaluator does not know."""


def interpolate(text: Any, contexts: Mapping[str, Any]) -> str:
    """``text`` with every ``${{ … }}`` replaced, as the value of an input or a variable is."""
    return _HOLE.sub(lambda hole: as_text(evaluate(hole[1], contexts)), as_text(text))


def condition(text: Any, contexts: Mapping[str, Any]) -> bool:
    """Whether an ``if:`` holds; without a status function it is ``success() && …``."""
    given = "" if text is None else as_text(text).strip()
    whole = _HOLE.fullmatch(given)
    expression = whole[1] if whole else given
    if not expression.strip():
        expression = "success()"
    elif not any(re.search(rf"\b{name}\s*\(", expression) for name in STATUS):
        expression = f"success() && ({expression})"
    return truth(evaluate(expression, contexts))


def evaluate(expression: str, contexts: Mapping[str, Any]) -> Any:
    """The value of an expression."""
    parser = _Parser(_tokens(expression), contexts)
    value = parser.either()
    parser.end()
    return value


def truth(value: Any) -> bool:
    """Null, false, 0, NaN and the empty text are false."""
    return bool(value) and not (isinstance(value, float) and math.isnan(value))


def as_text(value: Any) -> str:
    """A value as it appears in a text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "Object" if isinstance(value, Mapping) else "Array" if isinstance(value, list) else str(value)


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ExpressionError(f"unexpected {text[at : at + 20]!r} in {text!r}")
        kind = match.lastgroup or ""
        found.append((kind, match[kind]))
        at = match.end()
    return found


class _Parser:
    """Recursive descent: either, both, compared, not, value."""

    def __init__(self, tokens: Sequence[tuple[str, str]], contexts: Mapping[str, Any]) -> None:
        self._tokens = list(tokens)
        self._at = 0
        self._contexts = contexts

    def end(self) -> None:
        if self._at != len(self._tokens):
            raise ExpressionError(f"unexpected {self._tokens[self._at][1]!r}")

    def either(self) -> Any:
        value = self._both()
        while self._take("||"):
            other = self._both()
            value = value if truth(value) else other
        return value

    def _both(self) -> Any:
        value = self._compared()
        while self._take("&&"):
            other = self._compared()
            value = other if truth(value) else value
        return value

    def _compared(self) -> Any:
        value = self._negated()
        for sign, compare in _COMPARE.items():
            if self._take(sign):
                return compare(value, self._negated())
        return value

    def _negated(self) -> Any:
        return not truth(self._negated()) if self._take("!") else self._value()

    def _value(self) -> Any:
        kind, text = self._next()
        if kind == "number":
            return float(int(text, 16)) if "x" in text else float(text)
        if kind == "text":
            return text.replace("''", "'")
        if text == "(":
            value = self.either()
            self._need(")")
            return self._parts(value)
        if kind != "name":
            raise ExpressionError(f"unexpected {text!r}")
        if text in ("true", "false", "null"):
            return {"true": True, "false": False, "null": None}[text]
        if self._take("("):
            return self._parts(self._call(text))
        if text not in self._contexts:
            raise ExpressionError(f"there is no context {text!r} here")
        return self._parts(self._contexts[text])

    def _parts(self, value: Any) -> Any:
        while True:
            if self._take("."):
                kind, name = self._next()
                if kind != "name":
                    raise ExpressionError(f"{name!r} after a point")
                value = _part(value, name)
            elif self._take("["):
                value = _part(value, self.either())
                self._need("]")
            else:
                return value

    def _call(self, name: str) -> Any:
        given: list[Any] = []
        while not self._take(")"):
            given.append(self.either())
            if not self._take(","):
                self._need(")")
                break
        function = _FUNCTIONS.get(name.lower())
        if function is None:
            raise ExpressionError(f"the function {name!r} is not known")
        return function(self._contexts, *given)

    def _next(self) -> tuple[str, str]:
        if self._at == len(self._tokens):
            raise ExpressionError("the expression ends too early")
        self._at += 1
        return self._tokens[self._at - 1]

    def _take(self, sign: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == ("sign", sign):
            self._at += 1
            return True
        return False

    def _need(self, sign: str) -> None:
        if not self._take(sign):
            raise ExpressionError(f"{sign!r} is missing")


def _part(value: Any, name: Any) -> Any:
    if isinstance(value, Mapping):
        return next((value[key] for key in value if key.lower() == as_text(name).lower()), None)
    if isinstance(value, list) and isinstance(name, float) and 0 <= name < len(value):
        return value[int(name)]
    return None


def _number(value: Any) -> float:
    if value is None or value == "":
        return 0.0
    if isinstance(value, bool | int | float):
        return float(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return one.lower() == other.lower()
    if type(one) is type(other) and not isinstance(one, float | int):
        return bool(one == other)
    return _number(one) == _number(other)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def ask(one: Any, other: Any) -> bool:
        if isinstance(one, str) and isinstance(other, str):
            return compare(one.lower(), other.lower())
        return compare(_number(one), _number(other))

    return ask


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": _equal,
    "!=": lambda one, other: not _equal(one, other),
    "<=": _ordered(lambda one, other: one <= other),
    ">=": _ordered(lambda one, other: one >= other),
    "<": _ordered(lambda one, other: one < other),
    ">": _ordered(lambda one, other: one > other),
}


def _format(contexts: Mapping[str, Any], text: Any, *given: Any) -> str:
    return re.sub(r"\{\{|\}\}|\{(\d+)\}", lambda m: as_text(given[int(m[1])]) if m[1] else m[0][0], as_text(text))


def _contains(contexts: Mapping[str, Any], where: Any, what: Any) -> bool:
    if isinstance(where, list):
        return any(_equal(one, what) for one in where)
    return as_text(what).lower() in as_text(where).lower()


def _status(name: str) -> Callable[..., bool]:
    def ask(contexts: Mapping[str, Any]) -> bool:
        return name == "always" or contexts["job"]["status"] == name

    return ask


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "contains": _contains,
    "startswith": lambda contexts, text, start: as_text(text).lower().startswith(as_text(start).lower()),
    "endswith": lambda contexts, text, end: as_text(text).lower().endswith(as_text(end).lower()),
    "format": _format,
    "join": lambda contexts, many, by=",": as_text(by).join(as_text(one) for one in many),
    "tojson": lambda contexts, value: json.dumps(value, indent=2),
    "fromjson": lambda contexts, text: json.loads(as_text(text)),
    **{name: _status(name) for name in STATUS},
}
