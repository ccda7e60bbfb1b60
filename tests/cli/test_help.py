"""Help, version and completion: there, complete, and quick."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from ghcoord.faces.cli.main import root_command
from ghcoord.version import __version__
from tests.cli.running import Cli, environment, spawn

VERBS = {
    "": ["init", "demo", "status", "doctor", "worker", "task", "lock", "memory"],
    "worker": ["start", "list", "show", "drain", "reap", "register", "heartbeat", "status", "deregister"],
    "task": ["submit", "list", "show", "wait", "cancel", "retry", "logs"],
    "balance": ["next", "select", "show", "strategy", "rebalance"],
    "lock": ["acquire", "renew", "release", "list", "show", "run", "clean", "force-unlock"],
    "memory": """set get delete list history watch sync sweep set-many delete-many apply namespaces drop export
        import""".split(),
    "session": """create list show metadata exec shell put get checkpoint restore diff destroy clean""".split(),
    "tool": ["list", "call"],
    "artifact": ["put", "get", "list", "delete"],
    "audit": ["log", "blame", "purge"],
}


def commands() -> Iterator[tuple[str, Any]]:
    """Every command, by its name with spaces; groups only where they are commands themselves."""
    root = root_command()
    context = typer.Context(root)
    for name in root.list_commands(context):
        yield from _below(name, root.get_command(context, name))


def _below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None or command.invoke_without_command:
        yield name, command
    for verb, one in (inner or {}).items():
        yield from _below(f"{name} {verb}", one)


NAMES = [name for name, _ in commands()]


def test_the_commands_are_those_that_scripts_rely_on() -> None:
    """No command of the issue is missing."""
    wanted = {f"{noun} {verb}".strip() for noun, verbs in VERBS.items() for verb in verbs} - set(VERBS)
    assert set() == wanted - set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_an_example(cli: Cli, name: str) -> None:
    """--help exits 0, explains every option, fits a terminal, and ends in an example that starts with the command."""
    done = cli(*name.split(), "--help")
    assert 0 == done.code
    text, mark, example = done.out.partition("\nExample:\n")
    assert mark
    assert f"  ghcoord {name}" in example
    assert {"--hub", "--json", "--debug"} <= set(text.replace(",", " ").split())
    assert all(80 >= len(line) for line in text.splitlines())


def test_no_summary_of_the_actions_is_cut(cli: Cli) -> None:
    """Each names its action, which stands at its end."""
    listed = cli("actions", "--help").out.partition("Commands:\n")[2].splitlines()
    assert [True] * 4 == [re.search(r"action '(worker|submit|lock)'\.$", line) is not None for line in listed]


def test_options_explain_themselves() -> None:
    """No option or argument is without a help text."""
    for name, command in commands():
        for parameter in command.params:
            assert parameter.help, (name, parameter.name)


def test_the_root_help_lists_commands_and_exit_codes(cli: Cli) -> None:
    """ghcoord alone and ghcoord --help say the same: commands, exit codes, an example."""
    done = cli("--help")
    assert 0 == done.code
    assert done.out == cli().out
    for part in (*VERBS[""], "Exit codes:", "130  interrupted", "Example:"):
        assert part in done.out


def test_version(cli: Cli) -> None:
    """--version and the word alone print name and version."""
    assert f"ghcoord {__version__}\n" == cli("--version").out == cli("version").out


@pytest.mark.parametrize("name", ["", "lock", *NAMES])
def test_every_way_to_help(cli: Cli, name: str) -> None:
    """-h and 'ghcoord help …' say the same as --help."""
    expected = cli(*name.split(), "--help")
    assert "-h, --help" in expected.out
    assert expected == cli(*name.split(), "-h") == cli("help", *name.split())


def test_a_capital_h_is_the_hub(cli: Cli, hub: Path) -> None:
    """-H names the hub, -h does not."""
    assert "no locks\n" == cli("lock", "list", "-H", hub).out


def test_durations_show_their_defaults(cli: Cli) -> None:
    """No default is shown as bare seconds or in brackets of its own."""
    for name in NAMES:
        shown = cli(*name.split(), "--help").out
        assert "[default: (" not in shown
        assert "[default: 0.0]" not in shown
    assert "default 0s" in cli("lock", "acquire", "--help").out
    assert "user@host" not in cli("lock", "list", "--help").out


def test_a_mistyped_command_is_guessed(cli: Cli) -> None:
    """The line names the command that was probably meant."""
    assert "'lock'" in cli("lok").error


def test_completion_is_there() -> None:
    """The shell's completion lists commands and options."""
    done = subprocess.run(
        [sys.executable, "-m", "ghcoord"],
        env=environment({"_GHCOORD_COMPLETE": "complete_bash", "COMP_WORDS": "ghcoord lock re", "COMP_CWORD": "2"}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ["renew", "release"] == done.stdout.split()


def test_help_imports_nothing_heavy() -> None:
    """Neither help nor version loads what only a real command needs."""
    script = (
        "import sys; from ghcoord.__main__ import main; code = main(sys.argv[2:]); "
        "print([name for name in sys.argv[1].split() if name in sys.modules])"
    )
    heavy = "pygit2 github mcp fastapi rich"
    for names, line in (
        (f"{heavy} pydantic ghcoord.bootstrap", ["--help"]),
        (f"{heavy} pydantic ghcoord.bootstrap", ["--version"]),
        (heavy, ["lock", "acquire", "--help"]),
    ):
        done = spawn(argv=[sys.executable, "-c", script, names, *line])
        assert (0, "[]") == (done.code, done.out.splitlines()[-1]), line


def _seconds(argv: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True, env=environment())
    return time.perf_counter() - started


def test_help_is_quick() -> None:
    """ghcoord --help takes at most 1.5 times importing typer and rich; the fastest of several runs each, in turns."""
    bare, full = [sys.executable, "-c", "import typer, rich"], [sys.executable, "-m", "ghcoord", "--help"]
    for _ in range(3):
        pairs = [(_seconds(bare), _seconds(full)) for _ in range(7)]
        ratio = statistics.median(full for _, full in pairs) / statistics.median(bare for bare, _ in pairs)
        best = min(full for _, full in pairs) / min(bare for bare, _ in pairs)
        if min(ratio, best) <= 1.5:
            return
    pytest.fail(f"the help takes {ratio:.2f} times as long")


def test_durations_show_their_defaults_once_as_one_writes_them(cli: Cli) -> None:
    """Never in seconds with a fraction, nor a second time behind a help text that names it."""
    assert "[default: (30s)]" in " ".join(cli("actions", "unlock", "--help").out.split())
    for name, command in commands():
        for one in command.params:
            if one.metavar == "DURATION" and isinstance(one.default, int | float):
                assert one.show_default is not True, (name, one.name)
                assert not (one.show_default and "default" in one.help), (name, one.name)


def test_examples_of_remote_commands_fit_a_terminal() -> None:
    """At most 80 columns."""
    shown = [command.epilog for name, command in commands() if name.endswith(("mcp token create", "actions submit"))]
    assert 2 == len(shown)
    assert 80 >= max(len(line) for one in shown for line in one.splitlines())
