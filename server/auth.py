"""Who asks, and what of the archive that caller may see. The edge sets it; views read it.

Until authentication is configured there is one caller, the local operator, and the server binds loopback only.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from readingroom.errors import Refused
from readingroom.model import LOCAL_OPERATOR, Actor, Permission, Scope


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


def authenticate(_headers: object) -> Actor:
    """The actor behind a request's credentials."""
    return LOCAL_OPERATOR
