"""Cgroups for commands: where they may be made, what is written to them, what is read, and that they go."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.errors import SandboxError
from ghcoord.execution import process
from ghcoord.execution.sandbox import cgroup
from ghcoord.execution.sandbox.base import current_identity, system_python
from ghcoord.execution.sandbox.bwrap import BwrapSandbox, find_bwrap
from ghcoord.execution.sandbox.cgroup import OWN, Group, Groups, find_groups
from ghcoord.execution.sandbox.watch import Watch
from ghcoord.model.limits import Limits
from tests.processes import until

ME = str(os.getpid())


class Machine:
    """Folders that look like a machine's cgroup tree to who reads them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tree = root / "sys/fs/cgroup"
        (root / "proc/self").mkdir(parents=True)
        self.folder(self.tree)
        (self.tree / "cgroup.type").unlink()
        self.mounted("/")

    def mounted(self, shown: str) -> None:
        (self.root / "proc/self/mountinfo").write_text(
            f"22 1 0:21 / /proc rw - proc proc rw\n30 1 0:26 {shown} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
        )

    def inside(self, path: str) -> None:
        (self.root / "proc/self/cgroup").write_text(f"1:name=systemd:/other\n0::{path}\n")

    def folder(self, folder: Path, processes: str = "", controllers: str = "cpu memory pids", handed: str = "") -> Path:
        folder.mkdir(parents=True)
        (folder / "cgroup.type").write_text("domain\n")
        (folder / "cgroup.controllers").write_text(controllers + "\n")
        (folder / "cgroup.subtree_control").write_text(handed + "\n")
        (folder / "cgroup.procs").write_text(processes)
        return folder


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A tree in which a file that the kernel would have made is made by writing to it."""
    monkeypatch.setattr(cgroup, "_write", lambda path, text: path.write_text(text))
    return Machine(tmp_path)


def delegate(folder: Path) -> None:
    """As systemd marks it."""
    try:
        os.setxattr(folder, "user.delegate", b"1")
    except OSError:
        pytest.skip("this file system keeps no attributes")


def test_a_delegated_cgroup_is_used(machine: Machine) -> None:
    """A service's own cgroup: the worker moves itself into a part of it and hands the controllers down."""
    service = machine.folder(machine.tree / "system.slice/ghcoord.service", processes=f"{ME}\n")
    delegate(service)
    machine.inside("/system.slice/ghcoord.service")
    groups = find_groups(machine.root)
    assert groups is not None
    assert service == groups.folder
    assert ME == (service / OWN / "cgroup.procs").read_text()
    assert "+memory +pids" == (service / "cgroup.subtree_control").read_text()


def test_a_worker_that_has_moved_finds_its_place_again(machine: Machine) -> None:
    """From its own part it looks to the folder above."""
    service = machine.folder(machine.tree / "a.service", handed="cpu memory pids")
    delegate(service)
    machine.folder(service / OWN, processes=f"{ME}\n")
    machine.inside(f"/a.service/{OWN}")
    groups = find_groups(machine.root)
    assert groups is not None
    assert service == groups.folder


@pytest.mark.skipif(os.geteuid() != 0, reason="another user owns what it was given")
def test_what_was_not_given_is_left_alone(machine: Machine) -> None:
    """Root may write everywhere; without the mark the tree is systemd's."""
    service = machine.folder(machine.tree / "a.service", processes=f"{ME}\n")
    machine.inside("/a.service")
    assert find_groups(machine.root) is None
    assert not (service / OWN).exists()


def test_the_root_of_a_containers_namespace_is_its_own(machine: Machine) -> None:
    """It has a type, which the machine's own root has not."""
    (machine.tree / "cgroup.procs").write_text(f"{ME}\n")
    machine.inside("/")
    assert find_groups(machine.root) is None
    (machine.tree / "cgroup.type").write_text("domain\n")
    groups = find_groups(machine.root)
    assert groups is not None
    assert machine.tree == groups.folder


