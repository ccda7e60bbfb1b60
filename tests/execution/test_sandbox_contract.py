"""Every driver against the contract, and drivers that are wrong on purpose."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from ghcoord.execution.sandbox.base import Sandbox, current_identity
from ghcoord.execution.sandbox.none import NoSandbox
from ghcoord.testing.sandbox_contract import SandboxContract, SandboxUnderTest
from ghcoord.testing.sandbox_walls import SandboxWalls
from tests.execution import broken_sandboxes as broken
from tests.execution.engines import make_engine


@pytest.mark.slow
class TestBubblewrap(SandboxContract, SandboxWalls):
    """Namespaces."""

    @pytest.fixture
    def bench(self, bwrap: Sandbox, open_to_all: Path) -> SandboxUnderTest:
        return SandboxUnderTest(bwrap, open_to_all)


@pytest.mark.slow
class TestNone(SandboxContract, SandboxWalls):
    """Plain processes."""

    @pytest.fixture
    def bench(self, open_to_all: Path) -> SandboxUnderTest:
        return SandboxUnderTest(NoSandbox(current_identity()), open_to_all)


@pytest.mark.slow
class TestLandlock(SandboxContract, SandboxWalls):
    """Landlock and seccomp."""

    @pytest.fixture
    def bench(self, landlock: Sandbox, open_to_all: Path) -> SandboxUnderTest:
        return SandboxUnderTest(landlock, open_to_all)


@pytest.mark.slow
class TestContainer(SandboxContract, SandboxWalls):
    """A container of a fake engine, which has bubblewrap inside."""

    @pytest.fixture
    def bench(self, bwrap: Sandbox, open_to_all: Path, tmp_path: Path) -> SandboxUnderTest:
        return SandboxUnderTest(make_engine(tmp_path).sandbox(), open_to_all)


def _contract(name: str) -> Callable[[SandboxUnderTest], None]:
    """One test of the contract, to be run by hand."""
    found: Callable[[SandboxUnderTest], None] = getattr(type("Contract", (SandboxContract, SandboxWalls), {})(), name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "caught_by"),
    [
        (broken.leaves_daemons, "test_nothing_is_left_of_a_command_that_ended"),
        (broken.leaves_daemons, "test_a_timeout_ends_the_whole_tree"),
        (broken.leaves_daemons, "test_memory"),
        (broken.leaves_daemons, "test_file_size"),
        (broken.leaves_daemons, "test_processes"),
        (broken.leaves_daemons, "test_workspace_size"),
        (broken.leaves_daemons, "test_no_other_process_can_be_signalled"),
        (broken.leaks_environment, "test_the_environment_is_only_what_is_given"),
        (broken.leaks_environment, "test_the_workers_secrets_are_not_seen"),
        (broken.root_is_writable, "test_nothing_else_can_be_written"),
        (broken.root_is_writable, "test_mounts"),
        (broken.root_is_writable, "test_the_canaries_are_held"),
        (broken.root_is_readable, "test_nothing_else_can_be_read"),
        (broken.shares_the_network, "test_no_socket_of_the_host_can_be_reached"),
        (broken.shares_the_network, "test_the_canaries_are_held"),
        (broken.shares_processes, "test_no_other_process_can_be_signalled"),
        (broken.shares_processes, "test_nothing_is_left_of_a_command_that_ended"),
        (broken.Leaky, "test_no_descriptor_is_left_open"),
        (broken.Leaky, "test_no_descriptor_reaches_the_command"),
        (broken.Lying, "test_a_program_that_is_not_there"),
        (broken.Shared, "test_the_workspace_is_where_it_starts"),
        (broken.ArgumentsShow, "test_given_variables_do_not_show_outside"),
        (broken.leaves_daemons, "test_mounts_with_bad_names"),
    ],
)
def test_a_driver_that_is_wrong_is_caught(
    bwrap: Sandbox, open_to_all: Path, make: Callable[[], Sandbox], caught_by: str
) -> None:
    """Each planted fault is found by the test that is for it."""
    bench = SandboxUnderTest(make(), open_to_all)
    try:
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            _contract(caught_by)(bench)
    finally:
        broken.clean_up(open_to_all)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user; otherwise all tests are run as one")
@pytest.mark.parametrize("driver", ["TestBubblewrap", "TestLandlock"])
def test_an_ordinary_user_has_the_same(driver: str, open_to_all: Path) -> None:
    """The whole contract, run by a worker that is not root and has the system's interpreter."""
    system, packages = Path("/usr/bin/python3"), sysconfig.get_path("purelib")
    same = subprocess.run([system, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True)
    if same.stdout.split() != [str(each) for each in sys.version_info[:2]]:
        pytest.skip("the packages of this environment are not for the system's interpreter")
    (open_to_all / "home").mkdir()
    os.chown(open_to_all / "home", 1000, 1000)
    repository = Path(__file__).parents[2]
    places = [f"--basetemp={open_to_all}/home/pytest", f"{__file__}::{driver}"]
    done = subprocess.run(
        [str(system), *"-m pytest -q -n 0 -p no:cacheprovider -o addopts= -rs".split(), *places],
        cwd=repository,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": f"{open_to_all}/home",
            "PYTHONPATH": f"{repository}:{packages}",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        user=1000,
        group=1000,
        extra_groups=[],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert 0 == done.returncode, done.stdout[-4000:]
    assert "skipped" not in done.stdout, done.stdout[-4000:]
