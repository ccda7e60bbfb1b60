"""One attempt to get out of a sandbox, or to harm what is around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.execution.attacks.stage import Stage

BREACH = "BREACH"

PRELUDE = """\
import ctypes, errno, fcntl, json, mmap, os, resource, signal, socket, stat, struct, subprocess, sys, time
A = json.loads(sys.argv[1])
A['secret'] = A['terces'][::-1]  # not among the arguments, where attempts look for it
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
NR = json.loads(sys.argv[2])
def call(name, *args):
    numbers = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = libc.syscall(ctypes.c_long(NR[name]), *numbers)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
def breach(condition=True):
    if condition:
        print("BREACH", flush=True)
"""


@dataclass(frozen=True)
class Attempt:
    """``code`` prints BREACH when it succeeds; where there is ``seen``, only what that sees counts.

    ``root`` attempts need root to succeed without a sandbox.  ``limits`` are
    what it is run under; ``terminal`` ones need the worker's terminal.
    ``partial`` names the workers for which the partial driver lets it by, as
    the docs say.
    """

    name: str
    proves: str
    code: str
    seen: Callable[[Stage], bool] | None = None
    root: bool = False
    limits: tuple[tuple[str, int], ...] = ()
    partial: tuple[str, ...] = ()
    terminal: bool = False

    def program(self) -> str:
        return PRELUDE + self.code
