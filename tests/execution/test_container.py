"""The container driver against a fake engine: its options, its refusals, and what becomes of containers."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import SandboxError, UsageError
from ghcoord.execution.sandbox import container as driver
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.execution.sandbox.container import ContainerSandbox, ContainerSettings, find_engine, remove_orphans
from ghcoord.execution.sandbox.job import Mount
from ghcoord.execution.sandbox.open import open_sandbox
from ghcoord.model.limits import Limits
from ghcoord.testing.sandbox_under_test import PROMPT, SandboxUnderTest, survivors
from tests.execution.engines import IMAGE, Engine, make_engine

RUNTIME = SystemRuntime()
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return make_engine(tmp_path)


@pytest.fixture
def bench(bwrap: Sandbox, engine: Engine, open_to_all: Path) -> SandboxUnderTest:
    """The fake engine needs bubblewrap."""
    return SandboxUnderTest(engine.sandbox(), open_to_all)


def values(arguments: list[str], option: str) -> list[str]:
    """What follows each ``option``."""
    return [value for name, value in itertools.pairwise(arguments) if name == option]


def test_the_profile(bench: SandboxUnderTest, engine: Engine) -> None:
    """No network, no capability, no privilege to be gained, nothing to be written but what is meant to be."""
    workspace, shared = bench.workspace(), bench.base / "shared"
    shared.mkdir(mode=0o755)
    limits = Limits(memory_mb=256, processes=50, file_mb=10, cpu_seconds=3.5, workspace_mb=100)
    env = {"SECRET": "not in the arguments", "LINES": "a\nb"}
    mounts = (Mount(shared, "shared"), Mount(shared, "too", writable=True))
    done = bench.sh('echo "$SECRET $LINES"', workspace=workspace, limits=limits, env=env, mounts=mounts)
    assert (0, "not in the arguments a\nb\n") == (done.exit_code, done.stdout)
    [called] = engine.calls("run")
    wanted = {
        "--network": ["none"],
        "--cap-drop": ["ALL"],
        "--security-opt": ["no-new-privileges"],
        "--pull": ["never"],
        "--memory": ["256m"],
        "--memory-swap": ["256m"],
        "--pids-limit": ["51"],
        "--ulimit": ["core=0", "fsize=10485760", "cpu=4"],
        "--workdir": ["/workspace"],
        "--entrypoint": ["/bin/sh"],
        "--env": ["LINES=a\nb"],
        "--mount": [
            f"type=bind,source={workspace},target=/workspace",
            f"type=bind,source={shared},target=/mnt/shared,readonly",
            f"type=bind,source={shared},target=/mnt/too",
        ],
    }
    assert wanted == {option: values(called, option) for option in wanted}
    assert {"--read-only", "--init", "--interactive"} <= set(called)
    assert not any("not in the arguments" in each for each in called)
    assert [IMAGE, "-c", 'echo "$SECRET $LINES"', "sh"] == called[-4:]
    identity = bench.sandbox.identity
    uid, gid = (identity.uid, identity.gid) if identity else (os.geteuid(), os.getegid())
    assert [f"{uid}:{gid}"] == values(called, "--user")
    assert 0 != uid
    assert [] == engine.containers()


@pytest.mark.slow
def test_more_options_and_variables_of_the_client(bench: SandboxUnderTest, engine: Engine) -> None:
    """What the settings add comes last of the options, so that it counts; the client has only its own variables."""
    (engine.program.parent / "podman").write_text(f'#!/bin/sh\nenv > {engine.state}/env\nexec {engine.program} "$@"\n')
    program = engine.program.parent / "podman"
    program.chmod(0o755)
    settings = ContainerSettings(
        IMAGE, str(program), ("--security-opt", "seccomp=profile"), (("DOCKER_HOST", "unix:x"),)
    )
    bench.sandbox = ContainerSandbox(program, settings, bench.sandbox.identity)
    assert 0 == bench.sh(":", env={"LD_PRELOAD": "", "DOCKER_HOST": "tcp://elsewhere"}).exit_code
    [called] = engine.calls("run")
    assert ["no-new-privileges", "seccomp=profile"] == values(called, "--security-opt")
    seen = dict(line.split("=", 1) for line in (engine.state / "env").read_text().splitlines())
    assert "unix:x" == seen["DOCKER_HOST"]
    assert {"PATH", "LANG", "DOCKER_HOST", "PWD"} >= set(seen)


def test_rootless_podman_keeps_the_workers_user(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root, podman maps this user to itself, so that the workspace's files are its own."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    podman = replace(engine.sandbox(), program=Path("/usr/bin/podman"), identity=None)
    assert ["keep-id"] == values(podman._profile(), "--userns")
    assert [] == values(engine.sandbox()._profile(), "--userns")


@pytest.mark.parametrize("refused", [125, 126, 127])
def test_what_the_engine_refuses(bench: SandboxUnderTest, engine: Engine, refused: int) -> None:
    """125 before the start is the engine's failure, with its words; 126 and 127 are about the command."""
    (engine.state / "refuse").write_text(str(refused))
    if refused == 125:
        with pytest.raises(SandboxError, match=r"could not be started: .*OCI runtime create failed"):
            bench.sh(":")
    else:
        done = bench.sh(":")
        assert refused == done.exit_code
        assert "OCI runtime" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("code", [125, 126, 127])
