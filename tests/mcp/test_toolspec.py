"""Arguments of tools: what is wrong with them is told as a caller can use it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field

from ghcoord.faces.mcp.answer import Failure
from ghcoord.faces.mcp.toolspec import Arguments, validated


class Several(Arguments):
    """Of a tool with arguments of several kinds."""

    names: tuple[str, ...] = Field(default=("a",), min_length=1)
    part: float = Field(default=1.0, gt=0)
    flag: bool = False
    word: str = Field(default="x", min_length=1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"names": []}, "names: must be a list of at least 1"),
        ({"names": "x"}, "names: must be a list"),
        ({"names": [1]}, "names.0: must be a text"),
        ({"part": 0}, "part: must be more than 0"),
        ({"part": "1"}, "part: must be a number"),
        ({"flag": 1}, "flag: must be true or false"),
        ({"word": ""}, "word: must be a text of at least 1 characters"),
    ],
)
def test_what_is_wrong_is_said_in_words_of_json(given: dict[str, Any], said: str) -> None:
    """No tuples and no inputs: the caller has written JSON. What the tool takes is not what helps here."""
    with pytest.raises(Failure) as why:
        validated(Several, given)
    assert (said, "Correct that and call again.") == (why.value.message, why.value.next_step)
