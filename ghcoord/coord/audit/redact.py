"""What of a tool's arguments and output is kept in the audit log: no secrets that can be told, and never much.

A secret is told by the name it goes by (``password``, ``api_key`` …), by its
look (tokens of well-known services, ``Bearer …``, private keys), or because
the user has given it under such a name before.  One that has none of these
is kept: an audit log is as confidential as what passes through it.
"""

from __future__ import annotations

import json
import math
import re
import threading
import unicodedata
from collections import OrderedDict
from typing import Any

REDACTED = "[redacted]"

MAX_TEXT = 4000
"""Characters kept of one text."""

MAX_KEY = 200
"""Characters kept of a key."""

MAX_TOTAL = 8000
"""Characters kept of all arguments, or of one result, together; keys and punctuation count."""

MAX_DEPTH = 12
"""Levels of nesting kept."""

MAX_ITEMS = 500
"""Items kept of one list or object."""

MAX_KNOWN = 256
"""Secrets of a user that are remembered to be found again; the one unseen for longest is forgotten first."""

MAX_USERS = 64
"""Users whose secrets are remembered."""

SHORTEST_KNOWN = 6
"""Characters of a secret that is remembered: shorter ones would be found in every other word."""

_SLACK = 2000
"""Characters after the cut that are looked at as well: a secret must not hide by being cut in two."""

_STRONG = (
    "password|passwd|passphrase|secret|credential|authorization|apikey|accesskey|privatekey|signingkey|"
    "encryptionkey|sessionkey|clientkey|accountkey|connectionstring"
)
_SECRET_KEY = re.compile(rf"{_STRONG}|^(pwd|pass|auth|bearer|cookies?|setcookie|pin|otp|jwt|pat|sas|sig)$|tokens?$")
_WORDS = frozenset({"token", "tokens", "pwd", "cookie", "cookies", "bearer", "otp", "jwt", "pat"})
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_OPTION = re.compile(r"-{1,2}[A-Za-z][A-Za-z0-9_-]{0,60}")

