"""What differs between two checkpoints, by their manifests alone."""

from __future__ import annotations

import hashlib
from typing import Any

from ghcoord.coord.sessions import differences
from ghcoord.coord.sessions.differences import Diff, compare
from ghcoord.coord.sessions.manifests import FileEntry, FolderEntry, Manifest, ManifestRecord
from ghcoord.model.codec import stamp


def manifest(
    files: dict[str, bytes],
    folders: tuple[str, ...] = (),
    links: dict[str, str] | None = None,
    mode: int = 0o644,
    id: str = "c" + "1" * 12,
    **more: Any,
) -> Manifest:
    """A manifest of these files."""
    record = ManifestRecord.model_validate({"id": id, "session": "s", "epoch": 1, "created_at": stamp(1e9), **more})
    entries = {path: FileEntry(mode, len(data), 0, hashlib.sha256(data).hexdigest()) for path, data in files.items()}
    return Manifest(record, entries, {path: FolderEntry(0o755, 0) for path in folders}, links or {})


def with_text(one: dict[str, bytes], other: dict[str, bytes]) -> Diff:
    """The difference with the lines that changed."""
    return compare(manifest(one), manifest(other), read_a=lambda path, _: one[path], read_b=lambda path, _: other[path])


def test_everything_that_can_differ() -> None:
    """Files, folders, links, packages, metadata and settings are each told; values of variables are not."""
    one = manifest(
        {"same": b"1", "gone": b"22", "other": b"333"},
        ("folder",),
        {"link": "a"},
        packages=("a==1", "b==1", "c==1"),
        metadata={"x": 1, "y": 1},
        env={"TOKEN": "s3cret", "B": "1"},
    )
    other = manifest(
        {"same": b"1", "new": b"4444", "other": b"55555"},
        (),
        {"link": "b"},
        id="c" + "2" * 12,
        packages=("a==1", "b==2", "d==1"),
        metadata={"y": 2, "z": 1},
        env={"TOKEN": "0ther", "C": "1"},
    )
    found = compare(one, other)
    assert ("c" + "1" * 12, "c" + "2" * 12) == (found.a, found.b)
    assert [("new", "file", 4, None)] == [(each.path, each.kind, each.size, each.was) for each in found.added]
    assert [("folder", "folder", None), ("gone", "file", 2)] == [(x.path, x.kind, x.was) for x in found.removed]
    assert [("link", None, None), ("other", 5, 3)] == [(x.path, x.size, x.was) for x in found.changed]
    assert (("d==1",), ("c==1",), ("b 1 → 2",)) == (
        found.packages.added,
        found.packages.removed,
        found.packages.changed,
    )
    assert (("z",), ("x",), ("y",)) == (found.metadata.added, found.metadata.removed, found.metadata.changed)
    assert (("env.C",), ("env.B",), ("env.TOKEN",)) == (
        found.settings.added,
        found.settings.removed,
        found.settings.changed,
    )
    assert "s3cret" not in found.model_dump_json()
    assert not found.empty
    assert compare(one, one).empty
    assert Diff.model_validate(found.model_dump(mode="json")) == found


def test_a_mode_is_a_change_and_a_time_is_none() -> None:
    """A file that was made executable differs; one that was only touched does not."""
    assert 1 == len(compare(manifest({"a": b"1"}), manifest({"a": b"1"}, mode=0o755)).changed)


def test_text() -> None:
    """The lines that changed are shown, also where a last line has no end."""
    found = with_text({"a.txt": b"one\ntwo\n", "b": b"x"}, {"a.txt": b"one\nthree", "b": b"x"})
    (change,) = found.changed
    assert (
        "--- a/a.txt\n+++ b/a.txt\n@@ -1,2 +1,2 @@\n one\n-two\n+three\n\\ No newline at end of file\n" == change.text
    )


def test_only_small_text_is_compared() -> None:
    """What is no text, or is large, is told without lines; so is what goes on too long."""
    long = b"x\n" * (differences.MAX_LINES + 1)
    one = {"binary": b"\0\1", "latin": b"\xff", "long": long, "big": b"x" * (differences.MAX_TEXT + 1), "ok": b"1\n"}
    other = {path: data + b"\0" if path == "binary" else data + b"z" for path, data in one.items()}
    texts = {each.path: each.text for each in with_text(one, other).changed}
    assert {"binary", "latin", "long", "big"} == {path for path, text in texts.items() if text is None}
    wide = {"w": b"".join(b"%d%s\n" % (n, b"y" * 100) for n in range(1500))}
    (change,) = with_text(wide, {"w": wide["w"].replace(b"y", b"z")}).changed
    assert change.text is not None
    assert change.text.endswith("[the rest is left out]\n")
    assert len(change.text) < differences.MAX_SHOWN + 100


def test_lists_have_an_end() -> None:
    """A difference of very many files is counted whole and named in part."""
    many = {f"f{n}": b"" for n in range(differences.MAX_CHANGES + 7)}
    found = compare(manifest({}), manifest(many))
    assert (differences.MAX_CHANGES, 7) == (len(found.added), found.more)
