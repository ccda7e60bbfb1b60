"""The transport sends each request once, counts it, judges the answer, knows the server's time, hides the token."""

from __future__ import annotations

import contextlib
import http.server
import json
import logging
import socket
import stat
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import responses

from ghcoord.clock import SystemRuntime
from ghcoord.errors import Denied, GhcoordError, NotFound, OutcomeUnknown, Throttled, Unavailable, Unsupported
from ghcoord.store.github.api import GraphQLRefused, Repo
from ghcoord.store.github.credentials import TokenCredentials
from ghcoord.store.github.servertime import ServerClock
from ghcoord.store.github.transport import GithubApi
from ghcoord.store.github.url import parse_github_url
from ghcoord.testing.clock import ManualRuntime
from tests.store.github.asking import BASE, FROM_GITHUB, TOKEN, Notes, api

LOCATION = "https://api.github.com"


@pytest.fixture
def github() -> Iterator[responses.RequestsMock]:
    """GitHub, answering what a test tells it to."""
    with responses.RequestsMock() as mock:
        yield mock


def test_an_answer_and_its_note(github: responses.RequestsMock) -> None:
    """Status, lower-case headers and body come through; the budget is asked before and told after."""
    github.get(f"{BASE}/repos/me/hub?a=1", json={"id": 5}, headers={"ETag": '"x"', **FROM_GITHUB})
    notes = Notes()
    answer = api(notes=notes).rest("GET", "/repos/me/hub?a=1", kind="poll", headers={"If-None-Match": '"y"'})
    assert (200, {"id": 5}, '"x"') == (answer.status, answer.body, answer.headers["etag"])
    assert [("admit", "poll"), ("note", 200, "core")] == notes.told
    sent = github.calls[0].request
    assert f"Bearer {TOKEN}" == sent.headers["Authorization"]
    assert '"y"' == sent.headers["If-None-Match"]
    assert "2022-11-28" == sent.headers["X-GitHub-Api-Version"]
    assert "application/vnd.github+json" == sent.headers["Accept"]


def test_what_is_expected_is_returned(github: responses.RequestsMock) -> None:
    """Statuses of ``expect``, 304 among them, are answers."""
    github.get(f"{BASE}/x", status=304)
    github.patch(f"{BASE}/x", status=422, json={"message": "Update is not a fast forward"})
    access = api()
    assert (304, None) == (lambda a: (a.status, a.body))(access.rest("GET", "/x", expect=(304,)))
    assert "Update is not a fast forward" == access.rest("PATCH", "/x", {}, kind="write", expect=(422,)).body["message"]


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 409, 422, 403, 429, 202, 301, 302])
def test_nothing_is_sent_twice(github: responses.RequestsMock, status: int) -> None:
    """Whatever the answer to a write is, there was one request."""
    github.post(f"{BASE}/repos/me/hub/git/refs", status=status, json={"message": "?"}, headers=FROM_GITHUB)
    with contextlib.suppress(GhcoordError):
        api().rest("POST", "/repos/me/hub/git/refs", {"ref": "x"}, kind="write")
    assert 1 == len(github.calls)


def test_a_202_to_a_read_is_an_answer(github: responses.RequestsMock) -> None:
    """PyGithub would sleep and ask again; this does not."""
    github.get(f"{BASE}/x", status=202)
    assert 202 == api().rest("GET", "/x").status
    assert 1 == len(github.calls)


@pytest.mark.parametrize(
    ("failure", "kind", "error"),
    [
        (requests.exceptions.ReadTimeout(), "write", OutcomeUnknown),
        (requests.exceptions.ReadTimeout(), "read", Unavailable),
        (requests.exceptions.ConnectionError(ConnectionResetError()), "write", OutcomeUnknown),
        (requests.exceptions.ConnectTimeout(), "write", Unavailable),
        (RuntimeError("secret"), "write", OutcomeUnknown),
    ],
)
def test_failures_become_our_errors(
    github: responses.RequestsMock, failure: Exception, kind: str, error: type[GhcoordError]
) -> None:
    """An exception on the way is ours when it comes out, and nothing of the foreign one hangs on it."""
    github.post(f"{BASE}/x", body=failure)
    with pytest.raises(error) as raised:
        api().rest("POST", "/x", {}, kind=kind)  # type: ignore[arg-type]
    assert (None, None) == (raised.value.__cause__, raised.value.__context__)
    assert 1 == len(github.calls)


