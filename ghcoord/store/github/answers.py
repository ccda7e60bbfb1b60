"""What each answer of GitHub, and each failure to get one, is in our tree of errors. No I/O, no state.

========================================================= =====================================================
answer                                                    error
========================================================= =====================================================
2xx with a body that is cut off or no JSON                ``OutcomeUnknown`` of a write, else ``Unavailable``
3xx                                                       ``Denied``: moved; the transport follows it for reads
401                                                       ``Denied``: the token is wrong or expired
403, 429 with a limit's headers or text                   ``Throttled``
403 otherwise                                             ``Denied``: single sign-on, archived, protected, the
                                                          permission or scope that is missing, a proxy's refusal
404                                                       ``NotFound``; ``Denied`` of a write without the scope
407                                                       ``Denied``: the proxy wants a login
408, 5xx                                                  ``OutcomeUnknown`` of a write, else ``Unavailable``
409 «Git Repository is empty.»                            ``NotFound``
409 otherwise                                             ``Unavailable``
410, 451                                                  ``Denied``
413, and 422 «too large»                                  ``TooLarge``
422 of a protected branch or a ruleset                    ``Denied``
other 4xx                                                 ``StoreError``
GraphQL errors besides what a mutation did                ``OutcomeUnknown``
GraphQL ``RATE_LIMITED``, or the text of a limit          ``Throttled``
GraphQL ``FORBIDDEN``, ``INSUFFICIENT_SCOPES``, protected ``Denied``
GraphQL ``NOT_FOUND`` of the repository                   ``NotFound``
GraphQL without that field or mutation; 404, 405 and 501  ``Unsupported``
GraphQL errors otherwise                                  ``GraphQLRefused``: the caller judges
refused, unknown host, no route, TLS, connect timeout     ``Unavailable``: nothing was sent
certificate not trusted, strange settings of a proxy      ``Unavailable`` with the fix
every other exception                                     ``OutcomeUnknown`` of a write, else ``Unavailable``
========================================================= =====================================================

Stale heads have no row: their statuses (409, 422) are in the caller's
``expect``, and over GraphQL they are among the refused.  Only text of GitHub's
JSON gets into a message, never an exception's, which may repeat a header.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from github.GithubException import (
    BadCredentialsException,
    GithubException,
    RateLimitExceededException,
    TwoFactorException,
    UnknownObjectException,
)
from requests import exceptions as failures
from urllib3 import exceptions as lower

from ghcoord.errors import (
    Denied,
    GhcoordError,
    NotFound,
    OutcomeUnknown,
    StoreError,
    Throttled,
    TooLarge,
    Unavailable,
    Unsupported,
)
from ghcoord.store.budget.base import Kind
from ghcoord.store.github.api import Answer, GraphQLRefused, Repo
from ghcoord.store.github.refusals import is_protected, limit_of, refusal, retry_at, say


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was made."""

    repo: Repo
    verb: str
    path: str
    kind: Kind
    graphql: bool = False

    @property
    def may_be_done(self) -> bool:
        """Whether no answer may mean that something was changed."""
        return self.kind in ("write", "push")

    @property
    def what(self) -> str:
        """The request in words."""
        return "a GraphQL query" if self.graphql else f"{self.verb} {self.path.partition('?')[0]}"


def no_answer(asked: Asked, why: str) -> StoreError:
    """The error for an answer that did not come, or cannot be used."""
    if asked.may_be_done:
        return OutcomeUnknown(f"{asked.repo.host} gave no answer to a write ({why}): it may have been done")
    return Unavailable(f"{asked.repo.host} gave no answer ({why}): try again later")


