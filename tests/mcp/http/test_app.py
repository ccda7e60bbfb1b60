"""The HTTP side alone, before a server of two tools: who gets in, from where, and what becomes of abandoned calls."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import jwt
import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import Unavailable, UsageError
from ghcoord.faces.mcp.http.app import HttpLimits
from ghcoord.faces.mcp.http.grants import Auth
from ghcoord.faces.mcp.http.jwt import JwtVerifier
from ghcoord.faces.mcp.http.logs import routed
from ghcoord.faces.mcp.http.security import doors
from ghcoord.faces.mcp.http.tokens import TokenFile
from tests.mcp.http.serving import ERAS, LATEST, Plain, connected, run, serving
from tests.mcp.http.test_jwt import EC, ISSUER, KEYS
from tests.processes import until

JSON = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
HELLO: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}


def post(url: str, message: Any = HELLO, **headers: str) -> httpx2.Response:
    """One request, with headers such as ``mcp_session_id``."""
    return httpx2.post(
        url, json=message, headers={**JSON, **{k.replace("_", "-"): v for k, v in headers.items()}}, verify=False
    )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, TokenFile]]:
    """A server that wants tokens, and its token file."""
    tokens = TokenFile(tmp_path_factory.mktemp("tokens") / "tokens.json", SystemRuntime())
    with serving(Plain(), Auth(tokens)) as url:
        yield url, tokens


def said(url: str, token: str, mode: str, tool: str = "who") -> str:
    """What a tool says to a client with this token."""

    async def ask() -> str:
        async with connected(url, token, mode) as client:
            result = await client.call_tool(tool, {})
            return str(result.content[0].text)  # type: ignore[union-attr]

    return run(ask)


@pytest.mark.parametrize("mode", ERAS)
def test_the_token_says_who_calls(guarded: tuple[str, TokenFile], mode: str) -> None:
    """User, workspace, holder and rights of each request are those of its token, in both eras."""
    url, tokens = guarded
    ann = tokens.create("ann", workspace="docs", resource=url, lasts=60, read_only=True)
    bob = tokens.create("bob", resource=url, lasts=60)
    assert f"ann docs ann/here.{ann.record.id} True True" == said(url, ann.secret, mode)
    assert f"bob default bob/here.{bob.record.id} True False" == said(url, bob.secret, mode)


def test_who_does_not_get_in(guarded: tuple[str, TokenFile]) -> None:
    """No token, a wrong one, one for another server, an expired or a revoked one: 401, without a restart."""
    url, tokens = guarded
    good = tokens.create("ann", resource=url, lasts=60)
    other = tokens.create("ann", resource="http://127.0.0.1:1/mcp", lasts=60)
    late = tokens.create("ann", resource=url, lasts=0.001)
    never = "ghc_" + "x" * 43
    for sent, why in (
        (None, "no bearer token was sent"),
        (f"Basic {good.secret}", "no bearer token was sent"),
        (f"Bearer {never}", "the token is not known"),
        (f"Bearer {'x' * 20_000}", "the token is not known"),
        (f"Bearer {other.secret}", "the token is for another URL"),
        (f"Bearer {late.secret}", "the token has expired"),
    ):
        answer = post(url) if sent is None else post(url, authorization=sent)
        assert (401, why) == (answer.status_code, answer.json()["error_description"])
        assert f'error_description="{why}"' in answer.headers["www-authenticate"]
    for wrong in ("Bearer x", "Bearer", f"Basic {good.secret}", f"Bearer {other.secret}", f"Bearer {late.secret}"):
        answer = post(url, authorization=wrong)
        assert 401 == answer.status_code
        assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert 200 == post(url, authorization=f"Bearer {good.secret}").status_code
    tokens.revoke(good.record.id)
    assert 401 == post(url, authorization=f"Bearer {good.secret}").status_code


def test_a_protocol_session_is_its_makers(guarded: tuple[str, TokenFile]) -> None:
    """Another user, or another token of the same user, gets 404 for it, as for one that never was."""
    url, tokens = guarded
    ann, also_ann, bob = (tokens.create(one, resource=url, lasts=60).secret for one in ("ann", "ann", "bob"))
    session = post(url, authorization=f"Bearer {ann}").headers["mcp-session-id"]
    answers = [post(url, PING, authorization=f"Bearer {one}", mcp_session_id=session) for one in (ann, also_ann, bob)]
    never = post(url, PING, authorization=f"Bearer {bob}", mcp_session_id="0" * 32)
    assert [200, 404, 404] == [one.status_code for one in answers]
    assert never.text == answers[2].text


def test_one_user_leaves_room_for_others(tmp_path: Path) -> None:
    """With 3 protocol sessions, or 2 open requests, another token of the user is refused; another user is not."""
    tokens = TokenFile(tmp_path / "tokens.json", SystemRuntime())
    plain = Plain()
    limits = HttpLimits(user_protocol_sessions=3, user_requests=2)
    tokens.create("nobody", resource="http://127.0.0.1:1/mcp", lasts=1)
    with serving(plain, Auth(tokens), limits=limits) as url:
        ann, also_ann, bob = (
            f"Bearer {tokens.create(one, resource=url, lasts=60).secret}" for one in ("ann", "ann", "bob")
        )
        opened = [post(url, authorization=ann) for _ in range(4)]
        assert [200, 200, 200, 503] == [one.status_code for one in opened]
        assert [503, 200] == [post(url, authorization=one).status_code for one in (also_ann, bob)]
        session = opened[0].headers["mcp-session-id"]
        assert 200 == httpx2.delete(url, headers={"authorization": ann, "mcp-session-id": session}).status_code
        again = post(url, authorization=also_ann)
        assert 200 == again.status_code
        held = [one.headers["mcp-session-id"] for one in opened[1:3]]
        with httpx2.Client() as client:
            listen = {"authorization": ann, "accept": "text/event-stream"}
            with (
                client.stream("GET", url, headers={**listen, "mcp-session-id": held[0]}) as one,
                client.stream("GET", url, headers={**listen, "mcp-session-id": held[1]}) as two,
            ):
                assert [200, 200] == [one.status_code, two.status_code]
                refused = post(url, PING, authorization=also_ann, mcp_session_id=again.headers["mcp-session-id"])
                assert (429, "5") == (refused.status_code, refused.headers["retry-after"])
                assert 200 == post(url, authorization=bob).status_code
        until(lambda: 200 == post(url, PING, authorization=ann, mcp_session_id=held[0]).status_code)


def test_other_names_and_pages_are_refused_first(guarded: tuple[str, TokenFile]) -> None:
    """421 for a foreign Host and 403 for a foreign Origin, with or without a token, on every path."""
    url, tokens = guarded
    good = f"Bearer {tokens.create('ann', resource=url, lasts=60).secret}"
    port = urlsplit(url).port
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port}.evil.example", ""):
        assert 421 == post(url, authorization=good, host=host).status_code
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", f"https://127.0.0.1:{port}"):
        assert 403 == post(url, authorization=good, origin=origin).status_code
    for path in ("/mcp", "/", "/.well-known/oauth-protected-resource/mcp"):
        assert 421 == post(url.removesuffix("/mcp") + path, host="evil.example").status_code
        assert 403 == post(url.removesuffix("/mcp") + path, origin="https://evil.example").status_code
    for host in (f"localhost:{port}", f"LOCALHOST:{port}", f"[::1]:{port}"):
        assert 200 == post(url, authorization=good, host=host).status_code
    assert 200 == post(url, authorization=good, origin=f"http://127.0.0.1:{port}").status_code


@pytest.mark.slow
def test_pages_that_are_allowed_can_read(guarded: tuple[str, TokenFile]) -> None:
    """A page named by --allow-origin passes, preflight and all; others see no permission."""
    with serving(Plain(), allowed_origins=["https://app.example"], public_url="https://mcp.example/mcp") as url:
        local = url.replace("https://mcp.example", "")
        assert "/mcp" == local
    _, tokens = guarded
    port = _free_port()
    here = f"http://127.0.0.1:{port}/mcp"
    with serving(Plain(), Auth(tokens), port=port, allowed_origins=["https://app.example"]):
        asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
        asked["Access-Control-Request-Headers"] = "authorization,mcp-protocol-version"
        preflight = httpx2.request("OPTIONS", here, headers=asked)
        assert (200, "https://app.example") == (
            preflight.status_code,
            preflight.headers["access-control-allow-origin"],
        )
        good = tokens.create("ann", resource=here, lasts=60).secret
        answer = post(here, authorization=f"Bearer {good}", origin="https://app.example")
        assert (200, "https://app.example") == (answer.status_code, answer.headers["access-control-allow-origin"])
        assert 403 == post(here, authorization=f"Bearer {good}", origin="https://app.example.evil").status_code


@pytest.mark.slow
@pytest.mark.parametrize("mode", ERAS)
def test_an_abandoned_call_is_cancelled(mode: str) -> None:
    """When a client's connection is closed its call ends: at once in the new protocol, after the TTL in the old."""
    server = Plain()
    with serving(server, limits=HttpLimits(gone_ttl=0.3)) as url:
        _call_and_vanish(url, server, mode)
        began = time.monotonic()
        assert server.cancelled.wait(5)
        took = time.monotonic() - began
        assert (0.25 < took < 2) if mode == "legacy" else took < 1