@pytest.mark.parametrize("body", [b"", b'{"sha": "12', b"<html>", b"\xff\xfe{", b"[" * 100_000])
def test_cut_off_answers(github: responses.RequestsMock, body: bytes) -> None:
    """A success without its JSON leaves a write's outcome open, and a read may be tried again."""
    github.post(f"{BASE}/x", body=body, status=201, content_type="application/json")
    github.get(f"{BASE}/x", body=body, content_type="application/json")
    with pytest.raises(OutcomeUnknown):
        api().rest("POST", "/x", {}, kind="write")
    with pytest.raises(Unavailable):
        api().rest("GET", "/x")


def test_other_media_types_come_as_bytes(github: responses.RequestsMock) -> None:
    """Where something else than JSON was asked for it is not parsed."""
    github.get(f"{BASE}/x", body=b"1" * 40, content_type="application/vnd.github.sha")
    assert b"1" * 40 == api().rest("GET", "/x", headers={"Accept": "application/vnd.github.sha"}).body


def test_a_read_follows_a_renamed_repository(github: responses.RequestsMock) -> None:
    """GET goes on where the redirect leads, with its query, at the same API."""
    github.get(f"{BASE}/repos/me/hub/x", status=301, headers={"Location": f"{LOCATION}/repositories/7/x?page=2"})
    github.get(f"{BASE}/repositories/7/x?page=2", json=[1])
    notes = Notes()
    assert [1] == api(notes=notes).rest("GET", "/repos/me/hub/x").body
    assert 2 == notes.told.count(("admit", "read"))


def test_a_write_says_what_the_repository_is_called_now(github: responses.RequestsMock) -> None:
    """A write is not sent on: the error names the new name."""
    github.post(
        f"{BASE}/repos/me/hub/git/refs", status=307, headers={"Location": f"{LOCATION}/repositories/7/git/refs"}
    )
    github.get(f"{BASE}/repositories/7", json={"full_name": "you/hub2"})
    with pytest.raises(Denied, match=r"github:me/hub was renamed to you/hub2: use --hub github:you/hub2"):
        api().rest("POST", "/repos/me/hub/git/refs", {}, kind="write")


@pytest.mark.parametrize("target", ["https://evil.example/repos/x", "http://api.github.com/x", "", "/relative"])
def test_the_token_goes_to_no_other_host(github: responses.RequestsMock, target: str) -> None:
    """A redirect to elsewhere is refused."""
    github.get(f"{BASE}/x", status=302, headers={"Location": target})
    with pytest.raises(Denied, match="GHCOORD_GITHUB_API"):
        api().rest("GET", "/x")
    assert 1 == len(github.calls)


def test_redirects_end(github: responses.RequestsMock) -> None:
    """A circle of redirects is an error after a few."""
    github.get(f"{BASE}/x", status=301, headers={"Location": f"{LOCATION}/x"})
    with pytest.raises(Denied, match="moved"):
        api().rest("GET", "/x")
    assert 4 == len(github.calls)


def test_graphql(github: responses.RequestsMock) -> None:
    """A query's data, its errors for the caller, and a server without it."""
    github.post(f"{BASE}/graphql", json={"data": {"viewer": {"login": "me"}}})
    github.post(f"{BASE}/graphql", json={"data": None, "errors": [{"type": "STALE_DATA", "message": "old"}]})
    github.post(f"{BASE}/graphql", status=404, json={"message": "Not Found"})
    notes = Notes()
    access = api(notes=notes)
    assert {"viewer": {"login": "me"}} == access.graphql("query{viewer{login}}", {"a": 1})
    assert {"query": "query{viewer{login}}", "variables": {"a": 1}} == json.loads(github.calls[0].request.body or "")
    assert [("admit", "read"), ("note", 200, "graphql")] == notes.told
    with pytest.raises(GraphQLRefused):
        access.graphql("mutation{x}", kind="write")
    with pytest.raises(Unsupported):
        access.graphql("mutation{x}", kind="write")


