"""Access tokens for programs: SMART Backend Services (SMART App Launch 2.2), an OAuth 2.0 client credentials grant.

A client proves who it is with an assertion that its own key has signed (RFC 7523), each of which is good once. What it
gets is a token that this server has signed, good for five minutes, and for no more than the client is registered for:
what a token says is looked up again in the registration as it is used, so what is taken from a client is gone at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import secrets
import warnings
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa

from readingroom.clock import Clock
from readingroom.errors import Invalid, NotAuthenticated, ReadingRoomError, Refused
from readingroom.model import Actor, Permission, Scope
from readingroom.outbound import Network, Origin, call
from server.scopes import granted, read_scope
from server.settings import ClientSettings, Settings
from storage.catalog.clients import (
    Client,
    SigningKey,
    add_signing_key,
    find_client,
    find_signing_key,
    forget_signing_keys,
    list_signing_keys,
    use_assertion,
)
from storage.catalog.engine import begin_write, hold_name

if TYPE_CHECKING:
    from joserfc.jwk import ECKey, Key

# joserfc is loaded by what needs it: a start does not.
log = logging.getLogger(__name__)

warnings.filterwarnings("ignore", message="EdDSA is deprecated")  # a name that clients still use

ALGORITHMS = ("RS384", "ES384", "RS256", "ES256", "EdDSA", "Ed25519")
"""By which clients may sign their assertions; SMART has the first two."""
LASTS = timedelta(minutes=5)
"""How long a token is good; an assertion is at most as long."""
MOST_BYTES = 8 << 10
"""Of a token or an assertion."""

_BY_JWT = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_SKEW = timedelta(seconds=30)
_OURS = "ES256"
_TYPE = "at+jwt"  # RFC 9068
_RENEWED_AFTER = timedelta(days=90)
_KEPT_AFTER = timedelta(hours=1)
_FRESH = timedelta(seconds=2)
_PUBLISHED = timedelta(minutes=5)
_NOT_AGAIN = timedelta(seconds=30)  # whoever makes up kids must not make us ask
_MOST_SEEN = 4096
_SHORTEST_RSA = 2048
_CURVES = ("P-256", "P-384", "Ed25519")
_HEADERS = frozenset(("alg", "kid", "typ", "x5t", "x5t#S256"))


class BadTokenRequest(Invalid):
    """What asks for a token is not right; `error` is the code of RFC 6749 5.2."""

    def __init__(self, message: str, error: str = "invalid_request") -> None:
        super().__init__(message)
        self.error = error


class BadClient(NotAuthenticated):
    """The client has not proved who it is."""

    error = "invalid_client"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A token that was good a moment ago."""

    actor: Actor
    root: str
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    """The keys that a client publishes, as they were fetched; none where that went wrong."""

    at: datetime
    keys: Sequence[Key]


