"""The remote driver over HTTP, with the real ``git http-backend`` and a password: both contracts, requests, faults."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import Denied, NotFound, OutcomeUnknown, Throttled, TooLarge, Unavailable, Unsupported
from ghcoord.store.base import Operation, Store
from ghcoord.store.transact import Transactor
from ghcoord.testing.contract import HubUnderTest, StoreContract
from ghcoord.testing.rewrite_contract import RewriteContract
from ghcoord.testing.transact_contract import TransactContract, increment, value_of
from tests.processes import needs_program, until
from tests.store.gitrepo import git
from tests.store.remote.httpd import PASSWORD, USER, GitServer, Handler, helper, served
from tests.store.remote.hubs import make_bare, open_remote, under_test

ROOT = Path(__file__).resolve().parents[3]
SLOW = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    """A server with one empty repository, hub.git, that may be pushed to."""
    make_bare(tmp_path / "srv" / "hub.git", "http.receivepack=true")
    with served(tmp_path / "srv") as server:
        yield server


@pytest.fixture
def hub(server: GitServer, tmp_path: Path) -> HubUnderTest:
    path, url = server.root / "hub.git", f"{server.url}/hub.git"
    return under_test(path, url, tmp_path / "cache", environment=helper())


@SLOW
class TestHttp(StoreContract, TransactContract):
    """Both contracts."""


@SLOW
class TestCollecting(RewriteContract):
    """The contract of collecting where history is written again."""


def test_requests(server: GitServer, hub: HubUnderTest) -> None:
    """An idle poll is two requests, one that brings something three, a commit two; git's 401 comes on top of each."""
    one, two = hub.open(), hub.open()
    hub.put(one, "fleet", {"a": b"1"})

    def counted() -> list[str]:
        seen = [f"{method} {status}" for method, _, status in server.log]
        server.log.clear()
        return seen

    counted()
    two.heads()
    assert ["GET 401", "GET 200", "POST 200", "POST 200"] == counted()
    two.heads()
    assert ["GET 401", "GET 200", "POST 200"] == counted()
    one.commit({"locks": None}, {"locks": {"a": b"1"}}, hub.op())
    assert ["GET 401", "GET 200", "POST 200"] == counted()


def test_the_servers_clock(server: GitServer, hub: HubUnderTest) -> None:
    """It is read from answers that came anyway, an hour ahead as here or not, and asked for once where none came."""
    server.ahead = 3600
    store = hub.open()
    assert store.capabilities.server_time
    assert abs(store.server_time() - time.time() - 3600) < store.capabilities.clock_margin
    server.log.clear()
    store.server_time()
    assert [] == server.log


# -- credentials


@SLOW
def test_a_wrong_password(server: GitServer, tmp_path: Path) -> None:
    """It is denied, with the fix, once and without a question."""
    store = open_remote(f"{server.url}/hub.git", tmp_path / "cache", environment=helper("wrong"))
    with pytest.raises(Denied, match="credential helper"):
        store.heads()
    with pytest.raises(Denied, match="credential helper"):
        store.commit({"fleet": None}, {"fleet": {"a": b"1"}}, Operation(("x",), 1, 1))


@SLOW
def test_no_password(server: GitServer, tmp_path: Path) -> None:
    """Without credentials git would ask; here it is denied, even where a terminal or an askpass program is at hand."""
    asked = tmp_path / "asked"
    askpass = tmp_path / "askpass"
    askpass.write_text(f"#!/bin/sh\ntouch {asked}\necho secret\n")
    askpass.chmod(0o755)
    environment = {"SSH_ASKPASS": str(askpass), "DISPLAY": ":0"}
    store = open_remote(f"{server.url}/hub.git", tmp_path / "cache", environment=environment)
    with pytest.raises(Denied, match="credential"):
        store.heads()
    assert not asked.exists()


@SLOW
@pytest.mark.parametrize(
    "given",
    [
        {"GHCOORD_GITHUB_API": "{url}/api/v3", "GH_TOKEN": PASSWORD},
        {"GITHUB_SERVER_URL": "{url}", "GITHUB_TOKEN": PASSWORD},
        {"GH_HOST": "{host}", "GH_ENTERPRISE_TOKEN": PASSWORD},
    ],
)
def test_a_token_of_the_environment(server: GitServer, tmp_path: Path, given: dict[str, str]) -> None:
    """It is used for the host that it is meant for, and no helper of the user's gets to store it."""
    environment = {name: value.format(url=server.url, host=server.host) for name, value in given.items()}
    hub = under_test(server.root / "hub.git", f"{server.url}/hub.git", tmp_path / "cache", environment=environment)
    head = hub.put(hub.open(), "fleet", {"a": b"1"})
    assert {"fleet": head} == hub.open().heads()


