"""Every answer of GitHub, and every exception in place of one, is an error of ours with a fix."""

from __future__ import annotations

import importlib
import inspect
import socket
import ssl
from typing import Any

import pytest
import requests.exceptions
import urllib3.exceptions

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
from ghcoord.store.github.answers import Asked, judge, judge_failure, judge_graphql
from ghcoord.store.github.api import Answer, GraphQLRefused
from tests.store.github.asking import FROM_GITHUB, REPO

PYGITHUB: Any = importlib.import_module("github.GithubException")
NOW = 1_800_000_000.0
DATE = "Fri, 15 Jan 2027 08:00:00 GMT"  # NOW


def asked(kind: Kind = "read", graphql: bool = False) -> Asked:
    return Asked(REPO, "POST" if kind == "write" else "GET", "/repos/me/hub/git/refs?x=1", kind, graphql)


def answer(status: int, message: str = "", headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, {**FROM_GITHUB, **(headers or {})}, {"message": message} if message else None)


WRITES_AND_READS: list[tuple[Kind, int, str, dict[str, str], type[GhcoordError], str]] = [
    ("read", 403, "Sorry. Your account was suspended", {}, Denied, "(Sorry. Your account was suspended): use another"),
    ("read", 403, "Repository access blocked", {}, Denied, "name another repository"),
    ("read", 401, "Bad credentials", {}, Denied, "does not accept the token: make a new one and set GH_TOKEN"),
    ("read", 404, "Not Found", {}, NotFound, "is not there or the token may not see it: check the name"),
    ("write", 404, "Not Found", {}, NotFound, "may not write to it: check"),
    (
        "write",
        404,
        "Not Found",
        {"x-accepted-oauth-scopes": "repo", "x-oauth-scopes": "gist"},
        Denied,
        "lacks the scope repo",
    ),
    ("read", 404, "Not Found", {"x-accepted-oauth-scopes": "repo", "x-oauth-scopes": "gist"}, NotFound, "may not see"),
    (
        "write",
        403,
        "Must have admin rights",
        {"x-accepted-oauth-scopes": "", "x-oauth-scopes": "repo"},
        Denied,
        "contents: write",
    ),
    (
        "write",
        403,
        "Resource not accessible by personal access token",
        {"x-accepted-github-permissions": "contents=write,workflows=write; contents=write"},
        Denied,
        "lacks the permission contents: write and workflows: write on github:me/hub: grant it in the token's settings",
    ),
    (
        "write",
        403,
        "Resource not accessible by integration",
        {},
        Denied,
        "grant it to the GitHub App, or in the workflow",
    ),
    (
        "read",
        403,
        "Resource protected by organization SAML enforcement.",
        {"x-github-sso": "required; url=https://github.com/orgs/me/sso?authorization_request=AZ"},
        Denied,
        "single sign-on for this token: authorize it at https://github.com/orgs/me/sso",
    ),
    (
        "write",
        403,
        "Repository was archived so is read-only.",
        {},
        Denied,
        "is archived and cannot be written: unarchive",
    ),
    ("write", 422, "Protected branch update failed for refs/heads/ghcoord/fleet.", {}, Denied, "another prefix"),
    (
        "write",
        422,
        "Repository rule violations found\n\nCannot create ref due to creations being restricted.",
        {},
        Denied,
        "prefix",
    ),
    (
        "read",
        403,
        "Although you appear to have the correct authorization, the org has an IP allow list",
        {},
        Denied,
        "its owners",
    ),
    ("read", 451, "Repository access blocked", {}, Denied, "name another repository"),
    ("read", 410, "", {}, Denied, "name another repository"),
    ("read", 407, "", {}, Denied, "HTTPS_PROXY"),
    ("write", 307, "Moved", {}, Denied, "has moved"),
    ("read", 409, "Git Repository is empty.", {}, NotFound, "ghcoord init github:me/hub"),
    ("write", 409, "is at 1 but expected 2", {}, Unavailable, "expected 2"),
    ("write", 413, "", {}, TooLarge, "no request that large"),
    ("write", 422, "The input is too large to process", {}, TooLarge, "no request that large"),
    (
        "write",
        422,
        "Object does not exist",
        {},
        StoreError,
        "refused POST /repos/me/hub/git/refs: Object does not exist",
    ),
    ("read", 400, "Problems parsing JSON", {}, StoreError, "Problems parsing JSON"),
    *(("read", status, "oops", {}, Unavailable, "try again later") for status in (408, 500, 502, 503, 504)),  # type: ignore[list-item]
    *(("write", status, "oops", {}, OutcomeUnknown, "may have been done") for status in (408, 500, 502, 503, 504)),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("kind", "status", "message", "headers", "error", "words"), WRITES_AND_READS)
