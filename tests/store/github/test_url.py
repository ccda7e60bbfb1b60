"""A hub's URL names a repository and its API, or says how to write it, without repeating secrets."""

from __future__ import annotations

import pytest

from ghcoord.errors import UsageError
from ghcoord.store.github.api import Repo
from ghcoord.store.github.url import git_url, is_loopback, parse_github_url


@pytest.mark.parametrize(
    ("url", "host", "name", "rest", "graphql"),
    [
        ("github:me/hub", "github.com", "hub", "https://api.github.com", "https://api.github.com/graphql"),
        ("github:me/hub.git", "github.com", "hub", "https://api.github.com", "https://api.github.com/graphql"),
        ("github://github.com/me/.h_u-b/", "github.com", ".h_u-b", "https://api.github.com", None),
        ("github://acme.ghe.com/me/hub", "acme.ghe.com", "hub", "https://api.acme.ghe.com", None),
        ("github://Git.x.org/me/hub", "git.x.org", "hub", "https://git.x.org/api/v3", "https://git.x.org/api/graphql"),
        ("github://git.x.org:84/me/hub", "git.x.org:84", "hub", "https://git.x.org:84/api/v3", None),
        (
            "github://127.0.0.1:9/me/hub",
            "127.0.0.1:9",
            "hub",
            "http://127.0.0.1:9/api/v3",
            "http://127.0.0.1:9/api/graphql",
        ),
        ("github://[::1]:99/me/hub", "[::1]:99", "hub", "http://[::1]:99/api/v3", None),
    ],
)
def test_what_urls_name(url: str, host: str, name: str, rest: str, graphql: str | None) -> None:
    """Each form gives the repository and the addresses of its API."""
    found = parse_github_url(url, None)
    assert Repo(host, "me", name, rest, graphql or found.graphql) == found


@pytest.mark.parametrize(
    "url",
    [
        *"github: github:me github:me/ github:/hub github:me/hub/x github:me/.. github:-me/hub github:me/hüb".split(),
        *"github:// github:///me/hub github://host/me github:https://github.com/me/hub github:me/hub?x=1".split(),
        *"github:me/hub#x github://h:99999999/me/hub".split(),
        *("github:me/h b", "github://ho st/me/hub", "github:me/\n"),
    ],
)
def test_what_names_no_repository(url: str) -> None:
    """Anything else is refused with the right form."""
    with pytest.raises(UsageError, match="write github:OWNER/REPOSITORY or github://HOST/OWNER/REPOSITORY"):
        parse_github_url(url, None)


@pytest.mark.parametrize(
    ("url", "api"),
    [
        ("github://ghp_secret@host/me/hub", None),
        ("github:me:ghp_secret@host/hub", None),
        ("github:ghp_secret@me/hub", None),
        ("github:me/hub", "https://me:ghp_secret@host/api/v3"),
    ],
)
def test_secrets_in_urls_are_refused_and_not_repeated(url: str, api: str | None) -> None:
    """A token in the URL is refused with the fix, and the sentence does not have it."""
    with pytest.raises(UsageError, match="leave it out and set GH_TOKEN instead") as raised:
        parse_github_url(url, api)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("api", "rest", "graphql"),
    [
        ("https://git.example.org/api/v3/", "https://git.example.org/api/v3", "https://git.example.org/api/graphql"),
        ("https://git.example.org", "https://git.example.org/api/v3", "https://git.example.org/api/graphql"),
        ("https://api.acme.ghe.com", "https://api.acme.ghe.com", "https://api.acme.ghe.com/graphql"),
        ("http://localhost:8080", "http://localhost:8080/api/v3", "http://localhost:8080/api/graphql"),
    ],
)
def test_another_base_url(api: str, rest: str, graphql: str) -> None:
    """GHCOORD_GITHUB_API is taken as it is; a bare host gets the usual path."""
    repo = parse_github_url("github:me/hub", api)
    assert (rest, graphql, "github:me/hub") == (repo.api, repo.graphql, repo.url)


@pytest.mark.parametrize(
    "api", ["ftp://x", "x", "https://", "http://git.example.org/api/v3", "https://h/?a", "http://[", "https://h:x"]
)
def test_bad_base_urls(api: str) -> None:
    """What is no base URL, or would send the token unencrypted, is refused."""
    with pytest.raises(UsageError, match="GHCOORD_GITHUB_API"):
        parse_github_url("github:me/hub", api)


def test_where_git_finds_it() -> None:
    """The URL for git goes with that of the API."""
    for url, expected in (
        ("github:me/hub", "https://github.com/me/hub"),
        ("github://acme.ghe.com/me/hub", "https://acme.ghe.com/me/hub"),
        ("github://git.example.org/me/hub", "https://git.example.org/me/hub"),
        ("github://127.0.0.1:9/me/hub", "http://127.0.0.1:9/me/hub"),
    ):
        assert expected == git_url(parse_github_url(url, None))
    own = parse_github_url("github:me/hub", "https://api.example.org")
    assert "https://api.example.org/me/hub" == git_url(own), "the token would go to another host"


def test_loopback() -> None:
    """Only names of this machine count as such."""
    yes = ("localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1", "[::1]")
    assert all(is_loopback(host) for host in yes)
    assert not any(is_loopback(host) for host in ("127.0.0.1.evil.org", "localhost.evil.org", "10.0.0.1", "", "::2"))
