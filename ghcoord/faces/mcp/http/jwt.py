"""Tokens of an authorization server: signed JWTs, checked against its public keys in a file (RFC 9068).

Asked of a token: a signature by an asymmetric key of the file, ``iss`` the
issuer, ``aud`` this server, ``exp`` not over, ``sub`` the user; ``workspace``
names the workspace, and a true ``read_only`` forbids everything that changes
something.  The file is read again when it changes, for new keys.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from jwt.exceptions import PyJWTError

from ghcoord.clock import Runtime
from ghcoord.errors import InvalidName, UsageError
from ghcoord.faces.mcp.http.grants import ELSEWHERE, OVER, UNKNOWN, Grant, checked_who
from ghcoord.faces.mcp.http.urls import check_url, same_resource

ALGORITHMS = ("ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA")
"""Signatures that are taken. None with a shared secret: whoever checks such a one could make it."""

MARGIN = 30.0
"""Seconds by which the issuer's clock and this one may differ."""

MAX_BYTES = 1024 * 1024

MIN_RSA_BITS = 2048
"""A shorter RSA key is not used (RFC 7518, 3.3)."""

_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)

_FITTING: Mapping[str, tuple[str, ...]] = {"EC": ("ES",), "RSA": ("RS", "PS"), "OKP": ("EdDSA",)}
"""Which signatures a kind of key makes, by their beginnings."""


@dataclass(frozen=True, slots=True)
class _Key:
    """A public key: its name, if any, and what it may check."""

    id: str | None
    algorithms: tuple[str, ...]
    key: Any


class JwtVerifier:
    """Checks JWTs. May be used by several threads."""

    def __init__(
        self, jwks: Path, issuer: str, runtime: Runtime, complain: Callable[[str], None] = lambda text: None
    ) -> None:
        """Raises ``UsageError`` for keys or an issuer that cannot be used."""
        self.issuer = check_url(issuer, "issuer")
        self._path = jwks
        self._runtime = runtime
        self._complain = complain
        self._complained = ""
        self._seen: tuple[bytes, tuple[_Key, ...]] = b"", ()
        self._keys()

    def verify(self, token: str, resource: str) -> Grant | None:
        """What ``token`` is good for; ``None`` when it is not ours, not now, or says nothing usable."""
        found = self._read(token, resource)
        return found if isinstance(found, Grant) else None

    def why_not(self, token: str, resource: str) -> str:
        """Why :meth:`verify` gives nothing, or nothing for ``resource``."""
        found = self._read(token, resource)
        return ELSEWHERE if isinstance(found, Grant) else found

    def _read(self, token: str, resource: str) -> Grant | str:
        """What ``token`` is good for, or why for nothing."""
        try:
            keys = self._keys()
        except UsageError as problem:
            if problem.message != self._complained:
                self._complained = problem.message
                self._complain(f"no token is accepted: {problem.message}")
            return UNKNOWN
        self._complained = ""
        try:
            header = jwt.get_unverified_header(token)
            claims = _claims(token, header, keys, self.issuer)
            now = self._runtime.now()
            expires = _number(claims, "exp")
            if expires is None or (_number(claims, "nbf") or 0.0) > now + MARGIN:
                return UNKNOWN
            return OVER if expires + MARGIN <= now else self._grant(claims, expires, resource)
        except (PyJWTError, InvalidName, ValueError, TypeError, KeyError, RecursionError, OverflowError):
            return UNKNOWN

    def stands(self, grant: Grant) -> bool:
        """Whether the token of ``grant`` is not over. Its issuer cannot take it back."""
        return grant.expires_at is not None and self._runtime.now() < grant.expires_at + MARGIN

    def _grant(self, claims: Mapping[str, Any], expires: float, resource: str) -> Grant:
        audience = claims["aud"]
        named = [audience] if isinstance(audience, str) else audience
        if not isinstance(named, list) or not named:
            raise ValueError("no audience")
        read_only = claims.get("read_only", False)
        if not isinstance(read_only, bool):
            raise ValueError("read_only is neither true nor false")
        workspace = claims.get("workspace", "")
        client = claims.get("client_id", claims.get("azp", ""))
        return Grant(
            user_id=checked_who(claims["sub"], "sub"),
            workspace_id=checked_who(workspace, "workspace") if workspace != "" else "",
            credential=_credential(client),
            resource=resource if any(same_resource(str(one), resource) for one in named) else str(named[0]),
            expires_at=expires,
            issuer=self.issuer,
            read_only=read_only,
        )

    def _keys(self) -> tuple[_Key, ...]:
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_BYTES)
        except OSError as error:
            raise UsageError(f"the keys {self._path} cannot be read: {error.strerror}") from None
        seen, keys = self._seen
        if data != seen or not keys:
            keys = _parse(data, self._path)
            self._seen = data, keys
        return keys


def _claims(token: str, header: Mapping[str, Any], keys: tuple[_Key, ...], issuer: str) -> Mapping[str, Any]:
    """The claims, their signature and issuer checked; times and audience are the caller's to check."""
    algorithm, key_id = header.get("alg"), header.get("kid")
    if algorithm not in ALGORITHMS:
        raise ValueError("not a signature that is taken")
    fitting = [one for one in keys if key_id in (None, one.id) and algorithm in one.algorithms]
    if len(fitting) != 1:
        raise ValueError("no key for it, or several")
    claims: Mapping[str, Any] = jwt.decode(
        token,
        fitting[0].key,
        algorithms=[algorithm],
        issuer=issuer,
        options={
            "require": ["exp", "iss", "aud", "sub"],
            "verify_exp": False,
            "verify_nbf": False,
            "verify_iat": False,
            "verify_aud": False,
        },
    )
    return claims


def _credential(client: Any) -> str:
    """A name for a client: it becomes part of the owners of locks, so a strange one is replaced by its digest."""
    if not isinstance(client, str):
        raise ValueError("the client is no text")
    if _PLAIN.fullmatch(client):
        return client
    return "jwt-" + hashlib.sha256(client.encode(errors="surrogatepass")).hexdigest()[:12] if client else "jwt"


def _number(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is no number")
    return float(value)


def _parse(data: bytes, path: Path) -> tuple[_Key, ...]:
    """The keys of a JWKS that may sign. Raises ``UsageError`` when there is none, or one that is no public key."""
    try:
        content = json.loads(data)
        listed = content["keys"]
        if not all(isinstance(one, dict) for one in listed):
            raise ValueError("a key is no object")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(f"{path} is no JWKS: a JSON object with a list 'keys'") from None
    keys = [key for one in listed if (key := _usable(one, path)) is not None]
    if not keys:
        raise UsageError(f"{path} has no public key of the kinds RSA (2048 bits or more), EC or OKP that may sign")
    return tuple(keys)


def _usable(one: Mapping[str, Any], path: Path) -> _Key | None:
    """The key of a record, ``None`` for one that is not used here. Raises ``UsageError`` for a private one."""
    kind, named = str(one.get("kty")), one.get("alg")
    if kind not in _FITTING or one.get("use", "sig") != "sig":
        return None
    if "d" in one:
        raise UsageError(f"{path} holds a private key: leave only the public ones there")
    try:
        key = jwt.PyJWK(dict(one)).key
    except (PyJWTError, ValueError, TypeError, KeyError):
        return None
    if kind == "RSA" and key.key_size < MIN_RSA_BITS:
        return None
    fitting = tuple(each for each in ALGORITHMS if each.startswith(_FITTING[kind]) and named in (None, each))
    return _Key(one.get("kid"), fitting, key)