def test_the_same_codes_of_the_command_itself(bench: SandboxUnderTest, engine: Engine, code: int) -> None:
    """A command that ends with 125 is no failure of the engine, whatever it writes."""
    done = bench.sh(f"echo 'docker: Error response from daemon: OCI runtime create failed' >&2; exit {code}")
    assert code == done.exit_code
    assert [] == engine.containers()


@pytest.mark.slow
def test_memory_is_told_from_other_kills(bench: SandboxUnderTest, engine: Engine) -> None:
    """137 with the engine's word for it is the limit of memory; without it, a signal."""
    assert (137, "") == ((done := bench.sh("kill -9 $$")).exit_code, done.stopped)
    (engine.state / "oom").touch()
    assert "memory" == bench.sh("kill -9 $$", limits=Limits(memory_mb=64)).stopped


@pytest.mark.slow
def test_usage_is_not_the_clients(bench: SandboxUnderTest) -> None:
    """What is known of a container is the size of its workspace."""
    done = bench.sh("head -c 3000000 /dev/zero > big; sleep 0.3", limits=Limits(workspace_mb=100))
    assert (None, None) == (done.usage.memory_mb, done.usage.processes)
    assert done.usage.disk_mb is None or done.usage.disk_mb < 100


@pytest.mark.slow
def test_a_container_is_removed_whatever_happens(bench: SandboxUnderTest, engine: Engine) -> None:
    """After the end, a timeout, a kill and an error in the worker."""
    bench.sh("exit 3")
    assert [] == engine.containers()
    bench.sh("trap '' TERM; sleep 60", timeout=0.6)
    assert [] == engine.containers()
    with pytest.raises(RuntimeError):
        bench.sh("echo x; sleep 60", log=lambda stream, text: (_ for _ in ()).throw(RuntimeError()))
    assert [] == engine.containers()


@pytest.mark.slow
def test_a_kill_before_the_container_is_there(bench: SandboxUnderTest, engine: Engine) -> None:
    """One that is stopped while the engine still makes it does not start afterwards."""
    (engine.state / "late").write_text("0.5")
    marker = bench.marker()
    assert "timeout" == bench.sh('sleep "$1"', marker, timeout=0.2).stopped
    time.sleep(0.6)
    assert [] == engine.containers()
    assert [] == survivors(marker)


_WORKER = """
import sys
from pathlib import Path
from ghcoord.clock import SystemRuntime
from ghcoord.execution import process
from ghcoord.execution.sandbox.base import current_identity
from ghcoord.execution.sandbox.container import ContainerSandbox, ContainerSettings
program = Path(sys.argv[3])
sandbox = ContainerSandbox(program, ContainerSettings("image:1", str(program)), current_identity())
script = 'setsid sleep "$1" & echo started; sleep "$1"'
process.run(sandbox, ["/bin/sh", "-c", script, "sh", sys.argv[2]], workspace=Path(sys.argv[1]),
            runtime=SystemRuntime(), log=lambda stream, text: print(text, flush=True))
"""


