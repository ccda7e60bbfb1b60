"""REST: repositories, users, limits, protection, and what an app asks for."""

from __future__ import annotations

from typing import Any

from ghcoord.twin import shapes
from ghcoord.twin.auth import Token, User
from ghcoord.twin.hosting import NameTaken, person
from ghcoord.twin.repository import RefUpdate, Repository
from ghcoord.twin.rest import Call, Refused, Reply, route

REPOSITORY = "/repos/{owner}/{repo}"
INSTALLATION_TOKEN_SECONDS = 3600.0


def _whole(call: Call, repository: Repository) -> dict[str, Any]:
    context = call.context
    admin = context.may(repository, "administration", "write")
    push = context.may(repository, "contents", "write")
    permissions = {"admin": admin, "maintain": admin, "push": push, "triage": push, "pull": True}
    return shapes.repository(repository, context.hosting.accounts.user(repository.owner), call.api, permissions)


def _me(call: Call) -> User:
    user = call.context.user
    if user is None:
        raise Refused(401, "Requires authentication")
    return user


@route("GET", REPOSITORY)
def get_repository(call: Call) -> Reply:
    """A repository, with what the caller may do there."""
    return Reply(200, _whole(call, call.repository(permission="metadata")))


@route("POST", "/user/repos", content=True)
def create_for_user(call: Call) -> Reply:
    """Create a repository of the caller's."""
    return _create(call, _me(call).login)


@route("POST", "/orgs/{org}/repos", content=True)
def create_for_organization(call: Call) -> Reply:
    """Create a repository of an organization's."""
    me = _me(call)
    found = call.context.hosting.accounts.find(call.args["org"])
    if found is None or found.kind != "Organization":
        raise Refused(404, "Not Found")
    if not me.may("administration", "write", f"{found.login}/*".lower()):
        raise Refused(403, "You need admin access to the organization before adding a repository to it.")
    return _create(call, found.login)


def _create(call: Call, owner: str) -> Reply:
    context, name = call.context, call.text("name")
    token = context.token
    if token is None or not token.may("administration", "write", f"{owner}/{name}".lower()):
        accepted = {"x-accepted-github-permissions": "administration=write"}
        raise Refused(403, "Resource not accessible by personal access token", accepted)
    try:
        made = context.hosting.create(owner, name, private=call.flag("private"))
    except NameTaken:
        error = {"resource": "Repository", "code": "custom", "field": "name"}
        error["message"] = "name already exists on this account"
        raise Refused(422, "Repository creation failed.", errors=[error]) from None
    except ValueError:
        raise Refused(422, "Repository creation failed.", errors=[{"code": "invalid", "field": "name"}]) from None
    if owner.lower() != context.login.lower():
        context.hosting.grant(context.login, made.full_name, dict(token.permissions))
    if call.flag("auto_init"):
        me = person(context.login, context.now)
        commit = made.create_commit(made.edit_tree(None, {}), [], "Initial commit", me)
        first = RefUpdate(f"refs/heads/{made.default_branch}", None, commit)
        made.update_refs([first], login=context.login, via="rest", now=context.now)
    return Reply(201, _whole(call, made))


@route("GET", "/user")
def get_user(call: Call) -> Reply:
    """Who the token belongs to. An app's installation is nobody."""
    me = _me(call)
    if call.context.token is not None and call.context.token.kind in ("app", "actions"):
        raise Refused(403, "Resource not accessible by integration")
    return Reply(200, shapes.viewer(me, call.api))


@route("GET", "/rate_limit")
def rate_limit(call: Call) -> Reply:
    """The primary limits; costs nothing of them."""
    rates = call.context.rates
    if not rates:
        raise Refused(404, "Rate limiting is not enabled.")
    return Reply(200, {"resources": {**rates, "search": rates["core"]}, "rate": rates["core"]})


@route("GET", "/meta")
def meta(call: Call) -> Reply:
    """About the server. An Enterprise Server tells its version."""
    return Reply(200, {"verifiable_password_authentication": False, "installed_version": "3.18.0"})


