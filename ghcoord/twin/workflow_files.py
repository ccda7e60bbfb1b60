"""What the workflow files on a repository's default branch say of dispatching them. They are read, never run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from ghcoord.twin.actions import Described
from ghcoord.twin.repository import Repository

FOLDER = ".github/workflows"
TRIGGER = "workflow_dispatch"

MAX_BYTES = 512 * 1024
"""A larger file is taken for one without the trigger."""


def described(repository: Repository) -> Iterator[Described]:
    """The workflows of the default branch as it is now; one that cannot be read has no trigger."""
    head = repository.head(f"refs/heads/{repository.default_branch}")
    commit = repository.commit(head) if head is not None else None
    folder = repository.at_path(commit.tree, FOLDER) if commit is not None else None
    for entry in (repository.tree(folder.oid) or ()) if folder is not None else ():
        if entry.kind == "blob" and entry.name.endswith((".yml", ".yaml")):
            content = repository.blob(entry.oid) if repository.blob_size(entry.oid) <= MAX_BYTES else None
            yield _read(entry.name, content or b"")


def _read(file: str, content: bytes) -> Described:
    try:
        found = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError):
        return Described(file)
    if not isinstance(found, dict):
        return Described(file)
    triggers = found.get("on", found.get(True))  # the word is a truth value in YAML 1.1
    names = [triggers] if isinstance(triggers, str) else triggers if isinstance(triggers, list | dict) else []
    if TRIGGER not in names:
        return Described(file)
    trigger = triggers[TRIGGER] if isinstance(triggers, dict) else None
    inputs = trigger.get("inputs") if isinstance(trigger, dict) else None
    given = {str(name): _default(one) for name, one in inputs.items()} if isinstance(inputs, dict) else {}
    title = found.get("run-name")
    return Described(file, given, title if isinstance(title, str) else None, dispatchable=True)


def _default(told: Any) -> str | None:
    """What an input is when it is not given; ``None`` where it must be."""
    one = told if isinstance(told, dict) else {}
    value = one.get("default")
    if value is None:
        return None if one.get("required") is True else ""
    return str(value).lower() if isinstance(value, bool) else str(value)