def judge(asked: Asked, answer: Answer, now: float, waits: int = 0) -> GhcoordError | None:
    """The error that ``answer`` means; ``None`` where it is a success.

    ``now`` is this machine's clock, ``waits`` how many limits were hit in a row before.
    """
    status, repo = answer.status, asked.repo
    if 200 <= status < 300:
        return None
    if (limit := limit_of(answer)) is not None:
        return Throttled(f"{repo.host} allows no request for now: {limit}", retry_at(answer.headers, now, waits))
    text = say(answer.body)
    if asked.graphql and status in (404, 405, 501):
        return Unsupported(f"{repo.host} has no GraphQL at {repo.graphql}")
    if status >= 500 or status == 408:
        return no_answer(asked, f"status {status}")
    if status in (401, 403, 404, 407, 410, 451) or 300 <= status < 400 or is_protected(text):
        return refusal(repo, answer, write=asked.may_be_done, what=asked.what)
    if status == 413 or (status == 422 and "too large" in text.lower()):
        return TooLarge(f"{repo.host} takes no request that large: {text}")
    if status == 409 and "empty" in text.lower():
        return NotFound(f"{repo.url} has no commit yet: run 'ghcoord init {repo.url}'")
    if status == 409:
        return Unavailable(f"{repo.host} could not do {asked.what} now: {text or 'conflict'}")
    return StoreError(f"{repo.host} refused {asked.what}: {text or f'status {status}'}")


def judge_graphql(asked: Asked, answer: Answer, now: float, waits: int = 0) -> Exception | None:
    """The error in the 200 of a GraphQL query; ``None`` where there is none."""
    body, repo = answer.body, asked.repo
    if not isinstance(body, dict) or not {"data", "errors", "message"} & set(body):
        return no_answer(asked, "not the answer of a GraphQL query")
    errors = body.get("errors")
    if errors is None and "data" not in body and (limit := limit_of(Answer(403, answer.headers, body))) is not None:
        return Throttled(f"{repo.host} allows no request for now: {limit}", retry_at(answer.headers, now, waits))
    if not errors:
        return None if isinstance(body.get("data"), dict) else no_answer(asked, "an answer without data")
    if asked.may_be_done and _any_done(body.get("data")):
        return no_answer(asked, "its answer has errors besides what was done")
    types, messages = zip(*_read(errors), strict=True)
    text = "; ".join(messages)
    limit = limit_of(Answer(403, {}, {"message": text}))
    if limit is not None or {"RATE_LIMITED", "RATE_LIMIT"} & set(types):
        why = limit or "the hourly limit is used up"
        return Throttled(f"{repo.host} allows no request for now: {why}", retry_at(answer.headers, now, waits))
    if is_protected(text) or {"FORBIDDEN", "INSUFFICIENT_SCOPES"} & set(types):
        return refusal(repo, Answer(403, answer.headers, {"message": text}), write=asked.may_be_done, what=asked.what)
    if "NOT_FOUND" in types and re.search(r"resolve to a repository", text, re.IGNORECASE):
        return refusal(repo, Answer(404, answer.headers, {"message": text}), write=asked.may_be_done, what=asked.what)
    if re.search(r"Field '\w+' doesn't exist on type 'Mutation'|Cannot query field", text):
        return Unsupported(f"{repo.host} does not know that GraphQL: {text}")
    return GraphQLRefused(types, messages)


def _any_done(data: Any) -> bool:
    """Whether a mutation was made: one that failed is null. What it returns may fail by itself."""
    return isinstance(data, Mapping) and any(value is not None for value in data.values())


def _read(errors: Any) -> Iterator[tuple[str, str]]:
    for error in errors if isinstance(errors, list) else [errors]:
        known = error if isinstance(error, Mapping) else {}
        extensions = known.get("extensions")
        code = extensions.get("code") if isinstance(extensions, Mapping) else None
        yield str(known.get("type") or code or ""), str(known.get("message") or "no reason given")[:500]


# -- exceptions


def judge_failure(
    asked: Asked, failure: BaseException, now: float, handled: BaseException | None = None
) -> GhcoordError:
    """The error for an exception that came instead of an answer. Says nothing of the exception's text.

    ``handled`` is what was being handled when the request was sent: Python hangs it on, and it tells nothing.
    """
    host = asked.repo.host
    causes = tuple(_causes(failure, handled))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Unavailable(
                f"the certificate of {host} is not trusted: a proxy may stand in between, "
                "set REQUESTS_CA_BUNDLE to its authority's file"
            )
        if isinstance(cause, lower.NameResolutionError | socket.gaierror):
            return Unavailable(f"there is no host {_host(asked.repo)}: check the hub's URL and the network")
    if (reason := _not_sent(causes)) is not None:
        return Unavailable(f"{_host(asked.repo)} cannot be reached ({reason}): check the network, or try again later")
    if isinstance(failure, GithubException):
        return _of_pygithub(asked, failure, now)
    if isinstance(failure, failures.InvalidHeader):
        return Denied("the token has characters that no token has: set GH_TOKEN anew")
    return no_answer(asked, _in_words(causes))


