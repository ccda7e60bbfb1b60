"""Tar streams, written and read member by member, with nothing but the standard library.

The reader is for strangers' archives: it holds no more than one header in
memory, follows nothing, touches no disk, and refuses whatever a checkpoint
cannot have: hard links, devices, FIFOs, sparse files, absolute paths and paths
with ``..``.  It also runs inside sandboxes, in whatever Python is there: see
:mod:`ghcoord.execution.checkpoints.unpack`.
"""

from __future__ import annotations

from collections.abc import Callable

BLOCK = 512
END = b"\0" * (2 * BLOCK)
MAX_EXTENDED = 64 * 1024
FILE, FOLDER, LINK = "file", "folder", "link"
_TYPES = {b"0": FILE, b"\0": FILE, b"5": FOLDER, b"2": LINK}
_NAMES = {b"1": "hard link", b"3": "device", b"4": "device", b"6": "FIFO", b"S": "sparse file"}
_CODES = {FILE: b"0", FOLDER: b"5", LINK: b"2"}


class Refused(Exception):
    """An archive that is not unpacked; the message says why."""


class Member:
    """A file, folder or symbolic link: permission bits, microseconds since the epoch, bytes, the link's text."""

    __slots__ = ("kind", "mode", "mtime_us", "path", "size", "target")

    def __init__(self, path: str, kind: str, mode: int, mtime_us: int, size: int = 0, target: str = "") -> None:
        self.path = path
        self.kind = kind
        self.mode = mode
        self.mtime_us = mtime_us
        self.size = size
        self.target = target


# -- writing


def header(member: Member) -> bytes:
    """What comes before the member's content: a header, with an extended one (pax) where that is too small."""
    path = member.path.encode() + (b"/" if member.kind == FOLDER else b"")
    target = member.target.encode()
    seconds, micros = divmod(member.mtime_us, 1_000_000)
    more = {}
    if len(path) > 100 or not path.isascii():
        more["path"] = path
    if len(target) > 100 or not target.isascii():
        more["linkpath"] = target
    if member.size >= 8**11:
        more["size"] = b"%d" % member.size
    if micros or seconds >= 8**11:
        more["mtime"] = b"%d.%06d" % (seconds, micros)
    plain = _block(
        path[:100], member.mode & 0o777, member.size % 8**11, seconds % 8**11, _CODES[member.kind], target[:100]
    )
    if not more:
        return plain
    body = b"".join(_record(name.encode(), value) for name, value in more.items())
    return _block(b"PaxHeaders/x", 0o644, len(body), 0, b"x", b"") + body + padding(len(body)) + plain


def padding(size: int) -> bytes:
    """What follows a content of ``size`` bytes."""
    return b"\0" * (-size % BLOCK)


def _record(name: bytes, value: bytes) -> bytes:
    rest = len(name) + len(value) + 3
    size = rest + len(str(rest))
    size = rest + len(str(size))
    return b"%d %s=%s\n" % (size, name, value)


def _block(path: bytes, mode: int, size: int, mtime: int, kind: bytes, target: bytes) -> bytes:
    fields = [
        path.ljust(100, b"\0"),
        b"%07o\0" % mode,
        b"%07o\0" % 0,
        b"%07o\0" % 0,
        b"%011o\0" % size,
        b"%011o\0" % mtime,
        b" " * 8,
        kind,
        target.ljust(100, b"\0"),
        b"ustar\x0000",
    ]
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


# -- reading


