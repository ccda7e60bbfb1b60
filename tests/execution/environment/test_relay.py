"""The relay carries what is allowed, and nothing else, whatever is sent to it."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.execution.environment import relay as relays
from ghcoord.execution.environment.relay import Relay
from ghcoord.execution.environment.settings import Reach
from tests.execution.environment.index import serve, wheel

RUNTIME = SystemRuntime()


@contextlib.contextmanager
def relay(folder: Path, reach: Reach, resolved: dict[str, list[str]] | None = None) -> Iterator[Relay]:
    """A relay in ``folder`` that resolves names as given."""

    def ask(host: str, port: int) -> list[str]:
        if resolved and host in resolved:
            return resolved[host]
        if host == "127.0.0.1":
            return [host]
        raise OSError(f"{host} is not known")

    made = Relay(reach, RUNTIME, folder / "socket", ask=ask)
    try:
        yield made
    finally:
        made.close()


def connected(made: Relay) -> socket.socket:
    """A connection to it."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(str(made.path))
    return client


def answer(made: Relay, sent: bytes) -> bytes:
    """Everything that comes back for ``sent``."""
    with connected(made) as client:
        client.sendall(sent)
        return everything(client)


def everything(client: socket.socket) -> bytes:
    """What comes until the end."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(65536):
            got += data
    return got


def plain(url: str) -> Reach:
    """What an index at ``url`` needs."""
    return Reach(
        frozenset(), frozenset({("127.0.0.1", int(url.split(":")[2].split("/")[0]))}), frozenset({"127.0.0.1"})
    )


@contextlib.contextmanager
def echo() -> Iterator[int]:
    """A server that sends back what it gets, in capitals; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def one(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while data := client.recv(65536):
                client.sendall(data.upper())

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],)).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def hello(name: str) -> bytes:
    """The first message of a TLS client that asks for ``name``."""
    out = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


def test_a_page_of_the_index_is_fetched(tmp_path: Path) -> None:
    """An absolute-form GET comes back whole, with the index's own host as Host and none of the task's secrets."""
    with serve(wheel("alpha", "1.0", {"a.py": "x" * 300_000})) as index, relay(tmp_path, plain(index.url)) as made:
        got = answer(made, f"GET {index.url}/alpha/ HTTP/1.1\r\nAccept: */*\r\n\r\n".encode())
        assert got.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"alpha-1.0-py3-none-any.whl</a>" in got
        assert b"Connection: close\r\n" in got
        origin = index.url.removesuffix("/simple")
        file = answer(made, f"GET {origin}/files/alpha-1.0-py3-none-any.whl HTTP/1.1\r\n\r\n".encode())
        assert index.files["alpha-1.0-py3-none-any.whl"] == file.partition(b"\r\n\r\n")[2]
        assert b"" == answer(made, f"HEAD {index.url}/alpha/ HTTP/1.1\r\n\r\n".encode()).partition(b"\r\n\r\n")[2]
        assert answer(made, f"GET {index.url}/none/ HTTP/1.1\r\n\r\n".encode()).startswith(b"HTTP/1.1 404 ")
        assert {origin.removeprefix("http://")} == index.host_headers
        assert [] == made.refused
        assert [] == made.failed


def test_a_tunnel_carries_both_ways(tmp_path: Path) -> None:
    """What follows CONNECT goes to the host and back, also a megabyte of it, until both ends are done."""
    with echo() as port:
        reach = Reach(frozenset({("pypi.org", port)}), private=frozenset({"pypi.org"}))
        with relay(tmp_path, reach, {"pypi.org": ["127.0.0.1"]}) as made, connected(made) as client:
            client.sendall(f"CONNECT pypi.org:{port} HTTP/1.1\r\n\r\n".encode())
            assert b"HTTP/1.1 200 Connection established\r\n\r\n" == client.recv(1000)
            first = hello("pypi.org")
            threading.Thread(
                target=lambda: (client.sendall(first + b"abc" * 350_000), client.shutdown(socket.SHUT_WR))
            ).start()
            assert (first + b"abc" * 350_000).upper() == everything(client)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("169.254.169.254:443", 403),
        ("169.254.169.254:80", 403),
        ("127.0.0.1:{echo}", 403),
        ("localhost:{echo}", 403),
        ("[::1]:{echo}", 403),
        ("[::ffff:127.0.0.1]:{echo}", 403),
        ("2130706433:{echo}", 403),
        ("pypi.org.:443", 403),
        ("pypi.org:{echo}", 403),
        ("evil.example:443", 403),
        ("x@pypi.org:443", 400),
    ],
)
def test_nothing_else_is_connected_to(tmp_path: Path, target: str, status: int) -> None:
    """Loopback ports, cloud metadata and other hosts: refused with a text, and no connection is made."""
    with echo() as port, relay(tmp_path, Reach(frozenset({("pypi.org", 443)})), {}) as made:
        target = target.format(echo=port)
        got = answer(made, f"CONNECT {target} HTTP/1.1\r\nHost: pypi.org:443\r\n\r\n".encode())
        assert got.startswith(f"HTTP/1.1 {status} ".encode())
        assert b"ghcoord's relay: " in got
        assert (status == 403) == bool(made.refused)


