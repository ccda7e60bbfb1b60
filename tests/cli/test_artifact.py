"""``ghcoord artifact``: every verb, once with success and once without."""

from __future__ import annotations

import errno
import hashlib
import os
import pty
import subprocess
from pathlib import Path

import pytest

from ghcoord.bootstrap import connect
from tests.cli.running import Cli, Later, command, environment

pytestmark = pytest.mark.usefixtures("hub")

BINARY = bytes(range(256)) * 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A binary file."""
    path = tmp_path / "in" / "some data.bin"
    path.parent.mkdir()
    path.write_bytes(BINARY)
    return path


def put(cli: Cli, *args: object) -> str:
    return str(cli("artifact", "put", *args, "--json").json["id"])


def test_put_and_get(cli: Cli, file: Path, tmp_path: Path) -> None:
    """What comes back is what went in, under a safe form of its name, in this folder or another."""
    made = cli("artifact", "put", file, "--session", "s1", "--task", "t1", "--retention", "1h", "--json").json
    assert ("some data.bin", 5120, hashlib.sha256(BINARY).hexdigest()) == (made["name"], made["size"], made["sha256"])
    assert ("application/octet-stream", "s1", "t1") == (made["content_type"], made["session_id"], made["task_id"])
    assert None is not made["expires_at"]
    done = cli("artifact", "get", made["id"])
    assert (0, "some_data.bin: 5.0 KiB\n") == (done.code, done.out)
    assert BINARY == Path("some_data.bin").read_bytes()
    (tmp_path / "out").mkdir()
    got = cli("artifact", "get", made["id"], "-o", "out", "--json").json
    assert (made["id"], "out/some_data.bin") == (got["id"], got["file"])
    assert BINARY == Path("out/some_data.bin").read_bytes()
    assert ["some_data.bin"] == os.listdir("out")


def test_put_for_people(cli: Cli, file: Path) -> None:
    """The id and what it is called stand there."""
    done = cli("artifact", "put", file, "--name", "n.txt", "--content-type", "text/csv")
    assert 0 == done.code
    for part in ("id ", "n.txt", "5.0 KiB", "text/csv"):
        assert part in done.out
    assert "session" not in done.out


def test_put_reads_standard_input(cli: Cli) -> None:
    """Which needs a name."""
    made = cli("artifact", "put", "-", "--name", "x.log", "--json", stdin="piped\n").json
    assert ("x.log", 6) == (made["name"], made["size"])
    refused = cli("artifact", "put", "-", stdin="x")
    assert (2, True) == (refused.code, "--name" in refused.error)


def test_binary_through_pipes(cli: Cli, file: Path) -> None:
    """Standard input and output carry bytes as they are."""
    with file.open("rb") as source:
        made = subprocess.run(
            command("artifact", "put", "-", "--name", "b"),
            stdin=source,
            capture_output=True,
            env=environment(),
            check=True,
        )
    artifact = made.stdout.split()[1].decode()
    got = subprocess.run(
        command("artifact", "get", artifact, "-o", "-"), capture_output=True, env=environment(), check=True
    )
    assert BINARY == got.stdout


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("none.bin",), 3, "no file 'none.bin'"),
        (("in",), 2, "Is a directory"),
        (("in/some data.bin", "--name", "../x"), 2, "segment"),
        (("in/some data.bin", "--content-type", "nonsense"), 2, "content type"),
        (("in/some data.bin", "--session", "a b"), 2, "session id"),
        (("in/some data.bin", "--retention", "9999y"), 2, "9999y"),
    ],
)
def test_put_refuses(cli: Cli, file: Path, args: tuple[str, ...], code: int, words: str) -> None:
    """In one sentence."""
    refused = cli("artifact", "put", *args)
    assert code == refused.code
    assert words in refused.err


def test_a_file_over_the_cap(cli: Cli, file: Path) -> None:
    """Is refused with the setting that allows it."""
    Path("ghcoord.toml").write_text("[artifacts]\nmax_mb = 1\n")
    file.write_bytes(b"x" * (1024 * 1024 + 1))
    refused = cli("artifact", "put", file)
    assert (2, True) == (refused.code, "artifacts.max_mb" in refused.error)
    assert "QUOTA_EXCEEDED" == cli("artifact", "put", file, "--json").json["error"]["code"]


def test_get_never_overwrites_without_being_told(cli: Cli, file: Path) -> None:
    """Nobody is there to answer: it says how; --force does it; a link is replaced, not followed."""
    artifact = put(cli, file, "--name", "x")
    Path("x").write_text("mine")
    refused = cli("artifact", "get", artifact)
    assert (2, True) == (refused.code, refused.error.endswith("Replace it? Nobody is there to answer: add --force"))
    assert "mine" == Path("x").read_text()
    Path("y").symlink_to("x")
    assert 0 == cli("artifact", "get", artifact, "-o", "y", "--force").code
    assert ("mine", BINARY, False) == (Path("x").read_text(), Path("y").read_bytes(), Path("y").is_symlink())
    assert 0 == cli("artifact", "get", artifact, "--force").code
    assert BINARY == Path("x").read_bytes()


def test_what_came_meanwhile_stays(cli: Cli, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that appears while the content is fetched is not replaced, with hard links and without."""
    artifact = put(cli, file, "--name", "x")
    real = os.path.lexists
    for links in (True, False):
        looks = []

        def lexists(path: object, looks: list[object] = looks) -> bool:
            looks.append(path)
            if len(looks) == 1:
                Path("x").write_text("mine")
                return False
            return real(str(path))

        def no_links(*_: object) -> None:
            raise OSError(errno.EPERM, "no links")

        with monkeypatch.context() as patch:
            patch.setattr(os.path, "lexists", lexists)
            if not links:
                patch.setattr(os, "link", no_links)
            assert "exists by now" in cli("artifact", "get", artifact).error
        assert "mine" == Path("x").read_text()
        with monkeypatch.context() as patch:
            if not links:
                patch.setattr(os, "link", no_links)
            assert 0 == cli("artifact", "get", artifact, "-o", f"y{links}").code
        assert BINARY == Path(f"y{links}").read_bytes()
    assert not [name for name in os.listdir(".") if name.endswith(".part")]


