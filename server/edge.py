"""The edge: what every request passes before a view sees it, and what becomes of an error after one raised it.

Host names are checked, the caller and the root of our own URLs are found, cross-origin requests are answered,
requests are counted and timed. Who is not known gets no further than what is for everybody.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from readingroom.errors import Invalid, NotAuthenticated, NotFound, ReadingRoomError, Refused, Unavailable
from readingroom.model import LOCAL_OPERATOR, NOBODY, Actor
from server.auth import Caller, bearer_token
from server.scopes import require_dicomweb
from server.settings import Settings
from server.status import http_status, issue_code

log = logging.getLogger(__name__)

_DICOMWEB = "/dicomweb"
_FHIR = "/fhir"
_FACILITY = re.compile(r"/(?:dicomweb|fhir)/f/([A-Za-z0-9._-]{1,64})(?=/|$)")
_PREFLIGHT_SECONDS = "86400"
_EXPOSED = "Content-Location, Content-Range, ETag, Location, Retry-After, Warning"
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_OPEN = re.compile(
    r"/healthz|/readyz|/metrics|/auth/(?:token|jwks)"
    r"|(?:/fhir(?:/f/[^/]+)?)?/\.well-known/smart-configuration|/fhir(?:/f/[^/]+)?/metadata"
)
"""What is for everybody, so that no credentials are looked at."""
_SOCKET = re.compile(r"/fhir(?:/f/[^/]+)?/ws")
_PUBLISHED = "/prices"
"""What whoever has no token may see too; with one, a program sees more of it."""
_FOR_TOKENS = re.compile(r"/(?:dicomweb|fhir)(?:/.*)?|/prices|/statements/.*")
"""What programs may use. The rest is for people."""

Recognise = Callable[[str, str], Awaitable[Actor]]
"""Says whose a token is, for use at a root; raises `NotAuthenticated` where it is nobody's."""

_COUNTED_METHODS = frozenset((*_METHODS.split(", "), "PATCH"))


class Metrics:
    """What is counted of requests; one registry an app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "readingroom_http_requests", "Requests answered", ["route", "method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "readingroom_http_request_seconds",
            "From the request line to the last byte of the answer",
            ["route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request; the counters are looked up once for each kind, which costs more than counting."""
        # A method is whatever the client says it is, and each new label takes memory for good.
        kind = route, method if method in _COUNTED_METHODS else "other", status
        found = self._known.get(kind)
        if found is None:
            found = self._known[kind] = self.requests.labels(*kind), self.seconds.labels(route)
        found[0].inc()
        found[1].observe(seconds)


