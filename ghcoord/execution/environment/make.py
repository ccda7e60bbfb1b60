"""Make a workspace's virtual environment, for the interpreter that the sandbox has.

Written by hand instead of with :mod:`venv`, which makes environments for the
worker's own interpreter and writes the path at which it built into them: here
both are those *inside*.  It has what PEP 405 asks for, and no pip but one that
says what to use instead.

The workspace is a stranger's: the environment is made beside it, in a folder
that only the worker can enter, and renamed in through descriptors, so nothing
that lies at its place is followed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ghcoord.clock import Runtime
from ghcoord.errors import GhcoordError, SandboxError
from ghcoord.execution import process
from ghcoord.execution.environment.lock import ENVIRONMENT
from ghcoord.execution.files import tree
from ghcoord.execution.files.paths import PRIVATE_PREFIX
from ghcoord.execution.sandbox.base import Identity, Sandbox, worker_python
from ghcoord.execution.workspace import DEEPEST, remove_tree

_TRIES = 5
_CONFIG_BYTES = 4096
_PROBE_TIMEOUT = 30.0
_PROBE = "import sys; print(sys._base_executable or sys.executable, '%d.%d.%d' % sys.version_info[:3])"
_PROBED = re.compile(r"(/\S{1,1000}) (3\.\d{1,3}\.\d{1,3})")

_ACTIVATE = """# For "source .venv/bin/activate" in sh, bash, zsh and ksh.
deactivate () {{
    PATH="${{_OLD_VIRTUAL_PATH:-$PATH}}"
    export PATH
    unset _OLD_VIRTUAL_PATH VIRTUAL_ENV
    unset -f deactivate
}}
VIRTUAL_ENV='{path}'
_OLD_VIRTUAL_PATH="$PATH"
PATH="$VIRTUAL_ENV/bin:$PATH"
export VIRTUAL_ENV PATH
"""

_PIP = """#!/bin/sh
echo 'pip is not here: use pkg_install to install packages' >&2
exit 1
"""
"""Stands before a pip of the machine, which would install for another interpreter, or say that all is there."""

_count = itertools.count()
_placing = threading.Lock()
"""Two first calls of a session at a time: the second finds what the first has made."""

_asked: dict[object, Interpreter] = {}
"""What sandboxes said of their interpreter; they are few and do not change."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python as the sandbox sees it: the path of its program, and its version in three numbers."""

    path: str
    version: str

    @property
    def home(self) -> str:
        """The folder that its program is in."""
        return self.path.rpartition("/")[0]

    @property
    def library(self) -> str:
        """The name of its folder of modules, such as ``python3.11``."""
        return "python" + self.version.rpartition(".")[0]


def make_environment(workspace: Path, sandbox: Sandbox, runtime: Runtime) -> Path:
    """``workspace/.venv``, made unless a whole one for the sandbox's interpreter is there already.

    Whatever else lies there is removed: a file, a link, a half-made one, and
    one that was made for another interpreter.  Raises :class:`SandboxError`
    when the sandbox has no Python or the environment cannot be made.
    """
    python = interpreter_of(sandbox, runtime)
    inside = f"{sandbox.inside(workspace)}/{ENVIRONMENT}"
    try:
        with _opened(workspace) as fd:
            if _is_whole(fd, python):
                return workspace / ENVIRONMENT
            with _private(workspace.parent) as private:
                _build(private / "new", python, inside, sandbox.identity)
                with _set_aside(fd) as set_aside, _placing:
                    if not _is_whole(fd, python):
                        _put_in_place(private, fd, set_aside)
    except OSError as why:
        raise SandboxError(f"the environment in {workspace} could not be made: {why.strerror or why}") from why
    return workspace / ENVIRONMENT


def environment_python(workspace: Path, sandbox: Sandbox) -> str | None:
    """The path inside of the environment's interpreter; ``None`` when the workspace has no whole environment."""
    try:
        with _opened(workspace) as fd:
            whole = _is_whole(fd, None)
    except OSError:
        return None
    return f"{sandbox.inside(workspace)}/{ENVIRONMENT}/bin/python" if whole else None


def interpreter_of(sandbox: Sandbox, runtime: Runtime) -> Interpreter:
    """The sandbox's interpreter. One that is not the worker's own is asked inside, once.

    Raises :class:`SandboxError` when there is none, or it does not answer.
    """
    if sandbox.python is None:
        raise SandboxError("the sandbox has no Python: install python3 in /usr, or run the worker with one it may show")
    if (known := _asked.get(sandbox)) is not None:
        return known
    own = worker_python()
    if sandbox.name != "container" and own is not None and sandbox.python == str(own):
        version = "{}.{}.{}".format(*sys.version_info[:3])
        return Interpreter(sandbox.python, version)
    return _asked.setdefault(sandbox, _ask(sandbox, sandbox.python, runtime))