@pytest.mark.parametrize(
    ("name", "expected"), [("a/b/.profile", "profile"), ("-rf", "rf"), ("x\u0301y;z", "x_y_z"), ("...", "artifact")]
)
def test_hostile_names_lead_nowhere(cli: Cli, file: Path, name: str, expected: str) -> None:
    """The name of an artifact is a stranger's: the file is one component in this folder."""
    artifact = put(cli, file, "--name", name) if name != "..." else put(cli, file, "--name=...")
    before = set(os.listdir("."))
    assert 0 == cli("artifact", "get", artifact).code
    assert {expected} == set(os.listdir(".")) - before


def test_get_of_what_is_wrong_leaves_nothing(cli: Cli, file: Path, tmp_path: Path) -> None:
    """Wrong bytes in the holder: exit 7, no file, none half written."""
    Path("ghcoord.toml").write_text(f'[artifacts]\nwhere = "directory"\ndirectory = "{tmp_path / "store"}"\n')
    artifact = put(cli, file, "--name", "x")
    (held,) = (path for path in (tmp_path / "store").rglob("*") if path.is_file())
    held.write_bytes(BINARY[:-1] + b"!")
    before = sorted(os.listdir("."))
    refused = cli("artifact", "get", artifact)
    assert (7, True) == (refused.code, "other content" in refused.error)
    assert before == sorted(os.listdir("."))
    assert 7 == cli("artifact", "get", artifact, "-o", "-").code


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("a0",), 3, "no artifact 'a0'"),
        (("../x",), 2, "artifact id"),
        (("ID", "-o", "missing/x"), 2, "cannot write missing/x"),
        (("ID", "-o", "missing/"), 2, "cannot write missing/"),
        (("ID", "-o", "-", "--json"), 2, "--json"),
    ],
)
def test_get_refuses(cli: Cli, file: Path, args: tuple[str, ...], code: int, words: str) -> None:
    """In one sentence."""
    artifact = put(cli, file)
    refused = cli("artifact", "get", *(artifact if arg == "ID" else arg for arg in args))
    assert code == refused.code
    assert words in (refused.err or refused.out)


def test_a_folder_of_the_name_is_not_replaced(cli: Cli, file: Path) -> None:
    """Not even with --force."""
    artifact = put(cli, file, "--name", "x")
    Path("x").mkdir()
    assert "is a folder" in cli("artifact", "get", artifact, "--force").error


def test_a_terminal_is_spared(cli: Cli, file: Path) -> None:
    """Bytes that could disturb it come only on request."""
    artifact = put(cli, file)
    inner, outer = pty.openpty()
    try:
        done = subprocess.run(
            command("artifact", "get", artifact, "-o", "-"),
            stdout=outer,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            check=False,
        )
    finally:
        os.close(outer)
        os.close(inner)
    assert (2, True) == (done.returncode, "disturb the terminal" in done.stderr)


@pytest.mark.slow
def test_a_terminal_sees_how_far_it_is(tmp_path: Path) -> None:
    """A bar while a large file is stored and fetched; nothing of it in a pipe."""
    large = tmp_path / "large"
    large.write_bytes(os.urandom(3 * 1024 * 1024))

    def on_terminal(*args: object) -> tuple[str, str]:
        inner, outer = pty.openpty()
        running = subprocess.Popen(
            command("artifact", *args), stdout=subprocess.PIPE, stderr=outer, text=True, env=environment()
        )
        os.close(outer)
        seen = b""
        try:
            while piece := os.read(inner, 10_000):
                seen += piece
        except OSError:  # the other end is closed
            pass
        os.close(inner)
        out, _ = running.communicate(timeout=60)
        assert 0 == running.returncode
        return out, seen.decode()

    out, bar = on_terminal("put", large)
    assert "storing" in bar
    out, bar = on_terminal("get", out.split()[1], "-o", "copy")
    assert "fetching" in bar
    assert "copy: 3.0 MiB\n" == out
    assert large.read_bytes() == Path("copy").read_bytes()


