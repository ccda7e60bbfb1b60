"""Answers that refuse: which limit, which permission, which rule, and how to get past it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from ghcoord.errors import Denied, GhcoordError, NotFound
from ghcoord.store.github.api import Answer, Repo
from ghcoord.store.github.url import git_url

PAUSE = 60.0
"""Seconds to wait for a limit of which the server says nothing (GitHub asks for a minute at least)."""

LONGEST_PAUSE = 900.0
"""Seconds up to which that pause doubles while the limit stays."""

LONGEST_WAIT = 86400.0
"""Seconds to wait at most, whatever a header says."""

_LIMITS = (
    (r"secondary rate limit|abuse detection|temporarily blocked from content creation", "the secondary limit was hit"),
    (r"rate limit exceeded|rate limit already exceeded", "the hourly limit is used up"),
    (r"submitted too quickly|too many requests", "requests came too fast"),
)

_PROTECTED = (
    r"protected branch|repository rule violations|cannot (?:create|update|delete) ref|"
    r"changes must be made through|branch is protected|required status check"
)


def say(body: Any) -> str:
    """What an answer says, on one line of at most 300 characters; empty where it says nothing."""
    if not isinstance(body, Mapping):
        return ""
    parts = [str(body.get("message") or "")]
    errors = body.get("errors")
    for error in errors[:3] if isinstance(errors, list) else []:
        parts.append(str(error.get("message") or "") if isinstance(error, Mapping) else str(error))
    text = "; ".join(part for part in parts if part)
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())[:300]


def limit_of(answer: Answer) -> str | None:
    """Which limit refused, in words; ``None`` when it was none."""
    if answer.status not in (403, 429):
        return None
    text = say(answer.body)
    for pattern, words in _LIMITS:
        if re.search(pattern, text, re.IGNORECASE):
            return words
    if answer.headers.get("x-ratelimit-remaining") == "0":
        return "the hourly limit is used up"
    if "retry-after" in answer.headers or answer.status == 429:
        return "requests came too fast"
    return None


def server_date(headers: Mapping[str, str]) -> float | None:
    """The answer's ``Date``, seconds since the epoch; ``None`` where there is none to be read."""
    try:
        return float(parsedate_to_datetime(headers["date"]).timestamp())
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def retry_at(headers: Mapping[str, str], now: float, waits: int) -> float:
    """When requests may go on, by this machine's clock ``now``.

    ``retry-after`` counts from now; ``x-ratelimit-reset`` is the server's
    clock, which the answer tells (rounded down, hence the second more).
    Without either a minute, doubled for each of the ``waits`` before.  A day at most.
    """
    return min(_retry_at(headers, now, waits), now + LONGEST_WAIT)


def _retry_at(headers: Mapping[str, str], now: float, waits: int) -> float:
    after = headers.get("retry-after", "")
    if re.fullmatch(r"[0-9]{1,9}", after.strip()):
        return now + int(after)
    seen = server_date(headers)
    if after and (until := server_date({"date": after})) is not None:
        return now + max(until - (seen if seen is not None else now), 0.0) + 1
    reset = headers.get("x-ratelimit-reset", "")
    if headers.get("x-ratelimit-remaining") == "0" and re.fullmatch(r"[0-9]{1,12}", reset):
        return now + max(int(reset) - (seen if seen is not None else now), 0.0) + 1
    return now + min(PAUSE * 2.0 ** min(waits, 10), LONGEST_PAUSE)


def is_protected(text: str) -> bool:
    """Whether a branch protection or a ruleset refused."""
    return re.search(_PROTECTED, text, re.IGNORECASE) is not None


def refusal(repo: Repo, answer: Answer, *, write: bool, what: str) -> GhcoordError:
    """The error for a refusal that is no limit: one line, and after the last colon how to get past it."""
    status, headers, text = answer.status, answer.headers, say(answer.body)
    if 300 <= status < 400:
        return Denied(f"{repo.url} has moved: name it as it is called now")
    if status == 407:
        return Denied("the proxy wants a login: put it into HTTPS_PROXY")
    from_github = "x-github-request-id" in headers or "x-github-media-type" in headers
    if status in (401, 403) and not (from_github and text):
        return Denied(
            f"a proxy before {repo.place} refuses {what}: use branches (the default prefix refs/heads/ghcoord/), "
            f"or git itself with --hub {git_url(repo)}"
        )
    if status == 401:
        return Denied(f"{repo.place} does not accept the token: make a new one and set GH_TOKEN, or 'gh auth login'")
    lower = text.lower()
    if "x-github-sso" in headers and "required" in headers["x-github-sso"]:
        url = re.search(r"url=(https://\S+)", headers["x-github-sso"])
        where = f" at {url[1]}" if url else ""
        return Denied(f"{repo.owner} wants single sign-on for this token: authorize it{where}")
    if "archived" in lower or "read-only" in lower:
        return Denied(f"{repo.url} is archived and cannot be written: unarchive it in its settings, or name another")
    if is_protected(text):
        return Denied(
            f"a branch protection or ruleset of {repo.url} refuses the write ({text}): "
            "except the hub's branches from it, or set another prefix"
        )
    if status in (410, 451) or "access blocked" in lower or "has been disabled" in lower:
        return Denied(f"{repo.host} has shut {repo.url} ({text or status}): name another repository")
    if (write or status == 403) and (scope := _missing_scope(headers)) is not None:
        return Denied(f"the token lacks the scope {scope} for {repo.url}: make a token with it and set GH_TOKEN")
    if status == 404 and not from_github and not text:
        return NotFound(f"no GitHub API answers at {repo.api}: check the host, or set GHCOORD_GITHUB_API")
    if status == 404:
        return NotFound(
            f"{repo.url} is not there or the token may not {'write to' if write else 'see'} it: "
            "check the name and the token's repositories, or make it with 'ghcoord init --create'"
        )
    if "ip allow list" in lower or "ip address" in lower:
        return Denied(f"{repo.owner} allows requests from certain addresses only ({text}): ask its owners")
    if not any(word in lower for word in ("not accessible", "must have", "permission", "access")):
        return Denied(f"{repo.host} refuses {what} ({text}): use another token, or ask the owners of {repo.url}")
    return Denied(f"the token lacks the permission {_permission(headers, write)} on {repo.url}: {_grant(lower)}")


def _missing_scope(headers: Mapping[str, str]) -> str | None:
    """The scope that a classic token lacks; only those tell their scopes."""
    accepted, held = headers.get("x-accepted-oauth-scopes", ""), headers.get("x-oauth-scopes")
    if held is None or not accepted.strip():
        return None
    wanted = {scope.strip() for scope in accepted.split(",")} - {""}
    if wanted & {scope.strip() for scope in held.split(",")}:
        return None
    return "repo" if "repo" in wanted else min(wanted)


def _permission(headers: Mapping[str, str], write: bool) -> str:
    told = re.split(r"[;,]", headers.get("x-accepted-github-permissions", ""))
    named = [f"{name.strip()}: {level.strip()}" for name, eq, level in (one.partition("=") for one in told) if eq]
    return " and ".join(named[:2]) or f"contents: {'write' if write else 'read'}"


def _grant(text: str) -> str:
    if "integration" in text:
        return "grant it to the GitHub App, or in the workflow's 'permissions:'"
    if "personal access token" in text:
        return "grant it in the token's settings"
    return "ask for write access, or use a token that has it"