@pytest.mark.slow
def test_a_call_of_the_old_protocol_has_its_ttl() -> None:
    """Before that it runs on: a short one gets done although nobody hears of it."""
    server = Plain()
    with serving(server, limits=HttpLimits(gone_ttl=30)) as url:
        _call_and_vanish(url, server, "legacy")
        assert not server.cancelled.wait(0.6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ERAS)
def test_an_open_call_ends_with_its_token(mode: str, tmp_path: Path) -> None:
    """Revoking a token ends the calls that run under it, and nobody else's."""
    server, tokens = Plain(), TokenFile(tmp_path / "tokens.json", SystemRuntime())
    tokens.create("bob", resource="http://127.0.0.1:1/mcp", lasts=60)
    with serving(server, Auth(tokens), limits=HttpLimits(gone_ttl=0.1, look_every=0.1)) as url:
        made = tokens.create("ann", resource=url, lasts=60)
        threading.Thread(target=lambda: _quietly(url, made.secret, mode), daemon=True).start()
        assert server.waiting.wait(5)
        assert not server.cancelled.wait(0.4)
        tokens.revoke(made.record.id)
        assert server.cancelled.wait(2)


@pytest.mark.slow
def test_a_server_that_stops_cancels_its_calls() -> None:
    """Within the grace, whoever is connected."""
    server = Plain()
    with serving(server) as url:
        threading.Thread(target=lambda: _quietly(url), daemon=True).start()
        assert server.waiting.wait(5)
        began = time.monotonic()
    assert server.cancelled.is_set()
    assert time.monotonic() - began < 3


