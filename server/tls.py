"""TLS of what listens here."""

from __future__ import annotations

import ssl
from pathlib import Path

from readingroom.errors import Invalid


def server_context(
    table: str, *, certificate: Path | None, key: Path | None, client_ca: Path | None
) -> ssl.SSLContext | None:
    """TLS as BCP 195 wants it (PS3.15 B.12); None where no certificate is set.

    Parameters
    ----------
    table
        Of the settings, for messages.
    client_ca
        Who signs the certificates that callers have to show; None: they need none.

    Raises
    ------
    Invalid
        A file cannot be used, or there is no certificate and one is needed.
    """
    if certificate is None:
        if client_ca is not None or key is not None:
            raise Invalid(f"{table}.client_ca and {table}.key need {table}.certificate.")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise Invalid(f"The certificates of [{table}] cannot be used: {error}.") from None
    return context
