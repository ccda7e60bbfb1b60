"""A request's way through the twin: faults, who asks, limits, the handler, headers, the log."""

from __future__ import annotations

import re
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import jwt

from ghcoord.clock import Runtime
from ghcoord.twin import rest_actions, rest_contents, rest_objects, rest_refs, rest_repos
from ghcoord.twin.auth import EVERYTHING, BadCredentials, Token
from ghcoord.twin.context import RequestContext
from ghcoord.twin.faults import Fault, Faults
from ghcoord.twin.graphql_execute import execute
from ghcoord.twin.hosting import Hosting
from ghcoord.twin.limits import Demand, Limiter, Over
from ghcoord.twin.log import Exchange, Kind, Log, Recorded
from ghcoord.twin.messages import ConnectionLost, Incoming
from ghcoord.twin.refusals import check_mutation
from ghcoord.twin.refuse_limits import limit_reply
from ghcoord.twin.rest import Call, ProxyRefused, Refused, Reply, Route, find_route, with_etag
from ghcoord.twin.smart_http import GIT_PATH, GitCall, basic_token, serve_git
from ghcoord.twin.switches import OPAQUE

HANDLERS = (rest_actions, rest_contents, rest_objects, rest_refs, rest_repos)
"""Importing them registers the routes."""

GRAPHQL_PATHS = ("/api/graphql", "/graphql")
_MUTATION = re.compile(r"(^|[\s}])mutation\b")


class Dispatcher:
    """Answers requests, from sockets or from within the process. Thread-safe."""

    def __init__(self, hosting: Hosting, runtime: Runtime, limiter: Limiter, faults: Faults, log: Log) -> None:
        self.hosting = hosting
        self.runtime = runtime
        self.limiter = limiter
        self.faults = faults
        self.log = log

    def now(self) -> float:
        """The server's clock."""
        return self.runtime.now() + self.hosting.switches.clock_offset

    def handle(self, incoming: Incoming) -> Reply:
        """Answer a request. Raises :class:`ConnectionLost` where no answer leaves."""
        now = self.now()
        for late in self.faults.due(now):
            self.land(late)
        work = Work(self, incoming, now)
        fault = self.faults.choose(incoming, work.kind, work.resource, now)
        try:
            reply = self._under(fault, work) if fault is not None else work.serve()
        except ConnectionLost:
            work.note(0, fault)
            raise
        work.note(reply.status, fault)
        return reply

    def land(self, late: Incoming) -> None:
        """Let a late request take effect; nobody hears of it."""
        Work(self, late, self.now()).serve(unlimited=True)

    def settle(self) -> None:
        """Let everything land that is late."""
        for late in self.faults.due(self.now(), all_of_them=True):
            self.land(late)

    def _under(self, fault: Fault, work: Work) -> Reply:
        """Answer while something goes wrong."""
        if fault.kind in ("request_lost", "late"):
            if fault.kind == "late":
                self.faults.postpone(work.incoming, fault, work.now)
            raise ConnectionLost(reset=fault.kind == "late")
        if fault.kind == "delay":
            return self._delayed(fault, work)
        if fault.kind in ("primary", "secondary"):
            over = self.limiter.refuse(work.demand, fault.kind, fault.seconds)
            return work.finish(limit_reply(over, work.demand, self.hosting.switches))
        if fault.kind == "status":
            if fault.after:
                work.serve()
            page = b"<html><body><h1>Unicorn!</h1>We had issues producing the response.</body></html>"
            return work.finish(Reply(fault.status, raw=page, content_type="text/html; charset=utf-8"))
        if fault.kind == "conflict":
            return work.finish(Refused(409, "is at another commit but expected this one").reply())
        if fault.kind == "opaque":
            if fault.after:
                work.serve()
            message = OPAQUE.format(request=work.request_id)
            return work.finish(Reply(200, {"data": None, "errors": [{"message": message}]}))
        reply = work.serve()
        if fault.kind in ("reply_lost", "reset"):
            raise ConnectionLost(reset=fault.kind == "reset")
        if fault.kind == "truncated" and reply.payload():
            reply.truncated = True
        return reply

    def _delayed(self, fault: Fault, work: Work) -> Reply:
        """Answer after the delay; a client that does not wait so long hears nothing, and it is done all the same."""
        patience = work.incoming.timeout
        if patience is not None and patience <= fault.seconds:
            self.faults.postpone(work.incoming, fault, work.now)
            self.runtime.sleep(patience)
            raise ConnectionLost(timeout=True)
        self.runtime.sleep(fault.seconds)
        return work.serve()