@pytest.mark.slow
def test_a_body_that_does_not_come() -> None:
    """A client that sends half a request holds its connection no longer than the limit."""
    with serving(Plain(), limits=HttpLimits(body_timeout=0.3)) as url:
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port), timeout=5) as one:
            head = f"POST /mcp HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 99\r\n"
            one.sendall((head + "".join(f"{k}: {v}\r\n" for k, v in JSON.items()) + "\r\n{").encode())
            began, answer = time.monotonic(), b""
            while more := one.recv(4096):
                answer += more
            assert time.monotonic() - began < 2
            assert answer.startswith(b"HTTP/1.1 408")


@pytest.mark.slow
@pytest.mark.parametrize("first", [b"", b"GET /mcp HTTP/1.1\r\nHost: elsewhere\r\n\r\n"], ids=["new", "used"])
def test_a_head_that_does_not_come(first: bytes) -> None:
    """The same for the head of a request, on a new connection and on one that was used."""
    with serving(Plain(), limits=HttpLimits(head_timeout=0.3)) as url:
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port), timeout=5) as one:
            one.sendall(first)
            assert not first or one.recv(4096).startswith(b"HTTP/1.1 421")
            one.sendall(b"POST /mcp HTTP/1.1\r\nHost")
            began = time.monotonic()
            while one.recv(4096):
                pass
            assert time.monotonic() - began < 2


