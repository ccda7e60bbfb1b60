"""Long output of a session's commands: shown up to what an answer takes, from its beginning to its end."""

from __future__ import annotations

import json

import pytest

from ghcoord.faces.mcp.call import Services
from ghcoord.faces.mcp.tools import workspacetext
from ghcoord.model.task import TaskResult
from ghcoord.testing.worker_client import FakeCall, FakeWorkerClient
from tests.mcp.agents import ANN, Agent
from tests.mcp.test_workspace import checked, printing


@pytest.fixture
def agent(services: Services) -> Agent:
    return Agent(services)


def test_the_whole_is_shown_up_to_what_the_docs_say(agent: Agent, workers: FakeWorkerClient) -> None:
    """40,000 characters are not cut, lines or not; where the data has less than the text, that is said."""
    session_id = agent.session()
    for text in ("x" * 40_000, "".join(f"{n}\n" for n in range(7000))):
        printing(workers, output=text, data={"stdout": text, "stderr": "", "exit_code": 0})
        answer = checked(agent, "shell", session_id=session_id, command="x")
        assert (text.rstrip(), text, False) == (answer.text, answer.data["stdout"], answer.data["truncated"])
    text = "\n" * 44_000 + "end"
    printing(workers, output=text, data={"stdout": text, "stderr": "", "exit_code": 0})
    answer = checked(agent, "shell", session_id=session_id, command="x")
    assert answer.text.startswith(text)
    assert "This is all, but stdout and stderr in the structured data are cut" in answer.text
    assert True is answer.data["truncated"]


def test_the_beginning_that_a_record_lacks_was_heard(agent: Agent, workers: FakeWorkerClient) -> None:
    """A worker's record is cut; what came while it ran has it all, and the text begins and ends as the command did."""
    whole = "".join(f"{n}\n" for n in range(1, 100_001))
    kept = f"{whole[:16_384]}\n[… cut …]\n{whole[-49_152:]}"

    def run(call: FakeCall) -> TaskResult:
        for at in range(0, len(whole), 10_000):
            call.log("stdout", whole[at : at + 10_000])
        return TaskResult(
            success=True, output=kept, truncated=True, data={"stdout": kept, "stderr": "", "exit_code": 0}
        )

    workers.on("shell", run)
    answer = checked(agent, "shell", session_id=agent.session(), command="seq 1 100000")
    head, _, tail = answer.text.partition("bytes left out")
    assert head.startswith(whole[:30_000])
    assert whole[-10_000:].rstrip() in tail
    assert "cut" not in answer.text
    assert "redirect to a file and read it with fs_read" in answer.text
    kept_whole = agent.services.outputs.find(ANN, answer.data["full_output"])
    assert kept_whole is not None
    assert whole == kept_whole.text


def test_parts_that_were_heard_are_not_taken_for_the_whole() -> None:
    """From a worker elsewhere only the ends of what it published come: its record is better then."""
    heard = workspacetext.Heard()
    heard.add("stdout", "[… 70 characters …]\n" + "z" * 9000)
    assert {} == heard.whole({"stdout": "begin" + "z" * 3000, "stderr": ""})
    heard.add("stderr", "begin" + "y" * 5000)
    assert {"stderr": "begin" + "y" * 5000} == heard.whole({"stdout": "", "stderr": "begin" + "y" * 2000})


def test_texts_are_shortened_in_their_middle() -> None:
    """Beginning and end stay, in less room than was given; what fits is left alone."""
    assert "short" == workspacetext.fitting("short", 100)
    cut = workspacetext.fitting("begin" + "\1" * 5000 + "end", 1000)
    assert (True, True, True) == (cut.startswith("begin"), cut.endswith("end"), len(json.dumps(cut)) <= 1064)
