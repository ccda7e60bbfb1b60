"""JWTs of an authorization server: only those that it signed, for this server and now."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ghcoord.errors import UsageError
from ghcoord.faces.mcp.http.jwt import JwtVerifier
from ghcoord.testing.clock import ManualRuntime

HERE = "https://mcp.example.org/mcp"
ISSUER = "https://id.example.org"

EC = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
WEAK = rsa.generate_private_key(65537, 1024)
ED = ed25519.Ed25519PrivateKey.generate()


def public(key: Any, algorithm: str, **more: Any) -> dict[str, Any]:
    """The record of a public key."""
    maker: Any = jwt.get_algorithm_by_name(algorithm)
    return {**maker.to_jwk(key.public_key(), as_dict=True), **more}


KEYS = [
    public(EC, "ES256", kid="e", alg="ES256", use="sig"),
    public(RSA, "RS256", kid="r"),
    public(ED, "EdDSA", kid="d"),
    public(EC, "ES256", kid="enc", use="enc"),
    {"kty": "oct", "kid": "o", "k": base64.urlsafe_b64encode(b"secret" * 8).decode()},
]

Sign = Callable[..., str]


@pytest.fixture
def runtime() -> ManualRuntime:
    return ManualRuntime()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": KEYS}))
    return path


@pytest.fixture
def verifier(keys: Path, runtime: ManualRuntime) -> JwtVerifier:
    return JwtVerifier(keys, ISSUER, runtime)


@pytest.fixture
def sign(runtime: ManualRuntime) -> Sign:
    """A token with claims that differ from good ones as told; ``None`` leaves one out."""

    def sign(key: Any = EC, algorithm: str = "ES256", kid: str | None = "e", **claims: Any) -> str:
        usual = {"iss": ISSUER, "aud": HERE, "sub": "ann", "exp": runtime.now() + 60, "workspace": "docs"}
        payload = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        return jwt.encode(payload, key, algorithm, headers=None if kid is None else {"kid": kid})

    return sign


def test_a_good_token(verifier: JwtVerifier, sign: Sign) -> None:
    """User, workspace, client and rights are taken from the claims."""
    grant = verifier.verify(sign(client_id="agent", read_only=True), HERE)
    assert grant is not None
    assert ("ann", "docs", "agent", HERE) == (grant.user_id, grant.workspace_id, grant.credential, grant.resource)
    assert (ISSUER, True) == (grant.issuer, grant.read_only)


def test_strange_clients_have_names_of_their_own(verifier: JwtVerifier, sign: Sign) -> None:
    """A client's name becomes part of a lock's owner: what could be taken for another's is replaced."""
    names = [verifier.verify(sign(client_id=one), HERE) for one in ("a/b", "a b", "x" * 65, "\u0430", "")]
    found = [one.credential for one in names if one is not None]
    assert 5 == len(set(found))
    assert all(one.startswith("jwt") and one.replace("-", "").isalnum() for one in found)


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"), [(EC, "ES256", "e"), (RSA, "RS256", "r"), (RSA, "PS512", "r"), (ED, "EdDSA", "d")]
)
def test_each_kind_of_key(verifier: JwtVerifier, sign: Sign, key: Any, algorithm: str, kid: str) -> None:
    """Elliptic, RSA and Edwards keys."""
    assert verifier.verify(sign(key, algorithm, kid), HERE) is not None


def test_one_of_several_audiences(verifier: JwtVerifier, sign: Sign) -> None:
    """A token for several servers is for this one too; one for others says for which."""
    both = verifier.verify(sign(aud=["https://other.example", HERE]), HERE)
    other = verifier.verify(sign(aud=["https://other.example/mcp"]), HERE)
    assert both is not None
    assert HERE == both.resource
    assert other is not None
    assert "https://other.example/mcp" == other.resource


