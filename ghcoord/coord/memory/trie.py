"""The ordered index of a namespace's keys: a tree of directories in which every key has one small file, its marker.

A key is written in letters that are the same on every file system and cut
into steps of one or two characters, each a directory.  A marker lies in the
deepest directory that its key shares with another key, and the rest of the key
is its name: a prefix is found in as many trees as it has steps, and what
starts with it in about as many as there are keys.  A key that is made or
deleted moves at most one other marker.

::

    task-1        index/ta/sk/=-1
    task/a/x      index/ta/sk/%2f/=a%2fx
    task/b        index/ta/sk/%2f/=b

A directory has at most 1,701 entries: 38 × 39 steps of plain characters, 218
of other bytes, and the key that ends there.  Keys that share more than
``LEVELS`` steps lie in a fan-out below ``+``, in no order.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain, groupby, islice, pairwise
from typing import NamedTuple

from ghcoord.coord.layout import INDEX, MARKER
from ghcoord.ids import fan_out
from ghcoord.store.base import Entry, Oid, Store
from ghcoord.store.objects import object_id
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.tx import Tx

LEVELS = 40
"""Steps that become directories; with the fan-out below them nothing lies deeper than 45."""

MAX_LEAF = 180
"""Longest name of a marker in characters; of a longer one the end becomes a digest, and the marker has the key."""

_LEAF = "="
_TAIL = "+"
_CUT = "~"
_KEPT = 140
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")
_SAME = object_id("blob", MARKER)


class Marker(NamedTuple):
    """A key that is there; ``ends`` is when its value does, if it has a ttl."""

    key: str
    ends: datetime | None = None


# -- names


def encode(text: str) -> str:
    """``text`` in plain characters, byte by byte: a prefix of the text is a prefix of the result, and the reverse."""
    out = []
    for byte in text.encode(errors="surrogatepass"):
        char = chr(byte)
        if char in _PLAIN:
            out.append(char)
        elif "A" <= char <= "Z":
            out.append("!" + char.lower())
        else:
            out.append(f"%{byte:02x}")
    return "".join(out)


def decode(text: str) -> bytes | None:
    """The bytes behind what :func:`encode` made; ``None`` for what it never makes."""
    raw = bytearray()
    for step in steps(text):
        if step[0] in _PLAIN:
            raw += step.encode()
        elif step[0] == "!" and step[1:].isascii() and step[1:].islower():
            raw += step[1].upper().encode()
        elif step[0] == "%" and len(step) == 3:
            try:
                raw += bytes.fromhex(step[1:])
            except ValueError:
                return None
        else:
            return None
    return bytes(raw)


def steps(text: str) -> list[str]:
    """Encoded text cut into steps: two plain characters where two follow each other, else one."""
    found = []
    at = 0
    while at < len(text):
        size = {"%": 3, "!": 2}.get(text[at], 1)
        if text[at] in _PLAIN and text[at + 1 : at + 2] in _PLAIN:
            size = 2
        found.append(text[at : at + size])
        at += size
    return found


def _leaf(rest: list[str], key: str) -> str:
    text = "".join(rest)
    if len(text) < MAX_LEAF:
        return _LEAF + text
    kept = ""
    for step in rest:
        if len(kept) + len(step) > _KEPT:
            break
        kept += step
    return f"{_LEAF}{kept}{_CUT}{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def _folder(way: list[str], depth: int) -> str:
    return "/".join([INDEX, *way[:depth]])


def place(key: str, depth: int) -> str:
    """The path of the marker of ``key`` in the directory of its first ``depth`` steps."""
    way = steps(encode(key))
    folder = _folder(way, depth)
    if depth == LEVELS and len(way) > LEVELS:
        folder = "/".join([folder, _TAIL, *fan_out(key)])
    return f"{folder}/{_leaf(way[depth:], key)}"


def content(marker: Marker, path: str) -> bytes:
    """What the marker at ``path`` holds: nothing of its own unless the key ends some day or does not fit the name."""
    held = {}
    if marker.ends is not None:
        held["expires_at"] = marker.ends.isoformat().replace("+00:00", "Z")
    if _CUT in path:
        held["key"] = marker.key
    return (json.dumps(held, ensure_ascii=False, sort_keys=True) + "\n").encode() if held else MARKER


def _read(text: str, data: bytes) -> Marker | None:
    """The marker whose steps and name make ``text``; ``None`` for what a person made up."""
    try:
        held = json.loads(data)
        until = held.get("expires_at")
        ends = datetime.fromisoformat(until) if until is not None else None
        if ends is not None and ends.tzinfo is None:
            return None
        if _CUT in text:
            key = str(held["key"])
            return Marker(key, ends) if encode(key).startswith(text.partition(_CUT)[0]) else None
        raw = decode(text)
        return Marker(raw.decode(), ends) if raw else None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def _text(path: str) -> str:
    """What the steps and the name of a marker's path spell."""
    *folders, leaf = path.split("/")[1:]
    if _TAIL in folders:
        folders = folders[: folders.index(_TAIL)]
    return "".join(folders) + leaf.removeprefix(_LEAF)