def test_each_answer_is_one_line_with_its_fix(
    kind: Kind, status: int, message: str, headers: dict[str, str], error: type[GhcoordError], words: str
) -> None:
    """Statuses, headers and texts of REST answers become the right error, on one line."""
    found = judge(asked(kind), answer(status, message, headers), NOW)
    assert error is type(found)
    assert isinstance(found, GhcoordError)
    assert words in found.message
    assert 1 == len(found.message.splitlines())


def test_success_is_no_error() -> None:
    """2xx is nobody's error."""
    assert [None] * 4 == [judge(asked("write"), answer(status), NOW) for status in (200, 201, 202, 204)]


@pytest.mark.parametrize("status", [401, 403])
def test_a_proxy_between_is_told_from_github(status: int) -> None:
    """A refusal without GitHub's request id is a proxy's, and the ways around it are named."""
    found = judge(asked("write"), Answer(status, {"server": "squid"}, None), NOW)
    assert isinstance(found, Denied)
    assert "a proxy before github.com refuses POST /repos/me/hub/git/refs" in found.message
    assert "refs/heads/ghcoord/" in found.message
    assert "--hub https://github.com/me/hub" in found.message


def test_a_404_of_something_that_is_no_github() -> None:
    """A web server that is no API says so little that the host is doubted."""
    found = judge(asked(), Answer(404, {}, None), NOW)
    assert isinstance(found, NotFound)
    assert "no GitHub API answers at https://api.github.com: check the host" in found.message


LIMITS: list[tuple[int, str, dict[str, str], float]] = [
    (403, "You have exceeded a secondary rate limit.", {"retry-after": "37"}, 37),
    (429, "You have exceeded a secondary rate limit.", {"retry-after": "37"}, 37),
    (403, "You have exceeded a secondary rate limit.", {}, 60),
    (429, "", {}, 60),
    (403, "", {"retry-after": "5"}, 5),
    (
        403,
        "API rate limit exceeded for user ID 1.",
        {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW) + 900), "date": DATE},
        901,
    ),
    (429, "API rate limit exceeded", {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW) + 900)}, 901),
    (403, "secondary rate limit", {"x-ratelimit-remaining": "4998", "x-ratelimit-reset": str(int(NOW) + 900)}, 60),
    (403, "secondary rate limit", {"retry-after": "Fri, 15 Jan 2027 08:00:30 GMT", "date": DATE}, 31),
    (403, "secondary rate limit", {"retry-after": "soon"}, 60),
    (403, "You have triggered an abuse detection mechanism.", {}, 60),
]


@pytest.mark.parametrize(("status", "message", "headers", "wait"), LIMITS)
def test_limits_say_until_when(status: int, message: str, headers: dict[str, str], wait: float) -> None:
    """Primary and secondary limits, told by header or text, are Throttled until the right moment, for writes too."""
    for kind in ("read", "write"):
        found = judge(asked(kind), answer(status, message, headers), NOW)  # type: ignore[arg-type]
        assert isinstance(found, Throttled)
        assert wait == pytest.approx(found.until - NOW)


def test_the_servers_clock_counts_for_the_reset() -> None:
    """A machine whose clock is an hour behind waits no hour longer, and one that is ahead no less."""
    headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW) + 60), "date": DATE}
    for own in (NOW - 3600, NOW, NOW + 3600):
        found = judge(asked(), answer(403, "API rate limit exceeded", headers), own)
        assert isinstance(found, Throttled)
        assert 61 == found.until - own


def test_the_pause_doubles_up_to_a_quarter_of_an_hour() -> None:
    """While a silent limit stays, the waits grow, but not for ever."""
    waits = []
    for number in (0, 1, 2, 3, 4, 40):
        found = judge(asked(), answer(429), NOW, number)
        assert isinstance(found, Throttled)
        waits.append(found.until - NOW)
    assert [60, 120, 240, 480, 900, 900] == waits


