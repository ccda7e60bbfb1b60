"""Identifiers: made, checked, and turned into path and ref components."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable

from ghcoord.errors import InvalidName

MAX_NAME = 256
"""Longest accepted name, in characters. Four bytes each stay under the 1,024 that GitHub shows in a path."""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?", re.ASCII)
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")
_MAX_COMPONENT = 180
_ALL_PLAIN = re.compile(rf"[a-z0-9_-]{{1,{_MAX_COMPONENT}}}")


def _base32(value: int, length: int) -> str:
    digits = []
    for _ in range(length):
        digits.append(_ALPHABET[value & 31])
        value >>= 5
    return "".join(reversed(digits))


def new_op_id(randbits: Callable[[int], int]) -> str:
    """An operation id: 100 random bits, so that two never meet."""
    return _base32(randbits(100), 20)


def new_task_id(randbits: Callable[[int], int]) -> str:
    """A task id, short enough to type: 60 random bits after ``t``."""
    return "t" + _base32(randbits(60), 12)


def new_artifact_id(randbits: Callable[[int], int]) -> str:
    """An artifact id: 60 random bits after ``a``."""
    return "a" + _base32(randbits(60), 12)


def new_suffix(randbits: Callable[[int], int]) -> str:
    """Four characters that tell two workers of one host apart."""
    return _base32(randbits(20), 4)


def _shown(text: str) -> str:
    short = text if len(text) <= 40 else text[:37] + "..."
    return ascii(short)


def check_name(text: str, what: str) -> str:
    """``text`` as a lock name or memory key, NFC-normalised.

    Letters of any script, spaces and ``/`` are welcome; refused are empty
    names, over 256 characters, unprintable characters and the segments ``.``
    and ``..``.  Raises :class:`InvalidName`.
    """
    if not text:
        raise InvalidName(f"the {what} is empty: give at least one character")
    if len(text) > MAX_NAME:
        raise InvalidName(f"the {what} has {len(text)} characters: at most {MAX_NAME} are accepted")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidName(f"the {what} {_shown(text)} is not valid UTF-8") from None
    if not text.isprintable():
        raise InvalidName(f"the {what} {_shown(text)} has unprintable characters: remove them")
    if text != text.strip():
        raise InvalidName(f"the {what} {_shown(text)} starts or ends with a space: remove it")
    if any(segment in ("", ".", "..") for segment in text.split("/")):
        raise InvalidName(f"the {what} {_shown(text)} has an empty, '.' or '..' segment: remove it")
    return unicodedata.normalize("NFC", text)


def check_id(text: str, what: str) -> str:
    """``text`` as an id of a task, worker or owner-like thing: ASCII letters, digits, ``. _ -``.

    Raises :class:`InvalidName`.
    """
    if not _ID.fullmatch(text) or ".." in text:
        if not text:
            raise InvalidName(f"the {what} is empty: give at least one character")
        if len(text) > 128:
            raise InvalidName(f"the {what} has {len(text)} characters: at most 128 are accepted")
        raise InvalidName(f"the {what} {_shown(text)} is not accepted: use letters, digits, '.', '_' and '-'")
    return text


def encode_component(name: str) -> str:
    """``name`` as one path or ref component, reversible, the same on every file system.

    Lower-case letters, digits, ``_`` and ``-`` stay; an upper-case ASCII letter
    becomes ``!`` and the small one; a dot stays inside the name; everything
    else is percent-encoded.  What would be longer than 180 characters is cut
    and ends in ``%-`` and a digest: such a component is decoded from its record.
    """
    if _ALL_PLAIN.fullmatch(name):
        return name
    out: list[str] = []
    last = len(name) - 1
    for at, char in enumerate(name):
        if char in _PLAIN:
            out.append(char)
        elif "A" <= char <= "Z":
            out.append("!" + char.lower())
        elif char == "." and 0 < at < last and name[at - 1] != "." and not name.endswith(".lock"):
            out.append(char)
        else:
            out.extend(f"%{byte:02x}" for byte in char.encode())
    encoded = "".join(out)
    if len(encoded) > _MAX_COMPONENT:
        digest = hashlib.sha256(name.encode()).hexdigest()[:32]
        cut = re.sub(r"(%.?|!)$", "", encoded[: _MAX_COMPONENT - 34])
        return f"{cut}%-{digest}"
    return encoded


def decode_component(component: str) -> str | None:
    """The name behind an encoded component.

    ``None`` where only its record knows it, and for what :func:`encode_component` never makes.
    """
    raw = bytearray()
    at = 0
    try:
        while at < len(component):
            char = component[at]
            if char == "%":
                raw += bytes.fromhex(component[at + 1 : at + 3])
                at += 3
            elif char == "!":
                raw += component[at + 1].upper().encode()
                at += 2
            else:
                raw += char.encode()
                at += 1
        name = raw.decode()
    except (ValueError, IndexError):
        return None
    return name if name and encode_component(name) == component else None


def fan_out(name: str) -> tuple[str, str]:
    """Two directory levels for ``name``, two hexadecimal digits each, evenly filled."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return digest[:2], digest[2:4]
