"""The runner of these tests does what GitHub documents."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.actions.expressions import ExpressionError, condition, evaluate, interpolate
from tests.actions.runner import Job

ACTION = """
name: tried
description: what the runner is tried with
inputs:
  word: { description: a word, default: "${{ github.actor }}" }
  loud: { description: whether, default: "false" }
outputs:
  said: { description: what was said, value: "${{ steps.say.outputs.said }}" }
runs:
  using: composite
  steps:
    - id: say
      shell: bash
      env: { WORD: "${{ inputs.word }}" }
      run: |
        test -z "${INPUT_WORD:-}"
        printf 'said<<END\\n%s\\nmore\\nEND\\n' "$WORD" >> "$GITHUB_OUTPUT"
        echo "KEPT=$WORD" >> "$GITHUB_ENV"
        echo "$GITHUB_ACTION_PATH" >> "$GITHUB_PATH"
        echo '::warning file=a.txt,title=50%25%2C::a%0Ab'
        echo '::stop-commands::xyz'; echo '::error::hidden'; echo '::xyz::'
        echo "# $WORD" >> "$GITHUB_STEP_SUMMARY"
    - if: inputs.loud == 'true'
      id: loud
      shell: bash
      run: exit 1
    - id: after
      shell: bash
      run: test "$KEPT" = "$WORDS" || test -n "$KEPT"
    - if: failure() && steps.loud.outcome == 'failure'
      id: sorry
      shell: bash
      run: echo sorry
"""


@pytest.fixture
def action(tmp_path: Path) -> Path:
    (tmp_path / "action").mkdir()
    (tmp_path / "action" / "action.yml").write_text(ACTION)
    return tmp_path / "action"


def test_a_composite_action_runs_as_documented(tmp_path: Path, action: Path) -> None:
    """Inputs are no variables, files and commands have their effect, and what is stopped has none."""
    job = Job(tmp_path)
    done = job.use(action, {"word": "hello"})
    assert ("success", {"said": "hello\nmore"}) == (done.outcome, done.outputs)
    assert [("warning", "a\nb", {"file": "a.txt", "title": "50%,"})] == [
        (one.level, one.message, one.properties) for one in done.annotations
    ]
    assert ("hello", "# hello\n", [str(action)]) == (job.env["KEPT"], job.summary, job.path)
    assert "skipped" == done.step("sorry").outcome


def test_a_failed_step_skips_the_others(tmp_path: Path, action: Path) -> None:
    """Only steps that ask for failures run after one."""
    done = Job(tmp_path).use(action, {"loud": "true"})
    assert ["success", "failure", "skipped", "success"] == [one.outcome for one in done.steps]
    assert ("failure", "octocat\nmore") == (done.outcome, done.outputs["said"])


def test_a_cancelled_step_is_interrupted_alone(tmp_path: Path) -> None:
    """The first process gets SIGINT, and what it started does not."""
    job = Job(tmp_path)
    script = "trap 'echo told; exit 3' INT; sleep 30 >/dev/null 2>&1 & echo ready; wait"
    threading.Timer(0.3, job.cancel).start()
    done = job.run(script)
    assert ("cancelled", "SIGINT", 3) == (done.outcome, done.ended_by, done.code)
    assert "skipped" == job.run("true").outcome
    assert "success" == job.run("true", condition_="always()").outcome


@pytest.mark.parametrize(
    ("expected", "expression"),
    [
        (True, "'A' == 'a' && !false"),
        (False, "'' || 0 || null"),
        ("x", "inputs.none || 'x'"),
        (True, "contains(fromJSON('[\"a\", \"b\"]'), 'B')"),
        ("a-1", "format('{0}-{1}', 'a', 1)"),
        (True, "1 == '1' && '2' > 1"),
        ("it's", "'it''s'"),
        ("v", "github['KEY']"),
    ],
)
def test_expressions(expected: object, expression: str) -> None:
    """Values compare, combine and are looked up as the documentation of expressions has it."""
    value = evaluate(expression, {"inputs": {}, "github": {"key": "v"}})
    assert (bool(expected) if isinstance(expected, bool) else expected) == (
        bool(value) if isinstance(expected, bool) else value
    )


def test_expressions_that_are_not_known_are_errors() -> None:
    """The evaluator guesses nothing."""
    for wrong in ("secrets.X", "hashFiles('a')", "1 +", "inputs.a b"):
        with pytest.raises(ExpressionError):
            evaluate(wrong, {"inputs": {}})
    assert "a 1 " == interpolate("a ${{ 1 }} ${{ inputs.none }}", {"inputs": {}})
    assert not condition("true", {"job": {"status": "failure"}})
    assert condition("${{ always() }}", {"job": {"status": "cancelled"}})
