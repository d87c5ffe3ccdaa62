"""Who asks, and what of the archive that caller may see. The edge sets it; views read it.

Programs come with tokens (`server.tokens`). Who comes without one is the local operator, unless `require_auth` is set;
the server binds loopback only.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import Request

from readingroom.errors import NotAuthenticated, Refused
from readingroom.model import Actor, Permission, Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """One request's caller: the actor, the scope of this path, and the root of every URL we make for it.

    `service_root` is such as ``https://images.example.org/dicomweb`` or ``.../dicomweb/f/north``, and `fhir_root` the
    like below ``/fhir``; no trailing slash.
    `facility` is the owner of what this request stores.
    """

    actor: Actor
    scope: Scope
    service_root: str
    fhir_root: str
    facility: str


def caller_of(request: Request) -> Caller:
    """The caller that the edge found for this request."""
    caller: Caller = request.scope["readingroom.caller"]
    return caller


def require(actor: Actor, permission: Permission) -> None:
    """Raise `Refused` where the actor may not do that."""
    if permission not in actor.may:
        raise Refused(f"{actor.id} may not do this; the permission {permission!r} is needed.")


def bearer_token(headers: Headers) -> str | None:
    """The token that a request brings (RFC 6750 2.1); None where it brings none.

    Raises
    ------
    NotAuthenticated
        It brings several.
    """
    told = [one.partition(" ") for one in headers.getlist("authorization")]
    tokens = [token.strip() for kind, _space, token in told if kind.lower() == "bearer"]
    if len(tokens) > 1:
        raise NotAuthenticated("A request brings one token.")
    return tokens[0] if tokens else None
