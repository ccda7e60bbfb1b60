"""What git says, as errors of ours: texts as git and servers write them."""

from __future__ import annotations

import pytest

from ghcoord.errors import Denied, GhcoordError, NotFound, TooLarge, Unavailable, Unsupported
from ghcoord.store.remote.answers import Busy, Damaged, Fate, Moved, explain, lacks_atomic, last_words, read_push
from ghcoord.store.remote.program import Done
from ghcoord.store.remote.url import parse_remote_url

REMOTE = parse_remote_url("https://git.example.org/me/hub.git")
REF = "refs/heads/ghcoord/fleet"
OTHER = "refs/heads/ghcoord/locks"
NEW = "1" * 40


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("fatal: unable to access 'https://x/': Could not resolve host: git.example.org", Unavailable, "not known"),
        (
            "ssh: Could not resolve hostname nope: Name or service not known\nfatal: Could not read from remote",
            Unavailable,
            "not known",
        ),
        (
            "fatal: unable to access 'https://x/': Failed to connect to x port 443: Connection refused",
            Unavailable,
            "up",
        ),
        ("ssh: connect to host x port 22: Connection timed out", Unavailable, "cannot be reached"),
        ("fatal: unable to access 'https://x/': Operation too slow. Less than 1 bytes/sec", Unavailable, "reached"),
        ("Host key verification failed.\nfatal: Could not read from remote repository.", Denied, "known_hosts"),
        ("git@x: Permission denied (publickey).\nfatal: Could not read from remote repository.", Denied, "ssh-add"),
        ("fatal: could not read Username for 'https://x': terminal prompts disabled", Denied, "GH_TOKEN"),
        ("remote: Invalid username or password.\nfatal: Authentication failed for 'https://x/'", Denied, "GH_TOKEN"),
        ("remote: Repository not found.\nfatal: repository 'https://x/' not found", NotFound, "ghcoord init"),
        ("ERROR: Repository not found.\nfatal: Could not read from remote repository.", NotFound, "ghcoord init"),
        ("fatal: '/no' does not appear to be a git repository", NotFound, "ghcoord init"),
        ("fatal: detected dubious ownership in repository at '/srv/hub'", Denied, "safe.directory"),
        ("fatal: mismatched algorithms: client sha1; server sha256", Unsupported, "SHA-256"),
        ("fatal: unable to access 'x': SSL certificate problem: self-signed certificate", Denied, "GIT_SSL_CAINFO"),
        ("fatal: unable to access 'x': server certificate verification failed. CAfile: none", Denied, "TLS"),
        ("fatal: unable to access 'x': CONNECT tunnel failed, response 403", Denied, "proxy"),
        ("fatal: unable to access 'x': Received HTTP code 407 from proxy after CONNECT", Denied, "proxy"),
        ("error: RPC failed; HTTP 403 curl 22 The requested URL returned error: 403", Denied, "refs/heads/ghcoord/"),
        ("fatal: unable to access 'x': The requested URL returned error: 403", Denied, "403"),
        ("remote: Permission to me/hub.git denied to bot.\nfatal: unable to access 'x': error: 403", Denied, "write"),
        ("remote: Write access to repository not granted.", Denied, "Contents: write"),
        ("remote: This repository was archived so it is read-only.\nfatal: error: 403", Denied, "unarchive"),
        ("remote: error: GH006: Protected branch update failed for x.", Denied, "protection"),
        ("remote: error: GH013: Repository rule violations found for x.", Denied, "rule"),
        ("! [remote rejected] x (pre-receive hook declined)", Denied, "hook"),
        ("! [remote rejected] x (deny updating a hidden ref)", Denied, "prefix"),
        ("remote: fatal: pack exceeds maximum allowed size (4.88 MiB)", TooLarge, "size"),
        ("remote: error: File x is 120.00 MB; this exceeds GitHub's file size limit of 100.00 MB", TooLarge, "size"),
        ("error: RPC failed; HTTP 413 curl 22 The requested URL returned error: 413", TooLarge, "size"),
        ("error: RPC failed; HTTP 429 curl 22 The requested URL returned error: 429", Busy, "a while"),
        ("fatal: remote error: upload-pack: not our ref " + NEW, Moved, ""),
        ("fatal: bad object refs/ghcoord-mirror/x", Damaged, ""),
        ("error: object file objects/ab/cd is empty", Damaged, ""),
        ("fatal: not a git repository: '/cache/x/calls/y'", Damaged, ""),
        ("fatal: bad config line 1 in file /c/mirror.git/config", Damaged, ""),
        ("fatal: bad config line 1 in file /home/me/.gitconfig", Denied, "put them right"),
        ("fatal: transport 'ssh' not allowed", Denied, "insteadOf"),
        ("error: cannot lock ref 'refs/heads/a/b': 'refs/heads/a' exists; cannot create 'x'", Unsupported, "prefix"),
        ("remote: fatal: write error: No space left on device", Unavailable, "full"),
    ],
)
def test_explained(text: str, kind: type[GhcoordError], said: str) -> None:
    """The class decides what the caller does next; the sentence names the fix, and is one line."""
    error = explain(text, REMOTE)
    assert kind is type(error)
    assert said in str(error)
    assert "\n" not in str(error)


