"""Tar streams: ours are read by others, and strangers' are refused."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghcoord.coord.sessions.tarstream import END, FILE, FOLDER, LINK, Member, Refused, Tar, header, padding

NAMES = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=80
).filter(lambda name: name not in (".", "..") and len(name.encode()) <= 255)
PATHS = st.lists(NAMES, min_size=1, max_size=6).map("/".join)
MODES = st.integers(0, 0o777)
TIMES = st.integers(0, 2**53)


def packed(*members: tuple[Member, bytes]) -> bytes:
    """The members as we write them."""
    return b"".join(header(member) + content + padding(len(content)) for member, content in members) + END


def reader(data: bytes, files: int = 1000, size: int = 1 << 30) -> Tar:
    """A reader of ``data``."""
    return Tar(io.BytesIO(data).read, files, size)


def unpacked(data: bytes, **limits: int) -> list[tuple[Member, bytes]]:
    """Every member with its content."""
    tar, found = reader(data, **limits), []
    while (member := tar.next()) is not None:
        found.append((member, b"".join(iter(lambda: tar.read(7000), b""))))
    return found


def fields(member: Member) -> tuple[object, ...]:
    """What makes a member."""
    return tuple(getattr(member, name) for name in Member.__slots__)


@settings(max_examples=25, deadline=None)
@given(
    PATHS,
    MODES,
    TIMES,
    st.binary(max_size=1500),
    st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=300),
)
def test_round_trip(path: str, mode: int, mtime: int, content: bytes, target: str) -> None:
    """Whatever a checkpoint can hold is read as it was written."""
    members = [
        (Member(path, FILE, mode, mtime, len(content)), content),
        (Member(path, FOLDER, mode, mtime), b""),
        (Member(path, LINK, mode, mtime, 0, target), b""),
    ]
    assert [(fields(member), content) for member, content in members] == [
        (fields(member), content) for member, content in unpacked(packed(*members))
    ]


@pytest.mark.parametrize("before", range(97, 101))
def test_a_long_name_of_characters_of_several_bytes(before: int) -> None:
    """The short field holds half of one: what it says is not looked at, whatever the name is."""
    name = "a" * before + "\U0001f600" * 20
    members = [(Member(name, FILE, 0o644, 0, 0), b""), (Member("l", LINK, 0o777, 0, 0, name), b"")]
    assert [name, name] == [member.target or member.path for member, _ in unpacked(packed(*members))]


@settings(max_examples=25, deadline=None)
@given(PATHS, MODES, st.integers(0, 2**45), st.binary(max_size=1500))
def test_the_standard_library_reads_ours(path: str, mode: int, mtime: int, content: bytes) -> None:
    """An export is a tar archive to others, too."""
    data = packed((Member(path, FILE, mode, mtime, len(content)), content), (Member(path, LINK, 0o777, 0, 0, "x"), b""))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        first, second = tar.getmembers()
        file = tar.extractfile(first)
        assert file is not None
        assert (path, mode, len(content), content) == (first.name, first.mode, first.size, file.read())
        assert abs(first.mtime - mtime / 1e6) < 0.001
        assert (path, "x", True) == (second.name, second.linkname, second.issym())


def test_gnu_tar_reads_ours(tmp_path: Path) -> None:
    """The program ``tar`` unpacks an export as it is."""
    long = "/".join(["long" * 20] * 8)
    data = packed(
        (Member("a", FOLDER, 0o755, 10**15), b""),
        (Member("a/ü\n", FILE, 0o640, 1763740800_123456, 3), b"abc"),
        (Member("a/link", LINK, 0o777, 0, 0, "ü\n"), b""),
        (Member(long, FILE, 0o644, 0, 1), b"x"),
    )
    subprocess.run(["tar", "-xf", "-", "-C", str(tmp_path)], input=data, check=True)
    assert b"abc" == (tmp_path / "a/link").read_bytes()
    assert 0o640 == (tmp_path / "a/ü\n").stat().st_mode & 0o777
    assert 1763740800_123456000 == (tmp_path / "a/ü\n").stat().st_mtime_ns
    assert "x" == (tmp_path / long).read_text()


def test_the_reader_takes_what_the_standard_library_writes() -> None:
    """An archive that was packed again by Python, with pax headers, is read."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("ä" * 100)
        info.size, info.mtime = 4, 1763740800.5  # type: ignore[assignment]
        tar.addfile(info, io.BytesIO(b"1234"))
    ((member, content),) = unpacked(out.getvalue())
    assert ("ä" * 100, FILE, 1763740800_500000, b"1234") == (member.path, member.kind, member.mtime_us, content)