def test_a_tree_that_is_shown_in_part(machine: Machine) -> None:
    """A container without a namespace of its own sees its cgroup at the mount's root."""
    delegate(machine.folder(machine.tree / "x", processes=f"{ME}\n"))
    machine.mounted("/docker/12")
    machine.inside("/docker/12/x")
    groups = find_groups(machine.root)
    assert groups is not None
    assert machine.tree / "x" == groups.folder


@pytest.mark.parametrize(
    ("processes", "controllers"),
    [(f"{ME}\n1\n", "memory pids"), (f"{ME}\n", "cpu"), ("", "memory pids")],
    ids=["others are there", "no memory controller", "not even we are there"],
)
def test_nobody_elses_process_is_moved(machine: Machine, processes: str, controllers: str) -> None:
    """Where the controllers cannot be handed down by moving ourselves alone, there are no cgroups."""
    service = machine.folder(machine.tree / "a.service", processes=processes, controllers=controllers)
    delegate(service)
    machine.inside("/a.service")
    assert find_groups(machine.root) is None
    assert not (service / OWN).exists()


def test_the_move_is_taken_back_when_it_was_for_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal to hand controllers down leaves the worker where it was."""
    service = machine.folder(machine.tree / "a.service", processes=f"{ME}\n")
    delegate(service)
    machine.inside("/a.service")
    written: list[tuple[str, str]] = []

    def write(path: Path, text: str) -> None:
        if path.name == "cgroup.subtree_control":
            raise PermissionError
        written.append((path.parent.name, text))

    monkeypatch.setattr(cgroup, "_write", write)
    assert find_groups(machine.root) is None
    assert [(OWN, ME), ("a.service", ME)] == written
    assert not (service / OWN).exists()


@pytest.mark.parametrize("line", ["", "1:name=systemd:/x\n", "0::/../x\n"])
def test_a_machine_without_cgroup_v2(machine: Machine, line: str) -> None:
    """Nothing is found where there is nothing."""
    (machine.root / "proc/self/cgroup").write_text(line)
    assert find_groups(machine.root) is None


def test_limits_are_written(machine: Machine) -> None:
    """Memory without swap, the whole tree ended at once, processes with the sandbox's own added."""
    groups = Groups(machine.tree)
    group = groups.make(Limits(memory_mb=100, processes=20), apart=1)
    texts = {each.name: each.read_text() for each in group.folder.iterdir()}
    wanted = {"memory.max": "104857600", "memory.swap.max": "0", "memory.oom.group": "1", "pids.max": "21"}
    assert wanted == texts
    assert group.folder != groups.make(Limits()).folder


def test_a_cgroup_that_cannot_be_made_is_a_sandbox_error(tmp_path: Path) -> None:
    """The command does not run without its limits."""
    with pytest.raises(SandboxError, match="no cgroup could be made"):
        Groups(tmp_path / "missing").make(Limits())
    with pytest.raises(SandboxError, match="could not be set"):
        Groups(tmp_path).make(Limits(memory_mb=100))
    assert [] == list(tmp_path.iterdir())


def test_the_kernels_verdict_is_read(machine: Machine, tmp_path: Path) -> None:
    """Out of memory, time, peaks; a file that is missing or strange counts as nothing."""
    watch = Watch(Limits(memory_mb=100, cpu_seconds=2), tmp_path, groups=Groups(machine.tree))
    (folder,) = machine.tree.glob("ghcoord-task-*")
    group = Group(folder)
    assert (False, 0.0, 0, 0) == (
        group.out_of_memory(),
        group.cpu_seconds(),
        group.peak_memory(),
        group.peak_processes(),
    )
    (folder / "memory.events").write_text("low 0\noom 1\noom_kill 3\noom_group_kill 1\n")
    (folder / "cpu.stat").write_text("usage_usec 1500000\nnonsense\n")
    (folder / "memory.peak").write_text("104857600\n")
    (folder / "pids.peak").write_text("7\n")
    assert "memory" == watch.finished(0.5)
    usage = watch.usage()
    assert (100.0, 1.5, 7) == (usage.memory_mb, usage.cpu_seconds, usage.processes)
    watch.follow(os.getpid())
    assert "memory" == watch.look(1.0)
    (folder / "memory.events").write_text("oom_kill 0\n")
    assert "" == watch.look(2.0)
    (folder / "cpu.stat").write_text("usage_usec 2500000\n")
    assert "cpu" == watch.look(3.0)


