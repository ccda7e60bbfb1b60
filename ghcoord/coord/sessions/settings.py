"""What a creator says about a session, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ghcoord.errors import InvalidName, TooLarge, UsageError
from ghcoord.ids import check_name
from ghcoord.model.codec import check_value, to_json
from ghcoord.model.limits import Limits, parse_limits

MAX_METADATA = 64 * 1024
"""Bytes of a session's metadata, as the record holds them."""

MAX_ENV = 32 * 1024
"""Bytes of all its variables, names and values."""

MAX_WHO = 200
"""Longest id of a user or a workspace in characters."""

MAX_HOSTS = 50
"""Hosts that one session may reach besides the package index."""

_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*(:\d{1,5})?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def metadata_of(given: object) -> dict[str, Any]:
    """``given`` as metadata; raises ``UsageError``, ``TooLarge``."""
    if not isinstance(given, Mapping):
        raise UsageError("metadata must be a JSON object")
    value = dict(check_value(dict(given), "metadata"))
    size = len(to_json(value).encode())
    if size > MAX_METADATA:
        raise TooLarge(f"the metadata have {size} bytes: a session keeps at most {MAX_METADATA}")
    return value


def env_of(given: object) -> dict[str, str]:
    """``given`` as variables of every command; raises ``UsageError``, ``TooLarge``."""
    if not isinstance(given, Mapping):
        raise UsageError("env must be an object of texts")
    size = 0
    for name, value in given.items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise UsageError(f"{str(name)[:40]!r} is no name of a variable: use letters, digits and '_'")
        if not isinstance(value, str) or "\0" in value:
            raise UsageError(f"the variable {name[:40]} must be a text without zero characters")
        try:
            size += len(name) + len(value.encode())
        except UnicodeEncodeError:
            raise UsageError(f"the variable {name[:40]} is not valid UTF-8") from None
    if size > MAX_ENV:
        raise TooLarge(f"the variables have {size} bytes: a session has at most {MAX_ENV}")
    return dict(given)


def limits_of(given: Limits | Mapping[str, Any] | None) -> Limits:
    """``given`` as limits; raises ``UsageError``."""
    if given is None or isinstance(given, Limits):
        return given or Limits()
    if not isinstance(given, Mapping):
        raise UsageError("limits must be Limits, or an object of names and values")
    return parse_limits(given)


def hosts_of(given: object) -> tuple[str, ...]:
    """``given`` as names of hosts, each with a port if need be; raises ``UsageError``."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise UsageError("allow must be a list of host names")
    if len(given) > MAX_HOSTS:
        raise UsageError(f"{len(given)} hosts are too many: a session may reach {MAX_HOSTS}")
    for host in given:
        found = _HOST.fullmatch(host) if isinstance(host, str) and len(host) <= 260 else None
        if found is None or (found[1] is not None and not 0 < int(found[1][1:]) < 65536):
            raise UsageError(f"{str(host)[:60]!r} is no host: write a name such as files.example.org, in small letters")
    return tuple(dict.fromkeys(given))


def who_of(given: str | None, what: str) -> str:
    """``given`` as the id of a user or workspace, empty for none; raises ``InvalidName``, ``UsageError``."""
    if given is None or given == "":
        return ""
    if not isinstance(given, str):
        raise UsageError(f"the {what} {given!r} is not a text")
    if len(given) > MAX_WHO:
        raise InvalidName(f"the {what} has {len(given)} characters: at most {MAX_WHO} are accepted")
    return check_name(given, what)
