"""What in a REST exchange is not as an OpenAPI 3.0 description says. Operations are looked at when they are met."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import jsonschema
import jsonschema.validators
from jsonschema.exceptions import best_match

from ghcoord.twin.log import Recorded

ANYWHERE = {304, 401, 403, 404, 429}
"""What any operation may answer, whether or not it lists it; and all from 500 on."""

UNLISTED = {("POST", "/repos/{owner}/{repo}/actions/workflows/{workflow_id}/dispatches"): 422}
"""Answers that operations are reported to give and the description forgets: wrong inputs of a dispatch."""

REFUSED_INPUT = {400, 404, 413, 415, 422}
"""Answers that are right for a request that is wrong: that one is not held to the description."""

MULTI = {"path", "ref"}
"""Parameters of paths that hold slashes: the description marks only some of them (``x-multi-segment``)."""

PAGING = {"page", "per_page"}
"""Parameters that operations whose answers come in pages (they have a ``Link``) take, even if not all list them."""

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


def _nullable(check: Callable[..., Any]) -> Callable[..., Any]:
    """OpenAPI 3.0 says ``nullable`` beside whatever else would refuse null."""

    def checked(validator: Any, value: Any, instance: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
        if instance is None and schema.get("nullable") is True:
            return
        yield from check(validator, value, instance, schema) or ()

    return checked


_FORMATS = jsonschema.FormatChecker(formats=())


@_FORMATS.checks("date-time")
def _is_moment(value: object) -> bool:
    return not isinstance(value, str) or _MOMENT.fullmatch(value) is not None


@dataclass(frozen=True)
class Operation:
    """A method on a path's template, with the parameters of the path and the query."""

    method: str
    template: str
    pattern: re.Pattern[str]
    description: Mapping[str, Any]
    parameters: tuple[Mapping[str, Any], ...]

    @property
    def literals(self) -> int:
        """Of the templates that fit a path, the one with the most fixed text is meant."""
        return len(re.sub(r"\{\w+\}", "", self.template))