class Edge:
    """ASGI middleware around all routes."""

    def __init__(
        self, app: ASGIApp, *, settings: Settings, metrics: Metrics, recognise: Recognise | None = None
    ) -> None:
        self._app = app
        self._recognise = recognise or _recognise_nobody
        self._settings = settings
        self._metrics = metrics
        self._public = settings.public_url.rstrip("/") if settings.public_url else None
        public_host = urlsplit(self._public).hostname if self._public else None
        self._hosts = {host.lower() for host in settings.allowed_hosts} | ({public_host} if public_host else set())
        self._origins = frozenset(settings.cors_origins)
        self._proxies = frozenset(settings.trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        status = 500
        origin = headers.get("origin") if self._origins else None
        is_allowed = origin is not None and (origin in self._origins or "*" in self._origins)

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if is_allowed and origin:
                    added = MutableHeaders(raw=message["headers"])
                    added["Access-Control-Allow-Origin"] = origin
                    added["Access-Control-Expose-Headers"] = _EXPOSED
                    added.add_vary_header("Origin")
            await send(message)

        try:
            root = self._root(scope, headers)
            if "\0" in scope["path"]:
                raise Invalid("A path holds no NUL character.")
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await self._preflight(headers, is_allowed)(scope, receive, watched)
                return
            scope["readingroom.caller"] = await self._caller(scope, headers, root)
            await self._app(scope, receive, watched)
        except ReadingRoomError as error:
            await error_response(error, scope["path"])(scope, receive, watched)
        finally:
            endpoint = scope.get("endpoint")
            route = getattr(endpoint, "__name__", None) or "other"
            self._metrics.count(route, scope["method"], status, time.perf_counter() - started)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a WebSocket through to its view, unless a page of another site opens it: browsers leave that to us."""
        headers = Headers(scope=scope)
        try:
            scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
            root = self._root({**scope, "scheme": scheme}, headers)
            origin = headers.get("origin")
            if origin is not None and origin != root and not {origin, "*"} & self._origins:
                raise Refused("Pages of that origin may not open a WebSocket here; add it to cors_origins.")
            if "\0" in scope["path"]:
                raise Invalid("A path holds no NUL character.")
            scope["readingroom.caller"] = await self._caller(scope, headers, root)
        except ReadingRoomError as error:
            log.info("a WebSocket was refused: %s", error.message)
            await send({"type": "websocket.close", "code": 1008, "reason": error.message[:120]})
            return
        await self._app(scope, receive, send)

    def _root(self, scope: Scope, headers: Headers) -> str:
        """Scheme and authority that clients see: as configured, as a trusted proxy says, or as they asked."""
        host = headers.get("host", "")
        scheme = scope["scheme"]
        client = scope.get("client")
        if client and client[0] in self._proxies:
            scheme, host = _forwarded(headers, scheme, host)
        name, port = _split_port(host)
        if name not in self._hosts:
            raise Invalid("The Host of this request is not served here; add it to allowed_hosts, or set public_url.")
        if self._public:
            return self._public
        if not port and scope.get("server") and scope["server"][1] and not (client and client[0] in self._proxies):
            # Some clients leave the port out; a URL without it would lead nowhere.
            port = str(scope["server"][1])
        is_default = port == {"http": "80", "https": "443"}.get(scheme)
        return f"{scheme}://{name}{'' if is_default or not port else ':' + port}"

    async def _actor(self, scope: Scope, headers: Headers, root: str) -> Actor:
        """Who asks. A token that is not good is never looked past."""
        path = scope["path"]
        if _OPEN.fullmatch(path):
            return NOBODY if self._settings.require_auth else LOCAL_OPERATOR
        token = bearer_token(headers)
        if token is None:
            if scope["type"] == "websocket" and self._settings.require_auth and _SOCKET.fullmatch(path):
                return NOBODY  # who binds it with a token of its own, which says what of
            if self._settings.require_auth and path == _PUBLISHED:
                return NOBODY
            if self._settings.require_auth:
                raise NotAuthenticated("Come with a token: Authorization: Bearer ...")
            return LOCAL_OPERATOR
        actor = await self._recognise(token, root)
        if not _FOR_TOKENS.fullmatch(path):
            raise Refused("A token is for /fhir, /dicomweb, /prices and /statements.")
        return actor

    async def _caller(self, scope: Scope, headers: Headers, root: str) -> Caller:
        actor = await self._actor(scope, headers, root)
        path = scope["path"]
        narrowed = _FACILITY.match(path)
        if narrowed is None and path.startswith((f"{_DICOMWEB}/f/", f"{_FHIR}/f/")):
            raise NotFound("No facility has such a name; names are of letters, digits, dots, dashes and underscores.")
        facility = narrowed[1] if narrowed else actor.facility or self._settings.facility
        if path.startswith(_DICOMWEB):
            require_dicomweb(actor, scope.get("method", "GET"), path, facility)
        if narrowed:
            return Caller(
                actor=actor,
                scope=actor.scope.narrowed(facility),
                service_root=f"{root}{_DICOMWEB}/f/{facility}",
                fhir_root=f"{root}{_FHIR}/f/{facility}",
                facility=facility,
            )
        return Caller(
            actor=actor,
            scope=actor.scope,
            service_root=root + _DICOMWEB,
            fhir_root=root + _FHIR,
            facility=facility,
        )

    def _preflight(self, headers: Headers, is_allowed: bool) -> Response:
        """The answer to a CORS preflight: the same for every path, without authentication, kept for a day."""
        answer = {"Vary": "Origin"}
        if is_allowed:
            answer |= {
                "Access-Control-Allow-Origin": headers["origin"],
                "Access-Control-Allow-Methods": _METHODS,
                "Access-Control-Allow-Headers": headers.get("access-control-request-headers", "*"),
                "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
            }
        return Response(status_code=204, headers=answer)


async def _recognise_nobody(_token: str, _root: str) -> Actor:
    raise NotAuthenticated("This is no token of this server.")


def error_response(error: ReadingRoomError, path: str = "") -> Response:
    """What was wrong, under the status that means it: one line, and below ``/fhir`` an OperationOutcome."""
    headers = challenge(error)
    if isinstance(error, Unavailable) and error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return _told(error.message, issue_code(error), path, http_status(error), headers)


def _told(message: str, code: str, path: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    if not path.startswith(f"{_FHIR}/") and path != _FHIR:
        return PlainTextResponse(message + "\n", status, headers)
    issue = {"severity": "error", "code": code, "diagnostics": message}
    outcome = {"resourceType": "OperationOutcome", "issue": [issue]}
    return JSONResponse(outcome, status, headers, media_type="application/fhir+json")


def challenge(error: ReadingRoomError) -> dict[str, str]:
    """What an answer has to say of how to authenticate (RFC 6750 3)."""
    if not isinstance(error, NotAuthenticated):
        return {}
    return {"WWW-Authenticate": 'Bearer realm="readingroom", error="invalid_token"'}


async def on_error(request: HTTPConnection, error: Exception) -> Response:
    """Starlette's hook for what a view raised on purpose."""
    assert isinstance(error, ReadingRoomError)
    return error_response(error, request.url.path)


async def on_no_route(request: Request, error: Exception) -> Response:
    """Starlette's hook for what no route takes: a path that is none, or a method that the path does not have."""
    assert isinstance(error, HTTPException)
    code = "not-found" if error.status_code == 404 else "not-supported"
    return _told(error.detail, code, request.url.path, error.status_code, error.headers)


async def on_outage(request: Request, error: Exception) -> Response:
    """Starlette's hook for a database that does not answer: nothing is wrong with what was asked."""
    log.error("%s %s: the catalog does not answer: %s", request.method, request.url.path, getattr(error, "orig", error))
    return error_response(Unavailable("The catalog does not answer; try again.", retry_after=5), request.url.path)


async def on_accident(request: Request, error: Exception) -> Response:
    """Starlette's hook for everything else: recorded here, and nothing of it told to the client."""
    if isinstance(error, ClientDisconnect):
        return PlainTextResponse("The client went away.\n", 499)
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _told("The server failed; its log has the reason.", "exception", request.url.path, 500)


def _forwarded(headers: Headers, scheme: str, host: str) -> tuple[str, str]:
    """Scheme and host as the nearest proxy saw them (RFC 7239, else the X-Forwarded- family)."""
    forwarded = headers.get("forwarded")
    if forwarded:
        pairs = dict(_pairs(forwarded.rpartition(",")[2].split(";")))
        return pairs.get("proto", scheme), pairs.get("host", host)
    proto = headers.get("x-forwarded-proto", scheme).rpartition(",")[2].strip()
    return proto if proto in ("http", "https") else scheme, headers.get("x-forwarded-host", host).rpartition(",")[
        2
    ].strip()


def _pairs(elements: Iterable[str]) -> Iterable[tuple[str, str]]:
    for element in elements:
        name, equals, value = element.partition("=")
        if equals:
            yield name.strip().lower(), value.strip().strip('"')


def _split_port(host: str) -> tuple[str, str]:
    name, colon, port = host.rpartition(":")
    if not colon or (host.startswith("[") and host.endswith("]")):
        name, port = host, ""
    if port and not port.isdigit():
        raise Invalid("The Host of this request has no usable port.")
    return name.lower(), port