class Work:
    """One request being answered: what is known of it before, and found out on the way."""

    def __init__(self, dispatcher: Dispatcher, incoming: Incoming, now: float) -> None:
        self.dispatcher = dispatcher
        self.incoming = incoming
        self.now = now
        self.request_id = f"TW1N:{dispatcher.hosting.next_number():06X}"
        self.counted = False
        self.operation = ""
        self.route: Route | None = None
        self.args: dict[str, str] = {}
        self.resource, self.kind = self._classify()
        try:
            self.token = self._identify()
            self.known = True
        except BadCredentials:
            self.token, self.known = None, False

    def _classify(self) -> tuple[Any, Kind]:
        incoming = self.incoming
        if incoming.path in GRAPHQL_PATHS:
            text = incoming.body.decode("utf-8", "replace")
            self.operation = "graphql"
            try:
                query = incoming.json["query"]
            except (ValueError, KeyError, TypeError):
                query = text
            return "graphql", "write" if _MUTATION.search(str(query)) else "read"
        if GIT_PATH.fullmatch(incoming.path):
            service = incoming.query.get("service") or incoming.path.rpartition("/")[2]
            self.operation = f"{incoming.method} {service}"
            if service == "git-receive-pack":
                return "git", "push" if incoming.method == "POST" else "read"
            return "git", "read" if incoming.method == "POST" else "poll"
        found = find_route(incoming.method, incoming.path.removeprefix("/api/v3"))
        if found is None:
            self.operation = f"{incoming.method} ?"
            return "core", "read" if incoming.method == "GET" else "write"
        self.route, self.args = found[0], dict(found[1])
        self.operation = f"{self.route.method} {self.route.template.replace('+}', '}')}"
        if incoming.method == "GET":
            return "core", "poll" if "if-none-match" in incoming.headers or "matching-refs" in incoming.path else "read"
        return "core", "write" if self.route.content else "read"

    def _identify(self) -> Token | None:
        authorization = self.incoming.headers.get("authorization")
        accounts = self.dispatcher.hosting.accounts
        if self.resource == "git":
            return basic_token(accounts, authorization, self.now)
        value = (authorization or "").partition(" ")[2].strip()
        if value.count(".") == 2:
            return self._app(value)
        return accounts.identify(authorization, self.now)

    def _app(self, value: str) -> Token:
        """The identity of an app that signed the JSON web token."""
        try:
            issuer = int(jwt.decode(value, options={"verify_signature": False})["iss"])
            app = self.dispatcher.hosting.accounts.apps[issuer]
            # The twin's clock may be a virtual one: times are compared with it below.
            options: Any = {"verify_exp": False, "verify_iat": False, "verify_nbf": False}
            claims = jwt.decode(value, app.public_key, algorithms=["RS256"], options=options)
            if not self.now - 60 <= float(claims["exp"]) <= self.now + 660 or float(claims["iat"]) > self.now + 60:
                raise BadCredentials
        except (jwt.PyJWTError, KeyError, ValueError, TypeError):
            raise BadCredentials from None
        return Token(value, f"app:{app.number}", "jwt", EVERYTHING)

    @property
    def demand(self) -> Demand:
        """What it asks of the limits."""
        switches = self.dispatcher.hosting.switches
        content = self.kind == "write" and (self.route is None or self.route.content)
        if self.route is not None and self.route.objects and not switches.objects_count:
            content = False
        if self.kind == "push":
            content = switches.pushes_count
        endpoint = self.route.template if self.route is not None else self.resource
        writes = self.kind in ("write", "push") or (self.resource == "core" and self.incoming.method != "GET")
        place = self.incoming.path if self.resource == "git" else ""
        return Demand(self.token, self.resource, endpoint, writes, content, self.now, place)

    def serve(self, *, unlimited: bool = False) -> Reply:
        """Answer it as GitHub would if nothing went wrong, within the limits."""
        limiter, demand = self.dispatcher.limiter, self.demand
        if unlimited:
            return self._answer()
        over: Over | None = limiter.enter(demand) if limiter.limits is not None else limiter.still_refused(demand)
        if over is not None:
            return self.finish(limit_reply(over, demand, self.dispatcher.hosting.switches))
        cost, done = 1, False
        try:
            reply = self._answer()
            done = reply.status < 400 and not (isinstance(reply.body, dict) and reply.body.get("errors"))
            cost = self._cost(reply)
        finally:
            limiter.leave(demand, cost=cost, succeeded=done)
        self.counted = bool(cost)
        return self.finish(reply)

    def _cost(self, reply: Reply) -> int:
        free = self.token is not None and self.dispatcher.hosting.switches.not_modified_free
        if (reply.status == 304 and free) or (self.route is not None and self.route.template == "/rate_limit"):
            return 0
        return reply.cost

    def finish(self, reply: Reply) -> Reply:
        """Add the headers that every answer of GitHub's carries."""
        if reply.foreign:
            return reply
        switches = self.dispatcher.hosting.switches
        headers = reply.headers
        headers["x-github-request-id"] = self.request_id
        if switches.date_header:
            headers["date"] = formatdate(self.now, usegmt=True)
        rate = self.dispatcher.limiter.rates(self.token, self.now).get(self.resource)
        if rate:
            headers.update({f"x-ratelimit-{name}": str(value) for name, value in rate.items()})
            headers["x-ratelimit-resource"] = self.resource
        return reply

    def note(self, status: int, fault: Fault | None) -> None:
        """Write it into the log."""
        incoming = self.incoming
        entry = Exchange(
            incoming.method,
            incoming.path,
            status,
            self.operation,
            self.token.login if self.token is not None else "",
            self.now,
            self.kind,
            self.counted,
            fault=fault.kind if fault is not None else "",
        )
        self.dispatcher.log.add(entry)

    def _answer(self) -> Reply:
        try:
            if self.resource == "git":
                return self._git()
            if not self.known:
                raise Refused(401, "Bad credentials")
            return self._graphql() if self.resource == "graphql" else self._rest()
        except Refused as refused:
            return refused.reply()

    def _context(self) -> RequestContext:
        hosting, incoming = self.dispatcher.hosting, self.incoming
        view, switches = self.dispatcher.faults.view(self.now), hosting.switches
        if switches.read_lag:
            lagging = (self.now - switches.read_lag, 0)
            view = replace(view, as_of=min(view.as_of or lagging, lagging))
        if switches.created_ref_404:
            hidden = (self.now - switches.created_ref_404, 0)
            view = replace(view, born_before=min(view.born_before or hidden, hidden))
        return RequestContext(
            hosting=hosting,
            token=self.token,
            now=self.now,
            method=incoming.method,
            path=incoming.path,
            query=incoming.query,
            headers=incoming.headers,
            request_id=self.request_id,
            base_url=incoming.base_url,
            view=view,
            rates=self.dispatcher.limiter.rates(self.token, self.now),
        )

    def _rest(self) -> Reply:
        context = self._context()
        if self.route is None:
            raise Refused(404, "Not Found")
        try:
            body = self.incoming.json
        except ValueError:
            raise Refused(400, "Problems parsing JSON") from None
        call = Call(context, self.args, body, self.route.template, len(self.incoming.body))
        try:
            reply = self.route.handler(call)
        except ProxyRefused:
            raise
        except Refused as refused:
            reply = refused.reply()
        if self.dispatcher.log.record:
            template = self.route.template.replace("+}", "}")
            self.dispatcher.log.keep_bodies(
                Recorded(
                    self.incoming.method,
                    template,
                    "?".join(filter(None, (self.incoming.path, self.incoming.query_string))),
                    body,
                    reply.status,
                    reply.content_type,
                    reply.body,
                )
            )
        return with_etag(reply, context)

    def _graphql(self) -> Reply:
        switches = self.dispatcher.hosting.switches
        if switches.proxy_refuses_graphql:
            raise ProxyRefused("GraphQL")
        if self.kind == "write":
            check_mutation(switches, self.incoming.body)
        if not switches.graphql or self.incoming.method != "POST":
            raise Refused(404, "Not Found")
        if self.token is None:
            raise Refused(401, "This endpoint requires you to be authenticated.")
        if len(self.incoming.body) > switches.graphql_payload_limit:
            raise Refused(413, "Request Entity Too Large")
        try:
            body = self.incoming.json
        except ValueError:
            raise Refused(400, "Problems parsing JSON") from None
        context = self._context()
        context.rate = context.rates.get("graphql", {})
        status, answer = execute(context, body)
        if context.operations:
            self.operation = ",".join(context.operations)
            self.dispatcher.log.keep_document(body["query"])
        return Reply(status, answer, cost=context.cost)

    def _git(self) -> Reply:
        return serve_git(GitCall(self._context(), self.incoming, self.known))
