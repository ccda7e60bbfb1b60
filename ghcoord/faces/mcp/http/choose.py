"""How callers are told apart, from the options of ``ghcoord mcp --http``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ghcoord.clock import Runtime
from ghcoord.errors import UsageError
from ghcoord.faces.mcp.http.grants import Auth
from ghcoord.faces.mcp.http.urls import is_loopback


def choose_auth(
    runtime: Runtime,
    *,
    usual_file: Callable[[], Path],
    no_auth: bool = False,
    token_file: Path | None = None,
    jwks: Path | None = None,
    issuer: str | None = None,
    complain: Callable[[str], None] = lambda text: None,
) -> Auth:
    """Tokens of ``token_file``, or else of ``usual_file()``; or JWTs of ``issuer`` by the keys ``jwks``; or none.

    ``complain`` is told when tokens cannot be checked any more, for want of the
    file.  Raises ``UsageError`` when the options exclude each other or the file is not in order.
    """
    if sum((no_auth, token_file is not None, jwks is not None)) > 1:
        raise UsageError("--no-auth, --token-file and --jwks exclude each other: give one of them")
    if (jwks is None) != (issuer is None):
        raise UsageError("--jwks and --issuer belong together: the issuer's public keys, and its URL")
    if no_auth:
        return Auth(None)
    if jwks is not None and issuer is not None:
        from ghcoord.faces.mcp.http.jwt import JwtVerifier

        return Auth(JwtVerifier(jwks, issuer, runtime, complain))
    from ghcoord.faces.mcp.http.tokens import TokenFile

    return Auth(TokenFile(token_file or usual_file(), runtime, complain).check())


def check_reach(host: str, auth: Auth) -> None:
    """Raise ``UsageError`` when other machines reach ``host`` and nobody is asked for a token."""
    if auth.verifier is None and not is_loopback(host):
        raise UsageError(f"{host} can be reached from other machines: only a loopback address goes without tokens")