@route("GET", REPOSITORY + "/branches/{branch}/protection")
def protection(call: Call) -> Reply:
    """A branch's protection, for administrators."""
    repository = call.repository(permission="administration")
    if call.context.token is None or not call.context.may(repository, "administration", "write"):
        raise Refused(404, "Not Found")
    branch = call.args["branch"]
    if repository.head(f"refs/heads/{branch}") is None:
        raise Refused(404, "Branch not found")
    found = repository.protection(f"refs/heads/{branch}")
    if found is None:
        raise Refused(404, "Branch not protected")
    url = f"{call.api}/repos/{repository.full_name}/branches/{branch}/protection"
    switch = {"allow_force_pushes": {"enabled": found.allow_force}, "allow_deletions": {"enabled": False}}
    return Reply(200, {"url": url, **switch, **found.rules})


@route("GET", REPOSITORY + "/branches/{branch+}")
def branch(call: Call) -> Reply:
    """A branch and whether it is protected, which readers may know."""
    repository, name = call.repository(), call.args["branch"]
    oid = call.context.refs(repository).get(f"refs/heads/{name}")
    data = repository.commit(oid) if oid is not None else None
    if data is None:
        raise Refused(404, "Branch not found")
    url = f"{call.api}/repos/{repository.full_name}/branches/{name}"
    protected = repository.protection(f"refs/heads/{name}") is not None
    status = {"enforcement_level": "off", "contexts": [], "checks": []}
    body = {
        "name": name,
        "commit": shapes.listed_commit(repository, data, call.api),
        "_links": {"self": url, "html": f"{call.context.base_url}/{repository.full_name}/tree/{name}"},
        "protected": protected,
        "protection": {"enabled": protected, "required_status_checks": status},
        "protection_url": f"{url}/protection",
    }
    return Reply(200, body)


@route("GET", REPOSITORY + "/rules/branches/{branch+}")
def rules(call: Call) -> Reply:
    """The rulesets' rules for a branch: the twin knows none."""
    call.repository(permission="metadata")
    return Reply(200, [])


@route("GET", REPOSITORY + "/installation")
def installation(call: Call) -> Reply:
    """The app's installation that covers the repository, asked by the app itself."""
    app = _app(call)
    name = f"{call.args['owner']}/{call.args['repo']}".lower()
    if name not in app.repositories:
        raise Refused(404, "Not Found")
    api, at = call.api, shapes.stamp(1_600_000_000)
    owner = call.context.hosting.accounts.user(call.args["owner"])
    body = {
        "id": app.installation,
        "app_id": app.number,
        "app_slug": app.login.removesuffix("[bot]"),
        "account": shapes.user(owner, api),
        "target_id": owner.number,
        "target_type": owner.kind,
        "single_file_name": None,
        "repository_selection": "selected",
        "access_tokens_url": f"{api}/app/installations/{app.installation}/access_tokens",
        "html_url": f"{call.context.base_url}/settings/installations/{app.installation}",
        "repositories_url": f"{api}/installation/repositories",
        "events": [],
        "permissions": dict(app.permissions),
        "created_at": at,
        "updated_at": at,
        "suspended_by": None,
        "suspended_at": None,
    }
    return Reply(200, body)


@route("POST", "/app/installations/{installation_id}/access_tokens")
def installation_token(call: Call) -> Reply:
    """A token of an installation, good for an hour."""
    app = _app(call)
    if call.args["installation_id"] != str(app.installation):
        raise Refused(404, "Not Found")
    context = call.context
    expires = context.now + INSTALLATION_TOKEN_SECONDS
    value = f"ghs_twin{app.number}x{context.hosting.next_number()}"
    context.hosting.accounts.add(Token(value, app.login, "app", app.permissions, app.repositories, expires))
    body = {
        "token": value,
        "expires_at": shapes.stamp(expires),
        "permissions": dict(app.permissions),
        "repository_selection": "selected",
    }
    return Reply(201, body)


def _app(call: Call) -> Any:
    token = call.context.token
    if token is None or token.kind != "jwt":
        raise Refused(401, "A JSON web token could not be decoded")
    return call.context.hosting.accounts.apps[int(token.login.removeprefix("app:"))]
