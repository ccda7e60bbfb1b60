"""The attacks on workers and the command line, made through MCP: each attempt, race and argument by the tools' way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ghcoord.errors import PathRefused
from ghcoord.faces.mcp.answer import Answer, Failure
from ghcoord.testing.worker_client_contract import ClientUnderTest
from tests.execution.attacks import harness, naive, test_attacks, test_tool_attacks, test_tool_races
from tests.execution.attacks.attempt import BREACH, Attempt
from tests.execution.attacks.attempts import ATTEMPTS
from tests.execution.attacks.conftest import base
from tests.execution.attacks.harness import Outcome, as_worker
from tests.execution.attacks.stage import SECRET, VARIABLE, Stage, staged
from tests.execution.environment import test_requirements
from tests.execution.files import test_beneath
from tests.mcp.agents import Agent, agent_of
from tests.mcp.benches import local_bench, open_hub, remote_bench
from tests.processes import needs_program

__all__ = ["base"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


# -- code: every attempt to get out of the sandbox, by run_python


def through_mcp(stage: Stage, attempts: Sequence[Attempt]) -> Outcome:
    """Each attempt as an agent makes it, in a session of its own where it needs limits."""
    os.environ[VARIABLE] = SECRET
    held = os.open(stage.facts["secret_file"], os.O_RDONLY)
    os.set_inheritable(held, True)
    folder = stage.base / "workspaces"
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    with open_hub(folder) as hub, local_bench(hub, folder) as bench:
        agent = agent_of(bench)
        shared = agent.session()

        def run(attempt: Attempt, place: Path) -> str:
            limits = dict(attempt.limits)
            session_id = str(agent("session_create", limits=limits).data["session_id"]) if limits else shared
            own = f"import os; os.mkdir('at{place.name}'); os.chdir('at{place.name}')\n"
            try:
                answer = agent(
                    "run_python",
                    session_id=session_id,
                    code=own + attempt.program(),
                    args=[json.dumps(stage.facts), harness.NUMBERS],
                    timeout_s=harness.TIMEOUT,
                )
            except Failure as refused:
                return f"the sandbox failed: {refused}"
            finally:
                if limits:
                    agent("session_destroy", session_id=session_id)
            return answer.text + str(answer.data.get("stderr", ""))

        return harness._each(stage, attempts, run)


@pytest.mark.skipif(os.geteuid() != 0, reason="attempts of a root worker's tasks")
def test_no_attempt_succeeds(tmp_path: Path) -> None:
    """All that the sandbox is attacked with, by way of session_create and run_python; none is left out."""
    needs_program("bwrap")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o111)
    (tmp_path / "workspaces").mkdir()
    attempts = test_attacks.WORKERS["root"].attempts()
    with staged(tmp_path, 0) as stage:
        found = as_worker(0, lambda: through_mcp(stage, attempts), 240)
    assert {one.name for one in ATTEMPTS} == found.keys()
    assert {} == {name: said for name, (succeeded, said) in found.items() if succeeded}
    assert {} == {name: said for name, (_, said) in found.items() if "the sandbox failed" in said}
    ran = [name for name, (_, said) in found.items() if "Traceback" in said or "printed nothing" in said]
    assert len(ran) > len(found) / 2, "the attempts were not made"
    assert BREACH not in str(found.values())


# -- files: what lies in a workspace, and races for it, by fs_read, fs_write and fs_list


class ToolFiles:
    """The worker's files as an agent has them: with names of :class:`Files`, so that its attacks can be used."""

    def __init__(self, bench: ClientUnderTest, agent: Agent, session_id: str) -> None:
        self._bench = bench
        self._agent = agent
        self._id = session_id

    def read(self, path: str) -> tuple[bytes, int]:
        data = self._done(self._agent("fs_read", session_id=self._id, path=path)).data
        return data["contents"].encode(), data["size"]

    def write(self, path: str, content: bytes, *, append: bool = False) -> int:
        answer = self._agent("fs_write", session_id=self._id, path=path, contents=content.decode(), append=append)
        return int(self._done(answer).data["bytes_written"])

    def names(self, path: str = ".", *, recursive: bool = False) -> list[str]:
        answer = self._done(self._agent("fs_list", session_id=self._id, path=path, recursive=recursive))
        return [str(name) for name in answer.data["entries"]]

    def delete(self, path: str) -> int:
        """Agents have no tool for it: by the worker's."""
        result = self._bench.client.execute(self._id, "fs.delete", {"path": path}).result
        return int(result.data["deleted"])

    def _done(self, answer: Answer) -> Answer:
        if answer.failed:
            raise PathRefused(answer.text)
        return answer


@pytest.fixture
def bench(base: Path) -> Iterator[ClientUnderTest]:
    with open_hub(base) as hub, local_bench(hub, base) as made:
        yield made


@pytest.fixture
def session(bench: ClientUnderTest) -> str:
    """A session with a file in a folder."""
    agent = agent_of(bench)
    session_id = agent.session()
    agent("fs_write", session_id=session_id, path="folder/secret", contents="inside")
    return session_id


@pytest.fixture
def files(bench: ClientUnderTest, session: str) -> ToolFiles:
    return ToolFiles(bench, agent_of(bench), session)


@pytest.fixture
def root(bench: ClientUnderTest, base: Path, session: str) -> Path:
    """The session's workspace, from outside."""
    (found,) = base.glob(f"work-w1/sessions/*/*/{session}/workspace")
    return found


