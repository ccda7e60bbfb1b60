"""The documentation does what it says: its commands and programs are run, its links lead somewhere."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from ghcoord.config import parse_settings
from ghcoord.twin.limits import TwinLimits
from ghcoord.twin.server import Twin
from tests.docs.pages import NOT_RUN, ROOT, Block, blocks, name_of, pages, prose, written
from tests.docs.runner import Step, matches, run, steps
from tests.processes import needs_program

Mistakes = Future[list[str]]

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_NEEDS_SANDBOX = ("run.python", "submit shell", "session create", "session_create")
_KNOWN = {"console", "sh", "python", "json", "toml", "ini", "yaml", "text", "mermaid"}


def work(page: Path, folder: Path) -> list[str]:
    """Run a page in ``folder``; its mistakes."""
    (folder / "examples").symlink_to(ROOT / "examples")
    todo = list(steps(blocks(page.read_text())))
    if not any("github:" in step.code for step in todo):
        return run(todo, folder)
    with Twin(folder / ".twin", limits=TwinLimits.published()) as twin:
        token = twin.user("me")
        return run(todo, folder, 120, GH_TOKEN=token, GHCOORD_GITHUB_API=f"{twin.url}/api/v3")


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, Mistakes]]:
    """The pages whose tests were selected, two at a time: most of their time is spent waiting."""
    chosen = [
        item.callspec.params["page"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == test_what_a_page_shows_works.__name__
    ]
    with ThreadPoolExecutor(2) as pool:
        yield {page: pool.submit(work, page, tmp_path_factory.mktemp("page")) for page in chosen}
        pool.shutdown(cancel_futures=True)


_LONG = {"README.md", "docs/benchmarks.md"} | {
    f"docs/how-to/{name}.md"
    for name in (
        "actions",
        "audit",
        "autoscale",
        "balance-load",
        "github",
        "leader-election",
        "locks-for-deploys",
        "look-after-a-hub",
        "mcp",
        "python",
        "repair",
        "run-workers",
        "schedules",
        "sessions",
        "share-memory",
        "task-queue",
    )
}
"""Pages that take more than a few seconds."""


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if name_of(page) in _LONG else ()) for page in written()],
    ids=name_of,
)
def test_what_a_page_shows_works(page: Path, running: dict[Path, Mistakes]) -> None:
    """Every command and program of the page runs in a fresh directory and prints what the page shows."""
    if any(word in step.code for step in steps(blocks(page.read_text())) for word in _NEEDS_SANDBOX):
        needs_program("bwrap")
    mistakes = running[page].result()
    assert not mistakes, f"{name_of(page)}, " + "\n\n".join(mistakes)


@pytest.mark.parametrize("page", written(), ids=name_of)
def test_blocks_are_of_a_known_kind(page: Path) -> None:
    """No block escapes its test by another language or a reason of its own; JSON, TOML and settings are valid."""
    for block in blocks(page.read_text()):
        text = "\n".join(block.lines)
        assert block.language in _KNOWN, f"{name_of(page)}, line {block.at}: {block.language!r}"
        assert block.not_run in ("", *NOT_RUN), f"{name_of(page)}, line {block.at}: {block.not_run!r}"
        if block.language == "json":
            json.loads(text)
        elif block.language == "toml":
            assert tomllib.loads(text)
            parse_settings(text)


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link between files of the repository names a file that is there, and a heading that it has."""
    text = page.read_text()
    for target in _LINK.findall(prose(text)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{name_of(page)} links to {target}"
        if anchor:
            assert anchor in _anchors(path.read_text()), f"{name_of(page)} links to {target}"


def test_every_page_can_be_reached() -> None:
    """From README links lead to every page."""
    seen: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        targets = (target.partition("#")[0] for target in _LINK.findall(prose(page.read_text())))
        todo += [(page.parent / target).resolve() for target in targets if target and ":" not in target]
    assert set() == set(pages()) - seen


def _anchors(text: str) -> set[str]:
    """The names that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# -- the runner itself


@pytest.mark.parametrize(
    ("shown", "printed", "right"),
    [
        (["token 12"], ["token 3456"], True),
        (["a  b"], ["a b"], True),
        (["held by …: 5s left"], ["held by 'ann': 59s left"], True),
        (["first", "…", "last"], ["first", "x", "y", "last"], True),
        (["first", "…", "last"], ["first", "last"], True),
        ([], [], True),
        ([], ["surprise"], False),
        (["first"], ["first", "second"], False),
        (["first", "second"], ["first"], False),
        (["blue"], ["red"], False),
        (["a…c"], ["a", "c"], False),
    ],
)
def test_output_is_compared(shown: list[str], printed: list[str], right: bool) -> None:
    """Numbers and spaces may differ and ``…`` stands for anything; all else has to be as shown."""
    assert right is matches(tuple(shown), printed)


def test_the_runner_finds_mistakes(tmp_path: Path) -> None:
    """Another output, a failing command and a failing program are told with their line; a shown status is compared."""

    def mistakes(language: str, *lines: str) -> str:
        return "\n".join(run(list(steps([Block(language, lines, 1)])), tmp_path))

    assert mistakes("console", "$ echo red", "red", "$ false", "$ echo $?", "1") == ""
    assert "line 3: $ echo red\nshows:\nblue\nprints:\nred" in mistakes("console", "$ echo blue", "$ echo red", "blue")
    assert "line 3: $ echo $?\nshows:\n2\nprints:\n1" not in mistakes("console", "$ false", "$ echo $?", "1")
    assert "exit code 1\nfalse" in mistakes("sh", "false")
    assert "exit code 1" in mistakes("console", "$ true", "$ false | cat", "$ echo never")
    assert "ZeroDivisionError" in mistakes("python", "1 / 0")
    assert "" == mistakes("python", "print('fine')")


def test_a_page_that_hangs_is_stopped(tmp_path: Path) -> None:
    """A command that does not end is killed with all it started."""
    assert "stopped after 0.5 s" in run([Step("sleep 60 & sleep 60", 1)], tmp_path, timeout=0.5)[0]


def test_blocks_are_found() -> None:
    """Indented blocks lose their indent, a mark counts for the next block alone, an open block is an error."""
    text = "<!-- not run: installs -->\n\n  ```sh\n  a\n    b\n  ```\n\n```python\nc\n```\n"
    first, second = blocks(text)
    assert Block("sh", ("a", "  b"), 3, "installs") == first
    assert Block("python", ("c",), 8) == second
    with pytest.raises(ValueError, match="never closed"):
        list(blocks("```sh\na\n"))
