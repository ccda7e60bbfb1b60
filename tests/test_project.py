"""The package as a whole: its public names, what importing it costs, and rules that no linter has."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ghcoord

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ghcoord"
MAX_LINES = 400
TEST_COMMAND = "pip install -e '.[all,test]' && pytest"
DEMO_COMMAND = "pip install -e '.[all,test]' && ghcoord demo"


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def names_the_root(node: ast.AST) -> bool:
    """Whether a statement imports the root package itself, or a name that it re-exports."""
    if isinstance(node, ast.ImportFrom):
        return node.module == "ghcoord" or node.level > 0
    if isinstance(node, ast.Import):
        return any(n.name == "ghcoord" or (n.name.startswith("ghcoord.") and n.asname is None) for n in node.names)
    return False


def imports_of_the_root(source: str) -> list[int]:
    """The lines of such statements."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt) and names_the_root(node)]


@pytest.mark.parametrize("name", ghcoord.__all__)
def test_public_name_resolves(name: str) -> None:
    """Every name in ``__all__`` leads to something, and ``dir`` shows it."""
    assert getattr(ghcoord, name) is not None
    assert name in dir(ghcoord)


def test_public_names_are_the_documented_ones() -> None:
    """A public name is neither lost nor added by accident."""
    assert {"Hub", "Settings", "WorkerDaemon", "__version__", "connect", "errors"} == set(ghcoord.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    """The lazy loader fails as a module does, so that ``hasattr`` and typos behave."""
    with pytest.raises(AttributeError, match="module 'ghcoord' has no attribute 'conect'"):
        _ = ghcoord.conect  # type: ignore[attr-defined]


def test_import_alone_is_light() -> None:
    """``import ghcoord`` loads none of the heavy dependencies, nor any of its own layers."""
    code = "import ghcoord, sys; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    names = set(loaded.stdout.split())
    assert set() == names & {"pygit2", "pydantic", "typer", "rich", "tenacity", "mcp", "github"}
    assert {"ghcoord", "ghcoord.version"} == {name for name in names if name.partition(".")[0] == "ghcoord"}


def test_the_version_is_written_once() -> None:
    """The build takes the version from the package, so the two cannot differ."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert "ghcoord.version.__version__" == project["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert f"## [{ghcoord.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_type_information_is_shipped() -> None:
    """Type checkers of users see the annotations (PEP 561)."""
    assert (PACKAGE / "py.typed").is_file()


def test_no_module_imports_the_root_package() -> None:
    """Inside the package full modules are imported: the re-exports would close cycles."""
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in modules()
        if path != PACKAGE / "__init__.py"
        for line in imports_of_the_root(path.read_text())
    ]
    assert [] == found


@pytest.mark.parametrize(
    "source",
    [
        "import ghcoord",
        "from ghcoord import Hub",
        "import ghcoord.hub",
        "from . import hub",
        "if x:\n import ghcoord",
    ],
)
def test_the_search_for_root_imports_finds(source: str) -> None:
    """The rule above sees each way of importing the root package."""
    assert 1 == len(imports_of_the_root(source))


def test_full_module_imports_are_not_root_imports() -> None:
    """The rule above lets the right spelling pass."""
    assert [] == imports_of_the_root("from ghcoord.store.base import Oid\nimport ghcoord.ids as ids")


def test_modules_fit_in_a_head() -> None:
    """No module of the package is longer than 400 lines."""
    long = {str(p.relative_to(ROOT)): n for p in modules() if (n := len(p.read_text().splitlines())) > MAX_LINES}
    assert {} == long


def test_nothing_is_left_lying_in_the_root() -> None:
    """What a command wrote into the folder where it was tried did not get into the repository."""
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    found = {name for name in listed if "/" not in name}
    assert {".gitignore", "CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml"} == found


def test_the_two_commands_of_the_readme() -> None:
    """README shows the two commands as they are meant to be run, and CI runs the test command as written."""
    readme = (ROOT / "README.md").read_text()
    assert TEST_COMMAND in readme
    assert DEMO_COMMAND in readme
    assert TEST_COMMAND in (ROOT / ".ci" / "run").read_text()