def test_a_limit_stops_the_budget(github: responses.RequestsMock) -> None:
    """Where the headers say nothing the budget is told until when, longer each time."""
    github.post(f"{BASE}/graphql", json={"errors": [{"type": "RATE_LIMITED", "message": "x"}]})
    github.get(f"{BASE}/x", status=403, json={"message": "You have exceeded a secondary rate limit"})
    notes, clock = Notes(), ManualRuntime()
    access = api(notes=notes, runtime=clock)
    for ask in (lambda: access.graphql("{x}"), lambda: access.rest("GET", "/x")):
        with pytest.raises(Throttled):
            ask()
    assert [60, 120] == [float(str(one[1])) - clock.now() for one in notes.told if one[0] == "block"]


class Rotating:
    """Credentials whose first token is not accepted any more."""

    def __init__(self) -> None:
        self.tokens = ["old", "new"]

    def token(self) -> str:
        return self.tokens[0]

    def identity(self) -> str:
        return "app:1:2"

    def refresh(self) -> bool:
        del self.tokens[:-1]
        return True


def test_a_token_that_was_replaced_is_tried_once(github: responses.RequestsMock) -> None:
    """After a 401 the new token is sent, once."""
    github.get(f"{BASE}/x", status=401, json={"message": "Bad credentials"}, headers=FROM_GITHUB)
    github.get(f"{BASE}/x", json={})
    api(credentials=Rotating()).rest("GET", "/x")
    assert ["Bearer old", "Bearer new"] == [call.request.headers["Authorization"] for call in github.calls]


