"""Who calls, from the token of each request, as the SDK asks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, RequireAuthMiddleware
from mcp.server.auth.provider import AccessToken, TokenVerifier
from pydantic import AnyHttpUrl
from starlette.types import Receive, Scope, Send

from ghcoord.faces.mcp.answer import Failure
from ghcoord.faces.mcp.caller import Caller
from ghcoord.faces.mcp.http.grants import MISSING, UNKNOWN, Auth, Grant, Verifier

MAX_TOKEN = 16 * 1024
"""Characters of a bearer token; a longer one is not looked at."""


class GrantedToken(AccessToken):
    """The SDK's view of a token, with the grant."""

    grant: Grant


class SdkVerifier(TokenVerifier):
    """A :class:`Verifier` as the SDK asks it; the SDK compares the resource."""

    def __init__(self, verifier: Verifier, resource: str) -> None:
        self._verifier = verifier
        self._resource = resource

    async def verify_token(self, token: str) -> AccessToken | None:
        if len(token) > MAX_TOKEN:
            return None
        grant = self._verifier.verify(token, self._resource)
        if grant is None:
            return None
        # A protocol session belongs to client, issuer and subject: never to
        # another user's or workspace's token, nor to one with other rights.
        rights = "read" if grant.read_only else "write"
        return GrantedToken(
            token="",
            client_id=f"{grant.credential} {rights} {grant.workspace_id}",
            scopes=[],
            resource=grant.resource,
            subject=grant.user_id,
            claims={"iss": grant.issuer} if grant.issuer else None,
            grant=grant,
        )


class Required(RequireAuthMiddleware):
    """The SDK's check that there is a token that is good here, which says why when there is none."""

    def __init__(self, app: Any, verifier: Verifier, resource: str, metadata: AnyHttpUrl | None = None) -> None:
        super().__init__(app, [], metadata)
        self._verifier = verifier
        self._resource = resource

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if isinstance(scope.get("user"), AuthenticatedUser):
            await super().__call__(scope, receive, send)
        else:
            await self._send_auth_error(send, 401, "invalid_token", self._why(scope))

    def _why(self, scope: Scope) -> str:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"").decode("latin-1")
        kind, _, token = given.partition(" ")
        if kind.lower() != "bearer" or not token:
            return MISSING
        return UNKNOWN if len(token) > MAX_TOKEN else self._verifier.why_not(token, self._resource)


class Callers:
    """Tells who made a request, from its token. Without a verifier everybody is whom ``local`` says."""

    def __init__(self, auth: Auth, local: Callable[[Any], Caller]) -> None:
        self._auth = auth
        self._local = local

    def __call__(self, ctx: Any) -> Caller:
        """The caller of a request of the SDK's; raises ``Failure`` for one that passed no check."""
        local = self._local(ctx)
        if self._auth.verifier is None:
            return local
        scope = getattr(getattr(ctx, "request", None), "scope", None) or {}
        user = scope.get("user")
        token = user.access_token if isinstance(user, AuthenticatedUser) else None
        if not isinstance(token, GrantedToken):
            raise Failure("the request carries no token that was checked", code="DENIED")
        grant = token.grant
        return replace(
            local,
            user_id=grant.user_id,
            workspace_id=grant.workspace_id or local.workspace_id,
            # Two tokens of one user are two holders, so that two agents with a token each exclude each other.
            holder=f"{local.holder}.{grant.credential}",
            shared=True,
            read_only=grant.read_only,
        )