class Tokens:
    """Gives tokens and knows them again.

    Parameters
    ----------
    clients
        Those of the settings; others are in the catalog.
    networks
        Networks beside the public Internet where a client may publish its keys.
    """

    def __init__(
        self,
        engine: sa.Engine,
        clock: Clock,
        clients: Mapping[str, Client],
        networks: Sequence[Network] = (),
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._clients = clients
        self._networks = networks
        self._published: dict[str, _Published] = {}
        self._seen: dict[bytes, _Seen] = {}

    # -- giving them -------------------------------------------------------------------------------------------------

    def issue(self, form: Mapping[str, str], *, url: str, root: str) -> dict[str, Any]:
        """A token for the client whose assertion a form has; what the token endpoint answers.

        Parameters
        ----------
        url
            Of the token endpoint: whom the assertion has to be for.
        root
            Of this server, as the client sees it: whom the token will be for.

        Raises
        ------
        BadClient
            The assertion is not good.
        BadTokenRequest
            It is, and something else is wrong.
        """
        if form.get("grant_type") != "client_credentials":
            raise BadTokenRequest("grant_type has to be client_credentials.", "unsupported_grant_type")
        if form.get("client_assertion_type") != _BY_JWT:
            raise BadTokenRequest(f"client_assertion_type has to be {_BY_JWT}.")
        client, jti, expires_at = self._assert(form.get("client_assertion", ""), url)
        if form.get("client_id", client.id) != client.id:
            raise BadClient("client_id is not the client whose assertion this is.")
        now = self._clock.now()
        scopes = granted(form.get("scope", "").split(), client.scopes)
        with begin_write(self._engine) as connection:
            if not use_assertion(connection, client.id, jti, expires_at=expires_at + _SKEW, now=now):
                raise BadClient("This assertion has been used; sign a new one, with another jti.")
            key = self._signer(connection, now)
        if not scopes:
            raise BadTokenRequest("None of the scopes asked for is one that the client may have.", "invalid_scope")
        claims = {
            "iss": root,
            "aud": root,
            "sub": client.id,
            "client_id": client.id,
            "scope": " ".join(scopes),
            "iat": int(now.timestamp()),
            "exp": int((now + LASTS).timestamp()),
            "jti": secrets.token_urlsafe(16),
        }
        header = {"alg": _OURS, "kid": key.kid, "typ": _TYPE}
        token = _signed(header, claims, _key(key.jwk))
        seconds = int(LASTS.total_seconds())
        return {"access_token": token, "token_type": "bearer", "expires_in": seconds, "scope": claims["scope"]}

    def _assert(self, text: str, url: str) -> tuple[Client, str, datetime]:
        """The client, the jti and the end of an assertion that is good, but for whether it has been used."""
        header, claims = _unproved(text)
        client = self._client(claims.get("iss"))
        if client is None or claims.get("sub") != client.id:
            raise BadClient("iss and sub of an assertion have to be the id of a client that is registered.")
        allowed = _HEADERS | ({"jku"} if client.jwks_uri is not None else set())
        if header.get("typ") != "JWT" or not header.keys() <= allowed or header.get("alg") not in ALGORITHMS:
            raise BadClient(f"The header of an assertion has typ JWT, a kid, and an alg of {', '.join(ALGORITHMS)}.")
        if header.get("jku", client.jwks_uri) != client.jwks_uri:
            raise BadClient("jku has to be the address of the key set that the client is registered with.")
        key = self._key_of(client, header)
        if not _is_signed(text, key, header["alg"]):
            raise BadClient("The assertion is not signed by the key that its kid names.")
        audience = claims.get("aud")
        if url not in (audience if isinstance(audience, list) else [audience]):
            raise BadClient(f"aud of an assertion has to be the token endpoint, {url}.")
        now = self._clock.now()
        expires_at = _time(claims.get("exp"))
        if expires_at is None or not now < expires_at <= now + LASTS + _SKEW:
            raise BadClient("exp of an assertion has to be a time within the next five minutes.")
        for name in ("iat", "nbf"):
            begun = _time(claims.get(name))
            if name in claims and (begun is None or begun > now + _SKEW):
                raise BadClient(f"{name} of an assertion has to be a time that has come.")
        jti = claims.get("jti")
        if not isinstance(jti, str) or not 0 < len(jti) <= 512:
            raise BadClient("jti of an assertion has to be a text that is new each time.")
        return client, jti, expires_at

    def _client(self, id: object) -> Client | None:
        if not isinstance(id, str):
            return None
        found = self._clients.get(id)
        if found is None:
            with self._engine.connect() as connection:
                found = find_client(connection, id)
        return found

    def _key_of(self, client: Client, header: Mapping[str, Any]) -> Key:
        """The one key of a client that the kid of a header names."""
        kid = header.get("kid")
        if client.jwks_uri is None:
            keys: Sequence[Key] = read_jwks(client.jwks or "")
        else:
            keys = self._keys_at(client.jwks_uri, kid)
        found = [key for key in keys if key.kid == kid]
        if len(found) != 1:
            raise BadClient("The kid of an assertion has to be that of one key of the client.")
        return found[0]

    def _keys_at(self, url: str, kid: object) -> Sequence[Key]:
        """The keys that a client publishes; those that were fetched a while ago, where the one asked for is there."""
        now = self._clock.now()
        known = self._published.get(url)
        if known is not None:
            is_there = any(key.kid == kid for key in known.keys)
            if now - known.at < (_PUBLISHED if is_there else _NOT_AGAIN):
                return known.keys
        try:
            told = call("GET", url, b"", {"Accept": "application/json"}, networks=self._networks)
            keys = read_jwks(told.decode("utf-8", "replace"))
        except ReadingRoomError as error:
            log.warning("the key set at %s cannot be used: %s", url, error.message)
            keys = []
        self._published[url] = _Published(at=now, keys=keys)
        return keys

    def _signer(self, connection: sa.Connection, now: datetime) -> SigningKey:
        """The key that signs now; renewed from time to time."""
        hold_name(connection, "signing_key")
        keys = list_signing_keys(connection)
        if not keys or now - keys[0].created_at > _RENEWED_AFTER:
            return renew_signing_key(connection, now)
        return keys[0]

    # -- knowing them again ------------------------------------------------------------------------------------------

    def known(self, text: str, *, root: str) -> Actor | None:
        """Whose token this is where that was found out within the last two seconds; looks nothing up."""
        seen = self._seen.get(_digest(text))
        return seen.actor if seen is not None and seen.root == root and self._clock.now() < seen.until else None

    def check(self, connection: sa.Connection, text: str, *, root: str) -> Actor:
        """Whose token this is.

        Raises
        ------
        NotAuthenticated
            It is no token of this server for its use at `root`, or good no more.
        Refused
            It is, and its client may see nothing here.
        """
        header, claims = _unproved(text)
        if header.keys() != {"alg", "kid", "typ"} or header["alg"] != _OURS or header["typ"] != _TYPE:
            raise NotAuthenticated("This is no token of this server.")
        kid = header["kid"]
        key = find_signing_key(connection, kid) if isinstance(kid, str) else None
        if key is None or not _is_signed(text, _key(key.jwk), _OURS):
            raise NotAuthenticated("This is no token of this server, or none any more.")
        now, until = self._clock.now(), _time(claims.get("exp"))
        if until is None or until <= now or claims.get("iss") != root or claims.get("aud") != root:
            raise NotAuthenticated("The token has expired, or is not for this address.")
        id = str(claims.get("sub"))
        client = self._clients.get(id) or find_client(connection, id)
        if client is None:
            raise NotAuthenticated("The client of this token is registered no more.")
        if client.facilities is not None and not client.facilities:
            raise Refused("The client of this token may see the data of no facility.")
        actor = actor_of(client, str(claims.get("scope", "")).split())
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        self._seen[_digest(text)] = _Seen(actor=actor, root=root, until=min(until, now + _FRESH))
        return actor

    def renewed(self, connection: sa.Connection, actor: Actor) -> Actor | None:
        """An actor who asked for something that lasts, as the client is registered now; None where it is no more.

        Nobody gains by it: of scopes and facilities what both hold is left. Who is no client stays as they were.
        """
        if actor.kind != "client":
            return actor
        id = actor.id.removeprefix("client:")
        client = self._clients.get(id) or find_client(connection, id)
        if client is None:
            return None
        held, asked = client.facilities, actor.scope.facilities
        both = held if asked is None else asked if held is None else held & asked
        return replace(actor_of(client, sorted(actor.scopes or ())), scope=Scope(facilities=both))

    def public_keys(self, connection: sa.Connection) -> dict[str, Any]:
        """The keys by which tokens can be checked, as a JSON Web Key Set (RFC 7517)."""
        keys = [_key(one.jwk).as_dict(private=False) for one in list_signing_keys(connection)]
        return {"keys": [{**key, "use": "sig", "alg": _OURS} for key in keys]}


def configured_clients(settings: Settings) -> dict[str, Client]:
    """The clients of the settings.

    Raises
    ------
    Invalid
        The key set of one cannot be read; says of which.
    """
    found = {}
    for id, told in settings.clients.items():
        try:
            found[id] = _configured(id, told)
        except (OSError, UnicodeDecodeError):
            raise Invalid(f"The key set of client {id}, {told.jwks}, cannot be read.") from None
        except Invalid as error:
            raise Invalid(f"The client {id} of the settings is not right. {error.message}") from None
    return found


def _configured(id: str, told: ClientSettings) -> Client:
    jwks = None if told.jwks is None else told.jwks.read_text(encoding="utf-8")
    check_keys(jwks, told.jwks_uri)
    return Client(
        id=id,
        name=told.name or id,
        scopes=read_registered(told.scopes),
        jwks=jwks,
        jwks_uri=told.jwks_uri,
        facilities=None if told.facilities == "*" else frozenset(told.facilities),
        facility=told.facility,
        may=frozenset(told.may),
        patient=told.patient,
    )


def check_keys(jwks: str | None, jwks_uri: str | None) -> None:
    """Raise `Invalid` where a client has not registered its keys in one of the two ways, or not well."""
    if (jwks is None) == (jwks_uri is None):
        raise Invalid("A client has registered its keys: as a file, or as the address where it publishes them.")
    if jwks is not None:
        read_jwks(jwks)
    if jwks_uri is not None:
        try:
            Origin.of(jwks_uri)
        except ValueError as error:
            raise Invalid(f"The address of the keys is not right: {error}.") from None


def read_registered(scopes: str) -> tuple[str, ...]:
    """The scopes that a client is to be registered for.

    Raises
    ------
    Invalid
        One of them is none that this server knows, or there is none.
    """
    told = tuple(dict.fromkeys(scopes.split()))
    unknown = [text for text in told if read_scope(text) is None]
    if unknown or not told:
        raise Invalid(f"{' '.join(unknown)[:80]!r} is no scope; one looks like system/ImagingStudy.rs.")
    return told


def actor_of(client: Client, scopes: list[str]) -> Actor:
    """Who a client is, with those of these scopes that it is registered for."""
    only = next(iter(client.facilities)) if client.facilities is not None and len(client.facilities) == 1 else None
    return Actor(
        id=f"client:{client.id}",
        name=client.name,
        kind="client",
        scope=Scope(facilities=client.facilities),
        facility=client.facility or only,
        may=cast(frozenset[Permission], client.may),
        scopes=frozenset(granted(scopes, client.scopes)),
        patient=client.patient,
    )


def renew_signing_key(connection: sa.Connection, now: datetime) -> SigningKey:
    """Sign with a new key from now on; those before it are forgotten once what they have signed has expired."""
    keys = list_signing_keys(connection)
    gone = [old.kid for newer, old in pairwise(keys) if now - newer.created_at > _KEPT_AFTER]
    if gone:
        forget_signing_keys(connection, gone)
    from joserfc.jwk import ECKey

    kid = secrets.token_urlsafe(12)
    made = ECKey.generate_key("P-256", {"kid": kid}).as_dict(private=True)
    key = SigningKey(kid=kid, jwk=json.dumps(made), created_at=now)
    add_signing_key(connection, key)
    return key


def read_jwks(text: str) -> list[Key]:
    """The public keys of a JSON Web Key Set; those of kinds that sign nothing here are left out.

    Raises
    ------
    Invalid
        It is none, or it has no key that could sign an assertion, or a private one.
    """
    from joserfc.errors import JoseError
    from joserfc.jwk import JWKRegistry

    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    entries = told.get("keys") if isinstance(told, dict) else None
    if not isinstance(entries, list):
        raise Invalid('A key set is a JSON object {"keys": [...]}, as RFC 7517 has it.')
    keys = []
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        if "d" in entry:
            raise Invalid("The key set has a private key: keep that to yourself, and register the public one.")
        try:
            key = JWKRegistry.import_key(entry)
        except (JoseError, ValueError, TypeError):
            raise Invalid("The key set has a key that cannot be read.") from None
        if not isinstance(entry.get("kid"), str) or not entry["kid"]:
            raise Invalid("Each key of the key set needs a kid.")
        if entry["kty"] == "RSA" and key.public_key.key_size < _SHORTEST_RSA:  # type: ignore[union-attr]
            raise Invalid(f"An RSA key has {_SHORTEST_RSA} bits or more.")
        if entry["kty"] == "RSA" or entry.get("crv") in _CURVES:
            keys.append(key)
    if not keys:
        raise Invalid(f"The key set has no public key of RSA or of the curves {', '.join(_CURVES)}.")
    return keys


def _unproved(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a JWT, whose signature is not looked at."""
    if len(text) > MOST_BYTES:
        raise BadClient(f"A token may have {MOST_BYTES} characters.")
    try:
        header, claims, _signature = text.encode("ascii").split(b".")
        told = [json.loads(urlsafe_b64decode(part + b"=" * (-len(part) % 4))) for part in (header, claims)]
    except (ValueError, RecursionError):
        raise BadClient("This is no JSON Web Token.") from None
    if not all(isinstance(one, dict) for one in told):
        raise BadClient("This is no JSON Web Token.")
    return told[0], told[1]


def _time(seconds: object) -> datetime | None:
    """A NumericDate (RFC 7519 2); None where it is none."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def _signed(header: dict[str, Any], claims: dict[str, Any], key: Key) -> str:
    from joserfc import jwt

    return jwt.encode(header, claims, key, algorithms=[header["alg"]])


def _is_signed(text: str, key: Key, algorithm: str) -> bool:
    from joserfc import jwt
    from joserfc.errors import JoseError

    try:
        jwt.decode(text, key, algorithms=[algorithm])
    except (JoseError, ValueError):
        return False
    return True


@lru_cache(64)
def _key(jwk: str) -> ECKey:
    from joserfc.jwk import ECKey

    return ECKey.import_key(json.loads(jwk))