@pytest.mark.slow
def test_no_container_survives_a_worker_that_is_killed(bench: SandboxUnderTest, engine: Engine) -> None:
    """The supervisor removes it."""
    workspace, marker = bench.workspace(), bench.marker()
    worker = subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(workspace), marker, str(engine.program)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
    )
    with worker:
        assert worker.stdout is not None
        assert b"started" in worker.stdout.readline()
        assert 1 == len(engine.containers())
        worker.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + PROMPT
    while (survivors(marker) or engine.containers()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ([], []) == (survivors(marker), engine.containers())


def test_containers_of_dead_workers_are_removed(engine: Engine) -> None:
    """Whose supervisor was killed as well; not those of workers that live, nor another program's."""
    own = f"ghcoord-{os.getpid()}-{driver._birth(os.getpid())}-1"
    reused = f"ghcoord-{os.getpid()}-12-1"
    for name in (own, reused, "ghcoord-4194305-12-1", "database", "ghcoord-x"):
        (engine.state / "containers" / f"{name}.json").write_text('{"pid": 0, "started": "", "exit": 0, "status": ""}')
    assert 2 == remove_orphans(engine.program, engine.settings)
    assert {own, "database", "ghcoord-x"} == set(engine.containers())
    (engine.state / "down").touch()
    assert 0 == remove_orphans(engine.program, engine.settings)


# -- refusals at the start


def refusal(settings: ContainerSettings | None) -> str:
    with pytest.raises(SandboxError) as refused:
        open_sandbox(choice="container", runtime=RUNTIME, container=settings)
    return refused.value.message


def test_without_settings_there_is_no_container() -> None:
    """Nothing is guessed."""
    assert "name an image" in refusal(None)
    assert "has no image" in refusal(ContainerSettings("", engine="/bin/true"))
    assert "has no image" in refusal(ContainerSettings("--privileged", engine="/bin/true"))


def test_an_engine_that_is_not_installed() -> None:
    """It is named, with what to do."""
    assert "no-such-engine is not installed" in refusal(ContainerSettings(IMAGE, engine="no-such-engine"))
    with pytest.raises(SandboxError, match="install it"):
        find_engine(ContainerSettings(IMAGE, engine="no-such-engine"))


def test_an_engine_that_does_not_answer(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its daemon is down, it cannot be started, or it hangs."""
    (engine.state / "down").touch()
    said = refusal(engine.settings)
    assert "Is the docker daemon running?" in said
    assert "start its daemon" in said
    (tmp_path / "broken").write_text("no program")
    (tmp_path / "broken").chmod(0o755)
    assert "does not answer" in refusal(ContainerSettings(IMAGE, engine=str(tmp_path / "broken")))
    (tmp_path / "hangs").write_text("#!/bin/sh\nexec sleep 30\n")
    (tmp_path / "hangs").chmod(0o755)
    monkeypatch.setattr(driver, "_CHECK_SECONDS", 0.2)
    assert "no answer in" in refusal(ContainerSettings(IMAGE, engine=str(tmp_path / "hangs")))


def test_an_engine_that_is_something_else() -> None:
    """A program that says yes to everything."""
    assert "neither docker nor podman" in refusal(ContainerSettings(IMAGE, engine="/bin/echo"))


def test_an_image_that_is_not_there(engine: Engine) -> None:
    """Nothing is pulled, but how to do it is said."""
    said = refusal(replace(engine.settings, image="image:2"))
    assert "No such image: image:2" in said
    assert "pull image:2'" in said


def test_an_engine_that_leaks_is_refused(bwrap: Sandbox, engine: Engine) -> None:
    """One whose containers have the host's network is not used, and what leaked is named."""
    (engine.state / "leaks").touch()
    assert "leaks: abstract-socket, host-loopback, network-namespace" in refusal(engine.settings)


def test_paths_that_the_engine_would_misread(bench: SandboxUnderTest) -> None:
    """A comma ends a field of a mount's description: refused with a sentence."""
    folder = bench.base / "a,readonly=false"
    folder.mkdir()
    with pytest.raises(UsageError, match="comma"):
        bench.sh(":", workspace=folder)