def test_a_token_that_another_thread_replaced_is_used(github: responses.RequestsMock) -> None:
    """A 401 to the old token is no reason to replace the new one."""
    credentials = Rotating()

    def answer(request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        credentials.tokens = ["new"]
        credentials.refresh = lambda: False  # type: ignore[method-assign]
        return (401, FROM_GITHUB, "{}") if "old" in str(request.headers["Authorization"]) else (200, {}, "{}")

    github.add_callback("GET", f"{BASE}/x", answer)
    assert 200 == api(credentials=credentials).rest("GET", "/x").status


def test_a_wrong_token_is_not_tried_again(github: responses.RequestsMock) -> None:
    """Without another token a 401 is final."""
    github.get(f"{BASE}/x", status=401, json={"message": "Bad credentials"}, headers=FROM_GITHUB)
    with pytest.raises(Denied, match="GH_TOKEN"):
        api().rest("GET", "/x")
    assert 1 == len(github.calls)


def test_who_it_is_is_asked_once_and_remembered(github: responses.RequestsMock, tmp_path: Path) -> None:
    """The login is kept for other processes by a fingerprint; the file is private and has no token."""
    github.post(f"{BASE}/graphql", json={"data": {"viewer": {"login": "octo"}}})
    file = tmp_path / "new" / "accounts.json"
    notes = Notes()
    first = api(accounts=file, notes=notes)
    assert ["octo", "octo"] == [first.login(), first.login()]
    assert "github.com/octo" == notes.account
    later = Notes()
    assert "octo" == api(accounts=file, notes=later).login()
    assert "github.com/octo" == later.account
    assert 1 == len(github.calls)
    assert TOKEN not in file.read_text()
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    other = api(accounts=file, credentials=TokenCredentials("another", "x"))
    other.note_login("else")
    assert ("octo", "else") == (api(accounts=file).login(), other.login())


def test_a_broken_accounts_file_costs_a_request(github: responses.RequestsMock, tmp_path: Path) -> None:
    """What is in the file is not trusted; without GraphQL the REST API tells the login."""
    github.post(f"{BASE}/graphql", status=404, json={"message": "Not Found"})
    github.get(f"{BASE}/user", json={"login": "octo"})
    for text in ("{", "[]", '{"github.com x": 5}', "\x00"):
        (tmp_path / "a.json").write_text(text)
        assert "octo" == api(accounts=tmp_path / "a.json").login()


@pytest.mark.parametrize("user", [None, 5, [], {}, {"login": None}, {"login": "a\n\x1b[2J"}, {"login": ""}])
def test_a_login_that_is_none(github: responses.RequestsMock, user: object) -> None:
    """It gets into file names, records and tables: what is no login is none."""
    github.post(f"{BASE}/graphql", json={"data": {"viewer": user}})
    access = api()
    with pytest.raises(Unavailable):
        access.login()


def test_the_date_of_a_proxy_is_not_the_servers(github: responses.RequestsMock) -> None:
    """Who is between, and answers itself, has another clock; by ours leases are judged."""
    github.get(f"{BASE}/a", json={}, headers={"Date": "Fri, 15 Jan 2027 08:00:00 GMT"})
    github.get(f"{BASE}/b", status=502, body="<html>", headers={"Date": "Fri, 15 Jan 2027 11:00:00 GMT"})
    access = api(runtime=ManualRuntime())
    access.rest("GET", "/a")
    with pytest.raises(Unavailable):
        access.rest("GET", "/b")
    assert 1_800_000_000.5 == pytest.approx(access.server_time(), abs=0.01)


def test_the_servers_time_comes_from_its_answers(github: responses.RequestsMock) -> None:
    """It is the Date plus half a second, goes on by the monotonic clock, and costs one request when none was made."""
    github.get(f"{BASE}/rate_limit", json={}, headers={"Date": "Fri, 15 Jan 2027 08:00:00 GMT"})
    clock = ManualRuntime()
    access = api(runtime=clock)
    assert 1_800_000_000.5 == pytest.approx(access.server_time(), abs=0.01)
    clock.sleep(100)
    assert 1_800_000_100.5 == pytest.approx(access.server_time(), abs=0.01)
    assert 1 == len(github.calls)


def test_a_server_without_a_date(github: responses.RequestsMock) -> None:
    """This machine's clock stands in, and it is asked once only."""
    github.get(f"{BASE}/rate_limit", json={})
    clock = ManualRuntime()
    access = api(runtime=clock)
    assert [clock.now()] * 2 == [access.server_time(), access.server_time()]
    assert 1 == len(github.calls)


def test_one_slow_answer_does_not_move_the_clock() -> None:
    """Answers narrow the difference down; one that took 40 s changes nothing."""
    clock = ServerClock()
    for asked in (0.0, 1.3, 2.6, 3.9, 5.2):  # the server is at 1000.25 when we are at 0
        clock.hear(int(1000.25 + asked + 0.05), asked, asked + 0.1)
    assert 1000.25 == pytest.approx(clock.offset(), abs=0.3)
    before = clock.offset()
    clock.hear(1010, 10.0, 50.0)
    assert before == clock.offset()


def test_a_servers_clock_that_was_set_is_followed() -> None:
    """When its clock jumps by more than a minute the older answers are forgotten."""
    clock = ServerClock()
    for second in range(20):
        clock.hear(1000 + second, second, second + 0.01)
    clock.hear(9000, 20, 20.01)
    assert 8980.5 == pytest.approx(clock.offset(), abs=0.1)


# -- over real sockets


class Peer:
    """A server on this machine that does one thing to every request."""

    def __init__(self, act: Callable[[http.server.BaseHTTPRequestHandler, bytes], None]) -> None:
        peer = self
        self.seen: list[tuple[str, int]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                peer.seen.append((self.command, self.client_address[1]))
                act(self, body)

            do_GET = do_POST = do_PATCH = handle_any

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)

    @property
    def repo(self) -> Repo:
        return parse_github_url(f"github://127.0.0.1:{self.server.server_port}/me/hub", None)

    def __enter__(self) -> Peer:
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def well(handler: http.server.BaseHTTPRequestHandler, body: bytes = b"", text: bytes = b"{}") -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(text)))
    handler.end_headers()
    handler.wfile.write(text)