def _ask(sandbox: Sandbox, python: str, runtime: Runtime) -> Interpreter:
    folder = Path(tempfile.mkdtemp(prefix="ghcoord-python-"))
    try:
        folder.chmod(0o711)
        workspace = folder / "workspace"
        workspace.mkdir()
        argv = [python, "-I", "-S", "-c", _PROBE]
        done = process.run(sandbox, argv, workspace=workspace, runtime=runtime, timeout=_PROBE_TIMEOUT)
    finally:
        remove_tree(folder)
    found = _PROBED.fullmatch(done.stdout.strip())
    if found is None:
        raise SandboxError(
            f"{sandbox.python} in the sandbox does not work: {done.stderr.strip()[-500:] or done.stopped}"
        )
    return Interpreter(found[1], found[2])


@contextlib.contextmanager
def _opened(workspace: Path) -> Iterator[int]:
    fd = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield fd
    finally:
        os.close(fd)


# -- looking


def _is_whole(workspace: int, python: Interpreter | None) -> bool:
    """Whether there is an environment (for ``python``), as far as names and its settings say."""
    folder = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    with contextlib.ExitStack() as stack:
        try:
            root = os.open(ENVIRONMENT, folder, dir_fd=workspace)
            stack.callback(os.close, root)
            programs = os.open("bin", folder, dir_fd=root)
            stack.callback(os.close, programs)
            program = os.stat("python", dir_fd=programs, follow_symlinks=False)
            home = _home(root)
            if python is not None:
                os.close(os.open(f"lib/{python.library}", folder, dir_fd=root))
        except (OSError, ValueError):
            return False
    if not (stat.S_ISLNK(program.st_mode) or stat.S_ISREG(program.st_mode)):
        return False
    return bool(home) if python is None else home == python.home


def _home(root: int) -> str:
    """``home`` in ``pyvenv.cfg``; raises ``OSError`` or ``ValueError``."""
    fd = os.open("pyvenv.cfg", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=root)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        text = os.read(fd, _CONFIG_BYTES).decode()
    finally:
        os.close(fd)
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "home":
            return value.strip()
    return ""


# -- making


@contextlib.contextmanager
def _private(parent: Path) -> Iterator[Path]:
    """A folder in ``parent`` that only the worker can enter; goes away with what is in it."""
    folder = Path(tempfile.mkdtemp(prefix=".environment-", dir=parent))
    try:
        yield folder
    finally:
        remove_tree(folder)


def _build(root: Path, python: Interpreter, inside: str, identity: Identity | None) -> None:
    packages = f"lib/{python.library}/site-packages"
    folders = ("", "bin", "include", "lib", f"lib/{python.library}", packages)
    links = {"bin/python": python.path, "bin/python3": "python", f"bin/{python.library}": "python", "lib64": "lib"}
    config = (
        f"home = {python.home}\ninclude-system-site-packages = false\nversion = {python.version}\n"
        f"executable = {python.path}\n"
    )
    pips = ("bin/pip", "bin/pip3", f"bin/pip{python.library.removeprefix('python')}")
    files = {
        "pyvenv.cfg": config,
        "bin/activate": _ACTIVATE.format(path=inside.replace("'", "'\\''")),
        **dict.fromkeys(pips, _PIP),
    }
    for name in folders:
        (root / name).mkdir(mode=0o755)
    for name, target in links.items():
        (root / name).symlink_to(target)
    for name, text in files.items():
        (root / name).write_text(text)
    for name in pips:
        (root / name).chmod(0o755)
    if identity is not None:
        for name in (*folders, *links, *files):
            os.chown(root / name, identity.uid, identity.gid, follow_symlinks=False)


def _put_in_place(private: Path, workspace: int, set_aside: Callable[[], None]) -> None:
    """Rename the new one in, and what is there aside; whoever keeps putting things there ends this with an error."""
    source = os.open(private, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for attempt in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):
                set_aside()
            try:
                os.rename("new", ENVIRONMENT, src_dir_fd=source, dst_dir_fd=workspace)
            except OSError:
                if attempt == _TRIES - 1:
                    raise
            else:
                return
    finally:
        os.close(source)


@contextlib.contextmanager
def _set_aside(workspace: int) -> Iterator[Callable[[], None]]:
    """What takes the environment out of its place; it is removed when the block ends.

    It never leaves the workspace: a process that has it open could go on
    writing where nothing counts it.
    """
    names: list[str] = []

    def set_aside() -> None:
        name = f"{PRIVATE_PREFIX}old-{os.getpid()}-{next(_count)}"
        os.rename(ENVIRONMENT, name, src_dir_fd=workspace, dst_dir_fd=workspace)
        names.append(name)

    try:
        yield set_aside
    finally:
        for name in names:
            with contextlib.suppress(OSError, GhcoordError):
                tree.remove(workspace, name, DEEPEST)
