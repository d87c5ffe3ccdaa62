"""A program that has a key, and gets tokens by it: SMART Backend Services, from the client's side."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx
from joserfc import jwt
from joserfc.jwk import JWKRegistry, Key

from readingroom.clock import Clock
from server.room import Room
from storage.catalog.clients import Client, add_client
from storage.catalog.engine import begin_write
from storage.catalog.studies import ensure_facility

KINDS: dict[str, tuple[str, Any]] = {
    "RS384": ("RSA", 2048),
    "ES384": ("EC", "P-384"),
    "RS256": ("RSA", 2048),
    "ES256": ("EC", "P-256"),
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),
}
BY_JWT = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
BASE = "http://127.0.0.1:8780"


def new_key(alg: str = "ES384") -> Key:
    """A key of its own for a program that signs by `alg`."""
    kind, size = KINDS[alg]
    return JWKRegistry.generate_key(kind, size, {"kid": secrets.token_hex(4)})


def public_jwks(*keys: Key) -> str:
    """What a program registers."""
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]})


@dataclass(kw_only=True)
class Program:
    """A client: its id, its key, and the time that it goes by."""

    id: str
    clock: Clock
    base: str = BASE
    alg: str = "ES384"
    key: Key = field(default_factory=new_key)

    def assertion(
        self, header: dict[str, Any] | None = None, key: Key | None = None, alg: str | None = None, **claims: Any
    ) -> str:
        """A signed assertion; what is given replaces what would be right, None leaves it out."""
        now = int(self.clock.now().timestamp())
        told: dict[str, Any] = {
            "iss": self.id,
            "sub": self.id,
            "aud": f"{self.base}/auth/token",
            "exp": now + 240,
            "jti": secrets.token_urlsafe(12),
        } | claims
        heads = {"alg": alg or self.alg, "kid": self.key.kid, "typ": "JWT", **(header or {})}
        heads = {name: value for name, value in heads.items() if value is not None}
        told = {name: value for name, value in told.items() if value is not None}
        return jwt.encode(heads, told, key or self.key, algorithms=[heads["alg"]], default_type=None)

    def ask(self, http: httpx.Client, scope: str, assertion: str | None = None, **form: str) -> httpx.Response:
        """Ask for a token."""
        sent = {
            "grant_type": "client_credentials",
            "scope": scope,
            "client_assertion_type": BY_JWT,
            "client_assertion": assertion or self.assertion(),
        } | form
        return http.post("/auth/token", data=sent)

    def token(self, http: httpx.Client, scope: str) -> str:
        """A token."""
        answer = self.ask(http, scope)
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token

    def headers(self, http: httpx.Client, scope: str) -> dict[str, str]:
        """What a request with a new token has."""
        return {"Authorization": f"Bearer {self.token(http, scope)}"}


def register(
    room: Room,
    id: str = "ehr",
    scopes: str = "system/*.cruds",
    *,
    facilities: frozenset[str] | None = None,
    facility: str | None = None,
    alg: str = "ES384",
    jwks_uri: str | None = None,
    patient: str | None = None,
    may: frozenset[str] = frozenset(),
    at: datetime | None = None,
) -> Program:
    """Register a program with a room."""
    program = Program(id=id, clock=room.clock, alg=alg, key=new_key(alg))
    client = Client(
        id=id,
        name=id,
        scopes=tuple(scopes.split()),
        jwks=public_jwks(program.key) if jwks_uri is None else None,
        jwks_uri=jwks_uri,
        facilities=facilities,
        facility=facility,
        patient=patient,
        may=may,
    )
    with begin_write(room.engine) as connection:
        for one in facilities or ():
            ensure_facility(connection, one)
        add_client(connection, client, at or room.clock.now())
    return program
