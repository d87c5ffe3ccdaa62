"""The programs that may have tokens, the assertions that they have used, and the keys that sign their tokens."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from readingroom.errors import Conflict, NotFound
from storage.catalog import schema as t
from storage.catalog.writers import insert_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A program that may have tokens; `schema.client` says what each field is."""

    id: str
    name: str
    scopes: tuple[str, ...]
    jwks: str | None = None
    jwks_uri: str | None = None
    facilities: frozenset[str] | None = None
    facility: str | None = None
    may: frozenset[str] = frozenset()
    patient: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A key that signs tokens, with its private part."""

    kid: str
    jwk: str
    created_at: datetime


def add_client(connection: sa.Connection, client: Client, now: datetime) -> None:
    """Register a client; raises `Conflict` where there is one of that id."""
    row = {
        "id": client.id,
        "name": client.name,
        "jwks": client.jwks,
        "jwks_uri": client.jwks_uri,
        "scopes": " ".join(client.scopes),
        "facilities": None if client.facilities is None else json.dumps(sorted(client.facilities)),
        "facility": client.facility,
        "may": json.dumps(sorted(client.may)),
        "patient": client.patient,
        "created_at": now,
    }
    added = insert_for(connection)(t.client).values(row).on_conflict_do_nothing().returning(t.client.c.id)
    if connection.execute(added).one_or_none() is None:
        raise Conflict(f"There is a client {client.id!r} already; remove it first.")


def find_client(connection: sa.Connection, id: str) -> Client | None:
    """A client by its id."""
    row = connection.execute(sa.select(t.client).where(t.client.c.id == id)).one_or_none()
    return None if row is None else _client(row)


def list_clients(connection: sa.Connection) -> list[Client]:
    """All clients, by their ids."""
    return [_client(row) for row in connection.execute(sa.select(t.client).order_by(t.client.c.id))]


def remove_client(connection: sa.Connection, id: str) -> None:
    """Forget a client, and with it all tokens that it has; raises `NotFound` where there is none of that id."""
    if connection.execute(t.client.delete().where(t.client.c.id == id)).rowcount == 0:
        raise NotFound(f"There is no client {id[:64]!r}.")


def use_assertion(connection: sa.Connection, client: str, jti: str, *, expires_at: datetime, now: datetime) -> bool:
    """Use an assertion up; False where somebody has used it already."""
    connection.execute(t.assertion.delete().where(t.assertion.c.expires_at < now))
    row = {"client": client, "digest": hashlib.sha256(jti.encode()).digest(), "expires_at": expires_at}
    used = insert_for(connection)(t.assertion).values(row).on_conflict_do_nothing().returning(t.assertion.c.client)
    return connection.execute(used).one_or_none() is not None


def find_signing_key(connection: sa.Connection, kid: str) -> SigningKey | None:
    """A key by its id."""
    row = connection.execute(sa.select(t.signing_key).where(t.signing_key.c.kid == kid)).one_or_none()
    return None if row is None else SigningKey(**row._mapping)


def list_signing_keys(connection: sa.Connection) -> list[SigningKey]:
    """All keys, the newest first: the one that signs."""
    c = t.signing_key.c
    return [
        SigningKey(**row._mapping)
        for row in connection.execute(sa.select(t.signing_key).order_by(c.created_at.desc(), c.kid))
    ]


def add_signing_key(connection: sa.Connection, key: SigningKey) -> None:
    """Add a key; from now on it is the one that signs."""
    row = {"kid": key.kid, "jwk": key.jwk, "created_at": key.created_at}
    connection.execute(t.signing_key.insert().values(row))


def forget_signing_keys(connection: sa.Connection, kids: list[str]) -> None:
    """Forget keys: what they have signed is good no more."""
    connection.execute(t.signing_key.delete().where(t.signing_key.c.kid.in_(kids)))


def _client(row: sa.Row[tuple[object, ...]]) -> Client:
    told = dict(row._mapping)
    del told["created_at"]
    facilities = told["facilities"]
    return Client(
        **told
        | {
            "scopes": tuple(told["scopes"].split()),
            "facilities": None if facilities is None else frozenset(json.loads(facilities)),
            "may": frozenset(json.loads(told["may"])),
        }
    )
