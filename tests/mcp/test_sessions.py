"""Tools for sessions: what an agent gets, whose a session is, and what it is told when one is full, lost or gone."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import pytest
from jsonschema import validate

from ghcoord.errors import GhcoordError, NoCapacity, OutcomeUnknown, SandboxError, Unavailable
from ghcoord.faces.mcp.answer import Answer, Failure
from ghcoord.faces.mcp.call import Services
from ghcoord.faces.mcp.caller import Caller
from ghcoord.faces.mcp.tools.sessions import TOOLS
from ghcoord.hub import Hub
from ghcoord.testing.worker_client import FakeWorkerClient
from tests.mcp.agents import ANN, Agent


@pytest.fixture
def agent(services: Services) -> Agent:
    return Agent(services)


def checked(agent: Agent, name: str, /, **arguments: Any) -> Answer:
    """The answer, whose data suits the tool's schema and is plain JSON."""
    answer = agent(name, **arguments)
    validate(json.loads(json.dumps(answer.data)), dict(agent.specs[name].returns))
    return answer


def test_each_is_described_in_full() -> None:
    """Titles, hints, schemas, and descriptions a model can choose by."""
    for one in TOOLS:
        assert one.title
        assert len(one.description) > 40
        assert "object" == one.arguments["type"] == one.returns["type"]
        assert False is one.arguments["additionalProperties"]
    assert {"session_list", "session_status"} == {one.name for one in TOOLS if one.read_only}
    assert {"session_destroy", "session_restore"} == {one.name for one in TOOLS if one.destructive}


def test_a_session_from_its_creation_to_its_end(agent: Agent, hub: Hub) -> None:
    """Created with settings, listed, looked at, saved, restored, ended; each answer as its schema says."""
    made = checked(agent, "session_create", metadata={"goal": "x"}, env={"TOKEN": "hidden"}, limits={"memory_mb": 512})
    session_id = made.data["session_id"]
    assert ("active", "fake") == (made.data["state"], made.data["worker_id"])
    assert session_id in made.text
    assert "hidden" not in json.dumps(made.data)
    agent("fs_write", session_id=session_id, path="f", contents="saved")
    saved = checked(agent, "session_checkpoint", session_id=session_id, name="mine").data["checkpoint"]
    agent("fs_write", session_id=session_id, path="f", contents="later")
    status = checked(agent, "session_status", session_id=session_id)
    assert [saved["id"]] == [one["id"] for one in status.data["checkpoints"]]
    assert ["fs_write", "fs_write"] == [one["tool"] for one in status.data["recent_calls"]]
    assert saved["id"] in status.text
    restored = checked(agent, "session_restore", session_id=session_id)
    assert (session_id, saved["id"]) == (restored.data["session_id"], restored.data["checkpoint"])
    assert "saved" == agent("fs_read", session_id=session_id, path="f").data["contents"]
    copy = checked(agent, "session_restore", session_id=session_id, checkpoint=saved["id"], as_new=True).data
    assert session_id != copy["session_id"]
    listed = checked(agent, "session_list").data
    assert [copy["session_id"], session_id] == [one["id"] for one in listed["sessions"]]
    assert {"destroyed": True, "session_id": session_id} == checked(
        agent, "session_destroy", session_id=session_id
    ).data
    assert [copy["session_id"]] == [one.id for one in hub.sessions.list()]


def test_a_long_list_comes_in_pages(services: Services, hub: Hub) -> None:
    """Each session once, whatever the page; past the end there is nothing."""
    agent = Agent(services)
    hub.workers.register("fake", max_sessions=50, ttl=3600.0, sandbox=hub.workers.list()[0].sandbox)
    made = [hub.sessions.create(user_id="ann", workspace_id="work", metadata={"n": "x" * 900}).id for _ in range(7)]
    seen, offset = [], 0
    while offset is not None:
        page = checked(agent, "session_list", limit=3, offset=offset).data
        seen += [one["id"] for one in page["sessions"]]
        offset = page["next_offset"]
    assert (sorted(made), 7) == (sorted(seen), page["total"])
    assert [] == agent("session_list", offset=50).data["sessions"]
    assert len(json.dumps(page)) < 2000


ON_A_SESSION: list[tuple[str, dict[str, Any]]] = [
    ("session_status", {}),
    ("session_destroy", {}),
    ("session_checkpoint", {}),
    ("session_restore", {}),
    ("session_restore", {"as_new": True}),
    ("fs_read", {"path": "f"}),
    ("fs_write", {"path": "f", "contents": "x"}),
    ("fs_list", {}),
    ("run_python", {"code": "1"}),
    ("shell", {"command": "true"}),
    ("pkg_install", {"requirements": "idna"}),
    ("test_run", {}),
    ("echo", {"message": "x"}),
]


