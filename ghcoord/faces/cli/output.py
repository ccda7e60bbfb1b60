"""Everything that commands print: JSON for scripts, tables and lines for people.

Records come from others, so all that is printed passes :func:`clean`: control
characters show as escapes, and nothing is read as Rich markup.  In a job of
GitHub Actions, whose runner obeys lines such as ``::add-mask::x``, so do the
marks of its commands.  Rich is imported only when something is drawn.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ghcoord.faces.cli.context import invocation, variable

if TYPE_CHECKING:
    from rich.console import Console

_HOSTILE = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # terminal control, C0 and C1
    r"\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"  # line separators and reordering
    r"\ud800-\udfff"  # halves of a character, which cannot be encoded
)
_IN_TEXT = re.compile(f"[{_HOSTILE}]")
_IN_LINE = re.compile(f"[{_HOSTILE}\\t\\n]")
_COMMAND = re.compile(r"(?<!\S):(?=:[A-Za-z])|(?<=##)\[")
"""What makes a command of a runner: ``::name`` after nothing but blanks, here after any, and ``##[`` anywhere."""
_COMMAND_BEGUN = re.compile(rf"{_COMMAND.pattern}|(?<!\S):(?=:?\Z)|#(?=\Z)")
"""The same, and what becomes one when the line goes on."""
_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def clean(text: object) -> str:
    """``text`` as one line that is safe on a terminal: control characters become ``\\x1b``, ``\\n`` …"""
    return _defused(_COMMAND, _IN_LINE.sub(_escape, str(text)))


def clean_text(text: str) -> str:
    """``text`` of several lines, safe on a terminal: line feeds and tabs stay."""
    return _defused(_COMMAND_BEGUN, _IN_TEXT.sub(_escape, text))


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _defused(command: re.Pattern[str], text: str) -> str:
    return command.sub(lambda match: f"\\x{ord(match[0]):02x}", text) if _on_runner() else text


def _on_runner() -> bool:
    return variable("GITHUB_ACTIONS") == "true"


def to_json(value: Any, indent: int | None = 2) -> str:
    """``value`` as JSON that is safe on a terminal and the same value when read back."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    text = _IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return text.replace("##[", "#\\u0023[") if _on_runner() else text


def emit(value: Any) -> None:
    """Print ``value`` as the one JSON document of this command."""
    print(to_json(value))


def emit_line(value: Any) -> None:
    """Print ``value`` as one line of JSON at once, for commands that go on."""
    print(to_json(value, None), flush=True)


def respond(value: Any, plain: Callable[[], None]) -> None:
    """With ``--json`` print ``value``, else call ``plain``, which prints for people."""
    if invocation().json:
        emit(value)
    else:
        plain()


def say(text: object) -> None:
    """Print one cleaned line on standard output."""
    print(clean(text))


def note(text: object) -> None:
    """Print one cleaned line on standard error, at once: what is happening, warnings."""
    print(clean(text), file=sys.stderr, flush=True)


def console(*, stderr: bool = False) -> Console:
    """A Rich console on the present stream: colour on a terminal only, never with ``NO_COLOR``.

    Pass it ``rich.text.Text(clean(…))``, never a record's text as a string: markup is off, but
    control characters would pass.
    """
    from rich.console import Console

    return Console(file=sys.stderr if stderr else sys.stdout, markup=False, highlight=False, emoji=False)


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    keep: Sequence[str] = (),
    right: Sequence[str] = (),
    empty: str = "nothing",
) -> None:
    """Print a table as wide as the terminal, 80 columns where there is none; ``empty`` when it has no rows.

    A cell keeps to one line and loses its end when there is no room.  Columns
    in ``keep`` are shown whole (names and ids are there to be copied), those in
    ``right`` are numbers.  Cells are cleaned; ``None`` is shown as ``-``.
    """
    found = [[("-" if cell is None else clean(cell)) for cell in row] for row in rows]
    if not found:
        print(empty)
        return
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    screen = console()
    natural = [max(cell_len(text) for text in column) for column in zip(headers, *found, strict=True)]
    drawn = Table(box=None, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for header, width in zip(headers, fit(natural, [name in keep for name in headers], screen.width), strict=True):
        whole = header in keep
        drawn.add_column(
            header,
            justify="right" if header in right else "left",
            width=width,
            no_wrap=not whole,
            overflow="fold" if whole else "ellipsis",
        )
    for row in found:
        drawn.add_row(*[Text(cell, style=_STYLES.get(cell, "")) for cell in row])
    screen.print(drawn)


def fit(natural: Sequence[int], keep: Sequence[bool], total: int, gap: int = 2) -> list[int]:
    """Widths of columns that fit ``total`` with ``gap`` between them.

    The widest column gives way first, those to ``keep`` only when the others are down to ten.
    """
    widths = list(natural)
    room = max(total - gap * (len(widths) - 1), len(widths))
    while sum(widths) > room:
        at = max(range(len(widths)), key=lambda i: (not keep[i] and widths[i] > 10, widths[i]))
        widths[at] -= 1
    return widths


_STYLES = {
    "succeeded": "green",
    "active": "green",
    "leased": "cyan",
    "busy": "cyan",
    "failed": "yellow",
    "draining": "yellow",
    "dead": "red",
    "offline": "red",
    "cancelled": "dim",
}


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print ``label  value`` lines with the values aligned; pairs whose value is ``None`` are left out."""
    kept = [(label, value) for label, value in pairs if value is not None]
    width = max((len(label) for label, _ in kept), default=0)
    for label, value in kept:
        print(f"{label:<{width}}  {clean(value)}")
