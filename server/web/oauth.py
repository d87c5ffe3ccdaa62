"""The token endpoint, the keys of its tokens, and where programs find both (SMART App Launch 2.2, RFC 6749)."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import anyio.to_thread
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.auth import caller_of
from server.room import Room
from server.status import http_status
from server.tokens import ALGORITHMS, MOST_BYTES, BadClient, BadTokenRequest

_NOT_KEPT = {"cache-control": "no-store", "pragma": "no-cache"}
_MOST_BODY = 4 * MOST_BYTES
_FORM = "application/x-www-form-urlencoded"
_FIELDS = 20


async def give_token(request: Request) -> Response:
    """A token for a client that proves who it is (SMART App Launch, Backend Services; RFC 6749 4.4)."""
    room: Room = request.app.state.room
    root = _root(request)
    try:
        form = await _form(request)
        act = partial(room.tokens.issue, form, url=f"{root}/auth/token", root=root)
        told, status = await anyio.to_thread.run_sync(act, limiter=room.db), 200
    except (BadClient, BadTokenRequest) as error:
        told, status = {"error": error.error, "error_description": error.message}, http_status(error)
    return _json(told, status, _NOT_KEPT)


async def show_keys(request: Request) -> Response:
    """The keys by which tokens of this server can be checked."""
    room: Room = request.app.state.room
    return _json(await room.read_apart(room.tokens.public_keys), headers={"cache-control": "max-age=60"})


async def show_configuration(request: Request) -> Response:
    """What this server has of SMART, and where (SMART App Launch 2.2, "Well-Known Uniform Resource Identifiers")."""
    root = _root(request)
    return _json(
        {
            "token_endpoint": f"{root}/auth/token",
            "jwks_uri": f"{root}/auth/jwks",
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": ["private_key_jwt"],
            "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
            "scopes_supported": ["system/*.cruds", "system/*.rs", "system/*.read", "system/*.write", "patient/*.rs"],
            "capabilities": ["client-confidential-asymmetric", "permission-v1", "permission-v2"],
        }
    )


def _root(request: Request) -> str:
    root, _slash, _rest = caller_of(request).service_root.rpartition("/dicomweb")
    return root


async def _form(request: Request) -> dict[str, str]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise BadTokenRequest(f"A token is asked for by {_FORM}.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BODY:
            raise BadTokenRequest(f"At most {_MOST_BODY} bytes are read here.")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_FIELDS)
    except ValueError:
        raise BadTokenRequest(f"The body is no {_FORM}.") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise BadTokenRequest("A parameter is sent once.")
    return form


def _json(told: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(told), status, headers, media_type="application/json")


routes = [
    Route("/auth/token", give_token, methods=["POST"]),
    Route("/auth/jwks", show_keys, methods=["GET"]),
    *(
        Route(f"{place}/.well-known/smart-configuration", show_configuration, methods=["GET"])
        for place in ("", "/fhir", "/fhir/f/{facility}")
    ),
]