def test_connections_are_kept_alive_by_the_system() -> None:
    """A client whose machine vanished is noticed: the system asks after it (timer 2 is that of keep-alive)."""
    with serving(Plain()) as url:
        port = f":{urlsplit(url).port:04X}"
        with socket.create_connection(("127.0.0.1", int(port[1:], 16))):
            until(lambda: any(port in row[1] and "01" == row[3] for row in _sockets()))
            accepted = [row for row in _sockets() if port in row[1] and "01" == row[3]]
    assert ["02"] == [row[5].partition(":")[0] for row in accepted]


@pytest.mark.slow
def test_bodies_that_are_too_large() -> None:
    """413 instead of memory."""
    with serving(Plain()) as url:
        assert 413 == httpx2.post(url, content=b" " * (5 << 20), headers=JSON).status_code


@pytest.mark.slow
def test_strange_requests_are_answered() -> None:
    """Nothing that is sent ends the server."""
    with serving(Plain()) as url:
        for body in (b"", b"{", b"[]", b"null", b'{"jsonrpc":"2.0","id":{},"method":1}', b"\xff" * 9, b"[" * 100_000):
            assert 400 <= httpx2.post(url, content=body, headers=JSON).status_code < 500
            modern = {**JSON, "MCP-Protocol-Version": LATEST}
            assert 400 <= httpx2.post(url, content=body, headers=modern).status_code < 500
        assert 200 == post(url).status_code


def test_without_tokens_on_this_machine_only() -> None:
    """--no-auth is refused on an address that others reach."""
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(UsageError, match="without tokens"), serving(Plain(), host=host):
            pass


def test_an_address_that_is_taken() -> None:
    """One line that says so, of the kind that exits 7."""
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(Unavailable, match="another program"),
        serving(Plain(), port=other.getsockname()[1]),
    ):
        pass


@pytest.mark.slow
@pytest.mark.parametrize(("host", "shown"), [("localhost", "127.0.0.1"), ("::1", "[::1]"), ("127.0.0.2", "127.0.0.2")])
def test_other_loopback_addresses(host: str, shown: str) -> None:
    """By name, of the newer protocol, or another of the many: named by the number, reached without a token."""
    with serving(Plain(), host=host) as url:
        assert url.startswith(f"http://{shown}:")
        assert 200 == post(url).status_code


def test_names_of_a_server() -> None:
    """On all addresses it must be told its name; elsewhere it knows; a proxy's name is added."""

    def found(host: str, url: str | None = None, hosts: tuple[str, ...] = (), origins: tuple[str, ...] = ()) -> Any:
        return doors(host, 8321, public_url=url, allowed_hosts=hosts, allowed_origins=origins)

    with pytest.raises(UsageError, match="public-url"):
        found("0.0.0.0")
    proxied = found("0.0.0.0", "https://mcp.example.org/mcp")
    assert ("https://mcp.example.org/mcp", ("mcp.example.org", "mcp.example.org:443")) == (proxied.url, proxied.hosts)
    assert ("https://mcp.example.org",) == proxied.origins
    assert ("192.0.2.1:8321", "box:8321") == found("192.0.2.1", hosts=("Box:8321",)).hosts
    assert "http://[::1]:8321/mcp" == found("::1").url
    for wrong in ({"url": "ftp://x"}, {"url": "https://u:p@x/"}, {"hosts": ("http://x",)}, {"hosts": ("*",)}):
        with pytest.raises(UsageError):
            found("127.0.0.1", **wrong)  # type: ignore[arg-type]
    for origin in ("*", "null", "https://app.example/path", "app.example"):
        with pytest.raises(UsageError):
            found("127.0.0.1", origins=(origin,))


