"""GraphQL's fields about the caller, repositories, refs and their protection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ghcoord.twin.context import RequestContext
from ghcoord.twin.graphql_errors import Refused
from ghcoord.twin.graphql_nodes import GitNode, ProtectionNode, RefNode, find_node, git_node, ref_node
from ghcoord.twin.graphql_pages import Page, page
from ghcoord.twin.repository import Repository, resolve
from ghcoord.twin.shapes import stamp

# the root


def find_repository(_: Any, context: RequestContext, owner: str, name: str, **__: Any) -> Repository:
    """The repository, refused where it is none that the caller may see."""
    found = context.repository(owner, name)
    if found is None:
        raise Refused("NOT_FOUND", f"Could not resolve to a Repository with the name '{owner}/{name}'.")
    return found


def find_by_id(_: Any, context: RequestContext, id: str) -> Any:
    """What a global id names, refused where that is nothing."""
    found = find_node(context, id)
    if found is None:
        raise Refused("NOT_FOUND", f"Could not resolve to a node with the global id of '{id}'")
    return found


def rate_limit(_: Any, context: RequestContext) -> dict[str, Any]:
    """The primary limit as it is after this request."""
    limit, remaining, used, reset = (context.rate.get(name, 0) for name in ("limit", "remaining", "used", "reset"))
    return {
        "cost": context.cost,
        "limit": limit,
        # As after this request, which is counted too.
        "remaining": max(0, remaining - context.cost),
        "used": used + context.cost,
        "resetAt": stamp(reset),
        "nodeCount": context.nodes,
    }


# repositories and refs


def find_ref(repository: Repository, context: RequestContext, qualifiedName: str) -> RefNode | None:
    """A ref by its whole name, or a branch or tag by its own."""
    refs = context.refs(repository)
    for full in (qualifiedName, f"refs/heads/{qualifiedName}", f"refs/tags/{qualifiedName}"):
        target = refs.get(full)
        if target is not None and _shown(full, context):
            return ref_node(repository, full, target)
    return None


def list_refs(
    repository: Repository,
    context: RequestContext,
    refPrefix: str,
    query: str | None = None,
    direction: str | None = None,
    orderBy: Mapping[str, str] | None = None,
    **bounds: Any,
) -> Page | None:
    """The refs below a prefix."""
    prefix = refPrefix if refPrefix.endswith("/") else refPrefix + "/"
    found = [
        ref_node(repository, full, target, prefix if context.switches.ref_names_relative else None)
        for full, target in context.refs(repository, prefix).items()
        if _shown(full, context) and (query is None or query in full)
    ]
    order = orderBy or {"field": "ALPHABETICAL", "direction": direction or "ASC"}
    if order["field"] == "TAG_COMMIT_DATE":
        found.sort(key=lambda one: _commit_time(one))
    if order["direction"] == "DESC":
        found.reverse()
    return page(found, **bounds)


def _commit_time(ref: RefNode) -> int:
    data = ref.repository.commit(ref.target)
    return data.committer.time if data is not None else 0


def _shown(full: str, context: RequestContext) -> bool:
    return not context.switches.ref_null_outside_heads or full.startswith(("refs/heads/", "refs/tags/"))


def default_branch(repository: Repository, context: RequestContext) -> RefNode | None:
    """The default branch, if it exists."""
    return find_ref(repository, context, f"refs/heads/{repository.default_branch}")


def find_object(
    repository: Repository, context: RequestContext, oid: str | None = None, expression: str | None = None
) -> GitNode | None:
    """An object by its id, or what an expression such as ``main:path`` names."""
    if expression is not None:
        path = expression.partition(":")[2]
        return git_node(repository, resolve(repository, expression, context.refs(repository)), path)
    return git_node(repository, oid)


def viewer_permission(repository: Repository, context: RequestContext) -> str | None:
    """What the caller may do to the repository."""
    if context.may(repository, "administration", "write"):
        return "ADMIN"
    return "WRITE" if context.may(repository, "contents", "write") else "READ"


def list_rules(repository: Repository, context: RequestContext, **bounds: Any) -> Page:
    """The protected branches, for those who may change that."""
    # Only those who may change the rules are shown them.
    shown = context.may(repository, "administration", "write")
    rules = [ProtectionNode(repository, *item) for item in sorted(repository.protected.items())] if shown else []
    return page(rules, **bounds)


def protection_of(repository: Repository, full: str) -> ProtectionNode | None:
    """What protects the ref, named in full."""
    branch = full.removeprefix("refs/heads/")
    protection = repository.protected.get(branch) if full != branch else None
    return ProtectionNode(repository, branch, protection) if protection is not None else None


def rule_of_ref(ref: RefNode, context: RequestContext) -> ProtectionNode | None:
    """The rule that protects the ref, for those who may change it."""
    shown = context.may(ref.repository, "administration", "write")
    return protection_of(ref.repository, ref.full) if shown else None