UNIFIED = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]


@pytest.fixture
def real_tree() -> Iterator[Path]:
    """A folder of the machine's own cgroup v2 tree, with or without controllers, gone afterwards."""
    for tree in UNIFIED:
        folder = tree / f"ghcoord-test-{ME}"
        if (tree / "cgroup.procs").exists() and (tree / "cgroup.subtree_control").exists():
            try:
                folder.mkdir()
            except OSError:
                continue
            yield folder
            for each in sorted(folder.glob("**/"), reverse=True):
                each.rmdir()
            return
    pytest.skip("no cgroup v2 tree may be written here")


def test_processes_are_put_in_and_ended_and_the_cgroup_goes(real_tree: Path) -> None:
    """On a real tree: a process and its child are in it, both end, and nothing is left."""
    group = Groups(real_tree).make(Limits())
    child = subprocess.Popen(["/bin/sh", "-c", "read line; sleep 300 & wait"], stdin=subprocess.PIPE)
    group.add(child.pid)
    assert child.stdin is not None
    child.stdin.write(b"go\n")
    child.stdin.close()
    until(lambda: len((group.folder / "cgroup.procs").read_text().split()) == 2, 5)
    group.close()
    assert -9 == child.wait(5)
    assert not group.folder.exists()
    later = Groups(real_tree).make(Limits())
    later.add(child.pid)  # a process that is no more
    later.close()


def test_what_dead_workers_left_is_removed(real_tree: Path) -> None:
    """Their cgroups go, with processes in them; a living worker's stays."""
    with subprocess.Popen(["/bin/true"]) as dead:
        dead.wait()
    left = Group(real_tree / f"ghcoord-task-{dead.pid}-1")
    left.folder.mkdir()
    child = subprocess.Popen(["/bin/sleep", "300"])
    left.add(child.pid)
    kept = Groups(real_tree).make(Limits())
    Groups(real_tree).sweep()
    assert (False, True) == (left.folder.exists(), kept.folder.exists())
    assert -9 == child.wait(5)


def test_a_sandboxed_command_is_in_its_cgroup(real_tree: Path, open_directory: Path) -> None:
    """Bubblewrap's first process is put there before it starts the command, and the cgroup goes with it."""
    program = find_bwrap()
    if program is None:
        pytest.skip("bubblewrap is not installed")
    sandbox = BwrapSandbox(program, current_identity(), system_python(), Groups(real_tree))
    assert ("hard", "cgroup") == (sandbox.limits.memory, sandbox.limits.by)
    seen: list[int] = []

    def look(stream: str, text: str) -> None:
        seen.extend(len((each / "cgroup.procs").read_text().split()) for each in real_tree.glob("ghcoord-task-*"))

    done = process.run(
        sandbox,
        ["/bin/sh", "-c", "echo ready; sleep 0.2; :"],
        workspace=open_directory,
        runtime=SystemRuntime(),
        limits=Limits(cpu_seconds=5),
        log=look,
    )
    assert (0, [2]) == (done.exit_code, [min(each, 2) for each in seen]), (done, seen)
    assert done.usage.cpu_seconds is not None
    assert [] == list(real_tree.glob("ghcoord-task-*"))


@pytest.fixture
def open_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace."""
    return tmp_path_factory.mktemp("workspace")
