"""The HTTP application: doors, then tokens, then the SDK's streamable HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.auth.middleware.bearer_auth import BearerAuthBackend
from mcp.server.auth.routes import build_resource_metadata_url, create_protected_resource_routes
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from ghcoord.faces.mcp.http.auth import Required, SdkVerifier
from ghcoord.faces.mcp.http.disconnects import GONE_TTL, Reaper, Watched
from ghcoord.faces.mcp.http.grants import Auth
from ghcoord.faces.mcp.http.impatient import HEAD_TIMEOUT
from ghcoord.faces.mcp.http.security import BODY_TIMEOUT, Doorkeeper, Doors
from ghcoord.faces.mcp.http.shares import Requests, SessionManager
from ghcoord.faces.mcp.http.standing import LOOK_EVERY, Standing
from ghcoord.faces.mcp.http.urls import PATH

MAX_BODY = 4 * 1024 * 1024
"""Bytes of a request: the SDK's own default, well above what any tool takes."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Times in seconds.

    ``gone_ttl``: how long a call of the older protocol runs on after its
    connection was closed.  ``idle_ttl``: how long a protocol session of the
    older revisions is kept without a request; its id then answers 404 and the
    client initializes anew.  ``protocol_sessions`` are kept at most, of 41 KB
    each, and ``connections`` served at a time; further ones get 503.  Of these
    one user has at most ``user_protocol_sessions`` and ``user_requests``.
    ``head_timeout`` and ``body_timeout``: in which these parts of a request
    have to come.  ``look_every``: between two looks at the token of a request
    that stays open.
    """

    gone_ttl: float = GONE_TTL
    idle_ttl: float = 1800.0
    protocol_sessions: int = 4000
    connections: int = 500
    user_protocol_sessions: int = 1000
    user_requests: int = 200
    head_timeout: float = HEAD_TIMEOUT
    body_timeout: float = BODY_TIMEOUT
    look_every: float = LOOK_EVERY


def http_app(
    lowlevel: Server[Any],
    *,
    auth: Auth,
    doors: Doors,
    cors: tuple[str, ...] = (),
    limits: HttpLimits | None = None,
    told: Callable[[str], None] = lambda method: None,
) -> ASGIApp:
    """The application for ``lowlevel``, used once. Pages of the origins ``cors`` may read its answers.

    ``told`` is called with the method of each request that was cancelled because its client was gone.
    """
    most = limits or HttpLimits()
    manager = SessionManager(
        lowlevel,
        most.user_protocol_sessions,
        security_settings=TransportSecuritySettings(
            # The doorkeeper has looked at these already, whatever their case.
            enable_dns_rebinding_protection=False
        ),
        session_idle_timeout=most.idle_ttl,
        max_request_body_size=MAX_BODY,
        max_sessions=most.protocol_sessions,
    )
    endpoint: Any = StreamableHTTPASGIApp(manager)
    middleware: list[Middleware] = []
    routes: list[BaseRoute] = []
    if cors:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(cors),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=["mcp-session-id", "www-authenticate"],
            )
        )
    if auth.verifier is not None:
        resource = AnyHttpUrl(doors.url)
        metadata = build_resource_metadata_url(resource) if auth.verifier.issuer else None
        backend = BearerAuthBackend(SdkVerifier(auth.verifier, doors.url), resource_server_url=resource)
        middleware += [Middleware(AuthenticationMiddleware, backend=backend), Middleware(AuthContextMiddleware)]
        standing = Standing(endpoint, auth.verifier, most.look_every)
        guarded = Requests(standing, most.user_requests)
        endpoint = Required(guarded, auth.verifier, doors.url, metadata)
        if auth.verifier.issuer:
            routes += create_protected_resource_routes(resource, [AnyHttpUrl(auth.verifier.issuer)])
    routes.append(Route(PATH, endpoint=endpoint))

    @asynccontextmanager
    async def running(app: Starlette) -> AsyncIterator[None]:
        reaper = Reaper(most.gone_ttl, told)
        lowlevel.middleware.append(reaper)
        try:
            async with manager.run():
                yield
        finally:
            lowlevel.middleware.remove(reaper)

    inner = Starlette(routes=routes, middleware=middleware, lifespan=running)
    return Doorkeeper(Watched(inner), doors, most.body_timeout)
