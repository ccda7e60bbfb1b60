"""The pages of the documentation, and the fenced blocks in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

GENERATED = ("docs/cli.md", "docs/python.md")
"""Written by :mod:`tests.docs.references` from the code; their examples are excerpts of it, not to be run."""

SHELL = frozenset({"console", "sh"})
"""Languages of blocks that are run: ``console`` shows what is printed, ``sh`` is only commands."""

NOT_RUN = ("installs", "runs the tests", "needs systemd", "a token of your own", "waits")
"""The only reasons for which a block may be left out."""

_FENCE = re.compile(r"( *)(`{3,})([a-z]*)[^`]*")
_MARK = re.compile(r"\s*<!-- not run: (.+?) -->\s*")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, its lines, the line of its fence, and why it is not run, if it is not."""

    language: str
    lines: tuple[str, ...]
    at: int
    not_run: str = ""


def pages() -> list[Path]:
    """README and every page below ``docs``, decisions left out."""
    below = (page for page in sorted((ROOT / "docs").rglob("*.md")) if "decisions" not in page.parts)
    return [ROOT / "README.md", *below]


def written() -> list[Path]:
    """The pages that people write: all but the generated ones."""
    return [page for page in pages() if name_of(page) not in GENERATED]


def name_of(page: Path) -> str:
    """The path below the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(text: str) -> Iterator[Block]:
    """Every fenced block of a page, in order. Raises ``ValueError`` for a fence that is never closed."""
    lines = text.splitlines()
    at = 0
    mark = ""
    while at < len(lines):
        if found := _MARK.fullmatch(lines[at]):
            mark = found[1]
        elif fence := _FENCE.fullmatch(lines[at]):
            indent, ticks, language = fence.groups()
            end = next((n for n in range(at + 1, len(lines)) if lines[n].strip() == ticks), None)
            if end is None:
                raise ValueError(f"line {at + 1}: the block is never closed")
            yield Block(language, tuple(line.removeprefix(indent) for line in lines[at + 1 : end]), at + 1, mark)
            mark, at = "", end
        elif lines[at].strip():
            mark = ""
        at += 1


def prose(text: str) -> str:
    """The page without its fenced blocks and code spans, where nothing is a link."""
    without = re.sub(r"^( *)(`{3,}).*?^\1\2\s*$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]+`", "", without)