@SLOW
@pytest.mark.parametrize("name", ["GH_TOKEN", "GITHUB_TOKEN", "GH_ENTERPRISE_TOKEN"])
def test_a_token_for_another_host(server: GitServer, tmp_path: Path, name: str) -> None:
    """A token for GitHub is not given to any other server."""
    store = open_remote(f"{server.url}/hub.git", tmp_path / "cache", environment={name: PASSWORD})
    with pytest.raises(Denied):
        store.heads()


@SLOW
def test_the_users_helper_comes_first(server: GitServer, tmp_path: Path) -> None:
    """Where a helper is set up, the token of the environment is left alone: the helper would store it."""
    environment = {**helper(), "GHCOORD_GITHUB_API": f"{server.url}/api/v3", "GH_TOKEN": "wrong"}
    assert {} == open_remote(f"{server.url}/hub.git", tmp_path / "cache", environment=environment).heads()


def test_a_token_is_in_no_command_line(server: GitServer, tmp_path: Path) -> None:
    """Nor on disk: seen are all programs that are started, and all files below the cache."""
    needs_program("strace")
    trace = tmp_path / "trace"
    environment = {"GHCOORD_GITHUB_API": f"{server.url}/api/v3", "GH_TOKEN": PASSWORD}
    code = (
        "import os, sys; from pathlib import Path\n"
        "from tests.store.remote.hubs import under_test\n"
        f"hub = under_test(Path('x'), {server.url + '/hub.git'!r}, Path({str(tmp_path / 'cache')!r}), "
        "environment={n: os.environ[n] for n in ('GH_TOKEN', 'GHCOORD_GITHUB_API')})\n"
        "store = hub.open(); hub.put(store, 'fleet', {'a': b'1'}); print(store.server_time(), store.heads())"
    )
    done = subprocess.run(
        ["strace", "-f", "-qq", "-s", "100000", "-e", "trace=execve,write", "-o", trace, sys.executable, "-c", code],
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    lines = trace.read_text().splitlines()
    started = [line for line in lines if "execve(" in line]
    assert [line for line in started if '"push"' in line]
    assert [line for line in started if "credential" in line or "x-access-token" in line]
    encoded = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    for secret in (PASSWORD, encoded):
        assert [] == [line for line in started if secret in line]
        assert secret not in done.stdout + done.stderr
        for file in (tmp_path / "cache").rglob("*"):
            assert not file.is_file() or secret.encode() not in file.read_bytes()


# -- faults


def commit(store: Store, space: str = "fleet", head: str | None = None) -> str:
    return store.commit({space: head}, {space: {"a": b"1"}}, Operation(("one",), 1, 1_700_000_000))[space]


def status(number: int, headers: dict[str, str] | None = None) -> Callable[[Handler], bool]:
    """Answers with that status."""

    def fault(handler: Handler) -> bool:
        handler.answer(number, headers or {}, b"no")
        return True

    return fault


@pytest.mark.parametrize("fault", [Handler.hang_up, pytest.param(status(500), marks=SLOW)])
def test_a_reply_lost_after_the_effect(server: GitServer, hub: HubUnderTest, fault: Callable[[Handler], bool]) -> None:
    """A look shows one's own commit at the head: done."""
    store = hub.open()
    server.after.append(("/git-receive-pack", fault))
    made = commit(store)
    assert {"fleet": made} == store.heads()


@SLOW
@pytest.mark.parametrize("fault", [Handler.hang_up, status(500), status(503)])
def test_a_request_lost_before_the_effect(
    server: GitServer, hub: HubUnderTest, fault: Callable[[Handler], bool]
) -> None:
    """It may still land, for all anybody knows: unknown. Libcurl alone sends again, when a kept connection breaks."""
    store = hub.open()
    times = 2 if fault is Handler.hang_up else 1
    server.before += [("/git-receive-pack", fault)] * times
    with pytest.raises(OutcomeUnknown):
        commit(store)
    assert times == sum(path.endswith("/git-receive-pack") and method == "POST" for method, path, _ in server.log)
    assert {} == store.heads()


@SLOW
def test_a_reply_lost_while_others_go_on(server: GitServer, hub: HubUnderTest) -> None:
    """When somebody has built on one's commit already it counts as a conflict, and ``transact`` finds it: once."""
    store, other = hub.open(), hub.open()

    def fault(handler: Handler) -> bool:
        Transactor(other, SystemRuntime()).transact(["fleet"], increment)
        return handler.hang_up()

    server.after.append(("/git-receive-pack", fault))
    assert 1 == Transactor(store, SystemRuntime()).transact(["fleet"], increment)
    assert 2 == value_of(hub.open())


@SLOW
@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [(403, Denied, "refs/heads/ghcoord/"), (404, NotFound, "ghcoord init"), (413, TooLarge, "size")],
)
def test_a_push_refused_by_status(
    server: GitServer, hub: HubUnderTest, number: int, kind: type[Exception], said: str
) -> None:
    """A status of 4xx is a refusal: nothing was done, and the sentence names the fix."""
    store = hub.open()
    server.before.append(("/git-receive-pack", status(number)))
    with pytest.raises(kind, match=said):
        commit(store)