@pytest.fixture
def outside(root: Path) -> Path:
    """What must not be reached, beside the workspace."""
    folder = root.parent / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    return folder


test_a_hard_link = test_tool_attacks.test_a_hard_link


def test_races_while_a_folder_becomes_a_link(files: ToolFiles, root: Path, outside: Path) -> None:
    """What a careless way loses (tests/execution/attacks): nothing outside is read, listed or written meanwhile."""
    (outside / "private").touch()
    seen: set[object] = set()
    written = outside / "written"
    attempts: list[tuple[Callable[[], object], Callable[[], bool]]] = [
        (lambda: seen.add(files.read("folder/secret")[0]), lambda: b"secret" in seen),
        (lambda: seen.update(files.names("folder")), lambda: "private" in str(seen)),
        (lambda: seen.update(files.names(recursive=True)), lambda: "private" in str(seen)),
        (lambda: files.write("folder/written", b"x"), written.exists),
        (lambda: files.write("folder/written", b"x", append=True), written.exists),
        (lambda: files.write("folder/written/deep", b"x"), written.exists),
    ]
    with test_tool_races.racing(test_tool_races.SWAPPER, root):
        for attempt, lost in attempts:
            assert not test_tool_races.repeated(attempt, lost, test_tool_races.HELD / 2)
    assert {b"inside", "folder/secret"} <= seen


def test_links_that_lead_out(files: ToolFiles, root: Path, outside: Path) -> None:
    """A careless reader follows them; the tools refuse, and write nothing there."""
    (root / "link").symlink_to(outside / "secret")
    (root / "way").symlink_to(outside)
    assert b"secret" == (root / "link").read_bytes()
    with pytest.raises(ValueError, match="leads out"):
        naive.read(root, "way/secret")
    attempts: list[Callable[[], object]] = [
        lambda: files.read("link"),
        lambda: files.read("way/secret"),
        lambda: files.write("link", b"x"),
        lambda: files.write("way/written", b"x"),
        lambda: files.names("way"),
    ]
    for attempt in attempts:
        with pytest.raises(PathRefused):
            attempt()
    assert ["secret"] == os.listdir(outside)
    assert "secret" == (outside / "secret").read_text()


# -- arguments


def cases(test: Callable[..., object]) -> list[Any]:
    """What another test is parametrised with."""
    found: list[Any] = test.pytestmark[0].args[1]  # type: ignore[attr-defined]
    return found


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Agent, str]]]:
    """An agent with a session, on this process's own worker and on one of the hub's."""
    made = {}
    folders = [tmp_path_factory.mktemp(name) for name in ("local", "remote")]
    for folder in (*folders, *folders[0].parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o011)
    with (
        open_hub(folders[0]) as one,
        open_hub(folders[1]) as two,
        local_bench(one, folders[0]) as local,
        remote_bench(two, folders[1]) as remote,
    ):
        for name, bench in (("local", local), ("remote", remote)):
            agent = agent_of(bench)
            made[name] = agent, agent.session()
        yield made


def refused(agents: dict[str, tuple[Agent, str]], name: str, **arguments: Any) -> list[str]:
    """What each says that refuses a call."""
    said = []
    for agent, session_id in agents.values():
        try:
            answer = agent(name, session_id=session_id, **arguments)
        except Failure as error:
            said.append(error.message)
        else:
            assert answer.failed, (name, arguments, answer)
            said.append(answer.text)
    return said


@pytest.mark.parametrize(("path", "message"), cases(test_beneath.test_paths_that_are_refused))
def test_paths_that_are_refused(agents: dict[str, tuple[Agent, str]], path: str, message: str) -> None:
    """The same as everywhere, by whatever tool takes a path; nothing is made of them."""
    for name, arguments in (
        ("fs_read", {"path": path}),
        ("fs_write", {"path": path, "contents": "x"}),
        ("fs_write", {"path": path, "contents": "x", "append": True}),
        ("fs_list", {"path": path}),
    ):
        for said in refused(agents, name, **arguments):
            assert message in said or "utf-8" in said.lower(), (name, said)
    if path:
        assert len(refused(agents, "run_python", file=path)) == len(agents)
    for agent, session_id in agents.values():
        assert {".venv"} >= {*agent("fs_list", session_id=session_id).data["entries"]}


@pytest.mark.parametrize(("text", "complaint"), cases(test_requirements.test_all_else_is_refused))
def test_requirements_that_are_refused(agents: dict[str, tuple[Agent, str]], text: str, complaint: str) -> None:
    """No option, file or URL reaches the installer by way of pkg_install."""
    for said in refused(agents, "pkg_install", requirements=text):
        assert complaint in said


def test_variables_and_arguments_that_are_refused(agents: dict[str, tuple[Agent, str]]) -> None:
    """NULs and names that are none; options of Python and of the shell are only text."""
    for env in ({"A\0B": "x"}, {"A=B": "x"}, {"": "x"}, {"A": "x\0y"}):
        assert len(agents) == len(refused(agents, "shell", command="true", env=env))
        assert len(agents) == len(refused(agents, "run_python", code="1", env=env))
    for agent, session_id in agents.values():
        answer = agent("run_python", session_id=session_id, code="import sys; print(sys.argv[1:])", args=["-c", "--"])
        assert "['-c', '--']" == answer.text
        assert agent("shell", session_id=session_id, command="-c id").failed
        assert "a\\; id" == agent("echo", session_id=session_id, message="a\\; id").text