def graphql(
    *errors: dict[str, Any], data: Any = None, kind: Kind = "write", headers: dict[str, str] | None = None
) -> Exception | None:
    body = {"data": data, **({"errors": list(errors)} if errors else {})}
    return judge_graphql(asked(kind, graphql=True), Answer(200, {**FROM_GITHUB, **(headers or {})}, body), NOW)


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        ({"type": "RATE_LIMITED", "message": "API rate limit already exceeded for user ID 1."}, Throttled, "limit"),
        ({"type": "RATE_LIMIT", "code": "graphql_rate_limit", "message": "API rate limit"}, Throttled, "limit"),
        ({"message": "You have exceeded a secondary rate limit."}, Throttled, "secondary"),
        ({"message": "was submitted too quickly"}, Throttled, "too fast"),
        ({"type": "FORBIDDEN", "message": "Resource not accessible by integration"}, Denied, "GitHub App"),
        (
            {"type": "INSUFFICIENT_SCOPES", "message": "Your token has not been granted the required scopes"},
            Denied,
            "required scopes): use another token",
        ),
        ({"type": "FORBIDDEN", "message": "Repository was archived so is read-only."}, Denied, "archived"),
        ({"type": "UNPROCESSABLE", "message": "Repository rule violations found"}, Denied, "ruleset"),
        (
            {"type": "NOT_FOUND", "message": "Could not resolve to a Repository with the name 'me/hub'."},
            NotFound,
            "me/hub",
        ),
        (
            {
                "message": "Field 'updateRefs' doesn't exist on type 'Mutation'",
                "extensions": {"code": "undefinedField"},
            },
            Unsupported,
            "updateRefs",
        ),
        ({"type": "STALE_DATA", "message": "Expected branch to point to"}, GraphQLRefused, "Expected branch"),
        ({"message": "Something went wrong while executing your query."}, GraphQLRefused, "went wrong"),
        ({"type": "NEW", "message": "whatever"}, GraphQLRefused, "whatever"),
        ({}, GraphQLRefused, "no reason"),
        ({"type": None, "message": None, "extensions": []}, GraphQLRefused, "no reason"),
    ],
)
def test_each_graphql_error(error: dict[str, Any], expected: type[Exception], words: str) -> None:
    """What stands in a 200 of GraphQL becomes our error, or is left to the caller with its type."""
    found = graphql(error)
    assert expected is type(found)
    assert words in str(found)


def test_what_the_caller_judges_keeps_types_and_texts() -> None:
    """Types and messages reach the caller side by side."""
    found = graphql({"type": "STALE_DATA", "message": "a"}, {"message": "b", "extensions": {"code": "c"}})
    assert isinstance(found, GraphQLRefused)
    assert (("STALE_DATA", "c"), ("a", "b")) == (found.types, found.messages)


def test_a_limit_without_errors() -> None:
    """A 200 that has only the text of a limit is one."""
    body = {"message": "You have exceeded a secondary rate limit."}
    found = judge_graphql(asked("write", graphql=True), Answer(200, {"retry-after": "9"}, body), NOW)
    assert isinstance(found, Throttled)
    assert 9 == found.until - NOW
    assert isinstance(
        judge_graphql(asked("write", graphql=True), Answer(200, {}, {"message": "?"}), NOW), OutcomeUnknown
    )


def test_text_from_outside_is_one_plain_line() -> None:
    """Escape sequences, line ends and length of what a server says are taken out."""
    found = judge(asked("write"), answer(403, "no\x1b[31m\n\x07 " + "x" * 5000), NOW)
    assert isinstance(found, Denied)
    assert "refuses POST /repos/me/hub/git/refs (no [31m xxx" in found.message
    assert found.message.isprintable()
    assert len(found.message) < 600


def test_strange_bodies_of_graphql() -> None:
    """Answers that are none leave a write's outcome open and make a reading fail, whatever they hold."""
    for body in (None, [], "x", 7, {}, {"data": None}, {"data": [1]}, {"data": 3, "errors": []}):
        for kind, error in (("write", OutcomeUnknown), ("read", Unavailable)):
            found = judge_graphql(asked(kind, graphql=True), Answer(200, FROM_GITHUB, body), NOW)  # type: ignore[arg-type]
            assert error is type(found), body
    for odd in ("text", 5, {"a": 1}, [7, None]):
        assert isinstance(judge_graphql(asked(), Answer(200, {}, {"errors": odd}), NOW), GraphQLRefused)
    assert graphql(data={"viewer": None}) is None


@pytest.mark.parametrize("status", [404, 405, 501])
def test_no_graphql_at_all(status: int) -> None:
    """A server without GraphQL is Unsupported, not an outcome that is unknown."""
    assert isinstance(judge(asked("write", graphql=True), answer(status, "Not Found"), NOW), Unsupported)


