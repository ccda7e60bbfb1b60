"""Who may do what at the twin, and how it refuses."""

from __future__ import annotations

from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ghcoord.testing.clock import ManualRuntime
from ghcoord.twin.repository import Protection
from ghcoord.twin.server import Twin
from ghcoord.twin.switches import Switches
from tests.twin.asking import HUB, Asking


def test_a_bad_or_expired_token_is_401(me: Asking, twin: Twin, runtime: ManualRuntime) -> None:
    """Unknown, expired and revoked tokens have bad credentials; without one the viewer is unknown."""
    brief = Asking(twin, twin.user("me", expires=runtime.now() + 10))
    assert 200 == brief("GET", "/user").status
    runtime.advance(11)
    assert (401, "Bad credentials") == (brief("GET", "/user").status, brief("GET", "/user").body["message"])
    assert 401 == Asking(twin, "ghp_wrong")("GET", HUB).status
    twin.revoke(me.token)
    assert 401 == me("GET", HUB).status
    assert 401 == Asking(twin, "")("GET", "/user").status


def test_a_missing_permission_is_named(me: Asking, twin: Twin) -> None:
    """A token without contents:write is refused with 403, and told which permission would do."""
    weak = Asking(twin, twin.user("me", kind="fine", permissions={"contents": "read", "metadata": "read"}))
    refused = weak.put("a", "1")
    assert (403, "Resource not accessible by personal access token") == (refused.status, refused.body["message"])
    assert "contents=write" == refused.headers["x-accepted-github-permissions"]
    assert 403 == weak("POST", "/user/repos", {"name": "other"}).status
    assert weak("GET", HUB).body["permissions"]["push"] is not True


def test_a_private_repository_is_not_there_for_others(twin: Twin) -> None:
    """Without a grant a private repository is 404, with one it is there; a token for another one does not help."""
    other = Asking(twin, twin.user("other"))
    twin.repository("me", "hub", empty=False, private=True)
    assert 404 == other("GET", HUB).status
    twin.grant("other", "me/hub", contents="read")
    assert 200 == other("GET", HUB).status
    assert 403 == other.put("a", "1").status
    twin.grant("other", "me/hub", contents="write")
    assert 201 == other.put("a", "1").status
    elsewhere = Asking(twin, twin.user("other", repositories=["me/else"]))
    assert 404 == elsewhere("GET", HUB).status


def test_an_archived_repository_is_read_only(me: Asking, twin: Twin) -> None:
    """Reads go on, writes are refused with GitHub's words."""
    twin.hosting.repositories["me/hub"].archived = True
    assert 200 == me("GET", f"{HUB}/git/matching-refs/heads").status
    refused = me.create("refs/heads/x", me.head())
    assert (403, "Repository was archived so is read-only.") == (refused.status, refused.body["message"])
    assert 403 == me.put("a", "1").status


def test_a_protected_branch_is_not_written(me: Asking, twin: Twin) -> None:
    """Neither moved, deleted nor written by the contents API; its protection can be read."""
    twin.hosting.repositories["me/hub"].protected["main"] = Protection()
    refused = me.move(me.commit(me.head()))
    assert (422, "Protected branch update failed for refs/heads/main.") == (refused.status, refused.body["message"])
    assert 409 == me.put("a", "1").status
    assert 422 == me("DELETE", f"{HUB}/git/refs/heads/main").status
    assert 200 == me("GET", f"{HUB}/branches/main/protection").status
    assert me("GET", f"{HUB}/branches/main").body["protected"] is True
    twin.hosting.repositories["me/hub"].protected["main"] = Protection(allow=frozenset({"me"}))
    assert 200 == me.move(me.commit(me.head())).status


@pytest.mark.parametrize(
    ("switches", "allowed", "refused"),
    [
        (Switches(proxy_refuses_custom_refs=True), "refs/heads/x", "refs/ghcoord/x"),
        (Switches(custom_refs=False), "refs/heads/x", "refs/ghcoord/x"),
        (Switches(proxy_refuses_ref_writes=True), "", "refs/heads/x"),
    ],
)
def test_a_proxy_refuses_refs(me: Asking, twin: Twin, switches: Switches, allowed: str, refused: str) -> None:
    """What stands before GitHub refuses custom refs, or all of them, and says so in its own words."""
    head = me.head()
    twin.switches = switches
    answer = me.create(refused, head)
    assert answer.status == (403 if switches.custom_refs else 422)
    assert (b"policy" in answer.payload()) == switches.custom_refs
    if allowed:
        assert 201 == me.create(allowed, head).status