def test_list(cli: Cli, file: Path) -> None:
    """Newest first, by owner and name; a table that fits for people."""
    first = put(cli, file, "--session", "s1", "--name", "one.txt")
    second = put(cli, file, "--task", "t1", "--retention", "30d")
    assert [second, first] == [one["id"] for one in cli("artifact", "list", "--json").json]
    assert [first] == [one["id"] for one in cli("artifact", "list", "--session", "s1", "--json").json]
    assert [second] == [one["id"] for one in cli("artifact", "list", "--task", "t1", "--json").json]
    assert [first] == [one["id"] for one in cli("artifact", "list", "--name", "one.txt", "--json").json]
    assert [second] == [one["id"] for one in cli("artifact", "list", "--limit", "1", "--json").json]
    shown = cli("artifact", "list").out
    assert first in shown
    assert all(80 >= len(line) for line in shown.splitlines())
    assert "no artifacts\n" == cli("artifact", "list", "--session", "s9").out
    assert 2 == cli("artifact", "list", "--task", "a b").code


def test_delete(cli: Cli, file: Path) -> None:
    """Asks; what is gone is not found."""
    artifact = put(cli, file)
    refused = cli("artifact", "delete", artifact)
    assert (2, True) == (refused.code, "goes for good" in refused.error)
    assert f"{artifact} deleted\n" == cli("artifact", "delete", artifact, "--yes").out
    assert 3 == cli("artifact", "delete", artifact, "--yes").code
    assert [] == cli("artifact", "list", "--json").json


def test_clean(cli: Cli, file: Path, later: Later) -> None:
    """Only what is over goes; where it cannot be removed it says why."""
    kept = put(cli, file)
    put(cli, file, "--retention", "10s")
    assert "0 removed\n" == cli("artifact", "clean").out
    later(60)
    assert {"removed": 1} == cli("artifact", "clean", "--json").json
    assert [kept] == [one["id"] for one in cli("artifact", "list", "--json").json]
    Path("ghcoord.toml").write_text('[artifacts]\nwhere = "directory"\ndirectory = "d"\n')
    put(cli, file, "--retention", "10s")
    Path("ghcoord.toml").unlink()
    later(120)
    refused = cli("artifact", "clean")
    assert (2, True) == (refused.code, "artifacts.directory" in refused.error)


def test_a_bucket_needs_its_name(cli: Cli, file: Path) -> None:
    """The setting that is missing is named."""
    Path("ghcoord.toml").write_text('[artifacts]\nwhere = "s3"\n')
    assert "artifacts.bucket" in cli("artifact", "put", file).error


def test_the_audit_log_shows_artifacts(cli: Cli, file: Path) -> None:
    """Stored and deleted, by the actor."""
    artifact = put(cli, file)
    cli("artifact", "delete", artifact, "--yes")
    kinds = [one["kind"] for one in cli("audit", "log", "--json").json if one["space"] == "files"]
    assert ["artifact deleted", "artifact stored"] == kinds


def test_care_knows_the_contents(cli: Cli, hub: Path, tmp_path: Path) -> None:
    """status, status --at, doctor, export, import and gc work on a hub with large binary contents."""
    large = tmp_path / "large"
    large.write_bytes(os.urandom(9 * 1024 * 1024))
    artifact = put(cli, large)
    with connect(hub) as opened:
        present = opened.revision("files")
    for line in (["status"], ["status", "--at", present], ["doctor"], ["gc", "--yes"], ["export", "h.bundle"]):
        done = cli(*line)
        assert 0 == done.code, (line, done)
    assert 0 == cli("import", "h.bundle", "--hub", "copy.git").code
    assert 0 == cli("artifact", "get", artifact, "-o", "back", "--hub", "copy.git").code
    assert large.read_bytes() == Path("back").read_bytes()
    findings = cli("doctor", "--json").json["findings"]
    assert not [one for one in findings if "files" in str(one) and one["level"] == "error"]


def test_artifacts_of_the_past(cli: Cli, file: Path, hub: Path) -> None:
    """What was deleted since is read as of a moment before."""
    artifact = put(cli, file)
    with connect(hub) as now:
        before = now.revision("files")
        now.artifacts.delete(artifact)
        with now.at(before) as past:
            assert BINARY == b"".join(past.artifacts.open(artifact))
