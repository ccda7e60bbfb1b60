"""Tokens in a file: good for a while, for one server, until they are revoked."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ghcoord.errors import InvalidName, NotFound, UsageError
from ghcoord.faces.mcp.http.choose import choose_auth
from ghcoord.faces.mcp.http.tokens import PREFIX, TokenFile
from ghcoord.testing.clock import ManualRuntime

HERE = "http://127.0.0.1:8321/mcp"


@pytest.fixture
def runtime() -> ManualRuntime:
    return ManualRuntime()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "own" / "tokens.json"


@pytest.fixture
def tokens(path: Path, runtime: ManualRuntime) -> TokenFile:
    return TokenFile(path, runtime)


def test_a_token_says_whose_it_is(tokens: TokenFile) -> None:
    """User, workspace and rights are those it was made with, and a credential names it."""
    made = tokens.create("ann", workspace="docs", resource=HERE, lasts=60, read_only=True)
    grant = tokens.verify(made.secret, HERE)
    assert grant is not None
    assert ("ann", "docs", HERE, True) == (grant.user_id, grant.workspace_id, grant.resource, grant.read_only)
    assert made.record.id == grant.credential


def test_the_token_itself_is_not_kept(tokens: TokenFile, path: Path) -> None:
    """The file holds digests only, and nobody else may read it or its lock."""
    made = tokens.create("ann", resource=HERE, lasts=60)
    assert made.secret.startswith(PREFIX)
    assert 43 == len(made.secret.removeprefix(PREFIX))
    assert made.secret.removeprefix(PREFIX) not in path.read_text()
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert 0o700 == stat.S_IMODE(path.parent.stat().st_mode)
    assert {path, path.with_name("tokens.json.lock")} == set(path.parent.iterdir())


def test_a_token_expires(tokens: TokenFile, runtime: ManualRuntime) -> None:
    """It is good until its last second and no longer."""
    made = tokens.create("ann", resource=HERE, lasts=60)
    runtime.advance(59)
    assert tokens.verify(made.secret, HERE) is not None
    runtime.advance(1)
    assert tokens.verify(made.secret, HERE) is None


def test_a_revoked_token_is_refused_at_once(tokens: TokenFile, path: Path, runtime: ManualRuntime) -> None:
    """What another process revokes counts for a server that runs; the others' tokens stay good."""
    server = TokenFile(path, runtime)
    ann, bob = (tokens.create(user, resource=HERE, lasts=60) for user in ("ann", "bob"))
    assert server.verify(ann.secret, HERE) is not None
    assert ann.record == tokens.revoke(ann.record.id)
    assert server.verify(ann.secret, HERE) is None
    assert server.verify(bob.secret, HERE) is not None
    with pytest.raises(NotFound):
        tokens.revoke(ann.record.id)


def test_a_token_is_for_one_server(tokens: TokenFile) -> None:
    """For another server it names the one it was made for, which the door compares."""
    made = tokens.create("ann", resource=HERE, lasts=60)
    grant = tokens.verify(made.secret, "https://other.example/mcp")
    assert grant is not None
    assert HERE == grant.resource
    same = tokens.verify(made.secret, "http://127.0.0.1:8321/mcp/")
    assert same is not None
    assert "http://127.0.0.1:8321/mcp/" == same.resource


def test_whether_any_token_is_good_for_a_server(tokens: TokenFile, runtime: ManualRuntime) -> None:
    """One for it that has not expired, whichever way its URL is written."""
    tokens.create("ann", resource="http://127.0.0.1:1/mcp", lasts=60)
    assert not tokens.serves("http://127.0.0.1:2/mcp")
    assert tokens.serves("http://127.0.0.1:1/mcp/")
    runtime.sleep(61)
    assert not tokens.serves("http://127.0.0.1:1/mcp")


def test_tokens_made_at_once_are_all_kept(path: Path, runtime: ManualRuntime) -> None:
    """Several processes may write the file: none undoes what another did."""
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: TokenFile(path, runtime).create("ann", resource=HERE, lasts=60), range(24)))
    server = TokenFile(path, runtime)
    assert 24 == len({one.record.id for one in made}) == len(server.list())
    assert all(server.verify(one.secret, HERE) for one in made)


def test_other_tokens_are_refused(tokens: TokenFile, path: Path) -> None:
    """Nothing but a token that was made is good: not its digest, its id, nothing, or hostile text."""
    made = tokens.create("ann", resource=HERE, lasts=60)
    digest = json.loads(path.read_text())["tokens"][0]["sha256"]
    for guess in (
        "",
        PREFIX,
        digest,
        made.record.id,
        made.secret + "x",
        made.secret[:-1],
        "\udcff",
        "\0",
        "x" * 10_000,
    ):
        assert tokens.verify(guess, HERE) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text('{"version": 2, "tokens": []}'),
        lambda path: path.write_text('{"tokens": [{"id": 1}]}'),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.chmod(0o640),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["torn", "newer", "strange", "binary", "readable", "gone", "folder"],
)
def test_a_file_that_cannot_be_used_lets_nobody_in(path: Path, runtime: ManualRuntime, damage) -> None:  # type: ignore[no-untyped-def]
    """It is said once, nobody gets in, and a server does not start with it."""
    said: list[str] = []
    tokens = TokenFile(path, runtime, said.append)
    made = tokens.create("ann", resource=HERE, lasts=60)
    assert tokens.verify(made.secret, HERE) is not None
    damage(path)
    assert tokens.verify(made.secret, HERE) is None
    assert tokens.verify(made.secret, HERE) is None
    assert 1 == len(said)
    assert str(path) in said[0]
    with pytest.raises(UsageError):
        choose_auth(runtime, usual_file=lambda: path)


@pytest.mark.parametrize("user", ["", " ann", "a\nb", "x" * 201, "../up"])
def test_users_are_names(tokens: TokenFile, user: str) -> None:
    """What sessions do not take as a user is refused when the token is made."""
    with pytest.raises(InvalidName):
        tokens.create(user, resource=HERE, lasts=60)


def test_options_exclude_each_other(path: Path, runtime: ManualRuntime) -> None:
    """Half of a pair, or two ways at once, is a mistake that is named; no token file says how to make one."""

    def choose(**options: object) -> str:
        with pytest.raises(UsageError) as refused:
            choose_auth(runtime, usual_file=lambda: path, **options)  # type: ignore[arg-type]
        return refused.value.message

    assert "exclude" in choose(no_auth=True, token_file=path)
    assert "belong together" in choose(jwks=path)
    assert "belong together" in choose(issuer="https://id.example")
    assert "token create" in choose()
    assert choose_auth(runtime, usual_file=lambda: path, no_auth=True).verifier is None