def test_a_name_that_is_rebound_is_not_followed(tmp_path: Path) -> None:
    """An allowed name that resolves to this machine, or to it and another, is refused and not connected to."""
    with echo() as port:
        for addresses in (["127.0.0.1"], ["1.1.1.1", "::ffff:127.0.0.1"], ["169.254.169.254"]):
            with relay(tmp_path, Reach(frozenset({("pypi.org", port)})), {"pypi.org": addresses}) as made:
                got = answer(made, f"CONNECT pypi.org:{port} HTTP/1.1\r\n\r\n".encode())
                assert got.startswith(b"HTTP/1.1 403 ")
                assert "not of the public internet" in made.refused[0]


def test_a_tunnel_is_for_tls_to_its_host(tmp_path: Path) -> None:
    """Plain HTTP, and TLS that asks for another host of the same network, end before a byte goes out."""
    with echo() as port:
        reach = Reach(frozenset({("pypi.org", port)}), private=frozenset({"pypi.org"}))
        for sent, told in (
            (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", "no TLS"),
            (hello("evil.example"), "TLS for evil.example"),
            (b"\x16\x03\x01\xff\xff" + b"x" * 70_000, "no TLS"),
        ):
            with relay(tmp_path, reach, {"pypi.org": ["127.0.0.1"]}) as made:
                got = answer(made, f"CONNECT pypi.org:{port} HTTP/1.1\r\n\r\n".encode() + sent)
                assert b"HTTP/1.1 200 Connection established\r\n\r\n" == got
                assert f"{told} was sent to pypi.org" == made.refused[0]


def test_a_host_that_does_not_answer_is_told(tmp_path: Path) -> None:
    """502 with the reason, which the relay keeps for the message of the call."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with relay(tmp_path, Reach(frozenset(), frozenset({("127.0.0.1", port)}), frozenset({"127.0.0.1"}))) as made:
        assert answer(made, f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n".encode()).startswith(b"HTTP/1.1 502 ")
        assert f"127.0.0.1:{port} cannot be reached: Connection refused" == made.failed[0]


def test_a_second_request_is_not_smuggled(tmp_path: Path) -> None:
    """What follows a GET is refused, not read as another request."""
    with serve() as index, relay(tmp_path, plain(index.url)) as made:
        one = f"GET {index.url}/a/ HTTP/1.1\r\n\r\n".encode()
        assert answer(made, one + one).startswith(b"HTTP/1.1 400 ")
        assert [] == index.asked


def test_an_endless_head_is_cut(tmp_path: Path) -> None:
    """Headers without end get 431 after 16 KiB."""
    with relay(tmp_path, Reach(frozenset())) as made, connected(made) as client:
        with contextlib.suppress(OSError):
            for _ in range(100):
                client.sendall(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 1000)
        assert everything(client).startswith((b"HTTP/1.1 431 ", b""))
        got = answer(made, b"GET / HTTP/1.1\r\nA: " + b"x" * 16_400 + b"\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 431 ")


def test_slow_clients_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that comes byte by byte is not waited for longer than the limit, however often something comes."""
    monkeypatch.setattr(relays, "HEAD_TIMEOUT", 0.3)
    with relay(tmp_path, Reach(frozenset())) as made, connected(made) as client:
        started = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - started < 5:
                client.sendall(b"G")
                client.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    assert client.recv(1000).startswith(b"HTTP/1.1 408 ")
                    break
        assert time.monotonic() - started < 2


def test_connections_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More connections than allowed wait for their turn; none is lost."""
    monkeypatch.setattr(relays, "MAX_CONNECTIONS", 2)
    with serve() as index, relay(tmp_path, plain(index.url)) as made, contextlib.ExitStack() as stack:
        first, _, third = (stack.enter_context(connected(made)) for _ in range(3))
        third.sendall(f"GET {index.url}/a/ HTTP/1.1\r\n\r\n".encode())
        third.settimeout(0.2)
        with pytest.raises(TimeoutError):
            third.recv(1)
        first.close()
        third.settimeout(10)
        assert everything(third).startswith(b"HTTP/1.1 404 ")


def test_requests_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last allowed connection the next one ends at once."""
    monkeypatch.setattr(relays, "MAX_REQUESTS", 1)
    with serve() as index, relay(tmp_path, plain(index.url)) as made:
        one = f"GET {index.url}/a/ HTTP/1.1\r\n\r\n".encode()
        assert answer(made, one).startswith(b"HTTP/1.1 404 ")
        with contextlib.suppress(BrokenPipeError):
            assert b"" == answer(made, one)


def test_bytes_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download ends at the limit, and what a task may send is far less; the call's message says so."""
    monkeypatch.setattr(relays, "MAX_DOWN", 100_000)
    content = os.urandom(500_000)
    with serve(wheel("alpha", "1.0", {"a.bin": content})) as index, relay(tmp_path, plain(index.url)) as made:
        origin = index.url.removesuffix("/simple")
        got = answer(made, f"GET {origin}/files/alpha-1.0-py3-none-any.whl HTTP/1.1\r\n\r\n".encode())
        assert len(got) < 200_000
        assert "at most 0 MiB" in made.refused[0]


def test_closing_ends_everything(tmp_path: Path) -> None:
    """Connections, threads, descriptors and the socket are gone when it is closed, also in the middle of a tunnel."""
    with echo() as port:
        before = threading.active_count(), len(os.listdir("/proc/self/fd"))
        reach = Reach(frozenset({("pypi.org", port)}), private=frozenset({"pypi.org"}))
        clients = []
        with relay(tmp_path, reach, {"pypi.org": ["127.0.0.1"]}) as made:
            for _ in range(5):
                clients.append(connected(made))
                clients[-1].sendall(f"CONNECT pypi.org:{port} HTTP/1.1\r\n\r\n".encode())
                assert clients[-1].recv(1000)
            clients[-1].sendall(hello("pypi.org"))
            assert clients[-1].recv(1000)
            started = time.monotonic()
        assert time.monotonic() - started < 1
        assert [] == os.listdir(tmp_path)
        for client in clients:
            assert b"" == everything(client)
            client.close()
        deadline = time.monotonic() + 5
        while (threading.active_count(), len(os.listdir("/proc/self/fd"))) != before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert before == (threading.active_count(), len(os.listdir("/proc/self/fd")))


def test_its_socket_is_for_the_tasks_alone(tmp_path: Path) -> None:
    """Nobody else of the machine may connect; a long path is no hindrance."""
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    made = Relay(Reach(frozenset()), RUNTIME, folder / "socket")
    try:
        assert 0o600 == made.path.stat().st_mode & 0o777
    finally:
        made.close()


def test_an_answer_that_is_no_http_is_told(tmp_path: Path) -> None:
    """An index that speaks something else fails the request, not the relay."""
    with echo() as port:
        reach = Reach(frozenset(), frozenset({("127.0.0.1", port)}), frozenset({"127.0.0.1"}))
        with relay(tmp_path, reach) as made:
            assert b"" == answer(made, f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n".encode())
            assert "127.0.0.1 broke off, or answered what is no HTTP" == made.failed[0]


def test_headers_of_an_answer_are_made_anew(tmp_path: Path) -> None:
    """A chunked answer comes without its chunks' frames, and hop-by-hop headers stay behind."""
    listener = socket.create_server(("127.0.0.1", 0))

    def one() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(65536)
            client.sendall(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=5\r\nX-A: b\r\n\r\n"
                b"5\r\nhello\r\n0\r\n\r\n"
            )

    thread = threading.Thread(target=one)
    thread.start()
    port = listener.getsockname()[1]
    with relay(tmp_path, Reach(frozenset(), frozenset({("127.0.0.1", port)}), frozenset({"127.0.0.1"}))) as made:
        got = answer(made, f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n".encode())
    thread.join()
    listener.close()
    assert b"HTTP/1.1 200 OK\r\nX-A: b\r\nConnection: close\r\n\r\nhello" == got
    assert http.client.responses[200] == "OK"