class Tar:
    """The members of the tar stream that ``read(n)`` gives at most ``n`` bytes of; ``b""`` at its end.

    At most ``files`` members of ``size`` bytes together; :class:`Refused` for
    more, and for anything else that is not a checkpoint's.
    """

    def __init__(self, read: Callable[[int], bytes], files: int, size: int) -> None:
        self._read = read
        self._files = files
        self._size = size
        self._left = 0
        self._pad = 0

    def next(self) -> Member | None:
        """The next member, whose content :meth:`read` gives then; ``None`` at the archive's end."""
        while self.read(1 << 20):
            pass
        self._exactly(self._pad)
        self._pad = 0
        extended: dict[str, str] = {}
        while True:
            block = self._exactly(BLOCK)
            if not block.strip(b"\0"):
                if self._exactly(BLOCK).strip(b"\0"):
                    raise Refused("the archive goes on after its end")
                return None
            if sum(block[:148]) + sum(block[156:]) + 8 * 32 != _octal(block[148:156]):
                raise Refused("the archive is damaged: a header has another sum")
            kind = block[156:157]
            if kind != b"x":
                break
            if extended:
                raise Refused("the archive is damaged: two extended headers for one member")
            extended = self._extended(_octal(block[124:136]))
        return self._member(block, kind, extended)

    def read(self, most: int) -> bytes:
        """The next bytes of the present member's content, at most ``most``; ``b""`` at its end."""
        if self._left == 0:
            return b""
        data = self._read(min(most, self._left))
        if not data:
            raise Refused("the archive ends in the middle of a file")
        self._left -= len(data)
        return data

    def _member(self, block: bytes, kind: bytes, extended: dict[str, str]) -> Member:
        path = extended.get("path")
        if path is None:
            prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
            path = (prefix + "/" if prefix else "") + _text(block[:100])
        if kind not in _TYPES:
            raise Refused("the archive has a " + _NAMES.get(kind, "member of another kind") + ": " + ascii(path[:80]))
        if any(name.startswith("GNU.sparse") for name in extended):
            raise Refused("the archive has a sparse file: " + ascii(path[:80]))
        target = ""
        if _TYPES[kind] == LINK:  # the field holds the beginning only where there is more: perhaps half a character
            target = extended["linkpath"] if "linkpath" in extended else _text(block[157:257])
        member = Member(
            checked(path.rstrip("/") if _TYPES[kind] == FOLDER else path),
            _TYPES[kind],
            _octal(block[100:108]) & 0o777,
            _micros(extended["mtime"]) if "mtime" in extended else _octal(block[136:148]) * 1_000_000,
            _whole(extended["size"]) if "size" in extended else _octal(block[124:136]),
            target,
        )
        if member.kind == LINK and not 0 < len(member.target.encode()) < 4096:
            raise Refused("the archive has a link without a target: " + ascii(path[:80]))
        if member.kind != FILE and member.size:
            raise Refused("the archive is damaged: content where none can be: " + ascii(path[:80]))
        self._files -= 1
        self._size -= member.size
        if self._files < 0:
            raise Refused("the archive has more files and folders than the limit archive_files allows")
        if self._size < 0:
            raise Refused("the archive's files have more bytes than the limit archive_mb allows")
        self._left = member.size
        self._pad = -member.size % BLOCK
        return member

    def _extended(self, size: int) -> dict[str, str]:
        if size > MAX_EXTENDED:
            raise Refused(f"the archive is damaged: an extended header of {size} bytes")
        data = self._exactly(size)
        self._exactly(-size % BLOCK)
        found = {}
        while data:
            length, _, _ = data.partition(b" ")
            if not length.isdigit() or len(length) > 6 or not len(length) + 4 <= int(length) <= len(data):
                raise Refused("the archive is damaged: an extended header that cannot be read")
            name, equals, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
            if not equals or data[int(length) - 1 : int(length)] != b"\n":
                raise Refused("the archive is damaged: an extended header that cannot be read")
            found[_text(name)] = _text(value)
            data = data[int(length) :]
        return found

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._read(size - len(data))
            if not more:
                raise Refused("the archive ends too early")
            data += more
        return data


def checked(path: str) -> str:
    """``path`` when it stays where it is unpacked; raises :class:`Refused`."""
    if path.startswith("/"):
        raise Refused("path must be relative to workspace root, got absolute path: " + ascii(path[:80]))
    parts = path.split("/")
    if ".." in parts:
        raise Refused("path traversal not allowed: " + ascii(path[:80]))
    if "" in parts or "." in parts or "\0" in path:
        raise Refused("not the path of a file: " + ascii(path[:80]))
    return path


def _text(data: bytes) -> str:
    try:
        return data.partition(b"\0")[0].decode()
    except UnicodeDecodeError:
        raise Refused("the archive has a name that is not UTF-8") from None


def _octal(data: bytes) -> int:
    text = data.strip(b"\0 ")
    if not all(48 <= digit <= 55 for digit in text):
        raise Refused("the archive is damaged: a header with a bad number")
    return int(text or b"0", 8)


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise Refused("the archive is damaged: a header with a bad number")
    return int(text)


def _micros(text: str) -> int:
    seconds, _, fraction = text.partition(".")
    return _whole(seconds) * 1_000_000 + (_whole(fraction[:6].ljust(6, "0")))