def _host(repo: Repo) -> str:
    return repo.api.partition("://")[2].partition("/")[0] or repo.host


def _causes(failure: BaseException | None, handled: BaseException | None) -> Iterator[BaseException]:
    """``failure`` and what lies beneath it down to ``handled``, as requests and urllib3 wrap it."""
    seen = {id(handled)}
    stack = [failure]
    while stack:
        one = stack.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        reason = getattr(one, "reason", None)
        stack += [one.__context__, one.__cause__, reason if isinstance(reason, BaseException) else None]
        stack += [part for part in one.args if isinstance(part, BaseException)]


def _not_sent(causes: tuple[BaseException, ...]) -> str | None:
    """Why it is certain that nothing left; ``None`` where it is not."""
    for cause in causes:
        if isinstance(cause, lower.NewConnectionError):
            return _unconnected(causes)
        if isinstance(cause, failures.ConnectTimeout | lower.ConnectTimeoutError):
            return "no connection in time"
        if isinstance(cause, failures.ProxyError | lower.ProxyError | failures.InvalidProxyURL):
            return "the proxy of HTTPS_PROXY refuses or is not there"
        if isinstance(cause, failures.MissingSchema | failures.InvalidSchema | failures.InvalidURL):
            return "its URL cannot be used"
        if isinstance(cause, lower.LocationValueError | lower.URLSchemeUnknown | failures.URLRequired):
            return "its URL cannot be used"
        if isinstance(cause, ssl.SSLError) and _in_handshake(cause):
            return "TLS failed"
    return None


def _unconnected(causes: tuple[BaseException, ...]) -> str:
    """Why there was no connection. The numbers alone prove nothing: a connection in use fails with them too."""
    numbers = {cause.errno for cause in causes if isinstance(cause, OSError)}
    if numbers & {errno.ENETUNREACH, errno.EHOSTUNREACH}:
        return "no way there"
    return "too many open files here" if errno.EMFILE in numbers else "connection refused"


def _in_handshake(failure: ssl.SSLError) -> bool:
    text = str(failure).lower()
    return any(word in text for word in ("handshake", "wrong_version", "wrong version", "certificate", "protocol_ver"))


def _of_pygithub(asked: Asked, failure: GithubException, now: float) -> GhcoordError:
    """Requester raises none of these for us; should a version of it do so, they mean what their answer means."""
    statuses = {BadCredentialsException: 401, TwoFactorException: 401, UnknownObjectException: 404}
    status = failure.status if isinstance(failure.status, int) else statuses.get(type(failure), 0)
    if isinstance(failure, RateLimitExceededException):
        return Throttled(f"{asked.repo.host} allows no request for now", retry_at(failure.headers or {}, now, 0))
    headers = {name.lower(): str(value) for name, value in (failure.headers or {}).items()}
    error = judge(asked, Answer(status, headers, failure.data), now) if status >= 300 else None
    return error or no_answer(asked, f"status {status}" if status else "broken off")


def _in_words(causes: tuple[BaseException, ...]) -> str:
    for cause in causes:
        if isinstance(cause, failures.ReadTimeout | lower.ReadTimeoutError | TimeoutError):
            return "no answer in time"
        if isinstance(cause, lower.IncompleteRead | failures.ChunkedEncodingError):
            return "the answer was cut off"
        if isinstance(cause, ConnectionResetError | ConnectionAbortedError | BrokenPipeError | lower.ProtocolError):
            return "the connection was cut"
        if isinstance(cause, failures.ContentDecodingError | ValueError | RecursionError):
            return "the answer cannot be read"
    return f"failed with {type(causes[0]).__name__}"
