"""What a runner makes of the lines that a step prints, and of the files that it writes.

By the documentation of workflow commands and by ``ActionCommand`` and ``FileCommandManager`` of the runner: a
line obeys when ``::name props::data`` stands after nothing but blanks, or ``##[name props]data`` anywhere, the
name is one that the runner knows, and commands are not stopped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

KNOWN = (
    *("add-mask", "debug", "echo", "endgroup", "error", "group", "notice", "stop-commands", "warning"),
    *("add-path", "save-state", "set-env", "set-output", "add-matcher", "remove-matcher", "internal-set-repo-path"),
)
DISABLED = ("add-path", "set-env", "set-output", "save-state")
"""Commands that the runner took files for instead."""
SUMMARY_LIMIT = 1024 * 1024
"""Bytes of a step's summary; a larger one is not shown."""
ANNOTATIONS_LIMIT = 10
"""Annotations of each level that a step can have; the rest is not shown."""

_V1 = re.compile(r"##\[([^\]]*)\](.*)", re.DOTALL)


@dataclass(frozen=True)
class Annotation:
    """``level`` is notice, warning or error."""

    level: str
    message: str
    properties: dict[str, str]


@dataclass
class Obeyed:
    """What the runner did because of the lines of a step."""

    annotations: list[Annotation] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    others: list[tuple[str, str]] = field(default_factory=list)
    """Any other command: one that a step of ours never prints."""
    stopped: str | None = None
    open_groups: int = 0

    def line(self, line: str) -> bool:
        """Take a line; whether it was a command."""
        parsed = self._v2(line) or self._v1(line)
        if parsed is None:
            return False
        name, properties, data = parsed
        if self.stopped is not None:
            if name == self.stopped:
                self.stopped = None
                return True
            return False
        if name not in KNOWN:
            return False
        if name == "stop-commands":
            if not data or data.lower() in KNOWN or data == "pause-logging":
                raise AssertionError(f"the runner refuses the token {data!r} for stop-commands")
            self.stopped = data
        elif name in ("notice", "warning", "error"):
            self.annotations.append(Annotation(name, data, properties))
        elif name == "add-mask":
            self.masks.append(data)
        elif name == "group":
            self.groups.append(data)
            self.open_groups += 1
        elif name == "endgroup":
            self.open_groups -= 1
        elif name != "debug":
            self.others.append((name, data))
        return True

    def _v2(self, line: str) -> tuple[str, dict[str, str], str] | None:
        text = line.lstrip()
        end = text.find("::", 2)
        if not text.startswith("::") or end < 0:
            return None
        name, _, given = text[2:end].partition(" ")
        properties = {}
        for pair in filter(None, (part.strip() for part in given.split(","))):
            key, mark, value = pair.partition("=")
            if mark and value:
                properties[key] = _unescape(value, (":", "%3A"), (",", "%2C"))
        return self._known(name), properties, _unescape(text[end + 2 :])

    def _v1(self, line: str) -> tuple[str, dict[str, str], str] | None:
        found = _V1.search(line)
        if found is None:
            return None
        return self._known(found[1].partition(" ")[0]), {}, found[2]

    def _known(self, name: str) -> str:
        return name if name == self.stopped else name.lower()


def _unescape(text: str, *more: tuple[str, str]) -> str:
    for plain, escaped in (*more, ("\r", "%0D"), ("\n", "%0A"), ("%", "%25")):
        text = re.sub(re.escape(escaped), lambda _, plain=plain: plain, text, flags=re.IGNORECASE)
    return text


def read_pairs(file: Path) -> dict[str, str]:
    """What a step wrote into GITHUB_ENV, GITHUB_OUTPUT or GITHUB_STATE. Raises ``ValueError`` as the runner does."""
    found: dict[str, str] = {}
    text = file.read_bytes().decode()  # on Linux only a line feed ends a line
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if not line:
            continue
        equals, heredoc = line.find("="), line.find("<<")
        if equals >= 0 and (heredoc < 0 or equals < heredoc):
            name, value = line[:equals], line[equals + 1 :]
        elif heredoc >= 0:
            name, delimiter = line[:heredoc], line[heredoc + 2 :]
            if not name or not delimiter:
                raise ValueError(f"invalid format {line!r}")
            taken = []
            while True:
                if at >= len(lines):
                    raise ValueError(f"matching delimiter not found {delimiter!r}")
                if lines[at] == delimiter:
                    at += 1
                    break
                taken.append(lines[at])
                at += 1
            value = "\n".join(taken)
        else:
            raise ValueError(f"invalid format {line!r}")
        if not name:
            raise ValueError(f"invalid format {line!r}: a name must not be empty")
        found[name] = value
    return found