@SLOW
@pytest.mark.parametrize(
    ("number", "kind"), [(403, Denied), (404, NotFound), (500, Unavailable), (503, Unavailable), (429, Throttled)]
)
def test_a_listing_refused_by_status(server: GitServer, hub: HubUnderTest, number: int, kind: type[Exception]) -> None:
    """Each status is an error of ours."""
    server.before.append(("/info/refs", status(number)))
    with pytest.raises(kind):
        hub.open().heads()


@SLOW
def test_a_server_that_hangs(server: GitServer, tmp_path: Path) -> None:
    """A call that takes too long is ended with all its children: a push is unknown then, a listing unavailable."""
    environment = helper()
    store = open_remote(f"{server.url}/hub.git", tmp_path / "cache", environment=environment, timeout=0.7)
    release = threading.Event()

    def hang(handler: Handler) -> bool:
        release.wait(20)
        return handler.hang_up()

    server.before += [("/git-receive-pack", hang), ("/git-upload-pack", hang)]
    with pytest.raises(OutcomeUnknown, match="before the server answered"):
        commit(store)
    store._mirror.record({"fleet": "1" * 40}, all_of_them=True)  # not the first fetch, which may take longer
    with pytest.raises(Unavailable, match="did not answer in time"):
        store.heads()
    release.set()
    until(lambda: not [line for line in running() if str(tmp_path) in line or server.host in line], 5.0)


def running() -> list[str]:
    """The command lines of all git processes."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = file.read_bytes().decode(errors="replace").split("\0")
            if "git" in words[0]:
                found.append(" ".join(words))
    return found


@SLOW
def test_nobody_there(tmp_path: Path) -> None:
    """A refused connection and an unknown host are unavailable, each in one line."""
    for url, said in (("http://127.0.0.1:1/hub.git", "cannot be reached"), ("https://no.invalid/hub.git", "not known")):
        with pytest.raises(Unavailable, match=said) as caught:
            open_remote(url, tmp_path / "cache").heads()
        assert "\n" not in str(caught.value)


@SLOW
def test_no_repository(server: GitServer, tmp_path: Path) -> None:
    """A repository that is not there is not found, with the fix."""
    store = open_remote(f"{server.url}/other.git", tmp_path / "cache", environment=helper())
    with pytest.raises(NotFound, match=r"ghcoord init http://127.0.0.1"):
        store.heads()
    with pytest.raises(NotFound):
        commit(store)


@SLOW
def test_a_dumb_server(tmp_path: Path) -> None:
    """Files alone are no hub: reading may do, writing is refused with the reason."""
    path = make_bare(tmp_path / "srv" / "hub.git")
    git(path, "update-server-info")
    handler = functools.partial(QuietFiles, directory=str(tmp_path / "srv"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as files:
        threading.Thread(target=files.serve_forever, daemon=True).start()
        store = open_remote(f"http://127.0.0.1:{files.server_address[1]}/hub.git", tmp_path / "cache")
        with pytest.raises(Unsupported, match="smart HTTP"):
            commit(store)
        files.shutdown()


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    """Files, and nothing on standard error."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""
