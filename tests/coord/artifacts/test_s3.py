"""Artifacts in a bucket: against a server that behaves, and one that does not; no credentials anywhere of ours."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from typing import Any

import pytest

from ghcoord.config import ArtifactSettings
from ghcoord.coord.artifacts import s3
from ghcoord.coord.layout import FILES
from ghcoord.errors import Corrupt, Denied, NotFound, Throttled, TooLarge, Unavailable, UsageError
from ghcoord.hub import Hub
from tests.coord.world import World

KEY = "AKIATESTTESTTESTTEST"
SECRET = "not-a-secret-but-looked-for"


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only boto3's own place has them, and nothing asks this machine for others."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A bucket called ``bucket`` at a server on this machine."""
    server = pytest.importorskip("moto.server", reason="moto, of the extra test, is not installed")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    url = "http://{}:{}".format(*running.get_host_and_port())
    client(url).create_bucket(Bucket="bucket")
    yield url
    running.stop()


def client(url: str) -> Any:
    return import_module("boto3").client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y"
    )


def in_bucket(world: World, url: str, bucket: str = "bucket", actor: str = "me") -> Hub:
    return world.open(
        actor, artifacts=ArtifactSettings(where="s3", bucket=bucket, endpoint=url, region="us-east-1", prefix="hub/")
    )


def keys(url: str) -> list[str]:
    return [one["Key"] for one in client(url).list_objects_v2(Bucket="bucket").get("Contents", [])]


@pytest.mark.slow
def test_a_bucket_holds_the_contents(world: World, endpoint: str) -> None:
    """Small at once, large in parts; the hub has records only; deleting removes the object."""
    hub = in_bucket(world, endpoint)
    for size in (0, 10, s3.PART * 2 + 1):
        data = os.urandom(size)
        made = hub.artifacts.put("x.bin", data)
        assert "s3" == made.where
        assert data == b"".join(in_bucket(world, endpoint, actor="other").artifacts.open(made.id))
        (key,) = keys(endpoint)
        assert key.startswith("hub/")
        assert key.endswith(made.id)
        assert hub.artifacts.delete(made.id)
        assert [] == keys(endpoint)
    assert not any("/data/" in path for path in world.files(FILES))


@pytest.mark.slow
def test_what_is_over_leaves_the_bucket(world: World, endpoint: str) -> None:
    """Cleaning removes object and record."""
    hub = in_bucket(world, endpoint)
    hub.artifacts.put("x", b"1", retention=5)
    world.runtime.advance(10)
    assert 1 == hub.artifacts.clean()
    assert [] == keys(endpoint)


@pytest.mark.slow
def test_another_object_is_no_content(world: World, endpoint: str) -> None:
    """What somebody put in its place is told, and what is gone."""
    hub = in_bucket(world, endpoint)
    made = hub.artifacts.put("x", b"true")
    (key,) = keys(endpoint)
    client(endpoint).put_object(Bucket="bucket", Key=key, Body=b"false")
    with pytest.raises(Corrupt):
        list(hub.artifacts.open(made.id))
    client(endpoint).delete_object(Bucket="bucket", Key=key)
    with pytest.raises(NotFound):
        hub.artifacts.open(made.id)
    assert hub.artifacts.delete(made.id)


@pytest.mark.slow
def test_credentials_are_nowhere(world: World, endpoint: str) -> None:
    """Neither in the hub's files nor in settings nor in what objects show of themselves."""
    hub = in_bucket(world, endpoint)
    made = hub.artifacts.put("x", b"1")
    everything = b"".join(data for space in hub.heads() for data in world.files(space).values())
    shown = repr((hub.settings, made, vars(hub.artifacts))).encode()
    for secret in (SECRET.encode(), KEY.encode()):
        assert secret not in everything + shown
    hub.artifacts.delete(made.id)


@pytest.mark.slow
def test_no_bucket_no_server(world: World, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is one error of ours, and leaves no record."""
    with pytest.raises(NotFound, match="'no-bucket' does not exist"):
        in_bucket(world, endpoint, "no-bucket").artifacts.put("x", b"1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(Unavailable, match="EndpointConnectionError"):
            in_bucket(world, dead).artifacts.put("x", b"1")
    with pytest.raises(UsageError, match="cannot be reached with these settings"):
        in_bucket(world, "no url").artifacts.put("x", b"1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(Denied, match="no credentials"):
        in_bucket(world, endpoint).artifacts.put("x", b"1")
    assert FILES not in world.store().heads()


Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """A server that answers everything so."""

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer(self)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any

        def log_message(self, *_: object) -> None: ...

    running = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


def error(status: int, code: str = "", body: bytes | None = None) -> Answer:
    content = body if body is not None else f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def cut(handler: BaseHTTPRequestHandler) -> None:
    """Promises more than it sends."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"half")
    handler.close_connection = True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (error(403, "SignatureDoesNotMatch"), Denied),
        (error(503, "SlowDown"), Throttled),
        (error(200, body=b"wrong"), Corrupt),
        (cut, Unavailable),
    ],
)
def test_answers_become_our_errors(
    world: World, answer: Answer, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the server says, and at whatever point."""
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    made = world.open().artifacts.put("x", b"right")
    with answering(answer) as url:
        hub = in_bucket(world, url)
        record = made.model_copy(update={"where": "s3"})
        monkeypatch.setattr(hub.artifacts, "get", lambda artifact_id: record)
        with pytest.raises(expected):
            list(hub.artifacts.open(made.id))


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("AccessDenied", 403, Denied),
        ("InvalidAccessKeyId", 403, Denied),
        ("", 401, Denied),
        ("NoSuchBucket", 404, NotFound),
        ("NoSuchKey", 404, NotFound),
        ("TooManyRequests", 429, Throttled),
        ("", 503, Throttled),
        ("InternalError", 500, Unavailable),
        ("EntityTooLarge", 400, TooLarge),
    ],
)
def test_refusals_become_our_errors(world: World, code: str, status: int, expected: type[Exception]) -> None:
    """By their code, else by their status."""
    exceptions = pytest.importorskip("botocore.exceptions", reason="the extra s3 is not installed")
    refusal = exceptions.ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject"
    )
    mapped = s3.S3(ArtifactSettings(bucket="b"), world.runtime)._mapped(refusal)
    assert expected is type(mapped)
    assert "'b'" in mapped.message


def test_without_boto3_the_fix_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra."""
    monkeypatch.setitem(sys.modules, "boto3.session", None)
    with pytest.raises(UsageError, match=r"ghcoord\[s3\]"):
        in_bucket(world, "http://127.0.0.1:1").artifacts.put("x", b"1")


@pytest.mark.slow
def test_boto3_is_imported_only_where_it_is_needed() -> None:
    """Not by a hub whose artifacts lie elsewhere."""
    code = "import ghcoord, sys; ghcoord.connect('memory:').artifacts.put('x', b'1'); print('boto3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "False\n" == done.stdout