@pytest.mark.parametrize(
    "strange", [f"{HERE}#x", f"{HERE}?x", HERE.replace("//", "//ann@"), f"{HERE};x", "http://[::1"]
)
def test_an_audience_that_is_nearly_this_server(verifier: JwtVerifier, sign: Sign, strange: str) -> None:
    """Is another one."""
    grant = verifier.verify(sign(aud=strange), HERE)
    assert grant is not None
    assert strange == grant.resource


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"aud": None},
        {"aud": []},
        {"aud": {"a": 1}},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 201},
        {"sub": "a\nb"},
        {"exp": None},
        {"exp": "soon"},
        {"exp": 1},
        {"exp": float("1e400")},
        {"nbf": 99_999_999_999},
        {"workspace": 7},
        {"workspace": "../x"},
        {"read_only": "no"},
        {"client_id": ["a"]},
    ],
    ids=str,
)
def test_claims_that_are_refused(verifier: JwtVerifier, sign: Sign, claims: dict[str, Any]) -> None:
    """Another issuer, no audience, no user, not now, or of another kind: nothing of it is believed."""
    assert verifier.verify(sign(**claims), HERE) is None


def test_clocks_may_differ_a_little(verifier: JwtVerifier, sign: Sign, runtime: ManualRuntime) -> None:
    """A token is good for 30 s more and no longer."""
    token = sign(exp=runtime.now() + 1)
    runtime.advance(30)
    assert verifier.verify(token, HERE) is not None
    runtime.advance(1)
    assert verifier.verify(token, HERE) is None


def test_signatures_that_are_refused(verifier: JwtVerifier, sign: Sign, keys: Path) -> None:
    """No signature, a shared secret, the public key as a secret, another's key, a key of another use or algorithm."""
    good = sign()
    head, body, signature = good.split(".")
    stranger = ec.generate_private_key(ec.SECP256R1())

    def made(header: dict[str, str], secret: bytes) -> str:
        first = base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")
        mac = hmac.new(secret, f"{first}.{body}".encode(), hashlib.sha256).digest()
        return f"{first}.{body}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"

    refused = [
        made({"alg": "none", "kid": "e"}, b"")[:-43],
        made({"alg": "HS256", "kid": "o"}, b"secret" * 8),
        made({"alg": "HS256", "kid": "e"}, keys.read_bytes()),
        sign(stranger),
        sign(kid="unknown"),
        sign(kid="enc"),
        sign(kid="r"),
        sign(RSA, "RS256", "e"),
        sign(RSA, "RS256", "d"),
        f"{head}.{body}.{signature[:-4]}AAAA",
        f"{head}.{body}",
        "ghc_" + "a" * 43,
        "a.b.c",
        "\udcff.\udcff.\udcff",
        "",
    ]
    assert [None] * len(refused) == [verifier.verify(one, HERE) for one in refused]
    assert verifier.verify(good, HERE) is not None


def test_keys_may_change(verifier: JwtVerifier, sign: Sign, keys: Path) -> None:
    """New keys count at once, a file that is broken lets nobody in, and a right one lets them in again."""
    token = sign()
    keys.write_text(json.dumps({"keys": [public(ec.generate_private_key(ec.SECP256R1()), "ES256", kid="e")]}))
    assert verifier.verify(token, HERE) is None
    keys.write_text("{")
    assert verifier.verify(token, HERE) is None
    keys.write_text(json.dumps({"keys": KEYS}))
    assert verifier.verify(token, HERE) is not None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "no JWKS"),
        ('{"keys": [1]}', "no JWKS"),
        ('{"keys": []}', "no public key"),
        (json.dumps({"keys": [KEYS[-1]]}), "no public key"),
        (json.dumps({"keys": [public(WEAK, "RS256")]}), "no public key"),
        (json.dumps({"keys": [{**KEYS[0], "d": "AAAA"}]}), "private key"),
    ],
)
def test_keys_that_are_refused(keys: Path, runtime: ManualRuntime, content: str, says: str) -> None:
    """A server does not start without a public key that may sign, nor with a private one."""
    keys.write_text(content)
    with pytest.raises(UsageError, match=says):
        JwtVerifier(keys, ISSUER, runtime)
    with pytest.raises(UsageError, match="issuer"):
        JwtVerifier(keys, "not a url", runtime)
