"""Tokens come from where people keep them, go nowhere else, and are shown nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ghcoord.clock import SystemRuntime
from ghcoord.config import GithubSettings
from ghcoord.errors import Denied
from ghcoord.store.github.app_auth import AppCredentials
from ghcoord.store.github.credentials import find_credentials, kind_of
from ghcoord.store.github.transport import GithubApi
from ghcoord.store.github.url import parse_github_url
from ghcoord.testing.clock import ManualRuntime
from ghcoord.twin.server import Twin
from tests.store.github.asking import Notes

RUNTIME = SystemRuntime()
BOTH = {"GH_TOKEN": "one", "GITHUB_TOKEN": "two"}
ALL = {**BOTH, "GH_ENTERPRISE_TOKEN": "three", "GITHUB_ENTERPRISE_TOKEN": "four"}


def token(url: str, environment: dict[str, str], settings: GithubSettings | None = None) -> str:
    repo = parse_github_url(url, environment.get("GHCOORD_GITHUB_API") or (settings.api if settings else None))
    return find_credentials(repo, settings or GithubSettings(), {"PATH": "/nowhere", **environment}, RUNTIME).token()


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        ("github:me/hub", ALL, "one"),
        ("github:me/hub", {"GITHUB_TOKEN": " two\n"}, "two"),
        ("github://acme.ghe.com/me/hub", ALL, "one"),
        ("github://git.example.org/me/hub", ALL, "three"),
        ("github://git.example.org/me/hub", {"GITHUB_ENTERPRISE_TOKEN": "four", **BOTH}, "four"),
        ("github://127.0.0.1:1/me/hub", ALL, "three"),
        ("github://127.0.0.1:1/me/hub", BOTH, "one"),
        ("github:me/hub", {**BOTH, "GHCOORD_GITHUB_API": "https://git.example.org/api/v3/"}, "one"),
    ],
)
def test_which_variable_counts(url: str, environment: dict[str, str], expected: str) -> None:
    """Variables are taken in gh's order, and Enterprise hosts have their own."""
    assert expected == token(url, environment)


def test_the_token_of_github_goes_to_no_other_host() -> None:
    """Neither a hub's URL nor a configuration file that lies about sends it elsewhere."""
    with pytest.raises(Denied, match=r"no token for git\.example\.org: set GH_ENTERPRISE_TOKEN"):
        token("github://git.example.org/me/hub", BOTH)
    with pytest.raises(Denied, match="GH_ENTERPRISE_TOKEN"):
        token("github:me/hub", BOTH, GithubSettings(api="https://evil.example/api/v3"))


def test_no_token() -> None:
    """Without any the fix is named."""
    with pytest.raises(Denied, match=r"^no token for github.com: set GH_TOKEN, or run 'gh auth login'$"):
        token("github:me/hub", {})


@pytest.mark.parametrize("value", ["", "  ", "\n", "a b", "a\nb", "a\tb", "tökén", "x" * 9000, "a\x00b"])
def test_what_is_no_token(value: str) -> None:
    """Empty ones and such with blanks are refused with one sentence that does not repeat them."""
    with pytest.raises(Denied) as raised:
        token("github:me/hub", {"GH_TOKEN": value})
    assert "GH_TOKEN" in str(raised.value)
    assert 1 == len(str(raised.value).splitlines())
    assert not value.strip() or value not in str(raised.value)


def gh(folder: Path, script: str) -> dict[str, str]:
    """A ``gh`` that does what the script says."""
    folder.mkdir(exist_ok=True)
    program = folder / "gh"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_gh_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its token is used for the host that it is for, without prompts; a new one is found after a 401."""
    environment = gh(tmp_path / "bin", f'echo "$* $GH_PROMPT_DISABLED" > {tmp_path}/asked; cat {tmp_path}/token')
    monkeypatch.setenv("PATH", environment["PATH"])
    (tmp_path / "token").write_text("gho_first\n")
    repo = parse_github_url("github:me/hub", None)
    found = find_credentials(repo, GithubSettings(), environment, RUNTIME)
    assert "gho_first" == found.token()
    assert "auth token --hostname github.com 1\n" == (tmp_path / "asked").read_text()
    first = found.identity()
    assert not found.refresh()
    (tmp_path / "token").write_text("gho_second\n")
    assert found.refresh()
    assert "gho_second" == found.token()
    assert first != found.identity()
    assert "gho_" not in repr(found) + str(found) + first


def test_what_gh_or_an_app_has_goes_to_no_other_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: tuple[Path, str]
) -> None:
    """A configuration file in a folder from elsewhere names a host of its own: no token and no proof goes there."""
    environment = gh(tmp_path / "bin", "echo gho_secret")
    monkeypatch.setenv("PATH", environment["PATH"])
    elsewhere = "https://evil.example/api/v3"
    app = {"GHCOORD_GITHUB_APP_ID": "5", "GHCOORD_GITHUB_APP_KEY_FILE": str(key[0])}
    for given in (environment, environment | app):
        for url in ("github:me/hub", "github://git.example.org/me/hub"):
            with pytest.raises(Denied, match=r"no token for evil\.example: set GH_ENTERPRISE_TOKEN"):
                token(url, given, GithubSettings(api=elsewhere))
    assert "gho_secret" == token("github:me/hub", environment | {"GHCOORD_GITHUB_API": elsewhere})


@pytest.mark.parametrize("script", ["exit 1", "echo", "echo two words", "printf '\\377'"])
def test_a_gh_that_has_no_token(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is as if it were not there."""
    environment = gh(tmp_path, script)
    monkeypatch.setenv("PATH", environment["PATH"])
    with pytest.raises(Denied, match=r"no token for github\.com"):
        find_credentials(parse_github_url("github:me/hub", None), GithubSettings(), environment, RUNTIME)


