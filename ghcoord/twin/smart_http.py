"""Git over HTTP, by ``git http-backend``: fetch and push, under the repository's lock."""

from __future__ import annotations

import base64
import binascii
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from ghcoord.twin.auth import Accounts, BadCredentials, Token
from ghcoord.twin.context import RequestContext
from ghcoord.twin.messages import Incoming
from ghcoord.twin.refusals import READ_ONLY, ref_write_refused
from ghcoord.twin.repository import Repository
from ghcoord.twin.rest import ProxyRefused, Refused, Reply

GIT_PATH = re.compile(
    r"/(?P<owner>[^/]+)/(?P<name>[^/]+?)(?:\.git)?/(?P<rest>info/refs|git-upload-pack|git-receive-pack)"
)
PUSH = "git-receive-pack"
SECONDS = 120.0
"""How long ``git http-backend`` may take."""


@dataclass(frozen=True)
class GitCall:
    """A request of git's; ``known``: the credentials given, if any, are good."""

    context: RequestContext
    incoming: Incoming
    known: bool

    @property
    def service(self) -> str:
        """git-upload-pack or git-receive-pack."""
        return self.incoming.query.get("service") or self.incoming.path.rpartition("/")[2]


def basic_token(accounts: Accounts, authorization: str | None, now: float) -> Token | None:
    """Whose Basic credentials those are: the token is the password, or the name. Raises ``BadCredentials``."""
    scheme, _, value = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return accounts.identify(authorization, now)
    try:
        name, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        raise BadCredentials from None
    return accounts.identify(f"token {password or name}", now)


def serve_git(call: GitCall) -> Reply:
    """Answer a request of git's. Refusals are plain text, as git shows them to people."""
    try:
        return _serve(call)
    except ProxyRefused:
        raise
    except Refused as refused:
        text = f"remote: {refused.message}\n".encode()
        return Reply(refused.status, headers=refused.headers, raw=text, content_type="text/plain; charset=utf-8")


def _serve(call: GitCall) -> Reply:
    context = call.context
    found = GIT_PATH.fullmatch(call.incoming.path)
    assert found is not None
    challenge = {"www-authenticate": 'Basic realm="GitHub"'}
    if not call.known:
        raise Refused(401, "Invalid username or token.", challenge)
    push = call.service == PUSH
    repository = context.repository(found["owner"], found["name"])
    if repository is None or (push and context.token is None):
        if context.token is None:
            raise Refused(401, "Authentication required.", challenge)
        raise Refused(404, "Repository not found.")
    if not context.may(repository, "contents", "write" if push else "read"):
        raise Refused(403, f"Permission to {repository.full_name}.git denied to {context.login}.")
    if not push:
        return _backend(call, repository, found["rest"])
    if repository.archived:
        raise Refused(403, READ_ONLY)
    if context.switches.proxy_refuses_pushes:
        raise ProxyRefused("git push")
    if call.incoming.method != "POST":
        return _backend(call, repository, found["rest"])
    refused = _refused_commands(call, repository)
    if refused is not None:
        return refused
    with repository.lock:
        reply = _backend(call, repository, found["rest"])
        repository.reload(login=context.login, via="push", now=context.now)
        return reply


def _refused_commands(call: GitCall, repository: Repository) -> Reply | None:
    """What a push to refs that may not be written is told: no ref of it moves. Proxies refuse the whole request."""
    context, body = call.context, call.incoming.body
    reasons: dict[str, str] = {}
    for old, new, ref in commands(body):
        delete = not new.strip("0")
        custom = not ref.startswith("refs/heads/")
        if context.switches.proxy_refuses_custom_refs and (delete or custom):
            raise ProxyRefused("pushing refs outside refs/heads, and deleting branches,")
        both = bool(old.strip("0")) and repository.kind(new) == "commit" == repository.kind(old)
        forced = both and not repository.is_ancestor(old, new)
        reason = ref_write_refused(context, repository, ref, delete=delete, force=forced)
        reasons[ref] = reason or ""
    if not any(reasons.values()):
        return None
    report = _packet(b"unpack ok\n")
    for ref, reason in reasons.items():
        report += _packet(f"ng {ref} {reason or 'another ref of this push was refused'}\n".encode())
    report += b"0000"
    if b"side-band-64k" in body.partition(b"\0")[2][:400]:
        report = _packet(b"\1" + report) + b"0000"
    return Reply(200, raw=report, content_type="application/x-git-receive-pack-result")


def _packet(line: bytes) -> bytes:
    return f"{len(line) + 4:04x}".encode() + line


def commands(body: bytes) -> list[tuple[str, str, str]]:
    """The old id, new id and name of each ref that a push wants to move: the packet lines up to the first flush."""
    found, at = [], 0
    while at + 4 <= len(body):
        try:
            size = int(body[at : at + 4], 16)
        except ValueError:
            break
        if size < 4:
            break
        line = body[at + 4 : at + size].partition(b"\0")[0].decode("utf-8", "replace").rstrip("\n")
        parts = line.split(" ", 2)
        if len(parts) == 3 and len(parts[0]) == 40:
            found.append((parts[0], parts[1], parts[2]))
        at += size
    return found


def _backend(call: GitCall, repository: Repository, rest: str) -> Reply:
    """Run ``git http-backend`` as a web server would."""
    incoming = call.incoming
    git = which("git")
    if git is None:
        raise Refused(500, "git is not installed")
    environment = {
        "PATH": os.pathsep.join((str(Path(git).parent), os.defpath)),
        "GIT_HTTP_EXPORT_ALL": "1",
        "GIT_PROJECT_ROOT": str(repository.folder),
        "PATH_INFO": f"/{rest}",
        "REQUEST_METHOD": incoming.method,
        "QUERY_STRING": incoming.query_string,
        "CONTENT_TYPE": incoming.headers.get("content-type", ""),
        "CONTENT_LENGTH": str(len(incoming.body)),
        "HTTP_CONTENT_ENCODING": incoming.headers.get("content-encoding", ""),
        "GIT_PROTOCOL": incoming.headers.get("git-protocol", ""),
        "REMOTE_USER": call.context.login,
        "REMOTE_ADDR": "127.0.0.1",
        "GIT_CONFIG_NOSYSTEM": "1",
        "HOME": str(repository.folder),
        **_CONFIG,
    }
    try:
        done = subprocess.run(
            [git, "http-backend"],
            input=incoming.body,
            capture_output=True,
            env=environment,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(500, f"git http-backend: {type(error).__name__}") from None
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n") if ": " in line)
    lowered = {name.lower(): value for name, value in headers.items()}
    status = int(lowered.pop("status", "200 OK").split()[0])
    kind = lowered.pop("content-type", "text/plain")
    return Reply(status if done.stdout else 500, headers=lowered, raw=body, content_type=kind)


_SETTINGS = {
    "http.receivepack": "true",
    "receive.denyDeletes": "false",
    "receive.denyNonFastForwards": "false",
    "receive.denyCurrentBranch": "ignore",
    "receive.denyDeleteCurrent": "ignore",
    "receive.advertiseAtomic": "true",
    "receive.autogc": "false",
    "uploadpack.allowFilter": "true",
    "uploadpack.allowAnySHA1InWant": "true",
    "safe.directory": "*",
}
_CONFIG = {"GIT_CONFIG_COUNT": str(len(_SETTINGS))} | {
    f"GIT_CONFIG_{part}_{index}": text
    for index, pair in enumerate(_SETTINGS.items())
    for part, text in zip(("KEY", "VALUE"), pair, strict=True)
}