def test_unknown_words() -> None:
    """What nobody knows is no error of a kind; the line that says most is found, without credentials."""
    text = "hint: try\nremote: \nfatal: 'https://me:s3cret@x/y' is strange\x1b[31m"
    assert explain(text, REMOTE) is None
    assert "'https://x/y' is strange [31m" == last_words(text)


def done(code: int | None, *lines: str, err: str = "") -> Done:
    return Done(code, "\n".join(["To https://x", *lines, "Done"]), err, None, 0.0, 1.0)


@pytest.mark.parametrize(
    ("answer", "fate", "kind"),
    [
        (done(0, f" \t{NEW}:{REF}\t0..1", f"*\t{NEW}:{OTHER}\t[new reference]"), Fate.WON, None),
        # One's own id is there already: it was sent before, and only a look tells about the others.
        (done(0, f"=\t{NEW}:{REF}\t[up to date]", f"=\t{NEW}:{OTHER}\t[up to date]"), Fate.UNKNOWN, None),
        (done(0, f" \t{NEW}:{REF}\t0..1"), Fate.UNKNOWN, None),  # one of two is not named
        (done(1, f"!\t{NEW}:{REF}\t[rejected] (stale info)", f"!\t{NEW}:{OTHER}\t[rejected] (atomic push failed)"),
         Fate.NOT_DONE, None),
        (done(1, f"!\t{NEW}:{REF}\t[rejected] (fetch first)"), Fate.NOT_DONE, None),
        (done(1, f"!\t{NEW}:{REF}\t[rejected] (non-fast-forward)"), Fate.NOT_DONE, None),
        (done(1, f"!\t{NEW}:{REF}\t[remote rejected] (failed to update ref)"), Fate.NOT_DONE, None),
        (done(1, f"!\t{NEW}:{REF}\t[remote rejected] (cannot lock ref 'x')"), Fate.NOT_DONE, None),
        (done(1, f"!\t{NEW}:{REF}\t[remote rejected] (reference already exists)"), Fate.NOT_DONE, None),
        (done(1, f"!\t{NEW}:{REF}\t[remote rejected] (missing necessary objects)"), Fate.NOT_DONE, None),
        (done(1, f"!\t{NEW}:{REF}\t[remote rejected] (failed)"), Fate.NOT_DONE, None),
        (done(1, f"!\t{NEW}:{REF}\t[remote rejected] (pre-receive hook declined)"), Fate.NOT_DONE, Denied),
        (done(1, f"!\t{NEW}:{REF}\t[remote rejected] (protected branch hook declined)"), Fate.NOT_DONE, Denied),
        (done(1, f"!\t{NEW}:{REF}\t[remote failure] (remote failed to report status)"), Fate.UNKNOWN, None),
        (done(128, err="error: RPC failed; HTTP 500 curl 22\nfatal: the remote end hung up unexpectedly"),
         Fate.UNKNOWN, None),
        (done(1, err="error: RPC failed; HTTP 403 curl 22 The requested URL returned error: 403\nsend-pack: unexpected "
              "disconnect\nEverything up-to-date"), Fate.NOT_DONE, Denied),
        (done(128, err="fatal: unable to access 'x': Could not resolve host: x"), Fate.NOT_DONE, Unavailable),
        (done(128, err="fatal: Authentication failed for 'x'"), Fate.NOT_DONE, Denied),
        (done(128, err="remote: fatal: unable to access\nfatal: the remote end hung up unexpectedly"),
         Fate.UNKNOWN, None),
        (done(None), Fate.ENDED, None),
        (done(-9), Fate.ENDED, None),
    ],
)  # fmt: skip
def test_pushed(answer: Done, fate: Fate, kind: type[GhcoordError] | None) -> None:
    """Won only if every ref is said to have moved; not done only if git or the server said no; else unknown."""
    refs = {REF: NEW, OTHER: NEW} if OTHER in answer.out or "0..1" in answer.out else {REF: NEW}
    pushed = read_push(answer, refs, REMOTE)
    assert (fate, kind) == (pushed.fate, None if pushed.error is None else type(pushed.error))


def test_no_atomic_push() -> None:
    """A server that cannot push several refs as one is recognised; nothing was done."""
    answer = done(128, err="fatal: the receiving end does not support --atomic push")
    assert lacks_atomic(answer)
    assert Fate.NOT_DONE is read_push(answer, {REF: NEW}, REMOTE).fate
