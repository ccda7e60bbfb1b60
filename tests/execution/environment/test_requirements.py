"""Which requirements are taken, and where packages may come from."""

from __future__ import annotations

import pytest

from ghcoord.errors import UsageError
from ghcoord.execution.environment.requirements import MAX_REQUIREMENTS, check_requirements, split_requirements
from ghcoord.execution.environment.settings import PackageSettings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("idna", ["idna"]),
        ("idna==3.10 attrs>=23,<25", ["idna==3.10", "attrs>=23,<25"]),
        ("idna == 3.10\nattrs ~= 24.1", ["idna == 3.10", "attrs ~= 24.1"]),
        ("requests[socks, use-chardet]>=2", ["requests[socks, use-chardet]>=2"]),
        ("tomli>=2; python_version < '3.11'", ["tomli>=2; python_version < '3.11'"]),
        ("# what it needs\n\nidna  # names\n", ["idna"]),
        ("a (>=1,<2)", ["a (>=1,<2)"]),
        ("x===1.0+cpu.3 y!=1.*", ["x===1.0+cpu.3", "y!=1.*"]),
    ],
)
def test_requirements_are_one_a_line_or_apart_by_spaces(text: str, expected: list[str]) -> None:
    """Names, extras, versions and markers are understood as pip writes them."""
    assert expected == split_requirements(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no requirement is given"),
        ("# nothing", "no requirement is given"),
        ("--index-url=https://evil.example/simple idna", "is an option"),
        ("-r /etc/passwd", "is an option"),
        ("-e .", "is an option"),
        ("./here", "is a file"),
        ("/etc/passwd", "is a file"),
        ("..", "is a file"),
        ("thing-1.0-py3-none-any.whl", "is a file"),
        ("requirements.txt", "is a file"),
        ("a\\b", "is a file"),
        ("git+https://example.org/x", "is a URL"),
        ("x@https://example.org/x.whl", "is a URL"),
        ("x @ file:///etc/passwd", "is a URL"),
        ("https://example.org/x.whl", "is a URL"),
        ("idna == 3.10 attrs", "is no requirement"),
        ("idna=3", "is no requirement"),
        ("$(id)", "is no requirement"),
        ("idna\0", "is no requirement"),
        ("ídna", "is no requirement"),
        ("a" * 501, "501 characters"),
    ],
)
def test_all_else_is_refused(text: str, complaint: str) -> None:
    """No option, file, URL or strange text reaches the installer; the message says what it was taken for."""
    with pytest.raises(UsageError, match=complaint):
        split_requirements(text)


def test_the_count_is_bounded() -> None:
    """A lock of hostile length is refused before anything is started."""
    with pytest.raises(UsageError, match=f"at most {MAX_REQUIREMENTS}"):
        check_requirements(["a"] * (MAX_REQUIREMENTS + 1))


def test_a_long_hostile_line_is_read_at_once() -> None:
    """No text makes the reading slow: half a megabyte that almost matches is refused in linear time."""
    for text in ("a" + ".-" * 250_000, "a[" + "b," * 200_000, "a>=1" + ",>=1" * 100_000):
        with pytest.raises(UsageError):
            split_requirements(text)


def test_the_default_is_pypi_alone() -> None:
    """PyPI and its files over https, nothing plain, nothing private."""
    reach = PackageSettings().reach
    assert {("pypi.org", 443), ("files.pythonhosted.org", 443)} == reach.tunnels
    assert frozenset() == reach.plain
    assert frozenset() == reach.private


def test_an_index_of_ones_own_may_have_a_port_and_be_private() -> None:
    """An http index is fetched plainly from its own port, and its host may be of a private network."""
    reach = PackageSettings(index="http://devpi.lan:3141/root/pypi/+simple", hosts=()).reach
    assert frozenset({("devpi.lan", 3141)}) == reach.plain
    assert frozenset() == reach.tunnels
    assert frozenset({"devpi.lan"}) == reach.private
    assert ("devpi.lan", 8443) in PackageSettings(index="https://devpi.lan:8443/simple").reach.tunnels


@pytest.mark.parametrize(
    "index",
    ["ftp://x/simple", "pypi.org", "https://", "https://x:99999/", "https://x/?a", "https://x y/", "https://-/"],
)
def test_what_is_no_index_is_refused(index: str) -> None:
    """A URL that cannot be one is refused when the worker starts, not at the first call."""
    with pytest.raises(UsageError, match="index"):
        PackageSettings(index=index)


def test_an_index_with_a_password_is_refused() -> None:
    """Tasks would see it: the message says so, and does not repeat it."""
    with pytest.raises(UsageError, match="password") as refusal:
        PackageSettings(index="https://me:hunter2@devpi.example/simple")
    assert "hunter2" not in refusal.value.message


@pytest.mark.parametrize("host", ["", "localhost", "127.0.0.1", "2130706433", "x:443", "a.b.", "A.example", "*.x"])
def test_only_names_are_allowed_as_hosts(host: str) -> None:
    """Addresses in any spelling, ports and patterns are no hosts to allow."""
    with pytest.raises(UsageError, match="no host to allow"):
        PackageSettings().reach.also((host,))
    with pytest.raises(UsageError, match="no host to allow"):
        PackageSettings(hosts=(host,))


def test_a_session_adds_hosts_for_https() -> None:
    """A session's own hosts are reached on port 443 only, besides the others."""
    reach = PackageSettings().reach.also(("files.example.org",))
    assert {("files.example.org", 443), ("pypi.org", 443), ("files.pythonhosted.org", 443)} == reach.tunnels
