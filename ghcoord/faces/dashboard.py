"""The status screen: a dictionary from :mod:`ghcoord.faces.overview` drawn by Rich, in whatever room there is."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from datetime import datetime

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from ghcoord.faces.cli.output import clean
from ghcoord.faces.columns import Column, fit, fit_token, keep_end, lines, share
from ghcoord.faces.phrases import shorten, together
from ghcoord.faces.views import View, in_use
from ghcoord.units import format_duration

STATES = {
    "scheduled": "magenta",
    "blocked": "bright_magenta",
    "queued": "blue",
    "leased": "cyan",
    "failed": "yellow",
    "succeeded": "green",
    "dead": "red",
    "cancelled": "bright_black",
}
"""The queue's states in the order in which a task passes them, with their colours."""

RARE = ("scheduled", "blocked")
"""States that are named only when a task is in them."""

STATUS = {"active": "green", "busy": "cyan", "draining": "yellow", "offline": "bright_black", "silent": "red"}

FULL, EMPTY = "█", "░"

BLANKS = 5
"""Lines between the sections, where there is room for them."""

EVENTS_FIRST = 6
"""Events that count more than blank lines."""

RECOVERY_LINES = 3

NARROWEST = 40
"""Columns below which lines are cut rather than arranged."""

_ASCII = str.maketrans({"█": "#", "░": ".", "…": "~", "─": "-", "·": "|"})