def test_tokens_are_not_shown() -> None:
    """Neither repr nor str nor what stands for it in files has the token."""
    repo = parse_github_url("github:me/hub", None)
    found = find_credentials(repo, GithubSettings(), {"GH_TOKEN": "ghp_secret"}, RUNTIME)
    assert "secret" not in f"{found!r} {found} {found.identity()}"
    assert "a classic token" == kind_of(found.token())
    assert "a token" == kind_of("secret")


# -- a GitHub App


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An App's private key in a file, and the public one."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    file = tmp_path_factory.mktemp("app") / "app.pem"
    file.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return file, public.decode()


def test_an_app_acts_as_its_installation(key: tuple[Path, str], tmp_path: Path) -> None:
    """Its token is made from the key, replaced ahead of its end and after a 401; the identity stays."""
    file, public = key
    runtime = ManualRuntime(start=RUNTIME.now())
    twin = Twin(tmp_path, runtime=runtime)
    with twin:
        twin.repository("me", "hub", empty=False)
        login = twin.app_installation(7, public, "me/hub", installation=70)
        repo = parse_github_url(f"github://{twin.url.removeprefix('http://')}/me/hub", None)
        environment = {"GHCOORD_GITHUB_APP_ID": "7", "GHCOORD_GITHUB_APP_KEY_FILE": str(file)}
        found = find_credentials(repo, GithubSettings(), environment, runtime)
        assert isinstance(found, AppCredentials)
        identity = found.identity()
        api = GithubApi(repo, found, Notes(), runtime)
        assert login == api.login()
        first = found.token()
        runtime.sleep(3000)
        assert first == found.token()
        runtime.sleep(400)
        assert first != found.token()
        second = found.token()
        for _ in range(2):  # not only once
            runtime.sleep(100)
            second = found.token()
            twin.revoke(second)
            assert 200 == api.rest("GET", repo.path).status
            assert second != found.token()
        twin.revoke(found.token())
        with pytest.raises(Denied):
            api.rest("GET", repo.path)
        assert identity == found.identity()
        shown = f"{found!r} {found} {identity}"
        assert not any(part in shown for part in (first, second, file.read_text()))
        api.close()


def test_an_app_that_is_not_accepted(key: tuple[Path, str], tmp_path: Path) -> None:
    """A wrong id, a wrong installation, and a file that is no key are each told with the setting to look at."""
    file, public = key
    (tmp_path / "no.pem").write_text("-----BEGIN NOTHING-----")
    with Twin(tmp_path / "twin") as twin:
        twin.repository("me", "hub", empty=False)
        twin.app_installation(7, public, "me/hub", installation=70)
        repo = parse_github_url(f"github://{twin.url.removeprefix('http://')}/me/hub", None)
        for app, installation, pem, words in (
            ("8", None, file, "does not accept the GitHub App 8"),
            ("7", "71", file, "github.installation"),
            ("7", None, tmp_path / "no.pem", "no.pem is no private key: set github.key_file"),
            ("7", None, tmp_path / "absent.pem", r"cannot read the App's key .*absent.pem"),
            ("a/b", None, file, "set github.app"),
            ("7", "../x", file, "set github.app"),
        ):
            settings = GithubSettings(app=app, installation=installation, key_file=str(pem))
            with pytest.raises(Denied, match=words) as raised:
                find_credentials(repo, settings, {}, RUNTIME).token()
            assert 1 == len(str(raised.value).splitlines())


def test_an_app_without_a_key() -> None:
    """Half a configuration names the other half."""
    with pytest.raises(Denied, match="GHCOORD_GITHUB_APP_KEY_FILE"):
        token("github:me/hub", {}, GithubSettings(app="7"))
