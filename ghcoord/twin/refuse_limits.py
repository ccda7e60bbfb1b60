"""How a limit's refusal reads, over REST, GraphQL and git."""

from __future__ import annotations

import math
from typing import Any

from ghcoord.twin.limits import Demand, Over
from ghcoord.twin.rest import Reply
from ghcoord.twin.switches import Switches

DOCUMENTATION = "https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api"
SECONDARY = (
    "You have exceeded a secondary rate limit. Please wait a few minutes before you try again. "
    "If you reach out to GitHub Support for help, please include the request ID."
)


def limit_reply(over: Over, demand: Demand, switches: Switches) -> Reply:
    """The answer to a request that a limit refuses."""
    who = f"user ID {demand.token.login}" if demand.token is not None else "your address"
    primary = over.kind == "primary"
    message = f"API rate limit exceeded for {who}." if primary else SECONDARY
    headers: dict[str, str] = {}
    if primary:
        headers["x-ratelimit-remaining"] = "0"
        headers["x-ratelimit-reset"] = str(math.ceil(over.until))
    elif switches.retry_after:
        headers["retry-after"] = str(math.ceil(over.until - demand.now))
    if demand.resource == "git":
        return Reply(429, None, headers, raw=message.encode(), content_type="text/plain; charset=utf-8")
    if demand.resource == "graphql":
        return _graphql(message, headers, 200 if primary else switches.graphql_secondary_status)
    status = 403 if primary else switches.secondary_status
    return Reply(status, {"message": message, "documentation_url": DOCUMENTATION}, headers)


def _graphql(message: str, headers: dict[str, str], status: int) -> Reply:
    body: dict[str, Any] = {"message": message, "documentation_url": DOCUMENTATION}
    if status == 200:
        body = {"errors": [{"type": "RATE_LIMITED", "message": message}]}
    return Reply(status, body, headers)