class Dashboard:
    """Draws ``view`` in at most ``height`` lines (default: what the console offers; 0: all there is).

    ``trouble`` is shown in the header: why what is shown may be old; ``past`` instead of it, when this was.
    """

    def __init__(self, view: View, *, trouble: str = "", past: str = "", height: int | None = None) -> None:
        self._view = view
        self._trouble = trouble
        self._past = past
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = self._height if self._height is not None else options.height or options.size.height
        for line in self.draw(options.max_width, height):
            if options.ascii_only:
                line.plain = line.plain.translate(_ASCII)
            line.no_wrap, line.overflow = True, "crop"
            yield line

    def draw(self, width: int, height: int) -> list[Text]:
        """The lines, at most ``width`` cells each and ``height`` in number (0 for all)."""
        width = max(NARROWEST, width)
        view = self._view
        workers = sorted(view["workers"], key=lambda w: (w["status"] == "offline", w["id"]))
        events = together(view["events"], longest=max(16, (width - 50) // 2))
        head, queue, recovery = self._header(width), self._queue(width), self._recovery(width)
        wanted = [max(1, len(rows)) for rows in (workers, view["locks"], events)]
        fixed = len(head) + len(queue) + len(recovery) + len(wanted)
        room = max(3, height - fixed) if height else sum(wanted) + BLANKS
        given = share(room, wanted, last=2)
        spare = room - sum(given)
        if spare < BLANKS <= spare + given[2] - EVENTS_FIRST:
            given[2] -= BLANKS - spare
            spare = BLANKS
        shown, more = _some(workers, given[0])
        locks, more_locks = _some(view["locks"], given[1])
        blocks = [
            head,
            self._workers(shown, width) + (more or _none(workers, "none: start one with 'ghcoord worker start'")),
            queue,
            self._locks(locks, width) + (more_locks or _none(view["locks"], "none is held")),
            self._events(events[: given[2]], width) + _none(events, "nothing has happened yet"),
            recovery,
        ]
        made: list[Text] = []
        for block in blocks:
            if made and spare >= BLANKS:
                made.append(Text())
            made += block
        for line in made:
            line.truncate(width)
        return made[:height] if height else made

    # -- the parts

    def _header(self, width: int) -> list[Text]:
        view = self._view
        clock = datetime.fromisoformat(view["at"]).astimezone().strftime("%H:%M:%S")
        first = Text("ghcoord ", style="bold")
        url = keep_end(view["hub"]["url"], width - len(clock) - len(first) - 2)
        first.append(url, style="not bold cyan")
        first.append(" " * max(2, width - cell_len(first.plain) - len(clock)) + clock, style="not bold")
        if self._trouble:
            return [first, Text(fit(self._trouble, width).rstrip(), style="bold red")]
        if self._past:
            return [
                first,
                Text(fit(f"{self._past} · revision {view['revision']}", width).rstrip(), style="bold yellow"),
            ]
        return [first, Text(f"hub {clean(view['hub']['id'])} · revision {view['revision']}", style="bright_black")]

    def _workers(self, workers: Sequence[View], width: int) -> list[Text]:
        bar = min(30, max(8, (width - 62) // 2))
        status = ["silent" if w["silent"] else w["status"] for w in workers]
        everyone = self._view["workers"]
        alive = sum(w["status"] != "offline" and not w["silent"] for w in everyone)
        title = f"Workers {alive} alive" if everyone else "Workers"
        counts = [in_use(w["capacity"]["active_tasks"], w["capacity"]["max_tasks"]) for w in workers]
        widest = max(map(len, counts), default=0)
        slots = [
            _bar(w["capacity"]["active_tasks"], w["capacity"]["max_tasks"], bar).append(f" {count:>{widest}}")
            for w, count in zip(workers, counts, strict=True)
        ]
        return lines(
            [
                Column(title, [w["id"] for w in workers], cut=True),
                Column("Slots", slots),
                Column("Status", [Text(clean(one), style=STATUS.get(one, "")) for one in status]),
                Column("Sandbox", [_sandbox(w) for w in workers], cut=True),
                Column("Heartbeat", [_ago(w["heartbeat_age"]) for w in workers]),
                Column("Lease", [_left(w["lease_left"]) if w["status"] != "offline" else "-" for w in workers]),
                Column("Pid", [str(w["pid"] or "-") for w in workers], extra=True, right=True),
                Column("Host", [w["hostname"] for w in workers], extra=True),
                Column("Tools", [" ".join(w["capabilities"]["supported_task_types"]) for w in workers], extra=True),
            ],
            width,
        )

    def _queue(self, width: int) -> list[Text]:
        counts = {state: self._view["queue"].get(state, 0) for state in STATES}
        total = sum(counts.values())
        legend = Text("Queue  ", style="bold")
        usual = {state: count for state, count in counts.items() if count or state not in RARE}
        shown = usual if cell_len("Queue  " + _legend(usual)) <= width else {k: v for k, v in usual.items() if v}
        for state, count in shown.items():
            style = f"not bold {STATES[state]}" if count else "not bold bright_black"
            legend.append(f"{state} {count}  ", style=style)
        legend.rstrip()
        bar = Text()
        sizes = _apportion(list(counts.values()), width)
        for size, style in zip(sizes, STATES.values(), strict=True):
            bar.append(FULL * size, style=style)
        return [legend, bar if total else Text(EMPTY * width, style="bright_black")]

    def _locks(self, locks: Sequence[View], width: int) -> list[Text]:
        count = len(self._view["locks"])
        return lines(
            [
                Column(f"Locks {count}" if count else "Locks", [lock["name"] for lock in locks], cut=True),
                Column("Owner", [lock["owner"] for lock in locks], cut=True),
                Column("Token", [str(lock["token"]) for lock in locks], style="magenta"),
                Column("Time left", [_left(lock["lease_left"]) for lock in locks]),
                Column("Since", [_clock(lock["acquired_at"]) for lock in locks], extra=True),
            ],
            width,
        )

    def _events(self, events: Sequence[tuple[str, str]], width: int) -> list[Text]:
        ages = {event["at"]: event["age"] for event in self._view["events"]}
        made = [Text("Recent events", style="bold")]
        widest = max((len(_ago(ages[at])) for at, _ in events), default=0)
        for at, text in events:
            line = Text(fit(_ago(ages[at]), widest, right=True), style="bright_black")
            line.append("  " + fit_token(text, width - widest - 2).rstrip(), style="default")
            made.append(line)
        return made

    def _recovery(self, width: int) -> list[Text]:
        recovery = self._view["recovery"]
        parts = []
        for one in recovery["pending"]:
            when = "when a worker runs" if one["seconds"] is None else f"within {_left(one['seconds'], '')}"
            parts.append(f"{shorten(one['worker'], 24)} is silent: its {one['tasks']} tasks are back {when}")
        parts.append(recovery["why"])
        wrapped = textwrap.wrap(clean("; ".join(parts)), max(1, width - len(_RECOVERY)))
        if len(wrapped) > RECOVERY_LINES:
            wrapped[RECOVERY_LINES - 1 :] = [" ".join(wrapped[RECOVERY_LINES - 1 :])]
        style = "not bold yellow" if recovery["seconds"] is None or recovery["pending"] else "not bold"
        indents = [_RECOVERY, *[" " * len(_RECOVERY)] * len(wrapped)]
        return [
            Text(indent, style="bold").append(fit(line, width - len(indent)).rstrip(), style=style)
            for indent, line in zip(indents, wrapped, strict=False)
        ]


_RECOVERY = "Recovery  "


def _some(rows: Sequence[View], count: int) -> tuple[Sequence[View], list[Text]]:
    """As many of ``rows`` as ``count`` lines take, and the line that says how many are left out."""
    if len(rows) <= count:
        return rows, []
    kept = rows[: max(0, count - 1)]
    return kept, [Text(f"… {len(rows) - len(kept)} more", style="bright_black")]


def _none(rows: Sequence[object], what: str) -> list[Text]:
    return [] if rows else [Text(what, style="bright_black")]


def _bar(active: int, most: int, width: int) -> Text:
    """How much of ``most`` is in use; a part of a cell counts as one, so that little is not nothing."""
    used = 0 if most <= 0 else min(width, -(-active * width // most))
    return Text(FULL * used, style="cyan" if used < width else "green").append(
        EMPTY * (width - used), style="bright_black"
    )


def _apportion(parts: Sequence[int], width: int) -> list[int]:
    """``width`` cells split as ``parts`` are, at least one for each that is not nothing."""
    total = sum(parts)
    if total == 0:
        return [0] * len(parts)
    sizes = [max(1, part * width // total) if part else 0 for part in parts]
    sizes[max(range(len(parts)), key=lambda at: parts[at])] += width - sum(sizes)
    return sizes


def _legend(counts: dict[str, int]) -> str:
    return "  ".join(f"{state} {count}" for state, count in counts.items())


def _sandbox(worker: View) -> str:
    found = worker["sandbox"]
    return "-" if found is None else "none" if found["tier"] == "none" else f"{found['driver']}, {found['tier']}"


def _ago(seconds: float) -> str:
    whole = int(max(0.0, seconds))
    return "now" if whole == 0 else f"{format_duration(whole)} ago"


def _left(seconds: float, word: str = " left") -> str:
    if seconds > 0:
        return f"{format_duration(int(seconds))}{word}"
    return f"over {format_duration(int(-seconds))}" if seconds <= -1 else "over"


def _clock(at: str) -> str:
    return datetime.fromisoformat(at).astimezone().strftime("%H:%M:%S")