def all_exceptions(module: Any) -> list[type[BaseException]]:
    return [one for _, one in inspect.getmembers(module, inspect.isclass) if issubclass(one, Exception)]


def make(kind: type[BaseException]) -> BaseException:
    """One of that class, however it wants to be made; its text is a secret that may not come through."""
    for given in ((), ("secret",), ("secret", "secret"), ("secret",) * 3, (500, "secret"), (None, "secret", None)):
        try:
            return kind(*given)
        except (TypeError, AttributeError):
            continue
    return kind.__new__(kind)


@pytest.mark.parametrize(
    "kind",
    [
        *all_exceptions(PYGITHUB),
        *all_exceptions(requests.exceptions),
        *(one for one in all_exceptions(urllib3.exceptions) if not issubclass(one, Warning)),
        *(OSError, ConnectionResetError, BrokenPipeError, TimeoutError, ssl.SSLError, socket.gaierror, EOFError),
        *(RuntimeError, AssertionError, ValueError, KeyError, UnicodeDecodeError, RecursionError, MemoryError),
    ],
    ids=lambda kind: f"{kind.__module__}.{kind.__name__}",
)
def test_every_foreign_exception_is_mapped(kind: type[BaseException]) -> None:
    """No exception of PyGithub, requests or urllib3 escapes; only proof of not being sent is certain."""
    for request in ("write", "read"):
        found = judge_failure(asked(request), make(kind), NOW)  # type: ignore[arg-type]
        assert isinstance(found, GhcoordError)
        assert "secret" not in found.message
        assert 1 == len(found.message.splitlines())
        if request == "read":
            assert not isinstance(found, OutcomeUnknown)
    certain = (
        requests.exceptions.ConnectTimeout,
        requests.exceptions.ProxyError,
        requests.exceptions.InvalidURL,
        requests.exceptions.MissingSchema,
        requests.exceptions.InvalidSchema,
        requests.exceptions.InvalidHeader,
        requests.exceptions.URLRequired,
        urllib3.exceptions.NewConnectionError,
        urllib3.exceptions.ConnectTimeoutError,
        urllib3.exceptions.ProxyError,
        urllib3.exceptions.LocationValueError,
        socket.gaierror,
        PYGITHUB.BadCredentialsException,
        PYGITHUB.TwoFactorException,
        PYGITHUB.UnknownObjectException,
        PYGITHUB.RateLimitExceededException,
    )
    found = judge_failure(asked("write"), make(kind), NOW)
    assert issubclass(kind, certain) == (not isinstance(found, OutcomeUnknown)), (kind, found)


def wrapped(reason: Exception) -> requests.exceptions.ConnectionError:
    """As requests raises it."""
    outer = urllib3.exceptions.MaxRetryError(None, "/x", reason)  # type: ignore[arg-type]
    return requests.exceptions.ConnectionError(outer)


def refused() -> Exception:
    return urllib3.exceptions.NewConnectionError(None, "[Errno 111] Connection refused")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("failure", "error", "words"),
    [
        (wrapped(refused()), Unavailable, "connection refused"),
        (
            wrapped(urllib3.exceptions.NameResolutionError("h", None, socket.gaierror())),
            Unavailable,
            "no host api.github.com",
        ),  # type: ignore[arg-type]
        (
            requests.exceptions.SSLError(ssl.SSLCertVerificationError("certificate verify failed")),
            Unavailable,
            "REQUESTS_CA_BUNDLE",
        ),
        (requests.exceptions.SSLError(ssl.SSLError("handshake failure")), Unavailable, "TLS failed"),
        (requests.exceptions.SSLError(ssl.SSLError("bad record mac")), OutcomeUnknown, "may have been done"),
        (
            requests.exceptions.ConnectionError(urllib3.exceptions.ProtocolError("x", ConnectionResetError())),
            OutcomeUnknown,
            "cut",
        ),
        (requests.exceptions.ReadTimeout(), OutcomeUnknown, "no answer in time"),
        (requests.exceptions.ChunkedEncodingError(), OutcomeUnknown, "cut off"),
        (requests.exceptions.InvalidHeader("Bearer secret\n"), Denied, "set GH_TOKEN anew"),
    ],
)
def test_what_was_certainly_not_sent(failure: Exception, error: type[StoreError], words: str) -> None:
    """Refused connections, unknown hosts and failed handshakes leave nothing open; what comes later does."""
    found = judge_failure(asked("write"), failure, NOW)
    assert error is type(found)
    assert words in found.message
    assert "secret" not in found.message