def test_a_proxy_or_an_old_server_has_no_graphql(me: Asking, twin: Twin) -> None:
    """The proxy answers 403, a server without it 404."""
    twin.switches = Switches(proxy_refuses_graphql=True)
    assert 403 == me.graphql("{viewer{login}}").status
    twin.switches = Switches(graphql=False)
    assert 404 == me.graphql("{viewer{login}}").status


UPDATE = 'mutation($u:[RefUpdate!]!){updateRefs(input:{repositoryId:"R_twin1",refUpdates:$u}){clientMutationId}}'


@pytest.mark.parametrize("reads", [False, True])
def test_a_proxy_may_look_into_mutations(me: Asking, twin: Twin, reads: bool) -> None:
    """One that does refuses custom refs in updateRefs, and lets branches pass; another lets all pass."""
    head = me.head()
    twin.switches = Switches(proxy_refuses_custom_refs=True, proxy_reads_graphql=reads)
    statuses = {}
    for ref in ("refs/heads/x", "refs/ghcoord/x"):
        made = me.graphql(UPDATE, u=[{"name": ref, "beforeOid": "0" * 40, "afterOid": head}])
        statuses[ref] = made.status
        assert (ref in twin.hosting.repositories["me/hub"].refs()) == (200 == made.status)
    assert {"refs/heads/x": 200, "refs/ghcoord/x": 403 if reads else 200} == statuses
    twin.switches = Switches(proxy_refuses_ref_writes=True, proxy_reads_graphql=reads)
    assert (403 if reads else 200) == me.graphql(UPDATE, u=[{"name": "refs/heads/y", "afterOid": head}]).status


def test_repositories_are_made_for_users_and_organizations(me: Asking, twin: Twin) -> None:
    """A new one is empty unless told, a taken name is refused, an organization asks for its admins."""
    twin.organization("team", "me")
    assert 201 == me("POST", "/user/repos", {"name": "new", "private": True}).status
    assert 409 == me("GET", "/repos/me/new/git/matching-refs/heads").status
    assert 422 == me("POST", "/user/repos", {"name": "new"}).status
    assert 201 == me("POST", "/orgs/team/repos", {"name": "hub", "auto_init": True}).status
    assert 1 == len(me("GET", "/repos/team/hub/git/matching-refs/heads").body)
    assert me("GET", "/repos/team/hub").body["permissions"]["push"]
    stranger = Asking(twin, twin.user("stranger"))
    assert 403 == stranger("POST", "/orgs/team/repos", {"name": "theirs"}).status
    assert 404 == me("POST", "/orgs/none/repos", {"name": "hub"}).status


def test_the_token_of_a_workflow_is_nobody(me: Asking, twin: Twin) -> None:
    """GITHUB_TOKEN writes its repository, but has no user to show."""
    twin.grant("github-actions[bot]", "me/hub", contents="write")
    bot = Asking(twin, twin.user("github-actions[bot]", kind="actions", repositories=["me/hub"]))
    assert 201 == bot.put("a", "1").status
    assert 403 == bot("GET", "/user").status


def test_an_app_gets_tokens_of_its_installation(me: Asking, twin: Twin, runtime: ManualRuntime, tmp_path: Path) -> None:
    """A signed web token finds the installation and gets an hour's token; a foreign signature gets nothing."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    login = twin.app_installation(
        7, key.public_key().public_bytes(serialization.Encoding.PEM, kind).decode(), "me/hub", installation=70
    )

    def signed(by: rsa.RSAPrivateKey, seconds: float = 300) -> Asking:
        claims = {"iss": "7", "iat": int(runtime.now()), "exp": int(runtime.now() + seconds)}
        return Asking(twin, jwt.encode(claims, by, "RS256"))

    app = signed(key)
    assert 70 == app("GET", f"{HUB}/installation").body["id"]
    made = app("POST", "/app/installations/70/access_tokens")
    assert 201 == made.status
    installed = Asking(twin, made.body["token"])
    assert login == twin.hosting.accounts.tokens[made.body["token"]].login
    assert 201 == installed.put("a", "1").status
    runtime.advance(3601)
    assert 401 == installed.put("b", "1").status
    assert (
        401
        == signed(rsa.generate_private_key(public_exponent=65537, key_size=2048))("GET", f"{HUB}/installation").status
    )
    assert 401 == signed(key, 3600)("GET", f"{HUB}/installation").status
    assert 401 == me("POST", "/app/installations/70/access_tokens").status
