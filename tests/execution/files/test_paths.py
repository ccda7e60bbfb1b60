"""The check of paths and the matching of patterns, against their definitions."""

from __future__ import annotations

import fnmatch
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghcoord.errors import GhcoordError, PathRefused
from ghcoord.execution.files.beneath import Files
from ghcoord.execution.files.entries import Pattern
from ghcoord.execution.files.paths import folder_path, shown, workspace_path

parts = st.sampled_from(["", ".", "..", "a", "b.txt", "...", " ", "\\", "ü", "\0", "-", "\udcff", "\ud800", "x" * 256])
paths = st.lists(parts, max_size=6).map("/".join) | st.text(max_size=30)


@given(paths)
def test_what_is_accepted_stays_inside(path: str) -> None:
    """An accepted path has no part that leads up or to the top, and is accepted again as it is."""
    try:
        clean = folder_path(path)
    except PathRefused as refusal:
        refusal.message.encode()
        return
    assert clean == "." or not {"", ".", ".."} & set(clean.split("/"))
    assert not path.startswith("/")
    assert "\0" not in clean
    assert clean == folder_path(clean)
    if clean != ".":
        assert clean == workspace_path(path)


@given(path=paths, data=st.binary(max_size=20))
def test_any_path_is_written_and_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, path: str, data: bytes
) -> None:
    """Whatever the path: the file comes back as it went, inside, or an error of ours says why not."""
    root = tmp_path_factory.mktemp("workspace", numbered=True)
    with Files(root) as files:
        try:
            files.write(path, data)
        except GhcoordError as refusal:
            refusal.message.encode()
            return
        assert data == files.read(path)[0]
        assert [workspace_path(path)] == [entry.path for entry in files.list(recursive=True) if entry.kind == "file"]
        assert data == (root / workspace_path(path)).read_bytes()


def test_names_are_shown_as_valid_text() -> None:
    """Bytes that are not UTF-8 are spelled out."""
    assert ("a", "ü", "\\xff.txt") == (shown("a"), shown("ü"), shown("\udcff.txt"))


names = st.text("ab-]", max_size=6)
patterns = st.text("ab*?", min_size=1, max_size=8)


@given(name=names, pattern=patterns)
def test_patterns_mean_what_the_shell_means(name: str, pattern: str) -> None:
    """Within a name it is the standard library's meaning."""
    assert fnmatch.fnmatchcase(name, pattern) == Pattern(pattern).matches(f"folder/{name}")


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.py", "a/b.py", True),
        ("*.py", "b.pyc", False),
        ("a/*.py", "a/b.py", True),
        ("a/*.py", "a/b/c.py", False),
        ("a/*.py", "x/a/b.py", False),
        ("a/**/*.py", "a/b.py", True),
        ("a/**/*.py", "a/b/c/d.py", True),
        ("**/b", "b", True),
        ("**/b/**", "a/b/c/d", True),
        ("**", "a/b", True),
        ("/a", "a", True),
        ("[ab]*", "bc", True),
        ("[!ab]*", "bc", False),
        ("[a-c]x", "bx", True),
        ("[a-c]x", "dx", False),
        ("[]]", "]", True),
        ("[", "[", True),
        ("[-a]", "-", True),
        ("a[", "a[", True),
        ("*a*b", "xaxxb", True),
        ("*", ".hidden", True),
    ],
)
def test_patterns(pattern: str, path: str, expected: bool) -> None:
    """A pattern without a slash is for names, one with a slash for whole paths."""
    assert expected == Pattern(pattern).matches(path)


def test_a_wicked_pattern_takes_no_time() -> None:
    """What makes other matchers try all combinations is matched in one go."""
    started = time.monotonic()
    assert not Pattern("*a" * 120 + "b").matches("a" * 250)
    assert not Pattern("/".join(["**", "a"] * 40 + ["b"])).matches("/".join(["a"] * 2000))
    assert time.monotonic() - started < 2.0


def test_paths_are_compared_as_text(tmp_path: Path) -> None:
    """A message about a very long path is short."""
    with pytest.raises(PathRefused) as refusal:
        folder_path("/" + "x" * 10_000)
    assert len(refusal.value.message) < 700
