"""Holds whatever a test asked of a twin in its own process against GitHub's official descriptions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest

from ghcoord.twin.log import Recorded
from ghcoord.twin.server import Twin
from tests.twin.official import check_documents, check_exchanges, find_schemas

KEPT = 2_000
"""Exchanges that a twin remembers while it is watched."""

ALIKE = 6
"""Exchanges of one operation with one status that are looked at, and GraphQL documents, of those a test makes."""


@contextmanager
def watched(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Record what twins made inside are asked, and fail at the end if any of it is not as GitHub describes it.

    Without the schemas nothing is recorded: :mod:`tests.twin.test_official` says so.
    """
    if find_schemas() is None:
        yield
        return
    twins: list[Twin] = []
    original = Twin.__init__

    @wraps(original)
    def recording(twin: Twin, *arguments: Any, **named: Any) -> None:
        original(twin, *arguments, **named)
        twin.exchanges.record, twin.exchanges.keep = True, KEPT
        twins.append(twin)

    patch.setattr(Twin, "__init__", recording)
    yield
    exchanges = [each for twin in twins for each in twin.exchanges.recorded]
    documents = sorted({each for twin in twins for each in twin.exchanges.documents}, key=len)
    # The longest are those with most in them; the shortest are of another kind than these.
    documents = documents[: ALIKE // 2] + documents[ALIKE // 2 :][-ALIKE // 2 :]
    wrong = check_exchanges(_few_of_each(exchanges)) + check_documents(documents)
    assert not wrong, "not as GitHub describes its APIs:\n" + "\n".join(wrong[:20])


def _few_of_each(exchanges: Iterable[Recorded]) -> Iterator[Recorded]:
    seen: Counter[tuple[str, str, int]] = Counter()
    for each in exchanges:
        key = (each.method, each.template, each.status)
        seen[key] += 1
        if seen[key] <= ALIKE:
            yield each
