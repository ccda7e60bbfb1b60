"""The generated pages say what the code says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ghcoord.faces.cli.main import EXIT_CODES
from tests.docs.pages import ROOT
from tests.docs.references import COMMAND, cli_reference, exit_codes, python_reference


@pytest.mark.parametrize(("name", "make"), [("cli", cli_reference), ("python", python_reference)])
def test_generated_pages_are_current(name: str, make: Callable[[], str]) -> None:
    """The committed page is what the generator writes from the present code."""
    assert make() == (ROOT / "docs" / f"{name}.md").read_text(), f"run: {COMMAND}"


def test_exit_codes_are_those_of_the_help() -> None:
    """README and the reference list the same codes as ``ghcoord --help``."""
    rows = [line.split("|") for line in exit_codes().splitlines() if line.startswith("| ")][1:]
    readme = (ROOT / "README.md").read_text()
    for _, code, meaning, *_ in rows:
        assert f" {code.strip()} " in EXIT_CODES.replace("\n", " ")
        assert f"| {code.strip()} | {meaning.strip()} |" in readme
