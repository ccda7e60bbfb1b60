"""The environment and settings with which ``git`` runs: never asks, never leaks, follows nobody's hooks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ghcoord.store.remote.url import Remote

SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.logAllRefUpdates=false",
    "core.fsmonitor=false",
    "core.fsync=none",
    "color.ui=false",
    "fetch.fsckObjects=false",
    "fetch.prune=false",
    "fetch.pruneTags=false",
    "fetch.recurseSubmodules=false",
    "fetch.unpackLimit=100",
    "fetch.writeCommitGraph=false",
    "gc.auto=0",
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=30",
    "http.postBuffer=16777216",
    "maintenance.auto=false",
    "protocol.version=2",
    "push.followTags=false",
    "push.gpgSign=false",
    "push.negotiate=false",
    "push.pushOption=",
    "push.recurseSubmodules=no",
    "push.useForceIfIncludes=false",
)
"""Settings of every call.

What a power cut damages is fetched again, so nothing is flushed.  Above 16 MiB
a push is sent in chunks, which some proxies refuse.
"""

_DROPPED = re.compile(
    r"GIT_(?:DIR|WORK_TREE|COMMON_DIR|INDEX_FILE|OBJECT_DIRECTORY|ALTERNATE_OBJECT_DIRECTORIES|NAMESPACE|PREFIX"
    r"|QUARANTINE_PATH|SHALLOW_FILE|GRAFT_FILE|REPLACE_REF_BASE|NO_REPLACE_OBJECTS|DEFAULT_HASH|DEFAULT_REF_FORMAT"
    r"|IMPLICIT_WORK_TREE|INTERNAL_SUPER_PREFIX|CURL_VERBOSE|TRACE.*|REDIRECT_.*|ALLOW_PROTOCOL|PROTOCOL.*"
    r"|TEST_.*|EXEC_PATH)|SSH_ASKPASS"
)
"""Variables that say which repository is meant, or make git talk: they belong to whoever started us."""

_ALLOWED = {"https": "https:ssh", "ssh": "ssh:https", "http": "http", "file": "file"}
"""Protocols by scheme; ``url.….insteadOf`` may turn one of the first two into the other."""

TOKEN = "GHCOORD_GIT_TOKEN"
"""Where the child that asks for a credential finds it."""

_HELPER = f'!f() {{ test "$1" = get && echo username=x-access-token && echo "password=${TOKEN}"; }}; f'
_SSH = "ssh -o BatchMode=yes -o ConnectTimeout=15 -o ServerAliveInterval=15 -o ServerAliveCountMax=3"

Lookup = Callable[[str], bool]
"""Whether the user's git settings have a value of that name for the remote's URL."""


def base_environment(environment: Mapping[str, str], remote: Remote) -> dict[str, str]:
    """What every ``git`` gets, without credentials."""
    found = {name: value for name, value in environment.items() if not _DROPPED.fullmatch(name)}
    found.update(
        GIT_TERMINAL_PROMPT="0",
        GIT_ALLOW_PROTOCOL=_ALLOWED[remote.scheme],
        GIT_PROTOCOL_FROM_USER="0",
        GCM_INTERACTIVE="never",
        SSH_ASKPASS_REQUIRE="never",
        LC_ALL="C",
        LANGUAGE="",
    )
    return found


def with_access(found: Mapping[str, str], remote: Remote, has: Lookup) -> dict[str, str]:
    """``found`` with what lets git in: ssh that never asks, or GitHub's token where no credential helper is set up.

    The token stands in the child's environment alone, and git is told not to
    give it to any helper that would store it.
    """
    made = dict(found)
    if remote.scheme == "ssh":
        if not {"GIT_SSH_COMMAND", "GIT_SSH"} & made.keys() and not has("core.sshCommand"):
            made["GIT_SSH_COMMAND"] = _SSH
        return made
    token = token_for(remote, found)
    if token is None or has("credential.helper"):
        return made
    made[TOKEN] = token
    at = int(made["GIT_CONFIG_COUNT"]) if made.get("GIT_CONFIG_COUNT", "").isdecimal() else 0
    name = f"credential.{remote.scheme}://{remote.host}.helper"
    for value in ("", _HELPER):  # the empty one forgets all others
        made[f"GIT_CONFIG_KEY_{at}"], made[f"GIT_CONFIG_VALUE_{at}"] = name, value
        at += 1
    made["GIT_CONFIG_COUNT"] = str(at)
    return made


def token_for(remote: Remote, environment: Mapping[str, str]) -> str | None:
    """The token in ``environment`` that is meant for the remote's host, as ``gh`` decides it; never for another's."""
    if remote.scheme not in ("https", "http"):
        return None
    names: tuple[str, ...] = ()
    own_api = environment.get("GHCOORD_GITHUB_API") or environment.get("GITHUB_SERVER_URL") or ""
    if remote.scheme == "https" and (remote.host == "github.com" or remote.host.endswith(".ghe.com")):
        names = ("GH_TOKEN", "GITHUB_TOKEN")
    elif own_api.partition("://")[2].partition("/")[0].lower() == remote.host:
        names = ("GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN", "GH_TOKEN", "GITHUB_TOKEN")
    elif environment.get("GH_HOST", "").lower() == remote.host:
        names = ("GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN")
    token = next((environment[name].strip() for name in names if environment.get(name, "").strip()), None)
    return token if token is None or token.isprintable() else None
