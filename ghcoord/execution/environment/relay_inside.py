"""Runs inside the sandbox: a program with 127.0.0.1 as its proxy, every connection passed on to a unix socket.

Started as ``python -I -S -c <this text> SOCKET PROGRAM ARGUMENTS…``; ends with
the program's exit code.  It decides nothing: whatever a task makes of it, the
other end of the socket (:mod:`ghcoord.execution.environment.relay`) says what
is reached.  Only the standard library, and little of it: each import costs
the start of a command.
"""

from __future__ import annotations

import _thread
import os
import select
import signal
import socket
import sys

CHUNK = 65536
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


def copy(source: socket.socket, target: socket.socket) -> None:
    """Copy until the end of ``source``, and pass the end on."""
    try:
        while data := source.recv(CHUNK):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for each in (source, target):
            hang_up(each)


def hang_up(connection: socket.socket) -> None:
    """End both directions, if there are any left."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def carry(client: socket.socket, path: str) -> None:
    """Connect ``client`` with the socket at ``path`` until both ends are done."""
    with client, socket.socket(socket.AF_UNIX) as outside:
        try:
            outside.connect(path)
        except OSError:
            return
        done = _thread.allocate_lock()
        done.acquire()

        def back() -> None:
            copy(outside, client)
            done.release()

        _thread.start_new_thread(back, ())
        copy(client, outside)
        done.acquire()


def main(path: str, *argv: str) -> None:
    """Serve while ``argv`` runs."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
    child = os.fork()
    if child == 0:
        for name in PROXY_VARIABLES:
            os.environ[name] = proxy
        try:
            os.execvp(argv[0], argv)
        except OSError as why:
            print(f"{argv[0]} could not be started: {why.strerror}", file=sys.stderr, flush=True)
            os._exit(127)
    # Whoever ends the sandbox gently asks every process in it; the program may take its time.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ended = os.pidfd_open(child)
    poll = select.poll()
    for fd in (ended, listener.fileno()):
        poll.register(fd, select.POLLIN)
    while ended not in (ready := [fd for fd, _ in poll.poll()]):
        if ready:
            _thread.start_new_thread(carry, (listener.accept()[0], path))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    listener.close()
    os.close(ended)
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main(*sys.argv[1:])