def arrange(markers: Iterable[Marker]) -> dict[str, bytes]:
    """The whole index of ``markers``: content by path."""
    known = sorted((steps(encode(marker.key)), marker) for marker in markers)
    shared = [0, *(_common(one, other) for (one, _), (other, _) in pairwise(known)), 0]
    found = {}
    for at, (_, marker) in enumerate(known):
        path = place(marker.key, min(max(shared[at], shared[at + 1]), LEVELS))
        found[path] = content(marker, path)
    return found


def _common(one: list[str], other: list[str]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


# -- changing it


class Trie:
    """The index of one namespace inside a transaction."""

    def __init__(self, tx: Tx, space: str) -> None:
        self._tx = tx
        self._space = space

    def put(self, marker: Marker) -> None:
        """Add a key, or give the marker that it has another end."""
        way = steps(encode(marker.key))
        trail = self._descend(way)
        depth = len(trail) - 1
        path = place(marker.key, depth)
        if depth < min(len(way), LEVELS):
            own = path.rpartition("/")[2]
            other = next((name for name in trail[-1] if name != own and _first(name) == way[depth]), "")
            if other:
                self._make_room(way, depth, marker, f"{_folder(way, depth)}/{other}")
                return
        self._write(path, marker)

    def remove(self, key: str) -> bool:
        """Take a key out; ``False`` when it was not there."""
        way = steps(encode(key))
        for depth in range(len(self._descend(way)) - 1, -1, -1):
            path = place(key, depth)
            if self._tx.read(self._space, path) is not None:
                self._tx.delete(self._space, path)
                self._pull_up(way, depth)
                return True
        return False

    def _write(self, path: str, marker: Marker) -> None:
        self._tx.write(self._space, path, content(marker, path))

    def _take(self, path: str) -> Marker | None:
        """The marker at ``path``, which is deleted there."""
        marker = _read(_text(path), self._tx.read(self._space, path) or b"")
        self._tx.delete(self._space, path)
        return marker

    def _descend(self, way: list[str]) -> list[list[str]]:
        """The names in each directory on the ``way``, down to the deepest one that holds a marker at any depth."""
        trail = [self._tx.names(self._space, INDEX)]
        while len(trail) <= min(len(way), LEVELS) and way[len(trail) - 1] in trail[-1]:
            trail.append(self._tx.names(self._space, _folder(way, len(trail))))
        while len(trail) > 1 and not self._holds(_folder(way, len(trail) - 1)):
            trail.pop()  # this batch has emptied it
        return trail

    def _holds(self, folder: str) -> bool:
        return next(self._tx.walk(self._space, folder), None) is not None

    def _make_room(self, way: list[str], depth: int, marker: Marker, path: str) -> None:
        """Put ``marker`` where the one at ``path`` starts with the same step: both go down as far as they agree."""
        other = self._take(path)
        together = [marker] if other is None else [marker, other]
        if other is not None:
            depth = min(_common(way, steps(encode(other.key))), LEVELS)
        for one in together:
            self._write(place(one.key, depth), one)

    def _pull_up(self, way: list[str], depth: int) -> None:
        """Let the last marker in a directory go up to where it has company."""
        left = list(islice(self._tx.walk(self._space, _folder(way, depth)), 2)) if depth else []
        if len(left) != 1:
            return
        marker = self._take(left[0])
        while depth > 0 and not self._holds(_folder(way, depth)):
            depth -= 1
        if marker is not None:
            self._write(place(marker.key, depth), marker)


def _first(name: str) -> str:
    """The first step of a marker's name."""
    return steps(name[1:4])[0] if name.startswith(_LEAF) and len(name) > 1 else ""


# -- reading it


def listed(snapshot: Snapshot, prefix: str = "", after: str | None = None) -> Iterator[Marker]:
    """Markers of the keys that start with ``prefix`` and sort behind ``after``, in the order of the keys, lazily."""
    top = snapshot.entry(INDEX)
    if top is None or not top.is_tree:
        return
    low = after.encode(errors="surrogatepass") if after is not None else b""
    for marker in _Reader(snapshot.store, low).below(top.oid, "", encode(prefix), 0):
        if after is None or marker.key > after:
            yield marker


class _Reader:
    def __init__(self, store: Store, low: bytes) -> None:
        self._store = store
        self._low = low

    def below(self, oid: Oid, done: str, want: str, level: int) -> Iterator[Marker]:
        """Markers below the directory ``oid``, whose steps spell ``done``; ``want`` is what must come next."""
        start = decode(done) or b""
        found: list[tuple[bytes, Entry]] = []
        entries = self._store.tree(oid)
        for entry in entries.values():
            raw = self._wanted(entry, start, want)
            if raw is not None:
                found.append((raw, entry))
        found.sort(key=lambda one: one[0])
        for _, group in groupby(found, key=lambda one: one[0][:1]):
            # What goes on behind one character lies before and behind what goes on behind two.
            single: list[Iterator[Marker]] = []
            others: list[Iterator[Marker]] = []
            for raw, entry in group:
                (single if entry.is_tree and len(raw) == 1 else others).append(self._open(entry, done, want, level))
            yield from heapq.merge(*single, chain.from_iterable(others), key=lambda marker: marker.key)
        tail = entries.get(_TAIL)
        if level == LEVELS and tail is not None and tail.is_tree:
            yield from sorted(self._unordered(tail.oid, done, want), key=lambda marker: marker.key)

    def _wanted(self, entry: Entry, start: bytes, want: str) -> bytes | None:
        """What an entry's name stands for, unless nothing that is asked for can lie there."""
        if entry.is_file and entry.name.startswith(_LEAF):
            text, cut, _ = entry.name[1:].partition(_CUT)
            raw = decode(text) if text.startswith(want) or (cut and want.startswith(text)) else None
            passed = raw is not None and not cut and start + raw <= self._low
            return None if passed else raw
        if not entry.is_tree or steps(entry.name) != [entry.name]:
            return None
        raw = decode(entry.name) if entry.name.startswith(want) or want.startswith(entry.name) else None
        passed = raw is not None and start + raw < self._low[: len(start) + len(raw)]
        return None if passed else raw

    def _open(self, entry: Entry, done: str, want: str, level: int) -> Iterator[Marker]:
        if entry.is_tree:
            if level < LEVELS:
                yield from self.below(entry.oid, done + entry.name, want[len(entry.name) :], level + 1)
            return
        marker = _read(done + entry.name[1:], MARKER if entry.oid == _SAME else self._store.blob(entry.oid))
        # Of a name that was cut, only the marker tells whether it starts with the whole prefix.
        if marker is not None and (_CUT not in entry.name or encode(marker.key).startswith(done + want)):
            yield marker

    def _unordered(self, oid: Oid, done: str, want: str) -> Iterator[Marker]:
        start = decode(done) or b""
        for first in self._store.tree(oid).values():
            for second in self._store.tree(first.oid).values() if first.is_tree else ():
                for entry in self._store.tree(second.oid).values() if second.is_tree else ():
                    if entry.is_file and self._wanted(entry, start, want) is not None:
                        yield from self._open(entry, done, want, LEVELS)