def _with(kind: bytes, name: str = "x", target: str = "", size: int = 0, **pax: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    info.pax_headers = pax
    return info.tobuf(tarfile.PAX_FORMAT) + b"\0" * (size + -size % 512) + END


HOSTILE: dict[str, Callable[[], bytes]] = {
    "absolute": lambda: _with(tarfile.REGTYPE, "/etc/passwd"),
    "traversing": lambda: _with(tarfile.REGTYPE, "a/../../b"),
    "traversing in pax": lambda: _with(tarfile.REGTYPE, "a", path="../b"),
    "two slashes": lambda: _with(tarfile.REGTYPE, "a//b"),
    "a dot": lambda: _with(tarfile.REGTYPE, "a/./b"),
    "only a slash": lambda: _with(tarfile.DIRTYPE, "/"),
    "hard link": lambda: _with(tarfile.LNKTYPE, "x", "/etc/shadow"),
    "character device": lambda: _with(tarfile.CHRTYPE),
    "block device": lambda: _with(tarfile.BLKTYPE),
    "fifo": lambda: _with(tarfile.FIFOTYPE),
    "sparse": lambda: _with(tarfile.GNUTYPE_SPARSE),
    "sparse by pax": lambda: _with(tarfile.REGTYPE, **{"GNU.sparse.major": "1"}),
    "global header": lambda: _with(b"g"),
    "unknown": lambda: _with(b"Z"),
    "link to nothing": lambda: _with(tarfile.SYMTYPE),
    "link with content": lambda: _with(tarfile.SYMTYPE, "x", "y", 5),
    "not UTF-8": lambda: _raw(b"\xff\xfe"),
    "bad sum": lambda: b"y" + _with(tarfile.REGTYPE, "x")[1:],
    "cut off": lambda: header(Member("x", FILE, 0o644, 0, 100)) + b"12",
    "no end": lambda: header(Member("x", FOLDER, 0o755, 0)),
    "half an end": lambda: b"\0" * 512,
    "more after the end": lambda: b"\0" * 512 + b"x" * 512,
    "huge pax header": lambda: _huge(),
    "damaged pax header": lambda: _pax(b"99999 path=x\n"),
    "pax record without an end": lambda: _pax(b"9 path=x!"),
    "negative pax length": lambda: _pax(b"-1 path=x\n"),
    "pax size that is no number": lambda: _pax(b"12 size=-12\n"),
    "two pax headers": lambda: _pax(b"10 path=x\n")[:1024] + _pax(b"10 path=y\n"),
    "base 256": lambda: _base256(),
}


def _raw(name: bytes) -> bytes:
    block = bytearray(header(Member("x", FILE, 0o644, 0)))
    block[: len(name)] = name
    return _summed(block) + END


def _summed(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _pax(body: bytes) -> bytes:
    block = bytearray(header(Member("x", FILE, 0o644, 0, len(body))))
    block[156:157] = b"x"
    return _summed(block) + body + padding(len(body)) + header(Member("x", FILE, 0o644, 0)) + END


def _huge() -> bytes:
    block = bytearray(header(Member("x", FILE, 0o644, 0, 2**31)))
    block[156:157] = b"x"
    return _summed(block)


def _base256() -> bytes:
    block = bytearray(header(Member("x", FILE, 0o644, 0)))
    block[124:136] = b"\x80" + b"\xff" * 11
    return _summed(block) + END


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_checkpoint_holds_is_refused(name: str) -> None:
    """A hostile or damaged archive ends in one sentence, whatever it is."""
    with pytest.raises(Refused):
        unpacked(HOSTILE[name]())


def test_quotas() -> None:
    """An archive of too many members, or of too many bytes, is refused before any of that is read."""
    files = packed(*((Member(f"f{n}", FILE, 0o644, 0, 1), b"x") for n in range(5)))
    assert 5 == len(unpacked(files, files=5, size=5))
    with pytest.raises(Refused, match="archive_files"):
        unpacked(files, files=4, size=5)
    with pytest.raises(Refused, match="archive_mb"):
        unpacked(files, files=5, size=4)
    bomb = header(Member("bomb", FILE, 0o644, 0, 2**40))
    with pytest.raises(Refused, match="archive_mb"):
        reader(bomb).next()


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=3000), st.integers(0, 2047), st.integers(0, 255))
def test_damage_is_refused_or_read(noise: bytes, at: int, value: int) -> None:
    """No damage makes the reader do anything but read or refuse."""
    data = bytearray(packed((Member("ü" * 60, FILE, 0o644, 123_456, 3), b"abc")))
    data[at % len(data)] = value
    for each in (bytes(data), noise, noise + bytes(data)):
        with contextlib.suppress(Refused):
            unpacked(each)
