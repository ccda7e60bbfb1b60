"""What ``git`` says when something is wrong, as errors of ours: one line each, with the fix."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ghcoord.errors import Denied, GhcoordError, NotFound, TooLarge, Unavailable, Unsupported
from ghcoord.store.base import Oid
from ghcoord.store.remote.program import Done
from ghcoord.store.remote.url import Remote


class Fault(GhcoordError):
    """Marks of faults that the driver itself deals with; never leaves it."""


class Damaged(Fault):
    """The mirror on this machine is damaged."""


class Moved(Fault):
    """A ref moved between listing and fetching."""


class Busy(Fault):
    """The server refuses requests for a while."""


_Make = Callable[[Remote, str], GhcoordError]


def _says(kind: type[GhcoordError], text: str) -> _Make:
    """``text`` may name the ``{host}`` and the ``{url}``, and what git said as ``{line}``."""
    return lambda remote, line: kind(text.format(host=remote.host, url=remote.url, line=line))


_ACCESS = {
    "https": "set GH_TOKEN for GitHub, else set up a credential helper of git for {host}",
    "http": "set GHCOORD_GITHUB_API and GH_TOKEN for a twin of GitHub, else a credential helper of git for {host}",
}


def _refused(remote: Remote, line: str) -> GhcoordError:
    fix = _ACCESS.get(remote.scheme, "check the account's permissions").format(host=remote.host)
    return Denied(f"{remote.host} does not accept these credentials: {fix}")


def _missing(remote: Remote, line: str) -> GhcoordError:
    if remote.scheme == "file":
        return NotFound(f"there is no repository at {remote.url}: 'git init --bare' makes one")
    return NotFound(
        f"there is no repository at {remote.url}, or it may not be seen: create an empty one there first, then "
        f"'ghcoord init {remote.url}'; a private one needs credentials"
    )


_PREFIX_FIX = "if it takes branches only, set prefix to refs/heads/ghcoord/"

PATTERNS: tuple[tuple[re.Pattern[str], _Make], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE | re.MULTILINE), make)
    for pattern, make in (
        # -- the mirror
        (
            r"^(?:fatal|error): (?:bad object|object file .* is empty|loose object .* is corrupt|inflate:"
            r"|unable to read (?:tree|sha1 file)|not a git repository: '.*/calls/|packfile .* (?:cannot|does not|is)"
            r"|.*missing (?:tree|blob|commit)|failed to read object|unable to (?:open|parse) object"
            r"|bad tree object|could not read [0-9a-f]{40}|bad config .*mirror\.git/config)",
            _says(Damaged, "{line}"),
        ),
        (
            r"^fatal: (?:bad config|bad numeric config|unknown error occurred while reading the config)",
            _says(Denied, "git's own settings on this machine are broken ({line}): put them right"),
        ),
        (r"upload-pack: not our ref|remote error: .*not our ref", _says(Moved, "{line}")),
        (
            r"no space left on device(?![^\n]*remote)",
            _says(Unavailable, "the disk is full, here or at {host}: make room"),
        ),
        # -- who is there
        (
            r"requested URL returned error: 429|HTTP 429|rate limit|too many requests",
            _says(Busy, "{host} refuses requests for a while"),
        ),
        (
            r"could ?n[o']t resolve (?:host|hostname|proxy)|could not resolve (?:host|hostname|proxy)"
            r"|name or service not known|temporary failure in name resolution",
            _says(Unavailable, "{host} is not known: check the hub's URL and the network"),
        ),
        (
            r"connection refused|failed to connect|could ?n[o']t connect|no route to host|network is unreachable"
            r"|connection reset|connection timed out|operation timed out|connection closed by|kex_exchange"
            r"|operation too slow|empty reply|recv failure|send failure|broken pipe",
            _says(Unavailable, "{host} cannot be reached ({line}): check the network, a proxy, and that it is up"),
        ),
        (
            r"host key verification failed|remote host identification has changed|no .*host key is known",
            _says(Denied, "the host key of {host} is not known or has changed: compare it, then 'ssh-keyscan' or "
                  "'ssh {host}' once puts it into known_hosts"),
        ),
        (
            r"permission denied \([a-z,-]*(?:publickey|password|keyboard-interactive)",
            _says(Denied, "{host} does not accept your ssh key: 'ssh-add' it, or add it to the account there"),
        ),
        (
            r"server certificate|certificate (?:problem|verif|has expired)|SSL",
            _says(Denied, "the TLS certificate of {host} is not trusted ({line}): set GIT_SSL_CAINFO to the right one"),
        ),
        (
            r"CONNECT tunnel failed|response 407|proxy.*\b40[37]\b|received HTTP code (?:403|407) from proxy",
            _says(Denied, "the proxy does not let requests to {host} through ({line}): allow it, or set no_proxy"),
        ),
        (
            r"could not read (?:username|password)|terminal prompts disabled|authentication failed"
            r"|requested URL returned error: 401|HTTP Basic: Access denied|invalid (?:username|credentials)",
            _refused,
        ),
        # -- what is there
        (
            r"repository .*not found|requested URL returned error: 404|does not appear to be a git repository"
            r"|repository .* does not exist|no such repository|project you were looking for|not found: .*\.git",
            _missing,
        ),
        (
            r"detected dubious ownership",
            _says(Denied, "{url} belongs to another user: 'git config --global --add safe.directory' says that you "
                  "trust it"),
        ),
        (
            r"mismatched algorithms|repository's hash algorithm|object format .*(?:not supported|mismatch)",
            _says(Unsupported, "{url} uses SHA-256: a hub needs an ordinary repository"),
        ),
        (
            r"dumb http transport|git-http-push failed|cannot access URL .*return code|info/refs not valid",
            _says(Unsupported, "{host} serves the repository by dumb HTTP: a hub needs smart HTTP (git http-backend)"),
        ),
        (
            r"transport '.*' not allowed",
            _says(Denied, "git's settings turn {url} into a URL of another kind (url.….insteadOf): leave that out"),
        ),
        # -- what may not be done
        (
            r"repository (?:was |is )?archived|read-only (?:repository|file system)|is read only",
            _says(Denied, "{url} is archived or read-only: unarchive it, or choose another repository"),
        ),
        (
            r"receive-pack: service not enabled|service not enabled|`?receive-pack'? (?:is )?(?:not|disabled)"
            r"|write access to repository not granted|denied to|permission to .* denied|deploy key.*read.only"
            r"|not allowed to push|you do not have (?:permission|write)|insufficient permission|permission denied",
            _says(Denied, "{host} does not let you write to the repository ({line}): ask for write access, or give "
                  "the token the permission Contents: write"),
        ),
        (
            r"exceeds (?:github's|gitlab's|the) .*(?:limit|size)|pack exceeds maximum|HTTP 413|error: 413",
            _says(TooLarge, "{host} takes no commit of that size ({line})"),
        ),
        (
            r"cannot force-push|denying non-fast-forward|denyNonFastForwards",
            _says(Denied, "{host} refuses to replace history ({line}): allow force pushes to the hub's branches"),
        ),
        (
            r"protected branch|branch is protected|repository rule violations|GH006|GH013",
            _says(Denied, "a branch protection or rule of {host} covers the hub's branches ({line}): exempt "
                  "the pattern of its prefix"),
        ),
        (
            r"deny updating a hidden ref|hidden ref|refusing to (?:create|update) ref|refs? .*not allowed"
            r"|funny refname|invalid ref",
            _says(Denied, "{host} refuses these refs ({line}): " + _PREFIX_FIX),
        ),
        (
            r"hook declined|declined by .*hook|update hook|push declined",
            _says(Denied, "a hook at {host} declined the push ({line}): exempt the hub's refs there"),
        ),
        (
            r"requested URL returned error: 403|HTTP 403",
            _says(Denied, "{host} or a proxy on the way refuses this (403): check the token's permissions; "
                  + _PREFIX_FIX),
        ),
        (r"' exists; cannot create", _says(Unsupported, "a branch stands in the way of the hub's ({line}): remove it "
                                           "or choose another prefix")),
    )
)  # fmt: skip

_NOISE = re.compile(r"^(?:hint:|warning: (?!remote)|To |Done$|remote: *$|Everything up-to-date|error: failed to push)")
_PLAIN = re.compile(r"[^\x20-\x7e\xa0-\U0010ffff]+")
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")


def explain(text: str, remote: Remote) -> GhcoordError | None:
    """The error that git's words ``text`` stand for; ``None`` for what nobody knows."""
    for pattern, make in PATTERNS:
        match = pattern.search(text)
        if match is not None:
            begin = text.rfind("\n", 0, match.start()) + 1
            line = text[begin:].partition("\n")[0]
            return make(remote, tidy(line))
    return None


