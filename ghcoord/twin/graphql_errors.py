"""How the GraphQL API says no: the bodies of refusals, in GitHub's form.

``type`` stands beside ``message`` and not under ``extensions``; an error of a
resolver has ``path`` and ``locations``, one of the whole request has not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphql import GraphQLError


class Refused(Exception):
    """One field is refused: it becomes null, and an error of that ``type`` (``None``: without one) stands beside it."""

    def __init__(self, type_: str | None, message: str) -> None:
        super().__init__(message)
        self.type = type_
        self.message = message


class Opaque(Exception):
    """The server fails without saying why."""


class RequestRefused(Exception):
    """The whole request is refused with that HTTP status and body; nothing was executed."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(str(body))
        self.status = status
        self.body = dict(body)


def refusal(message: str, type_: str | None = None) -> dict[str, Any]:
    """A body that has one error about the request as a whole, and no data."""
    error: dict[str, Any] = {} if type_ is None else {"type": type_}
    return {"errors": [{**error, "message": message}]}


def opaque_body(text: str, request_id: str) -> dict[str, Any]:
    """What is left of an answer when the server failed."""
    return {"data": None, **refusal(text.format(request=request_id))}


def validation_body(errors: Sequence[GraphQLError]) -> dict[str, Any]:
    """The body for a document that is none, or does not suit the schema: errors with places, and no data."""
    return {"errors": [{**_places(error), "message": error.message} for error in errors]}


def result_body(data: Mapping[str, Any] | None, errors: Sequence[GraphQLError]) -> dict[str, Any]:
    """The body for a request that was executed. Raises what is no refusal: a bug of the twin's own."""
    body: dict[str, Any] = {"data": data}
    if errors:
        body["errors"] = [_executed(error) for error in errors]
    return body


def _executed(error: GraphQLError) -> dict[str, Any]:
    cause = error.original_error
    if cause is not None and not isinstance(cause, Refused | GraphQLError):
        raise cause
    type_ = {"type": cause.type} if isinstance(cause, Refused) and cause.type is not None else {}
    return {**type_, "path": list(error.path or ()), **_places(error), "message": error.message}


def _places(error: GraphQLError) -> dict[str, Any]:
    return {"locations": [{"line": place.line, "column": place.column} for place in error.locations or ()]}
