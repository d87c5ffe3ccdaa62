"""Who we are to those whom reports are sent to, and whom we believe: secrets of the environment, files of TLS."""

from __future__ import annotations

import json
import os
import secrets
import ssl
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from readingroom.errors import GiveUp, RetryLater
from readingroom.outbound import Network, ask, check

_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_SECONDS_OF_ASSERTION = 240
_SECONDS_OF_TOKEN = 300


def secret(variable: str) -> str:
    """What a variable of the environment holds; raises `GiveUp` where it holds nothing."""
    found = os.environ.get(variable, "")
    if not found:
        raise GiveUp(f"The variable {variable} of the environment, which a destination names, is empty.")
    return found


def bearer(variable: str) -> dict[str, str]:
    """The header with the token that a variable of the environment holds; empty where none is named."""
    return {"Authorization": f"Bearer {secret(variable)}"} if variable else {}


def trust(ca: str, *, certificate: str = "", key: str = "") -> ssl.SSLContext:
    """TLS 1.2 or later (BCP 195), with the system's authorities and those of the file `ca`.

    Parameters
    ----------
    certificate, key
        Files with our own certificate and its key, where we are to show one.
    """
    try:
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if ca:
            context.load_verify_locations(ca)
        if certificate:
            context.load_cert_chain(certificate, key or None)
    except (OSError, ssl.SSLError) as error:
        raise GiveUp(f"A file of certificates of this destination cannot be read: {type(error).__name__}.") from None
    return context


def backend_token(
    token_url: str,
    *,
    client_id: str,
    key: str,
    scope: str,
    at: datetime,
    networks: Sequence[Network],
    seconds: float,
    context: ssl.SSLContext,
) -> tuple[str, int]:
    """A token by SMART Backend Services (SMART App Launch 2.2), and for how many seconds it is good.

    Parameters
    ----------
    key
        File of our private JWK, of RSA or of P-384.
    at
        What time it is.
    networks, seconds, context
        As `readingroom.outbound.ask` has them.

    Raises
    ------
    GiveUp
        The key cannot be used, or we are refused.
    RetryLater
        There is none now.
    """
    form = {
        "grant_type": "client_credentials",
        "scope": scope,
        "client_assertion_type": _ASSERTION,
        "client_assertion": _assertion(token_url, client_id, key, int(at.timestamp())),
    }
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    answer = ask(
        "POST", token_url, urlencode(form).encode(), headers, networks=networks, seconds=seconds, context=context
    )
    check(answer)
    told = object_of(answer.body)
    token, good_for = told.get("access_token"), told.get("expires_in")
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
        raise RetryLater("What gives tokens has answered without one.")
    return token, good_for if isinstance(good_for, int) else _SECONDS_OF_TOKEN


def object_of(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is; empty where it is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _assertion(token_url: str, client_id: str, key_file: str, now: int) -> str:
    """A JWT by which whoever gives tokens knows us."""
    from joserfc import jwt
    from joserfc.errors import JoseError
    from joserfc.jwk import JWKRegistry

    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": token_url,
        "exp": now + _SECONDS_OF_ASSERTION,
        "jti": secrets.token_urlsafe(16),
    }
    try:
        key = JWKRegistry.import_key(json.loads(Path(key_file).read_bytes()))
        algorithm = {"RSA": "RS384", "EC": "ES384"}[key.key_type]
        header = {"alg": algorithm, "typ": "JWT", **({"kid": key.kid} if key.kid else {})}
        return jwt.encode(header, claims, key, algorithms=[algorithm])
    except (OSError, ValueError, TypeError, KeyError, JoseError) as error:
        raise GiveUp(
            f"The key of this destination is no private JWK of RSA or of P-384: {type(error).__name__}."
        ) from None
