"""Lines of aligned columns that never get wider than they may.

Rich's tables give every column a share of what is missing; here it is said
which columns are whole (tokens), which lose their end (names), and which are
left out where there is no room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from ghcoord.faces.cli.output import clean

GAP = 2
"""Blanks between two columns."""

TOKEN = ", token "
"""Before a fencing token at the end of an event's line."""

SHORTEST = 6
"""Cells that a cut column keeps."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of texts, or of ready-made :class:`Text`\\ s that are all of one width.

    ``cut``: may lose the end of its cells.  ``extra``: shown only where everything fits.
    """

    title: str
    cells: Sequence[str | Text]
    cut: bool = False
    extra: bool = False
    right: bool = False
    style: str = ""

    def width(self) -> int:
        """Cells that the widest of title and cells takes."""
        return max(cell_len(one if isinstance(one, str) else one.plain) for one in (self.title, *self.cells))


def fit(text: str, width: int, *, right: bool = False) -> str:
    """``text``, cleaned, in exactly ``width`` cells; what is cut off shows as ``…``."""
    text = clean(text)
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + "…" if width > 0 else ""
    return " " * (width - length) + text if right else text + " " * (width - length)


def fit_token(text: str, width: int) -> str:
    """As :func:`fit`; what is cut off is taken from before a token at the end, never from the token."""
    head, mark, token = clean(text).rpartition(TOKEN)
    if not mark or not token.isdigit() or len(mark + token) + SHORTEST > width:
        return fit(text, width)
    return (fit(head, min(cell_len(head), width - len(mark + token))) + mark + token).ljust(width)


def keep_end(text: str, width: int) -> str:
    """``text``, cleaned, in at most ``width`` cells, without its beginning where it is longer: for paths."""
    text = clean(text)
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) >= width:
        text = text[1:]
    return "…" + text if width > 0 else ""


def lines(columns: Sequence[Column], width: int) -> list[Text]:
    """The titles and then one line a row, each of at most ``width`` cells."""
    columns = [_cleaned(column) for column in columns]
    shown = list(columns)
    while any(c.extra for c in shown) and _total([c.width() for c in shown]) > width:
        shown.remove(next(c for c in reversed(shown) if c.extra))
    widths = _shrink(shown, width)
    titles = Text("", style="bold")
    made = [titles, *(Text() for _ in shown[0].cells)]
    for at, (column, size) in enumerate(zip(shown, widths, strict=True)):
        gap = " " * (GAP if at else 0)
        titles.append(gap + fit(column.title, size, right=column.right))
        for line, cell in zip(made[1:], column.cells, strict=True):
            line.append(gap)
            if isinstance(cell, Text):
                line.append_text(cell)
                line.append(" " * max(0, size - cell_len(cell.plain)))
            else:
                line.append(fit(cell, size, right=column.right), style=column.style)
    for line in made:
        line.rstrip()
        line.truncate(width)
    return made


def _cleaned(column: Column) -> Column:
    cells = [cell if isinstance(cell, Text) else clean(cell) for cell in column.cells]
    return Column(column.title, cells, column.cut, column.extra, column.right, column.style)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _shrink(columns: Sequence[Column], width: int) -> list[int]:
    """Widths that fit: what is too much is taken from the widest of those that may be cut."""
    widths = [column.width() for column in columns]
    able = [at for at, column in enumerate(columns) if column.cut]
    while _total(widths) > width:
        widest = max(able, key=lambda at: widths[at], default=None)
        if widest is None or widths[widest] <= SHORTEST:
            break
        widths[widest] -= 1
    return widths


def share(room: int, wanted: Sequence[int], last: int) -> list[int]:
    """Rows for each of several lists that want ``wanted`` of them, together ``room`` at most.

    Small lists are shown whole, large ones get the same; what is left goes to
    the list ``last``, if it wants more.
    """
    given = [0] * len(wanted)
    order = [at for at in range(len(wanted)) if at != last] + [last]
    while room > 0 and any(given[at] < wanted[at] for at in order):
        for at in order:
            if room > 0 and given[at] < wanted[at]:
                given[at] += 1
                room -= 1
    return given
