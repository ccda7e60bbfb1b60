"""The interpreter behind ``python.prompt``, run inside the sandbox: code comes and answers go through descriptor 0.

A message is its length in four bytes, then JSON.  Each call brings a number
that nobody can guess; all messages about it carry it, so that what a program
prints cannot pass for the end of a call.  It imports nothing of ghcoord; what
lies in the workspace cannot stand in for the modules that it needs.
"""

from __future__ import annotations

import sys

HERE = sys.path.pop(0)

import ast  # noqa: E402
import builtins  # noqa: E402
import json  # noqa: E402
import linecache  # noqa: E402
import os  # noqa: E402
import select  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import struct  # noqa: E402
import threading  # noqa: E402
import traceback  # noqa: E402

sys.path.insert(0, HERE)

VALUE = 64 * 1024
"""Characters of a value's repr that are sent."""

READS = 32
"""Reads of 64 KiB from a stream before somebody else gets a turn: a process may be left that never stops printing."""


class Kernel:
    """One interpreter: a thread that listens, one that passes output on, and the main one, which runs the code."""

    def __init__(self, line: socket.socket, pipes: dict[int, str], errors: int) -> None:
        """``line`` brings calls, ``pipes`` what they print, by stream; tracebacks go to ``errors``."""
        self.line = line
        self.pipes = pipes
        self.errors = errors
        self.sending = threading.RLock()
        self.arrived = threading.Condition()
        self.waiting: dict[str, str] | None = None
        self.nonce = ""
        self.running = False
        self.names: dict[str, object] = {"__name__": "__main__", "__builtins__": builtins}
        self.count = 0
        self.pid = os.getpid()
        self.main = threading.get_ident()

    def interrupt(self, number: int, frame: object) -> None:
        """Stop the code that runs; nothing else."""
        if self.running:
            raise KeyboardInterrupt

    def send(self, **fields: object) -> None:
        """Send one message about the present call."""
        data = json.dumps({"nonce": self.nonce, **fields}).encode()
        with self.sending:
            self.line.sendall(struct.pack(">I", len(data)) + data)

    def listen(self) -> None:
        """Take calls, and interrupt the one that runs when told to."""
        with self.line.makefile("rb") as incoming:
            while True:
                head = incoming.read(4)
                body = incoming.read(struct.unpack(">I", head)[0]) if len(head) == 4 else b""
                if not body:
                    os._exit(0)
                message = json.loads(body)
                if "code" in message:
                    with self.arrived:
                        self.waiting = message
                        self.arrived.notify()
                elif self.running and message["interrupt"] == self.nonce:
                    signal.pthread_kill(self.main, signal.SIGINT)

    def pump(self) -> None:
        """Send output as it comes."""
        while True:
            select.select(list(self.pipes), [], [])
            with self.sending:
                self.drain()

    def drain(self) -> None:
        """Send what is in the pipes now."""
        for fd, name in self.pipes.items():
            for _ in range(READS):
                try:
                    data = os.read(fd, 65536)
                except BlockingIOError:
                    break
                self.send(stream=name, text=data.decode("latin-1"))

    def serve(self) -> None:
        """Run one call after the other, for ever."""
        for run in (self.listen, self.pump):
            threading.Thread(target=run, daemon=True).start()  # noqa: TID251 - there is no Runtime in the sandbox
        while True:
            with self.arrived:
                while self.waiting is None:
                    self.arrived.wait()
                message, self.waiting = self.waiting, None
            self.nonce = message["nonce"]
            ended, value = self.guarded(message["code"])
            with self.sending:
                self.drain()
                self.send(end=True, value=value, success=ended is None, exit=ended)
            if isinstance(ended, list):
                os._exit(0)

    def guarded(self, code: str) -> tuple[object, str | None]:
        """Run ``code``: (``None`` when it ended well, its exit code in a list when it left), and its value's repr."""
        ended: object = None
        value = None
        try:
            try:
                self.running = True
                value = self.run(code)
            finally:
                self.running = False
        except SystemExit as leaving:
            if leaving.code not in (None, 0) and not isinstance(leaving.code, int):
                print(leaving.code, file=sys.__stderr__)
            ended = [leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)]
        except BaseException as failure:
            ended = "failed"
            shown = failure.__traceback__
            while shown is not None and not shown.tb_frame.f_code.co_filename.startswith("<prompt "):
                shown = shown.tb_next
            try:
                told = traceback.TracebackException(type(failure), failure, shown)
                if told.stack and told.stack[-1].name == "interrupt" and told.stack[-1].filename == "<string>":
                    told.stack.pop()
                text = "".join(told.format())
            except BaseException:
                text = type(failure).__name__ + "\n"
            os.write(self.errors, text.encode(errors="replace"))
        self.running = False
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BaseException:
                continue
        if os.getpid() != self.pid:
            os._exit(ended[0] if isinstance(ended, list) else 0)
        return ended, value

    def run(self, code: str) -> str | None:
        """The repr of the last expression's value; ``None`` when there is none."""
        self.count += 1
        name = f"<prompt {self.count}>"
        linecache.cache[name] = (len(code), None, code.splitlines(True), name)
        tree = ast.parse(code, name)
        last = tree.body[-1] if tree.body else None
        if not isinstance(last, ast.Expr):
            exec(compile(tree, name, "exec"), self.names)
            return None
        exec(compile(ast.Module(tree.body[:-1], []), name, "exec"), self.names)
        value = eval(compile(ast.Expression(last.value), name, "eval"), self.names)
        if value is None:
            return None
        self.names["_"] = value
        return repr(value)[:VALUE]


def main() -> None:
    """Take the descriptors over, and serve."""
    line = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    pipes = {}
    for number, name in ((1, "stdout"), (2, "stderr")):
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        os.dup2(theirs, number)
        os.close(theirs)
        pipes[ours] = name
    kernel = Kernel(line, pipes, 2)
    signal.signal(signal.SIGINT, kernel.interrupt)
    kernel.serve()


if __name__ == "__main__":
    main()
