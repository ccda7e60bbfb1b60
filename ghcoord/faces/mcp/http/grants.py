"""What a token is good for, and how tokens are known. Imports nothing of the SDK: the command line makes tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ghcoord.errors import InvalidName
from ghcoord.ids import check_name

MAX_WHO = 200
"""Characters of a user or workspace, as sessions take them."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token is good for.

    ``credential`` names the token, or who got it, without telling it;
    ``resource`` is the server that it was made for, ``issuer`` who vouches for
    it when that is not this server's own token file.  ``expires_at`` is in
    seconds since the epoch.
    """

    user_id: str
    workspace_id: str
    credential: str
    resource: str
    expires_at: float | None = None
    issuer: str = ""
    read_only: bool = False


MISSING = "no bearer token was sent"
UNKNOWN = "the token is not known"
OVER = "the token has expired"
ELSEWHERE = "the token is for another URL"
"""Why a request is refused, in words that fit into a header."""


class Verifier(Protocol):
    """Knows the tokens that are good."""

    issuer: str
    """The authorization server that clients may ask for a token; empty when there is none."""

    def verify(self, token: str, resource: str) -> Grant | None:
        """What ``token`` is good for now; ``None`` when it is not. Quick; never raises.

        A token for several servers gives ``resource`` when it is one of them.
        """
        ...

    def why_not(self, token: str, resource: str) -> str:
        """Why :meth:`verify` gives nothing, or nothing for ``resource``: one of the reasons of this module.

        Tells no more than that, and of a token that was never good only that
        it is unknown.  Quick; never raises.
        """
        ...

    def stands(self, grant: Grant) -> bool:
        """Whether what :meth:`verify` said holds still. Quick; never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Auth:
    """How callers are told apart: by a verifier, or, on a loopback address only, not at all."""

    verifier: Verifier | None


def checked_who(text: Any, what: str) -> str:
    """``text`` as a user or workspace. Raises ``InvalidName``."""
    if not isinstance(text, str) or len(text) > MAX_WHO:
        raise InvalidName(f"the {what} must be a text of at most {MAX_WHO} characters")
    return check_name(text, what)