_NAMED = (
    r"[A-Za-z0-9_.-]{0,40}?(?:pass(?:word|wd|phrase)|pwd|secret|token|credentials?|authorization|"
    r"(?:api|access|private|account|session|signing)[_-]?key)[A-Za-z0-9_-]{0,20}"
)
_LOOKS = re.compile(
    "|".join(
        (
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\Z)",
            r"\bgh[pousr]_[A-Za-z0-9]{10,}",
            r"\bghc_[A-Za-z0-9_-]{20,}",  # of 'ghcoord mcp token create'
            r"\bgithub_pat_[A-Za-z0-9_]{10,}",
            r"\bglpat-[A-Za-z0-9_-]{10,}",
            r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{12,}",
            r"\bsk-[A-Za-z0-9_-]{16,}",
            r"\b[srp]k_(?:live|test)_[A-Za-z0-9]{10,}",
            r"(?<=hooks\.slack\.com/services/)[A-Za-z0-9/_-]{8,}",
            r"\bxox[a-z]-[A-Za-z0-9-]{10,}",
            r"\b(?:npm_|pypi-|hf_|AIza)[A-Za-z0-9_-]{16,}",
            r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*)?",
        )
    )
)
_AFTER_WORD = re.compile(r"\b(bearer|basic)(\s{1,4})[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_IN_URL = re.compile(r"(://[^\s/:@\"']{0,100}:)[^\s/@\"']{1,400}(@)")
_ASSIGNED = re.compile(
    rf"(?<![A-Za-z0-9_.-])({_NAMED}\\{{0,15}}[\"']?\s{{0,4}}(?::=|=>|[=:])\s{{0,4}})"
    r"(?:\"(?:[^\"\\\n]|\\.)*\"?|\\{1,15}\"[^\"\n]*\"?|'[^'\n]*'?|"
    r"(?:bearer|basic|digest|negotiate|token)\s{1,4}[^\s\"',;&}]+|(?!\[redacted\])[^\s\"',;&}]+)",
    re.IGNORECASE,
)
_AS_OPTION = re.compile(rf"(?<!\S)(--?{_NAMED}\s{{1,4}})(?:\"[^\"\n]*\"?|'[^'\n]*'?|[^\s\"'-]\S*)", re.IGNORECASE)
_LOGIN = re.compile(
    r"(\bcurl\b[^\n]{0,400}?\s(?:-u|--user|-U|--proxy-user)[\s=]{0,4}[\"']?[^\s:\"']{1,100}:)(?!\[redacted\])[^\s\"']+"
)
"""``curl -u name:password``."""
_SIGNED = re.compile(r"([?&](?:sig|signature|x-amz-signature|x-goog-signature)=)[^\s&\"'#]{6,}", re.IGNORECASE)
_COOKIE = re.compile(r"\b((?:set-)?cookie\s{0,4}:\s{0,4})[^\s\"'][^\"'\n]*", re.IGNORECASE)
_HINT = re.compile("pass|pwd|secret|token|credential|authorization|key", re.IGNORECASE)
"""What each of the names has in it: most texts have none, and are done with."""

_SHORTEST = 8
"""Characters that a text with a secret in it has at least: ``pwd=1234``."""


def is_secret(key: str) -> bool:
    """Whether what goes by the name ``key`` is taken for a secret."""
    if len(key) > MAX_TEXT:
        return True  # nothing goes by such a name
    parts = [word.lower() for word in _WORD.findall(unicodedata.normalize("NFKC", key))]
    return bool(_SECRET_KEY.search("".join(parts))) or not _WORDS.isdisjoint(parts)


def _counts(key: str) -> bool:
    """Whether a number under the name ``key`` is none of the secret ones: ``max_tokens``, a fencing ``token``."""
    return key.lower().endswith(("token", "tokens"))


def redact(text: str) -> str:
    """``text`` with everything that looks like a secret replaced."""
    if len(text) < _SHORTEST:
        return text
    text = _LOOKS.sub(REDACTED, text)
    if _HINT.search(text):
        text = _ASSIGNED.sub(rf"\1{REDACTED}", text)
        text = _AS_OPTION.sub(rf"\1{REDACTED}", text)
    text = _COOKIE.sub(rf"\1{REDACTED}", text)
    text = _AFTER_WORD.sub(rf"\1\2{REDACTED}", text)
    text = _LOGIN.sub(rf"\1{REDACTED}", text)
    text = _SIGNED.sub(rf"\1{REDACTED}", text)
    return _IN_URL.sub(rf"\1{REDACTED}\2", text)


class Known:
    """Secrets that went by a name that tells, in memory only. Safe to share between threads."""

    def __init__(self) -> None:
        self._secrets: OrderedDict[str, None] = OrderedDict()
        self._forms: tuple[str, ...] = ()
        self._mutex = threading.Lock()

    def learn(self, value: Any, depth: int = 0) -> None:
        """Remember the texts in ``value``, which is a secret."""
        if isinstance(value, dict | list | tuple) and depth < MAX_DEPTH:
            for below in list(value.values() if isinstance(value, dict) else value)[:MAX_ITEMS]:
                self.learn(below, depth + 1)
        if not isinstance(value, str) or len(value.strip()) < SHORTEST_KNOWN:
            return
        text = value.strip()[:_SLACK]
        with self._mutex:
            fresh = text not in self._secrets
            self._secrets[text] = None
            self._secrets.move_to_end(text)
            if len(self._secrets) > MAX_KNOWN:
                self._secrets.popitem(last=False)
            if fresh:  # the longest first: one may be the beginning of another
                forms = {form for one in self._secrets for form in _forms(one)}
                self._forms = tuple(sorted(forms, key=len, reverse=True))

    def mask(self, text: str) -> str:
        """``text`` without the secrets that are known, as they are or as JSON writes them."""
        if len(text) >= SHORTEST_KNOWN:
            for one in self._forms:
                if one in text:
                    text = text.replace(one, REDACTED)
        return text


class KnownByUser:
    """What is known of each user's secrets: what one calls a secret hides nothing in the entries of another."""

    def __init__(self) -> None:
        self._users: OrderedDict[str, Known] = OrderedDict()
        self._mutex = threading.Lock()

    def of(self, user: str) -> Known:
        """That user's."""
        with self._mutex:
            known = self._users.setdefault(user, Known())
            self._users.move_to_end(user)
            if len(self._users) > MAX_USERS:
                self._users.popitem(last=False)
        return known


def _forms(secret: str) -> tuple[str, ...]:
    return secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]


def keep_text(text: str, most: int = MAX_TEXT, known: Known | None = None) -> str:
    """``text`` redacted and cut to ``most`` characters, with a mark that says how many are missing."""
    head = text[: most + _SLACK]
    kept = redact(head if known is None else known.mask(head))
    missing = max(len(kept), len(text)) - most
    return kept if missing <= 0 else f"{kept[:most]}… [{missing} more characters]"


def keep(value: Any, known: Known | None = None) -> Any:
    """``value`` as JSON without its secrets, cut to ``MAX_TOTAL`` characters; never raises.

    What is no JSON is named by its type and not looked into.  Secrets found by
    their names are added to ``known``, and those in there are found anywhere.
    """
    return _Keeper(known).value(value, 0)


class _Keeper:
    """Takes a value apart for as long as there is room."""

    def __init__(self, known: Known | None) -> None:
        self._room = MAX_TOTAL
        self._known = known

    def value(self, value: Any, depth: int) -> Any:
        kept = self._value(value, depth)
        if not isinstance(kept, dict | list):
            self._room -= len(json.dumps(kept)) + 2
        return kept

    def _value(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return keep_text(value, max(0, min(MAX_TEXT, self._room)), self._known)
        if isinstance(value, int):
            return int(value) if abs(value) <= 2**53 else f"[a number of {int(value).bit_length()} bits]"
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(float(value))
        if isinstance(value, bytes | bytearray | memoryview):
            return f"[{len(value)} bytes]"
        if not isinstance(value, dict | list | tuple | set | frozenset):
            return f"[{type(value).__name__[:80]}]"
        if depth >= MAX_DEPTH:
            return "[nested too deeply]"
        try:
            return self._object(value, depth) if isinstance(value, dict) else self._list(value, depth)
        except Exception as error:  # another thread changes it, or it is a strange subclass
            return f"[unreadable: {type(error).__name__}]"

    def _object(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        named = value.get("name", value.get("key"))
        names_secret = isinstance(named, str) and is_secret(named)  # {"name": "password", "value": …}
        for key, below in value.items():
            key = key.decode("latin-1") if isinstance(key, bytes) else key
            if self._room <= 0 or len(kept) == MAX_ITEMS:
                kept["…"] = f"[{len(value) - len(kept)} more]"
                break
            name = keep_text(key if isinstance(key, str) else f"[{type(key).__name__[:80]}]", MAX_KEY, self._known)
            self._room -= len(json.dumps(name)) + 2
            secret = isinstance(key, str) and is_secret(key) and not (_counts(key) and isinstance(below, int | float))
            secret = secret or (names_secret and key == "value")
            kept[name] = self._hidden(below) if secret else self.value(below, depth + 1)
        return kept

    def _hidden(self, value: Any) -> Any:
        """A secret: nothing of it, not its length either."""
        if value is None or isinstance(value, bool):
            return self.value(value, 0)
        if self._known is not None:
            self._known.learn(value)
        self._room -= len(REDACTED) + 2
        return REDACTED

    def _list(self, value: Any, depth: int) -> list[Any]:
        kept: list[Any] = []
        hide = False
        for below in value:
            if self._room <= 0 or len(kept) == MAX_ITEMS:
                kept.append(f"[{len(value) - len(kept)} more]")
                break
            kept.append(self._hidden(below) if hide else self.value(below, depth + 1))
            # A command line, where the word after '--password' is one, or a pair such as a header.
            pair = len(value) == 2 and isinstance(value, list | tuple)
            hide = isinstance(below, str) and (pair or bool(_OPTION.fullmatch(below))) and is_secret(below)
        return kept
