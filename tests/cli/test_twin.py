"""``ghcoord twin``."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.cli.running import Cli, command, environment, spawn


@contextmanager
def _running(*args: object) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A twin in a process of its own, and what it said of itself."""
    with subprocess.Popen(
        command("twin", "--json", *args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)


def test_it_serves_until_told_to_stop(tmp_path: Path) -> None:
    """It answers with the token that it printed, keeps its folder, and ends with 0 on SIGTERM, its child too."""
    with _running("--folder", tmp_path / "twin", "--repository", "me/one", "--limits") as (process, told):
        assert "url api token user repositories".split() == list(told)
        authorization = {"Authorization": f"Bearer {told['token']}"}
        found = requests.get(f"{told['api']}/repos/me/one", headers=authorization, timeout=10)
        assert 200 == found.status_code
        assert "5000" == found.headers["x-ratelimit-limit"]
        assert {"admin": True, "push": True} == {key: found.json()["permissions"][key] for key in ("admin", "push")}
    assert 0 == process.returncode
    with pytest.raises(requests.ConnectionError):
        requests.get(told["api"], timeout=10)
    assert "600" == oct((tmp_path / "twin" / "token").stat().st_mode)[-3:]

    with _running("--folder", tmp_path / "twin") as (_, again):
        assert (told["token"], ["me/one"]) == (again["token"], again["repositories"])


def test_it_says_what_to_do_next(tmp_path: Path) -> None:
    """For people it prints the commands that point ghcoord to it, and with --log each request."""
    argv = command("twin", "--log", "--user", "ada")
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(6)]
        text = "".join(lines)
        api = lines[2].partition("=")[2].strip()
        requests.get(f"{api}/meta", timeout=10)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert 0 == process.returncode
    assert "export GH_TOKEN=ghp_twin" in text
    assert "for the twin only" in text
    assert "ghcoord init github:ada/hub" in text
    assert "200 read  GET /meta" in err


def test_a_taken_port_is_named() -> None:
    """A port that something else has is one line with the fix, exit 7."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = spawn("twin", "--port", port)
    assert 7 == done.code
    assert f"port {port} cannot be had (Address already in use): choose another --port" == done.error


def test_a_bad_repository_name_is_named() -> None:
    """What is not OWNER/NAME is refused with exit 2."""
    done = spawn("twin", "--repository", "hub")
    assert (2, "--repository 'hub' is not OWNER/NAME") == (done.code, done.error)


def test_without_the_extra_it_says_what_to_install(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where graphql-core or werkzeug is missing, the fix is named and nothing starts."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = cli("twin")
    assert 2 == done.code
    assert "pip install 'ghcoord[twin]'" in done.error
