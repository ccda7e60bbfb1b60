"""The acceptance of the issue, with the official inspector as the client: each call is a server of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ghcoord.bootstrap import create
from tests.processes import needs_program

INSPECTOR = ("npx", "-y", "@modelcontextprotocol/inspector@2.12.0", "--cli")

pytestmark = pytest.mark.slow

Inspect = Callable[..., Any]


@pytest.fixture
def inspect(tmp_path: Path) -> Inspect:
    """Run the inspector on ``ghcoord …`` in an empty folder and return what it prints.

    It hands on little of its environment, so the user's home is the test's.
    """
    needs_program("npx")
    home = tmp_path / "home"
    home.mkdir()
    cache = os.environ.get("NPM_CONFIG_CACHE", str(Path.home() / ".npm"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "HOME": str(home), "PATH": path, "NPM_CONFIG_CACHE": cache}
    environment.pop("XDG_STATE_HOME", None)

    def run(*args: str, code: int = 0) -> Any:
        done = subprocess.run(
            [*INSPECTOR, *args, "--format", "json"],
            capture_output=True,
            text=True,
            timeout=110,
            cwd=tmp_path,
            env=environment,
            check=False,
        )
        assert code == done.returncode, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize("named", [False, True], ids=["no hub", "a hub"])
def test_the_tools_are_listed(inspect: Inspect, tmp_path: Path, named: bool) -> None:
    """The command of the issue, as written: names, titles, hints and schemas; the schemas are portable."""
    args = ["ghcoord", "mcp"]
    if named:
        create(tmp_path / "hub.git", state=tmp_path / "state")[0].close()
        args = ["ghcoord", "--hub", "hub.git", "mcp"]
    # --strict fails for schemas that some clients refuse.
    tools = inspect(*args, "--method", "tools/list", "--strict")["result"]["tools"]
    assert len(tools) > 30
    for one in tools:
        assert re.fullmatch("^[a-zA-Z0-9_-]{1,64}$", one["name"])
        assert one["title"]
        hints = {"readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"}
        assert hints <= {*one["annotations"]}, one["name"]
        assert "object" == one["inputSchema"]["type"] == one["outputSchema"]["type"]
    assert named != (tmp_path / "home/.local/state/ghcoord/own-hub.git").is_dir()


@pytest.mark.timeout(300)
def test_work_in_sequence(inspect: Inspect) -> None:
    """session_create, fs_write, run_python, fs_read in sequence, and a dotted name; the session outlives servers."""
    needs_program("bwrap")

    def call(name: str, *pairs: str, args: tuple[str, ...] = ()) -> Any:
        given = ["--tool-arg", *pairs] if pairs else []
        answer = inspect("ghcoord", "mcp", *args, "--method", "tools/call", "--tool-name", name, *given)["result"]
        assert not answer.get("isError"), answer
        return answer["structuredContent"]

    session = f"session_id={call('session_create')['session_id']}"
    assert 12 == call("fs_write", session, "path=a.py", "contents=print(6 * 7)")["bytes_written"]
    assert "42\n" == call("run_python", session, "file=a.py")["stdout"]
    assert "print(6 * 7)" == call("fs_read", session, "path=a.py")["contents"]
    dotted = ("--tool-names", "dotted")
    assert "print(6 * 7)" == call("fs.read", session, "path=a.py", args=dotted)["contents"]