def reset(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.connection.close()
    handler.close_connection = True


def cut(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b'{"a": 1')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def hang(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
    threading.Event().wait(1.5)
    handler.close_connection = True


@pytest.mark.parametrize("act", [reset, cut, hang])
def test_broken_connections(act: Callable[[http.server.BaseHTTPRequestHandler, bytes], None]) -> None:
    """A reset, a cut and a silent server leave a write open, fail a read, and nothing is sent again."""
    with Peer(act) as peer:
        access = GithubApi(peer.repo, TokenCredentials(TOKEN, "x"), Notes(), SystemRuntime(), timeout=0.3)
        with pytest.raises(OutcomeUnknown):
            access.rest("POST", "/x", {}, kind="write")
        with pytest.raises(Unavailable):
            access.rest("GET", "/x")
        assert 2 == len(peer.seen)
        access.close()


def test_connections_are_kept_and_not_shared() -> None:
    """Requests one after the other use one connection, those of threads one each, and answers are not mixed up."""

    def echo(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        threading.Event().wait(0.02)
        well(handler, text=json.dumps({"path": handler.path}).encode())

    with Peer(echo) as peer:
        access = GithubApi(peer.repo, TokenCredentials(TOKEN, "x"), Notes(), SystemRuntime())
        for _ in range(5):
            access.rest("GET", "/x")
        assert 1 == len({port for _, port in peer.seen})
        wrong: list[str] = []

        def ask(name: str) -> None:
            for number in range(5):
                path = f"/{name}/{number}"
                if access.rest("GET", path).body != {"path": f"/api/v3{path}"}:
                    wrong.append(path)

        threads = [threading.Thread(target=ask, args=(str(name),)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [] == wrong
        assert len({port for _, port in peer.seen}) <= 8
        access.close()


def test_nobody_there() -> None:
    """A closed port and an unknown host are told in one line, and nothing is open."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = parse_github_url(f"github://127.0.0.1:{free.getsockname()[1]}/me/hub", None)
        for repo, words in (
            (closed, "cannot be reached \\(connection refused\\)"),
            (
                parse_github_url("github://no-such-host.invalid/me/hub", None),
                "there is no host no-such-host.invalid: check",
            ),
        ):
            access = GithubApi(repo, TokenCredentials(TOKEN, "x"), Notes(), SystemRuntime())
            with pytest.raises(Unavailable, match=words):
                access.rest("POST", "/x", {}, kind="write")


# -- the token


def test_the_token_is_shown_nowhere(github: responses.RequestsMock, caplog: pytest.LogCaptureFixture) -> None:
    """Neither logs at their most talkative, nor reprs, nor errors with their tracebacks and variables have it."""
    for name in ("", "github", "github.Requester", "urllib3", "requests"):
        caplog.set_level(logging.DEBUG, logger=name)
    github.get(f"{BASE}/x", status=403, json={"message": "no"}, headers=FROM_GITHUB)
    github.get(f"{BASE}/y", body=requests.exceptions.InvalidHeader(f"Bearer {TOKEN}"))
    access = api()
    texts = [repr(access), repr(access.credentials), str(access.credentials)]
    for path in ("/x", "/y"):
        try:
            access.rest("GET", path)
        except Denied as error:
            shown = traceback.TracebackException.from_exception(error, capture_locals=True)
            texts += ["".join(shown.format()), repr(error), str(vars(error))]
    assert 5 < len(texts)
    assert "GET https://api.github.com/x" in caplog.text
    assert TOKEN not in "".join(texts) + caplog.text


def test_a_missing_thing(github: responses.RequestsMock) -> None:
    """404 is NotFound."""
    github.get(f"{BASE}/x", status=404, json={"message": "Not Found"}, headers=FROM_GITHUB)
    with pytest.raises(NotFound):
        api().rest("GET", "/x")
