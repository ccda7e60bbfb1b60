"""``python -m ghcoord.twin``: a twin to try things with, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ghcoord.clock import SystemRuntime
from ghcoord.errors import GhcoordError, Unavailable, UsageError
from ghcoord.twin.limits import TwinLimits
from ghcoord.twin.log import Exchange
from ghcoord.twin.server import Twin

TOKEN_FILE = "token"
MAX_PORT = 65535


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code."""
    asked = _parser().parse_args(argv)
    try:
        with ExitStack() as stack:
            return _serve(asked, stack)
    except GhcoordError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ghcoord.twin", description="A GitHub of one's own, on loopback.")
    parser.add_argument("--port", type=int, default=0, help="where to listen; default: a free one")
    parser.add_argument(
        "--folder", type=Path, help="keep the repositories and the token there; default: a temporary one"
    )
    parser.add_argument("--limits", action="store_true", help="enforce GitHub's published limits")
    parser.add_argument("--user", default="me", help="who the token belongs to; default: me")
    parser.add_argument("--repository", action="append", help="owner/name to make; may be repeated; default: USER/hub")
    parser.add_argument("--log", action="store_true", help="print each request on standard error")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _serve(asked: argparse.Namespace, stack: ExitStack) -> int:
    if not 0 <= asked.port <= MAX_PORT:
        raise UsageError(f"--port {asked.port} is none: give one from 1 to {MAX_PORT}, or 0 for a free one")
    runtime = SystemRuntime()
    folder = asked.folder or Path(stack.enter_context(TemporaryDirectory(prefix="ghcoord-twin-")))
    twin = Twin(folder, limits=TwinLimits.published() if asked.limits else None, runtime=runtime)
    token = twin.user(asked.user, _token(folder, runtime))
    names = _repositories(twin, folder, asked)
    if asked.log:
        twin.exchanges.on_entry = _print
    stopped = runtime.event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        twin.start(asked.port)
    except OSError as error:
        raise Unavailable(f"port {asked.port} cannot be had ({error.strerror}): choose another --port") from None
    stack.callback(twin.stop)
    _introduce(asked, twin.url, token, names)
    stopped.wait()
    return 0


def _token(folder: Path, runtime: SystemRuntime) -> str:
    """The folder's token, made when there is none."""
    file = folder / TOKEN_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.touch(mode=0o600)
            file.write_text(f"ghp_twin{runtime.randbits(120):030x}\n")
        return file.read_text().strip()
    except OSError as error:
        raise UsageError(f"--folder {folder} cannot be used ({error.strerror}): give one that can be written") from None


def _repositories(twin: Twin, folder: Path, asked: argparse.Namespace) -> list[str]:
    """Take up what lies in the folder, and make what is missing."""
    there = [f"{path.parent.name}/{path.stem}" for path in sorted(folder.glob("*/*.git"))]
    wanted = asked.repository or ([] if there else [f"{asked.user}/hub"])
    names = [*there, *(name for name in wanted if name.lower() not in [each.lower() for each in there])]
    for name in names:
        owner, _, rest = name.partition("/")
        try:
            twin.repository(owner, rest, private=True)
        except ValueError:
            raise UsageError(f"--repository {name[:60]!r} is not OWNER/NAME") from None
        twin.grant(asked.user, name, contents="write", administration="write", actions="write")
    return names


def _introduce(asked: argparse.Namespace, url: str, token: str, names: list[str]) -> None:
    api = f"{url}/api/v3"
    if asked.json:
        told: dict[str, Any] = {"url": url, "api": api, "token": token, "user": asked.user, "repositories": names}
        print(json.dumps(told), flush=True)
        return
    print(f"A twin of GitHub listens at {url}; it holds {', '.join(names)}. Ctrl-C stops it.\n")
    print(f"  export GHCOORD_GITHUB_API={api}")
    print(f"  export GH_TOKEN={token}  # for the twin only: opens nothing else")
    print(f"  ghcoord init github:{names[0]}\n")
    print(f"Over git: {url}/{names[0]}.git, with the token as password.", flush=True)


def _print(entry: Exchange) -> None:
    told = f"{entry.status or 'lost'} {entry.kind:5} {entry.operation} {entry.path}"
    print(told, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
