"""What the relay takes for a request, and for an address of the internet."""

from __future__ import annotations

import ssl

import pytest

from ghcoord.execution.environment.addresses import AddressRefused, is_public, usable
from ghcoord.execution.environment.relay_requests import Refused, Request, read_request
from ghcoord.execution.environment.settings import Reach
from ghcoord.execution.environment.tls import Hello, client_hello

REACH = Reach(frozenset({("pypi.org", 443)}), frozenset({("devpi.lan", 3141), ("::1", 8080)}))


def refused(head: str, reach: Reach = REACH) -> int:
    """The status with which ``head`` is refused."""
    with pytest.raises(Refused) as refusal:
        read_request((head + "\r\n\r\n").encode("latin-1"), reach)
    assert refusal.value.text
    return refusal.value.status


def test_what_is_allowed_is_understood() -> None:
    """A tunnel to an allowed host, and a page of a plain index with the headers that choose its form."""
    assert Request("CONNECT", "pypi.org", 443) == read_request(
        b"CONNECT PyPI.org:443 HTTP/1.1\r\nHost: pypi.org:443\r\nProxy-Connection: keep-alive\r\n\r\n", REACH
    )
    assert Request("GET", "devpi.lan", 3141, "/simple/x/?a=b", (("accept", "text/html"),)) == read_request(
        b"GET http://devpi.lan:3141/simple/x/?a=b HTTP/1.1\r\nHost: devpi.lan:3141\r\nAccept: text/html\r\n"
        b"Authorization: Basic eDp5\r\nCookie: a=b\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n",
        REACH,
    )
    assert "::1" == read_request(b"HEAD http://[::1]:8080/ HTTP/1.1\r\n\r\n", REACH).host


@pytest.mark.parametrize(
    "target",
    [
        "169.254.169.254:443",
        "169.254.169.254:80",
        "127.0.0.1:443",
        "localhost:443",
        "[::1]:443",
        "[::ffff:127.0.0.1]:443",
        "2130706433:443",
        "0x7f.1:443",
        "0177.0.0.1:443",
        "pypi.org.:443",
        "pypi.org:80",
        "pypi.org:22",
        "pypi.org:4430",
        "evil.pypi.org:443",
        "pypi.org.evil.example:443",
        "xpypi.org:443",
        "devpi.lan:3141",
        "metadata.google.internal:443",
    ],
)
def test_a_tunnel_leads_to_no_other_host_and_port(target: str) -> None:
    """Every spelling of another host, address or port gets 403."""
    assert 403 == refused(f"CONNECT {target} HTTP/1.1\r\nHost: pypi.org:443")


@pytest.mark.parametrize(
    "target",
    [
        "evil@pypi.org:443",
        "pypi.org:443@evil.example:443",
        "pypi.org:0443",
        "pypi.org:443/",
        "pypi.org",
        "http://pypi.org:443",
        "pypi.org:443:443",
        "pypi.org%00.evil.example:443",
        ":443",
        "/",
        "*",
    ],
)
def test_a_tunnel_to_what_is_no_host_and_port_is_refused(target: str) -> None:
    """User names, paths and half a target are not made sense of."""
    assert 400 == refused(f"CONNECT {target} HTTP/1.1")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://devpi.lan/simple/", 403),
        ("http://devpi.lan:80/", 403),
        ("http://127.0.0.1:3141/", 403),
        ("http://pypi.org/simple/", 403),
        ("http://169.254.169.254/latest/meta-data/", 403),
        ("http://me:pw@devpi.lan:3141/", 400),
        ("http://devpi.lan:3141@evil.example/", 400),
        ("http://evil.example\\@devpi.lan:3141/", 400),
        ("http://devpi.lan:3141?x/", 400),
        ("http://devpi.lan:3141/#x", 400),
        ("https://devpi.lan:3141/", 400),
        ("file:///etc/passwd", 400),
        ("/simple/", 400),
        ("//devpi.lan:3141/", 400),
    ],
)
def test_only_the_index_is_fetched(target: str, status: int) -> None:
    """No other host, no other scheme, no URL that two readers understand in two ways."""
    assert status == refused(f"GET {target} HTTP/1.1")