@pytest.mark.parametrize("caller", [Caller("bob", "work", "x"), Caller("ann", "other", "x"), Caller("", "", "x")])
def test_anothers_session_does_not_exist(agent: Agent, workers: FakeWorkerClient, caller: Caller) -> None:
    """To another user, and in another workspace: the words are those for an id that never was, and nothing is done."""
    session_id = agent.session()
    agent("fs_write", session_id=session_id, path="f", contents="private")
    agent("session_checkpoint", session_id=session_id)
    before, stranger = list(workers.calls), agent.other(caller)
    assert {*stranger.specs} == {name for name, _ in ON_A_SESSION} | {"session_create", "session_list"}
    for name, arguments in ON_A_SESSION:
        refused = []
        for target in (session_id, "s00000000000000000000"):
            with pytest.raises(Failure) as why:
                stranger(name, session_id=target, **arguments)
            refused.append((str(why.value).replace(target, "ID"), why.value.code, why.value.retryable))
        assert refused[0] == refused[1], name
    assert [] == stranger("session_list").data["sessions"]
    assert before == workers.calls
    assert "private" == agent("fs_read", session_id=session_id, path="f").data["contents"]


@pytest.mark.parametrize("wrong", ["", "x" * 129, "../x", "a/b", "a\0b", "\ud800", "s1\n", "ünïcødé"])
def test_ids_that_are_none_are_not_found(agent: Agent, wrong: str) -> None:
    """Whatever text is given for one, the answer is a sentence."""
    for name in ("session_status", "fs_list"):
        with pytest.raises(Failure) as why:
            agent(name, session_id=wrong)
        assert why.value.code in ("NOT_FOUND", "USAGE")


def test_an_id_that_came_again_belongs_to_its_new_owner(agent: Agent, hub: Hub) -> None:
    """A session of the same id that another user made later is not the first one's."""
    session_id = agent.session()
    agent("echo", session_id=session_id, message="x")
    hub.sessions.destroy(session_id)
    hub.sessions.create(session_id, user_id="bob", workspace_id="work")
    with pytest.raises(Failure, match="there is no session"):
        agent("echo", session_id=session_id, message="x")
    bobs = agent.other()
    assert session_id == bobs("session_status", session_id=session_id).data["session_id"]