def test_tokens_of_an_authorization_server(tmp_path: Path) -> None:
    """401 says where to ask for one; a JWT for this server is let in, one for another is not."""
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps({"keys": KEYS}))
    verifier = JwtVerifier(keys, ISSUER, SystemRuntime())

    def sign(audience: str) -> str:
        claims = {"iss": ISSUER, "aud": audience, "sub": "ann", "exp": time.time() + 60, "workspace": "docs"}
        return jwt.encode(claims, EC, "ES256", headers={"kid": "e"})

    with serving(Plain(), Auth(verifier)) as url:
        where = url.replace("/mcp", "/.well-known/oauth-protected-resource/mcp")
        assert f'resource_metadata="{where}"' in post(url).headers["www-authenticate"]
        described = httpx2.get(where).json()
        assert (url, [ISSUER]) == (
            described["resource"],
            [one.rstrip("/") for one in described["authorization_servers"]],
        )
        assert "ann docs ann/here.jwt True False" == said(url, sign(url), LATEST)
        assert 401 == post(url, authorization=f"Bearer {sign('https://other.example/mcp')}").status_code


def test_what_libraries_log_is_said() -> None:
    """Their warnings and errors go to the server's log, without a traceback; nothing else of them is printed."""
    heard: list[tuple[str, str]] = []
    with routed(lambda level, text: heard.append((level, text))):
        logging.getLogger("mcp.server.x").info("quiet")
        logging.getLogger("mcp.server.x").warning("odd %s", "thing")
        try:
            raise ValueError("broken")
        except ValueError:
            logging.getLogger("uvicorn.error").exception("failed")
    logging.getLogger("mcp.server.x").debug("after")
    assert [("warn", "mcp.server.x: odd thing"), ("error", "uvicorn.error: failed: ValueError: broken")] == heard


def _sockets() -> list[list[str]]:
    return [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def _quietly(url: str, token: str = "", mode: str = "legacy") -> None:
    try:
        said(url, token, mode, "wait")
    except BaseException:
        return


def _call_and_vanish(url: str, server: Plain, mode: str) -> None:
    """Call ``wait`` and cut the connection without a word, as the end of a process does."""
    headers = dict(JSON)
    call: dict[str, Any] = {
        "jsonrpc": "2.0",
        "id": 2,
        "method": "tools/call",
        "params": {"name": "wait", "arguments": {}},
    }
    if mode == "legacy":
        headers["Mcp-Session-Id"] = post(url).headers["mcp-session-id"]
        post(url, {"jsonrpc": "2.0", "method": "notifications/initialized"}, mcp_session_id=headers["Mcp-Session-Id"])
    else:
        headers |= {"MCP-Protocol-Version": LATEST, "Mcp-Method": "tools/call", "Mcp-Name": "wait"}
        call["params"]["_meta"] = {
            "io.modelcontextprotocol/protocolVersion": LATEST,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    body = json.dumps(call).encode()
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as one:
        head = f"POST /mcp HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {len(body)}\r\n"
        one.sendall((head + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n").encode() + body)
        assert server.waiting.wait(5), one.recv(4096)


def test_the_usual_file_is_a_path() -> None:
    """The place of tokens is below this user's state folder."""
    from ghcoord.bootstrap import token_file

    assert isinstance(token_file(), Path)