@pytest.mark.parametrize(
    "head",
    [
        "POST http://devpi.lan:3141/ HTTP/1.1",
        "get http://devpi.lan:3141/ HTTP/1.1",
        "GET  http://devpi.lan:3141/ HTTP/1.1",
        "GET http://devpi.lan:3141/ x HTTP/1.1",
        "GET http://devpi.lan:3141/ HTTP/2",
        "GET http://devpi.lan:3141/",
        "GET http://devpi.lan:3141/\n HTTP/1.1",
        "GET http://devpi.lan:3141/ HTTP/1.1\nHost: devpi.lan:3141",
        "GET http://devpi.lan:3141/ HTTP/1.1\r\nHost: evil.example",
        "GET http://devpi.lan:3141/ HTTP/1.1\r\nHost: devpi.lan:3141\r\nHost: evil.example",
        "GET http://devpi.lan:3141/ HTTP/1.1\r\nContent-Length: 5",
        "GET http://devpi.lan:3141/ HTTP/1.1\r\nTransfer-Encoding: chunked",
        "GET http://devpi.lan:3141/ HTTP/1.1\r\nTransfer-Encoding : chunked",
        "GET http://devpi.lan:3141/ HTTP/1.1\r\nAccept: a\r\n folded",
        "GET http://devpi.lan:3141/ HTTP/1.1\r\nAccept: a\nX: b",
        "GET http://devpi.lan:3141/ HTTP/1.1\r\nAccept: a\rX: b",
        "GET http://devpi.lan:3141/ HTTP/1.1\r\nAccept: \0",
        "GET http://devpi.lan:3141/ HTTP/1.1\r\n: x",
        "GET http://devpi.lan:3141/ HTTP/1.1\r\nAccept: \xe9",
        "CONNECT pypi.org:443 HTTP/1.1\r\nHost: evil.example:443",
        "CONNECT pypi.org:443 HTTP/1.1\r\nContent-Length: 3",
        "",
    ],
)
def test_a_doubtful_request_is_refused(head: str) -> None:
    """Bodies, two hosts, folded lines, bare line ends and other methods: nothing to smuggle with."""
    assert 400 == refused(head)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1"),
        *("2002:7f00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe", "no address"),
    ],
)
def test_addresses_that_are_not_of_the_internet(address: str) -> None:
    """This machine, its networks, cloud metadata and IPv6 spellings of these are not public."""
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2a04:4e42::223", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_addresses_of_the_internet(address: str) -> None:
    """What PyPI has, also through NAT64, is public."""
    assert is_public(address)


def test_one_private_address_spoils_a_name() -> None:
    """A name that is rebound to an address of this machine is refused, also beside a public one."""
    with pytest.raises(AddressRefused, match=r"127\.0\.0\.1"):
        usable("pypi.org", 443, False, lambda host, port: ["1.1.1.1", "127.0.0.1"])
    assert ["127.0.0.1"] == usable("devpi.lan", 443, True, lambda host, port: ["127.0.0.1", "127.0.0.1"])
    assert ["::1", "fd12::1"] == usable("devpi.lan", 443, True, lambda host, port: ["::1", "fd12::1"])
    for metadata in ("169.254.169.254", "::ffff:169.254.169.254", "fe80::1%eth0", "fd00:ec2::254", "0.0.0.0", "::"):
        with pytest.raises(AddressRefused):
            usable("devpi.lan", 443, True, lambda host, port, metadata=metadata: [metadata])
    with pytest.raises(OSError, match="no address"):
        usable("pypi.org", 443, False, lambda host, port: [])


def hello_for(name: str | None) -> bytes:
    """The first bytes that Python's TLS client sends."""
    context = ssl.create_default_context()
    context.check_hostname = False
    out = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


def test_the_name_of_a_tls_client_is_read() -> None:
    """The server name of a real client, whole, in records of any size, and a byte at a time."""
    data = hello_for("files.pythonhosted.org")
    assert Hello(tls=True, name="files.pythonhosted.org") == client_hello(data)
    assert Hello(tls=True) == client_hello(hello_for(None))
    body = data[5:]
    pieces = b"".join(data[:3] + len(part).to_bytes(2, "big") + part for part in (body[:1], body[1:7], body[7:]))
    assert Hello(tls=True, name="files.pythonhosted.org") == client_hello(pieces)
    assert all(client_hello(data[:cut]) is None for cut in range(len(data)))


def test_what_is_no_tls_is_told() -> None:
    """HTTP, ssh, an alert and a broken message are no TLS."""
    data = bytearray(hello_for("pypi.org"))
    at = data.index(b"pypi.org")
    data[at - 2 : at] = b"\xff\xff"
    for each in (b"GET / HTTP/1.1", b"SSH-2.0-x", b"\x15\x03\x01\x00\x02\x02\x28", b"\x16\x03\x01\0\0", bytes(data)):
        assert Hello(tls=False) == client_hello(each)


def test_no_bytes_break_the_reading_of_tls() -> None:
    """Every single changed byte of a first message leads to an answer, not to an error."""
    data = hello_for("pypi.org")
    for at in range(len(data)):
        for value in (0, 255, data[at] ^ 1):
            client_hello(data[:at] + bytes([value]) + data[at + 1 :])
