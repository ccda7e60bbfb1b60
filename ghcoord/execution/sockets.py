"""Unix sockets at paths of any length: a socket's address has room for 107 bytes (unix(7))."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def bind(listener: socket.socket, path: Path) -> None:
    """Bind ``listener`` to ``path``, however long it is. Raises ``OSError``."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
