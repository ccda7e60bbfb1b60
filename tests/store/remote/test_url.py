"""URLs of remote hubs: what they name, and what is refused before git sees it."""

from __future__ import annotations

import pytest

from ghcoord.errors import UsageError
from ghcoord.store.remote.url import is_remote_url, parse_remote_url


@pytest.mark.parametrize(
    ("url", "scheme", "host", "given"),
    [
        ("https://github.com/me/hub.git", "https", "github.com", None),
        ("https://me@Git.Example.org:8443/hub", "https", "git.example.org:8443", None),
        ("http://127.0.0.1:8080/hub.git", "http", "127.0.0.1:8080", None),
        ("http://localhost/hub.git", "http", "localhost", None),
        ("http://[::1]:80/hub.git", "http", "[::1]:80", None),
        ("ssh://git@example.org:22/srv/hub.git", "ssh", "example.org:22", None),
        ("git@example.org:me/hub.git", "ssh", "example.org", None),
        ("git+file:///srv/my%20hub.git", "file", "localhost", "file:///srv/my hub.git"),
    ],
)
def test_accepted(url: str, scheme: str, host: str, given: str | None) -> None:
    """Scheme, host and what git gets."""
    assert is_remote_url(url)
    remote = parse_remote_url(url)
    assert (url, scheme, host, given or url) == (remote.url, remote.scheme, remote.host, remote.git_url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.org/hub.git", "clear text"),
        ("http://127.0.0.1.example.org/hub.git", "clear text"),
        ("http://127.0.0.1@example.org/hub.git", "clear text"),
        ("https://me:s3cret@example.org/hub.git", "password"),
        ("ssh://me:s3cret@example.org/hub.git", "password"),
        ("https://ghp_s3cret@github.com/me/hub", "token"),
        ("https://github_pat_s3cret@github.com/me/hub", "token"),
        ("https://01234567890123456789012345678901s3cret@example.org/hub", "token"),
        ("https://example.org/hub?token=s3cret", r"\?"),
        ("https://example.org/hub#s3cret", "#"),
        ("https:///hub.git", "no repository"),
        ("https://example.org/", "no repository"),
        ("ssh://-oProxyCommand=s3cret/hub", "no repository"),
        ("ssh://-oProxyCommand=x@example.org/hub", "no repository"),
        ("ssh://example.org/-s3cret", "begins with '-'"),
        ("git@example.org:-s3cret", "no remote repository"),
        ("git@-oProxyCommand=x:hub", "no remote repository"),
        ("--upload-pack=touch", "begins with '-'"),
        ("ext::sh -c touch", "spaces"),
        ("ext::sh", "no remote repository"),
        ("ext://sh/x", "not for hubs"),
        ("git://example.org/hub", "not for hubs"),
        ("ftp://example.org/hub", "not for hubs"),
        ("git+file://server/hub", "three slashes"),
        ("https://example.org/a\nb", "control characters"),
        ("git+file:///a%0ab", "line end"),
    ],
)
def test_refused(url: str, said: str) -> None:
    """One sentence that says why, and repeats no secret."""
    with pytest.raises(UsageError, match=said) as caught:
        parse_remote_url(url)
    if "s3cret" in url and "-s3cret" not in url:
        assert "s3cret" not in str(caught.value)