def tidy(line: str) -> str:
    """One line of git's for people, without credentials and control characters."""
    line = _USERINFO.sub("", _PLAIN.sub(" ", line)).strip()
    line = re.sub(r"^(?:(?:remote|fatal|error): +)+", "", line)
    return line if len(line) <= 200 else line[:197] + "..."


def last_words(text: str) -> str:
    """The line of git's output that says most."""
    lines = [line for line in text.splitlines() if line.strip() and not _NOISE.match(line)]
    telling = [line for line in lines if line.startswith(("fatal:", "error:", "remote:", "ssh:"))] or lines
    return tidy(telling[0]) if telling else "git said nothing"


# -- pushing


class Fate(Enum):
    """What became of a push, as far as git's answer goes."""

    WON = "the server moved every ref"
    NOT_DONE = "certainly not done"
    UNKNOWN = "sent, and no clear answer"
    ENDED = "sent, and git was ended before there was an answer"


@dataclass(frozen=True, slots=True)
class Pushed:
    """The answer to a push; ``reason`` in git's words, ``error`` where it names a lasting cause."""

    fate: Fate
    reason: str
    error: GhcoordError | None = None


_LINE = re.compile(r"^([ +\-*=!])\t([0-9a-f]*):(\S+)\t(.*)$", re.MULTILINE)
_ATOMIC = re.compile(r"does not support --atomic")
_UNSENT = re.compile(
    r"^error: cannot access URL|^fatal: (?:unable to access|authentication failed|repository .* not found"
    r"|could not read (?:username|password)"
    r"|could not read from|protocol error: bad|transport '|'.*' does not appear|remote error"
    r"|unable to find remote helper|mismatched algorithms)",
    re.IGNORECASE | re.MULTILINE,
)
"""Words with which git gives up before it has sent anything."""

