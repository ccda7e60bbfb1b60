"""Manifests: kept and read as they were, and refused when a stranger made them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghcoord.coord.sessions.manifests import (
    INLINE,
    MAX_PATH,
    NO_QUOTA,
    ContentRef,
    FileEntry,
    FolderEntry,
    Manifest,
    ManifestRecord,
    check_checkpoint_id,
    decode_manifest,
    encode_manifest,
    new_checkpoint_id,
)
from ghcoord.errors import Corrupt, InvalidName, NewerSchema, UsageError
from ghcoord.model.codec import stamp
from ghcoord.model.limits import Limits

ID = "c123456789abc"
SHA = "ab" * 32
NAMES = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=20
).filter(lambda name: name not in (".", "..", ".venv") and not name.startswith(".ghcoord-"))


def record(**more: Any) -> ManifestRecord:
    """A manifest's record."""
    return ManifestRecord.model_validate({"id": ID, "session": "s1", "epoch": 5, "created_at": stamp(1e9), **more})


def read(data: bytes, listing: bytes | None = None, limits: Limits = NO_QUOTA) -> Manifest:
    """The manifest in ``data``."""

    def bring(ref: ContentRef) -> bytes:
        assert listing is not None
        assert ref.sha256 == hashlib.sha256(listing).hexdigest()
        return listing

    return decode_manifest(data, "files:m.json", listing=bring, limits=limits)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Trees of folders, files and links."""
    folders: dict[str, FolderEntry] = {}
    files: dict[str, FileEntry] = {}
    links: dict[str, str] = {}
    numbers = st.integers(0, 2**53)
    for name in draw(st.lists(NAMES, max_size=12, unique=True)):
        above = draw(st.sampled_from(["", *folders]))
        path = f"{above}/{name}" if above else name
        if path in folders or path in files or path in links:
            continue
        kind = draw(st.sampled_from(["file", "folder", "link"]))
        if kind == "folder":
            folders[path] = FolderEntry(draw(st.integers(0, 0o777)), draw(numbers))
        elif kind == "file":
            digest = hashlib.sha256(draw(st.binary(max_size=4))).hexdigest()
            files[path] = FileEntry(draw(st.integers(0, 0o777)), draw(st.integers(0, 2**40)), draw(numbers), digest)
        else:
            links[path] = draw(NAMES)
    return Manifest(record(packages=("idna==3.10",), metadata={"ü": [1, {"a": None}]}), files, folders, links)


@settings(max_examples=25, deadline=None)
@given(manifests())
def test_round_trip(manifest: Manifest) -> None:
    """A manifest is read as it was written."""
    data, listing, _ = encode_manifest(manifest)
    assert manifest == read(data, listing)


def test_a_large_manifest_lists_in_a_content_of_its_own() -> None:
    """Beyond a record's size the entries are a content, found by its digest; the record stays small."""
    files = {f"{n:06d}-{'x' * 60}": FileEntry(0o644, n, n, SHA) for n in range(INLINE // 150)}
    manifest = Manifest(record(), files)
    data, listing, known = encode_manifest(manifest)
    assert listing is not None
    assert len(data) < 2000
    assert known == read(data, listing)
    assert {SHA, hashlib.sha256(listing).hexdigest()} == set(known.contents())
    small, none, _ = encode_manifest(Manifest(record(), dict(list(files.items())[:10])))
    assert none is None
    assert 10 == len(read(small).files)


def plain(**more: Any) -> dict[str, Any]:
    """A manifest as JSON."""
    base: dict[str, Any] = {"format": 1, "id": ID, "session": "s1", "epoch": 5, "created_at": "2026-11-21T00:00:00Z"}
    return {**base, **more}


FILE = f"644 3 0 {SHA}"
LONG = "/".join(["d" * 200] * 16)

HOSTILE: dict[str, dict[str, Any]] = {
    "absolute": {"files": {"/etc/passwd": FILE}},
    "traversing": {"folders": {"a": "755 0"}, "files": {"a/../../b": FILE}},
    "only dots": {"files": {"..": FILE}},
    "a dot": {"folders": {".": "755 0"}},
    "empty": {"files": {"": FILE}},
    "two slashes": {"folders": {"a": "755 0"}, "files": {"a//b": FILE}},
    "slash at the end": {"folders": {"a/": "755 0"}},
    "a zero": {"files": {"a\0b": FILE}},
    "a long name": {"files": {"x" * 256: FILE}},
    "a long path": {"folders": {LONG[: n * 201 - 1]: "755 0" for n in range(1, 17)}},
    "below a file": {"files": {"a": FILE, "a/b": FILE}},
    "below a link": {"links": {"a": "/etc"}, "files": {"a/passwd": FILE}},
    "below nothing": {"files": {"a/b": FILE}},
    "file and folder": {"files": {"a": FILE}, "folders": {"a": "755 0"}},
    "file and link": {"files": {"a": FILE}, "links": {"a": "b"}},
    "folder and link": {"folders": {"a": "755 0"}, "links": {"a": "b"}},
    "the environment": {"folders": {".venv": "755 0"}},
    "our own files": {"files": {".ghcoord-task.py": FILE}},
    "setuid": {"files": {"a": f"4755 3 0 {SHA}"}},
    "a mode that is none": {"files": {"a": f"-1 3 0 {SHA}"}},
    "a negative size": {"files": {"a": f"644 -3 0 {SHA}"}},
    "a huge size": {"files": {"a": f"644 99999999999999999999 0 {SHA}"}},
    "no digest": {"files": {"a": "644 3 0 abc"}},
    "an upper-case digest": {"files": {"a": f"644 3 0 {SHA.upper()}"}},
    "too few fields": {"files": {"a": "644"}},
    "an empty target": {"links": {"a": ""}},
    "a target with a zero": {"links": {"a": "b\0c"}},
    "a long target": {"links": {"a": "x" * 5000}},
    "options among the packages": {"packages": ["--index-url=http://evil==1"]},
    "a package by URL": {"packages": ["x @ http://evil/x.whl"]},
    "a package without a version": {"packages": ["idna"]},
    "another id": {"id": "../../x"},
    "an id in capitals": {"id": "CABCDEFGHIJKL"},
    "no files": {"files": []},
    "numbers for files": {"files": {"a": 7}},
    "a listing that is none": {"listing": {"sha256": "x", "size": 1}},
    "a huge listing": {"listing": {"sha256": SHA, "size": 10**12}},
    "too many packages": {"packages": [f"p{n}==1" for n in range(6000)]},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_strangers_manifest_is_refused(name: str) -> None:
    """What no workspace could have given is refused before anything of it is used."""
    with pytest.raises(Corrupt):
        read(json.dumps(plain(**HOSTILE[name])).encode())


@pytest.mark.parametrize(
    "listing", [b"", b"[]", b"{", b'{"files":{},"folders":{}}', b'{"files":{"a":1},"folders":{},"links":{}}']
)
def test_a_strangers_listing_is_refused(listing: bytes) -> None:
    """The listing beside a manifest is checked like the manifest."""
    ref = {"sha256": hashlib.sha256(listing).hexdigest(), "size": len(listing)}
    with pytest.raises(Corrupt):
        read(json.dumps(plain(listing=ref)).encode(), listing)


def test_quotas() -> None:
    """More entries or bytes than the limits allow are refused, and just as many are taken."""
    files = {f"f{n}": f"644 {2**20} 0 {SHA}" for n in range(3)}
    data = json.dumps(plain(files=files)).encode()
    assert 3 == len(read(data, limits=Limits(archive_files=3, archive_mb=3)).files)
    with pytest.raises(Corrupt, match="archive_files"):
        read(data, limits=Limits(archive_files=2))
    with pytest.raises(Corrupt, match="archive_mb"):
        read(data, limits=Limits(archive_mb=2))


def test_newer_versions_are_named() -> None:
    """A manifest of a newer ghcoord is not half understood."""
    with pytest.raises(NewerSchema):
        read(json.dumps(plain(format=99)).encode())


def test_names_that_look_alike_are_two() -> None:
    """Names are compared byte by byte: composed and decomposed letters are two files, as on Linux."""
    files = {"\u00e9": FILE, "e\u0301": FILE}
    assert 2 == len(read(json.dumps(plain(files=files)).encode()).files)


def test_path_of_the_longest_kind() -> None:
    """A path of just the most bytes is taken."""
    parts = ["d" * 249] * (MAX_PATH // 250)
    folders = {"/".join(parts[: n + 1]): "755 0" for n in range(len(parts))}
    assert len(parts) == len(read(json.dumps(plain(folders=folders)).encode()).folders)


def test_ids() -> None:
    """An id that was made is taken, any other text is refused."""
    assert ID == check_checkpoint_id(ID)
    assert 13 == len(check_checkpoint_id(new_checkpoint_id(lambda bits: 12345)))
    for text in ("", "../x", "c", "x" * 13, "c12345678901!"):
        with pytest.raises((InvalidName, UsageError)):
            check_checkpoint_id(text)
