"""``ghcoord session checkpoint``, ``restore`` and ``diff``; archives, out and in."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ghcoord.hub import Hub
from tests.cli.running import Cli, command, environment


def write(cli: Cli, session: str, path: str, text: str) -> None:
    assert 0 == cli("session", "put", session, "-", path, stdin=text).code


def read(cli: Cli, session: str, path: str) -> str:
    done = cli("session", "get", session, path, "-")
    assert 0 == done.code, done.err
    return done.out


def save(cli: Cli, session: str, *args: str) -> dict[str, Any]:
    done = cli("session", "checkpoint", session, *args, "--json")
    assert 0 == done.code, done.out
    found: dict[str, Any] = done.json
    return found


def test_saved_compared_and_gone_back_to(cli: Cli, session: str) -> None:
    """A checkpoint says what it holds, the difference what changed since; going back undoes it."""
    write(cli, session, "d/a.txt", "one\n")
    shown = cli("session", "checkpoint", session, "--name", "before the change")
    assert (0, True) == (shown.code, shown.out.endswith(": 1 file, 4 B\n")), shown
    (first,) = cli("session", "checkpoint", session, "--list", "--json").json
    assert (session, "before the change", 1, 4, True) == tuple(
        first[key] for key in ("session_id", "name", "files", "size", "published")
    )
    write(cli, session, "d/a.txt", "two\n")
    write(cli, session, "new", "x")
    assert "A new\nM d/a.txt\n" == cli("session", "diff", session).out
    text = cli("session", "diff", session, first["id"], "--text", "--exit-code")
    assert (1, True) == (text.code, "-one\n+two" in text.out)
    second = save(cli, session)
    assert (2, {"d/a.txt", "new"}) == (second["files"], set(second["modified"]))
    compared = cli("session", "diff", session, first["id"], second["id"], "--json").json
    assert (session, first["id"], second["id"]) == (compared["id"], compared["a"], compared["b"])
    same = cli("session", "diff", session, second["id"], second["id"], "--exit-code")
    assert (0, "", "no difference\n") == (same.code, same.out, same.err)
    table = cli("session", "checkpoint", session, "--list").out
    assert all(80 >= len(line) for line in table.splitlines())
    assert "add --yes" in cli("session", "restore", session, first["id"]).error
    done = cli("session", "restore", session, first["id"], "--yes")
    assert f"session {session} starts on w1 from {first['id']} with its next call\n" == done.out
    assert "one\n" == read(cli, session, "d/a.txt")
    assert first["id"] in cli("session", "show", session).out


def test_another_session_from_it(cli: Cli, living: Hub, session: str) -> None:
    """By 'restore --as' and 'create --from'; the first one goes on as it was."""
    write(cli, session, "f", "old")
    saved = save(cli, session)["id"]
    write(cli, session, "f", "new")
    assert 0 == cli("session", "restore", session, "--as", f"{session}-b").code
    made = cli("session", "create", "--from", f"{session}:{saved}").out.strip()
    assert ["new", "old", "old"] == [read(cli, one, "f") for one in (session, f"{session}-b", made)]


@pytest.mark.parametrize("form", ["tar.gz", pytest.param("tar.zst", marks=pytest.mark.slow)])
def test_out_and_in(cli: Cli, living: Hub, session: str, form: str) -> None:
    """An exported checkpoint is an archive that others can unpack, and that a session can start from."""
    write(cli, session, "d/f", "kept")
    saved = save(cli, session, "--name", "n")["id"]
    done = cli("session", "checkpoint", session, "--export", saved, "-o", f"work.{form}", "--json").json
    assert (saved, f"work.{form}", True) == (done["id"], done["output"], done["size"] > 0)
    if form == "tar.gz":
        with tarfile.open("work.tar.gz") as archive:
            assert {"d", "d/f"} <= set(archive.getnames())
    assert "exists. Replace it?" in cli("session", "checkpoint", session, "--export", saved, "-o", f"work.{form}").error
    assert 0 == cli("session", "checkpoint", session, "--export", saved, "-o", f"work.{form}", "--yes").code
    made = cli("session", "create", "--from", f"work.{form}").out.strip()
    assert "kept" == read(cli, made, "d/f")
    assert 1 == cli("session", "show", made, "--json").json["checkpoints"]


def test_an_archive_that_is_none_makes_no_session(cli: Cli, living: Hub) -> None:
    """It is refused, and the session that was to have its files is gone again."""
    Path("x.tar.gz").write_bytes(b"no archive")
    refused = cli("session", "create", "--id", "from-nothing", "--from", "x.tar.gz")
    assert (7, True) == (refused.code, "archive" in refused.error)
    assert 3 == cli("session", "show", "from-nothing").code


def test_to_standard_output(session: str, cli: Cli) -> None:
    """An archive goes through a pipe as it is; not along with JSON."""
    write(cli, session, "f", "x")
    saved = save(cli, session)["id"]
    line = ("session", "checkpoint", session, "--export", saved, "-o", "-")
    done = subprocess.run(command(*line), capture_output=True, env=environment(), check=True)
    assert done.stdout.startswith(b"\x28\xb5\x2f\xfd")
    assert "--json" in cli(*line, "--json").json["error"]["message"]


def test_deleted(cli: Cli, session: str) -> None:
    """Asks; what is gone is not found; no other is touched."""
    write(cli, session, "f", "x")
    saved, kept = (save(cli, session)["id"] for _ in range(2))
    assert "add --yes" in cli("session", "checkpoint", session, "--delete", saved).error
    gone = cli("session", "checkpoint", session, "--delete", saved, "--yes", "--json").json
    assert {"id": saved, "session_id": session, "deleted": True} == gone
    assert 3 == cli("session", "checkpoint", session, "--delete", saved, "--yes").code
    assert [kept] == [one["id"] for one in cli("session", "checkpoint", session, "--list", "--json").json]


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (("checkpoint", "nosuch"), 3, "'nosuch': see 'ghcoord session list'"),
        (("checkpoint", "nosuch", "--list"), 3, "'nosuch'"),
        (("checkpoint", "S", "--list", "--name", "x"), 2, "one of --name, --list, --delete and --export"),
        (("checkpoint", "S", "--export", "c1"), 2, "--export and --output go together"),
        (("checkpoint", "S", "-o", "x.tar.gz"), 2, "--export and --output go together"),
        (("checkpoint", "S", "--export", "c1", "-o", "x.tar.gz"), 3, "has no checkpoint 'c1'"),
        (("checkpoint", "S", "--delete", "../x", "--yes"), 3, "has no checkpoint '../x'"),
        (("checkpoint", "S", "--name", "n" * 5000), 8, "name"),
        (("restore", "S", "--yes"), 3, "makes one"),
        (("restore", "S", "c1", "--yes"), 3, "has no checkpoint 'c1'"),
        (("restore", "nosuch", "--yes"), 3, "'nosuch'"),
        (("diff", "S"), 3, "has no checkpoint"),
        (("diff", "S", "c1", "c2"), 3, "c1"),
        (("diff", "nosuch"), 3, "'nosuch'"),
    ],
)
def test_refused(cli: Cli, session: str, line: tuple[str, ...], code: int, words: str) -> None:
    """In one line that names the fix."""
    refused = cli("session", *(session if word == "S" else word for word in line))
    assert (code, True) == (refused.code, words in refused.error), refused.err


def test_export_names_its_form(cli: Cli, session: str) -> None:
    """By the end of the file's name; a place that cannot be written to is told, and nothing is left."""
    saved = save(cli, session)["id"]
    assert ".tar.zst or .tar.gz" in cli("session", "checkpoint", session, "--export", saved, "-o", "x.zip").error
    assert "cannot write" in cli("session", "checkpoint", session, "--export", saved, "-o", "no/x.tar.gz").error
    assert "no checkpoints\n" == cli("session", "checkpoint", cli("session", "create").out.strip(), "--list").out


def test_restored_elsewhere(cli: Cli, session: str) -> None:
    """A worker that is not there cannot have it: exit code 3 and who is."""
    save(cli, session)
    refused = cli("session", "restore", session, "--worker", "w9", "--yes")
    assert (3, True) == (refused.code, "w9" in refused.error)