def test_a_broken_record_is_nobodys(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not found, rather than an error that tells that there is one."""
    from ghcoord.errors import Corrupt

    def broken(session_id: str, **options: Any) -> None:
        raise Corrupt("x")

    monkeypatch.setattr(agent.services.hub.sessions, "get", broken)
    with pytest.raises(Failure, match="there is no session"):
        agent("session_status", session_id="s1")


def test_a_session_that_was_not_made_has_no_name(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its id would lead to calls that find nothing."""
    error: GhcoordError = NoCapacity(f"no worker can have the session s{'0' * 20}: w1 is full")

    def refuse(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(agent.services.workers, "create", refuse)
    with pytest.raises(Failure, match="no worker can have the session: w1 is full"):
        agent("session_create")
    error = SandboxError(f"the session s{'0' * 20} was closed")
    with pytest.raises(Failure, match=r"^the session was closed\. Nothing was made"):
        agent("session_create")


def test_what_a_status_shows_is_dated(agent: Agent, workers: FakeWorkerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures are those of the last command, the newest that are known; a second end is an error, and marked so."""
    session_id = agent.session()
    known = workers.status(session_id).model_copy(update={"calls": 7, "disk": 2.5})
    monkeypatch.setattr(workers, "status", lambda session_id: known)
    status = checked(agent, "session_status", session_id=session_id)
    assert "used as of its last command, the disk as last counted: 2.5 MiB on disk" in status.text
    session = status.data["session"]
    assert (7, 2.5) == (session["calls"], session["usage"]["disk_mb"])
    assert not next(one for one in TOOLS if one.name == "session_destroy").idempotent


def test_asking_whose_a_session_is_does_not_keep_it(agent: Agent, hub: Hub) -> None:
    """Lists and refused calls are no use of a session; a call is."""
    session_id = agent.session()
    hub.sessions.touched()
    agent("session_list")
    agent("session_list", state="active")
    with pytest.raises(Failure):
        agent.other()("session_status", session_id=session_id)
    assert {} == hub.sessions.touched()
    agent("echo", session_id=session_id, message="x")
    assert {session_id} == {*hub.sessions.touched()}


def test_a_full_worker_says_what_to_do(agent: Agent) -> None:
    """Who holds room is told which tool frees some."""
    for _ in range(5):
        agent.session()
    with pytest.raises(Failure, match=r"no room \(5 of 5 sessions\).*session_destroy") as why:
        agent.session()
    assert ("NO_CAPACITY", True) == (why.value.code, why.value.retryable)


def test_no_worker_that_is_good_enough(agent: Agent, hub: Hub) -> None:
    """A weaker sandbox is no silent choice: a person has to name it."""
    from ghcoord.model.worker import SandboxInfo

    hub.workers.register("fake", ttl=3600.0, sandbox=SandboxInfo(driver="landlock", tier="partial"))
    with pytest.raises(Failure, match="tier partial, not full") as refused:
        agent.session()
    assert "worker start" not in str(refused.value), "another worker like that is no help"
    assert "Tell the user: run 'apt-get install bubblewrap'" in refused.value.next_step
    assert "--sandbox landlock" in refused.value.next_step


def test_a_lost_session_says_what_is_lost(agent: Agent, workers: FakeWorkerClient) -> None:
    """Its files, packages and processes; and which tool helps."""
    session_id = agent.session()
    workers.lose(session_id)
    for name in ("echo", "session_checkpoint"):
        arguments: dict[str, Any] = {"message": "x"} if name == "echo" else {}
        with pytest.raises(Failure, match=r"lost with all its files, packages.*no checkpoint.*session_create") as why:
            agent(name, session_id=session_id, **arguments)
        assert "SESSION_LOST" == why.value.code
    assert "lost" == agent("session_status", session_id=session_id).data["state"]


def test_a_restored_session_says_what_is_lost(agent: Agent, workers: FakeWorkerClient) -> None:
    """With the answer of the next call: the checkpoint, and the calls since then whose work is gone."""
    session_id = agent.session()
    agent("fs_write", session_id=session_id, path="f", contents="one")
    saved = agent("session_checkpoint", session_id=session_id).data["checkpoint"]["id"]
    agent.services.runtime.sleep(0.005)  # stamps are of a millisecond
    agent("fs_write", session_id=session_id, path="f", contents="two")
    workers.lose(session_id)
    answer = agent("fs_read", session_id=session_id, path="f")
    assert "one" == answer.data["contents"]
    (notice,) = answer.notices
    assert saved in notice
    assert "known calls since then: fs.write" in notice


def test_a_checkpoint_that_there_is_not(agent: Agent) -> None:
    """Says where to find those that there are."""
    session_id = agent.session()
    with pytest.raises(Failure, match=r"no checkpoint.*session_checkpoint makes one"):
        agent("session_restore", session_id=session_id)
    agent("session_checkpoint", session_id=session_id)
    with pytest.raises(Failure, match=r"no checkpoint 'c-none'.*session_status"):
        agent("session_restore", session_id=session_id, checkpoint="c-none")


@pytest.mark.parametrize("landed", [True, False])
def test_a_lost_answer_is_looked_up(agent: Agent, hub: Hub, monkeypatch: pytest.MonkeyPatch, landed: bool) -> None:
    """A session that was made, restored or ended is so, whatever was heard; what did not happen is an error."""
    session_id = agent.session()
    agent("session_checkpoint", session_id=session_id)

    def lossy(name: str) -> None:
        real = getattr(hub.sessions, name)

        def run(*args: Any, **options: Any) -> Any:
            if landed:
                real(*args, **options)
            raise OutcomeUnknown("no answer came")

        monkeypatch.setattr(hub.sessions, name, run)

    for name in ("create", "restore", "destroy"):
        lossy(name)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("session_create", {}),
        ("session_restore", {"session_id": session_id}),
        ("session_restore", {"session_id": session_id, "as_new": True}),
        ("session_destroy", {"session_id": session_id}),
    ]
    for name, arguments in calls:
        with nullcontext() if landed else pytest.raises((Failure, OutcomeUnknown), match="no answer came"):
            agent(name, **arguments)
    assert (2 if landed else 1) == hub.sessions.count()


def test_what_is_made_is_told_although_the_hub_went_away(
    agent: Agent, hub: Hub, workers: FakeWorkerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error after it would lose the session's id, and its room."""
    make = workers.create

    def away(session_id: str, **options: Any) -> Any:
        raise Unavailable("cannot be reached")

    def made(*args: Any, **options: Any) -> Any:
        session = make(*args, **options)
        monkeypatch.setattr(hub.sessions, "get", away)
        return session

    monkeypatch.setattr(workers, "create", made)
    session_id = agent("session_create").data["session_id"]
    monkeypatch.undo()
    assert hub.sessions.get(session_id) is not None


def test_settings_are_not_converted(agent: Agent) -> None:
    """Text is no number, and nothing unknown is dropped; who the caller is cannot be said."""
    wrong: list[dict[str, Any]] = [
        {"limits": {"memory_mb": "512"}},
        {"user_id": "bob"},
        {"workspace_id": "x"},
        {"session_id": "mine"},
        {"env": {"A": 1}},
        {"sandbox": "none"},
    ]
    for arguments in wrong:
        with pytest.raises(Failure):
            agent("session_create", **arguments)
    assert ANN == agent.caller