_UNABLE = re.compile(r"^fatal: the receiving end does not support", re.MULTILINE)
_LOST = re.compile(r"unexpected disconnect|hung up unexpectedly|RPC failed|early EOF|remote failure|failed to report")
_BY_SERVER = re.compile(r"^error: RPC failed; HTTP (?:40[1345]|41[1345]|42[29])", re.MULTILINE)
"""Statuses with which a request was refused, not lost on its way."""


def read_push(done: Done, made: dict[str, Oid], remote: Remote) -> Pushed:
    """What became of the push of ``made`` (new ids by ref)."""
    if done.code is None or done.code < 0:
        return Pushed(Fate.ENDED, "git was ended before the server answered")
    lines = {ref: (flag, new, said) for flag, new, ref, said in _LINE.findall(done.out)}
    if done.code == 0 and set(lines) == set(made) and all(line[0] in " +*" for line in lines.values()):
        return Pushed(Fate.WON, "")
    rejected = [said for flag, _, said in lines.values() if flag == "!"]
    words = "\n".join([*rejected, done.err])
    reason = next((said for said in rejected if "atomic" not in said), rejected[0] if rejected else "")
    reason = tidy(reason) or last_words(done.err)
    error = explain(words, remote)
    if rejected and all(said.startswith(("[rejected]", "[remote rejected]")) for said in rejected):
        return Pushed(Fate.NOT_DONE, reason, error)
    if _BY_SERVER.search(done.err) or _UNABLE.search(done.err):
        return Pushed(Fate.NOT_DONE, reason, error)
    if not lines and _UNSENT.search(done.err) and not _LOST.search(done.err):
        return Pushed(Fate.NOT_DONE, reason, error)
    return Pushed(Fate.UNKNOWN, reason, error)


def lacks_atomic(done: Done) -> bool:
    """Whether the server cannot push several refs as one."""
    return _ATOMIC.search(done.err) is not None