class OpenApi:
    """An API's description, read from a file."""

    def __init__(self, file: Path) -> None:
        self._document = json.loads(file.read_text())
        self._operations: dict[str, list[Operation]] = {}
        for template, methods in self._document["paths"].items():
            for method, description in methods.items():
                operation = self._operation(method.upper(), template, description)
                self._operations.setdefault(operation.method, []).append(operation)
        checks = {name: _nullable(check) for name, check in jsonschema.Draft202012Validator.VALIDATORS.items()}
        checks["$ref"] = self._reference
        checks["oneOf"] = checks["anyOf"]  # GitHub's alternatives overlap: every error is also a rule's violation
        self._validator = jsonschema.validators.create(
            meta_schema={}, validators=checks, type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER
        )

    def _operation(self, method: str, template: str, description: Mapping[str, Any]) -> Operation:
        parameters = tuple(self._resolved(each) for each in description.get("parameters", ()))
        multi = MULTI | {each["name"] for each in parameters if each.get("x-multi-segment")}

        def placeholder(found: re.Match[str]) -> str:
            return f"(?P<{found[1]}>{'.*' if found[1] in multi else '[^/]+'})"

        pattern = re.sub(r"\\\{(\w+)\\\}", placeholder, re.escape(template))
        return Operation(method, template, re.compile(pattern), description, parameters)

    def find(self, method: str, path: str) -> Operation | None:
        """The operation that a decoded path is of."""
        fitting = [each for each in self._operations.get(method, ()) if each.pattern.fullmatch(path)]
        return max(fitting, key=lambda each: each.literals, default=None)

    def violations(self, exchange: Recorded) -> list[str]:
        """What is not as described: path, parameters, body, status and the answer's body."""
        parts = urlsplit(exchange.path)
        path = unquote(parts.path).removeprefix("/api/v3")
        name = f"{exchange.method} {path} {exchange.status}"
        operation = self.find(exchange.method, path)
        if operation is None:
            return [] if exchange.status == 404 else [f"{name}: there is no such operation"]
        wrong = list(self._answer(operation, exchange))
        if exchange.status not in REFUSED_INPUT:
            wrong += self._inputs(operation, path, dict(parse_qsl(parts.query, keep_blank_values=True)))
            wrong += self._request(operation, exchange.request)
        return [f"{name}: {each}" for each in wrong]

    def _inputs(self, operation: Operation, path: str, query: Mapping[str, str]) -> Iterator[str]:
        matched = operation.pattern.fullmatch(path)
        assert matched is not None  # it is how the operation was found
        known = {each["name"]: each for each in operation.parameters if each["in"] == "query"}
        if self._is_paged(operation):
            query = {name: value for name, value in query.items() if name in known or name not in PAGING}
        for name in sorted(set(query) - set(known)):
            yield f"the query's {name!r} is unknown"
        for name, parameter in known.items():
            if name in query:
                yield from self._invalid(parameter["schema"], _coerced(query[name], parameter), f"query {name}")
            elif parameter.get("required"):
                yield f"the query lacks {name!r}"
        for parameter in operation.parameters:
            if parameter["in"] == "path":
                value = _coerced(matched[parameter["name"]], parameter)
                yield from self._invalid(parameter["schema"], value, f"path {parameter['name']}")

    def _is_paged(self, operation: Operation) -> bool:
        return "Link" in self._resolved(operation.description["responses"].get("200", {})).get("headers", {})

    def _request(self, operation: Operation, body: Any) -> Iterator[str]:
        wanted = self._resolved(operation.description.get("requestBody", {}))
        schema = wanted.get("content", {}).get("application/json", {}).get("schema")
        if schema is None:
            if body not in (None, {}):
                yield "it takes no body"
        elif body is None:
            if wanted.get("required"):
                yield "it needs a body"
        else:
            yield from self._invalid(schema, body, "request")
            known = self._resolved(schema).get("properties")
            if known is not None and isinstance(body, dict):
                yield from (f"the request's {name!r} is unknown" for name in sorted(set(body) - set(known)))

    def _answer(self, operation: Operation, exchange: Recorded) -> Iterator[str]:
        listed = operation.description["responses"].get(str(exchange.status))
        if listed is None:
            if UNLISTED.get((operation.method, operation.template)) == exchange.status:
                return
            if exchange.status not in ANYWHERE and exchange.status < 500:
                yield "this status is not listed"
            return
        content = self._resolved(listed).get("content", {})
        if not content:
            # Of an error the body is often left out of the description, and never of the answer.
            if exchange.status < 400 and exchange.response not in (None, b"", ""):
                yield "this answer has no body"
            return
        if "json" not in exchange.content_type:
            return
        kinds = [media["schema"] for kind, media in content.items() if "json" in kind and "schema" in media]
        found = [list(self._invalid(schema, exchange.response, "answer")) for schema in kinds]
        if found and all(found):
            yield from found[0]

    def _reference(self, validator: Any, reference: str, instance: Any, schema: Any) -> Iterator[Any]:
        yield from validator.descend(instance, self._resolved({"$ref": reference}))

    def _resolved(self, node: Any) -> Any:
        while "$ref" in node:
            found = self._document
            for part in node["$ref"].removeprefix("#/").split("/"):
                found = found[part.replace("~1", "/").replace("~0", "~")]
            node = found
        return node

    def _invalid(self, schema: Any, value: Any, what: str) -> Iterator[str]:
        for error in self._validator(schema, format_checker=_FORMATS).iter_errors(value):
            error = best_match([error])  # of a choice, the branch that came nearest
            place = "/".join(str(part) for part in error.absolute_path)
            yield f"{what} {place}: {error.message[:200]}"


def _coerced(text: str, parameter: Mapping[str, Any]) -> Any:
    """A parameter's text as what its schema wants, if it can be that."""
    kind = parameter["schema"].get("type")
    if kind == "integer" and re.fullmatch(r"-?\d+", text):
        return int(text)
    if kind == "boolean" and text in ("true", "false"):
        return text == "true"
    return text
