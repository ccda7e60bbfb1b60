"""``ghcoord mcp token``: made, listed, taken back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.conftest import _alone, cli, hub, later  # noqa: F401 - fixtures
from tests.cli.running import Cli, Later

KEYS = "id user workspace resource read_only created_at expires_at".split()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def test_create_prints_the_token_once(cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    """The token alone on standard output, what it is on standard error; it is kept below the state folder."""
    made = cli("mcp", "token", "create", "--user", "ann")
    assert (0, 1) == (made.code, len(made.out.splitlines()))
    assert made.out.startswith("ghc_")
    assert "of ann for http://127.0.0.1:8321/mcp, until" in made.err
    kept = tmp_path / "state" / "ghcoord" / "mcp-tokens.json"
    assert made.out.strip() not in kept.read_text()
    assert made.out.strip() not in cli("mcp", "token", "list").out


def test_json_of_all_verbs(cli: Cli, file: Path) -> None:  # noqa: F811
    """The keys are frozen, and the token is only in what create says."""
    made = cli(
        *("mcp", "token", "create", "--user", "ann", "--workspace", "docs", "--expires", "30d", "--read-only"),
        *("--resource", "https://mcp.example.org/mcp", "--token-file", file, "--json"),
    ).json
    assert [*KEYS, "token"] == list(made)
    listed = cli("mcp", "token", "list", "--token-file", file, "--json").json
    assert [{key: made[key] for key in KEYS}] == listed
    gone = cli("mcp", "token", "revoke", made["id"], "--yes", "--token-file", file, "--json").json
    assert listed == [gone]
    assert [] == cli("mcp", "token", "list", "--token-file", file, "--json").json


def test_list_says_what_is_good(cli: Cli, file: Path, later: Later) -> None:  # noqa: F811
    """Rights, server, and what has expired, within 80 columns; no file is no tokens."""
    assert "no tokens" in cli("mcp", "token", "list", "--token-file", file).out
    cli("mcp", "token", "create", "--user", "ann", "--read-only", "--expires", "1h", "--token-file", file)
    assert "read" in cli("mcp", "token", "list", "--token-file", file).out
    later(3601.0)
    shown = cli("mcp", "token", "list", "--token-file", file).out
    assert "expired" in shown
    cli("mcp", "token", "create", "--user", "b" * 60, "--workspace", "w" * 60, "--token-file", file)
    shown = cli("mcp", "token", "list", "--token-file", file).out
    assert 2 == shown.count("http://127.0.0.1:8321/mcp ")
    assert re.search(r" \d{4}-\d\d-\d\d *$", shown, re.MULTILINE)
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["create"], 2, "--user"),
        (["create", "--user", ""], 2, "user"),
        (["create", "--user", "ann", "--expires", "0s"], 2, "lasts"),
        (["create", "--user", "ann", "--expires", "4000d"], 2, "out of range"),
        (["create", "--user", "ann", "--resource", "mcp.example.org"], 2, "https://"),
        (["create", "--user", "ann", "--token-file", "/proc/none"], 2, "cannot be written"),
        (["list", "--token-file", "/dev/null"], 2, "token file"),
        (["revoke", "x"], 3, "token list"),
    ],
)
def test_mistakes(cli: Cli, args: list[str], code: int, says: str) -> None:  # noqa: F811
    """One sentence that says what to do, and an exit code."""
    done = cli("mcp", "token", *args)
    assert code == done.code
    assert says in done.error


def test_revoke_asks(cli: Cli, file: Path) -> None:  # noqa: F811
    """Where nobody can answer it wants --yes, and takes nothing back."""
    token_id = cli("mcp", "token", "create", "--user", "ann", "--token-file", file, "--json").json["id"]
    assert "--yes" in cli("mcp", "token", "revoke", token_id, "--token-file", file).error
    assert 1 == len(cli("mcp", "token", "list", "--token-file", file, "--json").json)


def test_serving_without_any_token_says_how_to_make_one(cli: Cli, hub: Path) -> None:  # noqa: F811
    """--http with no token file, and --no-auth where others reach it, end with a sentence."""
    refused = cli("mcp", "--hub", hub, "--http", "127.0.0.1:0")
    assert "token create" in refused.error
    assert 2 == refused.code
    assert "without tokens" in cli("mcp", "--hub", hub, "--http", "0.0.0.0:0", "--no-auth").error
