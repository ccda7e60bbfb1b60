"""What differs between two checkpoints: files, packages, metadata, settings, and on request the text of small files."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from ghcoord.coord.sessions.manifests import FileEntry, Manifest

MAX_CHANGES = 1000
"""Paths that each list names; the counts are of all."""

MAX_TEXT = 256 * 1024
"""Bytes of the largest file whose text is compared."""

MAX_LINES = 2000
"""Lines of the longest one: comparing takes the square of them at worst."""

MAX_SHOWN = 64 * 1024
"""Characters shown of one file's differences, and :data:`MAX_ALL` of all together."""

MAX_ALL = 256 * 1024

_V = TypeVar("_V")

Read = Callable[[str, FileEntry], bytes]
"""Gives a file's content."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Change(_Part):
    """One path. ``size`` is in bytes after, ``was`` before; ``text`` a unified diff where one was asked for."""

    path: str
    kind: str
    size: int | None = None
    was: int | None = None
    text: str | None = None


class Names(_Part):
    """Names that are new, gone, or stand for something else."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing differs."""
        return not (self.added or self.removed or self.changed)


class Diff(_Part):
    """From ``a`` to ``b``, both ids of checkpoints; ``b`` is ``None`` for the workspace as it is.

    ``more`` counts the paths that the lists leave out, which hold at most
    :data:`MAX_CHANGES` each.  Of the settings only names are told: variables
    may be secrets.
    """

    a: str
    b: str | None
    added: tuple[Change, ...] = ()
    removed: tuple[Change, ...] = ()
    changed: tuple[Change, ...] = ()
    more: int = 0
    packages: Names = Names()
    metadata: Names = Names()
    settings: Names = Names()

    @property
    def empty(self) -> bool:
        """Whether nothing differs."""
        lists = (self.added, self.removed, self.changed)
        return not any(lists) and self.packages.empty and self.metadata.empty and self.settings.empty


def compare(
    a: Manifest, b: Manifest, *, read_a: Read | None = None, read_b: Read | None = None, workspace: bool = False
) -> Diff:
    """What leads from ``a`` to ``b``; with both readers also how the text of small files changed.

    ``workspace``: ``b`` stands for the workspace as it is.
    """
    one, other = _things(a), _things(b)
    added = [_change(path, None, other[path]) for path in sorted(other.keys() - one.keys())]
    removed = [_change(path, one[path], None) for path in sorted(one.keys() - other.keys())]
    changed = [
        _change(path, one[path], other[path])
        for path in sorted(one.keys() & other.keys())
        if _content(one[path]) != _content(other[path])
    ]
    lists = (added, removed, changed)
    if read_a is not None and read_b is not None:
        changed[:MAX_CHANGES] = list(_with_text(changed[:MAX_CHANGES], a, b, read_a, read_b))
    return Diff(
        a=a.id,
        b=None if workspace else b.id,
        added=tuple(added[:MAX_CHANGES]),
        removed=tuple(removed[:MAX_CHANGES]),
        changed=tuple(changed[:MAX_CHANGES]),
        more=sum(max(0, len(each) - MAX_CHANGES) for each in lists),
        packages=_packages(a.record.packages, b.record.packages),
        metadata=_names(a.record.metadata, b.record.metadata),
        settings=_names(_settings(a), _settings(b)),
    )


_Thing = tuple[str, int | None, Any]
"""Kind, size, and what makes it the same."""


def _things(manifest: Manifest) -> dict[str, _Thing]:
    return {
        **{path: ("file", each.size, (each.mode, each.sha256)) for path, each in manifest.files.items()},
        **{path: ("folder", None, each.mode) for path, each in manifest.folders.items()},
        **{path: ("link", None, target) for path, target in manifest.links.items()},
    }


def _content(thing: _Thing) -> tuple[str, Any]:
    return thing[0], thing[2]


def _change(path: str, before: _Thing | None, after: _Thing | None) -> Change:
    shown = after or before
    assert shown is not None
    return Change(
        path=path,
        kind=shown[0],
        size=after[1] if after is not None else None,
        was=before[1] if before is not None else None,
    )


def _packages(before: tuple[str, ...], after: tuple[str, ...]) -> Names:
    one, other = (dict(pin.split("==", 1) for pin in pins) for pins in (before, after))
    names = _names(one, other)
    return Names(
        added=tuple(f"{name}=={other[name]}" for name in names.added),
        removed=tuple(f"{name}=={one[name]}" for name in names.removed),
        changed=tuple(f"{name} {one[name]} → {other[name]}" for name in names.changed),
    )


def _names(before: Mapping[str, Any], after: Mapping[str, Any]) -> Names:
    return Names(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(sorted(name for name in before.keys() & after.keys() if before[name] != after[name])),
    )


def _settings(manifest: Manifest) -> dict[str, Any]:
    record = manifest.record
    return {
        **{f"env.{name}": value for name, value in record.env.items()},
        **{f"limits.{name}": value for name, value in record.limits.model_dump(exclude_none=True).items()},
        "allow": record.allow,
        "sandbox": record.sandbox,
        "python": record.python,
    }


def _with_text(changes: list[Change], a: Manifest, b: Manifest, read_a: Read, read_b: Read) -> Iterator[Change]:
    room = MAX_ALL
    for change in changes:
        before, after = a.files.get(change.path), b.files.get(change.path)
        if before is None or after is None or before.sha256 == after.sha256 or room <= 0:
            yield change
            continue
        one, other = (_lines(change.path, *each) for each in ((before, read_a), (after, read_b)))
        if one is None or other is None:
            yield change
            continue
        text = _unified(one, other, change.path, min(room, MAX_SHOWN))
        room -= len(text)
        yield change.model_copy(update={"text": text})


def _lines(path: str, entry: FileEntry, read: Read) -> list[str] | None:
    """The lines of a small text file; ``None`` for any other."""
    if entry.size > MAX_TEXT:
        return None
    try:
        lines = read(path, entry).decode().splitlines(keepends=True)
    except UnicodeDecodeError:
        return None
    return lines if len(lines) <= MAX_LINES and not any("\0" in line for line in lines) else None


def _unified(one: list[str], other: list[str], path: str, most: int) -> str:
    kept: list[str] = []
    for line in difflib.unified_diff(one, other, f"a/{path}", f"b/{path}"):
        most -= len(line) + 1
        if most < 0:
            kept.append("[the rest is left out]\n")
            break
        kept.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    return "".join(kept)
