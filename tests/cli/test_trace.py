"""OpenTelemetry's variables on the command line: what they switch on, and what is said of bad ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ghcoord.bootstrap import connect
from ghcoord.hub import Hub
from tests.cli.running import Cli, spawn
from tests.test_tracing import GOOD, TRACE

WORK = ("worker", "start", "--until-idle", "200ms", "--poll", "50ms", "--sandbox", "none", "--unsafe-no-sandbox")


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """An OTLP collector: its address, and what it was sent."""
    got: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.path.encode() + b" " + self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_unknown_exporter_is_a_mistake(hub: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is started; when tracing is switched off it does not matter."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    done = cli(*WORK)
    assert (2, "OTEL_TRACES_EXPORTER is 'zipkin': one of otlp, console, none") == (done.code, done.error)


@pytest.mark.slow
@pytest.mark.parametrize(("off", "spans"), [("", 2), ("true", 0)])
def test_a_worker_sends_the_spans_of_its_tasks(
    hub: Path, collector: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch, off: str, spans: int
) -> None:
    """By OTLP, in the submitter's trace, without what is in the task, at the latest when it ends."""
    url, got = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_SDK_DISABLED", off)
    with connect(hub) as opened:
        for _ in range(2):
            opened.tasks.submit("echo", {"message": "private"}, trace=GOOD)
    done = spawn("--hub", hub, *WORK)
    assert 0 == done.code, done.err
    sent = b"".join(got)
    assert spans == sent.count(b"task echo") == sent.count(bytes.fromhex(TRACE))
    assert b"private" not in sent
    assert spans == 0 or all(one.startswith(b"/v1/traces ") for one in got)


@pytest.mark.slow
def test_a_call_of_a_session_goes_on_with_the_trace(
    cli: Cli, living: Hub, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command of 'session exec' finds the trace that this process is part of."""
    monkeypatch.setenv("TRACEPARENT", GOOD)
    assert f"{GOOD}\n" == cli("session", "exec", session, "--", "printenv", "TRACEPARENT").out
